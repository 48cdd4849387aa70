"""What a certificate will probably cost: the score by which one path is chosen before certifying.

The sequence of tests is walked on draws of what sealed rows may say, which are made from examples
that teach. Nothing here knows more of the sealed rows than their number, so whatever is chosen by
the score may be certified at the whole of the error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from offramp.base.arrays import FloatArray
from offramp.promise.certify import in_order
from offramp.promise.order import Rank, ranked, sureness

_DRAWS = 100


@dataclass(frozen=True, kw_only=True)
class Stake:
    """What will be asked of the rows that certify, and by how many examples."""

    budgets: tuple[float, ...]  # excess losses given up; forecasts are means over them
    error: float  # of each budget's tests; 0.5: nothing is tested, the best guess counts
    learning: int  # examples that teach
    certifying: int  # examples that certify
    betting: bool = False  # whether the test is the betting one, which finds less


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """What a path and the single networks did on held-out examples; the path first, safest first.

    Costs are over the reference's.
    """

    cost: FloatArray  # (candidates,) mean
    expected: FloatArray  # (candidates,) best guess of the mean excess loss
    mean: FloatArray  # (candidates,) of the real excess losses
    square: FloatArray  # (candidates,) of their squares
    noise: FloatArray  # (draws, candidates): mean 0, covariance that of one example's excess
    singles: tuple[str, ...]  # the single networks, which are the last candidates
    examples: int

    @property
    def path(self) -> int:
        """How many candidates are points of the path."""
        return len(self.cost) - len(self.singles)

    def sequence(self, budget: float) -> list[int]:
        """The candidates in the order in which they would be tested."""
        below = budget - self.mean
        square = budget**2 - 2 * budget * self.mean + self.square
        ranks = [
            _Foreseen(float(cost), sureness(float(b), float(s), budget), number)
            for number, (cost, b, s) in enumerate(zip(self.cost, below, square, strict=True))
        ]
        path, statics = ranks[: self.path], dict(zip(self.singles, ranks[self.path :], strict=True))
        order = ranked(path, statics, self.examples, 1.0)
        return [rank.number for _, rank in in_order(path, statics, order)]


@dataclass(frozen=True)
class _Foreseen(Rank):
    """A candidate in an order."""

    number: int


def draws(examples: int, seed: int) -> FloatArray:
    """Normal numbers (draws, examples), of which the second half mirrors the first."""
    half = np.random.default_rng(seed).normal(size=(_DRAWS // 2, examples))
    return np.concatenate([half, -half])


@dataclass(frozen=True)
class Forecast:
    """What a sequence of tests will probably come to."""

    cost: float  # mean over the draws, over the reference's
    refused: float  # share of the draws in which nothing passes that saves
    likeliest: int | None  # the point of the path that is most often chosen; None: none ever is


def forecast(seen: Rehearsal, stake: Stake) -> Forecast:
    """The mean cost of what the tests will choose, over draws of what they may be told.

    Draws are normal: about the expected mean, with the covariance of real excess losses, by as many
    examples as certify, and as teach. A candidate passes where its score statistic does.
    """
    each = [_at(seen, stake, budget) for budget in stake.budgets]
    likeliest = np.concatenate([found[found < seen.path] for _, found in each])
    chosen = int(np.bincount(likeliest).argmax()) if len(likeliest) else None
    cost = np.concatenate([cost for cost, _ in each])
    return Forecast(float(cost.mean()), float((cost >= 1.0).mean()), chosen)


def _at(seen: Rehearsal, stake: Stake, budget: float) -> tuple[FloatArray, FloatArray]:
    """In each draw what is chosen costs, (draws,), and its number; past all: the reference."""
    order = seen.sequence(budget)
    spread = math.sqrt(1 / stake.certifying + 1 / stake.learning)
    told = seen.expected[order] + seen.noise[:, order] * spread
    variance = np.maximum(_changed(seen.square[order], told, budget) - budget**2, 0.0)
    passed = told - budget <= _limit(stake) * np.sqrt(variance / stake.certifying)
    passed = np.logical_and.accumulate(passed, axis=1)
    cost = np.where(passed, seen.cost[order], np.inf)
    best = cost.argmin(axis=1) if order else np.zeros(len(told), int)
    least = cost.min(axis=1, initial=1.0)
    return least, np.where(least < 1.0, np.append(order, 0)[best], len(seen.cost))


def _changed(square: FloatArray, told: FloatArray, budget: float) -> FloatArray:
    """The likeliest rate of changed answers if the mean were the budget, where both are small.

    Args:
        square: of what is told, which has that mean square.
        told: the mean.

    Source: Tango 1998, equation 6, without the answers that do not change.
    """
    return (square + np.sqrt(np.maximum(square**2 + 4 * budget * (budget - told), 0.0))) / 2


def _limit(stake: Stake) -> float:
    """How many standard errors from the budget passes, below 0."""
    if stake.betting:  # Ville's inequality instead of the normal law
        return -math.sqrt(2 * math.log(1 / stake.error))
    return float(stats.norm.ppf(stake.error))
