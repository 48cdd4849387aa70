"""The lower hull of cost against excess loss, and what is measured on it, as plain arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.base.arrays import FloatArray

LEVELS = (0.0, 0.005, 0.01, 0.02)  # net excess loss at which policies are compared
_NOTHING = 1e-9  # a gap this small, as a share of all there is, is rounding and not a gap


@dataclass(frozen=True)
class Hull:
    """What randomising between points would reach, from the dearest corner to the cheapest."""

    excess: FloatArray  # (corners,) mean net excess loss, rising
    cost: FloatArray  # (corners,) mean cost, falling

    @classmethod
    def of(cls, excess: FloatArray, cost: FloatArray) -> Hull:
        """The hull of points, (points,) each and at least one."""
        kept = corners(excess, cost)
        return cls(excess[kept], cost[kept])

    def cost_at(self, excess: FloatArray) -> FloatArray:
        """The lowest cost at an excess loss of at most `excess`; NaN where none is so low."""
        found = np.interp(excess, self.excess, self.cost)
        return np.where(excess < self.excess[0], np.nan, found)

    def excess_at(self, cost: FloatArray) -> FloatArray:
        """The lowest excess loss at a cost of at most `cost`; the cheapest corner's below that."""
        return np.asarray(np.interp(cost, self.cost[::-1], self.excess[::-1]))

    def area(self) -> float:
        """The mean cost from the first of LEVELS to the last; NaN where the hull starts later."""
        first, last = LEVELS[0], LEVELS[-1]
        inner = self.excess[(self.excess > first) & (self.excess < last)]
        levels = np.array([first, *inner, last])
        return float(np.trapezoid(self.cost_at(levels), levels) / (last - first))


def corners(excess: FloatArray, cost: FloatArray) -> list[int]:
    """Which points are the corners of the lower hull, from the dearest to the cheapest.

    Points that cost more than another of no more loss are none, of equal points the first is one.
    """
    kept: list[int] = []
    xs, ys = excess.tolist(), cost.tolist()  # plain numbers: the loop below is of scalars
    for i in np.lexsort((cost, excess)).tolist():
        if kept and ys[i] >= ys[kept[-1]]:
            continue
        while len(kept) > 1:
            left, middle = kept[-2:]
            across = (ys[middle] - ys[left]) * (xs[i] - xs[left])
            if across < (ys[i] - ys[left]) * (xs[middle] - xs[left]):
                break
            kept.pop()  # it lies on or above the line between its neighbours
        kept.append(i)
    return kept


@dataclass(frozen=True)
class Scale:
    """What policies are measured against on the same examples: one draw of them, or all."""

    reference_cost: float
    best: FloatArray  # (levels,) cost of the cheapest single network that keeps each of LEVELS
    singles: Hull  # of the single networks, the reference among them: mixes of two, blindly
    oracle: Hull  # of the exact oracle and the reference

    @classmethod
    def of(
        cls,
        singles: tuple[FloatArray, FloatArray],
        oracle: tuple[FloatArray, FloatArray],
        reference_cost: float,
    ) -> Scale:
        """From the excess losses and costs, (points,) each, of the networks and of the oracle."""
        kept = singles[0] <= np.array(LEVELS)[:, None]
        dearest = np.minimum(reference_cost, np.where(kept, singles[1], np.inf).min(axis=1))
        both = _and_reference(*singles, reference_cost)
        return cls(reference_cost, dearest, both, _and_reference(*oracle, reference_cost))

    def hull(self, excess: FloatArray, cost: FloatArray) -> Hull:
        """The hull of a policy's points and of the reference alone, which every policy may run."""
        return _and_reference(excess, cost, self.reference_cost)

    def speedups(self, hull: Hull) -> FloatArray:
        """The reference's cost over the hull's at each of LEVELS, (levels,)."""
        return self.reference_cost / hull.cost_at(np.array(LEVELS))

    def area(self, hull: Hull) -> float:
        """The mean cost over the reference's between the first and the last of LEVELS."""
        return hull.area() / self.reference_cost

    def cost_gap_closed(self, hull: Hull) -> float:
        """As `offramp.core.frontier.gap_closed`."""
        levels = np.array(LEVELS)
        saved = float((self.best - hull.cost_at(levels)).sum())
        possible = float((self.best - self.oracle.cost_at(levels)).sum())
        return _share(saved, possible, self.reference_cost)

    def loss_gap_closed(self, hull: Hull) -> float:
        """As `offramp.core.frontier.loss_gap_closed`."""
        won, possible = self._won(hull), self._won(self.oracle)
        return _share(won, possible, self.reference_cost)

    def _won(self, hull: Hull) -> float:
        """The area between the single networks' hull and `hull` where both have a point."""
        low = max(float(self.singles.cost[-1]), float(hull.cost[-1]))
        high = self.reference_cost
        if low >= high:
            return 0.0
        bends = np.concatenate([self.singles.cost, hull.cost])
        costs = np.array([low, *np.unique(bends[(bends > low) & (bends < high)]), high])
        return float(np.trapezoid(self.singles.excess_at(costs) - hull.excess_at(costs), costs))


def _and_reference(excess: FloatArray, cost: FloatArray, reference_cost: float) -> Hull:
    return Hull.of(np.append(excess, 0.0), np.append(cost, reference_cost))


def _share(part: float, whole: float, unit: float) -> float:
    return part / whole if whole > _NOTHING * unit else 0.0
