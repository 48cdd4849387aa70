"""A few rows that are made up, run through a network: what its files do not say of its outputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from offramp.base.arrays import AnyArray
from offramp.networks import weights

ROWS = 3  # that no number of classes is likely to be taken for


def trial(model: onnx.ModelProto, file: Path, tensor: str) -> AnyArray | None:
    """What a network makes of a few rows, (ROWS, ...) where rows stay apart; None: they do not run.

    Args:
        model: as it lies in `file`, with or without its weights.
        file: of the network.
        tensor: of floats, where it is no output of the network.
    """
    given = _rows(model)
    if given is None:
        return None
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is no news: others say it
    try:
        session = ort.InferenceSession(
            _opened(model, file, tensor), options, providers=["CPUExecutionProvider"]
        )
        return np.asarray(session.run([tensor], given)[0])
    except Exception:  # ONNX Runtime's errors share no public base class
        return None


def _opened(model: onnx.ModelProto, file: Path, tensor: str) -> str | bytes:
    """What a session opens: the file, or where the tensor is inside, the network with it outside.

    Raises:
        Exception: it is too large to be held in one piece.
    """
    if tensor in {value.name for value in model.graph.output}:
        return str(file.resolve())  # weights lie beside what a link points to
    changed = weights.load(file)
    changed.graph.output.append(helper.make_tensor_value_info(tensor, TensorProto.FLOAT, None))
    return bytes(changed.SerializeToString())


def _rows(model: onnx.ModelProto) -> dict[str, AnyArray] | None:
    """Values for every input, by name; None where the shape of one is not known."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found = {}
    for value in model.graph.input:
        if value.name in constants:
            continue
        rows = _made_up(value)
        if rows is None:
            return None
        found[value.name] = rows
    return found


def _made_up(value: onnx.ValueInfoProto) -> AnyArray | None:
    """Rows for an input (batch, ...); None where its shape is not known, or it reads no numbers."""
    kind = value.type.tensor_type
    dims = kind.shape.dim[1:]
    if not kind.shape.dim or not all(dim.HasField("dim_value") for dim in dims):
        return None
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    if dtype.kind not in "fiub":
        return None
    random, shape = np.random.default_rng(0), (ROWS, *(dim.dim_value for dim in dims))
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)  # every vocabulary knows 0 and 1
