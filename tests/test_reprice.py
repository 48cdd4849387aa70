"""Costs of another kind: everything else in a trace stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from offramp.base.errors import CostError, InputError, TraceError
from offramp.base.files import read_json
from offramp.base.manifests import HASH, write_manifest
from offramp.command import parsing
from offramp.core.graph import Costs
from offramp.core.trace import Trace
from offramp.networks.data import open_examples
from offramp.networks.networks import combine
from offramp.recording.record import RecordOptions, record
from offramp.recording.reprice import reprice
from offramp.runtime import OnnxRuntime
from offramp.testing import synthetic
from tests.made import blob_networks, blobs

MONEY = parsing.costs("small=1,medium=2+0.5,large=4,large.whole=3.5", "USD")


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace with a column, a key and a file that this version knows nothing of."""
    path = tmp_path / "trace"
    synthetic(60).write(path)
    part = path / "part-000000.parquet"
    rows = pq.read_table(part)
    pq.write_table(rows.append_column("mood", rows.column("id")), part)
    write_manifest(path, "trace", {**read_json(path / "trace.json", TraceError), "later": [1]})
    (path / "ledger.jsonl").write_text('{"by": "fit", "opened": "0000000000000001"}\n')
    return path


def test_all_but_the_costs_stays(trace: Path, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in trace.iterdir()}
    reprice(trace, MONEY, tmp_path / "priced")
    after = {file.name: file.read_bytes() for file in (tmp_path / "priced").iterdir()}
    assert before.pop("trace.json") != after.pop("trace.json")
    assert before == after
    one, other = (read_json(p / "trace.json", TraceError) for p in (trace, tmp_path / "priced"))
    kept = [
        {k: v for k, v in m.items() if not k.startswith("cost") and k != HASH} for m in (one, other)
    ]
    assert kept[0] == kept[1]
    assert other["later"] == [1]
    found = Trace.read(tmp_path / "priced")
    assert (found.costs.unit, found.costs.source) == ("USD", "given")
    assert found.costs.body == {"small": 1.0, "medium": 2.0, "large": 4.0}
    assert found.costs.head == {"small": 0.0, "medium": 0.5, "large": 0.0}
    assert found.reference_cost == 3.5


def test_costs_that_do_not_fit_leave_nothing(trace: Path, tmp_path: Path) -> None:
    for text in ("small=1,medium=2", "small=1,medium=2,large=4,huge=8", "small=1,medium=2,large=0"):
        with pytest.raises(CostError):
            reprice(trace, parsing.costs(text, "USD"), tmp_path / "priced")
    assert not (tmp_path / "priced").exists()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("")
    with pytest.raises(InputError):
        reprice(trace, MONEY, tmp_path / "taken", force=True)
    reprice(trace, MONEY, trace, force=True)
    assert Trace.read(trace).costs.unit == "USD"


def test_an_unfinished_recording_is_not_repriced(trace: Path, tmp_path: Path) -> None:
    manifest = read_json(trace / "trace.json", TraceError)
    write_manifest(trace, "trace", {**manifest, "complete": False})
    with pytest.raises(TraceError, match="finish it"):
        reprice(trace, MONEY, tmp_path / "priced")
    with pytest.raises(TraceError, match=r"no trace\.json"):
        reprice(tmp_path / "none", MONEY, tmp_path / "priced")


def test_what_a_network_costs_uncut_is_given_by_name() -> None:
    found = parsing.costs("e1=40+2,e2=41,e2.whole=80", "MFLOP")
    assert (found.body, found.whole) == ({"e1": 40.0, "e2": 41.0}, {"e2": 80.0})
    assert [stage.name for stage in parsing.stages("e1=40+2,e2=41,e2.whole=80")] == ["e1", "e2"]
    with pytest.raises(CostError, match="two costs"):
        parsing.costs("a=1,a.whole=1,a.whole=2", "MFLOP")


def test_costs_that_are_given_are_not_measured(tmp_path: Path) -> None:
    networks = combine(blob_networks(tmp_path / "onnx"))
    x, y = blobs(60)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    runtime = OnnxRuntime(networks.files)
    examples = open_examples(tmp_path / "data.npz")
    given = parsing.costs("small=1,big=4", "J")
    found = record(
        networks, runtime, examples, tmp_path / "t", RecordOptions(batch=16), costs=given
    )
    assert found.costs == given == Trace.read(tmp_path / "t").costs
    wrong = Costs({"small": 1.0}, {"small": 0.0})
    with pytest.raises(CostError, match="'big'"):
        record(networks, runtime, examples, tmp_path / "u", RecordOptions(batch=16), costs=wrong)
    assert not (tmp_path / "u").exists()
    assert "cost_whole" not in json.loads((tmp_path / "t" / "trace.json").read_text())
