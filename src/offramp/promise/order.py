"""What is tested in which order, fixed without the examples that certify: the safest first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from offramp.base.arrays import FloatArray


@dataclass(frozen=True)
class Candidate:
    """One point of the path, or a single network, on some examples."""

    tradeoff: float | None  # None: a static network
    cost: float  # mean, in the unit of the trace
    excess: FloatArray  # (examples,) in [-1, 1]


@dataclass(frozen=True)
class Order:
    """In which order what is tested, fixed without the examples that certify."""

    start: int = 0  # points of the path that are passed over
    places: Mapping[str, int] = field(default_factory=dict)  # single network -> points before it


def safest_first(
    path: Sequence[Candidate],
    statics: Mapping[str, Candidate],
    budget: float,
    reference_cost: float,
) -> Order:
    """The order in which to test what certification examples will say of these candidates.

    The path starts at its first point that is cheaper than the reference: dearer ones could not be
    chosen, and each is a chance to fail. A single network comes before the first point that is less
    sure than it by a standard error, or last where a point before it is as cheap: then passing it
    would gain nothing, and failing it would block the rest.

    Args:
        path: on examples that certify nothing, safest first.
        statics: every single network but the reference, on the same examples.
        budget: excess loss given up, a fraction in [0, 1].
        reference_cost: of the reference alone, in the unit of the candidates.
    """
    sure = [standard_errors_below(point.excess, budget) for point in path]
    single = {
        name: Rank(static.cost, standard_errors_below(static.excess, budget))
        for name, static in statics.items()
    }
    ranks = [Rank(point.cost, value) for point, value in zip(path, sure, strict=True)]
    examples = max((len(static.excess) for static in statics.values()), default=0)
    return ranked(ranks, single, examples, reference_cost)


@dataclass(frozen=True)
class Rank:
    """What the order of tests goes by."""

    cost: float  # mean
    sureness: float  # standard deviations of one example that its mean lies below the budget


def ranked(
    path: Sequence[Rank], statics: Mapping[str, Rank], examples: int, reference_cost: float
) -> Order:
    """As `safest_first`, from what `examples` said of each."""
    cheaper = [i for i, point in enumerate(path) if point.cost < reference_cost]
    start = cheaper[0] if cheaper else 0
    walked, noise = path[start:], 1 / math.sqrt(max(1, examples))
    return Order(start, {s: _place(walked, static, noise) for s, static in statics.items()})


def _place(path: Sequence[Rank], static: Rank, noise: float) -> int:
    """How many points of the path come before a single network."""
    for place, point in enumerate(path):
        if point.cost <= static.cost:
            break
        if point.sureness < static.sureness - noise:
            return place
    return len(path)


def standard_errors_below(excess: FloatArray, budget: float) -> float:
    """How many standard deviations of one example the mean lies below `budget`.

    Times the root of a number of examples, it is about how many standard errors a test finds.
    """
    if not len(excess):
        return 0.0
    below = budget - excess.astype(np.float64)
    return sureness(float(below.mean()), float(np.mean(below**2)), budget)


def sureness(below: float, square: float, budget: float) -> float:
    """As `standard_errors_below`, from means of how far examples lie below, and of its square."""
    # no change at all still leaves the variance of losses as frequent as the budget
    variance = max(square, budget * (1 - budget))
    return below / math.sqrt(variance) if variance > 0 else 0.0
