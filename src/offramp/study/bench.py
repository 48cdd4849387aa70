"""A plan on the clock, against everything that one would run instead of it.

All that is compared runs in turn on the same requests, a block of them at a time, as a server under
load would: what is measured are ratios, which a busy machine hardly changes. The reference is the
fastest of its static runtimes, found in the same run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import DataError
from offramp.base.fields import Fields, arrays, count, fields_of, take
from offramp.base.progress import Progress, silent
from offramp.core.frontier import needed, replay
from offramp.core.graph import whole
from offramp.core.trace import Trace
from offramp.plan.plan import Plan
from offramp.recording.measure import laps, seconds
from offramp.runtime import Engine, Stages, engine_named
from offramp.study.contestants import Answer, Contestant, Entry, entered
from offramp.study.memory import peak_mb

REQUESTS, EXAMPLES = 16, 256  # a pass holds at least so many
BLOCK = 32  # examples that one contestant answers in a row, before the next has its turn


@dataclass(frozen=True)
class Contest:
    """How long and against whom."""

    passes: int = 5  # over the requests; each gives one ratio
    # False: the plan and the reference on each engine at its best level alone, no memory
    thorough: bool = True
    # further contestants, from inputs, by field where there are several, to answers (n,): the
    # reference in PyTorch, say
    others: Mapping[str, Callable[[Any], AnyArray]] = field(default_factory=dict)


FULL, QUICK = Contest(), Contest(thorough=False)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One contestant at one batch size and number of threads."""

    name: str
    batch: int
    threads: int
    ms: float  # per request: the mean over a pass, median over the passes
    p50_ms: float  # of single requests
    p95_ms: float
    p99_ms: float
    throughput: float  # examples per second
    speedup: float  # over the reference, median over the passes of the ratio
    changed: float  # share of answers that are not the reference's
    error: float | None  # share of answers that are not the label; None: no labels
    load_s: float | None  # None: it came loaded
    memory_mb: float | None  # that a process needs more for it, at most; None: not measured
    best: bool  # the reference at its fastest
    reduced: bool = False  # the reference in int8 or bfloat16, by itself


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A plan against its reference, at one batch size and number of threads."""

    batch: int
    threads: int
    engine: str  # that the plan ran on
    reference: str  # the fastest static fp32 runtime of the reference, among the contestants
    reference_ms: float  # per request
    adaptive_ms: float  # likewise
    speedup: float  # median over the passes of the ratio
    reduced: str | None  # the fastest int8 or bfloat16 of the reference that keeps the budget here
    over_reduced: float | None  # how many times as fast as that the plan is
    theoretical_speedup: float  # from the times of bodies and heads at the rows that need them
    realised: float  # speedup / theoretical_speedup
    exits: Mapping[str, float]  # share of examples that stop at each stage
    part_ms: Mapping[str, Mapping[str, float]]  # of each body and head, by number of rows
    contestants: Sequence[Timing]
    missing: Mapping[str, str]  # what was not measured, and why

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def bench(
    plan: Plan,
    x: AnyArray | Fields,
    y: IntArray | None = None,
    *,
    batch: int = 1,
    threads: int = 1,
    engine: Engine | str = "onnxruntime",
    contest: Contest = FULL,
    progress: Progress | None = None,
) -> Bench:
    """The plan, its reference under every static runtime there is, and every other network.

    Args:
        plan: with networks.
        x: examples that trained nothing, (n, ...), or by field, at least `batch`.
        y: their labels, (n,); None: only changed answers are counted, not wrong ones.
        batch: rows per request.
        threads: of every engine.
        engine: that the plan runs on, or its name.
        contest: how long and against whom.
        progress: called with what is done, how much of it, and how much there is.

    Raises:
        PlanError, DataError: the plan has no networks; fewer examples than `batch`.
    """
    engine, x = engine_named(engine), arrays(fields_of(x))
    requests, tell = _requests(x, batch), progress or silent
    tell(f"loading what runs batches of {batch}", 0, contest.passes + 3)
    stages = Stages(plan.runnable(), plan.graph, engine=engine, threads=threads)
    with TemporaryDirectory() as folder:
        entry = Entry(plan=plan, engine=engine, threads=threads, folder=Path(folder), x=x)
        ring = list(entry.contestants(contest.thorough))
        ring += [Contestant(name=name, answer=_plain(run)) for name, run in contest.others.items()]
        parts = _raced(ring, stages, requests, contest.passes, tell)
        tell("comparing answers, measuring memory", contest.passes + 2, contest.passes + 3)
        answers = [np.concatenate([c.answer(r) for r in requests]) for c in ring]
        peaks = [peak_mb(c.file, requests[0], threads) if contest.thorough else None for c in ring]
    timings = _timings(ring, answers, peaks, y, batch, threads)
    return _bench(plan, engine, timings, _traced(plan, stages, requests), parts, entry.missing)


def _traced(plan: Plan, stages: Stages, requests: Sequence[Fields]) -> Trace:
    """What every stage says of the requests."""
    scores = {s: np.concatenate([stages.run(s, r) for r in requests]) for s in plan.graph.order}
    return Trace(graph=plan.graph, costs=plan.costs, scores=scores, kinds=plan.kinds)


def _plain(run: Callable[[Any], AnyArray]) -> Answer:
    """What answers a bare array, where there is one field, of requests by field."""
    return lambda fields: run(next(iter(fields.values())) if len(fields) == 1 else fields)


def _requests(x: Fields, batch: int) -> list[Fields]:
    """The last examples in whole batches."""
    used = min(count(x), max(EXAMPLES, REQUESTS * batch)) // batch * batch
    if not used:
        raise DataError(f"a batch of {batch} needs as many examples; there are {count(x)}.")
    starts = range(count(x) - used, count(x), batch)
    return [take(x, slice(start, start + batch)) for start in starts]


def _raced(
    ring: Sequence[Contestant],
    stages: Stages,
    requests: Sequence[Fields],
    passes: int,
    tell: Progress,
) -> dict[str, dict[int, float]]:
    """Runs everybody on the requests, in turn, and notes what they spent.

    Returns the seconds of each part of the plan's networks by number of rows, medians.
    """
    batch = count(requests[0])
    size = max(1, BLOCK // batch)
    blocks = [requests[i : i + size] for i in range(0, len(requests), size)]
    times: dict[str, dict[int, list[float]]] = {}
    sizes = sorted({min(2**power, batch) for power in range(batch.bit_length() + 1)})
    for number in range(-1, passes):  # pass -1 warms up
        tell(f"timing batches of {batch}", number + 2, passes + 3)
        for contestant in ring:
            contestant.spent.append([])
        for i, block in enumerate(blocks):
            turn = i % len(ring)  # another one first each time: none always follows the largest
            for contestant in [*ring[turn:], *ring[:turn]]:
                answer = contestant.answer
                contestant.spent[-1] += [seconds(partial(answer, request)) for request in block]
            rows = sizes[i % len(sizes)]
            for request in block:
                for part, spent in laps(stages, stages.graph, take(request, slice(rows))):
                    times.setdefault(part, {}).setdefault(rows, []).append(spent)
    return {
        part: {rows: float(np.median(spent)) for rows, spent in sorted(found.items())}
        for part, found in times.items()
    }


def _ideal(
    plan: Plan, trace: Trace, parts: Mapping[str, Mapping[int, float]], batch: int
) -> FloatArray:
    """The seconds that what runs of each request takes by itself, (requests,)."""
    spoken = plan.answering(trace)
    total = np.zeros(trace.examples // batch)
    uncut = whole(plan.running.graph.root)
    if len(plan.running.graph.order) == 1 and uncut in parts:  # alone, it runs as it was before
        return total + parts[uncut][batch]
    for part, found in needed(spoken, plan.running, plan.setting).items():
        rows = found.reshape(-1, batch).sum(axis=1)
        if part in parts:  # a network that was not cut has no head
            times = parts[part]
            total += np.interp(rows, [0, *times], [0, *times.values()])
    return total


def _timings(
    ring: Sequence[Contestant],
    answers: Sequence[IntArray],
    peaks: Sequence[float | None],
    y: IntArray | None,
    batch: int,
    threads: int,
) -> list[Timing]:
    spent = [np.array(c.spent[1:]) for c in ring]  # (passes, requests); the first warms up
    exact = [i for i, c in enumerate(ring) if c.exact]
    best = min(exact, key=lambda i: float(np.median(spent[i].mean(axis=1))))
    return [
        _timing(
            c,
            spent[i],
            spent[best],
            batch=batch,
            threads=threads,
            changed=float((answers[i] != answers[best]).mean()),
            error=None if y is None else float((answers[i] != y[-len(answers[i]) :]).mean()),
            memory_mb=peaks[i],
            reduced=c.reduced,
        )
        for i, c in enumerate(ring)
    ]


def _timing(
    contestant: Contestant, spent: FloatArray, best: FloatArray, *, batch: int, **counted: Any
) -> Timing:
    """What seconds (passes, requests) say of a contestant, beside those of the reference."""
    ms = float(np.median(spent.mean(axis=1)) * 1e3)
    p50, p95, p99 = (float(q) for q in np.percentile(spent, [50, 95, 99]) * 1e3)
    return Timing(
        name=contestant.name,
        batch=batch,
        ms=ms,
        p50_ms=p50,
        p95_ms=p95,
        p99_ms=p99,
        throughput=batch / ms * 1e3,
        speedup=float(np.median(best.sum(axis=1) / spent.sum(axis=1))),
        load_s=contestant.load_s,
        best=spent is best,
        **counted,
    )


def _bench(
    plan: Plan,
    engine: Engine,
    timings: Sequence[Timing],
    trace: Trace,
    parts: Mapping[str, Mapping[int, float]],
    missing: Mapping[str, str],
) -> Bench:
    named = {found.name: found for found in timings}
    adaptive, best = named[entered(engine)], next(found for found in timings if found.best)
    reduced = _reduced(timings, best, plan.certificate.budget)
    outcome = replay(plan.answering(trace), plan.running, plan.setting)
    theoretical = best.ms / (float(_ideal(plan, trace, parts, best.batch).mean()) * 1e3)
    if plan.running.graph.order == (plan.graph.reference,):  # alone, and uncut
        theoretical = 1.0
    return Bench(
        batch=best.batch,
        threads=best.threads,
        engine=engine.title,
        reference=best.name,
        reference_ms=best.ms,
        adaptive_ms=adaptive.ms,
        speedup=adaptive.speedup,
        reduced=None if reduced is None else reduced.name,
        over_reduced=None if reduced is None else adaptive.speedup / reduced.speedup,
        theoretical_speedup=theoretical,
        realised=adaptive.speedup / theoretical,
        exits={**dict.fromkeys(plan.graph.order, 0.0), **outcome.exits()},
        part_ms={
            part: {str(rows): spent * 1e3 for rows, spent in times.items()}
            for part, times in parts.items()
        },
        contestants=timings,
        missing=missing,
    )


def _reduced(timings: Sequence[Timing], best: Timing, budget: float) -> Timing | None:
    """The fastest of the reference in fewer bits that loses no more than the budget here."""
    keeping = [found for found in timings if found.reduced and _lost(found, best) <= budget]
    return max(keeping, key=lambda found: found.speedup, default=None)


def _lost(found: Timing, best: Timing) -> float:
    if found.error is None or best.error is None:
        return found.changed
    return found.error - best.error
