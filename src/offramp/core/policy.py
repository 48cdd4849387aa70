"""What a policy is: evidence from what has been seen, then a choice at a setting of its dial."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Protocol, TypeVar

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.core import tasks
from offramp.core.graph import Graph
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import Kind, Losses
from offramp.core.trace import Trace

STOP = 0  # the action that returns the present answer; action i goes to the i-th successor
TRADEOFFS = np.geomspace(1000.0, 1.0, 60)  # the dial of everything that weighs loss against cost


@dataclass(frozen=True)
class Seen:
    """What a walk has seen of the examples that are now at `stage`.

    Only stages on every path to `stage` can be asked for (`Graph.observed`), so that what a policy
    observes does not depend on the path an example took.
    """

    stage: str
    rows: IntArray  # (n,) ascending: which examples of the batch, or of the trace
    said: Mapping[str, tuple[IntArray, FloatArray]]  # stage -> its rows, its scores of them
    kinds: Mapping[str, Kind]
    _: KW_ONLY
    task: Task = SINGLE  # what scores mean

    def scores(self, stage: str | None = None) -> FloatArray:
        """The scores of `stage` (the present one by default) for `rows`, (n, classes)."""
        rows, scores = self.said[stage or self.stage]
        if len(rows) == len(self.rows):
            return scores
        return scores[np.searchsorted(rows, self.rows)]

    def log_probabilities(self, stage: str | None = None) -> FloatArray:
        """The logarithms of the probabilities of `stage` for `rows`, (n, classes)."""
        return tasks.log_probabilities(self.scores(stage), self.kinds[stage or self.stage])

    def probabilities(self, stage: str | None = None) -> FloatArray:
        """The probabilities of `stage` for `rows`, float64 (n, classes), a new array."""
        return tasks.probabilities(self.scores(stage), self.kinds[stage or self.stage])

    def answers(self, stage: str | None = None) -> AnyArray:
        """What `stage` would answer for `rows`, (n,) or (n, m)."""
        return self.task.answers(self.scores(stage), self.kinds[stage or self.stage])

    def sure(self, stage: str | None = None) -> FloatArray:
        """How sure `stage` is of `rows`, (n,) in [0, 1]: of one label the highest probability."""
        return self.task.sure(self.scores(stage), self.kinds[stage or self.stage])

    def observations(self, stage: str | None = None) -> FloatArray:
        """What the task observes after `stage` of `rows`, (n, k)."""
        return self.task.observations(self.scores(stage), self.kinds[stage or self.stage])

    def agreement(self, stage: str, other: str | None = None) -> FloatArray:
        """How far answers of `stage` and another, by default the present one, agree, (n,)."""
        return self.task.agreement(self.answers(stage), self.answers(other))


def seen_by_all(trace: Trace, stage: str, graph: Graph | None = None) -> Seen:
    """What a walk of `graph`, the trace's own by default, has seen at `stage` of every example."""
    rows = np.arange(trace.examples)
    said = {v: (rows, trace.outputs[v]) for v in (graph or trace.graph).observed[stage]}
    return Seen(stage, rows, said, trace.kinds, task=trace.task)


class Policy(Protocol):
    """After each stage: stop, or which stage next.

    Deciding is in two steps, so that a dial can be turned without looking again: `evidence` is what
    the policy distils from what has been seen, whatever the setting; `choose` reads the dial.
    """

    @property
    def graph(self) -> Graph:
        """The stages it walks, which may be fewer than a trace holds."""

    @property
    def settings(self) -> FloatArray:
        """The positions of its dial, (settings,), safest and dearest first."""

    def evidence(self, seen: Seen) -> FloatArray:
        """What it distils at `seen.stage`, (n, k) with any k of its own."""

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        """The action for each row of `evidence`, (n,): STOP, or i for the i-th successor."""


@dataclass(frozen=True)
class Wrapped:
    """What a policy keeps whose evidence is come by in another way, which a subclass says."""

    policy: Policy

    @property
    def graph(self) -> Graph:
        return self.policy.graph

    @property
    def settings(self) -> FloatArray:
        return self.policy.settings

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return self.policy.choose(stage, evidence, setting)


P = TypeVar("P", bound=Policy)
Learner = Callable[[Trace, Losses], P]
"""Learns or tunes a policy on a trace and its losses."""


def backbone(graph: Graph) -> Graph:
    """The chain that rules walk: from the root to the first of the successors, and so on."""
    names = [graph.root]
    while graph.successors[names[-1]]:
        names.append(graph.successors[names[-1]][0])
    return path(graph, names)


def path(graph: Graph, names: list[str]) -> Graph:
    """The chain of some stages of `graph`, with what they continue; the last is its reference."""
    return graph.only(names, itertools.pairwise(names), names[-1])


@dataclass(frozen=True)
class Static:
    """Always the answer of one stage, run alone."""

    graph: Graph
    settings: FloatArray

    @classmethod
    def of(cls, graph: Graph, stage: str) -> Static:
        return cls(path(graph, [stage]), np.array([np.nan]))

    def evidence(self, seen: Seen) -> FloatArray:
        return np.empty((len(seen.rows), 0))

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return np.full(len(evidence), STOP)
