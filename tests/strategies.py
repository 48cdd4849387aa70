"""Arbitrary graphs, costs and traces for laws."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from offramp.core.graph import Costs, Graph, Stage
from offramp.core.trace import Trace, assemble

amounts = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0])


@st.composite
def graphs(draw: Any, carries: bool = False) -> Graph:
    """A DAG of one to five stages with one root; with `carries` some continue and hear others."""
    n = draw(st.integers(1, 5))
    names = [f"s{i}" for i in range(n)]
    edges = []
    for later in range(1, n):
        before = draw(st.sets(st.integers(0, later - 1), min_size=1))
        edges += [(names[b], names[later]) for b in sorted(before)]
    stages = [
        Stage(name, draw(st.sampled_from([None, *names[:i]])), draw(_some(names[:i])))
        if carries
        else Stage(name)
        for i, name in enumerate(names)
    ]
    return Graph(tuple(stages), tuple(edges), draw(st.sampled_from(names)))


def _some(names: list[str]) -> st.SearchStrategy[tuple[str, ...]]:
    chosen = st.sets(st.sampled_from(names), max_size=2) if names else st.just(set[str]())
    return chosen.map(lambda found: tuple(sorted(found)))


@st.composite
def costs(draw: Any, graph: Graph) -> Costs:
    body = {s.name: draw(amounts) for s in graph.stages}
    head = {s.name: draw(amounts) + 0.25 for s in graph.stages}
    return Costs(body, head, "unit")


@st.composite
def traces(draw: Any, carries: bool = False, most: int = 12) -> Trace:
    """Logits that are multiples of a quarter, so that equal scores come up."""
    graph = draw(graphs(carries))
    examples = draw(st.integers(1, most))
    classes = draw(st.integers(2, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**16)))
    scores = {
        stage.name: np.round(random.normal(size=(examples, classes)) * 4) / 4
        for stage in graph.stages
    }
    labels = random.integers(0, classes, examples)
    return assemble(graph, draw(costs(graph)), scores, labels=labels, kind="logits")
