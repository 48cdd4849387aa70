"""ONNX Runtime as a driver of the walk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import NetworkError
from offramp.core.graph import Costs, Graph
from offramp.core.trace import assemble
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.recording.measure import stage_costs
from offramp.runtime import Engine, OnnxRuntime, Program, Stages, Value, engine_named
from offramp.runtime.engine import Fields
from offramp.runtime.session import Session
from offramp.testing import RuntimeLaws
from tests.made import blob_networks, blobs, linear_network


def planned(folder: Path) -> tuple[Plan, OnnxRuntime]:
    files = blob_networks(folder)
    runtime = OnnxRuntime(files)
    x, y = blobs(1200)
    scores = {stage: runtime.run(stage, x) for stage in files}
    costs = Costs({"small": 1.0, "big": 4.0}, {"small": 0.0, "big": 0.0})
    trace = assemble(Graph.chain(files), costs, scores, labels=y, kind="logits")
    return fit(trace, 0.02), runtime


class TestOnnxRuntime(RuntimeLaws):
    @pytest.fixture
    def both(self, tmp_path: Path) -> tuple[Plan, OnnxRuntime]:
        return planned(tmp_path)

    @pytest.fixture
    def runtime(self, both: tuple[Plan, OnnxRuntime]) -> OnnxRuntime:
        return both[1]

    @pytest.fixture
    def plan(self, both: tuple[Plan, OnnxRuntime]) -> Plan:
        return both[0]

    @pytest.fixture
    def x(self) -> FloatArray:
        return blobs(300, seed=9)[0]


def test_the_plan_of_the_laws_routes(tmp_path: Path) -> None:
    plan, _ = planned(tmp_path)
    assert plan.routes  # else the laws above would say little


def test_threads_are_set_explicitly(tmp_path: Path) -> None:
    asked: list[int] = []
    onnxruntime = engine_named("onnxruntime")

    def opened(file: Path, threads: int) -> Program:
        asked.append(threads)
        return onnxruntime.open(file, threads)

    Stages(blob_networks(tmp_path), engine=replace(onnxruntime, open=opened), threads=2)
    assert asked == [2, 2]
    session = Session(tmp_path / "big.onnx", 2).session
    assert session.get_session_options().intra_op_num_threads == 2


def two_inputs(path: Path) -> Path:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", 2]) for n in "ab"]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["scores"])], "g", values, [output]
    )
    onnx.save(helper.make_model(graph, ir_version=8), path)
    return path


def text(path: Path) -> Path:
    path.write_text("not a network")
    return path


def cut(path: Path) -> Path:
    whole = linear_network(path, np.eye(6, 4), [6]).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def three_dimensional(path: Path) -> Path:
    value = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", 2, 2])
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 2, 2])
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["scores"])], "g", [value], [output])
    onnx.save(helper.make_model(graph, ir_version=8), path)
    return path


def test_networks_that_cannot_be_stages_are_refused(tmp_path: Path) -> None:
    cases = [
        (text(tmp_path / "a.onnx"), "does not load"),
        (cut(tmp_path / "b.onnx"), "does not load"),
        (three_dimensional(tmp_path / "d.onnx"), "must be scores"),
        (linear_network(tmp_path / "e.onnx", np.eye(6, 4), [6], batch=1), "fixed batch size of 1"),
        (linear_network(tmp_path / "f.onnx", np.eye(6, 4), [6], opset=99), "does not load"),
    ]
    for file, says in cases:
        with pytest.raises(NetworkError, match=says):
            OnnxRuntime({"small": file})


def test_inputs_of_another_type_are_refused_or_converted(tmp_path: Path) -> None:
    runtime = OnnxRuntime(blob_networks(tmp_path))
    x = blobs(5)[0]
    assert (runtime.run("big", x.astype(np.float64)) == runtime.run("big", x)).all()
    with pytest.raises(NetworkError, match="Convert"):
        runtime.run("big", x.astype(complex))
    with pytest.raises(NetworkError, match="stage 'big' cannot run on inputs of shape"):
        runtime.run("big", x[:, :3])


def test_timing_takes_turns_and_keeps_whole_batches(tmp_path: Path) -> None:
    ran: list[str] = []

    def opened(stage: str, threads: int) -> Program:
        def run(fields: Fields, wanted: Sequence[str]) -> dict[str, AnyArray]:
            ran.append(stage)
            return {"scores": np.zeros((len(fields["x"]), 2))}

        return Program({"x": Value()}, {"scores": Value()}, run)

    turns = Stages({"a": "a", "b": "b"}, engine=Engine("notes", "1", opened, files=False))
    stage_costs(turns, turns.graph, np.zeros((4, 1)), 2, rounds=3)
    assert "".join(ran) == "abab" + "ab" + "ba" + "ab"  # warm-up twice, then the rounds
    runtime = OnnxRuntime(blob_networks(tmp_path))
    found = stage_costs(runtime, Graph.chain(["small", "big"]), blobs(10)[0], 64, rounds=5)
    assert all(0 < seconds < 1 for seconds in found.body.values())
    assert set(found.head.values()) == {0.0}
