"""One network in, one certified file out; and what a run that ends early leaves to the next."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.base.errors import InputError
from offramp.core.graph import Costs
from offramp.core.trace import Trace
from offramp.learn.latency import Latency
from offramp.networks.batches import Without
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks
from offramp.optimizing import Optimized, optimize, steps
from offramp.plan.asked import Asked, Promise
from offramp.runtime import SingleFile, Stages
from offramp.siblings import SiblingOptions, Siblings, make, making
from tests.test_exits import run
from tests.test_formats import agree, keys
from tests.test_siblings import gratings, striped_network, times

BUDGET = Promise(budgets=(0.05,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("optimize")
    striped_network(path / "big.onnx")
    x, y = gratings(1500, 2)
    np.savez(path / "data.npz", x=x, y=y)
    return path


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies cost what tests say, and plans are timed at one size, on few requests."""

    def given(stages: Stages, *_: Any) -> Costs:
        order = stages.graph.order
        return Costs({name: times(name) for name in order}, dict.fromkeys(order, 0.0), batch=1)

    def as_given(trace: Trace, asked: Asked, networks: Networks | None, _: Any) -> Asked:
        assert networks is not None
        prices = Latency(
            batch=1,
            parts={name: {1: times(name)} for name in trace.graph.order},
            stop={1: 0.001},
            source="given",
            others=(),
            engine="none",
        )
        return Asked(promise=asked.promise, choices=type(asked.choices)(prices=prices))

    monkeypatch.setattr(making, "quiet_costs", given)
    monkeypatch.setattr(steps, "at_request_times", as_given)
    monkeypatch.setattr(steps, "SIZES", (1,))
    monkeypatch.setattr(steps, "EXAMPLES", 64)


def optimized(folder: Path, out: Path, **options: Any) -> Optimized:
    examples = open_examples(folder / "data.npz")
    return optimize(folder / "big.onnx", examples, BUDGET, out, SiblingOptions(**options))


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Optimized:
    with pytest.MonkeyPatch.context() as patch:
        quick.__wrapped__(patch)  # type: ignore[attr-defined]
        return optimized(folder, tmp_path_factory.mktemp("whole") / "out")


def test_one_file_that_is_certified_comes_out(folder: Path, done: Optimized) -> None:
    assert not done.keeps
    assert done.certificate["verdict"] == done.plan.certificate.verdict
    assert {row.what for row in done.rows} - {"bfloat16"} == {"reference", "int8", "plan"}
    assert done.speedup(1, "reference") == 1.0
    x, y = gratings(400, 9)
    answers = SingleFile(done.folder / "model.onnx")(x).answer
    assert (answers != y).mean() < 0.1
    assert (done.folder / "report.html").stat().st_size > 10_000


def test_the_formats_page_names_what_it_says(done: Optimized) -> None:
    said = {**done.to_json(), "notes": ["some"], "certificate": None, "siblings": None}
    agree("What optimize says", {re.sub(r"^seconds\..*", "seconds.<step>", k) for k in keys(said)})


def test_what_made_copies_certifies_nothing(folder: Path, done: Optimized) -> None:
    """No example is both among those that made copies and among those recorded."""
    taught = Networks.read(done.folder / "graph").taught
    trace = Trace.read(done.folder / "trace")
    assert taught is not None
    assert len(taught) + trace.examples == 1500
    assert not np.isin(trace.identity, taught).any()
    assert len(taught) == 375  # a quarter


@pytest.mark.parametrize("step", ["_recorded", "_planned", "_timed", "_written"])
def test_a_run_that_was_ended_goes_on(
    folder: Path, done: Optimized, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the step in hand; those before are not done again."""
    out = tmp_path / "out"
    order = {"_recorded": "recording", "_planned": "plan", "_timed": "clock", "_written": "files"}
    shutil.copytree(done.folder, out)
    journal = json.loads((out / "optimize.json").read_text())
    for name in list(order.values())[list(order).index(step) :]:
        del journal["steps"][name], journal["seconds"][name]
    (out / "optimize.json").write_text(json.dumps(journal))
    if step == "_recorded":  # as `record` leaves it while it runs
        shutil.rmtree(out / "trace")
        shutil.rmtree(out / "plan")
    for earlier in ("_copies", *order):
        if earlier == step:
            break
        monkeypatch.setattr(steps._Run, earlier, None)
    again = optimized(folder, out)
    assert again.siblings == done.siblings
    assert again.plan.certificate.verdict == done.plan.certificate.verdict
    assert again.to_json()["seconds"].keys() == {"copies", *order.values()}


class StopError(Exception):
    """A run ends in the middle."""


def test_a_recording_that_was_ended_goes_on_within_the_same_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """How many examples fit must not depend on when the rest of the run began."""
    clock, late = time.monotonic, [0.0]

    def slow(*given: Any, **named: Any) -> Siblings:
        late[0] += 100.0
        return make(*given, **named)

    monkeypatch.setattr(time, "monotonic", lambda: clock() + late[0])
    monkeypatch.setattr(steps, "make", slow)

    def stop(what: str, done: int, _: int) -> None:
        if what == "recording" and done:
            raise StopError

    examples, options = open_examples(folder / "data.npz"), SiblingOptions(minutes=45.0)
    out = tmp_path / "out"
    with pytest.raises(StopError):
        optimize(folder / "big.onnx", examples, BUDGET, out, options, progress=stop)
    found = optimize(folder / "big.onnx", examples, BUDGET, out, options)
    assert Trace.read(out / "trace").examples < 1125  # 45 minutes are too short for all of them
    assert any("give more --minutes" in note for note in found.notes)


def test_a_recording_that_ended_unnoted_is_not_made_again(
    folder: Path, done: Optimized, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.folder, out)
    journal = json.loads((out / "optimize.json").read_text())
    for name in ("recording", "plan", "clock", "files"):
        del journal["steps"][name], journal["seconds"][name]
    (out / "optimize.json").write_text(json.dumps(journal))
    before = (out / "trace" / "trace.json").stat().st_mtime_ns
    assert not optimized(folder, out).keeps
    assert (out / "trace" / "trace.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    "change",
    [{"steps": None}, {"steps": []}, {"seconds": "a"}, {"seconds": {"copies": "a"}}, {"steps": {}}],
)
def test_a_damaged_journal_is_said(
    folder: Path, done: Optimized, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.folder, out)
    journal = json.loads((out / "optimize.json").read_text())
    (out / "optimize.json").write_text(json.dumps({"question": journal["question"], **change}))
    with pytest.raises(InputError, match=r"optimize\.json cannot be used"):
        optimized(folder, out)


def test_a_name_of_a_file_will_do(folder: Path, done: Optimized) -> None:
    examples = open_examples(folder / "data.npz")
    again = optimize(str(folder / "big.onnx"), examples, BUDGET, str(done.folder))
    assert again.certificate == done.certificate


def test_force_loses_nothing_where_the_input_is_bad(
    folder: Path, done: Optimized, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(done.folder, out)
    with np.load(folder / "data.npz") as data:
        np.savez(tmp_path / "bad.npz", x=data["x"][:, :, :8], y=data["y"])
    arguments = ["optimize", str(folder / "big.onnx"), "--budget", "0.05", "--out", str(out)]
    assert run(*arguments, "--data", str(tmp_path / "bad.npz"), "--force") == 2
    assert (out / "model.onnx").read_bytes() == (done.folder / "model.onnx").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"out", "bad.npz"}
    assert run(*arguments, "--data", str(folder / "data.npz"), "--force") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out", "bad.npz"}


def test_a_folder_of_another_run_is_kept(folder: Path, done: Optimized, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other networks, examples or options"):
        optimized(folder, done.folder, most=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    with pytest.raises(InputError, match="exists already"):
        optimized(folder, tmp_path / "mine")
    arguments = ["optimize", str(folder / "big.onnx"), "--data", str(folder / "data.npz")]
    arguments += ["--budget", "0.05", "--out", str(tmp_path / "mine")]
    assert run(*arguments) == 2
    assert run(*arguments, "--force") == 2  # it is nothing that optimize wrote
    assert (tmp_path / "mine" / "file").read_text() == "kept"


@pytest.mark.parametrize(
    ("keys", "rows", "sentence"),
    [
        ("x", 1500, "no labels.*--unlabelled"),
        ("xy", 399, "399 examples are too few.*Give 400 or more"),
    ],
)
def test_examples_that_will_not_do_are_refused_before_anything_runs(
    folder: Path, tmp_path: Path, keys: str, rows: int, sentence: str
) -> None:
    with np.load(folder / "data.npz") as data:
        np.savez(tmp_path / "data.npz", **{key: data[key][:rows] for key in keys})
    (tmp_path / "big.onnx").write_bytes((folder / "big.onnx").read_bytes())
    with pytest.raises(InputError, match=sentence):
        optimized(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_did_nothing_stands_in_no_ones_way(folder: Path, tmp_path: Path) -> None:
    with np.load(folder / "data.npz") as data:
        np.savez(tmp_path / "data.npz", x=data["x"][:, :, :8], y=data["y"])
    (tmp_path / "big.onnx").write_bytes((folder / "big.onnx").read_bytes())
    with pytest.raises(InputError, match="shape"):
        optimized(tmp_path, tmp_path / "out")
    assert not optimized(folder, tmp_path / "out").keeps


def test_from_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["optimize", str(folder / "big.onnx"), "--data", str(folder / "data.npz")]
    out = ["--out", str(tmp_path / "out")]
    assert run(*arguments, "--budget", "0.05", *out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["certificate"]["verdict"] in ("route", "one network")
    assert found["siblings"]["stages"][-1] == "full"
    assert run(*arguments, "--budget", "0.05", *out) == 0  # all is done: it is said again
    said = capsys.readouterr().out
    assert "on the clock" in said
    assert run(*arguments, "--budget", "0.0001", *out, "--force", "--json") == 1
    assert json.loads(capsys.readouterr().out)["certificate"]["verdict"] == "keep the reference"


def test_a_short_time_records_less_and_says_so(folder: Path, tmp_path: Path) -> None:
    found = optimized(folder, tmp_path / "out", minutes=0.0001)
    assert found.keeps  # no copy was made
    assert "there was no time left to make it" in found.siblings["dropped"]["int8"]
    assert any("give more --minutes" in note for note in found.notes)
    assert Trace.read(found.folder / "trace").examples < 600


def test_examples_without_some_are_the_others(folder: Path) -> None:
    whole = open_examples(folder / "data.npz")
    batches = [batch.hashes for batch in whole.batches(64)]
    gone = np.concatenate(batches)[::3]
    left = Without(source=whole, hashes=gone)
    found = np.concatenate([batch.hashes for batch in left.batches(64)])
    assert found.tolist() == [h for h in np.concatenate(batches) if h not in set(gone)]
    later = np.concatenate([batch.hashes for batch in left.batches(64, 640)])
    assert later.tolist() == found[-len(later) :].tolist()
    few = Without(source=whole, hashes=gone, most=100)
    assert sum(len(batch) for batch in few.batches(64)) == 66  # the first 100 but every third
    assert len({left.fingerprint, few.fingerprint, whole.fingerprint}) == 3
