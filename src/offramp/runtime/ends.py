"""What an ONNX file reads and makes, for engines that do not say it themselves."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import helper

from offramp.runtime.engine import Value


def ends(file: Path) -> tuple[dict[str, Value], dict[str, Value]]:
    """The inputs and the outputs of a network; constants that are listed as inputs are none."""
    graph = onnx.load(str(file), load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    return _values(v for v in graph.input if v.name not in constants), _values(graph.output)


def _values(found: Iterable[onnx.ValueInfoProto]) -> dict[str, Value]:
    return {value.name: _value(value) for value in found}


def _value(value: onnx.ValueInfoProto) -> Value:
    tensor = value.type.tensor_type
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in tensor.shape.dim
    )
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type) if tensor.elem_type else None
    return Value(dtype, shape if tensor.HasField("shape") else None)
