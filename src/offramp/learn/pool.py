"""Who takes part: which stages of a pool, and with which skips, on recorded scores.

Stages come by cost, the cheapest first, and may be skipped on the way to the reference.

The reference always takes part, last: it is where walks end that nothing cheaper can answer. A
stage joins where walks by one shared threshold then cost less on held-out examples, one after
another, and may be left out again later; skips are tried with the learned policy, and so is the
chain of all, which is taken where it costs less than what was found. Stages of one network follow
one another, as their bodies do.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from offramp.base.progress import Progress, silent
from offramp.core.graph import Graph
from offramp.core.trace import Trace
from offramp.learn.teach import DEFAULT, Ways
from offramp.policies import family

_T = TypeVar("_T")
_WORTH = 0.002  # of the reference's cost that a change must save, on held-out examples
_SAMPLE = 1500  # examples to search on, at most
_QUICK, _OWN = "margin", "learned"  # policies that tell who takes part, and which skips pay


@dataclass(frozen=True)
class Found:
    """The graph that costs least, and what was tried on the way."""

    graph: Graph
    tried: Mapping[str, float]  # policy: edges -> mean cost at the levels, over the reference's


def search(trace: Trace, ways: Ways = DEFAULT, progress: Progress | None = None) -> Found:
    """The stages that take part, in a chain with skips that pay; the edges of `trace` do not count.

    Args:
        trace: examples to learn from, with every candidate as a stage.
        ways: what counts, and whether stages may answer together.
        progress: called with what is tried, how many of its graphs are, and how many there are.
    """
    judge = _Judge(trace.take(trace.sample(_SAMPLE, ways.seed)), ways, progress or silent)
    chain = _grown(judge)
    graph = _skipping(judge, judge.graph(chain))
    everyone = judge.graph(_ordered(trace, trace.graph.order))
    judge.tell("trying all stages", 0, 1)
    if judge.cost(everyone, _OWN) < judge.cost(graph, _OWN) - _WORTH:
        graph = everyone
    return Found(graph, dict(judge.known))


@dataclass
class _Judge:
    """What graphs cost on held-out examples; each is tried once."""

    trace: Trace
    ways: Ways
    tell: Progress
    known: dict[str, float] = field(default_factory=dict)

    def graph(self, chain: Sequence[str], skips: Iterable[tuple[str, str]] = ()) -> Graph:
        edges = [*itertools.pairwise(chain), *skips]
        return self.trace.graph.only(chain, edges, self.trace.graph.reference)

    def cost(self, graph: Graph, policy: str = _QUICK) -> float:
        """Mean cost at the levels, over the reference's; 1 where the reference is alone."""
        if len(graph.order) == 1:
            return 1.0
        name = f"{policy}: {edges_of(graph)}"
        if name not in self.known:
            lesson = self.ways.lesson(replace(self.trace, graph=graph))
            self.known[name] = lesson.held_out(family(policy), self.ways.levels)
        return self.known[name]

    def of_chain(self, chain: Sequence[str]) -> float:
        return self.cost(self.graph(chain))

    def best(self, what: str, graphs: Mapping[_T, Graph], policy: str = _QUICK) -> _T:
        """The key of the graph that costs least, the first of several."""
        costs: dict[_T, float] = {}
        for number, (key, graph) in enumerate(graphs.items()):
            self.tell(what, number, len(graphs))
            costs[key] = self.cost(graph, policy)
        return min(costs, key=costs.__getitem__)


def edges_of(graph: Graph) -> str:
    """The edges as the command line takes them."""
    return ",".join(f"{a}>{b}" for a, b in graph.edges)


def _grown(judge: _Judge) -> tuple[str, ...]:
    """Stages join and leave, one at a time, while that saves enough."""
    graph = judge.trace.graph
    others = [name for name in graph.order if name != graph.reference]
    chain: tuple[str, ...] = (graph.reference,)
    present = 1.0
    while True:
        more = [_ordered(judge.trace, (*chain, name)) for name in others if name not in chain]
        fewer = [tuple(s for s in chain if s != name) for name in chain[:-1]]
        changed = [c for c in (*more, *fewer) if len(c) > 1]
        if not changed:
            return chain
        best = judge.best(f"trying {len(chain) + 1} stages", {c: judge.graph(c) for c in changed})
        if judge.of_chain(best) > present - _WORTH:
            return chain
        chain, present = best, judge.of_chain(best)


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


def _skipping(judge: _Judge, graph: Graph) -> Graph:
    """With the skips to the reference that save enough, one after another."""
    chain = graph.order
    skips: list[tuple[str, str]] = []
    while left := [(name, chain[-1]) for name in chain[:-2] if (name, chain[-1]) not in skips]:
        tried = {skip: judge.graph(chain, [*skips, skip]) for skip in left}
        best = judge.best("trying skips", tried, _OWN)
        if judge.cost(tried[best], _OWN) > judge.cost(graph, _OWN) - _WORTH:
            break
        graph = tried[best]
        skips.append(best)
    return graph
