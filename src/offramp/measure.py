"""Time, honestly: warmed up, interleaved, medians, and always as a ratio to the reference."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from offramp.arrays import AnyArray
from offramp.graph import Costs, Graph, head, whole
from offramp.runtime.driver import Runtime

Task = Callable[[], object]
_FEWEST_ROUNDS = 5
_WARMUP = 2


def stage_costs(
    runtime: Runtime,
    graph: Graph,
    x: AnyArray,
    batch: int,
    source: str = "measured",
    *,
    rounds: int = 50,
    limit_s: float = 10.0,
) -> Costs:
    """Seconds per example of each body and head at a batch size: medians over rounds.

    Networks take turns within a round, so that all meet the same noise. Stops early, after at least
    five rounds, once `limit_s` seconds have passed.

    Args:
        runtime: runs the stages.
        graph: the stages.
        x: examples (n, ...), at least one; rounds go through them batch by batch.
        batch: rows per call.
        source: what the costs say of where they come from.
        rounds: calls of each part.
        limit_s: seconds.
    """
    chunks = cycle(_chunks(x, min(batch, len(x))))
    found: dict[str, list[float]] = {}
    networks = _networks(graph)
    begin = time.perf_counter()
    for number in range(-_WARMUP, rounds):
        # another one first each time: what runs after a large network finds the caches cold
        turn = max(number, 0) % len(networks)
        chunk = next(chunks)
        for stages in networks[turn:] + networks[:turn]:
            for part, taken in _lap(runtime, graph, stages, chunk):
                found.setdefault(part, []).append(taken)
        if number + 1 >= _FEWEST_ROUNDS and time.perf_counter() - begin > limit_s:
            break
    spent = {p: float(np.median(lap[_WARMUP:])) / len(chunk) for p, lap in found.items()}
    names = [stage.name for stage in graph.stages]
    return Costs(
        {name: spent[name] for name in names},
        {name: spent.get(head(name), 0.0) for name in names},
        "s",
        source,
        spent.get(whole(graph.reference)),
    )


def laps(runtime: Runtime, graph: Graph, x: AnyArray) -> Iterator[tuple[str, float]]:
    """Seconds that each body and head takes once on inputs (n, ...), and the uncut reference."""
    for stages in _networks(graph):
        yield from _lap(runtime, graph, stages, x)


def _networks(graph: Graph) -> list[list[str]]:
    """The stages of each network, in order."""
    found: dict[str, list[str]] = {}
    for stage in graph.stages:
        found.setdefault(graph.first(stage.name), []).append(stage.name)
    return list(found.values())


def _lap(
    runtime: Runtime, graph: Graph, stages: Sequence[str], x: AnyArray
) -> Iterator[tuple[str, float]]:
    """Seconds that each part of a network takes once."""
    running = runtime.begin(x)
    for stage in stages:
        yield stage, seconds(partial(running.advance, stage, None))
        answering = seconds(partial(running.answer, stage, None))
        if len(stages) > 1:  # a network that was not cut has no head
            yield head(stage), answering
    if len(stages) > 1 and graph.reference in stages:
        yield whole(graph.reference), seconds(partial(runtime.run, graph.reference, x))


def seconds(task: Task) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _chunks(x: AnyArray, batch: int) -> list[AnyArray]:
    """Whole batches only: a smaller last one would be timed as if it were whole."""
    return [x[start : start + batch] for start in range(0, len(x) - batch + 1, batch)]


def machine() -> dict[str, Any]:
    """What a measurement was made on, for records."""
    return {
        "processor": next(_processor_names(), platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "system": platform.system(),
    }


def _processor_names() -> Iterator[str]:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    yield line.partition(":")[2].strip()
    except OSError:
        return
