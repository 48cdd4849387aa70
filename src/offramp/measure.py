"""Time, honestly: warmed up, interleaved, medians, and always as a ratio to the reference."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np

from offramp.arrays import AnyArray, FloatArray
from offramp.errors import DataError
from offramp.plan import Plan
from offramp.runtime.driver import Runtime, infer

Task = Callable[[], object]
MOST = 1024  # examples in one pass of a benchmark, at most
_FEWEST_ROUNDS = 5


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


def interleaved(
    tasks: Mapping[str, Task], *, rounds: int, warmup: int = 2, limit_s: float = 10.0
) -> dict[str, FloatArray]:
    """Seconds that each task takes, (rounds,), all tasks in turn so that all meet the same noise.

    Stops early, after at least five rounds, once `limit_s` seconds have passed.
    """
    for _ in range(warmup):
        for task in tasks.values():
            task()
    times: dict[str, list[float]] = {name: [] for name in tasks}
    begin = time.perf_counter()
    names = list(tasks)
    for number in range(rounds):
        # another one first each time: what runs after a large network finds the caches cold
        for name in names[number % len(names) :] + names[: number % len(names)]:
            times[name].append(_seconds(tasks[name]))
        if number + 1 >= _FEWEST_ROUNDS and time.perf_counter() - begin > limit_s:
            break
    return {name: np.array(found) for name, found in times.items()}


def _seconds(task: Task) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def stage_seconds(
    runtime: Runtime, stages: Sequence[str], x: AnyArray, batch: int, *, rounds: int = 50
) -> dict[str, float]:
    """Seconds per example of each stage at a batch size: medians over interleaved rounds.

    Args:
        runtime: runs the stages.
        stages: their names.
        x: examples (n, ...), at least one; rounds go through them batch by batch.
        batch: rows per call.
        rounds: calls of each stage.
    """
    chunks = _chunks(x, min(batch, len(x)))
    turns = {stage: cycle(chunks) for stage in stages}

    def task(stage: str) -> Task:
        return lambda: runtime.run(stage, next(turns[stage]))

    times = interleaved({stage: task(stage) for stage in stages}, rounds=rounds)
    return {stage: float(np.median(found)) / len(chunks[0]) for stage, found in times.items()}


def _chunks(x: AnyArray, batch: int) -> list[AnyArray]:
    """Whole batches only: a smaller last one would be timed as if it were whole."""
    return [x[start : start + batch] for start in range(0, len(x) - batch + 1, batch)]


@dataclass
class _Counting:
    """A runtime that counts the rows it runs through each stage."""

    runtime: Runtime
    rows: Counter[str] = field(default_factory=Counter)

    def run(self, stage: str, x: AnyArray) -> FloatArray:
        self.rows[stage] += len(x)
        return self.runtime.run(stage, x)


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
    reference, stages = plan.graph.reference, plan.running.graph.order
    counting = _Counting(runtime)
    for chunk in chunks:
        infer(plan, counting, chunk)
    spent = _rounds(plan, runtime, chunks, rounds)
    per_row = stage_seconds(runtime, [*stages, reference], x, batch)
    adaptive, alone = spent["adaptive"], spent["reference"]
    ideal = sum(per_row[stage] * rows for stage, rows in counting.rows.items())
    theoretical = per_row[reference] * batch * len(chunks) / ideal
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
