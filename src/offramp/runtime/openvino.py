"""OpenVINO as an engine: for networks alone, and for the files of `offramp export --stages`.

OpenVINO does not skip what lies inside a branch, so a whole plan in one file would run every stage.
Needs the extra `openvino`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from offramp.base.arrays import AnyArray
from offramp.base.errors import InputError, MissingExtra, NetworkError
from offramp.runtime.routed import Run

try:
    import openvino
except ImportError:
    raise MissingExtra("openvino", "openvino") from None


def compiled(file: Path, threads: int) -> Run:
    """An ONNX file on the CPU; outputs are views that the next call overwrites.

    Raises:
        NetworkError: it does not load; or, when it runs, inputs of another shape or type.
    """
    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        model = core.compile_model(file, "CPU", settings)
    except Exception as problem:  # OpenVINO raises RuntimeError and others
        raise NetworkError(
            f"{file} does not load in OpenVINO: {_first_line(problem)}. Export it again."
        ) from None
    request = model.create_infer_request()
    read = {value.name for value in onnx.load(file, load_external_data=False).graph.input}
    # OpenVINO also calls an input as what is computed from it without change
    inputs = {name: port for port in model.inputs for name in port.names & read}
    outputs = {name: port for port in model.outputs for name in port.names}

    def run(given: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        feeds = {}
        for name, port in inputs.items():
            x, dtype = given[name], port.get_element_type().to_dtype()
            if not np.can_cast(x.dtype, dtype, casting="same_kind"):
                raise NetworkError(
                    f"'{file.stem}' reads {np.dtype(dtype).name}, but the examples are {x.dtype}. "
                    "Convert them."
                )
            shape = port.get_partial_shape()
            if not shape.compatible(openvino.PartialShape(list(x.shape))):
                raise NetworkError(
                    f"'{file.stem}' reads {name} of shape {shape}, but got {x.shape}. "
                    "Check the examples and the preprocessing of the graph."
                )
            feeds[name] = np.asarray(x, dtype=dtype, order="C")
        try:
            request.infer(feeds, share_inputs=True)
        except InputError:
            raise
        except Exception as problem:  # see above
            raise NetworkError(
                f"'{file.stem}' cannot run on these inputs: {_first_line(problem)}. "
                "Check the examples and the preprocessing of the graph."
            ) from None
        return {name: request.get_tensor(port).data for name, port in outputs.items()}

    return run


def _first_line(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no reason"
