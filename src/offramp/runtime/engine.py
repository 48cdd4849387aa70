"""THE SEAM: an engine opens the parts of a plan, and each turns named inputs into named outputs.

An engine is one record. It says how a file is opened, and what has been opened says what it reads,
what it makes, and how to run; types, shapes and messages are the same for all and live here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import InputError, NetworkError, OfframpError
from offramp.base.fields import AnyRows as AnyRows
from offramp.base.fields import Fields as Fields
from offramp.base.fields import fields_of as fields_of
from offramp.core.graph import BATCH

Run = Callable[[Fields, Sequence[str]], Mapping[str, Any]]
"""From inputs, and the names of the outputs that are wanted, to those outputs, which are theirs who
called: another call must not change them."""
EngineName = Literal["onnxruntime", "openvino"]
_HOMES: Mapping[str, str] = {
    "onnxruntime": "offramp.runtime.onnxruntime",
    "openvino": "offramp.runtime.openvino",
}


@dataclass(frozen=True)
class Value:
    """What an input or an output is."""

    dtype: np.dtype[Any] | str | None = None  # the engine's word where numpy has none; None: any
    # sizes; where they are open a name, which is `BATCH` for rows, or None; None: any shape
    shape: tuple[int | str | None, ...] | None = None

    @property
    def axis(self) -> int | None:
        """Along which the rows lie; None: it is the same for every row."""
        if self.shape is None:
            return 0
        return self.shape.index(BATCH) if BATCH in self.shape else None


@dataclass(frozen=True)
class Program:
    """A network, or a part of one, that an engine has opened."""

    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]
    run: Run  # of at least one row; whatever it raises is said in our words
    metadata: Mapping[str, str] = field(default_factory=dict)  # what the file says of itself


@dataclass(frozen=True)
class Engine:
    """What runs networks."""

    name: str  # "ONNX Runtime": in messages, and beside the costs that were measured with it
    version: str
    open: Callable[[Any, int], Program]  # a file, with a number of threads (1 starts none)
    files: bool = True  # it opens ONNX files; False: whatever else networks are kept in

    @property
    def title(self) -> str:
        return f"{self.name} {self.version}"


def engine_named(engine: Engine | str) -> Engine:
    """An engine, or the one of a name on the command line: onnxruntime, openvino.

    Raises:
        InputError: there is none of this name.
        MissingExtra: it is not installed.
    """
    if isinstance(engine, Engine):
        return engine
    if engine not in _HOMES:
        raise InputError(
            f"there is no engine '{engine}'; choose {' or '.join(_HOMES)}, or give an Engine."
        )
    found: Engine = import_module(_HOMES[engine]).engine()
    return found


class Part:
    """A program by its name in a plan: what goes in is checked, what goes wrong said in our words.

    Args:
        name: what messages call it.
        network: a file, or whatever else the engine opens.
        engine: that opens it.
        threads: 1 starts none.

    Raises:
        NetworkError: it does not load.
    """

    name: str
    program: Program
    inputs: Mapping[str, Value]
    outputs: Mapping[str, Value]

    def __init__(self, name: str, network: Any, engine: Engine, threads: int) -> None:
        try:
            program = engine.open(network, threads)
        except OfframpError:
            raise
        except Exception as problem:  # engines' errors share no public base class
            raise NetworkError(
                f"the network of stage '{name}', {network}, does not load in {engine.name}: "
                f"{_line(problem)}. Export it again, or check it with onnx.checker."
            ) from None
        self.name, self.program = name, program
        self.inputs, self.outputs = program.inputs, program.outputs
        for value in self.inputs.values():
            if isinstance(value.dtype, str):
                raise NetworkError(f"stage '{name}' reads {value.dtype}, which is no number.")
        self._reads = [(n, v.dtype, v.shape and v.shape[1:]) for n, v in self.inputs.items()]

    def __call__(self, fields: Mapping[str, Any], wanted: Sequence[str]) -> Mapping[str, Any]:
        """The wanted outputs, from the inputs by name; others than its own are left aside.

        Raises:
            NetworkError: inputs of another shape or type, or it cannot run on them.
        """
        given = {}
        for name, dtype, rest in self._reads:
            x = fields[name]
            if dtype is not None and x.dtype != dtype:
                x = self._cast(x, dtype)
            if rest is not None and x.shape[1:] != rest:
                self._check_shape(name, x)
            given[name] = x
        try:
            return self.program.run(given, wanted)
        except InputError:
            raise
        except Exception as problem:  # see above
            raise self._failed(given, _line(problem)) from None

    def _cast(self, x: AnyArray, dtype: Any) -> AnyArray:
        if not np.can_cast(x.dtype, dtype, casting="same_kind"):
            raise NetworkError(
                f"stage '{self.name}' reads {dtype}, but the examples are {x.dtype}. Convert them."
            )
        return x.astype(dtype)

    def _check_shape(self, name: str, x: AnyArray) -> None:
        shape = self.inputs[name].shape
        assert shape is not None
        known = zip(shape, x.shape, strict=False)
        if len(shape) != x.ndim or any(isinstance(n, int) and n != size for n, size in known):
            dims = ", ".join("?" if n is None else str(n) for n in shape)
            raise self._failed({name: x}, f"{name} has the shape ({dims})")

    def _failed(self, given: Fields, why: str) -> NetworkError:
        shape = tuple(next(iter(given.values())).shape)
        return NetworkError(
            f"stage '{self.name}' cannot run on inputs of shape {shape}: {why}. "
            "Check the examples and the preprocessing of the graph."
        )


def _line(problem: Exception) -> str:
    """The line of a message that says something: OpenVINO's begin with where it was raised."""
    lines = [line.strip().rstrip(".") for line in str(problem).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith(":")]
    return next(iter(telling or lines), type(problem).__name__)
