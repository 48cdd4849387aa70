"""Time, honestly: warmed up, interleaved, medians, and always as a ratio to the reference."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from offramp.base.arrays import AnyArray
from offramp.base.fields import Fields, count, fields_of, take
from offramp.base.progress import Progress, silent
from offramp.core.graph import BATCH, Costs, Graph, head, whole
from offramp.core.policy import backbone
from offramp.core.trace import assemble
from offramp.export import write_file, write_folder
from offramp.export.stages import unwatched
from offramp.learn.latency import Latency
from offramp.networks.networks import Networks
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.runtime import Driver, Engine, Routed, SingleFile, Stages, engine_named

Timed = Callable[[], object]
_FEWEST_ROUNDS = 5
_WARMUP = 2
_FILE = "file.whole"  # no part is called so
_FIRST = "first"  # of the networks that stand in for others
_STAND_INS = 120  # made-up examples that a policy is fitted to, to be timed


def stage_costs(
    runtime: Stages,
    graph: Graph,
    x: AnyArray | Fields,
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
    x = fields_of(x)
    batch = min(batch, count(x))
    found = _rounds(runtime, graph, _chunks(x, batch), rounds, limit_s)
    spent = {p: float(np.median(lap[_WARMUP:])) / batch for p, lap in found.items()}
    names = [stage.name for stage in graph.stages]
    return Costs(
        {name: spent[name] for name in names},
        {name: spent.get(head(name), 0.0) for name in names},
        "s",
        f"{source}; half of the times lie within {_spread(found.values()):.0%} of each other",
        whole={stage: spent[whole(stage)] for stage in graph.ends},
        batch=batch,
        engine=runtime.engine.title,
    )


def _rounds(
    runtime: Stages, graph: Graph, chunks: Sequence[Fields], rounds: int, limit_s: float
) -> dict[str, list[float]]:
    """Seconds of each part in each round; the first few warm up."""
    found: dict[str, list[float]] = {}
    networks, waiting = _networks(graph), cycle(chunks)
    begin = time.perf_counter()
    for number in range(-_WARMUP, rounds):
        # another one first each time: what runs after a large network finds the caches cold
        turn = max(number, 0) % len(networks)
        chunk = next(waiting)
        for stages in networks[turn:] + networks[:turn]:
            for part, taken in _lap(runtime, graph, stages, chunk):
                found.setdefault(part, []).append(taken)
        if number + 1 >= _FEWEST_ROUNDS and time.perf_counter() - begin > limit_s:
            break
    return found


def _spread(laps: Iterable[Sequence[float]]) -> float:
    """The range of the middle half of the times of a part, over its median; of a typical part."""
    quartiles = [np.percentile(lap[_WARMUP:], (25, 50, 75)) for lap in laps]
    return float(np.median([(high - low) / middle for low, middle, high in quartiles]))


def recorded_costs(
    runtime: Stages,
    graph: Graph,
    x: AnyArray | Fields,
    classes: int,
    sizes: Sequence[int],
    threads: int,
    progress: Progress | None = None,
) -> Costs:
    """Costs at the largest of several batch sizes, decisions among heads; the others in `at`.

    Args:
        runtime: runs the stages.
        graph: the stages.
        x: examples (n, ...), at least one; they are repeated where a batch needs more.
        classes: of the scores.
        sizes: rows per call.
        threads: of the runtime.
        progress: called with what is measured, and which of how many.
    """
    tell, times = progress or silent, sorted(set(sizes))
    tell("measuring decisions", 0, len(times) + 1)
    x = fields_of(x)
    request = take(x, np.arange(max(*sizes, count(x))) % count(x))
    deciding = any(graph.successors.values())
    # of files alone: modules and other things are connected as files are
    engine = runtime.engine if runtime.engine.files else engine_named("onnxruntime")
    asked = {
        n: v if v.dtype.kind in "fiub" else np.zeros((len(v), 1), np.float32)
        for n, v in request.items()
    }
    given = (take(asked, slice(max(sizes))), classes, threads, engine)
    spent = overheads(*given) if deciding else None
    found = {}
    for number, size in enumerate(times, start=1):
        tell(f"measuring batches of {size}", number, len(times) + 1)
        where, limit_s = source(size, threads, runtime.engine), 10 / len(sizes)
        measured = stage_costs(runtime, graph, request, size, where, limit_s=limit_s)
        found[size] = with_decisions(graph, measured, spent)
    return replace(found.pop(max(sizes)), at=found)


def with_decisions(graph: Graph, costs: Costs, spent: Latency | None) -> Costs:
    """With what decisions take, among heads; networks that run alone make none."""
    alone = {stage.name: graph.alone(costs, stage.name) for stage in graph.stages}
    if spent is None or costs.batch is None:
        return replace(costs, whole=alone)
    call, stop = (
        float(np.interp(costs.batch, [*times], [*times.values()])) / costs.batch
        for times in (spent.parts[_FIRST], spent.stop)
    )
    heads = {s: cost + stop * bool(graph.successors.get(s)) for s, cost in costs.head.items()}
    return replace(costs, head=heads, whole=alone, overhead=call + stop)


def overheads(
    x: AnyArray | Fields,
    classes: int,
    threads: int = 1,
    engine: Engine | str = "onnxruntime",
    *,
    limit_s: float = 0.3,
) -> Latency:
    """What calls and decisions take where networks take hardly anything: measured on two of those.

    A policy that looks at scores of so many classes decides between two networks that only take the
    mean of their inputs. Those of an actual plan may take longer, never much less.

    Args:
        x: the largest request, (batch, ...).
        classes: of the scores.
        threads: of the engine.
        engine: that opens ONNX files.
        limit_s: about how long to measure.
    """
    names, x = (_FIRST, "second"), fields_of(x)
    random = np.random.default_rng(0)
    scores = {name: random.normal(size=(_STAND_INS, classes)) for name in names}
    graph = Graph.chain(names)
    free = Costs({_FIRST: 1.0, "second": 2.0}, dict.fromkeys(names, 0.0))
    trace = assemble(graph, free, scores, kind="logits")
    with TemporaryDirectory() as folder:
        files = {name: _stand_in(Path(folder) / f"{name}.onnx", x, classes) for name in names}
        plan = fit(
            trace,
            0.5,
            policy="margin",
            unlabelled=True,
            networks=Networks(graph, files, fields=tuple(x)),
        )
        return latency(plan, x, threads, engine=engine, limit_s=limit_s)


def _stand_in(path: Path, fields: Fields, classes: int) -> Path:
    """A network that reads such inputs, says as many scores, and does next to nothing."""
    weights = np.arange(classes, dtype=np.float32)[None]
    nodes, inputs, means = [], [], []
    for number, (name, x) in enumerate(fields.items()):
        flat, numbers, mean = (f"{what}.{number}" for what in ("flat", "numbers", "mean"))
        nodes += [
            helper.make_node("Flatten", [name], [flat]),
            helper.make_node("Cast", [flat], [numbers], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", [numbers], [mean], axes=[1], keepdims=1),
        ]
        kind = helper.np_dtype_to_tensor_dtype(x.dtype)
        inputs.append(helper.make_tensor_value_info(name, kind, [BATCH, *x.shape[1:]]))
        means.append(mean)
    if len(means) > 1:
        nodes.append(helper.make_node("Sum", means, ["all"]))
    nodes.append(
        helper.make_node("MatMul", ["all" if len(means) > 1 else means[0], "weights"], ["scores"])
    )
    graph = helper.make_graph(
        nodes,
        path.stem,
        inputs,
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [BATCH, classes])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return path


def laps(runtime: Stages, graph: Graph, x: AnyArray | Fields) -> Iterator[tuple[str, float]]:
    """Seconds that each body and head takes once on inputs (n, ...), and each uncut network."""
    for stages in _networks(graph):
        yield from _lap(runtime, graph, stages, x)


def latency(
    plan: Plan,
    x: AnyArray | Fields,
    threads: int = 1,
    sizes: Sequence[int] = (),
    *,
    engine: Engine | str = "onnxruntime",
    limit_s: float = 20.0,
) -> Latency:
    """What requests of up to `len(x)` rows take, part by part and at a stop of the walk.

    A stop is what an exported walk to the end takes beyond its parts, by decision.

    Args:
        plan: with networks; any that decides as the one to come will.
        x: one request, (batch, ...).
        threads: of the engine.
        sizes: further numbers of rows of requests that costs are wanted of.
        engine: that opens ONNX files, or its name.
        limit_s: about how long to measure.

    Raises PlanError and NetworkError as `export.one_file`.
    """
    engine, x = engine_named(engine), fields_of(x)
    most = count(x)
    walked = backbone(plan.policy.graph)
    parts = {part for stage in walked.order for part in walked.parts(stage)}
    stages = Stages(plan.runnable(), plan.graph, engine=engine, threads=threads)
    others = tuple(sorted({size for size in sizes if size < most}))
    requests = [take(x, slice(rows)) for rows in _up_to(most, others)]
    times = _requests(stages, plan.graph, _going_on(plan, engine, threads), requests, limit_s)
    whole_walk = times.pop(_FILE)
    return Latency(
        batch=most,
        parts=times,
        stop=_stops(whole_walk, [times[p] for p in parts & times.keys()], len(walked.order) - 1),
        source=source(most, threads, engine),
        others=others,
        engine=engine.title,
    )


def _up_to(batch: int, others: Sequence[int]) -> list[int]:
    """Numbers of rows to measure: powers of two up to a batch, and others."""
    powers = {min(2**power, batch) for power in range(batch.bit_length() + 1)}
    return sorted(powers | {*others})


def _stops(
    file: Mapping[int, float], parts: Sequence[Mapping[int, float]], decisions: int
) -> dict[int, float]:
    """Seconds of one decision, by rows: what a file takes beyond its parts, shared by all."""
    return {
        rows: max(0.0, walked - sum(part[rows] for part in parts)) / max(1, decisions)
        for rows, walked in file.items()
    }


def _going_on(plan: Plan, engine: Engine, threads: int) -> Driver:
    """The plan as exported, forced to go on to the end of the walk."""
    policy, setting = plan.policy.forced(goes_on=True)
    timed = unwatched(replace(plan, policy=policy, tradeoff=setting))  # on zeros, perhaps
    with TemporaryDirectory() as folder:
        return exported(timed, Path(folder), engine, threads)


def exported(plan: Plan, folder: Path, engine: Engine, threads: int) -> Driver:
    """A plan as it runs on an engine: in one file where branches are skipped, else in several."""
    if engine.name == engine_named("onnxruntime").name:
        write_file(plan, folder / "plan.onnx")
        return SingleFile(folder / "plan.onnx", threads=threads)
    write_folder(plan, folder / "plan")
    return Routed(folder / "plan", engine, threads=threads)


def _requests(
    stages: Stages, graph: Graph, driver: Driver, requests: Sequence[Fields], limit_s: float
) -> dict[str, dict[int, float]]:
    """Seconds of each part, and of the driver as `_FILE`, by number of rows; medians of rounds."""
    spent: dict[str, dict[int, list[float]]] = {}
    begin = time.perf_counter()
    for number in itertools.count(-_WARMUP):
        for x in requests:
            lap = dict(laps(stages, graph, x))
            lap[_FILE] = seconds(partial(driver, x))
            for part, taken in lap.items():
                spent.setdefault(part, {}).setdefault(count(x), []).append(taken)
        if number + 1 >= _FEWEST_ROUNDS and time.perf_counter() - begin > limit_s:
            break
    return {
        part: {rows: float(np.median(taken[_WARMUP:])) for rows, taken in times.items()}
        for part, times in spent.items()
    }


def _networks(graph: Graph) -> list[list[str]]:
    """The stages of each network, in order."""
    found: dict[str, list[str]] = {}
    for stage in graph.stages:
        found.setdefault(graph.first(stage.name), []).append(stage.name)
    return list(found.values())


def _lap(
    runtime: Stages, graph: Graph, stages: Sequence[str], x: AnyArray | Fields
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


def seconds(task: Timed) -> float:
    start = time.perf_counter()
    task()
    return time.perf_counter() - start


def _chunks(x: Fields, batch: int) -> list[Fields]:
    """Whole batches only: a smaller last one would be timed as if it were whole."""
    starts = range(0, count(x) - batch + 1, batch)
    return [take(x, slice(start, start + batch)) for start in starts]


def source(batch: int, threads: int, engine: Engine) -> str:
    """How and where costs were measured, in words."""
    return (
        f"measured: {engine.title}, {machine()['processor']}, batch {batch}, "
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
