"""OpenVINO as an engine: for stages, and for the files of `offramp export --stages`.

It is fastest where sizes are known beforehand, so a network is compiled once for 1 row, once for 2,
for 4 and so on, when a batch first needs it, and a batch of any size runs as a sum of these.
OpenVINO does not skip what lies inside a branch, so a whole plan in one file would run every stage.
Needs the extra `openvino`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import MissingExtra
from offramp.core.graph import BATCH
from offramp.networks import weights
from offramp.runtime.ends import ends
from offramp.runtime.engine import Engine, Fields, Program, Run, Value

try:
    import openvino
except ImportError:
    raise MissingExtra("openvino", "openvino") from None

MOST_ROWS = 64  # rows that a network is compiled for; larger batches run as several of these
_Values = Mapping[str, Value]
_RunArrays = Callable[[Fields, Sequence[str]], dict[str, AnyArray]]


def engine() -> Engine:
    """OpenVINO on the CPU, in single precision."""
    return Engine("OpenVINO", _version(), partial(_opened, "f32"))


def in_bfloat16() -> Engine | None:
    """OpenVINO on the CPU in bfloat16, which changes answers; None where the CPU has none."""
    known = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" not in known:
        return None
    return Engine("OpenVINO, bfloat16", _version(), partial(_opened, "bf16"))


def _version() -> str:
    return str(openvino.__version__).partition("-")[0]


def _lacking(file: Path) -> list[str]:
    """Operators of classical models in a network."""
    nodes = weights.parsed(file).graph.node
    return sorted({node.op_type for node in nodes if node.domain == "ai.onnx.ml"})


def _opened(precision: str, file: Path, threads: int) -> Program:
    try:
        model = openvino.Core().read_model(file)
        read, made = ends(file)
        # OpenVINO also calls an input as what is computed from it without change
        named = {name for port in model.inputs for name in port.names}
        read = {name: value for name, value in read.items() if name in named}
        if _rows_alone_are_open(read, made):
            return Program(read, made, _Sums(model, precision, threads, read, made))
        return Program(read, made, _dynamic(_compiled(model, precision, threads), read, made))
    except RuntimeError:
        if lacking := _lacking(file):
            raise ValueError(
                f"it holds {', '.join(lacking)} of ai.onnx.ml, which OpenVINO does not have; "
                "--engine onnxruntime runs it"
            ) from None
        raise


def _compiled(model: Any, precision: str, threads: int) -> Any:
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings["INFERENCE_PRECISION_HINT"] = precision
    return openvino.Core().compile_model(model, "CPU", settings)


def _rows_alone_are_open(read: _Values, made: _Values) -> bool:
    """Whether all sizes are known but the number of rows, which some input has."""
    shapes = [value.shape for value in (*read.values(), *made.values())]
    return any(value.shape and BATCH in value.shape for value in read.values()) and all(
        shape is not None and all(isinstance(size, int) or size == BATCH for size in shape)
        for shape in shapes
    )


def _dynamic(compiled: Any, read: _Values, made: _Values) -> Run:
    """Runs a network whose sizes are open."""
    request = compiled.create_infer_request()
    inputs = {name: _port(compiled.inputs, name) for name in read}
    outputs = {name: _port(compiled.outputs, name) for name in made}
    one_at_a_time = threading.Lock()

    def run(fields: Fields, wanted: Sequence[str]) -> dict[str, AnyArray]:
        given = {port: np.asarray(fields[name], order="C") for name, port in inputs.items()}
        with one_at_a_time:
            for port, values in given.items():
                request.set_tensor(port, openvino.Tensor(values, shared_memory=True))
            request.infer()
            # a copy: the next call writes to the same memory
            return {name: request.get_tensor(outputs[name]).data.copy() for name in wanted}

    return run


def _port(ports: Sequence[Any], name: str) -> Any:
    return next(port for port in ports if name in port.names)


class _Sums:
    """Runs a network for any number of rows, as compiled for powers of two."""

    def __init__(
        self, model: Any, precision: str, threads: int, read: _Values, made: _Values
    ) -> None:
        self.model, self.precision, self.threads = model, precision, threads
        self.read, self.made = read, made
        self.axes = {name: value.axis for name, value in {**read, **made}.items()}
        self.counted = next((n, v.axis) for n, v in read.items() if v.axis is not None)
        self.of, self.one_at_a_time = cache(self._of), threading.Lock()
        self.of(1)  # what cannot be compiled is found out now

    def _of(self, rows: int) -> _RunArrays:
        """The network, compiled for a number of rows."""
        model = self.model.clone()
        model.reshape(
            {
                _port(model.inputs, name).any_name: [
                    rows if size == BATCH else size for size in value.shape or ()
                ]
                for name, value in self.read.items()
            }
        )
        compiled = _compiled(model, self.precision, self.threads)
        request = compiled.create_infer_request()
        inputs = [(n, request.get_tensor(_port(compiled.inputs, n)).data) for n in self.read]
        outputs = {n: request.get_tensor(_port(compiled.outputs, n)).data for n in self.made}

        def run(fields: Fields, wanted: Sequence[str]) -> dict[str, AnyArray]:
            for name, memory in inputs:
                memory[...] = fields[name]
            request.infer()
            return {name: outputs[name].copy() for name in wanted}  # the next call writes there

        return run

    def __call__(self, fields: Fields, wanted: Sequence[str]) -> dict[str, AnyArray]:
        with self.one_at_a_time:
            return self._summed(fields, wanted)

    def _summed(self, fields: Fields, wanted: Sequence[str]) -> dict[str, AnyArray]:
        name, axis = self.counted
        rows = fields[name].shape[axis]
        if rows & (rows - 1) == 0 and rows <= MOST_ROWS:
            return self.of(rows)(fields, wanted)
        found, start = [], 0
        for size in summands(rows):
            some = {
                n: _cut(x, self.axes[n], start, size) for n, x in fields.items() if n in self.read
            }
            found.append(self.of(size)(some, wanted))
            start += size
        return {name: _joined([each[name] for each in found], self.axes[name]) for name in wanted}


def summands(rows: int) -> list[int]:
    """Powers of two up to MOST_ROWS that add up to a number of rows, the largest first."""
    whole, rest = divmod(rows, MOST_ROWS)
    powers = [2**power for power in reversed(range(MOST_ROWS.bit_length() - 1)) if rest & 2**power]
    return [MOST_ROWS] * whole + powers


def _cut(x: AnyArray, axis: int | None, start: int, size: int) -> AnyArray:
    if axis is None:
        return x
    return x[(slice(None),) * axis + (slice(start, start + size),)]


def _joined(parts: Sequence[AnyArray], axis: int | None) -> AnyArray:
    return parts[0] if axis is None else np.concatenate(parts, axis)
