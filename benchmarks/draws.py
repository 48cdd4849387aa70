"""How often `fit` itself breaks its promises, for many sets of options, where the truth is known.

Usage: python -m benchmarks.draws [--draws 200] [--population 200000]

Each draw makes examples of its own and calls `fit` on them, as a user would: learning, choosing and
certifying included. What it chose is then measured on a very large population drawn likewise, whose
mean is the truth up to a standard error that is saved; for repeats, on a table of few rows drawn
from with replacement, whose mean is the truth. A promise is broken where the true excess loss
is above the budget. `allowed` is the share that may be, plus three standard errors of the count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.results import command
from offramp.base.arrays import FloatArray, IntArray
from offramp.core.frontier import excess_of, replay
from offramp.core.graph import Costs, Graph, Stage
from offramp.core.trace import Trace, assemble
from offramp.learn.latency import Latency
from offramp.plan.asked import Asked, Promise
from offramp.plan.fit import fit_each
from offramp.plan.plan import Plan
from offramp.promise.certify import KEEP

CONFIDENCE = 0.9  # low, so that broken promises are seen in few draws
EXAMPLES, CLASSES = 1200, 10
TABLE = 150  # different rows that repeats are drawn from
STAGES = ("small", "medium", "large")
CHAIN = Graph.build(STAGES, None)
EXITS = Graph(
    (Stage("small"), Stage("medium", after="small"), Stage("large", after="medium")),
    CHAIN.edges,
    "large",
)
_POPULATION, _TABLE = 1_000_000, 2_000_000  # seeds that no draw has


def near(scores: FloatArray, labels: IntArray) -> FloatArray:
    """A loss with many values: how far the answer lies from the label, up to half of all."""
    away = np.abs(scores.argmax(axis=1) - labels) / (CLASSES / 2)
    return np.asarray(np.minimum(away, 1.0))


def examples(number: int, seed: int, graph: Graph = CHAIN) -> Trace:
    """Stages that see alike, and cost three times as much from one to the next."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, number)
    hard = random.gamma(1.0, 1.0, (number, 1))
    shared = random.normal(size=(number, CLASSES))
    truth = 4.0 * (labels[:, None] == np.arange(CLASSES))
    scores = {}
    for stage, own in zip(STAGES, (1.5, 0.75, 0.5), strict=True):
        noise = random.normal(size=shared.shape) * own
        scores[stage] = (truth + hard * (shared + noise)).astype(np.float32)
    costs = Costs({s: 3.0**i for i, s in enumerate(STAGES)}, dict.fromkeys(STAGES, 0.1), "MFLOP")
    return assemble(graph, costs, scores, labels=labels, kind="logits")


@dataclass(frozen=True)
class World:
    """Examples drawn, and all there are to draw from."""

    population: Trace
    draw: Callable[[int], Trace]  # by seed

    @classmethod
    def endless(cls, size: int, graph: Graph = CHAIN) -> World:
        return cls(examples(size, _POPULATION, graph), partial(examples, EXAMPLES, graph=graph))

    @classmethod
    def table(cls) -> World:
        """Few different rows, which are drawn again and again: their mean is the truth."""
        rows = examples(TABLE, _TABLE)

        def draw(seed: int) -> Trace:
            return rows.take(np.random.default_rng(seed).integers(0, TABLE, EXAMPLES))

        return cls(rows, draw)


@dataclass(frozen=True)
class Case:
    """How plans are asked for."""

    asked: Asked
    seeds: int = 1  # looks at the same rows, of which the cheapest that passes is taken
    world: str = "endless"

    def plans(self, trace: Trace) -> list[Plan]:
        """The plans of one draw, all promises of which must hold together."""
        looks = [
            fit_each(trace, replace(self.asked, split=replace(self.asked.split, seed=seed)))
            for seed in range(self.seeds)
        ]
        return [min(each, key=_cost) for each in zip(*looks, strict=True)]


def _cost(plan: Plan) -> float:
    return 1 / plan.certificate.speedup


REQUESTS = Latency(
    batch=8,
    parts={
        part: {n: 1e-3 * (0.2 + cost * n) for n in (1, 2, 4, 8)}
        for stage, cost in zip(STAGES, (1.0, 3.0, 9.0), strict=True)
        for part, cost in ((stage, cost), (f"{stage}.head", 0.1))
    },
    stop=dict.fromkeys((1, 2, 4, 8), 5e-5),
)


def _asked(*budgets: float, **options: Any) -> Asked:
    return Asked.of(*(budgets or (0.02,)), confidence=CONFIDENCE, **options)


CASES: Mapping[str, Case] = {
    "default": Case(_asked()),
    "pool": Case(_asked(pool=True)),
    "refit": Case(_asked(refit=True)),
    "induced": Case(_asked(0.03, excess="induced")),
    "unlabelled": Case(_asked(unlabelled=True)),
    "own graded loss": Case(_asked(loss="benchmarks.draws:near")),
    "learning share": Case(_asked(learn_share=0.2)),
    "three budgets": Case(_asked(0.01, 0.02, 0.05)),
    "three looks": Case(_asked(looks=3), seeds=3),
    "repeats": Case(_asked(repeats="real"), world="table"),
    "exits in requests": Case(_asked(prices=REQUESTS), world="exits"),
}


def everything(
    draws: int = 200,
    population: Annotated[int, typer.Option(help="Examples for the truth.")] = 200_000,
) -> dict[str, Any]:
    rows = [{"options": name, **row} for name, row in study(draws, population).items()]
    return {"draws": draws, "confidence": CONFIDENCE, "examples": EXAMPLES, "rows": rows}


def study(draws: int, population: int, names: Sequence[str] = tuple(CASES)) -> dict[str, Any]:
    """What each set of options comes to, by name."""
    worlds = {
        "endless": World.endless(population),
        "exits": World.endless(population, EXITS),
        "table": World.table(),
    }
    found = {}
    for name in names:
        found[name] = counted(CASES[name], worlds[CASES[name].world], draws)
        print(name, found[name], flush=True)
    return found


def counted(case: Case, world: World, draws: int) -> dict[str, Any]:
    """Broken promises, certified plans and their costs, over many draws."""
    broken, certified, costs, errors = [], [], [], []
    for seed in range(draws):
        plans = case.plans(world.draw(seed))
        true = [truth(plan, world.population, case.asked.promise) for plan in plans]
        budgets = [plan.certificate.budget for plan in plans]
        over = [mean > budget for (mean, _), budget in zip(true, budgets, strict=True)]
        broken.append(any(over))  # one suffices
        certified.append(any(plan.certificate.verdict != KEEP for plan in plans))
        costs.append(float(np.mean([_cost(plan) for plan in plans])))
        errors.append(max(error for _, error in true))
    allowed = 1 - case.asked.promise.confidence
    noise = 3 * (allowed * (1 - allowed) / draws) ** 0.5
    return {
        "budgets": list(case.asked.promise.budgets),
        "broken": float(np.mean(broken)),
        "allowed": allowed + noise,
        "certified": float(np.mean(certified)),
        "cost": float(np.mean(costs)),  # over the reference's
        "truth_error": 0.0 if case.world == "table" else float(np.max(errors)),
    }


def truth(plan: Plan, population: Trace, promise: Promise) -> tuple[float, float]:
    """The mean excess loss of a plan over all there is to draw from, and its standard error."""
    spoken = plan.answering(population)
    losses = spoken.losses(promise.loss_name, promise.excess)
    excess = excess_of(replay(spoken, plan.running, plan.setting), losses).astype(np.float64)
    return float(excess.mean()), float(excess.std() / len(excess) ** 0.5)


if __name__ == "__main__":
    command("draws", everything)
