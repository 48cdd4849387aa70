"""ONNX Runtime: one session per stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnxruntime as ort

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import InputError, NetworkError
from offramp.base.files import regular
from offramp.core.graph import BATCH, Graph, head, whole
from offramp.networks import weights
from offramp.networks.networks import sources

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


class OnnxRuntime:
    """Runs stages from ONNX files, each body and each head in a session of its own.

    Args:
        networks: part -> ONNX file: a whole network, or bodies with their heads (`big.head`).
        graph: which body continues which; None where every stage is a whole network.
        threads: for each session; 1 starts none.
        device: "cuda" needs the package onnxruntime-gpu.

    Raises:
        NetworkError: a file does not load, or does not have one input and two-dimensional scores;
            or no such device.
    """

    def __init__(
        self,
        networks: Mapping[str, Path],
        graph: Graph | None = None,
        *,
        threads: int = 1,
        device: Device = "cpu",
    ) -> None:
        self.threads = threads
        self.graph = graph or Graph.chain(part for part in networks if "." not in part)
        self.parts = {
            part: Session(part, file, threads, device=device) for part, file in networks.items()
        }
        self.source = sources(
            self.graph,
            {part: list(session.inputs) for part, session in self.parts.items()},
            {part: session.made for part, session in self.parts.items()},
        )
        for part, session in self.parts.items():
            read = self.source[part].items()
            session.check_inputs([name for name, source in read if source is None])
            session.give(self._wanted(part), answers=self._answers(part))

    def _answers(self, part: str) -> bool:
        """Whether what a part makes first are the scores of its stage."""
        return "." in part or head(part) not in self.parts

    def _wanted(self, part: str) -> list[str]:
        """The outputs that other parts read, after the scores where it answers."""
        scores = self.parts[part].made[:1] if self._answers(part) else ()
        read = [
            n for other in self.source.values() for n, source in other.items() if source == part
        ]
        return list(dict.fromkeys([*scores, *read]))

    def run(self, stage: str, x: AnyArray) -> FloatArray:
        if whole(stage) in self.parts:
            session = self.parts[whole(stage)]
            return session.run([x])[0]
        batch = self.begin(x)
        batch.advance(stage, None)
        return batch.answer(stage, None)

    def begin(self, x: AnyArray) -> _Batch:
        return _Batch(self, x)


class _Batch:
    """What each part has made of which rows of a batch."""

    def __init__(self, runtime: OnnxRuntime, x: AnyArray) -> None:
        self.runtime, self.x = runtime, x
        self.made: dict[str, _Made] = {}

    def advance(self, stage: str, rows: IntArray | None) -> None:
        for part in self.runtime.graph.bodies(stage):
            self._need(part, rows)

    def answer(self, stage: str, rows: IntArray | None) -> FloatArray:
        part = head(stage) if head(stage) in self.runtime.parts else stage
        return self._need(part, rows).of(rows)[0]

    def _need(self, part: str, rows: IntArray | None) -> _Made:
        """What `part` made, after running it for those of `rows` that it has not seen."""
        known = self.made.get(part)
        missing = rows if known is None else known.lacks(rows)
        if known is None or missing is None or len(missing):
            found = self._run(part, missing)
            self.made[part] = found if known is None else known.joined(found)
        return self.made[part]

    def _run(self, part: str, rows: IntArray | None) -> _Made:
        session = self.runtime.parts[part]
        given = []
        for name, source in self.runtime.source[part].items():
            if source is None:
                given.append(self.x if rows is None else self.x[rows])
            else:
                at = self.runtime.parts[source].wanted.index(name)
                given.append(self._need(source, rows).of(rows)[at])
        return _Made(rows, session.run(given), session.axes)


@dataclass(frozen=True)
class _Made:
    """The outputs of a part for some rows of a batch."""

    rows: IntArray | None  # (n,) ascending; None: all
    values: list[AnyArray]
    axes: tuple[int | None, ...]  # of the batch in each value; None: the same for every row

    def lacks(self, rows: IntArray | None) -> IntArray | None:
        """Those of `rows` that are not among these."""
        if self.rows is None:
            return np.empty(0, dtype=np.int64)
        return None if rows is None else np.setdiff1d(rows, self.rows, assume_unique=True)

    def of(self, rows: IntArray | None) -> list[AnyArray]:
        """The values of some of the rows."""
        if rows is None or (self.rows is not None and len(rows) == len(self.rows)):
            return self.values
        at = rows if self.rows is None else np.searchsorted(self.rows, rows)
        return [_take(v, at, axis) for v, axis in zip(self.values, self.axes, strict=True)]

    def joined(self, other: _Made) -> _Made:
        """These rows and the others, ascending."""
        if self.rows is None or other.rows is None:
            return other
        rows = np.concatenate([self.rows, other.rows])
        order = np.argsort(rows)
        both = [
            value if axis is None else _take(np.concatenate([value, more], axis), order, axis)
            for value, more, axis in zip(self.values, other.values, self.axes, strict=True)
        ]
        return _Made(rows[order], both, self.axes)


def _take(value: AnyArray, rows: IntArray, axis: int | None) -> AnyArray:
    if axis is None:
        return value
    return value[rows] if axis == 0 else value.take(rows, axis)


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
    if not _keeps_weights_beside(file):
        raise failed
    model = weights.load(file)  # says what is wrong with them, or finds them behind a link
    try:
        return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    except Exception:  # see above
        raise failed from None


def _keeps_weights_beside(file: Path) -> bool:
    try:
        return bool(weights.beside(file))
    except weights.NoModel:
        return False


def _first_line(problem: Exception) -> str:
    return str(problem).strip().splitlines()[0].rstrip(".") if str(problem).strip() else "no reason"
