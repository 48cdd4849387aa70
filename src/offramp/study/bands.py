"""Confidence bands of frontiers, by drawing the measured examples again (the bootstrap).

Bands cover the draw of the examples that a comparison is measured on, and nothing else: policies
stay as they were fitted, so what another draw of the learning examples would have taught them is
not in the bands. All policies are measured on the same draws, so their differences are paired.
The hull takes the best of many settings on the examples it is measured on, which flatters every
policy a little, those with many settings more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray
from offramp.core.frontier import Point, TracePolicy, excess_of, point, replay
from offramp.core.hulls import Hull, Scale
from offramp.core.policy import Policy
from offramp.core.tasks import Losses
from offramp.core.trace import Trace

CONFIDENCE = 0.95  # of every band: between the quantiles that leave out half of the rest each
DRAWS = 200
_CHUNK = 8192  # examples that are multiplied at once
_HELD = 16_000_000  # numbers that the outcomes held at once may have
_GRID = 41  # costs at which the band of a frontier is given


@dataclass(frozen=True)
class Band:
    """A number and where it lies over draws of the examples; None without bands."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, found: FloatArray) -> Band:
        """From the value on all examples, followed by those on each draw, (1 + draws,)."""
        if len(found) == 1:
            return cls(float(found[0]))
        low, high = _quantiles(found[1:])
        return cls(float(found[0]), float(low), float(high))

    def times(self, unit: float) -> Band:
        """The same in another unit: 100 gives percent."""
        low, high = (None if end is None else end * unit for end in (self.low, self.high))
        return Band(self.value * unit, low, high)

    def to_json(self) -> dict[str, Any]:
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class FrontierBand:
    """Where the hull of a policy and the reference lies over draws, at costs that rise."""

    cost: FloatArray  # (costs,) in the unit of the trace
    low: FloatArray  # (costs,) excess loss
    high: FloatArray  # (costs,)

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in ("cost", "low", "high")}


@dataclass(frozen=True)
class Resamples:
    """How often each draw holds each example: a byte for each, so 200 MB for a million."""

    counts: AnyArray  # uint8 (1 + draws, examples); the first row is the examples as they are

    @classmethod
    def of(cls, examples: int, draws: int, seed: int) -> Resamples:
        """`draws` times as many examples, with replacement, the same for the same seed."""
        random = np.random.default_rng(seed)
        counts = np.ones((1 + draws, examples), dtype=np.uint8)
        for row in counts[1:]:
            drawn = random.integers(0, examples, examples)
            row[:] = np.bincount(drawn, minlength=examples)  # above 255: never, for any examples
        return cls(counts)

    @property
    def examples(self) -> int:
        return int(self.counts.shape[1])

    def means(self, values: FloatArray) -> FloatArray:
        """The means of (k, examples) on each draw, (1 + draws, k)."""
        total = np.zeros((len(self.counts), len(values)))
        for start in range(0, self.examples, _CHUNK):
            rows = slice(start, start + _CHUNK)
            total += self.counts[:, rows].astype(np.float64) @ values[:, rows].T
        return total / self.examples


@dataclass(frozen=True)
class Curve:
    """The points of a policy on all examples, and on each draw of them."""

    points: list[Point]
    excess: FloatArray  # (1 + draws, points) mean net excess loss
    cost: FloatArray  # (1 + draws, points) mean cost

    @classmethod
    def of(cls, points: Iterable[Point], excess: FloatArray, cost: FloatArray) -> Curve:
        """With the interval of each point, where there are draws."""
        if len(excess) == 1:
            return cls(list(points), excess, cost)
        ends = _quantiles(excess[1:]).T.tolist()
        marked = [
            replace(p, interval=(low, high)) for p, (low, high) in zip(points, ends, strict=True)
        ]
        return cls(marked, excess, cost)


def measure(trace: Trace, losses: Losses, policy: Policy, resamples: Resamples) -> Curve:
    """The curve of a policy at every setting of its dial, safest first."""
    recorded, points = TracePolicy(policy, trace), list[Point]()
    excesses, costs = list[FloatArray](), list[FloatArray]()
    for settings in _groups(policy.settings, trace.examples):
        outcomes = [replay(trace, recorded, setting) for setting in settings]
        points += [point(trace, losses, o, s) for o, s in zip(outcomes, settings, strict=True)]
        excesses.append(resamples.means(np.stack([excess_of(o, losses, "net") for o in outcomes])))
        costs.append(resamples.means(np.stack([outcome.cost for outcome in outcomes])))
    return Curve.of(points, np.concatenate(excesses, axis=1), np.concatenate(costs, axis=1))


def _groups(settings: FloatArray, examples: int) -> Iterator[FloatArray]:
    """The settings, so many at a time that their outcomes fit into memory."""
    step = max(1, _HELD // (2 * examples))
    for start in range(0, len(settings), step):
        yield settings[start : start + step]


def one_curve(curves: Iterable[Curve]) -> Curve:
    """The points of several policies as those of one."""
    given = list(curves)
    return Curve(
        [point for curve in given for point in curve.points],
        np.concatenate([curve.excess for curve in given], axis=1),
        np.concatenate([curve.cost for curve in given], axis=1),
    )


def mixed(mixes: Iterable[Point], singles: Curve, stages: Iterable[str]) -> Curve:
    """The curve of blind mixes of single networks, each of which a share of examples goes to."""
    given, names = list(mixes), list(stages)
    shares = np.array([[mix.exits[stage] for stage in names] for mix in given])
    return Curve.of(given, singles.excess @ shares.T, singles.cost @ shares.T)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the hull of a curve and the reference comes to, on all examples and on each draw."""

    speedups: FloatArray  # (1 + draws, levels) at LEVELS
    area: FloatArray  # (1 + draws,)
    gap_cost: FloatArray  # (1 + draws,) share of the gap to the exact oracle closed, in cost
    gap_loss: FloatArray  # (1 + draws,) likewise in loss
    band: FrontierBand | None  # None without draws


def scales(singles: Curve, oracle: Curve, reference_cost: float) -> list[Scale]:
    """What policies are measured against, on all examples and on each draw."""
    each = zip(singles.excess, singles.cost, oracle.excess, oracle.cost, strict=True)
    return [Scale.of((a, b), (c, d), reference_cost) for a, b, c, d in each]


def judge(curve: Curve, against: list[Scale]) -> Measured:
    """The measures of a curve on the scales of the same draws."""
    each = list(zip(against, curve.excess, curve.cost, strict=True))
    hulls = [scale.hull(excess, cost) for scale, excess, cost in each]
    pairs = list(zip(against, hulls, strict=True))
    return Measured(
        speedups=np.array([scale.speedups(hull) for scale, hull in pairs]),
        area=np.array([scale.area(hull) for scale, hull in pairs]),
        gap_cost=np.array([scale.cost_gap_closed(hull) for scale, hull in pairs]),
        gap_loss=np.array([scale.loss_gap_closed(hull) for scale, hull in pairs]),
        band=_band(hulls) if len(hulls) > 1 else None,
    )


def _band(hulls: list[Hull]) -> FrontierBand:
    cost = np.unique(np.linspace(hulls[0].cost[-1], hulls[0].cost[0], _GRID))
    low, high = _quantiles(np.array([hull.excess_at(cost) for hull in hulls[1:]]))
    return FrontierBand(cost, low, high)


def _quantiles(found: FloatArray) -> FloatArray:
    """Both ends of the band of (draws, ...), (2, ...)."""
    rest = (1 - CONFIDENCE) / 2
    return np.asarray(np.quantile(found, [rest, 1 - rest], axis=0))
