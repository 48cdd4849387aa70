"""Time, honestly: warmed up, interleaved, medians, and always as a ratio to the reference."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort

from offramp.arrays import AnyArray
from offramp.export import write_file
from offramp.graph import Costs, Graph, head, whole
from offramp.latency import Latency
from offramp.plan import Plan
from offramp.policies.forced import forced
from offramp.policies.protocol import backbone
from offramp.runtime import OnnxRuntime, SingleFile
from offramp.runtime.driver import Runtime

Task = Callable[[], object]
_FEWEST_ROUNDS = 5
_WARMUP = 2
_FILE = "file.whole"  # no part is called so


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
        {stage: spent[whole(stage)] for stage in graph.ends},
    )


def laps(runtime: Runtime, graph: Graph, x: AnyArray) -> Iterator[tuple[str, float]]:
    """Seconds that each body and head takes once on inputs (n, ...), and each uncut network."""
    for stages in _networks(graph):
        yield from _lap(runtime, graph, stages, x)


def latency(plan: Plan, x: AnyArray, threads: int = 1, *, limit_s: float = 20.0) -> Latency:
    """What requests of up to `len(x)` rows take, part by part and at a stop of the walk.

    A stop is timed in the exported file: what a walk that always goes on takes there beyond its
    parts, for each decision on the way.

    Args:
        plan: with networks; any that decides as the one to come will.
        x: one request, (batch, ...).
        threads: of the engine.
        limit_s: about how long to measure.

    Raises:
        PlanError, NetworkError: as `export.one_file`.
    """
    policy, setting = forced(plan.policy, goes_on=True)
    walked = backbone(policy.graph)
    parts = {part for stage in walked.order for part in walked.parts(stage)}
    stages = OnnxRuntime(plan.runnable(), plan.graph, threads=threads)
    with TemporaryDirectory() as folder:
        write_file(replace(plan, policy=policy, tradeoff=setting), Path(folder) / "plan.onnx")
        single = SingleFile(Path(folder) / "plan.onnx", threads=threads)
    sizes = sorted({min(2**power, len(x)) for power in range(len(x).bit_length() + 1)})
    spent: dict[str, dict[int, list[float]]] = {}
    begin = time.perf_counter()
    for number in itertools.count(-_WARMUP):
        for rows in sizes:
            lap = dict(laps(stages, plan.graph, x[:rows]))
            lap[_FILE] = seconds(partial(single, x[:rows]))
            for part, taken in lap.items():
                spent.setdefault(part, {}).setdefault(rows, []).append(taken)
        if number + 1 >= _FEWEST_ROUNDS and time.perf_counter() - begin > limit_s:
            break
    found = {
        part: {rows: float(np.median(taken[_WARMUP:])) for rows, taken in times.items()}
        for part, times in spent.items()
    }
    file, decisions = found.pop(_FILE), max(1, len(walked.order) - 1)
    stop = {
        rows: max(0.0, file[rows] - sum(found[part][rows] for part in parts & found.keys()))
        / decisions
        for rows in sizes
    }
    return Latency(len(x), found, stop, source(len(x), threads))


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
    for stage in stages:
        if stage in graph.ends:
            yield whole(stage), seconds(partial(runtime.run, stage, x))


def seconds(task: Task) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _chunks(x: AnyArray, batch: int) -> list[AnyArray]:
    """Whole batches only: a smaller last one would be timed as if it were whole."""
    return [x[start : start + batch] for start in range(0, len(x) - batch + 1, batch)]


def source(batch: int, threads: int) -> str:
    """How and where costs were measured, in words."""
    return (
        f"measured: ONNX Runtime {ort.__version__}, {machine()['processor']}, batch {batch}, "
        f"{threads} thread(s), median per example"
    )


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
