"""Policies of comparison: one stage always, and the oracles that see the labels."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.example_costs import ExampleCosts, steps
from offramp.core.graph import Costs, Graph
from offramp.core.policy import Seen
from offramp.core.tasks import Losses
from offramp.core.trace import Trace

_NEVER = 1e9  # a tradeoff at which nobody stops where the excess is 1
_TRADEOFFS = np.geomspace(1000.0, 0.001, 61)  # to where even a certain gain is not worth its cost


@dataclass(frozen=True, kw_only=True)
class ExactOracle:
    """Sees the labels; minimises cost + tradeoff * excess loss of each example along the graph."""

    graph: Graph
    settings: FloatArray  # tradeoffs
    excess: FloatArray  # (examples, stages) in the order of the graph
    costs: Costs  # divided by the reference's
    _: KW_ONLY
    each: ExampleCosts | None = None  # likewise, where they differ by example

    @classmethod
    def fit(cls, trace: Trace, losses: Losses) -> ExactOracle:
        graph, unit = trace.graph, trace.reference_cost
        costs = Costs(
            {name: cost / unit for name, cost in trace.costs.body.items()},
            {name: cost / unit for name, cost in trace.costs.head.items()},
        )
        excess = np.stack([losses.excess(stage) for stage in graph.order], axis=1)
        each = trace.example_costs and {s: c / unit for s, c in trace.example_costs.items()}
        return cls(graph=graph, settings=_TRADEOFFS, excess=excess, costs=costs, each=each)

    def evidence(self, seen: Seen) -> FloatArray:
        """Excess losses, and after them what bodies cost where that differs."""
        each = [cost[seen.rows] for cost in (self.each or {}).values()]
        return np.column_stack([self.excess[seen.rows], *each])

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        run = self.graph.ran(stage)
        return self._best(stage, evidence, setting, run)[1]

    def _best(
        self, stage: str, evidence: FloatArray, tradeoff: float, run: frozenset[str]
    ) -> tuple[FloatArray, IntArray]:
        """The lowest cost-to-go from `stage`, and the action that has it, (n,) each."""
        choices = [tradeoff * evidence[:, self.graph.order.index(stage)]]
        for successor in self.graph.successors[stage]:
            step = self._step(successor, evidence, run)
            further = run | set(self.graph.parts(successor))
            choices.append(step + self._best(successor, evidence, tradeoff, further)[0])
        values = np.stack(choices)
        return values.min(axis=0), values.argmin(axis=0)

    def _step(
        self, successor: str, evidence: FloatArray, run: frozenset[str]
    ) -> FloatArray | float:
        """What going on to a stage costs, (n,) where it differs."""
        if self.each is None:
            return self.graph.step_cost(self.costs, successor, run)
        own = dict(zip(self.each, evidence.T[len(self.graph.order) :], strict=True))
        return steps(self.graph, own, successor, run)


@dataclass(frozen=True)
class SoftOracle:
    """Sees the labels; stops at the first stage whose answer is right in it and all later ones.

    It pays for the stages it passes, and where stages can be skipped it takes the cheapest way to
    one such stage, or to the end. An answer is right where its loss is 0.
    """

    graph: Graph
    settings: FloatArray
    way: ExactOracle  # the cheapest one, where stopping anywhere else costs more than all stages

    @classmethod
    def fit(cls, trace: Trace, losses: Losses) -> SoftOracle:
        graph = trace.graph
        settled: dict[str, FloatArray] = {}
        for stage in reversed(graph.order):
            later = [settled[after] for after in graph.successors[stage]]
            settled[stage] = np.min([losses.values[stage] == 0, *later], axis=0).astype(float)
        left = {stage: 1.0 - right for stage, right in settled.items()}
        ends = {stage: np.zeros(trace.examples) for stage in left if not graph.successors[stage]}
        exact = ExactOracle.fit(trace, losses)
        excess = np.stack([{**left, **ends}[stage] for stage in graph.order], axis=1)
        return cls(graph, np.array([np.nan]), replace(exact, excess=excess))

    def evidence(self, seen: Seen) -> FloatArray:
        return self.way.evidence(seen)

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return self.way.choose(stage, evidence, _NEVER)
