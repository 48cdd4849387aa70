"""Topology, costs along edges, and graphs that are none."""

from __future__ import annotations

import pytest

from offramp.base.errors import CostError, GraphError
from offramp.core.graph import Costs, Graph, Stage, parse_edges


def flat(**costs: float) -> Costs:
    return Costs(costs, dict.fromkeys(costs, 0.0))


def test_without_edges_stages_form_a_chain_and_the_last_is_the_reference() -> None:
    graph = Graph.build(["a", "b", "c"])
    assert graph.edges == (("a", "b"), ("b", "c"))
    assert graph.reference == "c"
    assert graph.root == "a"


def test_skips_and_joined_branches() -> None:
    graph = Graph.build("abcd", "a>b>d,a>c>d", "d")
    assert graph.successors == {"a": ("b", "c"), "b": ("d",), "c": ("d",), "d": ()}
    assert graph.observed["d"] == ("a", "d")


def test_passing_a_stage_does_not_run_its_head() -> None:
    stages = (Stage("e1"), Stage("e2", after="e1"), Stage("e3", after="e2"))
    graph = Graph(stages, (("e1", "e2"), ("e1", "e3"), ("e2", "e3")), "e3")
    costs = Costs({"e1": 40, "e2": 41, "e3": 42}, {"e1": 2, "e2": 1, "e3": 0.5})
    assert graph.step_cost(costs, "e3", {"e1"}) == 41 + 42 + 0.5
    assert graph.step_cost(costs, "e2", {"e1"}) == 41 + 1
    assert graph.reference_cost(costs) == 40 + 41 + 42 + 0.5


def test_edges_may_be_written_as_paths() -> None:
    assert parse_edges("a>b>c, a>c") == (("a", "b"), ("b", "c"), ("a", "c"))


@pytest.mark.parametrize(
    ("names", "edges", "reference", "says"),
    [
        ([], None, None, "at least one stage"),
        (["a", "a"], None, None, "given twice"),
        (["a b"], None, None, "may only hold"),
        (["a", "b"], None, "c", "'c' is not a stage"),
        (["a", "b"], "a>c", None, "names 'c'"),
        (["a", "b"], "a>b,a>b", None, "edge is given twice"),
        (["a", "b"], "a-b", None, "not of the form"),
        (["a", "b", "c"], "a>b,b>c,c>b", None, "circle"),
        (["a", "b"], "a>a,a>b", None, "circle"),
        (["a", "b", "c"], "a>b", None, "disconnected"),
        (["a", "b", "c"], "a>c,b>c", None, "several roots"),
    ],
)
def test_what_is_no_graph_is_refused(
    names: list[str], edges: str | None, reference: str | None, says: str
) -> None:
    with pytest.raises(GraphError, match=says):
        Graph.build(names, edges, reference)


@pytest.mark.parametrize("value", [{}, {"stages": 3}, {"stages": [], "edges": []}])
def test_damaged_json_is_no_graph(value: dict[str, object]) -> None:
    with pytest.raises(GraphError):
        Graph.from_json(value)


@pytest.mark.parametrize(
    ("costs", "says"),
    [
        (flat(a=1), "'b' has no body cost"),
        (flat(a=1, b=-1), "at least 0"),
        (flat(a=1, b=float("nan")), "at least 0"),
        (flat(a=1, b=float("inf")), "at least 0"),
        (flat(a=1, b=1, c=1), "unknown stage 'c'"),
        (flat(a=0, b=1), "'a' costs nothing"),
    ],
)
def test_costs_that_do_not_fit_are_refused(costs: Costs, says: str) -> None:
    with pytest.raises(CostError, match=says):
        Graph.chain("ab").check_costs(costs)
