"""Laws that every engine must pass, on networks of their own making: one fixture, `engine`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import NetworkError
from offramp.core.graph import BATCH, Costs, Graph, Stage, head
from offramp.core.trace import assemble
from offramp.export import write_folder
from offramp.networks.networks import Networks
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.runtime.driver import Driver, Walker
from offramp.runtime.engine import Engine, Part, Program, Value
from offramp.runtime.format import Answers
from offramp.runtime.routed import Routed
from offramp.runtime.stages import Stages

_FEATURES, _CLASSES, _ROWS = 6, 4, 240
_TOLERANCE = 1e-4  # of scores, between engines and batches of different sizes
LawShape = Sequence[int | str]
_FIXED = np.arange(6, dtype=np.float32).reshape(3, 2)


class EngineLaws:
    """What every engine that opens ONNX files must do. Fixture: `engine`."""

    def test_it_says_what_a_file_reads_and_makes(self, engine: Engine, tmp_path: Path) -> None:
        part = _opened(engine, tmp_path)
        assert engine.name, "an engine has a name"
        assert engine.version, "an engine has a version"
        assert list(part.inputs) == ["points"]
        assert part.inputs["points"].dtype == np.float32
        assert next(iter(part.outputs)) == "scores", "the first output of a file comes first"
        axes = {name: value.axis for name, value in part.outputs.items()}
        assert axes == {"scores": 0, "turned": 1, "fixed": None}

    def test_outputs_are_those_of_the_file(self, engine: Engine, tmp_path: Path) -> None:
        part = _opened(engine, tmp_path)
        for x in (_points(1), _points(3), _points(8), _points(3, seed=1)):
            found = part({"points": x, "other": x}, ["turned", "scores", "fixed"])
            for name, expected in _expected(x).items():
                np.testing.assert_allclose(found[name], expected, atol=_TOLERANCE)
            np.testing.assert_allclose(part({"points": x}, ["scores"])["scores"], x @ _weights())

    def test_what_it_gave_and_was_given_stays(self, engine: Engine, tmp_path: Path) -> None:
        part, x = _opened(engine, tmp_path), _points(5)
        before = x.copy()
        first = part({"points": x}, ["scores", "turned"])
        part({"points": _points(5, seed=1)}, ["scores", "turned"])
        assert (x == before).all(), "inputs must not be written to"
        for name in first:
            assert np.allclose(first[name], _expected(x)[name], atol=_TOLERANCE), (
                "outputs must stay as they are when it is called again"
            )

    def test_a_row_does_not_depend_on_its_batch(self, engine: Engine, tmp_path: Path) -> None:
        part, x = _opened(engine, tmp_path), _points(8)
        together = part({"points": x}, ["scores"])["scores"]
        for rows in (np.array([5]), np.array([5, 0, 3])):
            some = part({"points": x[rows]}, ["scores"])["scores"]
            np.testing.assert_allclose(some, together[rows], atol=_TOLERANCE)

    def test_inputs_may_lie_in_memory_as_they_like(self, engine: Engine, tmp_path: Path) -> None:
        part, x = _opened(engine, tmp_path), _points(8)
        for given in (x[::2], x[::-1], np.asfortranarray(x), x.astype(np.float64)):
            found = part({"points": given}, ["scores"])["scores"]
            np.testing.assert_allclose(found, given @ _weights(), atol=_TOLERANCE)

    def test_inputs_that_it_does_not_read_are_refused(self, engine: Engine, tmp_path: Path) -> None:
        part, x = _opened(engine, tmp_path), _points(8)
        for wrong in (x[:, :5], x[..., None], x.astype(complex)):
            _must_refuse(partial(part, {"points": wrong}, ["scores"]))

    def test_files_that_are_no_networks_are_refused(self, engine: Engine, tmp_path: Path) -> None:
        (tmp_path / "text.onnx").write_text("not a network")
        whole = _network(tmp_path / "whole.onnx").read_bytes()
        (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
        for name in ("text", "cut", "missing"):
            _must_refuse(partial(Part, name, tmp_path / f"{name}.onnx", engine, 1))

    def test_a_network_in_parts_answers_as_the_whole(self, engine: Engine, tmp_path: Path) -> None:
        """Rows that stop are dropped between its parts, and those that come later join others."""
        graph, files = _in_parts(tmp_path)
        stages, x = Stages(files, graph, engine=engine), _points(8)
        batch, some, all_but_one = (
            stages.begin(x),
            np.array([1, 4, 6]),
            np.array([0, 1, 3, 4, 5, 6]),
        )
        for rows in (some, all_but_one, some):
            for stage, expected in _expected_in_parts(x).items():
                batch.advance(stage, rows)
                np.testing.assert_allclose(
                    batch.answer(stage, rows), expected[rows], atol=_TOLERANCE
                )
        for stage, expected in _expected_in_parts(x).items():
            np.testing.assert_allclose(stages.run(stage, x), expected, atol=_TOLERANCE)

    def test_live_is_replay(self, engine: Engine, tmp_path: Path) -> None:
        plan, expected = _planned(tmp_path)
        driver = Walker(plan, Stages(plan.runnable(), plan.graph, engine=engine))
        _check(driver, plan, expected)

    def test_a_file_per_stage_answers_alike(self, engine: Engine, tmp_path: Path) -> None:
        plan, expected = _planned(tmp_path)
        write_folder(plan, tmp_path / "stages", dial=True)
        _check(Routed(tmp_path / "stages", engine), plan, expected)


def _check(driver: Driver, plan: Plan, expected: Callable[[FloatArray], Answers]) -> None:
    x = _points(64, seed=2)
    for given in (x, x[:1], x[:0]):
        found, wanted = driver(given), expected(given)
        assert (found.stage == wanted.stage).all()
        np.testing.assert_allclose(found.scores, wanted.scores, atol=_TOLERANCE)
        np.testing.assert_allclose(found.cost, wanted.cost, rtol=1e-5)
    assert len(set(driver(x).stage)) == len(plan.graph.order), "rows stop at every stage"


def _must_refuse(call: Callable[[], object]) -> None:
    try:
        call()
    except NetworkError:
        return
    raise AssertionError("what does not fit must raise NetworkError, or be said by the program")


def _points(rows: int, seed: int = 0) -> FloatArray:
    random = np.random.default_rng(seed)
    corners = np.eye(_CLASSES, _FEATURES)[random.integers(0, _CLASSES, rows)] * 2
    noise = random.normal(size=(rows, _FEATURES)) * 0.7
    return (corners + noise).astype(np.float32)


def _weights(seed: int | None = None) -> FloatArray:
    """Of the best linear network; with a seed, of a poor one."""
    best = np.eye(_FEATURES, _CLASSES) * 4
    noise = 0 if seed is None else np.random.default_rng(seed).normal(size=best.shape)
    return (best + noise).astype(np.float32)


def _opened(engine: Engine, folder: Path) -> Part:
    return Part("network", _network(folder / "network.onnx"), engine, 1)


def _expected(x: FloatArray) -> dict[str, FloatArray]:
    return {"scores": x @ _weights(), "turned": (x @ _weights()).T, "fixed": _FIXED}


def _network(path: Path) -> Path:
    """Scores, the same with the rows along the second axis, and what is the same for every row."""
    nodes = [
        helper.make_node("MatMul", ["points", "weights"], ["scores"]),
        helper.make_node("Transpose", ["scores"], ["turned"], perm=[1, 0]),
        helper.make_node("Identity", ["table"], ["fixed"]),
    ]
    makes: dict[str, LawShape] = {
        "scores": [BATCH, _CLASSES],
        "turned": [_CLASSES, BATCH],
        "fixed": [3, 2],
    }
    constants = {"weights": _weights(), "table": _FIXED}
    return _saved(path, nodes, {"points": [BATCH, _FEATURES]}, makes, constants)


def _in_parts(folder: Path) -> tuple[Graph, dict[str, Path]]:
    """An exit and the end of a network whose carry has its rows along the second axis."""
    graph = Graph((Stage("exit"), Stage("end", "exit")), (("exit", "end"),), "end")
    turned = {"exit/turned": [_FEATURES, BATCH]}
    body = [helper.make_node("Transpose", ["points"], ["exit/turned"], perm=[1, 0])]
    more = [
        helper.make_node("Relu", ["exit/turned"], ["rectified"]),
        helper.make_node("Transpose", ["rectified"], ["end/kept"], perm=[1, 0]),
    ]
    back = [
        helper.make_node("Transpose", ["exit/turned"], ["x"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "weights"], ["scores"]),
    ]
    last = [helper.make_node("MatMul", ["end/kept", "weights"], ["scores"])]
    scores, kept = {"scores": [BATCH, _CLASSES]}, {"end/kept": [BATCH, _FEATURES]}
    given: dict[str, tuple[Any, ...]] = {
        "exit": (body, {"points": [BATCH, _FEATURES]}, turned, {}),
        head("exit"): (back, turned, scores, {"weights": _weights(1)}),
        "end": (more, turned, kept, {}),
        head("end"): (last, kept, scores, {"weights": _weights()}),
    }
    return graph, {part: _saved(folder / f"{part}.onnx", *what) for part, what in given.items()}


def _expected_in_parts(x: FloatArray) -> dict[str, FloatArray]:
    return {"exit": x @ _weights(1), "end": np.maximum(x, 0) @ _weights()}


def _planned(folder: Path) -> tuple[Plan, Callable[[FloatArray], Answers]]:
    """A plan over two networks, both of which answer some, and what it answers by numpy."""
    weights = {"small": _weights(1), "big": _weights()}
    files = {
        name: _saved(
            folder / f"{name}.onnx",
            [helper.make_node("MatMul", ["points", "weights"], ["scores"])],
            {"points": [BATCH, _FEATURES]},
            {"scores": [BATCH, _CLASSES]},
            {"weights": matrix},
        )
        for name, matrix in weights.items()
    }
    graph, x = Graph.chain(weights), _points(_ROWS, seed=3)
    scores = {name: x @ matrix for name, matrix in weights.items()}
    costs = Costs({"small": 1.0, "big": 4.0}, {"small": 0.0, "big": 0.0})
    trace = assemble(graph, costs, scores, labels=scores["big"].argmax(axis=1), kind="logits")
    plan = fit(trace, 0.5, policy="margin", networks=Networks(graph, files))
    middle = plan.policy.settings[len(plan.policy.settings) // 2 :][:2].mean()
    plan = replace(plan, tradeoff=float(middle), committees={})
    return plan, Walker(plan, Stages(weights, engine=_NUMPY))


def _multiplied(weights: FloatArray, threads: int) -> Program:
    def run(fields: Mapping[str, AnyArray], wanted: Sequence[str]) -> dict[str, AnyArray]:
        return {"scores": fields["x"] @ weights}

    return Program({"x": Value()}, {"scores": Value()}, run)


_NUMPY = Engine("numpy", np.__version__, _multiplied, files=False)


def _saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    reads: Mapping[str, LawShape],
    makes: Mapping[str, LawShape],
    constants: Mapping[str, AnyArray],
) -> Path:
    def values(found: Mapping[str, LawShape]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in found.items()]

    arrays = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(list(nodes), path.stem, values(reads), values(makes), arrays)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path
