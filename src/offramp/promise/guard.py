"""Tests of a promise on live examples, which may be looked at after every one of them.

A bettor puts in its stake bit by bit, before each example a little, and bets against "the mean is
at most what is promised". Whenever the promise holds, whatever was seen before, its wealth is a
non-negative supermartingale that starts at 1, so the chance that it ever reaches 1 / error is at
most the error (Ville's inequality). What is staked late has lost nothing before, so that a change
is found long after the start as well.

Source: Waudby-Smith and Ramdas 2024, Estimating means of bounded random variables by betting,
sections 4 and 5; stakes spread over the time of a change as in Shin, Ramdas and Rinaldo 2024,
E-detectors, here with a total of 1, which bounds the chance of a false alarm ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from offramp.base.arrays import FloatArray
from offramp.base.errors import BudgetError

_SHARES = np.geomspace(0.004, 0.9, 16)  # bets, as shares of the largest that cannot lose all
_HALF = 5000  # examples before which half of the stake is put in
_LEAST = 1e-6  # least distance between the promise and the least value
_RATES = np.geomspace(0.002, 0.9, 24)  # of the mixture of the confidence sequence


@dataclass(frozen=True)
class Alarm:
    """A test that no chance explains."""

    example: int  # number of the example after which it was raised, from 1
    since: int  # number of the first example after the likeliest time of the change
    wealth: float


class Bettor:
    """Wealth of bets that a mean lies above a promise; of many runs at once, for simulations.

    Args:
        promised: the largest mean that the promise allows.
        low: the least value that there can be.
        runs: independent sequences.
    """

    def __init__(self, promised: float, low: float = -1.0, runs: int = 1) -> None:
        self.promised = promised
        self.bets: FloatArray = _SHARES / max(promised - low, _LEAST)
        self.examples: int = 0
        self._at_stake = np.zeros((runs, len(self.bets)))

    @property
    def wealth(self) -> FloatArray:
        """What is at stake, and what is not yet, (runs,)."""
        kept = _HALF / (_HALF + self.examples)
        return np.asarray(self._at_stake.mean(axis=1) + kept)

    def see(self, values: FloatArray) -> FloatArray:
        """Bets on the next example of each run, (runs,).

        Returns:
            By what each bet was multiplied, (runs, bets).
        """
        before, self.examples = self.examples, self.examples + 1
        stake = _HALF / (_HALF + before) - _HALF / (_HALF + self.examples)
        gain = np.maximum(1 + (values[:, None] - self.promised) * self.bets, 0.0)
        self._at_stake = (self._at_stake + stake) * gain
        return gain


class Guard:
    """Watches one mean, such as the excess loss, in one sequence of examples.

    Args:
        name: of what is watched.
        promised: the largest mean that the promise allows, in [-1, 1].
        error: chance of a false alarm ever, in (0, 1).
        low: the least value that there can be; the largest is 1.

    Raises:
        BudgetError: an error or a promise out of range.
    """

    name: str
    promised: float
    error: float
    live: Live

    def __init__(
        self, name: str, promised: float, *, error: float = 0.05, low: float = -1.0
    ) -> None:
        if not 0 < error < 1:
            raise BudgetError(f"the error is {error}; it must lie between 0 and 1.")
        if not low <= promised <= 1:
            raise BudgetError(f"the promise is {promised}; it must lie between {low:g} and 1.")
        self.name, self.promised, self.error = name, promised, error
        self.alarm: Alarm | None = None
        self.live = Live(low)
        self._bettor = Bettor(promised, low)
        self._climb = np.zeros(len(self._bettor.bets))  # of log wealth since its lowest
        self._since = np.ones(len(self._bettor.bets), int)

    @property
    def examples(self) -> int:
        return self.live.examples

    @property
    def wealth(self) -> float:
        """Of the bettor; 1 at first, and at most that on average while the promise holds."""
        return self.alarm.wealth if self.alarm else float(self._bettor.wealth[0])

    def see(self, values: Iterable[float]) -> Alarm | None:
        """Looks at the next examples, in their order; the alarm, where one of them raises it."""
        was = self.alarm
        for value in values:
            self.live.see(value)
            if self.alarm is None:
                self._bet(value)
        return self.alarm if was is None else None

    def _bet(self, value: float) -> None:
        gain = self._bettor.see(np.array([value]))[0]
        self._since = np.where(self._climb > 0, self._since, self._bettor.examples)
        self._climb = np.maximum(self._climb, 0.0) + np.log(np.maximum(gain, 1e-300))
        wealth = float(self._bettor.wealth[0])
        if wealth >= 1 / self.error:
            since = int(self._since[self._climb.argmax()])
            self.alarm = Alarm(self._bettor.examples, since, wealth)

    def to_json(self) -> dict[str, Any]:
        """What it has seen, and whether it raised the alarm."""
        low, high = self.live.interval(self.error)
        alarm = self.alarm
        return {
            "guard": self.name,
            "examples": self.examples,
            "promised": self.promised,
            "mean": self.live.mean,
            "interval": [low, high],
            "wealth": self.wealth,
            "needed": 1 / self.error,
            "alarm": alarm is not None,
            "alarm_example": alarm and alarm.example,
            "since_example": alarm and alarm.since,
        }


class Live:
    """The mean of what was seen so far, with a confidence sequence: it holds at all times at once.

    It covers the average of the means of the examples, each given those before it, so that it
    holds for inputs that change as well.

    Args:
        low: the least value that there can be; the largest is 1.

    Source: Howard, Ramdas, McAuliffe and Sekhon 2021, Time-uniform, nonparametric, nonasymptotic
        confidence sequences, theorem 4 (empirical Bernstein), mixed over rates.
    """

    def __init__(self, low: float = -1.0) -> None:
        self.low = low
        self.examples: int = 0
        self._sum, self._spread = 0.0, 0.0  # of values in [0, 1], and of squared surprises

    def see(self, value: float) -> None:
        scaled = (value - self.low) / (1 - self.low)
        expected = (self._sum + 0.5) / (self.examples + 1)
        self._spread += (scaled - expected) ** 2
        self._sum += scaled
        self.examples += 1

    @property
    def mean(self) -> float:
        """Of all values; 0 before the first."""
        if not self.examples:
            return 0.0
        return self.low + (1 - self.low) * self._sum / self.examples

    def interval(self, error: float) -> tuple[float, float]:
        """Between which values the mean lies, at all times together but with chance `error`."""
        if not self.examples:
            return self.low, 1.0
        radius = _radius(self._spread, error / 2) / self.examples * (1 - self.low)
        return max(self.low, self.mean - radius), min(1.0, self.mean + radius)


def _radius(spread: float, error: float) -> float:
    """How far a sum strays from its expectation, at one side, but with chance `error`."""
    paid = (-np.log1p(-_RATES) - _RATES) * spread
    wanted = math.log(len(_RATES) / error)

    def short(distance: float) -> float:
        return float(special.logsumexp(_RATES * distance - paid)) - wanted

    most = float(((wanted + paid) / _RATES).min())  # the best rate alone
    return float(optimize.brentq(short, 0.0, most + 1e-9, xtol=1e-6))


def most_disagreement(changed: float, examples: int, error: float) -> float:
    """An upper confidence bound of a share, of which `changed` was seen among `examples`.

    Exact (Clopper and Pearson).
    """
    count = round(changed * examples)
    if count >= examples:
        return 1.0
    return float(stats.beta.ppf(1 - error, count + 1, examples - count))
