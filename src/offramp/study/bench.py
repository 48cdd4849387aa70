"""A plan on the clock, against everything that one would run instead of it.

All that is compared runs in turn on the same requests, a block of them at a time, as a server under
load would: what is measured are ratios, which a busy machine hardly changes. The reference is the
fastest of its static runtimes, found in the same run.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import onnx

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import DataError, MissingExtra
from offramp.base.progress import Progress, silent
from offramp.core.frontier import needed, replay
from offramp.core.graph import head, whole
from offramp.core.trace import Trace
from offramp.core.walk import Outcome
from offramp.export import one_file, write_file, write_folder
from offramp.export.stages import refitted
from offramp.networks import weights
from offramp.plan.plan import Plan
from offramp.recording.measure import laps, seconds
from offramp.runtime import OnnxRuntime, Routed, SingleFile
from offramp.runtime.session import BEST, LEVELS, Session

Run = Callable[[AnyArray], AnyArray]  # from inputs to answers (n,)
T = TypeVar("T")
REQUESTS, EXAMPLES = 16, 256  # a pass holds at least so many
BLOCK = 32  # examples that one contestant answers in a row, before the next has its turn
_CALIBRATION = 128  # examples that int8 scales are taken from, at most
_LOADS = 3
ONE_FILE, STAGE_FILES = "offramp, one file", "offramp, a file per stage"


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Bench:
    """A plan against its reference, at one batch size and number of threads."""

    batch: int
    threads: int
    reference: str  # the fastest static fp32 runtime of the reference, among the contestants
    reference_ms: float  # per request
    adaptive_ms: float  # likewise
    speedup: float  # median over the passes of the ratio
    theoretical_speedup: float  # from the times of bodies and heads at the rows that need them
    realised: float  # speedup / theoretical_speedup
    exits: Mapping[str, float]  # share of examples that stop at each stage
    part_ms: Mapping[str, Mapping[str, float]]  # of each body and head, by number of rows
    contestants: Sequence[Timing]
    missing: Mapping[str, str]  # what was not measured, and why

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class _Contestant:
    name: str
    run: Run
    load_s: float | None
    file: Path | None = None  # that ONNX Runtime can run by itself
    exact: bool = False  # the reference in fp32, on some engine
    spent: list[list[float]] = field(default_factory=list)  # passes of requests, seconds


def bench(
    plan: Plan,
    x: AnyArray,
    y: IntArray | None = None,
    *,
    batch: int = 1,
    threads: int = 1,
    passes: int = 5,
    thorough: bool = True,
    others: Mapping[str, Run] | None = None,
    progress: Progress | None = None,
) -> Bench:
    """The plan, its reference under every static runtime there is, and every other network.

    Args:
        plan: with networks.
        x: examples that trained nothing, (n, ...), at least `batch`; some calibrate int8.
        y: their labels, (n,); None: only changed answers are counted, not wrong ones.
        batch: rows per request.
        threads: of every engine.
        passes: over the requests; each gives one ratio.
        thorough: False: the plan in one file and the reference on each engine at its best level
            alone, no memory.
        others: further contestants, from inputs to answers (n,): the reference in PyTorch, say.
        progress: called with what is done, how much of it, and how much there is.

    Raises:
        PlanError: the plan has no networks.
        DataError: fewer examples than `batch`.
    """
    used = x[-max(EXAMPLES, REQUESTS * batch) :]
    used = used[len(used) % batch :]  # whole batches, the last ones
    requests = [used[i : i + batch] for i in range(0, len(used) - batch + 1, batch)]
    if not requests:
        raise DataError(f"a batch of {batch} needs as many examples; there are {len(x)}.")
    size = max(1, BLOCK // batch)
    blocks = [requests[i : i + size] for i in range(0, len(requests), size)]
    tell = progress or silent
    with TemporaryDirectory() as folder:
        steps = passes + 3
        tell(f"loading what runs batches of {batch}", 0, steps)
        missing: dict[str, str] = {}
        ring = list(_contestants(plan, Path(folder), x, threads, missing, thorough))
        ring += [_Contestant(name, run, None) for name, run in (others or {}).items()]
        stages = OnnxRuntime(plan.runnable(), plan.graph, threads=threads)
        times: dict[str, dict[int, list[float]]] = {}  # seconds, by part and number of rows
        sizes = sorted({min(2**power, batch) for power in range(batch.bit_length() + 1)})
        for number in range(-1, passes):  # pass -1 warms up
            tell(f"timing batches of {batch}", number + 2, steps)
            for found in ring:
                found.spent.append([])
            for i, block in enumerate(blocks):
                turn = i % len(ring)  # another one first each time: none always follows the largest
                for found in ring[turn:] + ring[:turn]:
                    found.spent[-1] += [seconds(partial(found.run, request)) for request in block]
                rows = sizes[i % len(sizes)]
                for request in block:
                    for part, spent in laps(stages, plan.graph, request[:rows]):
                        times.setdefault(part, {}).setdefault(rows, []).append(spent)
        parts = {
            part: {rows: float(np.median(spent)) for rows, spent in sorted(found.items())}
            for part, found in times.items()
        }
        tell("comparing answers, measuring memory", steps - 1, steps)
        answers = [np.concatenate([found.run(r) for r in requests]) for found in ring]
        peaks = [peak_mb(f.file, requests[0], threads) if thorough else None for f in ring]
        scores = {
            stage: np.concatenate([stages.run(stage, r) for r in requests])
            for stage in plan.graph.order
        }
    trace = Trace(graph=plan.graph, costs=plan.costs, scores=scores, kinds=plan.kinds)
    outcome = replay(plan.answering(trace), plan.running, plan.setting)
    ideal = _ideal(plan, trace, parts, batch)
    timings = _timings(ring, answers, peaks, y, batch, threads)
    return _bench(plan, timings, outcome, ideal, parts, missing)


def _contestants(
    plan: Plan,
    folder: Path,
    x: AnyArray,
    threads: int,
    missing: dict[str, str],
    thorough: bool,
) -> Iterator[_Contestant]:
    """The plan, then the reference on every static runtime, then the other networks alone."""
    write_file(plan, folder / "plan.onnx")
    single, load_s = _loaded(lambda: SingleFile(folder / "plan.onnx", threads=threads))
    yield _Contestant(ONE_FILE, lambda x: single(x).answer, load_s, folder / "plan.onnx")
    reference = alone(plan, plan.graph.reference, folder)
    name = plan.graph.reference
    for level in LEVELS if thorough else (BEST,):
        session, load_s = _loaded(partial(Session, name, reference, threads, level, spins=True))
        yield _Contestant(f"{name}, {level}", _answer(session), load_s, reference, exact=True)
    try:
        yield _openvino(name, reference, threads)
    except MissingExtra as problem:
        missing["OpenVINO"] = str(problem)
    if thorough:
        yield from _others(plan, folder, x, threads, missing)


def _others(
    plan: Plan, folder: Path, x: AnyArray, threads: int, missing: dict[str, str]
) -> Iterator[_Contestant]:
    """The plan in a file per stage, the reference in int8, and the other networks alone."""
    stages = folder / "stages"
    write_folder(plan, stages)
    routed, load_s = _loaded(lambda: Routed(stages, threads=threads))
    yield _Contestant(STAGE_FILES, lambda x: routed(x).answer, load_s)
    if "OpenVINO" not in missing:
        from offramp.runtime.openvino import compiled

        elsewhere, load_s = _loaded(lambda: Routed(stages, compiled, threads=threads))
        yield _Contestant(f"{STAGE_FILES}, OpenVINO", lambda x: elsewhere(x).answer, load_s)
    name = plan.graph.reference
    try:
        quantised = _quantised(plan, name, folder, x[:_CALIBRATION])
        session, load_s = _loaded(lambda: Session(name, quantised, threads, spins=True))
        yield _Contestant(f"{name}, int8", _answer(session), load_s, quantised)
    except Exception as problem:  # the quantiser's errors share no public base class
        missing["int8"] = str(problem).strip().partition("\n")[0]
    for stage in plan.graph.order:
        if stage != name:
            file = alone(plan, stage, folder)
            session, load_s = _loaded(partial(Session, stage, file, threads, spins=True))
            yield _Contestant(stage, _answer(session), load_s, file)


def _openvino(name: str, reference: Path, threads: int) -> _Contestant:
    """The reference in OpenVINO. Raises MissingExtra where it is not installed."""
    from offramp.runtime.openvino import compiled

    read, said = _ends(reference)
    run, load_s = _loaded(lambda: compiled(reference, threads))

    def answer(x: AnyArray) -> AnyArray:
        found: AnyArray = run({read: x})[said].argmax(axis=1)
        return found

    return _Contestant(f"{name}, OpenVINO", answer, load_s, exact=True)


def alone(plan: Plan, stage: str, folder: Path) -> Path:
    """The network of one stage by itself: the file that it came as, or else its parts in one.

    Where the plan refits the stage, so does the file.
    """
    if uncut := _uncut(plan, stage):
        return _mended(plan, stage, uncut, folder)
    path = folder / f"{stage}.alone.onnx"
    certificate = replace(plan.certificate, static_choice=stage)
    weights.write(one_file(replace(plan, tradeoff=None, certificate=certificate)), path)
    return path


def _uncut(plan: Plan, stage: str) -> Path | None:
    """The file that a network came as; None: it is there in parts alone."""
    files = plan.runnable()
    if whole(stage) in files:
        return files[whole(stage)]
    if plan.graph.parts(stage) == (stage, head(stage)) and head(stage) not in files:
        return files[stage]
    return None


def _mended(plan: Plan, stage: str, file: Path, folder: Path) -> Path:
    """A network with the refit of its stage, where there is one."""
    if stage not in plan.refits:
        return file
    path = folder / f"{file.stem}.{stage}.refitted.onnx"
    weights.write(refitted(plan, stage, file), path)
    return path


def _loaded(load: Callable[[], T]) -> tuple[T, float]:
    """What `load` gives, and the seconds it takes: the median of a few times."""
    spent = []
    for _ in range(_LOADS):
        start = time.perf_counter()
        found = load()
        spent.append(time.perf_counter() - start)
    return found, float(np.median(spent))


def _answer(session: Session) -> Run:
    session.wanted = list(session.made[:1])
    return lambda x: session.run([x])[0].argmax(axis=1)


def _ends(file: Path) -> tuple[str, str]:
    """The names of the examples and of the scores of a network."""
    graph = onnx.load(str(file), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    read = next(value.name for value in graph.input if value.name not in constants)
    return read, graph.output[0].name


def _quantised(plan: Plan, stage: str, folder: Path, x: AnyArray) -> Path:
    """A network in int8; its refit stays as it is, as it would in production."""
    uncut = _uncut(plan, stage)
    if uncut is None:
        return _int8(alone(plan, stage, folder), folder, x)
    return _mended(plan, stage, _int8(uncut, folder, x), folder)


def _int8(file: Path, folder: Path, x: AnyArray) -> Path:
    """Static int8 as ONNX Runtime advises for a CPU: per channel, weights signed, reduced range."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, made = folder / "prepared.onnx", folder / "int8.onnx"
    read, _ = _ends(file)
    examples = iter([{read: x[i : i + 1]} for i in range(len(x))])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> dict[str, AnyArray] | None:
            return next(examples, None)

    quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
    quantization.quantize_static(
        str(prepared),
        str(made),
        Reader(),
        per_channel=True,
        reduce_range=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return made


_PEAK = """
import sys, numpy, onnxruntime
def peak():  # of this program alone: getrusage tells of the process that started it as well
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
before = peak()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(sys.argv[3])
session = onnxruntime.InferenceSession(sys.argv[1], options)
x = numpy.load(sys.argv[2])
for _ in range(3):
    session.run(None, {session.get_inputs()[0].name: x})
print((peak() - before) / 1024)
"""


def peak_mb(file: Path | None, x: AnyArray, threads: int) -> float | None:
    """How much more memory a process takes at most, to load a file and run it on a request."""
    if file is None or sys.platform != "linux":  # other systems count in other units
        return None
    with TemporaryDirectory() as folder:
        np.save(Path(folder) / "x.npy", x)
        given = [str(file), str(Path(folder) / "x.npy"), str(threads)]
        done = subprocess.run(
            [sys.executable, "-c", _PEAK, *given], capture_output=True, text=True, check=False
        )
    return float(done.stdout) if done.returncode == 0 else None


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
    ring: Sequence[_Contestant],
    answers: Sequence[IntArray],
    peaks: Sequence[float | None],
    y: IntArray | None,
    batch: int,
    threads: int,
) -> list[Timing]:
    spent = [np.array(c.spent[1:]) for c in ring]  # (passes, requests); the first warms up
    exact = [i for i, c in enumerate(ring) if c.exact]
    best = min(exact, key=lambda i: float(np.median(spent[i].mean(axis=1))))
    found = []
    for i, c in enumerate(ring):
        ms = float(np.median(spent[i].mean(axis=1)) * 1e3)
        p50, p95, p99 = (float(q) for q in np.percentile(spent[i], [50, 95, 99]) * 1e3)
        ratio = float(np.median(spent[best].sum(axis=1) / spent[i].sum(axis=1)))
        changed = float((answers[i] != answers[best]).mean())
        error = None if y is None else float((answers[i] != y[-len(answers[i]) :]).mean())
        timing = Timing(
            name=c.name,
            batch=batch,
            threads=threads,
            ms=ms,
            p50_ms=p50,
            p95_ms=p95,
            p99_ms=p99,
            throughput=batch / ms * 1e3,
            speedup=ratio,
            changed=changed,
            error=error,
            load_s=c.load_s,
            memory_mb=peaks[i],
            best=i == best,
        )
        found.append(timing)
    return found


def _bench(
    plan: Plan,
    timings: Sequence[Timing],
    outcome: Outcome,
    ideal: FloatArray,
    parts: Mapping[str, Mapping[int, float]],
    missing: Mapping[str, str],
) -> Bench:
    named = {found.name: found for found in timings}
    adaptive, best = named[ONE_FILE], next(found for found in timings if found.best)
    theoretical = best.ms / (float(ideal.mean()) * 1e3)
    if plan.running.graph.order == (plan.graph.reference,):  # alone, and uncut
        theoretical = 1.0
    return Bench(
        batch=best.batch,
        threads=best.threads,
        reference=best.name,
        reference_ms=best.ms,
        adaptive_ms=adaptive.ms,
        speedup=adaptive.speedup,
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
