"""ONNX Runtime: one session per stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from offramp.arrays import AnyArray, FloatArray
from offramp.errors import NetworkError

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
}


class OnnxRuntime:
    """Runs stages from ONNX files, each in a session of its own.

    Args:
        networks: stage -> ONNX file with one input (batch, ...) and scores (batch, classes) as its
            first output.
        threads: for each session; 1 starts none.

    Raises:
        NetworkError: a file does not load, or does not have one input and two-dimensional scores.
    """

    def __init__(self, networks: Mapping[str, Path], *, threads: int = 1) -> None:
        self.threads = threads
        self.stages = {stage: _Session(stage, file, threads) for stage, file in networks.items()}

    def run(self, stage: str, x: AnyArray) -> FloatArray:
        return self.stages[stage].run(x)


class _Session:
    def __init__(self, stage: str, file: Path, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised, in our words
        # idle stages must not burn the cores that the running one needs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as problem:  # ONNX Runtime's errors share no public base class
            raise NetworkError(
                f"the network of stage '{stage}', {file}, does not load: {_first_line(problem)}. "
                "Export it again, or check it with onnx.checker."
            ) from None
        self.stage = stage
        self.input, self.type = self._check_input()
        self.output = self._check_output()

    def _check_input(self) -> tuple[str, type[np.generic]]:
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            names = ", ".join(found.name for found in inputs)
            raise NetworkError(
                f"stage '{self.stage}' has {len(inputs)} inputs ({names}); a stage reads one."
            )
        if inputs[0].shape and isinstance(inputs[0].shape[0], int):
            raise NetworkError(
                f"stage '{self.stage}' has a fixed batch size of {inputs[0].shape[0]}; rows are "
                "compacted between stages, so export it with a symbolic batch dimension "
                "(torch.onnx.export: dynamic_shapes={'x': {0: 'batch'}})."
            )
        if inputs[0].type not in _TYPES:
            raise NetworkError(f"stage '{self.stage}' reads {inputs[0].type}, which is no number.")
        return inputs[0].name, _TYPES[inputs[0].type]

    def _check_output(self) -> str:
        output = self.session.get_outputs()[0]
        if len(output.shape) != 2:
            raise NetworkError(
                f"the first output of stage '{self.stage}', {output.name}, has shape "
                f"{output.shape}; it must be scores (batch, classes)."
            )
        return str(output.name)

    def run(self, x: AnyArray) -> FloatArray:
        if x.dtype != self.type:
            x = self._cast(x)
        try:
            scores: FloatArray = self.session.run([self.output], {self.input: x})[0]
        except Exception as problem:  # see above
            raise NetworkError(
                f"stage '{self.stage}' cannot run on inputs of shape {x.shape}: "
                f"{_first_line(problem)}. Check the examples and the preprocessing of the graph."
            ) from None
        return scores

    def _cast(self, x: AnyArray) -> AnyArray:
        if not np.can_cast(x.dtype, self.type, casting="same_kind"):
            raise NetworkError(
                f"stage '{self.stage}' reads {np.dtype(self.type).name}, but the examples are "
                f"{x.dtype}. Convert them."
            )
        return x.astype(self.type)


def _first_line(problem: Exception) -> str:
    return str(problem).strip().splitlines()[0].rstrip(".") if str(problem).strip() else "no reason"
