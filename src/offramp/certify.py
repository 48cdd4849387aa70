"""The promise: from excess losses on examples that trained nothing to a tradeoff and a certificate.

A finite path of tradeoffs, fixed on other examples, is tested from the safest on; the first that
cannot be rejected stops (fixed-sequence testing: Angelopoulos et al. 2021, Learn then Test,
section 2.1). The error is spent once, however many points there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
from scipy import optimize, special, stats

from offramp.arrays import FloatArray, IntArray
from offramp.errors import BudgetError
from offramp.tasks import Excess

Method = Literal["binomial", "trinomial", "betting"]
ROUTE, DO_NOT_ROUTE = "route", "do not route"
_NUISANCE = 0.02  # share of the level that the trinomial test spends on the rate of changes
_RATES = 33  # rates of changes at which it looks for the worst case
_NEGLIGIBLE = 1e-12  # probability left out of its sum, and added back to the p-value
_BETS = np.geomspace(1e-3, 0.98, 24)  # bets of the mixture, as shares of the largest allowed
_CHUNK = 200_000  # examples at once in the betting test


@dataclass(frozen=True)
class Candidate:
    """One point of the path, on the certification examples."""

    tradeoff: float | None  # None: a static network
    cost: float  # mean, in the unit of the trace
    excess: FloatArray  # (examples,) in [-1, 1]


@dataclass(frozen=True)
class Tested:
    """What a test said of a point."""

    tradeoff: float | None
    excess_loss: float
    cost: float
    p_value: float


@dataclass(frozen=True)
class Certificate:
    """The evidence that a plan keeps its promise, or that none can be given."""

    excess: Excess
    loss: str  # top1, disagreement, ...
    budget: float  # excess loss accepted, a fraction
    confidence: float  # chance over the draw of the examples that the promise holds
    method: Method
    examples: int
    losses: int  # examples with positive excess loss, at the point that `tradeoff` names
    gains: int  # examples with negative excess loss, there
    bound: float  # upper confidence bound of the excess loss of what the plan runs
    tradeoff: float | None  # None: no point passed
    cost: float  # of what the plan runs, in the unit of the trace
    reference_cost: float
    speedup: float
    static_choice: str  # the cheapest single network that passes; the reference always does
    static_cost: float
    examples_needed: int | None  # for the safest point at the same rates; None: no number would do
    verdict: str  # "route" or "do not route"
    points: tuple[Tested, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        value["points"] = [asdict(point) for point in self.points]
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Certificate:
        points = tuple(Tested(**point) for point in value["points"])
        return cls(**{**value, "points": points})


def check_promise(budget: float, confidence: float) -> None:
    """Raises BudgetError where the budget lies outside [0, 1] or the confidence outside (0, 1)."""
    if not (isinstance(budget, int | float) and 0 <= budget <= 1):
        raise BudgetError(
            f"the budget is {budget}; it is the accuracy given up, a fraction between 0 and 1 "
            "(0.01 is one percentage point)."
        )
    if not (isinstance(confidence, int | float) and 0 < confidence < 1):
        raise BudgetError(f"the confidence is {confidence}; it must lie between 0 and 1.")


def certify(
    path: Iterable[Candidate],
    statics: dict[str, Candidate],
    budget: float,
    *,
    reference: str,
    reference_cost: float,
    confidence: float = 0.95,
    excess: Excess = "net",
    loss: str = "top1",
    binary: bool = True,
    method: Method | None = None,
    seed: int = 0,
) -> Certificate:
    """The certificate of the cheapest tradeoff whose excess loss stays within `budget`.

    Half of the allowed error goes to the path, half to the single networks from the dearest down.
    The path is consumed only as far as it passes.

    Args:
        path: candidates in an order fixed before looking at these examples, safest first.
        statics: every single network but the reference, by name.
        budget: excess loss given up, a fraction in [0, 1]; 0.01 is one percentage point.
        reference: the name of the full network, which needs no test.
        reference_cost: the cost of running it alone.
        confidence: chance, over the draw of the examples, that the promise holds.
        excess: the kind that the candidates hold.
        loss: its name, for the record.
        binary: whether every loss is 0 or 1.
        method: the test; None takes the sharpest valid one (`method_for`).
        seed: fixes the order in which the betting test reads the examples.

    Returns:
        A certificate; its tradeoff is None where no point passes, and `examples_needed` says what
        it would take.

    Raises:
        BudgetError: `budget` or `confidence` lies outside its range.
    """
    check_promise(budget, confidence)
    method = method or method_for(excess, binary)
    delta = (1 - confidence) / 2
    test = partial(p_value, method=method, level=delta, seed=seed)
    points, chosen, first = _walk_path(path, budget, delta, test)
    static = _static(statics, budget, delta, test)
    static_cost = statics[static].cost if static else reference_cost
    routed = chosen is not None and chosen.cost < min(static_cost, reference_cost)
    running = chosen if routed else statics[static] if static else None
    shown = chosen or first
    return Certificate(
        excess=excess,
        loss=loss,
        budget=budget,
        confidence=confidence,
        method=method,
        examples=len(shown.excess) if shown else 0,
        losses=int((shown.excess > 0).sum()) if shown else 0,
        gains=int((shown.excess < 0).sum()) if shown else 0,
        bound=0.0 if running is None else upper_bound(running.excess, delta, method, seed=seed),
        tradeoff=chosen.tradeoff if chosen and routed else None,
        cost=running.cost if running else reference_cost,
        reference_cost=reference_cost,
        speedup=reference_cost / (running.cost if running else reference_cost),
        static_choice=static or reference,
        static_cost=static_cost,
        examples_needed=examples_needed(first.excess, budget, delta, method) if first else None,
        verdict=ROUTE if routed else DO_NOT_ROUTE,
        points=tuple(points),
    )


PValue = Callable[[FloatArray, float], float]


def _walk_path(
    path: Iterable[Candidate], budget: float, delta: float, test: PValue
) -> tuple[list[Tested], Candidate | None, Candidate | None]:
    """The points tested, the cheapest that passed before the first failure, and the first point."""
    points: list[Tested] = []
    chosen = first = None
    # no correction for many points: they are tried in a fixed order and the first failure stops
    for candidate in path:
        first = first or candidate
        p = test(candidate.excess, budget)
        mean = float(candidate.excess.mean(dtype=np.float64))
        points.append(Tested(candidate.tradeoff, mean, candidate.cost, p))
        if p > delta:
            break
        if chosen is None or candidate.cost < chosen.cost:
            chosen = candidate
    return points, chosen, first


def _static(statics: dict[str, Candidate], budget: float, delta: float, test: PValue) -> str | None:
    """The cheapest single network that passes, tried from the dearest down; None: the reference."""
    passed = None
    for name in sorted(statics, key=lambda name: -statics[name].cost):
        if test(statics[name].excess, budget) > delta:
            break
        passed = name
    return passed


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
    """
    losses, gains = int((excess > 0).sum()), int((excess < 0).sum())
    if method == "binomial":
        return binomial(losses, len(excess), budget)
    if method == "trinomial":
        return trinomial(losses, gains, len(excess), budget, level=level)
    return betting(excess, budget, seed=seed)


def binomial(losses: int, examples: int, budget: float) -> float:
    """P(at most `losses` of `examples`) when each is lost with probability `budget`."""
    return float(stats.binom.cdf(losses, examples, np.clip(budget, 0.0, 1.0)))


def trinomial(
    losses: int, gains: int, examples: int, budget: float, *, level: float = 0.05
) -> float:
    """An exact p-value for the mean of values in {-1, 0, 1}, from their counts.

    The statistic is losses - gains. At the boundary P(1) - P(-1) = budget its law depends only on
    the rate of changes q = P(1) + P(-1). The p-value is the largest over an upper confidence limit
    of q, plus the error of that limit, 2 % of `level`.

    Source: Berger and Boos 1994, P values maximized over a confidence set for the nuisance
    parameter, section 2.
    """
    if examples == 0:
        return 1.0
    changes, spent = losses + gains, _NUISANCE * level
    highest = 1.0
    if changes < examples:
        highest = float(stats.beta.ppf(1 - spent, changes + 1, examples - changes))
    lowest = max(abs(budget), 1.0 / examples**2)
    rates = np.linspace(lowest, max(highest, lowest), _RATES)
    worst = float(_tails(losses - gains, examples, rates, budget).max())
    return min(1.0, worst + spent)


def _tails(difference: int, examples: int, rates: FloatArray, mean: float) -> FloatArray:
    """P(losses - gains <= difference) when changes have these `rates` and the mean is `mean`.

    Given the number of changes the losses are binomial; this sums over that number, as far from its
    mean as Bernstein's inequality says that the rest is negligible.
    """
    far = -math.log(_NEGLIGIBLE / 2)
    centre = examples * rates
    spread = far / 3 + np.sqrt(far**2 / 9 + 2 * far * centre * (1 - rates))
    low = np.floor(np.maximum(centre - spread, 0)).astype(np.int64)
    high = np.ceil(np.minimum(centre + spread, examples)).astype(np.int64)
    sizes = high - low + 1
    starts = np.cumsum(sizes) - sizes
    changes = np.arange(sizes.sum()) + np.repeat(low - starts, sizes)
    rate = np.repeat(rates, sizes)
    share = np.minimum(1.0, (rate + mean) / (2 * rate))
    most = np.floor((changes + difference) / 2)
    below = np.where(most < 0, 0.0, special.bdtr(np.clip(most, 0, changes), changes, share))
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
    return float(optimize.brentq(too_small, low, high, xtol=1e-6))


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
        if method == "binomial":
            return binomial(losses, examples, budget) <= delta
        return trinomial(losses, gains, examples, budget, level=delta) <= delta

    return _smallest(passes, 10**9)


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
