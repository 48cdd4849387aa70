"""The guard: false alarms are as rare as promised whenever one looks, and changes are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.base.arrays import FloatArray
from offramp.base.errors import BudgetError
from offramp.promise.guard import Bettor, Guard, Live, most_disagreement


def draws(losses: float, gains: float, shape: tuple[int, ...], seed: int) -> FloatArray:
    """Excess losses: 1 with chance `losses`, -1 with chance `gains`."""
    at = np.random.default_rng(seed).random(shape)
    return np.where(at < losses, 1.0, np.where(at > 1 - gains, -1.0, 0.0))


@pytest.mark.parametrize(
    ("losses", "gains", "low"), [(0.04, 0.03, -1.0), (0.01, 0.0, 0.0), (0.3, 0.29, -1.0)]
)
def test_false_alarms_are_as_rare_as_promised(losses: float, gains: float, low: float) -> None:
    """At the very edge of the promise, looked at after every example."""
    runs, error = 400, 0.1
    bettor = Bettor(losses - gains, low, runs)
    values = draws(losses, gains, (4000, runs), seed=1)
    best = np.ones(runs)
    for row in values:
        bettor.see(row)
        best = np.maximum(best, bettor.wealth)
    alarms = (best >= 1 / error).sum()
    assert alarms <= error * runs + 3 * np.sqrt(error * runs)
    assert alarms > 0  # and it is no test that cannot fail


def test_whoever_chooses_the_next_example_gains_nothing() -> None:
    """Values that depend on what was seen, each with the promised mean given the past."""
    random, runs = np.random.default_rng(3), 500
    bettor, high = Bettor(0.1, 0.0, runs), np.zeros(runs)
    value = np.zeros(runs)
    for _ in range(1500):
        spread = np.where(value > 0, 1.0, 0.2)  # wild after a loss, tame otherwise
        value = np.where(random.random(runs) < 0.1 / spread, spread, 0.0)
        bettor.see(value)
        high = np.maximum(high, bettor.wealth)
    assert (high >= 20).mean() <= 0.05 + 3 * np.sqrt(0.05 / runs)


def test_a_change_is_found_long_after_the_start() -> None:
    guard = Guard("excess loss", 0.01, error=0.05)
    assert guard.see(draws(0.03, 0.025, (6000,), seed=2)) is None
    alarm = guard.see(draws(0.07, 0.025, (3000,), seed=3))
    assert alarm is not None
    assert 6000 < alarm.example < 8000
    assert 5000 < alarm.since <= alarm.example
    assert guard.wealth >= 20
    assert guard.see([0.0]) is None  # it is raised once


def test_what_is_impossible_under_the_promise_is_an_alarm_soon() -> None:
    guard = Guard("disagreement", 0.001, low=0.0)
    alarm = guard.see([1.0] * 50)
    assert alarm is not None
    assert alarm.example <= 5
    assert alarm.since == 1


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([(0.05, 0.04), (0.3, 0.1), (0.02, 0.0)]))
def test_the_confidence_sequence_covers_at_all_times(seed: int, rates: tuple[float, float]) -> None:
    values, live = draws(*rates, (800,), seed), Live()
    inside = []
    for number, value in enumerate(values.tolist()):
        live.see(value)
        if number % 20 == 0:
            low, high = live.interval(0.01)
            inside.append(low <= rates[0] - rates[1] <= high)
    assert all(inside)  # 1 % of all sequences may fail, and seeds are fixed
    assert live.mean == pytest.approx(values.mean())


def test_the_confidence_sequence_becomes_narrow() -> None:
    live = Live(0.0)
    for value in draws(0.02, 0.0, (20000,), seed=5).tolist():
        live.see(value)
    low, high = live.interval(0.05)
    assert low < 0.02 < high < 0.027


def test_shares_have_their_exact_bound() -> None:
    assert most_disagreement(0.0, 299, 0.05) == pytest.approx(0.00997, abs=1e-4)
    assert most_disagreement(1.0, 10, 0.05) == 1.0


def test_promises_out_of_range_are_refused() -> None:
    for promised, error in ((2.0, 0.1), (-0.1, 0.1), (0.1, 0.0)):
        with pytest.raises(BudgetError):
            Guard("loss", promised, error=error, low=0.0)
