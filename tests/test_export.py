"""A plan in one ONNX file answers as the walk does, row for row, on any graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from scipy.special import expit, softmax

from offramp.answering.committees import with_committees
from offramp.base.arrays import FloatArray
from offramp.base.errors import PlanError
from offramp.core import tasks
from offramp.core.frontier import replay
from offramp.core.graph import BATCH, Costs, Graph, Stage, head
from offramp.core.trace import Trace, assemble
from offramp.export import write_file, write_folder
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.policies import FAMILIES, operators
from offramp.runtime import Driver, Routed, SingleFile
from offramp.testing import close, synthetic
from tests.strategies import costs, graphs

Said = Literal["logits", "masked", "probabilities", "sigmoid"]
SAID: tuple[Said, ...] = get_args(Said)
LIMITS = ((-100, "low"), (100, "high"))  # of scores that are compared: -inf from itself is NaN


def remembering(trace: Trace, folder: Path) -> dict[str, Path]:
    """Networks that say what was recorded: an example is its own number.

    A body hands the number on and a head looks it up, so a row that strays is found out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for stage in trace.graph.stages:
        read = "input" if stage.after is None else f"{stage.after}_number"
        number = f"{stage.name}_number"
        body = [helper.make_node("Identity", [read], [number])]
        files[stage.name] = _save(folder / f"{stage.name}.onnx", body, {read: 1}, {number: 1})
        said = trace.scores[stage.name]
        said = np.where(said == np.float32(-1e30), np.float32(-np.inf), said)
        scores = numpy_helper.from_array(said, "recorded")
        nodes = [
            helper.make_node("Cast", [number], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["recorded", "index"], ["rows"]),
            helper.make_node("Squeeze", ["rows", "one"], ["found"]),
        ]
        heard = [f"{other}_scores" for other in stage.hears]
        last, tables = "found", []
        for other in heard:  # nothing is made of it, unless it is another example's
            name = other.removesuffix("_scores")
            tables.append(numpy_helper.from_array(trace.scores[name], f"{other}_table"))
            nodes += [
                helper.make_node("Gather", [f"{other}_table", "index"], [f"{other}_rows"]),
                helper.make_node("Squeeze", [f"{other}_rows", "one"], [f"{other}_own"]),
                helper.make_node("Clip", [other, "low", "high"], [f"{other}_0"]),
                helper.make_node("Clip", [f"{other}_own", "low", "high"], [f"{other}_1"]),
                helper.make_node("Sub", [f"{other}_0", f"{other}_1"], [f"{other}_2"]),
                helper.make_node("Add", [last, f"{other}_2"], [f"{other}_3"]),
            ]
            last = f"{other}_3"
        made = f"{stage.name}_scores"
        nodes.append(helper.make_node("Identity", [last], [made]))
        constants = [
            scores,
            numpy_helper.from_array(np.array([1]), "one"),
            *(numpy_helper.from_array(np.float32(end), to) for end, to in LIMITS),
            *tables,
        ]
        given = {number: 1, **dict.fromkeys(heard, trace.classes)}
        files[head(stage.name)] = _save(
            folder / f"{head(stage.name)}.onnx", nodes, given, {made: trace.classes}, constants
        )
    return files


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    constants: list[onnx.TensorProto] | None = None,
) -> Path:
    def values(widths: Mapping[str, int]) -> list[onnx.ValueInfoProto]:
        return [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, width])
            for name, width in widths.items()
        ]

    graph = helper.make_graph(nodes, "part", values(inputs), values(outputs), constants or [])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def check(plan: Plan, trace: Trace, driver: Driver, tradeoff: float | None = None) -> None:
    """A driver against the replay of the same scores; close decisions apart."""
    x = np.arange(trace.examples, dtype=np.float32)[:, None]
    found = driver(x, tradeoff)
    turned = plan.turned(tradeoff)
    spoken = with_committees(trace, turned.speaking)
    outcome = replay(spoken, turned.running, turned.setting)
    stage = np.array([outcome.order.index(name) for name in found.stage])
    same = stage == outcome.stage
    assert (same | close(turned, spoken)).all()
    np.testing.assert_allclose(found.cost[same], outcome.cost[same], rtol=1e-5)
    for row in np.flatnonzero(same):
        expected = spoken.scores[found.stage[row]][row]
        np.testing.assert_allclose(tasks.possible(found.scores[row]), expected, atol=1e-4)
    assert (found.answer == found.scores.argmax(axis=1)).all()


@st.composite
def scored(draw: st.DrawFn) -> tuple[Graph, Costs]:
    """Any graph, in which some stages continue and hear others, and what it costs."""
    graph = draw(graphs(carries=True))
    return graph, draw(costs(graph))


def recorded(
    graph: Graph, costs: Costs, classes: int = 3, seed: int = 0, said: Said = "logits"
) -> Trace:
    """Synthetic scores of any graph."""
    made = synthetic(150, [stage.name for stage in graph.stages], classes=classes, seed=seed)
    scores = {stage: saying(values, said) for stage, values in made.scores.items()}
    kind = "logits" if said == "masked" else said
    return assemble(graph, costs, scores, labels=made.labels, kind=kind)


def saying(logits: FloatArray, said: Said) -> FloatArray:
    """The same answers as scores of another kind, or with impossible classes."""
    if said == "probabilities":
        return np.asarray(softmax(logits, axis=1))
    if said == "sigmoid":  # unsure, so that few scores are 0 or 1 in float32
        return np.asarray(expit(logits / 2))
    masked = logits.copy()
    if said == "masked":
        masked[::3, -1] = -np.inf
    return masked


@settings(max_examples=100)
@given(
    scored(),
    st.sampled_from([2, 3, 10]),
    st.integers(0, 99),
    st.sampled_from(sorted(FAMILIES)),
    st.floats(0, 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from(SAID),
)
def test_any_plan_answers_from_files_as_its_replay(
    tmp_path_factory: pytest.TempPathFactory,
    graph: tuple[Graph, Costs],
    classes: int,
    seed: int,
    policy: str,
    share: float,
    committees: bool,
    dial: bool,
    said: Said,
) -> None:
    folder = tmp_path_factory.mktemp("export")
    trace = recorded(*graph, classes, seed, said)
    plan = fit(trace, 0.5, policy=policy, committees=committees)
    settings_ = plan.policy.settings
    tradeoff = float(settings_[int(share * (len(settings_) - 1))])
    files = remembering(trace, folder / "parts")
    plan = replace(plan, tradeoff=tradeoff, networks=files)
    other = float(settings_[0]) if dial else None
    with accepted("half-way"):  # a walk may come back to a network
        write_folder(plan, folder / "plan", dial=dial)
    check(plan, trace, Routed(folder / "plan"), other)
    with accepted("--stages"):
        write_file(plan, folder / "plan.onnx", dial=dial)
    check(plan, trace, SingleFile(folder / "plan.onnx"), other)


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_pass_a_stage_need_not_know_what_its_head_hears(
    tmp_path: Path, seed: int
) -> None:
    """In the file of such a stage, rows that pass and rows that answer meet, or pass alone."""
    stages = [Stage("a"), Stage("b"), Stage("c", hears=("b",)), Stage("d", after="c")]
    edges = [("a", "b"), ("a", "c"), ("a", "d")]
    graph = Graph(tuple(stages), edges=tuple(edges), reference="a")
    names = dict.fromkeys(graph.order)
    costs = Costs(body=dict.fromkeys(names, 0.0), head=dict.fromkeys(names, 0.25))
    trace = recorded(graph, costs, seed=seed)
    plan = replace(fit(trace, 0.5, policy="network"), networks=remembering(trace, tmp_path / "of"))
    for number, tradeoff in enumerate(plan.policy.settings[::10]):
        turned = replace(plan, tradeoff=float(tradeoff))
        write_folder(turned, tmp_path / f"{number}")
        check(turned, trace, Routed(tmp_path / f"{number}"))


@contextmanager
def accepted(says: str) -> Iterator[None]:
    """Leaves out examples that are refused with these words, and with no others."""
    try:
        yield
    except PlanError as refused:
        assume(says not in str(refused))
        raise


def test_types_have_the_numbers_of_onnx() -> None:
    assert (operators.FLOAT, operators.INT64) == (TensorProto.FLOAT, TensorProto.INT64)
