"""Who takes part: what searching a pool finds, how long it takes, and what that is worth.

Usage: python -m benchmarks.pool DATA [--cache DIR] [--splits 10]

Pools of recorded networks and exits, against all of them as given, and the pair of one stage and
the reference that costs least on held-out examples. Learned on some photographs and measured on all
others.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cifar, exits
from benchmarks.peers import FIRST, Halving
from benchmarks.results import CACHE, Data, command, standard_error
from offramp.answering.committees import with_committees
from offramp.core.frontier import LEVELS, cost_at, frontier, static_points
from offramp.core.graph import Graph
from offramp.core.trace import Trace
from offramp.learn.lesson import Rehearsals, Setup, Ways
from offramp.learn.pool import edges_of
from offramp.learn.teach import Taught, teach
from offramp.policies import FAMILIES

SIZES = (500, 2000, 5000)
FAMILY = ("resnet20", "resnet20_tuned", "resnet32", "resnet56", "resnet56_tuned")
EXITS = "ResNet-20 tuned > ResNet-56 tuned, 5 frozen exits"


def everything(data: Data, cache: Path = CACHE, splits: int = 10) -> dict[str, Any]:
    rows = []
    for name, trace in pools(data, cache).items():
        for size in SIZES:
            found = [one(trace, size, FIRST + seed) for seed in range(splits)]
            rows.append({"pool": name, "examples": size, **summary(found)})
            print(rows[-1], flush=True)
    return {"levels": LEVELS, "splits": splits, "rows": rows}


def pools(data: Path, cache: Path) -> dict[str, Trace]:
    """Five networks, two of them tuned; and a network before one with five exits."""
    made = exits.Made(data, cache)
    networks, costs = made.graphs()[EXITS]()
    return {
        "five networks": cifar.select(cifar.record_all(data, cache), FAMILY),
        "a network and five exits": replace(made.recorded(EXITS, networks), costs=costs),
    }


def one(trace: Trace, size: int, seed: int) -> dict[str, Any]:
    """What the search finds on one split, and speed-ups with it, with all, and with two stages."""
    pair = Halving(trace)(size, seed)
    assert pair is not None
    learning, test = pair
    start = time.perf_counter()
    found = teach(learning, Ways(pool=True))
    seconds = time.perf_counter() - start
    best = replace(learning, graph=best_pair(learning))
    others = {
        "all": teach(learning, Ways(keep_stages=True)),
        "best pair": teach(best, Ways(keep_stages=True)),
    }
    return {
        "edges": edges_of(found.policy.graph),
        "seconds": seconds,
        **{name: speedups(test, taught) for name, taught in {"found": found, **others}.items()},
    }


def best_pair(trace: Trace) -> Graph:
    """The pair with the lowest score, decided by one threshold."""
    room = Rehearsals(trace, Ways())
    pairs = [pair_of(trace, name) for name in trace.graph.order[:-1]]
    return min(pairs, key=lambda graph: room.score(Setup(graph, "all", FAMILIES["margin"])).cost)


def pair_of(trace: Trace, name: str) -> Graph:
    """A stage before the reference, and no other."""
    reference = trace.graph.reference
    return trace.graph.only([name, reference], [(name, reference)], reference)


def speedups(test: Trace, taught: Taught) -> list[float]:
    """At equal quality, of the policy that was taught."""
    graph = taught.policy.graph
    together = with_committees(replace(test, graph=graph), taught.lesson.committees)
    alone = static_points(test, test.losses("top1"))[test.graph.reference]
    points = [*frontier(together, together.losses("top1"), taught.policy), alone]
    return [alone.cost / cost_at(points, level) for level in LEVELS]


def summary(splits: list[dict[str, Any]]) -> dict[str, Any]:
    found = np.array([split["found"] for split in splits])
    row: dict[str, Any] = {
        "seconds": float(np.mean([split["seconds"] for split in splits])),
        "longest_s": float(np.max([split["seconds"] for split in splits])),
        "edges": Counter(split["edges"] for split in splits).most_common(3),
        "found": found.mean(axis=0).tolist(),
    }
    for name in ("all", "best pair"):
        values = np.array([split[name] for split in splits])
        row[name] = values.mean(axis=0).tolist()
        row[f"lead over {name}"] = (found - values).mean(axis=0).tolist()
        row[f"lead over {name}, se"] = standard_error(found - values).tolist()
    return row


if __name__ == "__main__":
    command("pool", everything)
