"""OpenVINO as an engine: for stages, and for the files of `offramp export --stages`.

OpenVINO does not skip what lies inside a branch, so a whole plan in one file would run every stage.
Needs the extra `openvino`.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import MissingExtra
from offramp.networks import weights
from offramp.runtime.ends import ends
from offramp.runtime.engine import Engine, Fields, Program

try:
    import openvino
except ImportError:
    raise MissingExtra("openvino", "openvino") from None


def engine() -> Engine:
    """OpenVINO on the CPU, in single precision."""
    return Engine("OpenVINO", openvino.__version__.partition("-")[0], _opened)


def _lacking(file: Path) -> list[str]:
    """Operators of classical models in a network."""
    nodes = weights.parsed(file).graph.node
    return sorted({node.op_type for node in nodes if node.domain == "ai.onnx.ml"})


def _opened(file: Path, threads: int) -> Program:
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = "f32"
    try:
        model = openvino.Core().compile_model(file, "CPU", settings)
    except RuntimeError:
        if lacking := _lacking(file):
            raise ValueError(
                f"it holds {', '.join(lacking)} of ai.onnx.ml, which OpenVINO does not have; "
                "--engine onnxruntime runs it"
            ) from None
        raise
    request, one_at_a_time = model.create_infer_request(), threading.Lock()
    read, made = ends(file)
    # OpenVINO also calls an input as what is computed from it without change
    inputs = {name: port for port in model.inputs for name in port.names & read.keys()}
    outputs = {name: port for port in model.outputs for name in port.names}

    def run(fields: Fields, wanted: Sequence[str]) -> dict[str, AnyArray]:
        feeds = {port: np.asarray(fields[name], order="C") for name, port in inputs.items()}
        with one_at_a_time:
            request.infer(feeds, share_inputs=True)
            # a copy: the next call writes to the same memory
            return {name: request.get_tensor(outputs[name]).data.copy() for name in wanted}

    return Program({name: read[name] for name in inputs}, made, run)
