"""A plan behind an address, for tests: in this process, on a free port of loopback."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from offramp.core.trace import Trace
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing
from offramp.plan.asked import Asked
from offramp.plan.fit import fit_each
from offramp.plan.plan import Plan
from offramp.runtime import Stages
from offramp.serving import Address, Door, Limits, Listener, ServedPlan, Service, Shelf, Telemetry
from tests.made import blob_networks, blobs, linear_network


def blob_plans(folder: Path, *budgets: float, examples: int = 4000) -> list[Plan]:
    """Plans for `blobs`, of networks that run, certified together."""
    x, y = blobs(examples, seed=5)
    files = blob_networks(folder)
    stages = Stages(files)
    scores = {name: stages.run(name, x) for name in files}
    trace = Trace.of(scores, y, costs={"small": 1.0, "big": 9.0})
    return fit_each(trace, Asked.of(*budgets, policy="margin"), Networks(trace.graph, files))


def image_plan(folder: Path) -> Plan:
    """A plan of two networks that read pictures of 8 by 8."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    x = random.random((900, 3, 8, 8), np.float32)
    y = random.integers(0, 3, 900)
    files = {
        name: linear_network(
            folder / f"{name}.onnx", random.normal(size=(192, 3)).astype(np.float32), [3, 8, 8]
        )
        for name in ("small", "big")
    }
    stages = Stages(files)
    trace = Trace.of({n: stages.run(n, x) for n in files}, y, costs={"small": 1.0, "big": 9.0})
    pixels = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3)
    plans = fit_each(trace, Asked.of(0.2, policy="margin"), Networks(trace.graph, files))
    return replace(plans[0], preprocessing=pixels)


@contextmanager
def listening(
    shelf: Shelf,
    *,
    address: Address | None = None,
    door: Door | None = None,
    telemetry: Telemetry | None = None,
) -> Iterator[Listener]:
    """A server in a thread, once it listens, until it has ended in good order."""
    listener = Listener(shelf, address or Address(port=0, grpc_port=0), door, telemetry)
    started = threading.Event()
    thread = threading.Thread(target=listener.run, args=(started.set,))
    thread.start()
    try:
        assert started.wait(20)
        yield listener
    finally:
        listener.stop()
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def serving(
    plans: Plan | Sequence[Plan],
    *,
    limits: Limits | None = None,
    address: Address | None = None,
    door: Door | None = None,
) -> Iterator[Listener]:
    """A server of one plan, called `blobs`, with all that is counted."""
    shelf = Shelf("blobs")
    telemetry = Telemetry(shelf)
    model = ServedPlan("blobs", "1", Service(plans, limits=limits))
    model.service.observer = telemetry.observer(model)
    shelf.put(model)
    with listening(shelf, address=address, door=door, telemetry=telemetry) as listener:
        yield listener
