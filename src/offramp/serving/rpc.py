"""The gRPC side: the same requests and answers as over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import numpy as np
from grpc import aio

from offramp.base.arrays import AnyArray
from offramp.base.errors import DataError
from offramp.serving.address import Door
from offramp.serving.app import Refused, refusal
from offramp.serving.messages import METHODS, PACKAGE, SERVICE, message
from offramp.serving.models import server_metadata
from offramp.serving.protocol import BYTES, TYPES, NamedTensor, Query, Reply, of_bytes, to_bytes
from offramp.serving.shelf import Shelf
from offramp.serving.tracing import Caller, TraceContext

_CONTENTS: Mapping[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
_CODES: Mapping[int, grpc.StatusCode] = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    503: grpc.StatusCode.UNAVAILABLE,
}
_OPEN = ("ServerLive", "ServerReady")  # need no key


def grpc_server(shelf: Shelf, door: Door) -> aio.Server:
    """A server without a port, which `add_insecure_port` or `add_secure_port` gives it.

    Args:
        shelf: the versions of the plan.
        door: what may come in.
    """
    most = ("grpc.max_receive_message_length", door.body_bytes)
    server = aio.server(options=[most, ("grpc.max_send_message_length", -1)])
    answers = _Answers(shelf)
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(
            _guarded(name, getattr(answers, name), door),
            request_deserializer=message(f"{name}Request").FromString,
            response_serializer=message(f"{name}Response").SerializeToString,
        )
        for name in METHODS
    }
    generic = grpc.method_handlers_generic_handler(f"{PACKAGE}.{SERVICE}", handlers)
    server.add_generic_rpc_handlers((generic,))
    return server


Answering = Callable[[Any, Any], Awaitable[Any]]


def _guarded(name: str, method: Answering, door: Door) -> Answering:
    """A method that asks for the key, and whose errors have the codes of gRPC."""

    async def answer(request: Any, context: Any) -> Any:
        try:
            given = dict(context.invocation_metadata() or ())
            if name not in _OPEN and not door.opens(given.get("authorization")):
                raise Refused(401, "the API key is missing, or another one.")
            return await method(request, context)
        except asyncio.CancelledError:
            raise
        except Exception as problem:
            refused = refusal(problem)
            code = _CODES.get(refused.status, grpc.StatusCode.INTERNAL)
            context.set_trailing_metadata(tuple(refused.headers.items()))
            return await context.abort(code, refused.sentence)

    return answer


class _Answers:
    """The methods, each called as the protocol calls it."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf

    async def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's
        return message("ServerLiveResponse")(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        return message("ServerReadyResponse")(ready=self.shelf.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.shelf.find(request.name, request.version)
        return message("ModelReadyResponse")(ready=self.shelf.ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        return message("ServerMetadataResponse")(**server_metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        model = self.shelf.find(request.name, request.version)
        return message("ModelMetadataResponse")(**model.metadata())

    async def ModelInfer(self, request: Any, context: Any) -> Any:  # noqa: N802
        query, given = _query(request), dict(context.invocation_metadata() or ())
        trace = TraceContext.of(given.get("traceparent"))
        with self.shelf.lend(request.model_name, request.model_version) as model:
            if model.takes_long(query):
                fields = await asyncio.to_thread(model.fields, query)
            else:
                fields = model.fields(query)
            caller = Caller(query.id or trace.trace, trace)
            answer = model.submit(query, fields, context.time_remaining(), caller)
            try:
                served = await asyncio.wrap_future(answer)
            finally:  # the caller may have gone
                answer.cancel()
        return _response(model.reply(query, served))


def _query(request: Any) -> Query:
    """What a message asks. Raises DataError where tensors do not fit their shapes."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise DataError(f"there are {len(request.inputs)} inputs and {len(raw)} raw contents.")
    tensors = []
    for number, one in enumerate(request.inputs):
        shape = list(one.shape)
        values = of_bytes(one.datatype, shape, raw[number]) if raw else _contents(one, shape)
        tensors.append(NamedTensor(one.name, one.datatype, values))
    said = request.parameters.items()
    return Query(
        tensors=tuple(tensors),
        id=request.id,
        outputs=tuple(one.name for one in request.outputs),
        parameters={
            n: getattr(v, v.WhichOneof("parameter_choice") or "bool_param") for n, v in said
        },
    )


def _contents(one: Any, shape: list[int]) -> AnyArray:
    """Typed values, as an array."""
    if one.datatype not in _CONTENTS:
        raise DataError(f"tensors of '{one.datatype}' come as raw contents only.")
    values = getattr(one.contents, _CONTENTS[one.datatype])
    if one.datatype == BYTES:
        made = np.empty(len(values), dtype=object)
        made[:] = list(values)
    else:
        wide = np.asarray(values)
        made = wide.astype(TYPES[one.datatype])
        if one.datatype not in ("FP32", "FP64") and len(wide) and (made != wide).any():
            raise DataError(f"the contents of '{one.name}' do not fit the type {one.datatype}.")
    count = int(np.prod(shape)) if shape and min(shape) >= 0 else -1
    if count != len(made):
        raise DataError(f"'{one.name}' of the shape {shape} came with {len(made)} values.")
    return made.reshape(shape)


def _response(reply: Reply) -> Any:
    response = message("ModelInferResponse")(
        model_name=reply.model, model_version=reply.version, id=reply.id
    )
    for name, value in reply.parameters.items():
        response.parameters[name].CopyFrom(_parameter(value))
    for tensor in reply.outputs:
        response.outputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=list(tensor.values.shape)
        )
        response.raw_output_contents.append(to_bytes(tensor))
    return response


def _parameter(value: str | int | float | bool) -> Any:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    return message("InferParameter")(**{kinds[type(value)]: value})
