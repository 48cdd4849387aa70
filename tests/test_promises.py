"""The promise against known truths: broken no more often than it says, and useful."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import special, stats

from offramp.base.arrays import FloatArray
from offramp.base.errors import BudgetError
from offramp.core.frontier import excess_of, replay
from offramp.core.tasks import Excess
from offramp.plan.fit import fit
from offramp.plan.job import candidates
from offramp.promise import pvalues
from offramp.promise.certify import Certificate, Trial, certify, check_promise
from offramp.promise.order import Candidate, Order, safest_first
from offramp.promise.pvalues import (
    Method,
    binomial,
    examples_expected,
    examples_needed,
    interval,
    p_value,
    trinomial,
    upper_bound,
)
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


def score(losses: int, gains: int, n: int, budget: float) -> float:
    """The score statistic, its rate of changes found by trying very many."""
    rates = np.linspace(budget, 1 - 1e-9, 20001)
    likely = special.xlogy(losses, (rates + budget) / 2) + special.xlogy(gains, rates - budget)
    likely = likely + special.xlogy(n - losses - gains, 1 - rates)
    spread = np.sqrt(n * (rates[likely.argmax()] - budget**2))
    return float((losses - gains - n * budget) / spread)


@pytest.mark.parametrize(("losses", "gains"), [(3, 4), (6, 0), (0, 0), (1, 9), (0, 2), (4, 13)])
def test_the_trinomial_test_is_the_sum_over_all_outcomes(losses: int, gains: int) -> None:
    """An independent sum of multinomial probabilities, at the worst of the plausible rates."""
    n, budget, spent = 30, 0.1, 0.005 * 0.05
    changes = losses + gains
    lowest = stats.beta.ppf(spent / 2, changes, n - changes + 1) if changes else 0.0
    highest = stats.beta.ppf(1 - spent / 2, changes + 1, n - changes)
    outcomes = [(lost, gained) for lost in range(n + 1) for gained in range(n + 1 - lost)]
    most = score(losses, gains, n, budget) + 1e-4
    below = np.array([[a, b, n - a - b] for a, b in outcomes if score(a, b, n, budget) <= most])
    worst = max(
        stats.multinomial.pmf(below, n, [(q + budget) / 2, (q - budget) / 2, 1 - q]).sum()
        for q in np.linspace(max(budget, lowest), max(highest, budget), 300)
    )
    found = trinomial(losses, gains, n, budget)
    assert found == pytest.approx(min(1.0, worst + spent), rel=2e-3)


@pytest.mark.parametrize(
    ("losses", "gains", "n", "budget"),
    [(14, 16, 1000, 0.01), (6, 1, 1000, 0.02), (95, 105, 2500, 0.01), (3, 2, 700, 0.005)],
)
def test_the_worst_rate_of_changes_is_not_missed(
    losses: int, gains: int, n: int, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = trinomial(losses, gains, n, budget)
    monkeypatch.setattr(pvalues, "_STEP", 0.01)
    assert found == pytest.approx(trinomial(losses, gains, n, budget), rel=2e-3)


def power(n: int, budget: float, changes: float, mean: float, level: float) -> float:
    """The exact chance that the trinomial test passes examples of these rates."""
    number = np.arange(int(stats.binom.ppf(1 - 1e-6, n, changes)) + 1)
    most, lost = [], -1
    for c in number:
        lost = max(lost - 1, -1)  # one more change moves the limit by one loss at most
        while lost < c and trinomial(lost + 1, int(c) - lost - 1, n, budget, level=level) <= level:
            lost += 1
        most.append(lost)
    share = (changes + mean) / (2 * changes)
    return float(stats.binom.pmf(number, n, changes) @ stats.binom.cdf(most, number, share))


def best_power(n: int, budget: float, changes: float, mean: float, level: float) -> float:
    """No valid test passes more often: the likelihood ratio against one law on the boundary.

    Neyman and Pearson, with the true rates known and a coin at the limit; the smallest of a few
    such laws is still a bound.
    """
    far = int(stats.binom.ppf(1 - 1e-9, n, changes)) + 10
    lost, gained = (grid.ravel() for grid in np.indices((far, far)))
    true = np.array([(changes + mean) / 2, (changes - mean) / 2, 1 - changes])
    counts = np.stack([lost, gained, n - lost - gained], axis=1)
    here = stats.multinomial.pmf(counts, n, true)
    found = []
    for rate in changes * np.array([0.97, 1.0, 1.03]):
        null = stats.multinomial.pmf(
            counts, n, [(rate + budget) / 2, (rate - budget) / 2, 1 - rate]
        )
        order = np.argsort(-np.divide(here, null, out=np.zeros_like(here), where=null > 0))
        spent, gain = np.cumsum(null[order]), np.cumsum(here[order])
        found.append(float(np.interp(level, spent, gain)))
    return min(found)


@pytest.mark.parametrize(
    ("n", "budget", "changes", "mean"),
    [
        (1000, 0.01, 0.03, 0.0),
        (1000, 0.01, 0.05, 0.0),
        (1000, 0.02, 0.06, 0.0),
        (600, 0.03, 0.1, 0),
    ],
)
def test_the_trinomial_test_is_nearly_as_sharp_as_one_that_knows_the_rates(
    n: int, budget: float, changes: float, mean: float
) -> None:
    found, best = (p(n, budget, changes, mean, 0.05) for p in (power, best_power))
    assert best - 0.03 < found <= best
    assert power(n, budget, changes, budget, 0.05) <= 0.05  # at the boundary


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
    random, draws = np.random.default_rng(4), 120
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
            trial=Trial(excess=excess),
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
    budget, confidence, draws = 0.03, 0.8, 120
    plan = fit(synthetic(1000, seed=10), budget, excess=excess)
    population = plan.answering(synthetic(4000, seed=11))
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
            trial=Trial(excess=excess),
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
    assert found.verdict == "keep the reference"
    assert found.tradeoff is None
    assert (found.static_choice, found.cost, found.bound) == ("big", 10.0, 0.0)
    assert found.examples_needed is not None
    assert found.examples_needed > 1000
    assert certificate([25]).examples_needed is None


def test_a_single_network_that_is_as_cheap_runs_alone() -> None:
    found = certificate([0, 3], static=2)
    assert found.verdict == "one network"
    assert (found.static_choice, found.cost, found.tradeoff) == ("small", 2.5, None)


def test_a_single_network_that_saves_nothing_is_not_run() -> None:
    dear = {"small": one(0, 10.0), "other": one(0, 12.0)}
    found = certify([one(100, 5, 9.0)], dear, 0.02, reference="big", reference_cost=10.0,
                    order=Order(0, {"small": 0, "other": 0}))  # fmt: skip
    assert (found.verdict, found.static_choice) == ("keep the reference", "big")
    assert (found.cost, found.speedup) == (10.0, 1.0)


def test_earlier_certificates_say_which_of_the_three_verdicts_they_meant() -> None:
    for found in (certificate([50]), certificate([0, 3], static=2)):
        before = {**found.to_json(), "verdict": "do not route"}
        assert Certificate.from_json(before).verdict == found.verdict
    with pytest.raises(ValueError, match="perhaps"):
        Certificate.from_json({**found.to_json(), "verdict": "perhaps"})


def test_answers_changed_are_counted_of_what_runs() -> None:
    alone = certificate([0], static=3)
    assert (alone.losses, alone.changes) == (3, "answers changed")
    nothing = certificate([50])
    assert (nothing.losses, nothing.changes) == (50, "answers changed at the safest tested")


def test_a_single_network_that_fails_is_not_used() -> None:
    found = certificate([0, 3, 4], static=100)
    assert (found.verdict, found.static_choice) == ("route", "big")


def test_the_path_is_tested_at_all_of_the_error() -> None:
    lost = next(k for k in itertools.count() if trinomial(k, 0, 1000, 0.02, level=0.05) > 0.025)
    assert trinomial(lost, 0, 1000, 0.02, level=0.05) <= 0.05  # passes at delta, not at half of it
    assert certificate([lost]).tradeoff == 9.0


def one(lost: int, cost: float, tradeoff: float | None = None, n: int = 1000) -> Candidate:
    return Candidate(tradeoff, cost, np.repeat([1.0, 0.0], [lost, n - lost]))


def test_one_failure_ends_the_sequence_for_path_and_single_networks() -> None:
    points, bad = [one(0, 5, 9.0), one(1, 4, 8.0), one(2, 3, 7.0)], {"small": one(100, 1)}
    say = partial(certify, points, bad, 0.02, reference="big", reference_cost=10.0)
    for place, tradeoff in ((0, None), (1, 9.0), (2, 8.0), (3, 7.0)):
        found = say(order=Order(0, {"small": place}))
        assert found.tradeoff == tradeoff
        assert [point.stage for point in found.statics] == ["small"]
    assert say(order=Order(2, {})).points[0].tradeoff == 7.0
    good = certify(
        [one(100, 5, 9.0)],
        {"small": one(1, 2), "medium": one(1, 4)},
        0.02,
        reference="big",
        reference_cost=10.0,
        order=Order(0, {"small": 0, "medium": 0}),
    )
    assert [point.stage for point in good.statics] == ["medium", "small"]  # the dearest first
    assert (good.verdict, good.static_choice) == ("one network", "small")
    assert certify([one(100, 5, 9.0)], {"small": one(1, 2)}, 0.02, reference="big",
                   reference_cost=10.0).static_choice == "big"  # fmt: skip


def test_the_order_puts_the_surest_first_and_passes_over_dear_points() -> None:
    points = [one(0, 12, 9.0), one(0, 8, 8.0), one(4, 6, 7.0), one(15, 4, 6.0), one(30, 2, 5.0)]
    statics = {
        "sure": one(1, 3),
        "less": one(12, 3),
        "hopeless": one(200, 1),
        "dear": one(0, 9),
    }
    order = safest_first(points, statics, 0.02, 10.0)
    assert order.start == 1
    assert order.places == {"sure": 2, "less": 4, "hopeless": 4, "dear": 4}
    assert safest_first(points, statics, 0.02, 1.0).start == 0


@pytest.mark.parametrize("confidence", [0.9, 0.5])
def test_no_true_hypothesis_passes_too_often_among_path_and_single_networks(
    confidence: float,
) -> None:
    """Risks over the budget among points and single networks, ordered by a learning half."""
    random, draws, budget, n = np.random.default_rng(6), 150, 0.02, 1000
    risks = {9.0: 0.0, 8.0: 0.01, 7.0: 0.0201, 6.0: 0.0205, 5.0: 0.03}
    single = {"small": 0.0201, "medium": 0.005, "tiny": 0.021}
    costs = {"small": 2.0, "medium": 5.5, "tiny": 1.0}

    def half() -> tuple[list[Candidate], dict[str, Candidate]]:
        points = [Candidate(t, t, drawn(m, max(0.05, m), n, random)) for t, m in risks.items()]
        return points, {
            s: Candidate(None, costs[s], drawn(m, 0.06, n, random)) for s, m in single.items()
        }

    wrong = useful = 0
    for _ in range(draws):
        order = safest_first(*half(), budget, 10.0)
        found = certify(*half(), budget, reference="big", reference_cost=10.0,
                        confidence=confidence, order=order)  # fmt: skip
        passed = [p for p in (*found.points, *found.statics) if p.p_value <= 1 - confidence]
        true = [risks[p.tradeoff] if p.tradeoff else single[str(p.stage)] for p in passed]
        wrong += max(true, default=0.0) > budget
        useful += found.cost < 10
    assert wrong / draws <= allowed(1 - confidence, draws)
    assert useful / draws > 0.9


@pytest.mark.parametrize(
    ("changed", "mean", "budget", "chance"),
    [
        (0.01, 0.0025, 0.01, 0.8),
        (0.03, 0.0, 0.01, 0.8),
        (0.1, 0.0, 0.02, 0.5),
        (0.1, -0.01, 0.02, 0.8),
    ],
)
def test_as_many_examples_as_expected_certify_as_often_as_it_says(
    changed: float, mean: float, budget: float, chance: float
) -> None:
    n = examples_expected(changed, mean, budget, power=chance)
    assert n is not None
    random, draws = np.random.default_rng(7), 300
    p = [(changed + mean) / 2, (changed - mean) / 2, 1 - changed]
    passed = {
        size: np.mean(
            [
                trinomial(int(lost), int(gained), size, budget) <= 0.05
                for lost, gained, _ in random.multinomial(size, p, draws)
            ]
        )
        for size in (n, n // 2)
    }
    assert chance - 0.1 < passed[n] < chance + 0.15
    assert passed[n // 2] < passed[n] - 0.1


def test_examples_expected_where_only_losses_count() -> None:
    assert examples_expected(0.0, 0.0, 0.01, excess="induced") == 299
    assert examples_expected(0.3, 0.0, 0.005, excess="induced") == 598
    more = examples_expected(0.3, 0.003, 0.01, excess="induced")
    assert more is not None
    assert np.mean(stats.binom.rvs(more, 0.003, size=2000, random_state=0) <= stats.binom.ppf(
        0.8, more, 0.003)) >= 0.8  # fmt: skip
    assert binomial(int(stats.binom.ppf(0.8, more, 0.003)), more, 0.01) <= 0.05
    assert examples_expected(0.3, 0.01, 0.01) is None
    assert examples_expected(0.02, 0.5, 0.03) == examples_expected(0.02, 0.02, 0.03)


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
