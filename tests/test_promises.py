"""The promise against known truths: broken no more often than it says, and useful."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from offramp.arrays import FloatArray
from offramp.certify import Candidate, Certificate, certify, check_promise
from offramp.errors import BudgetError
from offramp.fit import candidates, fit
from offramp.frontier import excess_of, replay
from offramp.pvalues import (
    Method,
    binomial,
    examples_needed,
    interval,
    p_value,
    trinomial,
    upper_bound,
)
from offramp.tasks import Excess
from offramp.testing import synthetic


def allowed(delta: float, draws: int) -> float:
    """A share of broken promises that chance alone exceeds once in a thousand times."""
    return float(stats.binom.ppf(0.999, draws, delta)) / draws


def drawn(mean: float, changes: float, n: int, random: np.random.Generator) -> FloatArray:
    """Excess losses in {-1, 0, 1} of a known mean, and share of changes."""
    p = [(changes - mean) / 2, 1 - changes, (changes + mean) / 2]
    return random.choice([-1.0, 0.0, 1.0], n, p=p)


@pytest.mark.parametrize("method", ["trinomial", "betting"])
@pytest.mark.parametrize(
    ("budget", "changes", "n"),
    [(0.01, 0.02, 400), (0.01, 0.2, 2000), (0.05, 0.05, 200), (0.0, 0.1, 500)],
)
def test_a_true_hypothesis_is_rejected_at_most_as_often_as_the_level(
    method: Method, budget: float, changes: float, n: int
) -> None:
    random, draws, level = np.random.default_rng(1), 400, 0.1
    found = [
        p_value(drawn(budget, changes, n, random), budget, method, level=level)
        for _ in range(draws)
    ]
    assert np.mean(np.array(found) <= level) <= allowed(level, draws)


def test_the_binomial_test_is_exact() -> None:
    random, draws = np.random.default_rng(0), 4000
    found = np.array(
        [binomial(int((random.random(300) < 0.02).sum()), 300, 0.02) for _ in range(draws)]
    )
    for level in (0.05, 0.1, 0.3):
        assert np.mean(found <= level) <= allowed(level, draws)
    assert np.mean(found <= 0.1) > 0.03  # and not vacuous


@pytest.mark.parametrize(("losses", "gains"), [(3, 4), (6, 0), (0, 0), (1, 9)])
def test_the_trinomial_tail_is_the_sum_over_all_outcomes(losses: int, gains: int) -> None:
    """An independent sum of multinomial probabilities, at the worst rate that is left open."""
    n, budget, spent = 30, 0.1, 0.02 * 0.05
    highest = stats.beta.ppf(1 - spent, losses + gains + 1, n - losses - gains)
    outcomes = [(lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]
    below = np.array([[a, b, n - a - b] for a, b in outcomes if a - b <= losses - gains])
    worst = max(
        stats.multinomial.pmf(below, n, [(q + budget) / 2, (q - budget) / 2, 1 - q]).sum()
        for q in np.linspace(budget, max(highest, budget), 33)
    )
    assert trinomial(losses, gains, n, budget) == pytest.approx(min(1.0, worst + spent), abs=1e-6)


def test_the_trinomial_test_needs_far_fewer_examples_than_betting() -> None:
    random = np.random.default_rng(0)
    rates = [
        np.mean([p_value(drawn(0.0, 0.1, 5000, random), 0.01, m) <= 0.05 for _ in range(60)])
        for m in ("trinomial", "betting")
    ]
    assert rates[0] > 0.65
    assert rates[0] >= rates[1] + 0.2


@pytest.mark.parametrize(
    ("budget", "losses", "expected"),
    [(0.01, 0, 299), (0.01, 1, 473), (0.01, 2, 628), (0.005, 0, 598)],
)
def test_fewest_examples_that_can_certify(budget: float, losses: int, expected: int) -> None:
    assert binomial(losses, expected, budget) <= 0.05 < binomial(losses, expected - 1, budget)


def test_examples_needed_are_enough_and_one_fewer_are_not() -> None:
    excess = np.repeat([1.0, 0.0], [2, 998])
    needed = examples_needed(excess, 0.01, 0.025, "binomial")
    assert needed is not None
    lost = int(np.ceil(0.002 * needed))
    assert binomial(lost, needed, 0.01) <= 0.025
    assert examples_needed(np.repeat([1.0, 0.0], [30, 970]), 0.01, 0.025, "binomial") is None
    for method in ("trinomial", "betting"):
        found = examples_needed(excess, 0.01, 0.025, method)
        assert found is not None
        assert found > needed / 2


@pytest.mark.parametrize("method", ["binomial", "trinomial", "betting"])
def test_a_bound_holds_as_often_as_it_says(method: Method) -> None:
    random, draws, mean = np.random.default_rng(3), 300, 0.03
    changes = mean if method == "binomial" else 0.08
    bounds = np.array(
        [upper_bound(drawn(mean, changes, 400, random), 0.1, method) for _ in range(draws)]
    )
    assert np.mean(bounds < mean) <= allowed(0.1, draws)
    assert np.median(bounds) < 0.09


def test_an_interval_holds_as_often_as_it_says() -> None:
    random, draws = np.random.default_rng(4), 200
    found = [interval(drawn(0.02, 0.1, 500, random), 0.9, "trinomial") for _ in range(draws)]
    missed = np.mean([not low <= 0.02 <= high for low, high in found])
    assert missed <= allowed(0.1, draws)


def path(
    risks: list[float], changes: float, n: int, random: np.random.Generator
) -> list[Candidate]:
    return [
        Candidate(float(len(risks) - i), 10.0 - i, drawn(risk, max(changes, abs(risk)), n, random))
        for i, risk in enumerate(risks)
    ]


@pytest.mark.parametrize("excess", ["net", "induced"])
def test_a_promise_is_broken_at_most_as_often_as_it_says(excess: Excess) -> None:
    """A path whose risks creep over the budget: the worst case for choosing among many points."""
    random, draws, confidence = np.random.default_rng(5), 250, 0.9
    risks = [0.005, 0.012, 0.018, 0.0201, 0.021, 0.022, 0.03, 0.05]
    broken = certified = naive = 0
    for _ in range(draws):
        changes = 0.03 if excess == "net" else 0.0
        points = path(risks, changes, 1500, random)
        found = certify(
            points,
            {},
            0.02,
            reference="big",
            reference_cost=20,
            confidence=confidence,
            excess=excess,
        )
        risk = dict(zip([p.tradeoff for p in points], risks, strict=True))
        certified += found.tradeoff is not None
        broken += found.tradeoff is not None and risk[found.tradeoff] > 0.02
        picked = [p for p in points if p.excess.mean() <= 0.02]
        naive += bool(picked) and risk[picked[-1].tradeoff] > 0.02
    assert broken / draws <= allowed(1 - confidence, draws)
    assert certified / draws > 0.8
    assert naive / draws > 0.3  # what tuning without a certificate does


@pytest.mark.parametrize("excess", ["net", "induced"])
def test_fit_keeps_its_promise_on_a_population_of_known_truth(excess: Excess) -> None:
    """Learn once; then certify on many draws from a population whose mean is the truth."""
    population, budget, confidence, draws = synthetic(4000, seed=11), 0.03, 0.8, 120
    plan = fit(synthetic(1000, seed=10), budget, excess=excess)
    losses = population.losses(None, excess)
    truth = {
        float(t): float(excess_of(replay(population, plan.policy, t), losses).mean(dtype=float))
        for t in plan.policy.settings
    }
    points = list(candidates(population, losses, plan.policy))
    random = np.random.default_rng(0)
    broken, speedups = 0, []
    for _ in range(draws):
        rows = random.integers(0, population.examples, 1000)
        drawn_ = [Candidate(p.tradeoff, p.cost, p.excess[rows]) for p in points]
        found = certify(
            drawn_,
            {},
            budget,
            reference="large",
            reference_cost=population.reference_cost,
            confidence=confidence,
            excess=excess,
        )
        if found.tradeoff is not None:
            broken += truth[found.tradeoff] > budget
            speedups.append(found.speedup)
    assert broken / draws <= allowed(1 - confidence, draws)
    assert len(speedups) > 0.9 * draws
    assert np.median(speedups) > 1.3


def certificate(path_losses: list[int], static: int | None = None, n: int = 1000) -> Certificate:
    points = [
        Candidate(float(9 - i), 5.0 - i, np.repeat([1.0, 0.0], [lost, n - lost]))
        for i, lost in enumerate(path_losses)
    ]
    statics = (
        {}
        if static is None
        else {"small": Candidate(None, 2.5, np.repeat([1.0, 0.0], [static, n - static]))}
    )
    return certify(points, statics, 0.02, reference="big", reference_cost=10.0)


def test_the_cheapest_point_before_the_first_failure_is_chosen() -> None:
    found = certificate([0, 3, 5])
    assert found.verdict == "route"
    assert found.tradeoff == 7.0
    assert (found.cost, found.speedup, found.losses) == (3.0, 10 / 3, 5)
    assert found.bound <= 0.02


def test_when_nothing_passes_it_says_how_many_examples_it_would_take() -> None:
    found = certificate([15])
    assert found.verdict == "do not route"
    assert found.tradeoff is None
    assert (found.static_choice, found.cost, found.bound) == ("big", 10.0, 0.0)
    assert found.examples_needed is not None
    assert found.examples_needed > 1000
    assert certificate([25]).examples_needed is None


def test_a_single_network_that_is_as_cheap_means_do_not_route() -> None:
    found = certificate([0, 3], static=2)
    assert found.verdict == "do not route"
    assert (found.static_choice, found.cost, found.tradeoff) == ("small", 2.5, None)


def test_a_single_network_that_fails_is_not_used() -> None:
    found = certificate([0, 3, 4], static=100)
    assert (found.verdict, found.static_choice) == ("route", "big")


def test_the_error_is_shared_between_the_path_and_the_single_networks() -> None:
    lost = next(k for k in itertools.count() if trinomial(k, 0, 1000, 0.02, level=0.05) > 0.025)
    assert trinomial(lost, 0, 1000, 0.02, level=0.05) <= 0.05  # passes at delta, not at half of it
    assert certificate([lost]).tradeoff is None


@pytest.mark.parametrize(
    ("budget", "confidence"), [(-0.1, 0.9), (1.1, 0.9), (float("nan"), 0.9), (0.1, 0.0), (0.1, 1.0)]
)
def test_promises_out_of_range_are_refused(budget: float, confidence: float) -> None:
    with pytest.raises(BudgetError):
        check_promise(budget, confidence)


def test_a_loss_that_is_no_count_takes_the_betting_test() -> None:
    trace = synthetic(600, seed=2)
    graded = {
        s: np.abs(trace.scores[s].argmax(axis=1) - trace.labels) / 10 for s in trace.graph.order
    }
    plan = fit(replace(trace, loss=graded), 0.05)
    assert plan.certificate.method == "betting"
    assert plan.certificate.loss == "recorded"
