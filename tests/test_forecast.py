"""What a certificate will probably cost, foreseen without the examples that certify."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.core.ledger import Ledger
from offramp.learn.lesson import Rehearsals, Setup, Ways
from offramp.plan.fit import fit
from offramp.policies import family
from offramp.promise.forecast import Forecast, Rehearsal, Stake, draws, forecast
from offramp.testing import synthetic

MANY = 1_000_000_000


def seen(
    cost: list[float], mean: list[float], spread: float = 0.0, singles: tuple[str, ...] = ()
) -> Rehearsal:
    """Candidates of which each example's excess is its mean, give or take `spread`."""
    means = np.array(mean)
    noise = draws(len(cost), 0) * spread
    return Rehearsal(
        cost=np.array(cost),
        expected=means,
        mean=means,
        square=means**2 + spread**2,
        noise=noise,
        singles=singles,
        examples=1000,
    )


def stake(budget: float, certifying: int = MANY, error: float = 0.05) -> Stake:
    return Stake(budgets=(budget,), error=error, learning=MANY, certifying=certifying)


def test_of_what_is_certain_the_cheapest_within_the_budget_is_foreseen() -> None:
    found = forecast(seen([0.9, 0.6, 0.3], [0.0, 0.005, 0.02]), stake(0.01))
    assert found == Forecast(0.6, 0.0, 1)


def test_the_first_failure_ends_the_sequence() -> None:
    """What lies behind it is foreseen to be lost, however safe it is."""
    found = forecast(seen([0.9, 0.6], [0.02, 0.0]), stake(0.01))
    assert found == Forecast(1.0, 1.0, None)


def test_what_is_dearer_than_the_reference_saves_nothing() -> None:
    assert forecast(seen([1.2, 1.1], [0.0, 0.0]), stake(0.01)) == Forecast(1.0, 1.0, None)


def test_a_single_network_may_be_what_is_certified() -> None:
    found = forecast(seen([0.9, 0.4], [0.02, 0.0], singles=("small",)), stake(0.01))
    assert found.cost == pytest.approx(0.4)
    assert found.likeliest is None  # no point of the path


@given(st.floats(0.001, 0.05), st.integers(200, 20_000))
def test_less_is_foreseen_of_fewer_examples_and_smaller_errors(budget: float, n: int) -> None:
    path = seen([0.8, 0.6, 0.4], [0.0, budget / 4, budget / 2], 0.1)
    plain = forecast(path, stake(budget, n)).cost
    assert forecast(path, stake(budget, 4 * n)).cost <= plain + 1e-9
    assert forecast(path, stake(budget, n, 0.01)).cost >= plain - 1e-9
    betting = replace(stake(budget, n), betting=True)
    assert forecast(path, betting).cost >= plain - 1e-9


def test_without_tests_the_best_guess_counts() -> None:
    path = seen([0.8, 0.6, 0.4], [0.0, 0.009, 0.011])
    assert forecast(path, stake(0.01, error=0.5)) == Forecast(0.6, 0.0, 1)


@pytest.mark.parametrize("budget", [0.01, 0.03])
def test_what_is_foreseen_is_near_what_certificates_cost(budget: float) -> None:
    """Means over fits whose examples are drawn anew: nearly 1 and about a half."""
    foreseen, certified = [], []
    for seed in range(6):
        trace = replace(synthetic(1800, seed=seed), ledger=Ledger())
        plan = fit(trace, budget, policy="margin", keep_stages=True, repeats="real", seed=seed)
        foreseen.append(plan.info["predicted_cost"])
        certified.append(1 / plan.certificate.speedup)
    assert abs(np.mean(foreseen) - np.mean(certified)) < 0.15


def test_a_setup_is_judged_on_examples_that_did_not_teach_it() -> None:
    """Labels that say nothing teach nothing: what looks good on them is not foreseen to hold."""
    trace = synthetic(1500, ("small", "large"))
    random = np.random.default_rng(0)
    noise = replace(trace, labels=random.integers(0, trace.classes, trace.examples))
    room = Rehearsals(noise, Ways(budgets=(0.001,), error=0.05, certifying=1500))
    found = room.score(Setup(noise.graph, "none", family("learned")))
    assert found.cost > 0.9
