"""What promises cost where examples are few, on made-up populations whose truth is known.

Usage: python -m benchmarks.few [--draws 2000]

Populations are types of examples with random chances, so that every policy's true risk is known
exactly. A policy learns on examples of its own; certification sets are drawn, and each is
certified. Beside it, on the same sets: the best test there could be, the likelihood ratio that
knows the true rates of losses and gains of each candidate; the rule before this one (half of the
error to the path, half to single networks, a test of the plain difference); and tuning without a
certificate. Then how many examples in all, learning included, the former rule took for the cost
that the present one reaches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from scipy import special, stats

from benchmarks.results import command
from offramp.base.arrays import BoolArray, FloatArray, IntArray
from offramp.core.graph import Costs, Graph
from offramp.core.rows import learning_share
from offramp.core.trace import Trace, assemble
from offramp.plan.job import candidates, statics
from offramp.policies.learned import Learned
from offramp.promise import pvalues
from offramp.promise.certify import in_order
from offramp.promise.order import Candidate, safest_first

SIZES = (1000, 2500, 5000)  # certification examples
BUDGETS = (0.005, 0.01, 0.02)
DELTA = 0.05
LEARNING = 2500
TYPES = 3000
TOTALS = (1500, 2500, 4000, 6500, 10000)  # examples in all
LEARNERS = 4  # learning sets for each of these
CLASSES = 10
STAGES = ("small", "medium", "large")
NOTHING = -1  # no candidate: the reference runs
Test = Callable[..., float]  # losses, gains, examples, budget; level


@dataclass(frozen=True)
class World:
    """How examples are made: what stages see, and how much of their noise they share."""

    name: str
    signal: float
    own: tuple[float, float, float]  # noise of each stage, besides the shared

    def examples(self, number: int, seed: int) -> Trace:
        """Examples as `offramp.testing.synthetic` makes them, of these noises."""
        random = np.random.default_rng(seed)
        labels = random.integers(0, CLASSES, number)
        hard = random.gamma(1.0, 1.0, (number, 1))
        shared = random.normal(size=(number, CLASSES))
        truth = self.signal * (labels[:, None] == np.arange(CLASSES))
        scores = {
            stage: (truth + hard * (shared + own * random.normal(size=shared.shape))).astype("f4")
            for stage, own in zip(STAGES, self.own, strict=True)
        }
        costs = Costs(
            {s: 3.0**i for i, s in enumerate(STAGES)}, dict.fromkeys(STAGES, 0.0), "MFLOP"
        )
        return assemble(Graph.build(STAGES, None), costs, scores, labels=labels, kind="logits")


WORLDS = (
    World("as synthetic", 4.0, (1.5, 0.75, 0.5)),
    World("few changes", 6.0, (0.8, 0.5, 0.3)),
    World("stages alike, many changes", 4.0, (0.9, 0.85, 0.8)),
)


def everything(draws: int = 2000) -> dict[str, Any]:
    rows = [row for world in WORLDS for row in study(world, draws)]
    totals = [row for world in WORLDS for row in in_all(world, draws // 5)]
    return {"draws": draws, "delta": DELTA, "learning": LEARNING, "rows": rows, "totals": totals}


def study(world: World, draws: int) -> Iterator[dict[str, Any]]:
    """A row for each number of certification examples and each budget."""
    population = Population.of(world)
    policy = population.learn(LEARNING, seed=1)
    for budget in BUDGETS:
        lineup = population.lineup(policy, budget)
        for size in SIZES:
            counts = lineup.draw(population.chances, size, draws, seed=size)
            found = {
                name: lineup.summary(judge(counts, budget), budget)
                for name, judge in lineup.rules().items()
            }
            yield {
                "population": world.name,
                "budget": budget,
                "examples": size,
                **found,
                "truth_known": lineup.cheapest(budget),
                "ratio": found["certified"]["cost"] / found["best"]["cost"],
            }


def in_all(world: World, draws: int) -> Iterator[dict[str, Any]]:
    """Mean costs at each number of examples, learning included, by both rules."""
    population, budget = Population.of(world), 0.01
    for total in TOTALS:
        row: dict[str, Any] = {"population": world.name, "budget": budget, "examples": total}
        for name, share in (("certified", learning_share(total)), ("former", 0.5)):
            size = total - round(share * total)
            costs = []
            for seed in range(LEARNERS):
                policy = population.learn(total - size, seed)
                lineup = population.lineup(policy, budget)
                counts = lineup.draw(population.chances, size, draws, seed)
                chosen = lineup.rules()[name](counts, budget)
                costs.append(lineup.summary(chosen, budget)["cost"])
            row[name] = float(np.mean(costs))
        yield row


@dataclass(frozen=True)
class Taught:
    """A policy and the examples that taught it."""

    policy: Learned
    trace: Trace


@dataclass(frozen=True)
class Population:
    """Types of examples and their chances."""

    world: World
    types: Trace
    chances: FloatArray  # (types,)

    @classmethod
    @cache
    def of(cls, world: World) -> Population:
        chances = np.random.default_rng(3).dirichlet(np.ones(TYPES))
        return cls(world, world.examples(TYPES, 2), chances)

    @cache  # noqa: B019 - a handful of populations
    def learn(self, number: int, seed: int) -> Taught:
        trace = self.world.examples(number, 100 + seed)
        return Taught(Learned.fit(trace, trace.losses("top1", "net")), trace)

    def __hash__(self) -> int:
        return hash(self.world)

    def lineup(self, taught: Taught, budget: float) -> Lineup:
        """What is tested of the policy and the single networks, and in which order."""
        known = self._candidates(taught.trace, taught.policy)
        order = safest_first(*known, budget, taught.trace.reference_cost)
        path, single = self._candidates(self.types, taught.policy)
        every = [*path, *single.values()]
        places = {id(candidate): i for i, candidate in enumerate(every)}
        excess = np.stack([candidate.excess for candidate in every])
        losses, gains = (excess > 0).astype(np.float32), (excess < 0).astype(np.float32)
        return Lineup(
            losses,
            gains,
            losses @ self.chances,
            gains @ self.chances,
            np.array([candidate.cost for candidate in every]) / self.types.reference_cost,
            [places[id(candidate)] for _, candidate in in_order(path, single, order)],
            len(path),
        )

    @staticmethod
    def _candidates(trace: Trace, policy: Learned) -> tuple[list[Candidate], dict[str, Candidate]]:
        losses = trace.losses("top1", "net")
        return list(candidates(trace, losses, policy)), statics(trace, losses)


@dataclass(frozen=True)
class Lineup:
    """Candidates, the path first and then the single networks, on every type of example."""

    losses: FloatArray  # (candidates, types) 0 or 1
    gains: FloatArray  # likewise
    lost: FloatArray  # (candidates,): true rate of losses
    gained: FloatArray  # (candidates,): true rate of gains
    cost: FloatArray  # (candidates,): true mean, as a share of the reference's
    order: list[int]  # in which they are tested
    path: int  # so many are points of the path

    def draw(self, chances: FloatArray, size: int, draws: int, seed: int) -> Counts:
        """Losses and gains of every candidate in sets drawn with replacement."""
        drawn = np.random.default_rng(seed).multinomial(size, chances, draws)
        types = drawn.T.astype(np.float32)
        lost, gained = (self.losses @ types).astype(np.int64), (self.gains @ types).astype(np.int64)
        return Counts(lost, gained, size)

    def rules(self) -> dict[str, Callable[[Counts, float], IntArray]]:
        """By the name of their column."""
        rules = (self.certified, self.best, self.former, self.tuned)
        return {rule.__name__: rule for rule in rules}

    def certified(self, counts: Counts, budget: float) -> IntArray:
        """What the library runs: one sequence at all of the error."""
        limits = limits_of(pvalues.trinomial, counts.size, budget, DELTA)
        return self._walk(
            self.order, counts.draws, lambda i, draws: limits.passes(*counts.of(i, draws))
        )

    def best(self, counts: Counts, budget: float) -> IntArray:
        """The same sequence by tests that know the true rates of losses and gains."""

        def passes(i: int, draws: IntArray) -> BoolArray:
            most = likeliest(float(self.lost[i]), float(self.gained[i]), counts.size, budget)
            lost, gained = counts.of(i, draws)
            return np.asarray(lost <= most[lost + gained])

        return self._walk(self.order, counts.draws, passes)

    def former(self, counts: Counts, budget: float) -> IntArray:
        """The rule before: half of the error to the path, half to the single networks."""
        limits = limits_of(plain, counts.size, budget, DELTA / 2)
        single = sorted(range(self.path, len(self.cost)), key=lambda i: -self.cost[i])
        found = [
            self._walk(part, counts.draws, lambda i, draws: limits.passes(*counts.of(i, draws)))
            for part in ([*range(self.path)], single)
        ]
        costs = [self.costs(chosen) for chosen in found]
        return np.where(costs[1] <= costs[0], found[1], found[0])

    def tuned(self, counts: Counts, budget: float) -> IntArray:
        """The cheapest candidate that looks good on the same examples."""
        good = counts.lost - counts.gained <= budget * counts.size
        cost = np.where(good, self.cost[:, None], np.inf)
        return np.where(good.any(axis=0), cost.argmin(axis=0), NOTHING)

    def _walk(
        self, order: list[int], draws: int, passes: Callable[[int, IntArray], BoolArray]
    ) -> IntArray:
        """The cheapest candidate before the first failure in each draw; NOTHING: none passed."""
        chosen, going = np.full(draws, NOTHING), np.arange(draws)
        for i in order:
            going = going[passes(i, going)]
            better = self.cost[i] < self.costs(chosen[going])
            chosen[going[better]] = i
        return chosen

    def costs(self, chosen: IntArray) -> FloatArray:
        """Of what runs: the reference where nothing was chosen, or nothing cheaper."""
        return np.where(chosen == NOTHING, 1.0, np.minimum(self.cost[chosen], 1.0))

    def summary(self, chosen: IntArray, budget: float) -> dict[str, float]:
        broken = (chosen != NOTHING) & (self.lost - self.gained > budget)[chosen]
        cost = float(self.costs(chosen).mean())
        return {"broken": float(broken.mean()), "cost": cost, "speedup": 1 / cost}

    def cheapest(self, budget: float) -> float:
        """The cost of the cheapest candidate that truly keeps the budget."""
        kept = self.lost - self.gained <= budget
        return float(min(1.0, self.cost[kept].min(initial=1.0)))


@dataclass(frozen=True)
class Counts:
    """What certification sets hold."""

    lost: IntArray  # (candidates, draws)
    gained: IntArray  # (candidates, draws)
    size: int  # examples of each set

    @property
    def draws(self) -> int:
        return int(self.lost.shape[1])

    def of(self, candidate: int, draws: IntArray) -> tuple[IntArray, IntArray]:
        return self.lost[candidate, draws], self.gained[candidate, draws]


@dataclass(frozen=True)
class Limits:
    """The most losses that pass a test at each number of changes, found when asked for."""

    test: Test
    size: int
    budget: float
    delta: float
    known: dict[int, int] = field(default_factory=dict)

    def passes(self, lost: IntArray, gained: IntArray) -> BoolArray:
        changes, inverse = np.unique(lost + gained, return_inverse=True)
        most = np.array([self._most(int(c)) for c in changes], dtype=np.int64)
        return np.asarray(lost <= most[inverse])

    def _most(self, changes: int) -> int:
        if changes not in self.known:
            # about where the normal law has it; then step by step
            spread = stats.norm.isf(self.delta) * math.sqrt(max(changes, self.size * self.budget))
            most = round((changes + self.size * self.budget - spread) / 2)
            most = min(max(most, -1), changes)
            while most < changes and self._one(most + 1, changes):
                most += 1
            while most >= 0 and not self._one(most, changes):
                most -= 1
            self.known[changes] = most
        return self.known[changes]

    def _one(self, lost: int, changes: int) -> bool:
        found = self.test(lost, changes - lost, self.size, self.budget, level=self.delta)
        return found <= self.delta


@cache
def limits_of(test: Test, size: int, budget: float, delta: float) -> Limits:
    return Limits(test, size, budget, delta)


def plain(lost: int, gained: int, size: int, budget: float, *, level: float) -> float:
    """The test before: of the plain difference, at every rate of changes up to a high limit."""
    changes, spent = lost + gained, 0.02 * level
    highest = float(stats.beta.ppf(1 - spent, changes + 1, size - changes))
    rates = np.linspace(budget, max(highest, budget), 33)
    low, high = pvalues._likely(size, rates)
    most = np.floor((np.arange(low[0], high[-1] + 1) + lost - gained) / 2).astype(np.int64)
    most = np.minimum(most, np.arange(low[0], high[-1] + 1))
    return min(1.0, float(pvalues._tails(most, low, high, size, rates, budget).max()) + spent)


@cache
def likeliest(lost: float, gained: float, size: int, budget: float) -> IntArray:
    """The most losses, at each number of changes, that the best test of a candidate lets pass.

    It knows the true rates and takes the likelihood ratio against the closest rates that break the
    budget (Neyman and Pearson), so that no valid test passes more often. A candidate that truly
    breaks the budget passes with the probability that is allowed.
    """
    changes = np.arange(size + 1)
    lost, gained = max(lost, 1e-12), max(gained, 1e-12)
    up, down, none = _closest(lost, gained, budget)
    weigh = (math.log(lost / up), math.log(gained / down), math.log((1 - lost - gained) / none))
    if lost - gained >= budget:  # its own rates are the null; few losses speak against it
        up, down, weigh = lost, gained, (-1.0, 1.0, 0.0)
    likely = np.abs(changes - size * (up + down)) < 9 * math.sqrt(size * (up + down)) + 20
    some = changes[likely]
    terms = stats.binom.pmf(some, size, up + down)

    def at(least: float) -> IntArray:
        slope = weigh[0] - weigh[1]  # negative: losses speak for the budget being broken
        bound = (least - some * weigh[1] - (size - some) * weigh[2]) / slope
        return np.asarray(np.minimum(np.floor(bound + 1e-9), some), dtype=np.int64)

    def chance(least: float) -> float:
        most = at(least)
        below = special.bdtr(np.maximum(most, 0), some, up / (up + down))
        return float(terms @ np.where(most < 0, 0.0, below))

    low, high = -float(size), float(size)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if chance(middle) <= DELTA else (middle, high)
    result = np.full(size + 1, -1, dtype=np.int64)
    result[likely] = at(high)
    return result


def _closest(lost: float, gained: float, budget: float) -> tuple[float, float, float]:
    """Rates of losses, gains and neither whose mean is the budget, closest in relative entropy.

    By Lagrange: each rate is divided by 1 - s * budget + s * value, for the s that keeps the mean.
    """
    none = 1 - lost - gained

    def rates(s: float) -> tuple[float, float, float]:
        shift = 1 - s * budget
        return lost / (shift + s), gained / (shift - s), none / shift

    low, high = -1 / (1 - budget), 0.0
    for _ in range(80):
        middle = (low + high) / 2
        up, down, _ = rates(middle)
        # a lower s gives more weight to losses
        low, high = (middle, high) if up - down > budget else (low, middle)
    return rates(high)


if __name__ == "__main__":
    command("few", everything)
