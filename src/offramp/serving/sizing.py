"""How many cores a plan needs for a rate of requests: its queues, simulated with measured times.

The queues are those of `offramp.serving.queueing`: what waits while a stage is busy becomes its
next batch. A door before them reads requests and writes answers, one at a time, as Python does.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray, BoolArray, FloatArray
from offramp.base.errors import InputError
from offramp.base.fields import Fields, count, take
from offramp.core.walk import Work
from offramp.plan.plan import Plan
from offramp.runtime.driver import Walked
from offramp.runtime.stages import Stages

_ROUNDS = 15  # timings of each size
_REQUESTS = 10_000  # simulated, of which the first tenth warms up
_MOST = 256  # cores
_FULL = 0.95  # share of its time that the door may be busy


@dataclass(frozen=True, kw_only=True)
class StageTimes:
    """What a plan does with examples, and how long that takes."""

    stages: tuple[str, ...]
    visits: BoolArray  # (examples, stages) whether a walk comes to the stage
    sizes: tuple[int, ...]  # rows, rising
    seconds: Mapping[str, FloatArray]  # stage -> (sizes,) of a run of so many rows
    door_s: float  # to read a request and write its answer

    def time_of(self, stage: str, rows: int) -> float:
        """Seconds of a run, between the sizes that were measured."""
        return float(np.interp(rows, self.sizes, self.seconds[stage]))


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What serves.

    Raises:
        InputError: fewer than one of something.
    """

    cores: int
    workers: Mapping[str, int]  # of each stage
    batch: int = 64

    def __post_init__(self) -> None:
        if min(self.cores, self.batch, *self.workers.values()) < 1:
            raise InputError("a machine has at least one core, one worker a stage, and one row.")


@dataclass(frozen=True, kw_only=True)
class Simulated:
    """What a machine does with a rate of requests."""

    cores: int
    servers: int  # that share the requests
    workers: Mapping[str, int]
    p50_ms: float
    p99_ms: float
    busy: Mapping[str, float]  # share of the time that a stage's workers run; `door` as well
    rows: Mapping[str, float]  # mean rows in a run of a stage
    kept_up: bool  # whether no more came than left

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure_stages(
    plan: Plan, runtime: Stages, x: Fields, *, batch: int = 64, door_s: float = 0.0
) -> StageTimes:
    """What a plan does with some examples, and the quickest of several timings of each stage.

    Args:
        plan: that is to be served.
        runtime: its stages, as they are to run.
        x: examples like those that will come, by field.
        batch: rows that a stage runs together, at most.
        door_s: to read a request and write its answer.
    """
    order = plan.running.graph.order
    visits = np.zeros((count(x), len(order)), dtype=bool)
    for stage, rows in _walked(plan, runtime, x):
        visits[rows, order.index(stage)] = True
    sizes = sorted({1, *(2**power for power in range(1, 12) if 2**power < batch), batch})
    sizes = [size for size in sizes if size <= count(x)]
    seconds = {stage: np.full(len(sizes), np.inf) for stage in order}
    for _ in range(_ROUNDS):  # interleaved: what else runs on a machine hits all of them
        for number, size in enumerate(sizes):
            for stage, found in _timed(plan, runtime, take(x, slice(0, size))):
                seconds[stage][number] = min(seconds[stage][number], found)
    return StageTimes(
        stages=order, visits=visits, sizes=tuple(sizes), seconds=seconds, door_s=door_s
    )


def _walked(plan: Plan, runtime: Stages, x: Fields) -> Iterator[tuple[str, AnyArray]]:
    """The stages that walks come to, and which rows do."""
    walked = Walked(plan, runtime, x)
    while (work := walked.work) is not None:
        yield work.stage, work.rows
        _run(walked, work, runtime)


def _run(walked: Walked, work: Work, runtime: Stages) -> None:
    if walked.alone:
        walked.hear(runtime.run(work.stage, walked.fields))
        return
    walked.batch.advance(work.stage, walked.rows)
    walked.hear(walked.batch.answer(work.stage, walked.rows))


def _timed(plan: Plan, runtime: Stages, x: Fields) -> Iterator[tuple[str, float]]:
    """Seconds of each stage for rows that all come to it, its decision counted."""
    batch, alone = runtime.begin(x), len(plan.running.graph.order) == 1
    for stage in plan.running.graph.order:
        start = time.perf_counter()
        if alone:
            runtime.run(stage, x)
        else:
            batch.advance(stage, None)
            batch.answer(stage, None)
        yield stage, time.perf_counter() - start


def size(
    measured: StageTimes,
    rate: float,
    p99_s: float,
    *,
    rows: int = 1,
    batch: int = 64,
    seed: int = 0,
) -> Simulated:
    """The fewest cores that answer so many requests a second within a time, and what they do.

    Args:
        measured: the plan's stages.
        rate: requests a second, which come at random (Poisson).
        p99_s: that 99 % of them must be answered within.
        rows: of each request.
        batch: rows that a stage runs together, at most.
        seed: of the simulation.

    Raises:
        InputError: a rate or a time of nothing; or what no number of cores can do, because one
            request alone takes longer.
    """
    _check(measured, rate, p99_s, rows)
    servers = max(1, math.ceil(rate * measured.door_s / _FULL))
    load = Load(rate=rate / servers, rows=rows, seed=seed)
    cores, best = _at_least(measured, load), math.inf
    while cores <= _MOST:
        for workers in _more_and_more(measured, cores):
            machine = Machine(cores=cores, workers=workers, batch=batch)
            found = replace(simulate(measured, load, machine), servers=servers)
            if found.kept_up and found.p99_ms <= p99_s * 1e3:
                return found
            best = min(best, found.p99_ms)
        cores += max(1, cores // 8)
    raise InputError(
        f"{_MOST} cores do not answer {rate:g} requests a second within {p99_s * 1e3:.3g} ms; the "
        f"best is {best:.3g} ms. Give more time, or send fewer rows at once."
    )


def _check(measured: StageTimes, rate: float, p99_s: float, rows: int) -> None:
    if not (0 < rate < math.inf and 0 < p99_s < math.inf and rows >= 1):
        raise InputError("give a rate, a time and a number of rows above 0.")
    if measured.door_s * 2 > p99_s or _alone(measured, rows) > p99_s:
        raise InputError(
            f"one request alone takes {_alone(measured, rows) * 1e3:.3g} ms where it passes all "
            f"stages, so that no number of cores answers 99 % within {p99_s * 1e3:.3g} ms."
        )


def _alone(measured: StageTimes, rows: int) -> float:
    """Seconds of a request that passes all stages that any example does."""
    passed = np.flatnonzero(measured.visits.sum(axis=0))
    return measured.door_s + sum(measured.time_of(measured.stages[i], rows) for i in passed)


def _at_least(measured: StageTimes, load: Load) -> int:
    """Cores that are busy where every run is of the size that takes least for a row."""
    each = [float((measured.seconds[s] / measured.sizes).min()) for s in measured.stages]
    a_row = float(measured.visits.mean(axis=0) @ each)
    return min(_MOST, max(1, math.ceil(load.rate * (load.rows * a_row + measured.door_s))))


def _more_and_more(measured: StageTimes, cores: int) -> Iterator[dict[str, int]]:
    """Workers of stages: one each; then as the work is shared, for so many cores."""
    each = dict.fromkeys(measured.stages, 1)
    yield each
    work = np.array([measured.time_of(s, 1) for s in measured.stages]) * measured.visits.mean(
        axis=0
    )
    shared = {
        stage: max(1, round(cores * part))
        for stage, part in zip(measured.stages, work / work.sum(), strict=True)
    }
    if shared != each:
        yield shared


@dataclass(frozen=True, kw_only=True)
class Load:
    """Requests that come at random (Poisson)."""

    rate: float  # a second
    rows: int = 1  # of each
    requests: int = _REQUESTS  # simulated, of which the first tenth warms up
    seed: int = 0


def simulate(measured: StageTimes, load: Load, machine: Machine) -> Simulated:
    """What a machine does with requests; deterministic for a seed."""
    return _Simulation(measured, load, machine).run()


class _Simulation:
    """A clock, queues, and what is to happen when."""

    def __init__(self, measured: StageTimes, load: Load, machine: Machine) -> None:
        random = np.random.default_rng(load.seed)
        self.measured, self.machine = measured, machine
        self.came = np.cumsum(random.exponential(1 / load.rate, load.requests))
        self.left = np.zeros(load.requests)
        chosen = random.integers(0, len(measured.visits), (load.requests, load.rows))
        self.todo: list[list[tuple[int, int]]] = [
            [(stage, int(rows)) for stage, rows in enumerate(counts) if rows]
            for counts in measured.visits[chosen].sum(axis=1)
        ]
        self.waiting: list[deque[tuple[int, int]]] = [deque() for _ in measured.stages]
        self.free = [machine.workers[stage] for stage in measured.stages]
        self.cores = machine.cores
        self.door: deque[int] = deque()
        self.door_free: bool = True
        self.spent = np.zeros(len(measured.stages) + 1)  # the door is the last
        self.runs = np.zeros(len(measured.stages))
        self.ran = np.zeros(len(measured.stages))
        # when, and the stage that ends (-1: the door), or nothing for a request that comes
        self.events: list[tuple[float, int, int, list[int]]] = []
        self._number = 0  # events at one time keep their order

    def run(self) -> Simulated:
        for request, at in enumerate(self.came.tolist()):
            self._advance(at)
            self.door.append(request)
            self._start(at)
        self._advance(math.inf)
        return self._summed()

    def _advance(self, until: float) -> None:
        while self.events and self.events[0][0] <= until:
            now, _, stage, requests = heapq.heappop(self.events)
            self.cores += 1
            if stage < 0:
                self.door_free = True
            else:
                self.free[stage] += 1
            for request in requests:
                self._next(request, now)
            self._start(now)

    def _next(self, request: int, now: float) -> None:
        """To the next stage of a request, or out."""
        if self.todo[request]:
            stage, rows = self.todo[request].pop(0)
            self.waiting[stage].append((request, rows))
        else:
            self.left[request] = now

    def _start(self, now: float) -> None:
        """Starts what can start: the door first, then stages in their order."""
        if self.door and self.door_free and self.cores:
            self.door_free = False
            self._busy(now, -1, [self.door.popleft()], self.measured.door_s)
        for stage, line in enumerate(self.waiting):
            while line and self.free[stage] and self.cores:
                taken, rows = self._batch(line)
                self.free[stage] -= 1
                self.runs[stage] += 1
                self.ran[stage] += rows
                spent = self.measured.time_of(self.measured.stages[stage], rows)
                self._busy(now, stage, taken, spent)

    def _batch(self, line: deque[tuple[int, int]]) -> tuple[list[int], int]:
        request, rows = line.popleft()
        taken = [request]
        while line and rows + line[0][1] <= self.machine.batch:
            request, more = line.popleft()
            taken.append(request)
            rows += more
        return taken, rows

    def _busy(self, now: float, stage: int, requests: list[int], seconds: float) -> None:
        self.cores -= 1
        self._number += 1
        self.spent[stage] += seconds
        heapq.heappush(self.events, (now + seconds, self._number, stage, requests))

    def _summed(self) -> Simulated:
        took = self.left - self.came
        warm = took[len(took) // 10 :]
        lasted, stages = float(self.left.max()), self.measured.stages
        halves = np.array_split(warm, 2)
        workers = [self.machine.workers[stage] for stage in stages]
        busy = dict(zip(stages, (self.spent[:-1] / lasted / workers).tolist(), strict=True))
        return Simulated(
            cores=self.machine.cores,
            servers=1,
            workers=dict(self.machine.workers),
            p50_ms=float(np.quantile(warm, 0.5)) * 1e3,
            p99_ms=float(np.quantile(warm, 0.99)) * 1e3,
            busy={**busy, "door": float(self.spent[-1] / lasted)},
            rows=dict(zip(stages, (self.ran / np.maximum(self.runs, 1)).tolist(), strict=True)),
            # a queue that grows without end is twice as long in the second half
            kept_up=bool(np.median(halves[1]) < 1.5 * np.median(halves[0]) + 1e-4),
        )
