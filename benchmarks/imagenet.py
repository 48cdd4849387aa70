"""Network selection of Bolukbasi et al. 2017 on ImageNet, from recorded classes without scores.

Usage: python -m benchmarks.imagenet DATA

DATA holds `imagenet/top5.npz`: the five best classes of AlexNet, GoogLeNet and ResNet-50 on the
50,000 validation images. Three topologies (A > G > R, A > R, and the tree in which A may skip G),
and G > R, which the paper lacks; top-1 and top-5 loss, in the paper's times and in multiply-adds.
Half of the images teach, the other half measures. Policies see no scores, but the classes: how far
lists agree, and how often a network that lists these classes is right, learned out of fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.results import command
from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.core.frontier import Point, cost_at
from offramp.core.graph import Costs, Graph
from offramp.core.hulls import corners
from offramp.core.rows import RowFacts
from offramp.core.task.recorded import RecordedAnswers
from offramp.core.trace import Trace, assemble
from offramp.study.compare import Comparison, compare

NETWORKS = ("alexnet", "googlenet", "resnet50")
COSTS = {  # the first as the paper measured them, the second thousand millions
    "ms": (0.23, 0.7, 2.6),
    "multiply-adds": (0.71, 1.5, 4.1),
}
TOPOLOGIES = {
    "A > G > R": ("alexnet>googlenet>resnet50", NETWORKS),
    "A > R": ("alexnet>resnet50", ("alexnet", "resnet50")),
    "A > {G, R}, G > R": ("alexnet>googlenet>resnet50,alexnet>resnet50", NETWORKS),
    "G > R": ("googlenet>resnet50", ("googlenet", "resnet50")),  # not in the paper
}
LOSSES = {"top1": 1, "top5": 5}  # how many of the classes count
PAPER_LEVELS = (0.0, 0.005, 0.01, 0.02, 0.05)  # net excess loss
POLICIES = ("auto", "learned", "network", "myopic", "thresholds", "agreement")
STOPS_AT = (0.005, 0.01, 0.02)  # levels at which it is told where images stop
FOLDS = 5
KIN = 25  # classes of neighbouring numbers, which are kin
PRIOR = 20.0  # examples that a class is shrunk to its kin by, and those to all classes

Files = Annotated[Path, typer.Argument(help="Folder with `imagenet/top5.npz`.")]
Lists = Mapping[str, IntArray]  # network -> (n, 5), the best class first


def experiment(data: Files, seed: int = 0) -> dict[str, Any]:
    arrays = dict(np.load(data / "imagenet" / "top5.npz"))
    labels = arrays["labels"].astype(np.int64)
    lists = {name: arrays[name].astype(np.int64) for name in NETWORKS}
    first = np.random.default_rng(seed).permutation(len(labels)) < len(labels) // 2
    halves = Halves(lists, labels, first)
    return {
        "examples": {"learned": int(first.sum()), "measured": int((~first).sum())},
        "levels": PAPER_LEVELS,
        "costs": {unit: dict(zip(NETWORKS, each, strict=True)) for unit, each in COSTS.items()},
        "shares": {loss: shares(lists, labels, count) for loss, count in LOSSES.items()},
        "found": {
            loss: {
                unit: {name: halves.study(loss, unit, name) for name in TOPOLOGIES}
                for unit in COSTS
            }
            for loss in LOSSES
        },
    }


def wrong(lists: IntArray, labels: IntArray, count: int) -> FloatArray:
    """1 where the label is not among the first `count` classes, (n,)."""
    return np.asarray((lists[:, :count] != labels[:, None]).all(axis=1), dtype=np.float64)


def shares(lists: Lists, labels: IntArray, count: int) -> dict[str, float]:
    """How many images which networks answer rightly; the paper's figure 1."""
    right = {name: wrong(each, labels, count) == 0 for name, each in lists.items()}
    everyone = np.stack(list(right.values()))
    first, *others = everyone
    return {
        "right by all": float(everyone.all(axis=0).mean()),
        "wrong by all": float((~everyone).all(axis=0).mean()),
        "right by another than the first": float((np.any(others, axis=0) & ~first).mean()),
        **{f"error of {name}": float(1 - each.mean()) for name, each in right.items()},
    }


@dataclass(frozen=True)
class Halves:
    """Images to learn from, and others to measure on."""

    lists: Lists
    labels: IntArray
    first: AnyArray  # (n,) whether an image teaches

    def study(self, loss: str, unit: str, topology: str) -> dict[str, Any]:
        """Policies, single networks and oracles on one topology."""
        learning, measuring = self.traces(loss, unit, topology)
        return told(compare(learning, measuring, policies=POLICIES, bands=False))

    def traces(self, loss: str, unit: str, topology: str) -> tuple[Trace, Trace]:
        """To learn from and to measure on, with observations that know no label of their own."""
        edges, names = TOPOLOGIES[topology]
        costs = dict(zip(NETWORKS, COSTS[unit], strict=True))
        priced = Costs({n: costs[n] for n in names}, dict.fromkeys(names, 0.0), unit)
        graph, count = Graph.build(names, edges), LOSSES[loss]
        losses = {name: wrong(self.lists[name], self.labels, count) for name in names}
        seen = self.observations(names, losses)
        made = [
            assemble(
                graph,
                priced,
                {name: seen[name][rows] for name in names},
                facts=RowFacts(
                    task=RecordedAnswers(),
                    loss={name: losses[name][rows] for name in names},
                    answers={name: self.lists[name][rows, 0] for name in names},
                ),
                seal=0.0,
            )
            for rows in (np.flatnonzero(self.first), np.flatnonzero(~self.first))
        ]
        return made[0], made[1]

    def observations(
        self, names: Sequence[str], losses: Mapping[str, FloatArray]
    ) -> dict[str, FloatArray]:
        """What a policy sees of each network, (n, k); the surer the network, the larger the first.

        Rates by class are learned from images that teach, those of an image that teaches itself
        from other folds.
        """
        folds = np.random.default_rng(1).permutation(len(self.labels)) % FOLDS
        folds = np.where(self.first, folds, FOLDS)  # those that measure: from all that teach
        reference, found = names[-1], dict[str, FloatArray]()
        for number, name in enumerate(names):
            lists = self.lists[name]
            columns = [np.zeros(len(lists)) for _ in range(4)]
            for fold in range(FOLDS + 1):
                held, teach = folds == fold, self.first & (folds != fold)
                for column, values, ranks in (
                    (columns[0], 1.0 - losses[name], 1),
                    (columns[1], 1.0 - losses[name], lists.shape[1]),
                    (columns[2], losses[name] - losses[reference], 1),
                    (columns[3], losses[name] - losses[reference], lists.shape[1]),
                ):
                    table = [rates(lists[teach, k], values[teach]) for k in range(ranks)]
                    column[held] = np.mean([t[lists[held, k]] for k, t in enumerate(table)], axis=0)
            before = [self.lists[other] for other in names[:number]]
            found[name] = np.column_stack([*columns, nearby(lists), *overlaps(lists, before)])
        return found


def rates(classes: IntArray, values: FloatArray, of: int = 1000) -> FloatArray:
    """The mean of some values by class, (of,), shrunk to its kin and those to all."""
    number = np.bincount(classes, minlength=of).astype(float)
    total = np.bincount(classes, values, minlength=of)
    kin = np.arange(of) // KIN
    of_kin = [np.bincount(kin, each)[kin] for each in (number, total)]
    group = (of_kin[1] + PRIOR * values.mean()) / (of_kin[0] + PRIOR)
    return np.asarray((total + PRIOR * group) / (number + PRIOR))


def nearby(lists: IntArray) -> FloatArray:
    """How many of the classes are kin of the first, by their numbers, (n,)."""
    return np.asarray((np.abs(lists[:, 1:] - lists[:, :1]) < KIN).sum(axis=1), dtype=np.float64)


def overlaps(lists: IntArray, others: Sequence[IntArray]) -> list[FloatArray]:
    """Of each earlier list: classes in common, and where each list has the other's first class."""
    found = []
    for other in others:
        common = (lists[:, :, None] == other[:, None, :]).any(axis=2).sum(axis=1)
        found += [common.astype(np.float64), place(other, lists[:, 0]), place(lists, other[:, 0])]
    return found


def place(lists: IntArray, classes: IntArray) -> FloatArray:
    """The place of a class in each list from 0 on; the length where it is not there, (n,)."""
    hits = lists == classes[:, None]
    at = np.where(hits.any(axis=1), hits.argmax(axis=1), lists.shape[1])
    return np.asarray(at, dtype=np.float64)


def told(found: Comparison) -> dict[str, Any]:
    """What a comparison found, in a few numbers and curves."""
    alone = found.static[found.reference]
    curves = {**found.policies, "exact oracle": found.exact_oracle}
    return {
        "speedups": {
            name: [alone.cost / cost_at([*points, alone], level) for level in PAPER_LEVELS]
            for name, points in curves.items()
        },
        "static": {name: point(each, alone) for name, each in found.static.items()},
        "soft oracle": point(found.soft_oracle, alone),
        "curves": {
            name: [point(each, alone) for each in hull(curves[name])]
            for name in ("auto", "uniform", "exact oracle")
        },
        "stops": [stopped(each, alone) for each in found.policies["auto"]],
        "stops_at": {
            f"{level:g}": stops(found.policies["auto"], found.static, level) for level in STOPS_AT
        },
    }


def hull(points: Sequence[Point]) -> list[Point]:
    """The points at the corners of a frontier, from the dearest down."""
    lost, cost = (np.array([getattr(p, n) for p in points]) for n in ("excess_loss", "cost"))
    return [points[i] for i in corners(lost, cost)]


def stopped(found: Point, alone: Point) -> list[float]:
    """Cost over the reference's, and which share of the images stops at each network."""
    return [round(found.cost / alone.cost, 4), *(round(x, 4) for x in found.exits.values())]


def point(found: Point, alone: Point) -> list[float]:
    """Excess loss, and cost over the reference's."""
    return [round(found.excess_loss, 5), round(found.cost / alone.cost, 4)]


def stops(points: Sequence[Point], stages: Mapping[str, Any], level: float) -> dict[str, float]:
    """Where images stop at the cheapest setting that loses at most so much on these images."""
    within = [p for p in points if p.excess_loss <= level]
    cheapest = min(within, key=lambda p: p.cost) if within else points[0]
    return {stage: round(cheapest.exits.get(stage, 0.0), 4) for stage in stages}


if __name__ == "__main__":
    command("imagenet", experiment)
