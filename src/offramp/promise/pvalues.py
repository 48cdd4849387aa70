"""Tests of the mean excess loss: p-values, confidence bounds, and how many examples they take.

Every test is valid whatever the law of the examples, which are drawn independently: exact where
counts say everything, a betting martingale for all else.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from scipy import optimize, special, stats

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import LossError
from offramp.core.tasks import Excess

Method = Literal["binomial", "trinomial", "betting"]
POWER = 0.8  # chance to pass that numbers of examples are worked out for
_NUISANCE = 0.005  # share of the level that the trinomial test spends on the rate of changes
_STEP = 0.15  # standard errors of that rate between those at which it looks for the worst case
_NEGLIGIBLE = 1e-12  # probability left out of its sum, and added back to the p-value
_TIE = 1e-9  # statistics closer than this are equal
_BETS = np.geomspace(1e-3, 0.98, 24)  # bets of the mixture, as shares of the largest allowed
_MOST = 10**9  # examples; more are never to be had
_LARGE = 10**6  # examples, from where estimates of their number take the normal law
_CHUNK = 200_000  # examples at once in the betting test


def method_for(excess: Excess, binary: bool) -> Method:
    """The sharpest valid test: exact where counts say everything, betting for all else."""
    if not binary:
        return "betting"
    return "binomial" if excess == "induced" else "trinomial"


def p_value(
    excess: FloatArray, budget: float, method: Method, *, level: float = 0.05, seed: int = 0
) -> float:
    """A valid p-value of the hypothesis that the mean excess loss exceeds `budget`.

    Args:
        excess: (examples,) in [-1, 1]; in {0, 1} for `binomial`, in {-1, 0, 1} for `trinomial`.
        budget: in [-1, 1].
        method: binomial, trinomial or betting.
        level: the level it will be compared with; the trinomial test is sharpest there.
        seed: fixes the order in which the betting test reads the examples.

    Returns:
        In [0, 1]; at most u with probability at most u, whatever u, where the hypothesis is true.

    Raises:
        LossError: values that the test cannot count.
    """
    if method == "betting":
        return betting(excess, budget, seed=seed)
    losses, gains = _counts(excess, method)
    if method == "binomial":
        return binomial(losses, len(excess), budget)
    return trinomial(losses, gains, len(excess), budget, level=level)


def _counts(excess: FloatArray, method: Method) -> tuple[int, int]:
    """How many values are 1 and how many -1, where all others are 0."""
    losses, gains = int((excess == 1).sum()), int((excess == -1).sum())
    others = len(excess) - losses - gains - int((excess == 0).sum())
    if others or (gains and method == "binomial"):
        raise LossError(
            f"the {method} test counts losses, but {others or gains} of {len(excess)} excess "
            f"losses are none of {'0 and 1' if method == 'binomial' else '-1, 0 and 1'}: the "
            "examples that taught had no such. Let more of them teach, or scale the loss."
        )
    return losses, gains


def binomial(losses: int, examples: int, budget: float) -> float:
    """P(at most `losses` of `examples`) when each is lost with probability `budget`."""
    return float(stats.binom.cdf(losses, examples, np.clip(budget, 0.0, 1.0)))


def trinomial(
    losses: int, gains: int, examples: int, budget: float, *, level: float = 0.05
) -> float:
    """An exact p-value for the mean of values in {-1, 0, 1}, from their counts.

    The statistic is the score: (losses - gains - examples * budget) over its standard error where
    the mean is `budget` and the rate of changes q = P(1) + P(-1) is the likeliest for that. Its law
    at the boundary depends only on q, and hardly on that. The p-value is the largest over a
    confidence interval of q, plus the error of that interval, 0.5 % of `level`.

    Source: Berger and Boos 1994, P values maximized over a confidence set for the nuisance
    parameter, section 2; the score statistic of paired counts is Tango's (1998), equation 6.
    """
    if examples == 0:
        return 1.0
    spent = _NUISANCE * level
    rates = _plausible(losses + gains, examples, budget, spent)
    low, high = _likely(examples, rates)
    changes = np.arange(low[0], high[-1] + 1)
    most = _as_extreme(losses, gains, examples, budget, changes)
    worst = float(_tails(most, low, high, examples, rates, budget).max())
    return min(1.0, worst + spent)


def _plausible(changes: int, examples: int, budget: float, error: float) -> FloatArray:
    """Rates of changes in their confidence interval (Clopper and Pearson), rising, a step apart."""
    least = max(abs(budget), 1.0 / examples**2)
    low = stats.beta.ppf(error / 2, changes, examples - changes + 1) if changes else 0.0
    high = 1.0
    if changes < examples:
        high = stats.beta.ppf(1 - error / 2, changes + 1, examples - changes)
    low = min(max(low, least), 1.0)
    # standard errors are the same everywhere on this scale: 1 / (2 * sqrt(examples))
    ends = np.arcsin(np.sqrt([low, min(max(high, low), 1.0)]))
    steps = math.ceil((ends[1] - ends[0]) * 2 * math.sqrt(examples) / _STEP)
    return np.asarray(np.sin(np.linspace(ends[0], ends[1], steps + 1)) ** 2)


def _likely(examples: int, rates: FloatArray) -> tuple[IntArray, IntArray]:
    """Between which numbers of changes all but a negligible probability lies (Bernstein)."""
    far = -math.log(_NEGLIGIBLE / 2)
    centre = examples * rates
    spread = far / 3 + np.sqrt(far**2 / 9 + 2 * far * centre * (1 - rates))
    low = np.floor(np.maximum(centre - spread, 0)).astype(np.int64)
    high = np.ceil(np.minimum(centre + spread, examples)).astype(np.int64)
    return low, high


def _score(losses: AnyArray, gains: AnyArray, examples: int, budget: float) -> FloatArray:
    """The score statistic of these counts; lower speaks against a mean above `budget`."""
    difference, changes = losses - gains, losses + gains
    # the likeliest rate of changes solves a quadratic equation
    half = (changes + budget * difference) / 2
    rest = budget * difference - (examples - changes) * budget**2
    root = np.sqrt(np.maximum(half**2 - examples * rest, 0.0))
    rate = np.clip((half + root) / examples, abs(budget), 1.0)
    spread = np.sqrt(np.maximum(examples * (rate - budget**2), _NEGLIGIBLE))
    return np.asarray((difference - examples * budget) / spread)


def _as_extreme(
    losses: int, gains: int, examples: int, budget: float, changes: IntArray
) -> IntArray:
    """The most losses, for each number of changes, that speak as much against; -1 for none."""
    found = float(_score(np.array(losses), np.array(gains), examples, budget)) + _TIE
    low, high = np.full_like(changes, -1), changes + 1
    while (open_ := high - low > 1).any():
        middle = (low + high) // 2
        within = np.clip(middle, 0, changes)
        extreme = _score(within, changes - within, examples, budget) <= found
        low = np.where(open_ & extreme, middle, low)
        high = np.where(open_ & ~extreme, middle, high)
    return low


def _tails(
    most: IntArray, low: IntArray, high: IntArray, examples: int, rates: FloatArray, mean: float
) -> FloatArray:
    """P(at most so many losses, given the changes) when changes have these `rates`.

    Args:
        most: for each number of changes from low[0] on.
        low: the fewest changes to sum over, for each rate; high: the most.
        mean: P(1) - P(-1). Given the number of changes, the losses are binomial.
    """
    sizes = high - low + 1
    starts = np.cumsum(sizes) - sizes
    changes = np.arange(sizes.sum()) + np.repeat(low - starts, sizes)
    rate = np.repeat(rates, sizes)
    share = np.minimum(1.0, (rate + mean) / (2 * rate))
    losses = most[changes - low[0]]
    below = np.where(losses < 0, 0.0, special.bdtr(np.maximum(losses, 0), changes, share))
    terms = np.exp(_log_binomial(changes, examples, rate)) * below
    return np.asarray(np.add.reduceat(terms, starts) + _NEGLIGIBLE)


def _log_binomial(successes: IntArray, n: int, probability: FloatArray) -> FloatArray:
    """The logarithm of the probability of that many successes among n."""
    ways = special.gammaln(n + 1) - special.gammaln(successes + 1)
    ways = ways - special.gammaln(n - successes + 1)
    failures = special.xlog1py(n - successes, -probability)
    return np.asarray(ways + special.xlogy(successes, probability) + failures)


def betting(excess: FloatArray, budget: float, *, seed: int = 0) -> float:
    """A p-value for the mean of any values in [-1, 1]: one over the largest wealth of a bettor.

    The bettor splits its stake over a grid of fixed bets against "the mean exceeds `budget`" and
    reads the examples in one order that `seed` fixes; its wealth is a non-negative martingale at
    the boundary, so Ville's inequality bounds its maximum.

    Source: Waudby-Smith and Ramdas 2024, Estimating means of bounded random variables by betting,
    section 4; the mixture of bets is Cover's universal portfolio (Orabona and Jun 2024).
    """
    if budget >= 1 or not len(excess):
        return 0.0 if len(excess) else 1.0
    bets = _BETS / (1 - budget)
    order = np.random.default_rng(seed).permutation(len(excess))
    wealth, best = np.zeros(len(bets)), 0.0
    for start in range(0, len(order), _CHUNK):
        gain = budget - excess[order[start : start + _CHUNK]].astype(np.float64)
        path = wealth + np.cumsum(np.log1p(gain[:, None] * bets), axis=0)
        best = max(best, float(special.logsumexp(path, axis=1).max()) - math.log(len(bets)))
        wealth = path[-1]
    return math.exp(-best)


def upper_bound(excess: FloatArray, delta: float, method: Method, *, seed: int = 0) -> float:
    """The smallest budget that the test would accept at error `delta`: an upper confidence bound.

    Returns:
        In [-1, 1], at least the mean of `excess`; 1 where there are no examples.
    """
    if not len(excess):
        return 1.0

    def too_small(budget: float) -> float:
        return p_value(excess, budget, method, level=delta, seed=seed) - delta

    low, high = float(excess.mean(dtype=np.float64)), 1.0
    if too_small(low) <= 0:
        return low
    return float(optimize.brentq(too_small, low, high, xtol=1e-5))


def examples_needed(excess: FloatArray, budget: float, delta: float, method: Method) -> int | None:
    """How many examples would pass the test at the same rates of losses and gains.

    Returns:
        A number of at least 1; None where no number would do, or more than a thousand million.
    """
    mean = float(excess.mean(dtype=np.float64)) if len(excess) else 1.0
    if mean >= budget:
        return None
    if method == "betting":
        bets = _BETS / (1 - min(budget, 1 - 1e-9))
        growth = np.log1p((budget - excess.astype(np.float64))[:, None] * bets).mean(axis=0).max()
        return (
            math.ceil((math.log(1 / delta) + math.log(len(bets))) / growth) if growth > 0 else None
        )
    lost, gained = float((excess > 0).mean()), float((excess < 0).mean())

    def passes(examples: int) -> bool:
        losses, gains = math.ceil(lost * examples), math.floor(gained * examples)
        return _passes(losses, gains, examples, budget, delta, method)

    return _smallest(passes, _MOST)


def examples_expected(
    changed: float,
    excess_loss: float,
    budget: float,
    *,
    confidence: float = 0.95,
    excess: Excess = "net",
    power: float = POWER,
) -> int | None:
    """How many examples a budget takes, before any is labelled, where losses are 0 or 1.

    Args:
        changed: share of examples whose answer is not the reference's: the most that can be lost.
        excess_loss: its assumed mean; at most `changed` counts.
        budget: excess loss given up, a fraction in [0, 1].
        confidence: chance, over the draw of the examples, that the promise holds.
        excess: its kind.
        power: chance that so many examples certify a setting of these rates, tested by itself.

    Returns:
        A number of at least 1; None where no number would do, or more than a thousand million.
    """
    mean = min(excess_loss, changed)
    if mean >= budget:
        return None
    induced, delta = excess == "induced", 1 - confidence
    lost = max(mean, 0.0) if induced else (changed + mean) / 2
    gained = 0.0 if induced else (changed - mean) / 2

    def passes(examples: int) -> bool:
        """Whether all but the unluckiest draws pass."""
        if induced:
            unlucky = int(stats.binom.ppf(power, examples, lost))
            return _passes(unlucky, 0, examples, budget, delta, "binomial")
        rates = np.maximum([examples * lost, examples * gained], _NEGLIGIBLE)
        unlucky = int(stats.skellam.ppf(power, *rates))
        losses = max(unlucky, 0, math.ceil((examples * changed + unlucky) / 2))
        return _passes(losses, losses - unlucky, examples, budget, delta, "trinomial")

    return _smallest(passes, _MOST)


def _passes(
    losses: int, gains: int, examples: int, budget: float, delta: float, method: Method
) -> bool:
    """Whether these counts pass; among very many examples by the normal law, as an estimate."""
    if losses + gains > examples:
        return False
    if method == "binomial":
        return binomial(losses, examples, budget) <= delta
    if examples > _LARGE:
        found = _score(np.array(losses), np.array(gains), examples, budget)
        return bool(float(found) <= stats.norm.ppf(delta))
    return trinomial(losses, gains, examples, budget, level=delta) <= delta


def _smallest(passes: Callable[[int], bool], limit: int) -> int | None:
    """The smallest number that passes, by doubling and bisection; None above `limit`."""
    high = 1
    while not passes(high):
        high *= 2
        if high > limit:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def interval(excess: FloatArray, confidence: float, method: Method) -> tuple[float, float]:
    """A confidence interval of the mean excess loss, each side at half the error."""
    delta = (1 - confidence) / 2
    # minus a value in {0, 1} lies in {-1, 0}, which the trinomial test takes and the binomial not
    below: Method = "trinomial" if method == "binomial" else method
    return -upper_bound(-excess, delta, below), upper_bound(excess, delta, method)
