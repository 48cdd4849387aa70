"""A session of ONNX Runtime, which says in our words what goes wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from offramp.base.arrays import AnyArray
from offramp.base.errors import InputError, NetworkError
from offramp.base.files import regular
from offramp.core.graph import BATCH

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
LEVELS: Mapping[Level, ort.GraphOptimizationLevel] = {
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
        stage: what messages call it.
        file: of the network.
        threads: 1 starts none.
        level: of graph optimisation.
        device: "cuda" needs the package onnxruntime-gpu.
        spins: its threads wait for work by spinning, which is quicker and burns the cores that
            other sessions need.

    Raises:
        NetworkError: it does not load, or there is no such device.
    """

    def __init__(
        self,
        stage: str,
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
        options.graph_optimization_level = LEVELS[level]
        options.log_severity_level = 4  # what goes wrong is raised, in our words
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spins)))
        self.session = _opened(stage, file, options, providers)
        self.stage = stage
        self.inputs = {value.name: value.type for value in self.session.get_inputs()}
        self.made = tuple(value.name for value in self.session.get_outputs())
        self.types = {value.name: value.type for value in self.session.get_outputs()}
        self.metadata: Mapping[str, str] = self.session.get_modelmeta().custom_metadata_map
        self.wanted: list[str] = []
        self.answers = False
        self.axes: tuple[int | None, ...] = ()

    def check_inputs(self, examples: Sequence[str]) -> None:
        """Raises NetworkError unless at most one input is the examples, of any number."""
        if len(examples) > 1:
            raise NetworkError(
                f"stage '{self.stage}' has {len(examples)} inputs ({', '.join(examples)}); "
                "a stage reads one."
            )
        for value in self.session.get_inputs():
            if value.name in examples and value.shape and isinstance(value.shape[0], int):
                raise NetworkError(
                    f"stage '{self.stage}' has a fixed batch size of {value.shape[0]}; rows are "
                    "compacted between stages, so export it with a symbolic batch dimension "
                    "(torch.onnx.export: dynamic_shapes={'x': {0: 'batch'}})."
                )
            if value.type not in _TYPES:
                raise NetworkError(f"stage '{self.stage}' reads {value.type}, which is no number.")

    def give(self, wanted: list[str], *, answers: bool) -> None:
        """Which outputs `run` gives; the first are scores where the part answers."""
        shapes = {value.name: value.shape for value in self.session.get_outputs()}
        if answers and len(shapes[wanted[0]]) != 2:
            raise NetworkError(
                f"the first output of stage '{self.stage}', {wanted[0]}, has shape "
                f"{shapes[wanted[0]]}; it must be scores (batch, classes)."
            )
        if answers and (kind := self.types[wanted[0]]) not in _TYPES:
            raise NetworkError(
                f"stage '{self.stage}' gives scores of type {kind}, which cannot be read here. End "
                "it with a Cast to float and export it again."
            )
        self.wanted, self.answers = wanted, answers
        found = [shapes[name].index(BATCH) if BATCH in shapes[name] else None for name in wanted]
        self.axes = (0, *found[1:]) if answers else tuple(found)

    def run(self, given: Sequence[AnyArray]) -> list[AnyArray]:
        """The wanted outputs, from the values of the inputs in their order."""
        feeds = {
            name: x if x.dtype == _TYPES[kind] else self._cast(x, _TYPES[kind])
            for (name, kind), x in zip(self.inputs.items(), given, strict=True)
        }
        try:
            found: list[AnyArray] = self.session.run(self.wanted, feeds)
        except Exception as problem:  # see above
            raise self._failed(given, problem) from None
        if self.answers and found[0].dtype != np.float32:  # in half precision, say
            with np.errstate(over="ignore"):  # infinite, and no score
                found[0] = found[0].astype(np.float32)
        return found

    def bound(self, given: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """All outputs by name, from inputs by name; others than its own are left aside.

        Binding is quicker than passing: a call of a small network costs half as much.
        """
        binding = self.session.io_binding()
        try:
            for name, kind in self.inputs.items():
                x = given[name]
                x = x if x.dtype == _TYPES[kind] else self._cast(x, _TYPES[kind])
                binding.bind_cpu_input(name, np.asarray(x, order="C"))
            for name in self.made:
                binding.bind_output(name)
            self.session.run_with_iobinding(binding)
        except InputError:
            raise
        except Exception as problem:  # see above
            raise self._failed(given.values(), problem) from None
        return dict(zip(self.made, binding.copy_outputs_to_cpu(), strict=True))

    def _failed(self, given: Iterable[AnyArray], problem: Exception) -> NetworkError:
        shape = next(iter(given)).shape
        return NetworkError(
            f"stage '{self.stage}' cannot run on inputs of shape {shape}: "
            f"{_first_line(problem)}. Check the examples and the preprocessing of the graph."
        )

    def _cast(self, x: AnyArray, dtype: type[np.generic]) -> AnyArray:
        if not np.can_cast(x.dtype, dtype, casting="same_kind"):
            raise NetworkError(
                f"stage '{self.stage}' reads {np.dtype(dtype).name}, but the examples are "
                f"{x.dtype}. Convert them."
            )
        return x.astype(dtype)


def _opened(
    stage: str, file: Path, options: ort.SessionOptions, providers: list[str]
) -> ort.InferenceSession:
    regular(file, NetworkError)
    try:
        return ort.InferenceSession(file, options, providers=providers)
    except Exception as problem:  # ONNX Runtime's errors share no public base class
        failed = NetworkError(
            f"the network of stage '{stage}', {file}, does not load: {_first_line(problem)}. "
            "Export it again, or check it with onnx.checker."
        )
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


def _first_line(problem: Exception) -> str:
    return str(problem).strip().splitlines()[0].rstrip(".") if str(problem).strip() else "no reason"
