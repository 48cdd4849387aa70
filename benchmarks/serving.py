"""A plan behind an address, against its reference behind the same: throughput, latency, overload.

The server has one core, and the clients another. Two thousand photographs that taught and certified
nothing come as tensors, one a request, over kept connections of HTTP.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import cifar, loading
from benchmarks.exits import PIXELS
from benchmarks.results import CACHE, Data, command
from offramp.base.arrays import AnyArray
from offramp.core.graph import Graph
from offramp.networks.networks import Networks
from offramp.plan.asked import Asked
from offramp.plan.fit import fit_each
from offramp.plan.plan import Plan, write_plans
from offramp.runtime import Stages, infer
from offramp.serving.brownout import Rung, reference_alone
from offramp.serving.server import door_seconds
from offramp.serving.sizing import Load, Machine, measure_stages, simulate

BUDGETS = (0.01, 0.02)  # certified together; the larger one is for load alone
NAME, SHOWN = "cifar", 2000
CLIENTS = 64


def study(
    data: Data,
    cache: Path = CACHE,
    seconds: Annotated[
        float, typer.Option(help="Of each measurement; overload: 6 times. Below 10: saves nothing.")
    ] = 10.0,
    vandals: Annotated[int, typer.Option(help="Malformed requests.")] = 10_000,
) -> dict[str, Any] | None:
    plans, x = _plans(data, cache)
    requests = loading.requests_of(NAME, x)
    with TemporaryDirectory() as folder:
        made = _folders(plans, Path(folder))
        sides = _sides(made, requests, seconds)
        found = {
            "budgets": BUDGETS,
            "python": _in_python(plans[0], x),
            "sides": sides,
            "simulated": _simulated(plans[0], x, sides["plan"]["rate"]),
            "overload": _overload(made["plans"], requests, seconds * 6),
            "vandals": _vandals(made["plan"], requests[0], vandals),
        }
    if seconds < 10 or vandals < 10_000:  # a try
        print(found)
        return None
    return found


def _plans(data: Path, cache: Path) -> tuple[list[Plan], AnyArray]:
    """Plans fitted on the first photographs, and the last ones."""
    stages = ("resnet20", "resnet56")
    files = cifar.build_networks(data, cache / "onnx")
    networks = Networks(Graph.chain(stages), {stage: files[stage] for stage in stages}, PIXELS)
    trace = cifar.traces(data, cache)["ResNet-20 > ResNet-56"]
    taught = trace.take(np.arange(trace.examples - SHOWN))
    plans = fit_each(taught, Asked.of(*BUDGETS), Networks(networks.graph, networks.files))
    return plans, cifar.read_test(data)[0][-SHOWN:]


def _folders(plans: list[Plan], folder: Path) -> dict[str, Path]:
    """The plan, the reference alone, and the plans of both budgets."""
    alone = reference_alone(Rung.of(plans[0]))
    assert alone is not None
    plans[0].write(folder / "plan")
    alone.plan.write(folder / "reference")
    write_plans(plans, folder / "plans")
    return {name: folder / name for name in ("plan", "reference", "plans")}


@dataclass(frozen=True)
class Running:
    """A server in a process of its own."""

    port: int
    pid: int

    @property
    def memory_mb(self) -> float:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@contextmanager
def served(folder: Path, *options: str) -> Iterator[Running]:
    """`offramp serve` on the first core, while this process is on another."""
    cores = sorted(os.sched_getaffinity(0))
    first = [sys.executable, "-c", "from offramp.cli import main; main()", "serve", str(folder)]
    line = [*first, "--name", NAME, "--port", "0", "--log", "error", *options]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        os.sched_setaffinity(process.pid, cores[:1])
        os.sched_setaffinity(0, cores[-1:])
        try:
            assert process.stderr is not None
            said = next(line for line in process.stderr if line.startswith("http://"))
            yield Running(int(said.split(":")[2]), process.pid)
        finally:
            os.sched_setaffinity(0, cores)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


def _in_python(plan: Plan, x: AnyArray) -> dict[str, float]:
    """What the plan saves without a server, and takes for one row."""
    alone = reference_alone(Rung.of(plan))
    assert alone is not None
    runtime = Stages(plan.networks, plan.graph)
    both = {"plan": plan, "reference": alone.plan}
    spent: dict[str, list[float]] = {name: [] for name in both}
    for start in range(0, len(x) - 64, 64):  # interleaved
        for name, one in both.items():
            spent[name].append(_timed(one, runtime, x[start : start + 64]))
    rows = [_timed(plan, runtime, x[row : row + 1]) for row in range(500)]
    low = {name: float(np.quantile(values, 0.2)) for name, values in spent.items()}
    return {
        "saving": low["reference"] / low["plan"],
        "p50_ms": float(np.median(rows)) * 1e3,
        "plan_ms_of_64": low["plan"] * 1e3,
        "reference_ms_of_64": low["reference"] * 1e3,
    }


def _timed(plan: Plan, runtime: Stages, x: AnyArray) -> float:
    start = time.perf_counter()
    infer(plan, runtime, x)
    return time.perf_counter() - start


def _sides(made: dict[str, Path], requests: list[bytes], seconds: float) -> dict[str, Any]:
    """Saturation, one client, and 70 % of the load, of the plan and of the reference alone."""
    found = {}
    for name in ("plan", "reference"):
        with served(made[name]) as server:
            asyncio.run(loading.closed_loop(server.port, requests, 8, seconds / 5))  # warms up
            full = asyncio.run(loading.closed_loop(server.port, requests, CLIENTS, seconds))
            one = asyncio.run(loading.closed_loop(server.port, requests[:500], 1, seconds))
            rate = 0.7 * full.to_json()["answered_per_s"]
            part = asyncio.run(loading.open_loop(server.port, requests, rate, seconds))
        found[name] = {"saturated": full.to_json(), "one": one.to_json(), "at_70": part.to_json()}
        found[name]["rate"] = rate
        print(name, found[name])
    return found


def _overload(folder: Path, requests: list[bytes], seconds: float) -> dict[str, Any]:
    """Twice what the plan carries, with brown-out and without."""
    found: dict[str, Any] = {}
    room = ("--rows", "256")
    with served(folder / f"{BUDGETS[0]:g}", *room) as server:
        full = asyncio.run(loading.closed_loop(server.port, requests, CLIENTS, seconds / 6))
        rate = 2 * full.to_json()["answered_per_s"]
        without = asyncio.run(loading.open_loop(server.port, requests, rate, seconds))
    with served(folder, "--brown-out", f"{BUDGETS[1]:g}", *room) as server:
        browned = asyncio.run(loading.open_loop(server.port, requests, rate, seconds))
    found |= {"rate": rate, "without": without.to_json(), "brown_out": browned.to_json()}
    print(found)
    return found


def _vandals(folder: Path, request: bytes, number: int) -> dict[str, Any]:
    """Malformed requests, and whether a good one is answered after them."""
    with served(folder, "--header-s", "2", "--body-s", "2") as server:
        asyncio.run(loading.vandals(server.port, request, max(100, number // 10), seed=1))
        before = server.memory_mb
        answered = asyncio.run(loading.vandals(server.port, request, number))
        good = asyncio.run(loading.asked_once(server.port, request))
        return {
            "requests": number,
            "status": dict(answered),
            "memory_mb_before": before,
            "memory_mb_after": server.memory_mb,
            "good_after": good,
        }


def _simulated(plan: Plan, x: AnyArray, rate: float) -> dict[str, Any]:
    """What `offramp size` says of a machine of one core at the rate of 70 % load."""
    from offramp.serving import ServedPlan, Service

    with Service(plan) as service:
        door_s = door_seconds(ServedPlan(NAME, "1", service), {"x": x[:8]})
        measured = measure_stages(plan, service.runtime, {"x": x[:512]}, door_s=door_s)
    one = dict.fromkeys(measured.stages, 1)
    found = simulate(measured, Load(rate=rate), Machine(cores=1, workers=one))
    return {**found.to_json(), "door_ms": door_s * 1e3}


if __name__ == "__main__":
    command("serving", study)
