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
_OPEN = (8, 64, 224)  # what dimensions are tried with that may be of any size


def trial(model: onnx.ModelProto, file: Path, tensor: str) -> AnyArray | None:
    """What a network makes of a few rows, (ROWS, ...) where rows stay apart; None: they do not run.

    Args:
        model: as it lies in `file`, with or without its weights.
        file: of the network.
        tensor: of floats, where it is no output of the network.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # what goes wrong is no news: others say it
    try:
        session = ort.InferenceSession(
            _opened(model, file, tensor), options, providers=["CPUExecutionProvider"]
        )
    except Exception:  # ONNX Runtime's errors share no public base class
        return None
    for size in _OPEN if _is_open(model) else _OPEN[:1]:
        try:
            return np.asarray(session.run([tensor], _rows(model, size))[0])
        except Exception:  # see above; and inputs that are no numbers
            continue
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


def _read(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in constants]


def _is_open(model: onnx.ModelProto) -> bool:
    """Whether an input has a dimension of any size besides its rows."""
    dims = [dim for value in _read(model) for dim in value.type.tensor_type.shape.dim[1:]]
    return not all(dim.HasField("dim_value") for dim in dims)


def _rows(model: onnx.ModelProto, size: int) -> dict[str, AnyArray]:
    """Values for every input, by name; open dimensions are of some size.

    Raises:
        Exception: one reads no numbers.
    """
    return {value.name: _made_up(value, size) for value in _read(model)}


def _made_up(value: onnx.ValueInfoProto, size: int) -> AnyArray:
    kind = value.type.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else size for d in kind.shape.dim[1:]]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
    random, shape = np.random.default_rng(0), (ROWS, *dims)
    if dtype.kind == "f":
        return random.random(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)  # every vocabulary knows 0 and 1
