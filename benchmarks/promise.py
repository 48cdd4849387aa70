"""How often promises are broken, where the truth is known, and what keeping them costs.

Usage: python -m benchmarks.promise DATA [--cache DIR] [--draws 2000]

A policy learns on 2,500 photographs. The other 7,500 are the population: its mean is the truth.
Certification sets are drawn from it with replacement; each is certified, and the chosen point's
true excess loss compared with the budget. Beside it: tuning without a certificate, which takes the
cheapest point whose mean on the same set is within the budget. The same on made-up types of
examples whose probabilities, and so every policy's true risk, are known exactly. There also what
`fit` chooses by itself on several learning sets: who takes part, how they answer, what decides, and
what is tested when.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cifar
from benchmarks.results import CACHE, Data, command
from offramp.answering.committees import with_committees
from offramp.base.arrays import FloatArray
from offramp.core.tasks import Excess, Losses
from offramp.core.trace import Trace
from offramp.plan.asked import Asked
from offramp.plan.job import Rows, candidates, prepare, statics
from offramp.policies.learned import Learned
from offramp.promise.certify import in_order
from offramp.promise.order import Candidate
from offramp.promise.pvalues import method_for, p_value
from offramp.testing import synthetic

LEARNING = 2500
SIZES = (1000, 5000)
BUDGETS = (0.005, 0.01, 0.02)
CONFIDENCES = (0.9, 0.95)
KINDS: tuple[Excess, ...] = ("net", "induced")
CHAIN = "ResNet-20 > ResNet-56"
TYPES = 3000  # of made-up examples
CHOICES = 8  # learning sets on which `fit` chooses


def everything(data: Data, cache: Path = CACHE, draws: int = 2000) -> dict[str, Any]:
    real = cifar.traces(data, cache)[CHAIN]
    learning, rest = real.split(LEARNING / real.examples, 0)
    known = synthetic(TYPES, seed=2)
    chances = np.random.default_rng(3).dirichlet(np.ones(TYPES))
    uniform = np.full(len(rest), 1 / len(rest))
    rows = [
        *study(CHAIN, real.take(learning), real.take(rest), uniform, draws),
        *study("made-up types", synthetic(LEARNING, seed=1), known, chances, draws),
    ]
    return {
        "draws": draws,
        "learning": LEARNING,
        "rows": rows,
        "choices": CHOICES,
        "chosen": list(chosen(known, chances, draws)),
    }


def chosen(population: Trace, chances: FloatArray, draws: int) -> Iterator[dict[str, Any]]:
    """A row for each size and budget: what `fit` chooses on several learning sets, certified."""
    learning = [synthetic(LEARNING, seed=10 + number) for number in range(CHOICES)]
    for size, budget in itertools.product(SIZES, BUDGETS):
        found = [_chosen(trace, population, chances, size, budget, draws) for trace in learning]
        mean = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
        most = max(one["broken"] for one in found)
        yield {"examples": size, "budget": budget, **mean, "most broken": most}


def _chosen(
    learning: Trace,
    population: Trace,
    chances: FloatArray,
    size: int,
    budget: float,
    draws: int,
) -> dict[str, float]:
    """Of one learning set: everything is chosen once, and then certified by many sets."""
    counted = population.take(np.arange(size) % population.examples)  # only their number counts
    rows = Rows(trace=learning, learning=learning, certifying=counted, source=counted)
    job = prepare(rows, Asked.of(budget), budget)
    spoken = with_committees(population, job.taught.lesson.committees)
    losses = spoken.losses("top1")
    path = list(candidates(spoken, losses, job.taught.policy))
    tested = [found for _, found in in_order(path, statics(spoken, losses), job.order)]
    points = Points.along(tested, population.reference_cost, chances, "net")
    random = np.random.default_rng(size)
    passes = _passes(size, budget, job.asked.promise.error, "net")
    certified = [points.certified(points.draw(size, random), passes) for _ in range(draws)]
    return points.summary(certified, budget)


def study(
    name: str, learning: Trace, population: Trace, chances: FloatArray, draws: int
) -> list[dict[str, Any]]:
    """A row for each kind of excess, size, budget and confidence."""
    rows = []
    for kind in KINDS:
        path = Points.of(learning, population, chances, kind)
        for size in SIZES:
            random = np.random.default_rng(size)
            counts = [path.draw(size, random) for _ in range(draws)]
            for budget in BUDGETS:
                for confidence in CONFIDENCES:
                    found = path.judge(counts, size, budget, confidence)
                    rows.append({"population": name, "excess": kind, "examples": size, **found})
    return rows


@dataclass(frozen=True)
class Points:
    """The policy's path on a population: each example type's excess loss, and the truth."""

    losses: FloatArray  # (points, types) 0 or 1
    gains: FloatArray  # (points, types) 0 or 1
    truth: FloatArray  # (points,): true excess loss
    cost: FloatArray  # (points,): true mean cost, as a share of the reference's
    chances: FloatArray  # (types,)
    kind: Excess

    @classmethod
    def of(cls, learning: Trace, population: Trace, chances: FloatArray, kind: Excess) -> Points:
        policy = Learned.fit(learning, learning.losses("top1", kind))
        losses: Losses = population.losses("top1", kind)
        return cls.along(
            list(candidates(population, losses, policy)), population.reference_cost, chances, kind
        )

    @classmethod
    def along(
        cls, points: Sequence[Candidate], unit: float, chances: FloatArray, kind: Excess
    ) -> Points:
        """Of candidates in order, on all of a population, whose reference costs `unit`."""
        excess = np.stack([point.excess for point in points]).astype(np.float64)
        # the cost of a point is known from the population, so that draws differ in losses alone
        cost = np.array([point.cost for point in points]) / unit
        return cls(
            (excess > 0).astype(np.float32),
            (excess < 0).astype(np.float32),
            excess @ chances,
            cost,
            chances,
            kind,
        )

    def draw(self, size: int, random: np.random.Generator) -> tuple[FloatArray, FloatArray]:
        """Numbers of losses and gains at each point, in a set drawn with replacement."""
        drawn = random.multinomial(size, self.chances).astype(np.float32)
        return self.losses @ drawn, self.gains @ drawn

    def judge(
        self,
        counts: list[tuple[FloatArray, FloatArray]],
        size: int,
        budget: float,
        confidence: float,
    ) -> dict[str, Any]:
        """Shares of broken promises and speed-ups, certified and merely tuned."""
        level = 1 - confidence
        passes = _passes(size, budget, level, self.kind)
        certified, tuned = [], []
        for lost, gained in counts:
            certified.append(self.certified((lost, gained), passes))
            allowed = np.flatnonzero((lost - gained) / size <= budget)
            tuned.append(int(allowed[self.cost[allowed].argmin()]) if len(allowed) else None)
        return {
            "budget": budget,
            "confidence": confidence,
            "certified": self.summary(certified, budget),
            "tuned": self.summary(tuned, budget),
            "best_speedup": self._best(budget),
        }

    def certified(self, counts: tuple[FloatArray, FloatArray], passes: Any) -> int | None:
        """Fixed-sequence testing: the cheapest point before the first failure."""
        chosen = None
        lost_and_gained = (each.astype(int).tolist() for each in counts)
        for i, (lost, gained) in enumerate(zip(*lost_and_gained, strict=True)):
            if not passes(lost, gained):
                break
            if self.cost[i] < 1 and (chosen is None or self.cost[i] < self.cost[chosen]):
                chosen = i
        return chosen

    def summary(self, chosen: list[int | None], budget: float) -> dict[str, float]:
        """Where nothing was chosen the reference runs: no promise broken, no speed-up."""
        broken = [i is not None and self.truth[i] > budget for i in chosen]
        speedups = [1.0 if i is None else float(1 / self.cost[i]) for i in chosen]
        return {
            "broken": float(np.mean(broken)),
            "routed": float(np.mean([i is not None for i in chosen])),
            "speedup": float(np.mean(speedups)),
        }

    def _best(self, budget: float) -> float:
        """The speed-up of the cheapest point that truly keeps the budget."""
        kept = self.truth <= budget
        return float(1 / self.cost[kept].min()) if kept.any() else 1.0


def _passes(size: int, budget: float, level: float, kind: Excess) -> Any:
    """Whether counts of losses and gains are rejected at `level`, each pair tested once."""
    method = method_for(kind, binary=True)

    @cache
    def passes(lost: int, gained: int) -> bool:
        excess = np.zeros(size, dtype=np.float32)
        excess[:lost], excess[lost : lost + gained] = 1, -1
        return p_value(excess, budget, method, level=level) <= level

    return passes


if __name__ == "__main__":
    command("promise", everything)
