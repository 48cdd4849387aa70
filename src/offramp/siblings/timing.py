"""What copies take beside their network, on a machine that may be busy with other things."""

from __future__ import annotations

import time
from itertools import count

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.progress import Progress
from offramp.core.graph import Costs
from offramp.recording.measure import laps, overheads, source, with_decisions
from offramp.runtime import Stages

_QUIET = 0.2  # the share of rounds that others disturb least: their slowest is the time
_ROUNDS, _FEWEST, _WARMUP = 100, 10, 2
_DECISIONS = 3  # times that decisions are measured; the quickest counts


def quiet_costs(
    stages: Stages, x: AnyArray, classes: int, batch: int, tell: Progress, limit_s: float = 10.0
) -> Costs:
    """Seconds per example of whole networks that take turns, and of the decisions after them.

    A low quantile of many rounds, and not their median: what else runs on the machine can only add.

    Args:
        stages: the networks, a chain.
        x: examples (n, ...), repeated where a batch needs more.
        classes: of the scores, which decisions look at.
        batch: rows per call.
        tell: called with the rounds.
        limit_s: about how long to measure, after ten rounds.
    """
    graph, threads = stages.graph, stages.threads
    request = x[np.arange(max(batch, len(x))) % len(x)]
    spent: dict[str, list[float]] = {name: [] for name in graph.order}
    begin = time.perf_counter()
    for number in count():
        tell("timing copies", number, _ROUNDS + _WARMUP)
        first = number * batch % (len(request) - batch + 1)
        for part, taken in laps(stages, graph, request[first : first + batch]):
            if part in spent:
                spent[part].append(taken)
        over = time.perf_counter() - begin > limit_s and number >= _FEWEST + _WARMUP
        if over or number >= _ROUNDS + _WARMUP:
            break
    body = {s: float(np.quantile(taken[_WARMUP:], _QUIET)) / batch for s, taken in spent.items()}
    costs = Costs(
        body,
        dict.fromkeys(body, 0.0),
        "s",
        f"{source(batch, threads, stages.engine)}".replace("median", "quickest fifth"),
        batch=batch,
        engine=stages.engine.title,
    )
    decisions = [overheads(request[:batch], classes, threads) for _ in range(_DECISIONS)]
    quickest = min(decisions, key=lambda found: found.stop[max(found.stop)])
    return with_decisions(graph, costs, quickest)
