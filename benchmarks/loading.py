"""Clients for measuring a server: HTTP on bare sockets, closed loop or at a rate, and vandals."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray

PATH = "/v2/models/{name}/infer"


@dataclass
class Seen:
    """What clients saw."""

    began: float = 0.0
    ended: float = 0.0
    took: list[float] = field(default_factory=list)  # seconds of answers with 200
    status: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        took = np.array(self.took or [np.nan]) * 1e3
        return {
            "seconds": self.ended - self.began,
            "answered_per_s": len(self.took) / max(1e-9, self.ended - self.began),
            "status": dict(self.status),
            **{f"p{q}_ms": float(np.quantile(took, q / 100)) for q in (50, 95, 99)},
            "most_ms": float(took.max()),
        }


def requests_of(name: str, x: AnyArray, field_name: str = "x") -> list[bytes]:
    """A request of one row each, tensors as bytes."""
    found = []
    for row in x:
        raw = np.ascontiguousarray(row[None], np.float32).tobytes()
        one = {"name": field_name, "datatype": "FP32", "shape": [1, *row.shape]}
        head = json.dumps(
            {
                "inputs": [{**one, "parameters": {"binary_data_size": len(raw)}}],
                "outputs": [{"name": "answer"}, {"name": "stage"}],
            }
        ).encode()
        found.append(framed(PATH.format(name=name), head + raw, len(head)))
    return found


def framed(path: str, body: bytes, head: int | None = None) -> bytes:
    """A POST over HTTP/1.1."""
    lines = [f"POST {path} HTTP/1.1", "host: a", f"content-length: {len(body)}"]
    lines += [] if head is None else [f"inference-header-content-length: {head}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Line:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.reader: asyncio.StreamReader | None = None
        self.writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes) -> str:
        """The status of an answer; "cut" where the server ended the connection."""
        try:
            if self.writer is None or self.writer.is_closing():
                self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self.port)
            assert self.reader is not None
            self.writer.write(request)
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.lower().split(b"\r\n")
            length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
            await self.reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return "cut"
        if b"connection: close" in lines:
            self.close()
        return lines[0].split(b" ")[1].decode()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer = None


async def closed_loop(port: int, requests: Sequence[bytes], clients: int, seconds: float) -> Seen:
    """Clients that ask again as soon as they are answered."""
    seen = Seen(began=time.perf_counter())
    until = seen.began + seconds

    async def client(number: int) -> None:
        line, place = Line(port), number
        while (start := time.perf_counter()) < until:
            await _asked(line, requests[place % len(requests)], start, seen)
            place += clients
        line.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    seen.ended = time.perf_counter()
    return seen


async def open_loop(port: int, requests: Sequence[bytes], rate: float, seconds: float) -> Seen:
    """Requests that come at random at a rate, whether earlier ones were answered or not."""
    random, seen = np.random.default_rng(0), Seen(began=time.perf_counter())
    free: list[Line] = []
    tasks: set[asyncio.Task[None]] = set()

    async def one(request: bytes, due: float) -> None:
        line = free.pop() if free else Line(port)
        await _asked(line, request, due, seen)
        free.append(line)

    due, place = seen.began, 0
    while due < seen.began + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(one(requests[place % len(requests)], due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due, place = due + random.exponential(1 / rate), place + 1
    await asyncio.gather(*tasks)
    seen.ended = time.perf_counter()
    for line in free:
        line.close()
    return seen


async def _asked(line: Line, request: bytes, start: float, seen: Seen) -> None:
    status = await line.ask(request)
    seen.status[status] += 1
    if status == "200":
        seen.took.append(time.perf_counter() - start)


async def vandals(port: int, request: bytes, number: int, seed: int = 0) -> Counter[str]:
    """Requests whose bytes are flipped, cut, or come slowly; what each was answered."""
    random, found = np.random.default_rng(seed), Counter[str]()
    gate = asyncio.Semaphore(32)

    async def one(kind: int, spoiled: bytes) -> None:
        async with gate:
            found[await _spoiled(port, kind, spoiled)] += 1

    await asyncio.gather(*(one(n % 4, _spoil(request, n % 4, random)) for n in range(number)))
    return found


def _spoil(request: bytes, kind: int, random: np.random.Generator) -> bytes:
    made = bytearray(request)
    head = request.index(b"\r\n\r\n") + 4
    json_end = head + request[head:].index(b"}]}") + 3
    low, high = ((0, head), (head, json_end), (head, len(made)), (0, len(made)))[kind]
    for _ in range(int(random.integers(1, 6))):
        made[int(random.integers(low, high))] = int(random.integers(0, 256))
    return bytes(made[: int(random.integers(1, len(made)))]) if kind == 3 else bytes(made)


async def _spoiled(port: int, kind: int, request: bytes) -> str:
    """What is answered, or "nothing" where the server waits for more or hangs up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        if kind == 3 and len(request) > 2:  # in two parts, the second one late
            writer.write(request[: len(request) // 2])
            await writer.drain()
            await asyncio.sleep(0.01)
            request = request[len(request) // 2 :]
        writer.write(request)
        first = await asyncio.wait_for(reader.readline(), 1.0)
    except (OSError, TimeoutError):
        return "nothing"
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    parts = first.split(b" ")
    return parts[1].decode("latin-1") if len(parts) > 1 else "nothing"


async def asked_once(port: int, request: bytes) -> str:
    """The status of one request on a connection of its own."""
    line = Line(port)
    try:
        return await line.ask(request)
    finally:
        if line.writer is not None:
            line.writer.close()
            await line.writer.wait_closed()
