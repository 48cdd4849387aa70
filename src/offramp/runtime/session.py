"""A session of ONNX Runtime: one file, loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from offramp.base.arrays import AnyArray
from offramp.base.errors import NetworkError
from offramp.base.files import regular
from offramp.runtime.engine import Fields, Value

_TYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}

Level = Literal["basic", "extended", "all"]
OPTIMIZATIONS: Mapping[Level, ort.GraphOptimizationLevel] = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
BEST: Level = "all"

Device = Literal["cpu", "cuda"]
PROVIDERS: Mapping[Device, list[str]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}


class Session:
    """One ONNX file, loaded.

    Args:
        file: of the network.
        threads: 1 starts none.
        level: of graph optimisation.
        device: "cuda" needs the package onnxruntime-gpu.
        spins: its threads wait for work by spinning, which is quicker and burns the cores that
            other sessions need.

    Raises:
        NetworkError: there is no such device, or weights beside the file are missing.
        Exception: whatever ONNX Runtime raises where it does not load; `Part` says it in our words.
    """

    session: Any
    inputs: dict[str, Value]
    outputs: dict[str, Value]

    def __init__(
        self,
        file: Path,
        threads: int,
        level: Level = BEST,
        device: Device = "cpu",
        spins: bool = False,
    ) -> None:
        providers = PROVIDERS[device]
        if providers[0] not in ort.get_available_providers():
            raise NetworkError(
                f"ONNX Runtime {ort.__version__} here cannot use {device}. Install onnxruntime-gpu "
                "in place of onnxruntime, or run on the CPU."
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = OPTIMIZATIONS[level]
        options.log_severity_level = 4  # what goes wrong is raised, in our words
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
        self.session = _opened(file, options, providers)
        self.inputs = {value.name: _value(value) for value in self.session.get_inputs()}
        self.outputs = {value.name: _value(value) for value in self.session.get_outputs()}
        self.metadata: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map

    def run(self, fields: Fields, wanted: Sequence[str]) -> dict[str, AnyArray]:
        """The wanted outputs by name, from all inputs by name, of their types.

        Passed, not bound: a binding that is made for each call takes twice as long on small
        arrays and four times on large ones, and one that is kept fits a single batch size.
        """
        return dict(zip(wanted, self.session.run(wanted, fields), strict=True))


def _value(value: ort.NodeArg) -> Value:
    dtype = _TYPES.get(value.type)
    return Value(value.type if dtype is None else np.dtype(dtype), tuple(value.shape))


def _opened(file: Path, options: ort.SessionOptions, providers: list[str]) -> ort.InferenceSession:
    regular(file, NetworkError)
    try:
        return ort.InferenceSession(file, options, providers=providers)
    except Exception as problem:  # ONNX Runtime's errors share no public base class
        failed = problem
    from offramp.networks import weights  # with the format itself, which takes long to import

    if not _keeps_weights_beside(file):
        raise failed
    model = weights.load(file)  # says what is wrong with them, or finds them behind a link
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception:  # see above
        raise failed from None


def _keeps_weights_beside(file: Path) -> bool:
    from offramp.networks import weights  # see above

    try:
        return bool(weights.beside(file))
    except weights.NoModel:
        return False
