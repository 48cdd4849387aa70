"""Policies against traces: excess loss, cost, where examples stop, the frontier and its hull."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from offramp.arrays import FloatArray, IntArray
from offramp.graph import Costs, Graph, head
from offramp.policies.baselines import Static
from offramp.policies.protocol import Policy, Seen
from offramp.tasks import Excess, Losses, excess
from offramp.trace import Trace
from offramp.walk import Outcome, drive, walk

LEVELS = (0.0, 0.005, 0.01, 0.02)  # net excess loss at which policies are compared


@dataclass(frozen=True)
class Point:
    """What one setting of a policy does on a trace."""

    tradeoff: float | None  # the setting of the dial; None for a policy without one
    excess_loss: float  # mean net excess loss, in [-1, 1]
    induced_loss: float  # mean induced excess loss, in [0, 1]
    cost: float  # mean, in the unit of the trace
    speedup: float  # the reference's cost over `cost`
    exits: dict[str, float]  # share of examples that stop at each stage

    def to_json(self) -> dict[str, Any]:
        names = ("tradeoff", "excess_loss", "induced_loss", "cost", "speedup", "exits")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Recorded:
    """A policy on one trace, whose evidence is distilled once and kept for every setting."""

    policy: Policy
    trace: Trace

    @property
    def graph(self) -> Graph:
        return self.policy.graph

    @property
    def settings(self) -> FloatArray:
        return self.policy.settings

    @cached_property
    def _evidence(self) -> dict[str, FloatArray]:
        return {}

    def evidence(self, seen: Seen) -> FloatArray:
        if seen.stage not in self._evidence:
            rows = np.arange(self.trace.examples)
            said = {v: (rows, self.trace.scores[v]) for v in self.graph.observed[seen.stage]}
            everything = Seen(seen.stage, rows, said, self.trace.kinds)
            self._evidence[seen.stage] = self.policy.evidence(everything)
        kept = self._evidence[seen.stage]
        return kept if len(seen.rows) == len(kept) else kept[seen.rows]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return self.policy.choose(stage, evidence, setting)


def replay(trace: Trace, policy: Policy, setting: float) -> Outcome:
    """The walk of every recorded example, driven by the trace instead of networks."""
    scores = trace.scores
    walking = walk(policy, setting, trace.costs, trace.kinds, trace.examples)

    def recorded(stage: str, rows: IntArray) -> FloatArray:
        return scores[stage] if len(rows) == trace.examples else scores[stage][rows]

    return drive(walking, lambda work: recorded(work.stage, work.rows))


def needed(trace: Trace, policy: Policy, setting: float) -> dict[str, FloatArray]:
    """For each body and head, whether each example's walk needs it: 1 or 0, (examples,)."""
    found = {}
    names = [stage.name for stage in policy.graph.stages]
    for part in dict.fromkeys(p for stage in policy.graph.order for p in policy.graph.parts(stage)):
        body = {name: float(name == part) for name in names}
        heads = {name: float(head(name) == part) for name in names}
        found[part] = replay(replace(trace, costs=Costs(body, heads)), policy, setting).cost
    return found


def loss_of(outcome: Outcome, losses: Losses) -> FloatArray:
    """The loss of each example's answer, (examples,)."""
    result = np.empty(len(outcome.stage), dtype=np.float32)
    for position, stage in enumerate(outcome.order):
        rows = outcome.stage == position
        result[rows] = losses.values[stage][rows]
    return result


def excess_of(outcome: Outcome, losses: Losses, kind: Excess | None = None) -> FloatArray:
    """The excess loss of each example, (examples,); of the losses' own kind by default."""
    return excess(loss_of(outcome, losses), losses.of_reference, kind or losses.kind)


def point(trace: Trace, losses: Losses, outcome: Outcome, setting: float) -> Point:
    """What an outcome comes to, on average."""
    cost = float(outcome.cost.mean())
    return Point(
        None if np.isnan(setting) else float(setting),
        float(excess_of(outcome, losses, "net").mean(dtype=np.float64)),
        float(excess_of(outcome, losses, "induced").mean(dtype=np.float64)),
        cost,
        trace.reference_cost / cost,
        {**dict.fromkeys(trace.graph.order, 0.0), **outcome.exits()},
    )


def frontier(
    trace: Trace, losses: Losses, policy: Policy, settings: Iterable[float] | None = None
) -> list[Point]:
    """One point for each setting of the policy's dial, safest first."""
    recorded = Recorded(policy, trace)
    chosen = policy.settings if settings is None else settings
    return [point(trace, losses, replay(trace, recorded, s), s) for s in chosen]


def static_points(trace: Trace, losses: Losses) -> dict[str, Point]:
    """Each stage alone, always."""
    return {
        stage: frontier(trace, losses.single(), Static.of(trace.graph, stage))[0]
        for stage in trace.graph.order
    }


def uniform_points(statics: Iterable[Point], steps: int = 21) -> list[Point]:
    """Mixes of two static choices regardless of the input, along the hull of the statics."""
    corners = hull(statics)
    if len(corners) == 1:
        return corners
    mixed = []
    for left, right in itertools.pairwise(corners):
        mixed += [_mix(left, right, share) for share in np.linspace(0, 1, steps)]
    return mixed


def _mix(left: Point, right: Point, share: float) -> Point:
    def between(a: float, b: float) -> float:
        return float((1 - share) * a + share * b)

    cost = between(left.cost, right.cost)
    return Point(
        None,
        between(left.excess_loss, right.excess_loss),
        between(left.induced_loss, right.induced_loss),
        cost,
        left.cost * left.speedup / cost,
        {s: between(left.exits[s], right.exits[s]) for s in left.exits},
    )


def hull(points: Iterable[Point]) -> list[Point]:
    """The lower convex hull of cost against net excess loss, from the dearest to the cheapest.

    It is what randomising between points would reach. Points that cost more than another of no
    more loss are not on it.
    """
    ordered = sorted(points, key=lambda p: (p.excess_loss, p.cost))
    corners: list[Point] = []
    for candidate in ordered:
        if corners and candidate.cost >= corners[-1].cost:
            continue
        while len(corners) > 1 and _above(corners[-2], corners[-1], candidate):
            corners.pop()
        corners.append(candidate)
    return corners


def _above(left: Point, middle: Point, right: Point) -> bool:
    """Whether `middle` lies on or above the line from `left` to `right`."""
    across = (middle.cost - left.cost) * (right.excess_loss - left.excess_loss)
    return across >= (right.cost - left.cost) * (middle.excess_loss - left.excess_loss)


def cost_at(points: Sequence[Point], excess_loss: float) -> float:
    """The cost at exactly `excess_loss` on the hull of `points`; NaN where it starts later.

    Past the end of the hull the cheapest point's cost holds: it loses less and costs no more.
    """
    corners = hull(points)
    if not corners or excess_loss < corners[0].excess_loss:
        return float("nan")
    return float(
        np.interp(excess_loss, [p.excess_loss for p in corners], [p.cost for p in corners])
    )


def area(points: Sequence[Point], reference_cost: float) -> float:
    """Mean cost over the reference's from no excess loss to the last of LEVELS; lower is better.

    It is the area under the hull, whose ends are met by adding the reference itself to `points`.
    """
    inner = [p.excess_loss for p in hull(points) if LEVELS[0] < p.excess_loss < LEVELS[-1]]
    levels = np.array([LEVELS[0], *inner, LEVELS[-1]])
    costs = np.array([cost_at(points, level) for level in levels])
    return float(np.trapezoid(costs, levels) / (LEVELS[-1] - LEVELS[0]) / reference_cost)


def gap_closed(
    points: Sequence[Point], statics: Mapping[str, Point], oracle: Sequence[Point], reference: str
) -> float:
    """The share of the way from the best single network to the exact oracle, summed over LEVELS.

    Args:
        points: of a policy.
        statics: of every stage alone.
        oracle: the exact oracle's.
        reference: which runs where nothing else keeps a level.

    Returns:
        1 at the oracle, 0 at the best single network, below 0 where that is better; 0 where there
        is no gap.
    """
    alone = statics[reference]
    saved = possible = 0.0
    for level in LEVELS:
        best = min(p.cost for p in (alone, *statics.values()) if p.excess_loss <= level)
        saved += best - cost_at([*points, alone], level)
        possible += best - cost_at([*oracle, alone], level)
    return saved / possible if possible > 0 else 0.0
