"""Which bodies a walk passes in which order, worked out before anything runs.

A walk over a graph is unrolled into blocks, one for each body. A block lies inside the block of the
body that every walk to it has passed, so that whatever it reads has been made around it; blocks
that lie side by side run after one another. How far an example has come is a single number, its
path: it says where the example stops, or stands, and what has run for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter

from offramp.base.errors import PlanError
from offramp.core.graph import Costs, Graph, head

_MOST = 4096  # paths


@dataclass(frozen=True)
class Path:
    """Where an example is, and the parts that have run by the time it answers there."""

    stage: str
    ran: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Block:
    """One body, what is decided after it, and the blocks that only examples from here reach."""

    stage: str
    entering: tuple[int, ...]  # numbers of the paths on which examples come to this body
    saying: tuple[int, ...]  # those that need the scores of this stage, then or later
    answering: tuple[int, ...]  # those that stand at this stage
    inside: tuple[Block, ...] = ()  # in the order in which they run

    def all(self) -> list[Block]:
        """This block and all inside it, in the order in which they run."""
        return [self, *itertools.chain.from_iterable(block.all() for block in self.inside)]


@dataclass(frozen=True)
class Itinerary:
    """The blocks of a graph, and the paths through it.

    Raises:
        PlanError: a walk may come back to a network that it has left half-way, or there are too
            many paths.
    """

    graph: Graph  # that a policy walks

    @cached_property
    def paths(self) -> tuple[Path, ...]:
        """Every path, in the order of their stages."""
        graph = self.graph
        found = {Path(graph.root, frozenset(graph.parts(graph.root)))}
        for stage in graph.order:
            here = [path for path in found if path.stage == stage]
            found |= {_onward(graph, path, to) for path in here for to in graph.successors[stage]}
            if len(found) > _MOST:
                raise PlanError(
                    f"a walk over this graph can take more than {_MOST} paths, too many for one "
                    "file. Leave out some of the edges that skip stages, and fit again."
                )
        rank = {stage: i for i, stage in enumerate(graph.order)}
        return tuple(sorted(found, key=lambda path: (rank[path.stage], sorted(path.ran))))

    @cached_property
    def number(self) -> dict[Path, int]:
        return {path: number for number, path in enumerate(self.paths)}

    def next(self, path: int) -> tuple[int, ...]:
        """The path after each action: stopping, which changes nothing, then each successor."""
        at = self.paths[path]
        further = [_onward(self.graph, at, to) for to in self.graph.successors[at.stage]]
        return (path, *(self.number[found] for found in further))

    def costs(self, costs: Costs) -> list[float]:
        """What an example that stops has cost, for each path."""
        if len(self.paths) == 1:  # nothing is routed: the network as it is, uncut
            return [self.graph.alone(costs, self.graph.root)]
        return [math.fsum(costs.part(part) for part in path.ran) for path in self.paths]

    @cached_property
    def root(self) -> Block:
        """The block that contains all others."""
        leads = _leads(self.graph)
        rank = {stage.name: i for i, stage in enumerate(self.graph.stages)}
        try:
            order = _ordered(leads, rank)
        except CycleError:
            raise PlanError(
                "a walk over this graph may leave a network half-way and come back to it later, "
                "which one file cannot do. Change the edges, and fit again."
            ) from None
        passed: dict[str, frozenset[str]] = {}
        for stage in order:
            before = [passed[other] for other in leads[stage]]
            passed[stage] = (frozenset.intersection(*before) if before else frozenset()) | {stage}
        around = {
            stage: max(passed[stage] - {stage}, key=order.index)
            for stage in order
            if len(passed[stage]) > 1
        }
        return self._block(order[0], order, around)

    def _block(self, stage: str, order: list[str], around: dict[str, str]) -> Block:
        inside = [other for other in order if around.get(other) == stage]
        paths = self.paths
        entering = tuple(sorted({n for n, new in self._steps if stage in new}))
        return Block(
            stage=stage,
            entering=entering,
            saying=tuple(n for n in entering if head(stage) in self._ahead[n]),
            answering=tuple(n for n in entering if paths[n].stage == stage),
            inside=tuple(self._block(other, order, around) for other in inside),
        )

    @cached_property
    def _ahead(self) -> list[frozenset[str]]:
        """What has run, or may still come to run, on walks that come by each path."""
        found: list[frozenset[str]] = [frozenset()] * len(self.paths)
        for number in reversed(range(len(self.paths))):
            further = [found[other] for other in self.next(number)[1:]]
            found[number] = self.paths[number].ran.union(*further)
        return found

    @cached_property
    def _steps(self) -> set[tuple[int, frozenset[str]]]:
        """Every path, with what must still run to get there from where examples come from."""
        found = {(0, self.paths[0].ran)}
        for number, path in enumerate(self.paths):
            for further in self.next(number)[1:]:
                found.add((further, self.paths[further].ran - path.ran))
        return found


def _onward(graph: Graph, path: Path, to: str) -> Path:
    return Path(to, path.ran | frozenset(graph.parts(to)))


def _leads(graph: Graph) -> dict[str, set[str]]:
    """For each body those that a walk may come from, heads aside."""
    found: dict[str, set[str]] = {}
    starts: list[tuple[str | None, str]] = [(None, graph.root), *graph.edges]
    for source, target in starts:
        ran: Collection[str] = () if source is None else graph.ran(source)
        at = source
        for body in graph.bodies(target):
            if body not in ran:
                found.setdefault(body, set()).update({at} if at else ())
                at = body
    return found


def _ordered(leads: dict[str, set[str]], rank: dict[str, int]) -> list[str]:
    sorter = TopologicalSorter(leads)
    sorter.prepare()
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=rank.__getitem__)
        order.append(ready.pop(0))
        sorter.done(order[-1])
    return order
