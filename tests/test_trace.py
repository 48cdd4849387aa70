"""Traces: import, parts, splits, and traces that cannot be read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from offramp.base.arrays import AnyArray
from offramp.base.errors import (
    CostError,
    InputError,
    OfframpError,
    ScoresError,
    StorageError,
    TraceError,
)
from offramp.core import trace as module
from offramp.core.graph import Costs
from offramp.core.imports import import_scores
from offramp.core.trace import Trace
from offramp.testing import synthetic
from tests.made import rehashed

COSTS = Costs({"a": 1.0, "b": 3.0}, {"a": 0.0, "b": 0.0}, "MFLOP")


def save(path: Path, **arrays: Any) -> Path:
    given: dict[str, AnyArray] = {
        "labels": np.arange(30) % 3,
        "a": np.eye(3)[np.arange(30) % 3] * 2 - 0.5,
        "b": np.eye(3)[np.arange(30) % 3],
    }
    np.savez(path, **{name: value for name, value in (given | arrays).items() if value is not None})
    return path


def test_imported_scores_become_a_chain_of_the_given_order(tmp_path: Path) -> None:
    found = import_scores(save(tmp_path / "s.npz"), COSTS)
    assert found.graph.edges == (("a", "b"),)
    assert found.kinds == {"a": "logits", "b": "probabilities"}
    assert found.reference_cost == 3.0
    assert found.info["data"].startswith("sha256:")


def test_the_kind_of_scores_can_be_said(tmp_path: Path) -> None:
    found = import_scores(save(tmp_path / "s.npz"), COSTS, kind="logits")
    assert found.kinds["b"] == "logits"


def test_scores_that_are_said_to_be_probabilities_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match=r"'a'.* row 0 "):
        import_scores(save(tmp_path / "s.npz"), COSTS, kind="probabilities")
    shares = np.eye(3)[np.arange(30) % 3]
    found = import_scores(save(tmp_path / "s.npz", a=shares), COSTS, kind="probabilities")
    assert set(found.kinds.values()) == {"probabilities"}


def test_costs_of_an_unknown_stage_name_it(tmp_path: Path) -> None:
    """Also where another stage of the file has no cost: a misspelt name looks like that."""
    costs = Costs({"a": 1.0, "huge": 3.0}, {"a": 0.0, "huge": 0.0}, "MFLOP")
    for edges in (None, "a>b"):
        with pytest.raises(ScoresError, match=r"'huge' has no array in s\.npz.* a, b"):
            import_scores(save(tmp_path / "s.npz"), costs, edges=edges)


def test_a_loss_of_ones_own_may_come_along(tmp_path: Path) -> None:
    own = {"a.loss": np.full(30, 0.5), "b.loss": np.full(30, 0.25)}
    found = import_scores(save(tmp_path / "s.npz", **own), COSTS)
    assert found.losses().name == "recorded"
    assert found.losses().excess("a").tolist() == [0.25] * 30


def test_what_import_does_not_read_is_named(tmp_path: Path) -> None:
    """A loss under another name would leave a certificate of something else."""
    own = {"a.quality": np.full(30, 0.5), "b_loss": np.full(30, 0.2), "notes": np.zeros(2)}
    found = import_scores(save(tmp_path / "s.npz", **own), COSTS)
    said = "\n".join(found.info["left_aside"])
    assert "`a.quality`, `b_loss`, `notes`" in said
    assert "`a.quality` was meant to be read: a loss of your own is called `a.loss`" in said
    assert "called `b.loss`" in said
    assert not import_scores(save(tmp_path / "s.npz"), COSTS).info["left_aside"]


@pytest.mark.parametrize("name", ["label", "y", "targets"])
def test_labels_may_be_called_otherwise(tmp_path: Path, name: str) -> None:
    labels = np.arange(30) % 3
    file = save(tmp_path / "s.npz", labels=None, **{name: labels})
    found = import_scores(file, COSTS)
    assert found.labels is not None
    assert (found.labels == labels).all()
    assert not found.info["left_aside"]


def test_scores_need_no_labels_for_disagreement(tmp_path: Path) -> None:
    found = import_scores(save(tmp_path / "s.npz", labels=None), COSTS)
    assert not found.losses("disagreement").excess("a").any()
    with pytest.raises(TraceError, match="no labels"):
        found.losses()


@pytest.mark.parametrize(
    ("arrays", "error", "says"),
    [
        ({"labels": np.arange(30) % 4}, InputError, "outside 0..2"),
        ({"labels": np.arange(30) * 0.5}, InputError, "integers"),
        ({"labels": np.arange(30) % 3 * 1.0}, InputError, r"labels\.astype\(int\)"),
        ({"labels": np.eye(3)[np.arange(30) % 3]}, InputError, "one-hot"),
        ({"labels": np.zeros((30, 1), int)}, InputError, "column"),
        ({"labels": np.array(["cat"] * 30)}, InputError, "Number the classes"),
        ({"labels": np.arange(29) % 3}, InputError, "29 labels for 30"),
        ({"a": np.full((30, 3), np.nan)}, ScoresError, "'a' has NaN"),
        ({"a": np.zeros((30, 4))}, ScoresError, "'b' has 3 classes, stage 'a' has 4"),
        ({"a": np.zeros((29, 3))}, ScoresError, "'b' has 30 rows, stage 'a' has 29"),
        ({"b": None}, ScoresError, "'b' has no array"),
        ({"c": np.zeros((30, 3))}, InputError, "'c' in s.npz has no cost"),
        (
            {"a": np.zeros((0, 3)), "b": np.zeros((0, 3)), "labels": np.arange(0)},
            TraceError,
            "no exa",
        ),
    ],
)
def test_scores_that_do_not_fit_are_refused(
    tmp_path: Path, arrays: dict[str, Any], error: type[OfframpError], says: str
) -> None:
    with pytest.raises(error, match=says):
        import_scores(save(tmp_path / "s.npz", **arrays), COSTS)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with pytest.raises(TraceError, match="cannot be read") as caught:
        import_scores(save(tmp_path / "s.npz", a=np.array([_Bomb(ran)] * 30, dtype=object)), COSTS)
    assert "allow_pickle" not in str(caught.value)
    assert not ran.exists()


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"not an archive at all"])
def test_damaged_archives_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s.npz"
    path.write_bytes(content)
    with pytest.raises(TraceError, match=r"cannot be read|single array") as caught:
        import_scores(path, COSTS)
    assert "allow_pickle" not in str(caught.value)


def test_an_archive_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "s.npz")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(TraceError, match="cut short"):
        import_scores(path, COSTS)


def test_large_traces_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_NUMBERS", 70 * 30)
    trace = synthetic(200)
    trace.write(tmp_path / "t")
    assert len(list((tmp_path / "t").glob("part-*.parquet"))) == 3
    loaded = Trace.read(tmp_path / "t")
    for stage in trace.graph.order:
        assert (loaded.scores[stage] == trace.scores[stage]).all()
    assert loaded.ids is not None
    assert loaded.ids.tolist() == list(range(200))


def test_a_split_is_a_partition_that_its_seed_fixes() -> None:
    trace = synthetic(101)
    first, second = trace.split(0.3, seed=5)
    assert len(first) == 30
    assert sorted([*first, *second]) == list(range(101))
    assert (trace.split(0.3, seed=5)[0] == first).all()
    assert set(trace.split(0.3, seed=6)[0]) != set(first)


def damaged(path: Path, how: str) -> None:
    part, manifest = path / "part-000000.parquet", path / "trace.json"
    value = json.loads(manifest.read_text())
    texts = {
        "newer": json.dumps(value | {"version": 99}),
        "no json": "{",
        "a list": "[]",
        "no graph": json.dumps({k: v for k, v in value.items() if k != "graph"}),
        "unfinished": json.dumps(value | {"complete": False}),
        "costs": json.dumps(value | {"cost": {"a": {"body": 1.0}}}),
    }
    if how == "cut":
        part.write_bytes(part.read_bytes()[:-50])
    elif how == "absent":
        part.unlink()
    else:
        manifest.write_text(texts[how])
        if how not in ("no json", "a list"):
            rehashed(manifest, json.loads(texts[how]))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("cut", "cut short"),
        ("absent", "is missing"),
        ("newer", "version 99"),
        ("no json", "JSON"),
        ("a list", "JSON object"),
        ("no graph", "graph"),
        ("unfinished", "interrupted"),
        ("costs", "required field `head`"),
    ],
)
def test_damaged_traces_are_refused(tmp_path: Path, how: str, says: str) -> None:
    synthetic(50).write(tmp_path / "t")
    damaged(tmp_path / "t", how)
    with pytest.raises((TraceError, CostError), match=says):
        Trace.read(tmp_path / "t")


def test_a_folder_that_is_no_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"no trace\.json"):
        Trace.read(tmp_path)


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "holiday.jpg").write_bytes(b"precious")
    for force in (False, True):
        with pytest.raises(InputError):
            synthetic(50).write(folder, force=force)
    assert (folder / "holiday.jpg").read_bytes() == b"precious"
    synthetic(50).write(tmp_path / "t")
    with pytest.raises(InputError, match="--force"):
        synthetic(50).write(tmp_path / "t")
    synthetic(60).write(tmp_path / "t", force=True)
    assert Trace.read(tmp_path / "t").examples == 60


def test_a_full_disk_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StorageError, match="No space left"):
        synthetic(50).write(tmp_path / "t")
    assert not list(tmp_path.iterdir())


def test_an_own_loss_survives_the_disk(tmp_path: Path) -> None:
    trace = synthetic(50)
    own = {stage: np.linspace(0, 1, 50).astype(np.float32) for stage in trace.graph.order}
    replace(trace, loss=own).write(tmp_path / "t")
    loaded = Trace.read(tmp_path / "t")
    assert loaded.loss is not None
    np.testing.assert_allclose(loaded.loss["small"], own["small"])


def test_a_trace_of_arrays_as_one_would_guess(tmp_path: Path) -> None:
    there = synthetic(300, ("small", "big"))
    scores = {name: there.scores[name].tolist() for name in ("small", "big")}
    trace = Trace.of(scores, there.labels, costs={"small": 1, "big": 4})
    assert (trace.graph.order, trace.reference_cost) == (("small", "big"), 4.0)
    trace.write(str(tmp_path / "trace"))
    assert Trace.read(str(tmp_path / "trace")).digest == trace.digest
    with pytest.raises(CostError, match="'big'"):
        Trace.of(scores, costs={"small": 1})
