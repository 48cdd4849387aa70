"""Which exits pay: each must save more than its head costs, on examples that trained no head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from offramp.core.frontier import LEVELS, cost_at, frontier, static_points
from offramp.core.policy import path
from offramp.core.trace import Trace, assemble
from offramp.policies import family

WORTH = 0.002  # of the reference's cost: what an exit must save to be kept
_RULE = "margin"  # decides while exits are chosen: one number, so that nothing can be overfitted


@dataclass(frozen=True)
class Placement:
    """The exits that stay, and why each other one went."""

    kept: tuple[str, ...]  # stages, in order, the reference last
    dropped: Mapping[str, str]  # stage -> reason
    saving: float  # share of the reference's cost that the kept exits save, mean over LEVELS


def propose(costs: Sequence[int], total: int, most: int) -> list[int]:
    """Positions of at most `most` points, spread evenly over the work of a network.

    Args:
        costs: multiply-adds up to each candidate, ascending.
        total: of the whole network.
        most: how many.
    """
    wanted = np.arange(1, most + 1) / (most + 1) * total
    found = {int(np.abs(np.asarray(costs) - value).argmin()) for value in wanted}
    return sorted(found)


def place(trace: Trace) -> Placement:
    """Drops one exit after the other, the least useful first, until each that is left pays.

    What a placement is worth is its cost at equal net excess loss, the mean over LEVELS, with one
    shared threshold on the margin. Costs are those of `trace`: heads count.

    Args:
        trace: of a chain of exits, on examples that trained no head.
    """
    kept = list(trace.graph.order)
    dropped: dict[str, str] = {}
    present = mean_cost(trace, kept)
    while len(kept) > 1:
        without = {stage: mean_cost(trace, [s for s in kept if s != stage]) for stage in kept[:-1]}
        least = min(without, key=lambda stage: without[stage])
        saved = (without[least] - present) / trace.reference_cost
        if saved >= WORTH:
            break
        kept.remove(least)
        dropped[least] = _reason(saved)
        present = without[least]
    return Placement(tuple(kept), dropped, 1 - present / trace.reference_cost)


def _reason(saved: float) -> str:
    if saved < 0:
        return f"costs {-saved:.2%} of the reference more than it saves"
    return f"saves {saved:.2%} of the reference, less than {WORTH:.1%}"


def mean_cost(trace: Trace, stages: Sequence[str]) -> float:
    """The mean cost over LEVELS of excess loss, with these stages alone."""
    some = assemble(
        path(trace.graph, list(stages)),
        trace.costs,
        {stage: trace.scores[stage] for stage in stages},
        labels=trace.labels,
    )
    losses = some.losses()
    points = frontier(some, losses, family(_RULE)(some, losses))
    points += static_points(some, losses).values()
    return float(np.mean([cost_at(points, level) for level in LEVELS]))
