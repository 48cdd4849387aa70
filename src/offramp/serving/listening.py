"""Ports: uvicorn and gRPC on one event loop, with limits on who may hold a connection open."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import uvicorn
from grpc import aio
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from offramp.base.errors import InputError, StorageError
from offramp.base.files import read_bytes
from offramp.serving.address import Address, Door
from offramp.serving.app import asgi
from offramp.serving.rpc import grpc_server
from offramp.serving.shelf import Shelf
from offramp.serving.telemetry import Telemetry
from offramp.serving.tracing import tell

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
    b"content-length: 0\r\n\r\n"
)


class Listener:
    """A server on its ports.

    Args:
        shelf: the versions of the plan.
        address: where.
        door: what may come in.
        telemetry: what is counted.
    """

    shelf: Shelf
    address: Address
    door: Door
    http: _Server

    def __init__(
        self,
        shelf: Shelf,
        address: Address,
        door: Door | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.shelf, self.address, self.door = shelf, address, door or Door()
        self.app: ASGIApp = asgi(shelf, door=self.door, telemetry=telemetry)
        self.port: int | None = None  # once it listens
        self.grpc_port: int | None = None
        self.http = _Server(self._config())

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serves until it is asked to end, by a signal or by `stop`; then answers what is inside.

        Args:
            started: called once it listens.

        Raises:
            StorageError: a port that cannot be had.
        """
        with asyncio.Runner(loop_factory=_fast_loop()) as runner:
            runner.run(self._serve(started))

    def stop(self) -> None:
        """Asks it to end; from any thread."""
        self.http.should_exit = True

    def _config(self) -> uvicorn.Config:
        own = self.address
        return uvicorn.Config(
            self.app,
            host=own.host,
            port=own.port,
            http=_limited(own),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=int(own.drain_s) or None,
            ssl_certfile=own.certificate,
            ssl_keyfile=own.key,
        )

    async def _serve(self, started: Callable[[], None]) -> None:
        rpc = self._grpc()
        if rpc is not None:
            await rpc.start()
        self.http.on_start = lambda: self._listens(started)
        try:
            await self.http.serve()
        except SystemExit:
            raise StorageError(
                f"port {self.address.port} of {self.address.host} cannot be had; another server "
                "may have it. Choose another --port."
            ) from None
        finally:
            self.shelf.draining = True
            if rpc is not None:
                await rpc.stop(self.address.drain_s)
            await asyncio.to_thread(self.shelf.close, self.address.drain_s)
            tell("ended")

    def _listens(self, started: Callable[[], None]) -> None:
        self.port = self.http.servers[0].sockets[0].getsockname()[1]
        started()

    def _grpc(self) -> aio.Server | None:
        own = self.address
        if own.grpc_port is None:
            return None
        server, place = grpc_server(self.shelf, self.door), f"{own.host}:{own.grpc_port}"
        try:
            if own.certificate is not None and own.key is not None:
                pair = tuple(read_bytes(path, InputError) for path in (own.key, own.certificate))
                self.grpc_port = server.add_secure_port(place, grpc.ssl_server_credentials([pair]))
            else:
                self.grpc_port = server.add_insecure_port(place)
        except RuntimeError:
            raise StorageError(
                f"port {own.grpc_port} of {own.host} cannot be had; choose another --grpc-port."
            ) from None
        return server


class _Server(uvicorn.Server):
    """Says when it listens, and ends in good order where a signal asks it to."""

    on_start: Callable[[], None] = staticmethod(lambda: None)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.on_start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As that of uvicorn, which raises the signal again at the end, when all was well."""
        try:
            before = {s: signal.signal(s, self.handle_exit) for s in _ENDING}
        except ValueError:  # not in the main thread, which alone gets signals
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


_ENDING = (signal.SIGINT, signal.SIGTERM)


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # there is none for Windows
        return asyncio.new_event_loop
    made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return made


class _Limited(HttpToolsProtocol):
    """A connection as uvicorn keeps it, but one of so many, which may not dawdle."""

    limits: Address
    inside: set[object]  # connections that are open

    def connection_made(self, transport: Any) -> None:
        self.header_size = 0
        self.timer: asyncio.TimerHandle | None = None
        self.refused = len(self.inside) >= self.limits.connections
        if self.refused:
            transport.write(_FULL)
            transport.close()
            return
        self.inside.add(self)
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.refused:
            return
        self.inside.discard(self)
        self._relax()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.refused:
            return
        if self.timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()  # the next request of a connection that is kept
        if self.timer is not None:
            self.header_size += len(data)
        super().data_received(data)
        if self.timer is not None and self.header_size > self.limits.header_bytes:
            self.transport.close()

    def eof_received(self) -> None:
        return None

    def on_headers_complete(self) -> None:
        self._relax()
        super().on_headers_complete()

    def _expect(self) -> None:
        self.header_size = 0
        self.timer = self.loop.call_later(self.limits.header_s, self.transport.close)

    def _relax(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


def _limited(limits: Address) -> type[HttpToolsProtocol]:
    """The class of a server's connections, which count each other."""
    return type("Limited", (_Limited,), {"limits": limits, "inside": set()})
