"""Cascade routing: after each stage go on to wherever the estimated gain is worth the cost most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.policy import STOP, TRADEOFFS, Seen, seen_by_all
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.policies.families import ALWAYS, Family, Saved, arrays_to_json
from offramp.policies.logistic import column_weights, log_odds, logistic
from offramp.policies.operators import ANSWERS, Decision, Dial, Memory, SeenTensors
from offramp.policies.statistics import agreeing, observations


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Takes the action whose best target has the lowest `tradeoff * loss + cost`.

    A target is the present stage, or one that can be reached from it along the edges by whichever
    way is cheapest; an action is the first step towards it. The loss of every target is estimated
    from what has been seen, again after every stage.

    Source: Dekoninck et al. 2025, A unified approach to routing and cascading for LLMs, section 4,
    with one tradeoff for all steps, as in their experiments by default. Two things differ. There a
    walk may go to any other network; here edges say where. There several answers may be weighed
    against each other at the end; here a stage, or its committee, says how it answers. They meet a
    cost exactly by mixing two settings at random; that mix is what the hull of a frontier draws.
    """

    graph: Graph
    settings: FloatArray  # tradeoffs
    weights: Mapping[str, FloatArray]  # stage -> (targets, 1 + features), the present stage first
    actions: Mapping[str, IntArray]  # stage -> (targets,)
    costs: Mapping[str, FloatArray]  # stage -> (targets,), divided by the reference's
    kind: str = "cascade-routing"

    @classmethod
    def fit(cls, trace: Trace, losses: Losses) -> Routing:
        """Logistic models of the loss of every target, at every stage."""
        weights: dict[str, FloatArray] = {}
        actions: dict[str, IntArray] = {}
        costs: dict[str, FloatArray] = {}
        for stage in trace.graph.order:
            features = _looks(trace.graph, seen_by_all(trace, stage))
            stages = len(trace.graph.observed[stage])
            scale = column_weights(features.shape[1], trace.classes, stages)
            targets = _targets(trace, stage)
            lost = [_loss(losses, name) for name, _, _ in targets]
            weights[stage] = np.stack([logistic(features, loss, scale=scale) for loss in lost])
            actions[stage] = np.array([action for _, action, _ in targets])
            costs[stage] = np.array([cost for _, _, cost in targets])
        return cls(
            graph=trace.graph, settings=TRADEOFFS, weights=weights, actions=actions, costs=costs
        )

    def evidence(self, seen: Seen) -> FloatArray:
        """The expected loss of each target, (n, targets)."""
        return np.asarray(expit(log_odds(_looks(self.graph, seen), self.weights[seen.stage])))

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        """A setting beyond the tradeoffs counts as the nearest; what is no number goes on."""
        value = self._inside(setting) * evidence + self.costs[stage]
        last = len(self.graph.successors[stage])
        broken = np.isnan(value).any(axis=1)
        return np.where(broken, last, self.actions[stage][value.argmin(axis=1)])

    def _inside(self, setting: float) -> float:
        return float(min(max(setting, self.settings[-1]), self.settings[0]))

    def to_json(self) -> dict[str, Any]:
        learned = {"weights": self.weights, "actions": self.actions, "costs": self.costs}
        return {name: arrays_to_json(arrays) for name, arrays in learned.items()}

    @classmethod
    def from_json(cls, saved: Saved) -> Routing:
        graph, check = saved.graph, saved.check
        weights, actions, costs = map(saved.numbers, ("weights", "actions", "costs"))
        for stage, after in graph.successors.items():
            if not after:
                continue
            rows, columns = weights[stage].shape
            seen = len(graph.observed[stage])
            # the numbers of every stage seen, whether each earlier one agrees, and a constant
            width = seen * (weights[graph.root].shape[1] - 1) + seen
            check(columns == width, "weights", stage)
            check(costs[stage].shape == (rows,) and min(costs[stage]) >= 0, "costs", stage)
            check(actions[stage].shape == (rows,), "actions", stage)
            check(set(actions[stage]) <= set(range(len(after) + 1)), "actions", stage)
            check(0 in actions[stage] and 1 in actions[stage], "actions", stage)
        steps = {stage: each.astype(np.int64) for stage, each in actions.items()}
        return cls(
            graph=graph, settings=saved.settings, weights=weights, actions=steps, costs=costs
        )

    def forced(self, *, goes_on: bool) -> tuple[Routing, float]:
        wanted = 1 if goes_on else STOP
        costs = {s: np.where(each == wanted, 0.0, ALWAYS) for s, each in self.actions.items()}
        return replace(self, costs=costs), 1.0

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        scope, stage, weights = seen.scope, seen.stage, self.weights[seen.stage]
        looks = seen.observations
        if (earlier := seen.before("observations")) is not None:
            looks = scope.add("Concat", earlier, looks, seen.alike, axis=1)
        linear = scope.constant(weights[:, 1:].T), scope.constant(weights[:, 0])
        lost = scope.add("Sigmoid", scope.add("Gemm", looks, *linear))
        tradeoff = dial.setting(scope, self._inside)
        worth = scope.add("Mul", seen.trusted(lost), tradeoff)
        value = scope.add("Add", worth, scope.constant(self.costs[stage]))
        successors = len(self.graph.successors[stage])
        return Decision.lowest(scope, value, successors, self.actions[stage])

    def remembered(self, stage: str) -> Memory:
        return {**ANSWERS, "observations": _observations}


def _observations(seen: SeenTensors, dial: Dial) -> str:
    """The observations of each stage so far, (n, stages * columns)."""
    return seen.joined("observations", seen.observations)


ROUTING = (Family(name="cascade-routing", fit=Routing.fit, read=Routing.from_json),)


def _looks(graph: Graph, seen: Seen) -> FloatArray:
    """What the stages on every path so far said, summed up, and who agrees, (n, features)."""
    observed = graph.observed[seen.stage]
    each = [observations(seen, stage) for stage in observed]
    return np.hstack([*each, agreeing(seen, observed[:-1])])


def _loss(losses: Losses, stage: str) -> FloatArray:
    """What counts against answering at a stage, (examples,) in [0, 1]."""
    lost = losses.excess(stage) if losses.kind == "induced" else losses.values[stage]
    return lost.astype(np.float64)


def _targets(trace: Trace, stage: str) -> list[tuple[str, int, float]]:
    """Each stage that can be answered at from `stage` on, the first step there, and the least cost.

    Stages on the way answer as well, and are paid for. All ways are tried: what one has run already
    decides what is still to be paid.
    """
    graph, unit = trace.graph, trace.reference_cost
    targets: dict[str, tuple[int, float]] = {stage: (STOP, 0.0)}

    def go_on(at: str, first: int | None, paid: float, ran: frozenset[str]) -> None:
        for number, successor in enumerate(graph.successors[at], start=1):
            action = first or number
            cost = paid + graph.step_cost(trace.costs, successor, ran) / unit
            if successor not in targets or cost < targets[successor][1]:
                targets[successor] = (action, cost)
            go_on(successor, action, cost, ran | set(graph.parts(successor)))

    go_on(stage, None, 0.0, graph.ran(stage))
    return [(name, *targets[name]) for name in graph.order if name in targets]
