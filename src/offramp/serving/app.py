"""The HTTP side as an ASGI application: Open Inference Protocol, version 2, and what is around it.

It can be mounted into an application of one's own; it starts no thread and opens no port.
"""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from offramp.base.errors import InputError, OfframpError, Overloaded, TooLate
from offramp.serving.address import Door
from offramp.serving.models import ServedPlan, server_metadata
from offramp.serving.protocol import Query, read_query, write_reply
from offramp.serving.service import Served
from offramp.serving.shelf import NoSuchModel, Shelf
from offramp.serving.telemetry import Telemetry, shipped
from offramp.serving.tracing import Caller, TraceContext, tell

_JSON = "application/json"
_JSON_LENGTH = "inference-header-content-length"
_OPEN = ("/v2/health/",)  # paths that need no key: whoever restarts a server has none


class Refused(Exception):  # noqa: N818 - an answer, not an error of ours
    """An answer that is none."""

    status: int
    sentence: str
    headers: dict[str, str]

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, dict(headers or {})


def refusal(problem: Exception) -> Refused:
    """What an error is for a client: its own, or that it should come again."""
    if isinstance(problem, Refused):
        return problem
    if isinstance(problem, NoSuchModel):
        return Refused(404, str(problem))
    if isinstance(problem, Overloaded | TooLate):
        wait = getattr(problem, "retry_after_s", 1.0)
        return Refused(503, str(problem), {"retry-after": str(max(1, round(wait)))})
    if isinstance(problem, InputError):
        return Refused(400, str(problem))
    tell("fault", 40, problem=repr(problem))
    sentence = str(problem) if isinstance(problem, OfframpError) else "a fault of the server."
    return Refused(500, sentence)


def asgi(
    shelf: Shelf,
    *,
    door: Door | None = None,
    telemetry: Telemetry | None = None,
) -> ASGIApp:
    """An application that serves a plan.

    Args:
        shelf: the versions of the plan.
        door: what may come in.
        telemetry: what is counted; None: nothing, and there is no page that shows it.

    Returns:
        An ASGI application, to be run by any ASGI server or mounted into another application.
    """
    limits = door or Door()
    about = _About(shelf)
    infer = _Infer(shelf, limits)
    routes: list[Route] = []
    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        routes += [
            Route(f"{prefix}/infer", infer, methods=["POST"]),
            Route(f"{prefix}/ready", about.model_ready),
            Route(prefix, about.model),
        ]
    routes += [
        Route("/v2/health/live", about.live),
        Route("/v2/health/ready", about.ready),
        Route("/v2/", about.server),
        Route("/v2", about.server),
    ]
    routes += [] if telemetry is None else _seen(telemetry)
    return _Entrance(Starlette(routes=routes), limits)


def _seen(telemetry: Telemetry) -> list[Route]:
    """Where a server is seen from outside."""

    def metrics(request: Request) -> Response:
        return Response(telemetry.text(), media_type=telemetry.kind)

    return [
        Route("/metrics", metrics),
        Route("/live.json", lambda _: JSONResponse(telemetry.figures())),
        Route("/", lambda _: HTMLResponse(shipped("live.html"))),
        Route("/grafana.json", lambda _: Response(shipped("grafana.json"), media_type=_JSON)),
    ]


@dataclass(frozen=True)
class _About:
    """Answers that need no network."""

    shelf: Shelf

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        return JSONResponse({"ready": self.shelf.ready}, 200 if self.shelf.ready else 503)

    async def server(self, request: Request) -> Response:
        return JSONResponse(server_metadata())

    async def model_ready(self, request: Request) -> Response:
        model = self._found(request)
        return JSONResponse({"name": model.name, "ready": self.shelf.ready})

    async def model(self, request: Request) -> Response:
        return JSONResponse(self._found(request).metadata())

    def _found(self, request: Request) -> ServedPlan:
        return self.shelf.find(request.path_params["name"], request.path_params.get("version", ""))


class _Infer:
    """The route that answers: an ASGI application by itself, which sees a client leave."""

    def __init__(self, shelf: Shelf, door: Door) -> None:
        self.shelf, self.door = shelf, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, headers = scope["path_params"], _headers(scope)
        self.shelf.find(path["name"], path.get("version", ""))  # before the body is waited for
        length = headers.get(_JSON_LENGTH)
        query = read_query(await self._body(receive, headers), length)
        with self.shelf.lend(path["name"], path.get("version", "")) as model:
            if model.takes_long(query):
                fields = await asyncio.to_thread(model.fields, query, texts=length is None)
            else:
                fields = model.fields(query)
            served = await self._served(model, query, fields, scope, receive)
        if served is None:
            return  # nobody is there to be answered
        body, head = write_reply(model.reply(query, served), query)
        kind = _JSON if head is None else "application/octet-stream"
        given = {"content-type": kind, "content-length": str(len(body))}
        if head is not None:
            given[_JSON_LENGTH] = str(head)
        await _answer(send, 200, given, body)

    async def _served(
        self, model: ServedPlan, query: Query, fields: Any, scope: Scope, receive: Receive
    ) -> Served | None:
        """The answers; None: the client has gone, and nothing is computed for it any more."""
        trace = scope.get("offramp.trace") or TraceContext.of(None)  # mounted without the entrance
        answer = model.submit(query, fields, None, Caller(query.id or trace.trace, trace))
        waiting = asyncio.wrap_future(answer)
        leaving = asyncio.ensure_future(_gone(receive))
        try:
            both: set[asyncio.Future[Any]] = {waiting, leaving}
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                return waiting.result()
            return None
        finally:
            leaving.cancel()
            waiting.cancel()

    async def _body(self, receive: Receive, headers: Mapping[str, str]) -> bytes:
        """All of a body. Raises Refused where it is too large, or does not come."""
        most = self.door.body_bytes
        said = headers.get("content-length", "")
        too_large = f"the body has more than {most} bytes; send fewer rows at once."
        if said.isdigit() and int(said) > most:
            raise Refused(413, too_large, {"connection": "close"})
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.door.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(400, "the client left before its body was there.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise Refused(413, too_large, {"connection": "close"})
                    more = message.get("more_body", False)
        except TimeoutError:
            late = f"the body did not come within {self.door.body_s:g} s."
            raise Refused(408, late, {"connection": "close"}) from None
        return _inflated(b"".join(parts), headers.get("content-encoding", ""), most)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _inflated(body: bytes, how: str, most: int) -> bytes:
    """A body that may be compressed, of so many bytes at most."""
    if how in ("", "identity"):
        return body
    try:
        if how == "gzip":
            with gzip.GzipFile(fileobj=io.BytesIO(body)) as file:
                found = file.read(most + 1)
        elif how == "deflate":
            found = zlib.decompressobj().decompress(body, most + 1)
        else:
            raise Refused(415, f"the body is encoded as '{how}'; send it plain, gzip or deflate.")
    except (OSError, EOFError, zlib.error) as problem:
        raise Refused(400, f"the body is no {how}: {problem}.") from None
    if len(found) > most:
        raise Refused(413, f"the body has more than {most} bytes; send fewer rows at once.")
    return found


class _Entrance:
    """Before all routes: the key, the trace, and errors as answers."""

    def __init__(self, inside: Starlette, door: Door) -> None:
        self.inside, self.door = inside, door
        inside.add_exception_handler(Exception, _refused)
        for kind in (Refused, OfframpError):
            inside.add_exception_handler(kind, _refused)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.inside(scope, receive, send)
            return
        headers, begin = _headers(scope), time.monotonic()
        trace = TraceContext.of(headers.get("traceparent"))
        scope["offramp.trace"] = trace
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"traceparent", str(trace).encode())]
            await send(message)

        path = scope["path"][len(scope.get("root_path", "")) :]
        if not path.startswith(_OPEN) and not self.door.opens(headers.get("authorization")):
            asks = {"www-authenticate": "Bearer"}
            response = _error(Refused(401, "the API key is missing, or another one.", asks))
            await response(scope, receive, sending)
        else:
            await self.inside(scope, receive, sending)
        tell(
            "request",
            10,
            method=scope["method"],
            path=scope["path"],
            status=status,
            ms=round((time.monotonic() - begin) * 1e3, 3),
            trace_id=trace.trace,
            span_id=trace.span,
            parent_id=trace.parent,
        )


async def _refused(request: Request, problem: Exception) -> Response:
    return _error(refusal(problem))


def _error(refused: Refused) -> Response:
    body = json.dumps({"error": refused.sentence})
    return Response(body, refused.status, refused.headers, _JSON)


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


async def _answer(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    listed = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})
