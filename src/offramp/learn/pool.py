"""Who may take part: the graphs that the given edges allow, once some stages are left out.

What led to a stage that is left out leads to what followed it. The reference always takes part,
last: it is where walks end that nothing cheaper can answer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from offramp.base.errors import GraphError
from offramp.core.graph import Graph
from offramp.core.trace import Trace

FEW_STAGES = 5  # stages, up to which every subset is tried


@dataclass(frozen=True)
class Pool:
    """Stages, and which may follow which."""

    graph: Graph

    @classmethod
    def of(cls, trace: Trace) -> Pool:
        """The stages of a trace, each of which may follow any cheaper one; edges do not count.

        Stages of one network follow one another, as their bodies do.
        """
        names = _ordered(trace, trace.graph.order)
        pairs = itertools.combinations(names, 2)
        return cls(trace.graph.only(names, pairs, trace.graph.reference))

    @cached_property
    def others(self) -> tuple[str, ...]:
        """The stages from which walks may come to the reference."""
        reference = self.graph.reference
        return tuple(s for s in self.graph.order if reference in self._after[s])

    @cached_property
    def _after(self) -> dict[str, frozenset[str]]:
        """For each stage those that walks may come to from there."""
        found: dict[str, frozenset[str]] = {}
        for stage in reversed(self.graph.order):
            after = self.graph.successors[stage]
            found[stage] = frozenset(after).union(*(found[s] for s in after))
        return found

    def everyone(self) -> Graph:
        """All stages: in a chain where the edges allow it, else as given."""
        return self.chain(self.others) or self.graph

    def chain(self, names: Iterable[str]) -> Graph | None:
        """Some stages and the reference, one after the other; None: the edges do not allow it."""
        taking = {*names, self.graph.reference}
        order = [stage for stage in self.graph.order if stage in taking]
        pairs = list(itertools.pairwise(order))
        if any(b not in self._after[a] for a, b in pairs):
            return None
        return self.graph.only(order, pairs, self.graph.reference)

    def whole(self, names: Iterable[str]) -> Graph | None:
        """Some stages and the reference with all edges between them; None: they have no root."""
        found, taking = self.graph, {*names, self.graph.reference}
        try:
            for stage in self.graph.order:
                found = found if stage in taking else found.without(stage)
        except GraphError:
            return None
        return found

    def of_stages(self, names: Iterable[str]) -> Graph | None:
        """Some stages and the reference: in a chain where the edges allow it."""
        taking = frozenset(names)
        return self.chain(taking) or self.whole(taking)

    def skips(self, graph: Graph) -> list[tuple[str, str]]:
        """The edges that the given ones allow between the stages of a graph, and it lacks."""
        whole = self.whole(graph.order)
        return [edge for edge in whole.edges if edge not in graph.edges] if whole else []

    def subsets(self) -> Iterator[tuple[str, ...]]:
        """Some of the stages besides the reference, in order: the fewest first."""
        for size in range(1, len(self.others) + 1):
            yield from itertools.combinations(self.others, size)


def with_edges(graph: Graph, edges: Iterable[tuple[str, str]]) -> Graph:
    """A graph with more edges."""
    return graph.only(graph.order, [*graph.edges, *edges], graph.reference)


def edges_of(graph: Graph) -> str:
    """The edges as the command line takes them."""
    return ",".join(f"{a}>{b}" for a, b in graph.edges)


def _ordered(trace: Trace, names: Iterable[str]) -> tuple[str, ...]:
    """By cost: networks by what their deepest stage costs alone, the reference's own last."""
    graph, names = trace.graph, list(names)
    alone = {name: graph.alone(trace.costs, name) for name in names}
    deepest: dict[str, float] = {}
    for name in names:
        network = graph.first(name)
        last = np.inf if name == graph.reference else alone[name]
        deepest[network] = max(deepest.get(network, 0.0), last)
    return tuple(sorted(names, key=lambda name: (deepest[graph.first(name)], alone[name])))
