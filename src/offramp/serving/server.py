"""All of a server together: versions, ports, and what is seen from outside."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from starlette.types import ASGIApp, Message

from offramp.base.errors import NetworkError
from offramp.base.fields import Fields
from offramp.serving.address import Address, Door
from offramp.serving.app import asgi
from offramp.serving.brownout import Rung
from offramp.serving.listening import Listener
from offramp.serving.models import ServedPlan
from offramp.serving.opening import Opening
from offramp.serving.protocol import NAMES
from offramp.serving.service import Observer, Served
from offramp.serving.shelf import Shelf
from offramp.serving.telemetry import Telemetry
from offramp.serving.versions import Canary, Versions, is_plan

_EVERY_S = 2.0  # between looks at a folder of versions


class Server:
    """A plan behind an address, and newer versions of it as they come.

    Args:
        folder: of a plan, of the plans of several budgets, or of versions of either.
        opening: how they are opened.
        address: where it listens.
        door: what may come in.
        canary: how a new version is tried.

    Raises:
        PlanError: no plan, or a damaged one.
        NetworkError: a network that does not load.
    """

    opening: Opening
    single: bool
    shelf: Shelf
    telemetry: Telemetry
    versions: Versions
    listener: Listener

    def __init__(
        self,
        folder: Path,
        opening: Opening,
        *,
        address: Address,
        door: Door | None = None,
        canary: Canary | None = None,
    ) -> None:
        self.opening, self.single = opening, is_plan(folder)
        self.shelf = Shelf(opening.name)
        self.telemetry = Telemetry(self.shelf)
        self.versions = Versions(folder, self.shelf, self._open, canary)
        self.listener = Listener(self.shelf, address, door, self.telemetry)

    def _open(self, folder: Path, version: str) -> ServedPlan:
        opening, auditing = self.opening, self.opening.auditing
        if auditing is not None and auditing.folder is not None and not self.single:
            own = replace(auditing, folder=auditing.folder / version)  # each may be another system
            opening = replace(opening, auditing=own)
        return opening.open(folder, version, self.telemetry)

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serves until it is asked to end, and answers what is inside.

        Args:
            started: called once it listens.

        Raises:
            StorageError: a port that cannot be had.
        """
        self.versions.follow(_EVERY_S)
        try:
            self.listener.run(started)
        finally:
            self.versions.close()

    def lines(self) -> list[str]:
        """Where it listens and with what, once it does."""
        own, current = self.listener, self.shelf.current
        scheme = "http" if own.address.certificate is None else "https"
        at = f"{scheme}://{own.address.host}:{own.port}"
        said = [f"{at}: '{self.shelf.name}' by /v2/models/{self.shelf.name}/infer; live page at /"]
        if own.grpc_port is not None:
            said.append(f"{own.address.host}:{own.grpc_port}: the same over gRPC")
        if current is not None:
            said.append(current.service.threads())
            said += _levels(current.service.levels)
        return said


def door_seconds(model: ServedPlan, x: Fields, requests: int = 300) -> float:
    """What a request of one row takes besides its stages: read, handed over, and written.

    Without the network: the ASGI application is called as a server would.

    Args:
        model: that answers.
        x: examples, by field.
        requests: how many are timed; the median counts.
    """
    shelf = Shelf(model.name, model)
    application = asgi(shelf, telemetry=Telemetry(shelf))
    tensors, behind = [], b""
    for field, source in model.sources.items():
        values = np.asarray(x[field][:1], dtype=model.reads[field].dtype)
        spec = {"name": source.name, "datatype": NAMES[values.dtype], "shape": list(values.shape)}
        tensors.append({**spec, "parameters": {"binary_data_size": values.nbytes}})
        behind += values.tobytes()
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    return asyncio.run(_door(application, model, head, behind, requests))


async def _door(
    application: ASGIApp, model: ServedPlan, head: bytes, behind: bytes, requests: int
) -> float:
    path = f"/v2/models/{model.name}/infer"
    headers = [(b"inference-header-content-length", str(len(head)).encode())]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers}
    spent, computed = [], []
    seen = _Computed()
    model.service.observer = seen
    for _ in range(requests):
        came = iter([{"type": "http.request", "body": head + behind, "more_body": False}])

        async def receive(came: Iterator[Message] = came) -> Message:
            for message in came:
                return message
            return await asyncio.Future()  # nobody leaves

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] != 200:
                raise NetworkError(f"a request was answered with {message['status']}.")

        start = time.perf_counter()
        await application(dict(scope), receive, send)
        spent.append(time.perf_counter() - start)
        computed.append(seen.seconds)
    return max(0.0, float(np.median(np.array(spent) - np.array(computed))))


class _Computed(Observer):
    """Remembers what the last request took in its stages."""

    seconds: float = 0.0

    def answered(self, served: Served, fields: Fields, hold: Any) -> None:
        self.seconds = served.computed_s


def _levels(levels: Sequence[Rung]) -> list[str]:
    if len(levels) == 1:
        return []
    saved = levels[0].cost / levels[-1].cost
    return [
        f"brown-out: {len(levels)} levels, at most {levels[-1].budget:g} excess loss; the last "
        f"costs {saved:.2f} times less than the first"
    ]
