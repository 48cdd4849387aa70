"""Recording: it streams, survives being killed, and says what is wrong."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import DataError, InputError, ScoresError, StorageError, TraceError
from offramp.base.fields import X
from offramp.core import parts as store
from offramp.core.costs import COST_KEYS
from offramp.core.graph import Graph
from offramp.core.trace import Trace
from offramp.networks.data import ExampleBatch, Examples, open_examples
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime, Program, Stages
from offramp.runtime.engine import Fields, Part
from tests.made import blob_networks, blobs, linear_network, picture

BATCH = RecordOptions(batch=16)
# calls that compare rows alone with the same rows together, of both stages: at first, of each part
COMPARED, AGAIN = 2 * (1 + 2 + 1 + 16), 2 * 3


@dataclass
class Setup:
    """Networks and 10,000 examples: five parts."""

    folder: Path
    networks: Networks = field(init=False)
    runtime: OnnxRuntime = field(init=False)
    examples: Examples = field(init=False)

    def __post_init__(self) -> None:
        files = blob_networks(self.folder / "onnx")
        Networks(Graph.chain(files), files).write(self.folder / "graph")
        self.networks = Networks.read(self.folder / "graph")
        self.runtime = OnnxRuntime(self.networks.files)
        x, y = blobs(10_000)
        np.savez(self.folder / "data.npz", x=x, y=y)
        self.examples = open_examples(self.folder / "data.npz")

    def record(self, name: str, **options: Any) -> Trace:
        given: dict[str, Any] = {"runtime": self.runtime, "examples": self.examples}
        given |= {"options": BATCH, **options}
        return record(self.networks, out=self.folder / name, **given)


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def same(one: Path, other: Path) -> None:
    """Equal in every column and in trace.json but for costs and dates."""
    columns = [store.read_parts(path) for path in (one, other)]
    assert columns[0].keys() == columns[1].keys()
    for name, values in columns[0].items():
        assert values.dtype == columns[1][name].dtype
        assert (values == columns[1][name]).all(), name
    changing = {"created", "hash", *COST_KEYS}
    manifests = [json.loads((path / "trace.json").read_text()) for path in (one, other)]
    kept = [{k: v for k, v in m.items() if k not in changing} for m in manifests]
    assert kept[0] == kept[1]
    assert manifests[0].keys() == manifests[1].keys()


def test_a_recording_holds_what_the_networks_say(setup: Setup) -> None:
    told: list[tuple[str, int, int]] = []
    trace = setup.record("t", progress=lambda *step: told.append(step))
    seen = [(done, total) for what, done, total in told if what == "recording"]
    x, y = blobs(10_000)
    loaded = Trace.read(setup.folder / "t")
    for found in (trace, loaded):
        assert found.labels is not None
        assert (found.labels == y).all()
        np.testing.assert_allclose(found.scores["big"], setup.runtime.run("big", x), atol=1e-5)
    assert len(store.parts(setup.folder / "t")) == 5
    assert seen == sorted(seen)
    assert seen[-1] == (10_000, 10_000)
    assert any(what.startswith("measuring batches") for what, _, _ in told)
    assert loaded.costs.unit == "s"
    assert loaded.costs.body["big"] > 0
    assert "1 thread" in loaded.costs.source


class Changed(Stages):
    """Stages whose scores are changed on their way."""

    def __init__(self, runtime: OnnxRuntime) -> None:
        def opened(part: Part, threads: int) -> Program:
            def run(fields: Fields, wanted: Sequence[str]) -> Mapping[str, AnyArray]:
                return {"scores": self.says(part.name, part(fields, wanted)["scores"])}

            return Program(part.inputs, part.outputs, run)

        engine = replace(runtime.engine, open=opened, files=False)
        super().__init__(runtime.parts, runtime.graph, engine=engine)

    def says(self, stage: str, scores: FloatArray) -> FloatArray:
        return scores


class Stopping(Changed):
    """Fails after some calls."""

    def __init__(self, runtime: OnnxRuntime, calls: int, error: BaseException) -> None:
        super().__init__(runtime)
        self.calls, self.error = calls, error

    def says(self, stage: str, scores: FloatArray) -> FloatArray:
        self.calls -= 1
        if self.calls < 0:
            raise self.error
        return scores


@pytest.mark.parametrize("calls", [0, 5, 300, 700, 1249])
def test_an_interrupted_recording_goes_on_where_it_stopped(setup: Setup, calls: int) -> None:
    stopping = Stopping(setup.runtime, COMPARED + calls, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        setup.record("t", runtime=stopping)
    with pytest.raises(TraceError, match="interrupted"):
        Trace.read(setup.folder / "t")
    kept = len(store.parts(setup.folder / "t"))
    counted = Stopping(setup.runtime, 10**9, RuntimeError())
    setup.record("t", runtime=counted)
    setup.record("whole")
    same(setup.folder / "t", setup.folder / "whole")
    assert kept == calls // (2 * BATCH.batches_per_part + AGAIN)
    again = 2 * (10_000 // 16 - kept * BATCH.batches_per_part) + (5 - kept) * AGAIN
    measured = 10**9 - counted.calls - again - COMPARED
    assert 0 < measured <= 2 * (50 + 2)  # costs are measured once, and nothing is run twice


SLOW = """
import sys, time
from offramp.cli import main
from offramp.runtime import session
run = session.Session.run
def slow(self, fields, wanted):
    time.sleep(0.0005)
    return run(self, fields, wanted)
session.Session.run = slow
print("ready", flush=True)
main()
"""


def test_killed_at_random_moments_and_resumed_it_is_the_same_trace(setup: Setup) -> None:
    """SIGKILL leaves no chance to tidy up."""
    out, chance, kills = setup.folder / "killed", random.Random(0), 0
    arguments = ["record", str(setup.folder / "graph"), "--data", str(setup.folder / "data.npz")]
    command = [sys.executable, "-c", SLOW, *arguments, "--batch", "16", "--out", str(out)]
    for attempt in range(12):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        try:
            process.wait(chance.uniform(0.02, 0.6) if attempt < 8 else None)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        _, said = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), said
        manifest = out / "trace.json"
        if manifest.exists() and json.loads(manifest.read_text())["complete"]:
            break  # perhaps killed as well, but too late
    assert kills >= 2
    folder = setup.folder / "graph"
    setup.record("whole", options=replace(BATCH, graph_folder=folder))
    same(out, setup.folder / "whole")
    assert not list(out.glob(".*"))


def test_another_recording_is_not_continued(setup: Setup) -> None:
    with pytest.raises(KeyboardInterrupt):
        setup.record("t", runtime=Stopping(setup.runtime, 300, KeyboardInterrupt()))
    x, y = blobs(10_000, seed=5)
    np.savez(setup.folder / "other.npz", x=x, y=y)
    for options in (
        {"examples": open_examples(setup.folder / "other.npz")},
        {"options": RecordOptions(batch=32)},
    ):
        with pytest.raises(InputError, match=r"another (data|batch)"):
            setup.record("t", **options)
    assert setup.record("t", force=True, options=RecordOptions(batch=32)).examples == 10_000


def test_a_finished_recording_is_not_replaced_unasked(setup: Setup) -> None:
    setup.record("t")
    with pytest.raises(InputError, match="--force"):
        setup.record("t")


def test_a_full_disk_keeps_what_was_recorded(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    write, left = store.pq.write_table, [2]  # type: ignore[attr-defined]

    def filling(table: Any, path: Path, **options: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            Path(path).write_bytes(b"half of")
            raise OSError(28, "No space left on device")
        write(table, path, **options)

    monkeypatch.setattr("pyarrow.parquet.write_table", filling)
    with pytest.raises(StorageError, match="already written is kept"):
        setup.record("t")
    monkeypatch.undo()
    out = setup.folder / "t"
    assert sorted(p.name for p in out.iterdir()) == [
        "part-000000.parquet",
        "part-000001.parquet",
        "trace.json",
    ]
    setup.record("t")
    setup.record("whole")
    same(out, setup.folder / "whole")


class Broken(Changed):
    """Says NaN of one example."""

    def says(self, stage: str, scores: FloatArray) -> FloatArray:
        if stage == "big":
            scores[5] = np.nan
        return scores


def test_broken_scores_name_the_stage_and_the_example(setup: Setup) -> None:
    with pytest.raises(ScoresError, match="stage 'big' gave NaN or infinite scores for example 5"):
        setup.record("t", runtime=Broken(setup.runtime))


def test_no_examples_are_no_trace(setup: Setup) -> None:
    np.savez(setup.folder / "none.npz", x=np.zeros((0, 6), np.float32))
    with pytest.raises(TraceError, match="no examples"):
        setup.record("t", examples=open_examples(setup.folder / "none.npz"))


def ending_in(path: Path, last: str, *, half: bool = False) -> Path:
    """A network for `blobs` that ends in an operator, perhaps in half precision."""
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    weights = np.eye(6, 4) * 2
    nodes = [
        helper.make_node("Cast", ["input"], ["x"], to=kind),
        helper.make_node("MatMul", ["x", "weights"], ["product"]),
        helper.make_node("Sub", ["product", "bias"], ["sums"]),
        helper.make_node(last, ["sums"], ["scores"]),
    ]
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    constants = [
        numpy_helper.from_array(weights.astype(dtype), "weights"),
        numpy_helper.from_array(np.array(3, dtype), "bias"),
    ]
    read = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 6])
    said = helper.make_tensor_value_info("scores", kind, ["batch", 4])
    graph = helper.make_graph(nodes, "ending", [read], [said], constants)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("last", "kind"),
    [
        *(("Softmax", "probabilities"), ("Sigmoid", "sigmoid"), ("LogSoftmax", "logits")),
        *(("Relu", "logits"), ("Log", None)),
    ],
)
def test_networks_may_end_in_anything_that_is_a_number(
    setup: Setup, last: str, kind: str | None, half: bool
) -> None:
    files = {"only": ending_in(setup.folder / "n.onnx", last, half=half)}
    networks = Networks(Graph.chain(files), files)
    if kind is None:  # logarithms of negative numbers are NaN
        with pytest.raises(ScoresError, match="NaN"):
            record(networks, OnnxRuntime(files), setup.examples, setup.folder / "t", BATCH)
        return
    trace = record(networks, OnnxRuntime(files), setup.examples, setup.folder / "t", BATCH)
    assert trace.kinds == {"only": kind}
    assert Trace.read(setup.folder / "t").kinds == {"only": kind}
    assert OnnxRuntime(files).run("only", blobs(3)[0]).dtype == np.float32


class Counted(Changed):
    """Says one of few numbers of classes, and how often it was asked."""

    def __init__(self, runtime: OnnxRuntime, classes: int) -> None:
        super().__init__(runtime)
        self.classes, self.calls = classes, 0

    def says(self, stage: str, scores: FloatArray) -> FloatArray:
        self.calls += 1
        return scores[:, : 4 if stage == "small" else self.classes]


def test_what_does_not_fit_is_refused_after_the_first_batch(setup: Setup) -> None:
    few = 60  # calls: the first batch, compared with its rows alone; all rows take far more
    with pytest.raises(ScoresError, match="3 classes"):
        setup.record("a", runtime=(runtime := Counted(setup.runtime, 3)))
    assert runtime.calls < few
    kind = RecordOptions(batch=16, kind="probabilities")
    with pytest.raises(ScoresError, match="no probabilities in row 0"):
        setup.record("b", runtime=(runtime := Counted(setup.runtime, 4)), options=kind)
    assert runtime.calls < few
    x, y = blobs(10_000)
    np.savez(setup.folder / "other.npz", x=x, y=y + 2)
    examples = open_examples(setup.folder / "other.npz")
    with pytest.raises(DataError, match=r"outside 0\.\.3"):
        setup.record("c", runtime=(runtime := Counted(setup.runtime, 4)), examples=examples)
    assert runtime.calls < few


def test_what_the_scores_are_can_be_said(setup: Setup) -> None:
    files = {"only": ending_in(setup.folder / "n.onnx", "Sigmoid")}
    networks = Networks(Graph.chain(files), files)
    said = RecordOptions(batch=16, kind="logits")
    trace = record(networks, OnnxRuntime(files), setup.examples, setup.folder / "t", said)
    assert trace.kinds == {"only": "logits"}


def test_a_part_may_hold_broken_images_alone(setup: Setup) -> None:
    file = linear_network(setup.folder / "n.onnx", np.ones((192, 4)), [3, 8, 8])
    networks = Networks(Graph.chain(["only"]), {"only": file})
    images = [b"broken"] * 2060 + [picture((i, 2, 3)) for i in range(20)]
    pq.write_table(pa.table({"image": images}), setup.folder / "a.parquet")
    pixels = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3)
    examples = open_examples(setup.folder / "a.parquet", pixels, skip_broken=True)
    record(networks, OnnxRuntime({"only": file}), examples, setup.folder / "t", BATCH)
    found = Trace.read(setup.folder / "t")
    assert found.ids is not None
    assert found.ids.tolist() == list(range(2060, 2080))


@dataclass
class Watched:
    """Examples that count how many of their batches are held."""

    source: Examples
    living: list[weakref.ref[AnyArray]] = field(default_factory=list)
    most: int = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.source, name)

    def batches(self, size: int, start: int = 0) -> Iterator[ExampleBatch]:
        for batch in self.source.batches(size, start):
            x = np.array(batch.x)
            self.living.append(weakref.ref(x))
            self.most = max(self.most, sum(held() is not None for held in self.living))
            yield replace(batch, fields={X: x})


@pytest.mark.parametrize("size", [1, 16])
def test_inputs_of_few_batches_are_held_at_a_time(setup: Setup, size: int) -> None:
    """Whatever the size of a part: what networks read may be larger than memory."""
    x, y = blobs(600)
    np.savez(setup.folder / "few.npz", x=x, y=y)
    watched = Watched(open_examples(setup.folder / "few.npz"))
    trace = setup.record("t", examples=watched, options=RecordOptions(batch=size))
    assert trace.examples == 600
    assert watched.most <= 5
