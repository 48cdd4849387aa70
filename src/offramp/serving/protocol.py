"""Tensors and messages of the Open Inference Protocol, version 2: JSON, and the binary extension.

Source: github.com/kserve/open-inference-protocol; the binary extension is that of Triton.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import DataError

BYTES = "BYTES"
TYPES: Mapping[str, np.dtype[Any]] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": "bool",
        "FP16": "<f2",
        "FP32": "<f4",
        "FP64": "<f8",
        **{f"INT{bits}": f"<i{bits // 8}" for bits in (8, 16, 32, 64)},
        **{f"UINT{bits}": f"<u{bits // 8}" for bits in (8, 16, 32, 64)},
    }.items()
}
NAMES: Mapping[np.dtype[Any], str] = {kind: name for name, kind in TYPES.items()}
_DIMENSIONS = 16
_SIZE = "binary_data_size"


@dataclass(frozen=True)
class NamedTensor:
    """A named array; of BYTES one of objects."""

    name: str
    datatype: str
    values: AnyArray


@dataclass(frozen=True, kw_only=True)
class Query:
    """What a client asks."""

    tensors: tuple[NamedTensor, ...]
    id: str = ""
    outputs: tuple[str, ...] = ()  # wanted; empty: all
    binary: Mapping[str, bool] = field(default_factory=dict)  # whether an output comes as bytes
    all_binary: bool = False  # for outputs that say nothing
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What it is answered."""

    model: str
    version: str
    id: str
    outputs: tuple[NamedTensor, ...]
    parameters: Mapping[str, str | int | float | bool]


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Any] = {}
    data: Any = None


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str = ""
    outputs: list[_Output] = []
    parameters: dict[str, Any] = {}


_DECODER = msgspec.json.Decoder(_Request)


def read_query(body: bytes, header: str | None) -> Query:
    """What a body asks.

    Args:
        body: JSON, and perhaps the bytes of tensors behind it.
        header: the value of Inference-Header-Content-Length, the length of the JSON; None: all.

    Raises:
        DataError: it is no such request.
    """
    length = _length(header, len(body))
    view = memoryview(body)
    try:
        found = _DECODER.decode(view[:length])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        raise DataError(f"the body is no inference request: {problem}.") from None
    return Query(
        tensors=_tensors(found.inputs, view[length:]),
        id=found.id,
        outputs=tuple(one.name for one in found.outputs),
        binary={
            one.name: bool(one.parameters["binary_data"])
            for one in found.outputs
            if "binary_data" in one.parameters
        },
        all_binary=bool(found.parameters.get("binary_data_output", False)),
        parameters=found.parameters,
    )


def _tensors(inputs: Sequence[_Input], behind: memoryview) -> tuple[NamedTensor, ...]:
    """The tensors of inputs, of which some have their bytes behind the JSON, in this order."""
    place, found = 0, []
    for one in inputs:
        size = one.parameters.get(_SIZE)
        if size is None:
            values = of_list(one.datatype, one.shape, one)
        elif type(size) is not int or not 0 <= size <= len(behind) - place or one.data is not None:
            raise DataError(
                f"the input '{one.name}' says that it has {size!r} bytes, and "
                f"{len(behind) - place} are there behind the JSON. Send as many as it says, and "
                "no `data` beside them."
            )
        else:
            values = of_bytes(one.datatype, one.shape, behind[place : place + size])
            place += size
        found.append(NamedTensor(one.name, one.datatype, values))
    if place != len(behind):
        raise DataError(f"{len(behind) - place} bytes of the body belong to no input.")
    return tuple(found)


def _length(header: str | None, total: int) -> int:
    if header is None:
        return total
    if not (header.isascii() and header.isdigit() and int(header) <= total):
        raise DataError(
            f"Inference-Header-Content-Length is {header!r}; it is the length of the JSON at the "
            f"front of a body of {total} bytes."
        )
    return int(header)


def _rows(datatype: str, shape: Sequence[int]) -> int:
    """How many values a shape has. Raises DataError where it is none."""
    if datatype != BYTES and datatype not in TYPES:
        raise DataError(f"there is no datatype '{datatype}'; choose {BYTES}, {', '.join(TYPES)}.")
    if not 0 < len(shape) <= _DIMENSIONS or min(shape) < 0 or max(shape) > 2**40:
        raise DataError(f"the shape is {list(shape)}; give sizes of 0 or more, rows first.")
    return math.prod(shape)


def of_bytes(datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> AnyArray:
    """An array from its bytes, little-endian, rows first; BYTES have a length of 4 bytes before.

    Raises:
        DataError: they do not fit each other.
    """
    count = _rows(datatype, shape)
    if datatype == BYTES:
        return _split(raw, count).reshape(shape)
    dtype = TYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise DataError(
            f"a tensor of {datatype} and the shape {list(shape)} has {count * dtype.itemsize} "
            f"bytes, and {len(raw)} came."
        )
    if datatype == "BOOL":
        return np.asarray(np.frombuffer(raw, np.uint8) != 0).reshape(shape)
    return np.frombuffer(raw, dtype).reshape(shape)


def _split(raw: bytes | memoryview, count: int) -> AnyArray:
    found: list[bytes] = []
    place = 0
    while place < len(raw) and len(found) < count:
        size = int.from_bytes(raw[place : place + 4], "little")
        place += 4
        found.append(bytes(raw[place : place + size]))
        if place + size > len(raw):
            break
        place += size
    if len(found) != count or place != len(raw):
        raise DataError(
            f"a tensor of BYTES should hold {count} values, each behind its length of 4 bytes."
        )
    values = np.empty(count, dtype=object)
    values[:] = found
    return values


def of_list(datatype: str, shape: Sequence[int], one: Any) -> AnyArray:
    """An array from JSON: `one.data`, flat or nested; BYTES are texts.

    Raises:
        DataError: values that are none of the type, or of another number.
    """
    count = _rows(datatype, shape)
    if not isinstance(one.data, list):
        raise DataError(f"the input '{one.name}' has no `data`, and no `{_SIZE}` either.")
    try:
        values = np.asarray(_flat(one.data) if datatype == BYTES else one.data)
    except (ValueError, OverflowError, RecursionError):
        raise DataError(f"the data of '{one.name}' are of uneven lengths; give a tensor.") from None
    if values.size != count:
        raise DataError(
            f"the input '{one.name}' of the shape {list(shape)} has {count} values, and "
            f"{values.size} came."
        )
    if datatype == BYTES:
        return values.reshape(shape)
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}[TYPES[datatype].kind]
    if count and values.dtype.kind not in kinds:
        raise DataError(f"the data of '{one.name}' are no numbers of the type {datatype}.")
    with np.errstate(over="ignore"):
        made = values.astype(TYPES[datatype])
    if TYPES[datatype].kind in "iu" and (made != values).any():
        raise DataError(f"the data of '{one.name}' do not fit the type {datatype}.")
    return made.reshape(shape)


def _flat(values: Sequence[Any]) -> AnyArray:
    found: list[bytes] = []
    for value in values:
        if isinstance(value, list):
            found += _flat(value).tolist()
        elif isinstance(value, str):
            found.append(value.encode())
        else:
            raise DataError("a tensor of BYTES holds texts in JSON.")
    made = np.empty(len(found), dtype=object)
    made[:] = found
    return made


def of_base64(values: AnyArray) -> AnyArray:
    """What texts of JSON stand for. Raises DataError where one is no base64."""
    try:
        found = [base64.b64decode(value, validate=True) for value in values.ravel()]
    except (binascii.Error, ValueError) as problem:
        raise DataError(f"in JSON an encoded image is base64: {problem}.") from None
    made = np.empty(len(found), dtype=object)
    made[:] = found
    return made.reshape(values.shape)


def to_bytes(tensor: NamedTensor) -> bytes:
    """The inverse of `of_bytes`."""
    if tensor.datatype == BYTES:
        each = [_encoded(value) for value in tensor.values.ravel()]
        return b"".join(len(value).to_bytes(4, "little") + value for value in each)
    return np.ascontiguousarray(tensor.values, TYPES[tensor.datatype]).tobytes()


def _encoded(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


def write_reply(reply: Reply, query: Query) -> tuple[bytes, int | None]:
    """A body, and the length of its JSON where bytes of tensors stand behind it."""
    outputs, behind = [], []
    for tensor in reply.outputs:
        one: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": list(tensor.values.shape),
        }
        if query.binary.get(tensor.name, query.all_binary):
            behind.append(to_bytes(tensor))
            one["parameters"] = {_SIZE: len(behind[-1])}
        else:
            one["data"] = _listed(tensor)
        outputs.append(one)
    head = msgspec.json.encode(
        {
            "model_name": reply.model,
            "model_version": reply.version,
            "id": reply.id,
            "parameters": reply.parameters,
            "outputs": outputs,
        }
    )
    return (b"".join([head, *behind]), len(head)) if behind else (head, None)


def _listed(tensor: NamedTensor) -> list[Any]:
    """Values as JSON has them; NaN and infinities, which it has not, become null."""
    found: list[Any] = tensor.values.ravel().tolist()
    if tensor.datatype == BYTES:
        return [value.decode() if isinstance(value, bytes) else value for value in found]
    return found
