"""Time, honestly: warmed up, interleaved, medians, and always as a ratio to the reference."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from offramp.arrays import AnyArray, FloatArray
from offramp.errors import DataError
from offramp.graph import Costs, Graph, head, whole
from offramp.plan import Plan
from offramp.runtime.driver import Runtime, infer

Task = Callable[[], object]
MOST = 1024  # examples in one pass of a benchmark, at most
_FEWEST_ROUNDS = 5
_WARMUP = 2


@dataclass(frozen=True)
class Bench:
    """A plan against its reference on the clock, at one batch size."""

    batch: int
    threads: int
    reference_ms: float  # per call, median over the rounds
    adaptive_ms: float  # likewise
    speedup: float  # median over the rounds of the ratio
    theoretical_speedup: float  # from the time of each stage at this batch size and who reaches it
    realised: float  # speedup / theoretical_speedup

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


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
    laps: dict[str, list[float]] = {}
    networks = _networks(graph)
    begin = time.perf_counter()
    for number in range(-_WARMUP, rounds):
        # another one first each time: what runs after a large network finds the caches cold
        turn = max(number, 0) % len(networks)
        chunk = next(chunks)
        for stages in networks[turn:] + networks[:turn]:
            for part, seconds in _lap(runtime, graph, stages, chunk):
                laps.setdefault(part, []).append(seconds)
        if number + 1 >= _FEWEST_ROUNDS and time.perf_counter() - begin > limit_s:
            break
    spent = {p: float(np.median(found[_WARMUP:])) / len(chunk) for p, found in laps.items()}
    names = [stage.name for stage in graph.stages]
    return Costs(
        {name: spent[name] for name in names},
        {name: spent.get(head(name), 0.0) for name in names},
        "s",
        source,
        spent.get(whole(graph.reference)),
    )


def _networks(graph: Graph) -> list[list[str]]:
    """The stages of each network, in order."""
    found: dict[str, list[str]] = {}
    for stage in graph.stages:
        found.setdefault(graph.bodies(stage.name)[0], []).append(stage.name)
    return list(found.values())


def _lap(
    runtime: Runtime, graph: Graph, stages: Sequence[str], x: AnyArray
) -> Iterator[tuple[str, float]]:
    """Seconds that each part of a network takes once."""
    running = runtime.begin(x)
    for stage in stages:
        yield stage, _seconds(partial(running.advance, stage, None))
        answering = _seconds(partial(running.answer, stage, None))
        if len(stages) > 1:  # a network that was not cut has no head
            yield head(stage), answering
    if len(stages) > 1 and graph.reference in stages:
        yield whole(graph.reference), _seconds(partial(runtime.run, graph.reference, x))


def _seconds(task: Task) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _chunks(x: AnyArray, batch: int) -> list[AnyArray]:
    """Whole batches only: a smaller last one would be timed as if it were whole."""
    return [x[start : start + batch] for start in range(0, len(x) - batch + 1, batch)]


def bench(
    plan: Plan,
    runtime: Runtime,
    x: AnyArray,
    *,
    batch: int = 1,
    threads: int = 1,
    rounds: int = 7,
    most: int = MOST,
) -> Bench:
    """The plan against its reference, run in turn on the same batches by the same engine.

    Args:
        plan: with networks.
        runtime: that runs them with `threads` threads.
        x: examples that trained nothing, (n, ...), at least `batch`.
        batch: rows per call.
        threads: as the runtime was started, for the record.
        rounds: passes over the batches; each gives one ratio.
        most: examples per pass at most.

    Raises:
        DataError: fewer examples than `batch`.
    """
    chunks = _chunks(x[: max(most, batch)], batch)
    if not chunks:
        raise DataError(f"a batch of {batch} needs as many examples; there are {len(x)}.")
    spent = _rounds(plan, runtime, chunks, rounds)
    measured = replace(plan, costs=stage_costs(runtime, plan.graph, x, batch))
    ideal = np.concatenate([infer(measured, runtime, chunk).cost for chunk in chunks]).mean()
    adaptive, alone = spent["adaptive"], spent["reference"]
    theoretical = float(plan.graph.reference_cost(measured.costs) / ideal)
    speedup = float(np.median(alone / adaptive))
    return Bench(
        batch,
        threads,
        float(np.median(alone)) / len(chunks) * 1e3,
        float(np.median(adaptive)) / len(chunks) * 1e3,
        speedup,
        theoretical,
        speedup / theoretical,
    )


def _rounds(
    plan: Plan, runtime: Runtime, chunks: Sequence[AnyArray], rounds: int
) -> dict[str, FloatArray]:
    """Seconds for a pass over all batches, (rounds,); the two sides alternate batch by batch."""
    reference = plan.graph.reference
    spent: dict[str, FloatArray] = {s: np.zeros(rounds) for s in ("adaptive", "reference")}
    for number in range(-1, rounds):  # round -1 warms up
        for chunk in chunks:
            alone = _seconds(partial(runtime.run, reference, chunk))
            adaptive = _seconds(partial(infer, plan, runtime, chunk))
            if number >= 0:
                spent["reference"][number] += alone
                spent["adaptive"][number] += adaptive
    return spent


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
