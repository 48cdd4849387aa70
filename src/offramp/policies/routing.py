"""Cascade routing: after each stage go on to wherever the estimated gain is worth the cost most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from offramp.arrays import FloatArray, IntArray
from offramp.graph import Graph
from offramp.policies.protocol import STOP, Seen
from offramp.policies.rules import TRADEOFFS, seen_by_all
from offramp.policies.statistics import logistic, sureness
from offramp.tasks import Losses
from offramp.trace import Trace


@dataclass(frozen=True)
class Routing:
    """Takes the action whose best target has the highest `tradeoff * quality - cost`.

    A target is the present stage, or one that can be reached from it by the edges; an action is
    the first step towards it. Quality is the chance of a right answer, given what has been seen.

    Source: Dekoninck et al. 2025, A unified approach to routing and cascading for LLMs, section 4;
    their mixing of two settings to meet a cost exactly is what the hull of the frontier draws.
    """

    graph: Graph
    settings: FloatArray  # tradeoffs
    weights: Mapping[str, FloatArray]  # stage -> (targets, 1 + features), the present stage first
    actions: Mapping[str, IntArray]  # stage -> (targets,)
    costs: Mapping[str, FloatArray]  # stage -> (targets,), divided by the reference's
    kind: str = "cascade-routing"

    @classmethod
    def fit(cls, trace: Trace, losses: Losses) -> Routing:
        """Logistic models of every target's being right, at every stage."""
        weights: dict[str, FloatArray] = {}
        actions: dict[str, IntArray] = {}
        costs: dict[str, FloatArray] = {}
        for stage in trace.graph.order:
            features = _looks(trace.graph, seen_by_all(trace, stage))
            targets = _targets(trace, stage)
            right = {s: (losses.values[s] < 0.5).astype(np.int64) for s, _, _ in targets}
            weights[stage] = np.stack([logistic(features, right[s]) for s, _, _ in targets])
            actions[stage] = np.array([action for _, action, _ in targets])
            costs[stage] = np.array([cost for _, _, cost in targets])
        return cls(trace.graph, TRADEOFFS, weights, actions, costs)

    def evidence(self, seen: Seen) -> FloatArray:
        """The chance that each target is right, (n, targets)."""
        weights = self.weights[seen.stage]
        return np.asarray(expit(weights[:, 0] + _looks(self.graph, seen) @ weights[:, 1:].T))

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        best = (setting * evidence - self.costs[stage]).argmax(axis=1)
        return np.asarray(self.actions[stage][best])


def _looks(graph: Graph, seen: Seen) -> FloatArray:
    """What every stage on all paths so far said, summed up, (n, features)."""
    return np.hstack([sureness(seen, stage) for stage in graph.observed[seen.stage]])


def _targets(trace: Trace, stage: str) -> list[tuple[str, int, float]]:
    """Each stage that can be answered at from `stage` on, the first step there, and the least cost.

    Stages on the way answer as well, and are paid for.
    """
    graph, unit = trace.graph, trace.reference_cost
    found: dict[str, tuple[int, float]] = {stage: (STOP, 0.0)}
    ran = {stage: graph.ran(stage)}
    for at in graph.order:
        if at not in found:
            continue
        for number, successor in enumerate(graph.successors[at], start=1):
            cost = found[at][1] + graph.step_cost(trace.costs, successor, ran[at]) / unit
            if successor not in found or cost < found[successor][1]:
                found[successor] = (number if at == stage else found[at][0], cost)
                ran[successor] = ran[at] | set(graph.parts(successor))
    return [(name, action, cost) for name, (action, cost) in found.items()]
