"""Refitted answers on real networks: what they repair, and what routing saves beside them.

Usage: python -m benchmarks.refit DATA [--cache DIR] [--splits 10]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cifar
from benchmarks.results import CACHE, Data, command, standard_error
from offramp.answering.committees import learn_committees, with_committees
from offramp.answering.refit import Repair, learn_refits, with_refits
from offramp.base.arrays import FloatArray
from offramp.core.frontier import LEVELS, cost_at, frontier, static_points
from offramp.core.trace import Trace
from offramp.policies import family

SIZES = (500, 2000, 5000)  # learning examples; the others of the first half are left aside
LOSS = "top1"


def everything(data: Data, cache: Path = CACHE, splits: int = 10) -> dict[str, Any]:
    found = {name: study(trace, splits) for name, trace in cifar.traces(data, cache).items()}
    return {"levels": LEVELS, "splits": splits, "graphs": found}


def study(trace: Trace, splits: int) -> dict[str, Any]:
    """One graph: for each number of learning examples, the mean over the splits and its error."""
    return {
        "examples": trace.examples,
        "reference": trace.graph.reference,
        "sizes": {
            str(size): _summed([_split(trace, size, seed) for seed in range(splits)])
            for size in SIZES
        },
    }


def _split(trace: Trace, size: int, seed: int) -> dict[str, Any]:
    """Learned on examples of one half, measured on the other."""
    first, second = trace.split(0.5, seed)
    learning = trace.take(np.random.default_rng(seed).permutation(first)[:size])
    measuring = trace.take(second)
    refits, crossed = learn_refits(learning, LOSS, seed=seed)
    mended = with_refits(measuring, refits)
    before, after = measuring.losses(LOSS).values, mended.losses(LOSS).values
    return {
        "error": {
            stage: {
                "before": float(before[stage].mean()),
                "after": float(after[stage].mean()),
                "refitted": float(stage in refits),
            }
            for stage in trace.graph.order
        },
        "speedup": {
            "as recorded": _routed(learning, measuring, seed),
            "routing, refitted": _routed(crossed, mended, seed),
            "one network, refitted": _statics(mended),
            **_repairs(measuring, mended),
        },
    }


def _routed(learning: Trace, measuring: Trace, seed: int) -> list[float]:
    """The learned policy with committees at each level, against the reference of these scores."""
    together, crossed = learn_committees(learning, LOSS, seed=seed)
    spoken = with_committees(measuring, together)
    losses = spoken.losses(LOSS)
    points = frontier(spoken, losses, family("learned")(crossed, crossed.losses(LOSS)))
    alone = static_points(spoken, losses)[measuring.graph.reference]
    return [alone.cost / cost_at([*points, alone], level) for level in LEVELS]


def _statics(measuring: Trace) -> list[float]:
    """The cheapest single network within each level of the reference of these scores."""
    points = static_points(measuring, measuring.losses(LOSS))
    alone = points[measuring.graph.reference]
    return [
        max(alone.cost / p.cost for p in points.values() if p.excess_loss <= level)
        for level in LEVELS
    ]


def _repairs(recorded: Trace, mended: Trace) -> dict[str, list[float]]:
    """Single networks within each level of the reference as recorded: mended, and as they are."""
    found = [Repair.of(recorded, mended, LOSS, "net", level) for level in LEVELS]
    return {
        "repair": [f.speedup for f in found],
        "one network, as recorded": [f.without for f in found],
    }


def _summed(rows: list[Any]) -> Any:
    """Rows of the same shape as one, each number a mean over the rows with its standard error."""
    if isinstance(rows[0], dict):
        return {key: _summed([row[key] for row in rows]) for key in rows[0]}
    values: FloatArray = np.array(rows, dtype=np.float64)
    return {"mean": values.mean(axis=0).tolist(), "se": standard_error(values).tolist()}


if __name__ == "__main__":
    command("refit", everything)
