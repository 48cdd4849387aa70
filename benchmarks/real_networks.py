"""Some policies on real networks: at equal quality, and tuned on one half for the other.

Usage: python -m benchmarks.real_networks DATA [--cache DIR] [--splits 20]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cifar
from benchmarks.results import CACHE, Data, command, standard_error
from offramp.answering.committees import with_committees
from offramp.base.arrays import FloatArray
from offramp.core.frontier import Point, cost_at, frontier, hull, static_points, uniform_points
from offramp.core.trace import Trace
from offramp.learn.teach import teach
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.policies import FAMILIES, Policy
from offramp.study.compare import oracles

LEVELS = (0.0, 0.005, 0.01, 0.02)  # net excess loss
BUDGET, CONFIDENCE = 0.01, 0.95  # of the certified point in the figure
DEFAULT = "offramp"
SHOWN = ("learned", "myopic", "margin", "entropy", "thresholds", "eenet", "cascade-routing")


def everything(data: Data, cache: Path = CACHE, splits: int = 20) -> dict[str, Any]:
    found = {name: study(trace, splits) for name, trace in cifar.traces(data, cache).items()}
    return {"levels": LEVELS, "splits": splits, "graphs": found}


def study(trace: Trace, splits: int) -> dict[str, Any]:
    """Both tables of one graph, and the frontiers of its first split for the figure."""
    equal: dict[str, list[list[float]]] = {}
    tuned: dict[str, list[list[tuple[float, float]]]] = {}
    figure: dict[str, Any] = {}
    for seed in range(splits):
        first, second = trace.split(0.5, seed)
        halves = Halves(trace.take(first), trace.take(second))
        for name, (points, chosen) in halves.measure().items():
            equal.setdefault(name, []).append(halves.speedups(points))
            if chosen:
                tuned.setdefault(name, []).append(chosen)
            if seed == 0:
                figure[name] = [[p.excess_loss, p.cost] for p in hull(points)]
        if seed == 0:
            figure["static"] = {s: [p.excess_loss, p.cost] for s, p in halves.statics.items()}
            figure["certified"] = halves.certified()
    return {
        "examples": trace.examples,
        "reference_cost": trace.reference_cost,
        "cost_unit": trace.costs.unit,
        "equal_quality": {name: _summary(np.array(rows)) for name, rows in equal.items()},
        "learned_minus": _differences({n: np.array(rows) for n, rows in equal.items()}),
        "tuned": {name: _tuned(np.array(rows)) for name, rows in tuned.items()},
        "figure": figure,
    }


class Halves:
    """One half to learn and tune on, the other to measure on."""

    def __init__(self, first: Trace, second: Trace) -> None:
        self.first, self.second = first, second
        self.tune, self.test = first.losses("top1"), second.losses("top1")
        self.statics = static_points(second, self.test)
        self.reference = self.statics[first.graph.reference]

    def points(self, name: str) -> list[Point]:
        """The frontier of a policy on the second half."""
        return frontier(self.second, self.test, FAMILIES[name](self.first, self.tune))

    def default(self) -> list[Point]:
        """What `fit` does by default, whoever answers together."""
        taught = teach(self.first)
        together = with_committees(self.second, taught.lesson.committees)
        return frontier(together, together.losses("top1"), taught.policy)

    def measure(self) -> dict[str, tuple[list[Point], list[tuple[float, float]]]]:
        """For each policy its frontier on the second half, and what the tuned points do there."""
        found: dict[str, tuple[list[Point], list[tuple[float, float]]]] = {}
        for name in SHOWN:
            policy = FAMILIES[name](self.first, self.tune)
            points = frontier(self.second, self.test, policy)
            found[name] = (points, self._tuned(policy, points))
        found[DEFAULT] = (self.default(), [])
        found["uniform"] = (uniform_points(self.statics.values()), [])
        found["exact oracle"] = (oracles(self.second, self.test)[1], [])
        return found

    def _tuned(self, policy: Policy, points: Sequence[Point]) -> list[tuple[float, float]]:
        """Excess loss and speed-up on the second half of the cheapest point that the first allows.

        Where the first half allows none, the reference runs alone.
        """
        seen = frontier(self.first, self.tune, policy)
        chosen = []
        for level in LEVELS:
            allowed = [i for i, point in enumerate(seen) if point.excess_loss <= level]
            best = min(allowed, key=lambda i: seen[i].cost, default=None)
            point = self.reference if best is None else points[best]
            chosen.append((point.excess_loss, point.speedup))
        return chosen

    def certified(self) -> dict[str, float]:
        """A plan fitted and certified inside the first half, and what it does on the second."""
        plan = fit(self.first, BUDGET, confidence=CONFIDENCE)
        found = evaluate(plan, self.second)
        return {
            "budget": BUDGET,
            "confidence": CONFIDENCE,
            "bound": plan.certificate.bound,
            "excess_loss": found.excess_loss or 0.0,
            "cost": found.cost,
        }

    def speedups(self, points: Sequence[Point]) -> list[float]:
        """At each level, on the hull of the points and the reference run alone."""
        return [self.reference.cost / cost_at([*points, self.reference], at) for at in LEVELS]


def _summary(rows: FloatArray) -> dict[str, list[float]]:
    return {"mean": rows.mean(axis=0).tolist(), "se": standard_error(rows).tolist()}


def _differences(equal: dict[str, FloatArray]) -> dict[str, dict[str, list[float]]]:
    """The learned policy minus every other, paired over the splits."""
    ours = equal["learned"]
    return {name: _summary(ours - rows) for name, rows in equal.items() if name != "learned"}


def _tuned(rows: FloatArray) -> dict[str, Any]:
    """rows: (splits, levels, 2): excess loss and speed-up."""
    missed = rows[:, :, 0] > np.array(LEVELS)
    return {
        "excess_loss": _summary(rows[:, :, 0]),
        "speedup": _summary(rows[:, :, 1]),
        "missed": missed.mean(axis=0).tolist(),
    }


if __name__ == "__main__":
    command("real_networks", everything)
