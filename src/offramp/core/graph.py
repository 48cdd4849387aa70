"""Stages and which may follow which: a DAG with one root, its reference, and costs along edges."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any, NotRequired, TypedDict

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.checked import checked
from offramp.base.errors import CostError, GraphError
from offramp.core.costs import Costs as Costs
from offramp.core.costs import check_cost, check_sizes

BATCH = "batch"  # the name of the batch dimension in every part of a network
_NAME = re.compile(r"[A-Za-z0-9_-]+")


class StageJson(TypedDict):
    name: str
    after: NotRequired[str | None]
    hears: NotRequired[list[str]]
    answers: NotRequired[bool]


class GraphJson(TypedDict):
    """A graph as JSON values."""

    stages: list[StageJson]
    edges: list[tuple[str, str]]
    reference: str


@checked
@dataclass(frozen=True)
class Stage:
    """A place where a walk can stop with an answer: a body that must run to pass it, and a head."""

    name: str  # [A-Za-z0-9_-]+
    after: str | None = None  # the stage whose body hands its carry to this body; None: the input
    hears: tuple[str, ...] = ()  # earlier stages whose scores its head reads
    answers: bool = True  # False: walks only pass it


def head(stage: str) -> str:
    """The name of a stage's head among the parts of a graph; its body is called as the stage."""
    return f"{stage}.head"


def whole(stage: str) -> str:
    """The name of a stage's network before it was cut, which runs where nothing is routed."""
    return f"{stage}.whole"


@checked
@dataclass(frozen=True)
class Graph:
    """Stages, edges and the reference.

    Args:
        stages: in any order; `order` is the topological one.
        edges: pairs (from, to) of stage names.
        reference: the stage that loss and cost are measured against.

    Raises:
        GraphError: an unknown or repeated name, a cycle, more than one root.
    """

    stages: tuple[Stage, ...]
    edges: tuple[tuple[str, str], ...]
    reference: str

    def __post_init__(self) -> None:
        _check(self)

    def __repr__(self) -> str:
        edges = ", ".join(f"{a}>{b}" for a, b in self.edges)
        return f"<Graph: {edges or self.reference}; reference {self.reference}>"

    @classmethod
    def chain(cls, names: Iterable[str]) -> Graph:
        """Every stage may be followed by the next; the last is the reference."""
        names = list(names)
        if not names:
            raise GraphError("a graph needs at least one stage; none was given.")
        edges = tuple(itertools.pairwise(names))
        return cls(tuple(map(Stage, names)), edges, names[-1])

    @classmethod
    def build(
        cls,
        stages: Iterable[str | Stage],
        edges: str | None = None,
        reference: str | None = None,
    ) -> Graph:
        """The graph that the command line describes: stages, edges such as "a>b,a>c", reference.

        Without `edges` a chain in the order given; without `reference` the last stage.
        """
        given = tuple(s if isinstance(s, Stage) else Stage(s) for s in stages)
        names = [stage.name for stage in given]
        chain = cls.chain(names) if len(set(names)) == len(names) else None
        pairs = parse_edges(edges) if edges is not None else (chain.edges if chain else ())
        return cls(given, pairs, reference or names[-1])

    @cached_property
    def order(self) -> tuple[str, ...]:
        """Names of stages that answer, each after all that may precede it; ties as given."""
        rank = {stage.name: i for i, stage in enumerate(self.stages)}
        sorter = TopologicalSorter(self._predecessors)
        sorter.prepare()
        order: list[str] = []
        ready: list[str] = []
        while sorter.is_active():
            ready = sorted([*ready, *sorter.get_ready()], key=rank.__getitem__)
            order.append(ready.pop(0))
            sorter.done(order[-1])
        return tuple(order)

    @cached_property
    def names(self) -> AnyArray:
        """`order` as an array of strings, to be indexed by position."""
        return np.array(self.order)

    @property
    def root(self) -> str:
        return self.order[0]

    def stage(self, name: str) -> Stage:
        return self._stage[name]

    @cached_property
    def successors(self) -> dict[str, tuple[str, ...]]:
        """For each stage the stages that may follow it, in topological order."""
        return {
            name: tuple(other for other in self.order if (name, other) in self.edges)
            for name in self.order
        }

    @cached_property
    def _predecessors(self) -> dict[str, set[str]]:
        before: dict[str, set[str]] = {s.name: set() for s in self.stages if s.answers}
        for source, target in self.edges:
            before[target].add(source)
        return before

    @cached_property
    def observed(self) -> dict[str, tuple[str, ...]]:
        """For each stage those passed on every path to it, itself last (its dominators)."""
        found: dict[str, frozenset[str]] = {}
        for name in self.order:
            paths = [found[before] for before in self._predecessors[name]]
            shared = frozenset.intersection(*paths) if paths else frozenset[str]()
            found[name] = shared | {name}
        return {name: tuple(s for s in self.order if s in found[name]) for name in self.order}

    def first(self, name: str) -> str:
        """The stage that the network of `name` begins with."""
        after = self._stage[name].after
        return name if after is None else self.first(after)

    def bodies(self, name: str) -> tuple[str, ...]:
        """The stages whose bodies must have run for `name` to answer, itself included."""
        return tuple(part for part in self.parts(name) if part in self._stage)

    def parts(self, name: str) -> tuple[str, ...]:
        """The bodies and heads that must have run for `name` to answer, in order.

        A body is called as its stage, a head as `head` says.
        """
        return self._parts[name]

    @cached_property
    def _parts(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        passed: dict[str, tuple[str, ...]] = {}
        for stage in self.stages:  # listed after those it continues and hears
            before = () if stage.after is None else passed[stage.after]
            passed[stage.name] = (*before, stage.name)
            heard = [part for name in stage.hears for part in found[name]]
            found[stage.name] = tuple(
                dict.fromkeys((*heard, *passed[stage.name], head(stage.name)))
            )
        return found

    @cached_property
    def _stage(self) -> dict[str, Stage]:
        return {stage.name: stage for stage in self.stages}

    @cached_property
    def shared(self) -> frozenset[str]:
        """The parts that several stages need: only these can be met twice by one walk."""
        needed = [part for stage in self.stages for part in self.parts(stage.name)]
        return frozenset(part for part in needed if needed.count(part) > 1)

    def ran(self, name: str) -> frozenset[str]:
        """The parts that have run, on every path, once `name` has answered."""
        return frozenset(part for stage in self.observed[name] for part in self.parts(stage))

    def only(self, names: Iterable[str], edges: Iterable[tuple[str, str]], end: str) -> Graph:
        """A graph in which some stages answer; others are passed where those need them.

        Args:
            names: of the stages that answer.
            edges: between them.
            end: the reference.
        """
        answering = set(names)
        needed = {part for name in answering for part in self.parts(name)}
        stages = tuple(
            replace(
                stage,
                hears=stage.hears if head(stage.name) in needed else (),
                answers=stage.name in answering,
            )
            for stage in self.stages
            if stage.name in needed
        )
        return Graph(stages, tuple(edges), end)

    def without(self, name: str) -> Graph:
        """The graph in which a stage gives no answers: what led to it leads to what followed it.

        Raises:
            GraphError: it is the reference, or the root of several branches.
        """
        before, after = self._predecessors[name], self.successors[name]
        if name == self.reference or (not before and len(after) != 1):
            raise GraphError(f"the graph needs stage '{name}'.")
        kept = [edge for edge in self.edges if name not in edge]
        joined = [(a, b) for a in sorted(before) for b in after if (a, b) not in kept]
        others = [stage for stage in self.order if stage != name]
        return self.only(others, [*kept, *joined], self.reference)

    def step_cost(self, costs: Costs, target: str, run: Collection[str] = ()) -> float:
        """The cost of reaching and answering at `target`, given the parts already `run`."""
        return math.fsum(costs.part(name) for name in self.parts(target) if name not in run)

    def alone(self, costs: Costs, name: str) -> float:
        """The cost of running the network of one stage alone: uncut, where it can run so.

        It is the one price of a network that nothing is routed to, wherever that is counted.
        """
        return costs.whole[name] if name in costs.whole else self.step_cost(costs, name)

    def reference_cost(self, costs: Costs) -> float:
        """The cost of running the reference alone."""
        return self.alone(costs, self.reference)

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The last stage of every network that was cut: alone, it runs as it was before."""
        continued = {stage.after for stage in self.stages}
        return tuple(s.name for s in self.stages if s.after and s.name not in continued)

    def check_costs(self, costs: Costs) -> Costs:
        """`costs`, with the stages in the order of the graph.

        Raises:
            CostError: a stage without cost, an unknown stage, a cost that is negative or no number,
                or a stage that costs nothing at all.
        """
        names = [stage.name for stage in self.stages]
        for part, values in (("body", costs.body), ("head", costs.head), ("whole", costs.whole)):
            unknown = sorted(set(values) - set(names))
            if unknown:
                raise CostError(
                    f"costs are given for unknown stage '{unknown[0]}'; "
                    f"the stages are {', '.join(names)}."
                )
            for name in values if part == "whole" else names:
                check_cost(name, part, values.get(name))
        for name in names:
            if min(self.step_cost(costs, name), self.alone(costs, name)) <= 0:
                raise CostError(f"stage '{name}' costs nothing; every stage must cost something.")
        return replace(
            costs,
            body={name: float(costs.body[name]) for name in names},
            head={name: float(costs.head[name]) for name in names},
            whole={name: float(costs.whole[name]) for name in names if name in costs.whole},
            at={batch: self.check_costs(there) for batch, there in check_sizes(costs).items()},
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "stages": [{**asdict(stage), "hears": list(stage.hears)} for stage in self.stages],
            "edges": [list(edge) for edge in self.edges],
            "reference": self.reference,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Graph:
        """The inverse of `to_json`. Raises GraphError where the value is no graph."""
        try:
            stages = tuple(
                Stage(s["name"], s.get("after"), tuple(s.get("hears", ())), s.get("answers", True))
                for s in value["stages"]
            )
            edges = tuple((str(a), str(b)) for a, b in value["edges"])
            return cls(stages, edges, value["reference"])
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise GraphError(f"this is not the description of a graph: {problem!r}.") from None


def parse_edges(text: str) -> tuple[tuple[str, str], ...]:
    """ "a>b,b>c" as pairs; "a>b>c" is short for both. Empty text is no edge."""
    edges: list[tuple[str, str]] = []
    for path in filter(None, (part.strip() for part in text.split(","))):
        names = [name.strip() for name in path.split(">")]
        if len(names) < 2 or not all(names):
            raise GraphError(f"edge '{path}' is not of the form 'from>to'.")
        edges += itertools.pairwise(names)
    return tuple(edges)


def _check(graph: Graph) -> None:
    names = [stage.name for stage in graph.stages]
    if not names:
        raise GraphError("a graph needs at least one stage; none was given.")
    for name in names:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise GraphError(f"stage name {name!r} may only hold letters, digits, '_' and '-'.")
        if names.count(name) > 1:
            raise GraphError(f"stage '{name}' is given twice; every stage needs its own name.")
    answering = [stage.name for stage in graph.stages if stage.answers]
    if graph.reference not in answering:
        raise GraphError(
            f"the reference '{graph.reference}' is not a stage; "
            f"the stages are {', '.join(answering)}."
        )
    _check_edges(graph, names)


def _check_edges(graph: Graph, names: list[str]) -> None:
    answering = [stage.name for stage in graph.stages if stage.answers]
    for source, target in graph.edges:
        for name in (source, target):
            if name not in answering:
                raise GraphError(
                    f"edge '{source}>{target}' names '{name}', which is not a stage; "
                    f"the stages are {', '.join(answering)}."
                )
    if len(set(graph.edges)) < len(graph.edges):
        raise GraphError("an edge is given twice.")
    try:
        graph.order  # noqa: B018 - computing it finds a cycle
    except CycleError as cycle:
        path = ">".join(reversed(cycle.args[1]))
        raise GraphError(f"the edges go in a circle: {path}. Remove one of them.") from None
    roots = [name for name in answering if not graph._predecessors[name]]
    if len(roots) > 1:
        raise GraphError(
            f"stages {' and '.join(repr(r) for r in roots)} follow no other stage, so the graph "
            "is disconnected or has several roots. Every walk starts at one root: add an edge."
        )
    _check_carries(graph, names)


def _check_carries(graph: Graph, names: list[str]) -> None:
    for stage in graph.stages:
        for other in (stage.after, *stage.hears):
            if other is None:
                continue
            if other not in names:
                raise GraphError(f"stage '{stage.name}' continues unknown stage '{other}'.")
            if names.index(other) >= names.index(stage.name):
                raise GraphError(f"stage '{stage.name}' must be listed after '{other}'.")
