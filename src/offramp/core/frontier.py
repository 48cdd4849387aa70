"""Policies against traces: excess loss, cost, where examples stop, the frontier and its hull."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Costs, head
from offramp.core.hulls import LEVELS as LEVELS  # on which frontiers are compared
from offramp.core.hulls import Hull, Scale, corners
from offramp.core.policy import Policy, Seen, Static, Wrapped
from offramp.core.tasks import Excess, Losses, excess
from offramp.core.trace import Trace
from offramp.core.walk import Outcome, drive, walk


@dataclass(frozen=True, kw_only=True)
class Point:
    """What one setting of a policy does on a trace."""

    tradeoff: float | None  # the setting of the dial; None for a policy without one
    excess_loss: float  # mean net excess loss, in [-1, 1]
    induced_loss: float  # mean induced excess loss, in [0, 1]
    cost: float  # mean, in the unit of the trace
    speedup: float  # the reference's cost over `cost`
    exits: dict[str, float]  # share of examples that stop at each stage
    interval: tuple[float, float] | None = None  # of the net excess loss, over draws of examples

    def to_json(self) -> dict[str, Any]:
        names = ("tradeoff", "excess_loss", "induced_loss", "cost", "speedup", "exits", "interval")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class TracePolicy(Wrapped):
    """A policy on one trace, whose evidence is distilled once and kept for every setting."""

    trace: Trace

    @cached_property
    def _evidence(self) -> dict[str, FloatArray]:
        return {}

    def evidence(self, seen: Seen) -> FloatArray:
        if seen.stage not in self._evidence:
            rows = np.arange(self.trace.examples)
            said = {v: (rows, self.trace.outputs[v]) for v in self.graph.observed[seen.stage]}
            everything = Seen(seen.stage, rows, said, self.trace.kinds, task=self.trace.task)
            self._evidence[seen.stage] = self.policy.evidence(everything)
        kept = self._evidence[seen.stage]
        return kept if len(seen.rows) == len(kept) else kept[seen.rows]


def replay(trace: Trace, policy: Policy, setting: float) -> Outcome:
    """The walk of every recorded example, driven by the trace instead of networks."""
    scores = trace.outputs
    costs = trace.example_costs or trace.costs
    walking = walk(policy, setting, costs, trace.kinds, trace.examples, trace.task)

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
        priced = replace(trace, costs=Costs(body, heads), example_costs=None)
        found[part] = replay(priced, policy, setting).cost
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
        tradeoff=None if np.isnan(setting) else float(setting),
        excess_loss=float(excess_of(outcome, losses, "net").mean(dtype=np.float64)),
        induced_loss=float(excess_of(outcome, losses, "induced").mean(dtype=np.float64)),
        cost=cost,
        speedup=trace.reference_cost / cost,
        exits={**dict.fromkeys(trace.graph.order, 0.0), **outcome.exits()},
    )


def frontier(
    trace: Trace, losses: Losses, policy: Policy, settings: Iterable[float] | None = None
) -> list[Point]:
    """One point for each setting of the policy's dial, safest first."""
    recorded = TracePolicy(policy, trace)
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
        tradeoff=None,
        excess_loss=between(left.excess_loss, right.excess_loss),
        induced_loss=between(left.induced_loss, right.induced_loss),
        cost=cost,
        speedup=left.cost * left.speedup / cost,
        exits={s: between(left.exits[s], right.exits[s]) for s in left.exits},
    )


def hull(points: Iterable[Point]) -> list[Point]:
    """The lower convex hull of cost against net excess loss, from the dearest to the cheapest.

    It is what randomising between points would reach. Points that cost more than another of no
    more loss are not on it.
    """
    given = list(points)
    return [given[i] for i in corners(*coordinates(given))]


def coordinates(points: Iterable[Point]) -> tuple[FloatArray, FloatArray]:
    """The net excess losses and the costs, (points,) each."""
    found = np.array([(p.excess_loss, p.cost) for p in points], dtype=float).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def cost_at(points: Sequence[Point], excess_loss: float) -> float:
    """The cost at exactly `excess_loss` on the hull of `points`; NaN where it starts later.

    Past the end of the hull the cheapest point's cost holds: it loses less and costs no more.
    """
    if not points:
        return float("nan")
    return float(Hull.of(*coordinates(points)).cost_at(np.array(excess_loss)))


def area(points: Sequence[Point], reference_cost: float) -> float:
    """Mean cost over the reference's from no excess loss to the last of LEVELS; lower is better.

    It is the area under the hull, whose ends are met by adding the reference itself to `points`;
    NaN where the hull starts later than at no excess loss.
    """
    return Hull.of(*coordinates(points)).area() / reference_cost


def gap_closed(
    points: Sequence[Point], statics: Mapping[str, Point], oracle: Sequence[Point], reference: str
) -> float:
    """The share of the way from the best single network to the exact oracle, in cost.

    At each of LEVELS the best single network is the cheapest one that loses no more than that by
    itself, and a policy or oracle costs what the hull of its points and of the reference does
    there. What the policy saves over the best single network, summed over LEVELS, is divided by
    what the oracle saves.

    Args:
        points: of a policy.
        statics: of every stage alone.
        oracle: the exact oracle's.
        reference: which runs where nothing else keeps a level.

    Returns:
        1 at the oracle, 0 at the best single network, below 0 where that is better; 0 where there
        is no gap, because the oracle saves nothing either. Blind mixes of two networks close a
        little: they exist between the best single networks.
    """
    scale = _scale(statics, oracle, reference)
    return scale.cost_gap_closed(scale.hull(*coordinates(points)))


def loss_gap_closed(
    points: Sequence[Point], statics: Mapping[str, Point], oracle: Sequence[Point], reference: str
) -> float:
    """The share of the way from blind mixes of networks to the exact oracle, in loss.

    The gap is the area, in excess loss times cost, between the hull of the single networks and
    that of the exact oracle, from the cost of the cheapest network to that of the reference. The
    share is the same area with the policy's hull in the place of the oracle's. Both hulls are of
    their own points and of the reference; the single networks are not added to them.

    A hull is taken where it has points: above its dearest corner its lowest loss holds, since
    nobody must spend more, and below its cheapest corner it counts for nothing, since the single
    networks must run there. So a policy is ahead of another that it dominates if it starts at the
    same cost; if it starts at a lower one, what it does there counts too, for better or worse.

    Args:
        points: of a policy.
        statics: of every stage alone, the reference among them.
        oracle: the exact oracle's.
        reference: the full network.

    Returns:
        1 at the oracle, 0 at mixes of single networks, below 0 for a policy that is worse than
        those; 0 where there is no gap, or nothing is cheaper than the reference.
    """
    scale = _scale(statics, oracle, reference)
    return scale.loss_gap_closed(scale.hull(*coordinates(points)))


def _scale(statics: Mapping[str, Point], oracle: Sequence[Point], reference: str) -> Scale:
    singles = coordinates(statics.values())
    return Scale.of(singles, coordinates(oracle), statics[reference].cost)
