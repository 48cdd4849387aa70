"""A trained ONNX network, looked at from inside: its tensors, what needs what, what each costs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from offramp.base.arrays import AnyArray
from offramp.base.errors import NetworkError
from offramp.exits.work import multiply_adds
from offramp.networks import weights
from offramp.recording import independence
from offramp.runtime.engine import Fields, fields_of

_ROWS = (2, 3)  # batch sizes that tell which axis of a tensor is the batch
_SCOPES = ("namespace", "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy")


@dataclass(frozen=True, kw_only=True)
class KnownTensor:
    """What is known of a tensor after running the network on two batch sizes."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]  # for one example: 1 along the batch axis
    axis: int | None  # of the batch; None: the same for every batch
    folded: bool = False  # its size depends on the batch in another way, so rows cannot be dropped

    @property
    def bytes(self) -> int:
        """Per example; 0 for what does not depend on it."""
        return 0 if self.axis is None else math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Network:
    """An ONNX model and what its tensors look like.

    Args:
        model: with inputs (batch, ...) and scores (batch, classes) as outputs.
        tensors: by name, of every input, output and intermediate value.
    """

    model: onnx.ModelProto
    tensors: Mapping[str, KnownTensor]
    path: Path | None = None
    nodes: tuple[onnx.NodeProto, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.model.graph.node))

    @classmethod
    def read(cls, path: Path, x: AnyArray | Fields | None = None) -> Network:
        """The network in an ONNX file.

        Args:
            path: the file.
            x: a few examples, (n, ...), by the names of the inputs where it reads several, to look
                at the tensors with; None makes some up where the shapes of the inputs are known.

        Raises:
            NetworkError: it does not load, has no symbolic batch, reads inputs that `x` lacks, or
                does not run on `x`.
        """
        return cls.of(weights.load(path), x, path)

    @classmethod
    def of(
        cls, model: onnx.ModelProto, x: AnyArray | Fields | None = None, path: Path | None = None
    ) -> Network:
        """As `read`, from a model in memory."""
        values = _inputs(model, path)
        fields = _made_up(values, path) if x is None else _given(values, x, path)
        return cls(model, _look(model, fields, path), path)

    def answering(self, output: str | None) -> Network:
        """With another output as the first, which is its own answer; None: as it is.

        Raises:
            NetworkError: there is no such output.
        """
        if output is None:
            return self
        if output not in self.outputs:
            raise NetworkError(
                f"{_called(self.path)} has no output '{output}'; it has {', '.join(self.outputs)}."
            )
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.output[:]
        model.graph.output.extend(
            sorted(self.model.graph.output, key=lambda value: value.name != output)
        )
        return Network(model, self.tensors, self.path)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the tensors that hold the examples."""
        return tuple(value.name for value in _inputs(self.model, self.path))

    def given(self, x: AnyArray | Fields) -> dict[str, AnyArray]:
        """Examples (n, ...) by the names of its inputs, in the types that it reads.

        One input takes the only field there is; several take those of their names.

        Raises:
            NetworkError: there is no field for an input.
        """
        return _given(_inputs(self.model, self.path), x, self.path)

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(value.name for value in self.model.graph.output)

    @cached_property
    def initializers(self) -> dict[str, onnx.TensorProto]:
        return {tensor.name: tensor for tensor in self.model.graph.initializer}

    @cached_property
    def producer(self) -> dict[str, int]:
        """For each tensor the position of the node that makes it."""
        return {
            name: position
            for position, node in enumerate(self.nodes)
            for name in node.output
            if name
        }

    @cached_property
    def reads(self) -> tuple[tuple[str, ...], ...]:
        """For each node the tensors it reads, those inside its branches and loops included."""
        return tuple(tuple(_read_by(node)) for node in self.nodes)

    def ancestors(self, tensor: str) -> frozenset[int]:
        """The positions of the nodes that `tensor` needs."""
        found: set[int] = set()
        waiting = [tensor]
        while waiting:
            position = self.producer.get(waiting.pop())
            if position is not None and position not in found:
                found.add(position)
                waiting += self.reads[position]
        return frozenset(found)

    @cached_property
    def shaping(self) -> frozenset[int]:
        """Nodes that depend on the shape of the input and on constants alone, not on its values.

        They cost little, and what they say of the batch is outdated once rows are dropped: whoever
        needs them computes them again.
        """
        found: set[int] = set()
        for position, node in enumerate(self.nodes):
            made = [self.producer.get(name) for name in self.reads[position] if name]
            known = all(
                name in self.initializers or self.producer.get(name) in found
                for name in self.reads[position]
                if name
            )
            if node.op_type in ("Shape", "Size") or (known and (made or not node.input)):
                found.add(position)
        return frozenset(found)

    @cached_property
    def multiply_adds(self) -> tuple[int, ...]:
        """Of each node, per example."""
        return tuple(self._multiply_adds(node) for node in self.nodes)

    def _multiply_adds(self, node: onnx.NodeProto) -> int:
        def shape(name: str) -> tuple[int, ...]:
            if name in self.initializers:
                return tuple(self.initializers[name].dims)
            return self.tensors[name].shape if name in self.tensors else ()

        made = next((name for name in node.output if name in self.tensors), "")
        return multiply_adds(node.op_type, [shape(name) for name in node.input], shape(made))

    def work(self, tensor: str) -> int:
        """Multiply-adds per example up to `tensor`."""
        return sum(self.multiply_adds[i] for i in self.ancestors(tensor))

    def scope(self, tensor: str) -> str:
        """The path of the module that made `tensor`, as the exporter recorded it, or its name."""
        node = self.nodes[self.producer[tensor]]
        for entry in node.metadata_props:
            if entry.key in _SCOPES:
                return _module_path(entry.value) or tensor
        levels: list[str] = []
        for part in node.name.strip("/").split("/")[:-1]:  # the older exporter: /a/a.0/conv/Conv
            if levels and part.startswith(f"{levels[-1]}."):
                levels.pop()
            levels.append(part)
        return ".".join(levels) or tensor


def _inputs(model: onnx.ModelProto, path: Path | None) -> list[onnx.ValueInfoProto]:
    """What a network reads. Raises NetworkError where an input has a fixed batch size."""
    constants = {tensor.name for tensor in model.graph.initializer}
    values = [value for value in model.graph.input if value.name not in constants]
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if not dims or dims[0].HasField("dim_value"):
            which = "" if len(values) == 1 else f" in '{value.name}'"
            raise NetworkError(
                f"{_called(path)} has a fixed batch size{which}; rows are dropped between stages, "
                "so export it with a symbolic batch dimension (torch.onnx.export: "
                "dynamic_shapes=({0: 'batch'},), one for each input)."
            )
    return values


def _called(path: Path | None) -> str:
    return "the network" if path is None else str(path)


def _given(
    values: list[onnx.ValueInfoProto], x: AnyArray | Fields, path: Path | None
) -> dict[str, AnyArray]:
    fields = fields_of(x)
    names = [value.name for value in values]
    missing = [name for name in names if name not in fields]
    if missing and len(names) == len(fields) == 1:
        fields, missing = {names[0]: next(iter(fields.values()))}, []
    if missing:
        raise NetworkError(
            f"{_called(path)} reads {', '.join(names)}, and the examples hold "
            f"{', '.join(fields) or 'nothing'}: '{missing[0]}' is missing. Give one field, of the "
            "same name, for each input."
        )
    return {
        value.name: np.asarray(
            fields[value.name], helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        )
        for value in values
    }


def made_up(network: Network) -> dict[str, AnyArray]:
    """Some examples of the right shapes, (n, ...), by input."""
    return _made_up(_inputs(network.model, network.path), network.path)


def _made_up(values: list[onnx.ValueInfoProto], path: Path | None) -> dict[str, AnyArray]:
    fields: dict[str, AnyArray] = {}
    for value in values:
        rows = independence.made_up_rows(value, _ROWS[1])
        if rows is None:
            raise NetworkError(
                f"{_called(path)} reads inputs of no fixed shape; give some with --data."
            )
        fields[value.name] = rows
    return fields


def _look(model: onnx.ModelProto, fields: Fields, path: Path | None) -> dict[str, KnownTensor]:
    """Every tensor, from running the model with all of them as outputs on two batch sizes."""
    x = {name: repeated(rows, _ROWS[1]) for name, rows in fields.items()}
    names = [name for node in model.graph.node for name in node.output if name]
    session = open_session(_with_outputs(model, names), path)
    names = [output.name for output in session.get_outputs()]
    few, more = ({n: rows[:size] for n, rows in x.items()} for size in _ROWS)
    few, more = (given | _values(session, names, given, path) for given in (few, more))
    return {
        name: known for name in few if (known := _tensor(name, few[name], more[name])) is not None
    }


def repeated(rows: AnyArray, size: int) -> AnyArray:
    """So many rows: the first ones, or all of them again and again."""
    return np.resize(rows, (size, *rows.shape[1:]))


def _with_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with more outputs, of whatever type they turn out to have."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    known = {value.name for value in wide.graph.output}
    typed = {
        value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    for name in names:
        if name not in known:
            wide.graph.output.append(typed.get(name, onnx.ValueInfoProto(name=name)))
    return wide


def open_session(model: onnx.ModelProto, path: Path | None = None) -> ort.InferenceSession:
    """A session of two threads that says in one sentence why it cannot be had."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    try:
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as problem:  # ONNX Runtime's errors share no public base class
        raise NetworkError(
            f"{path or 'the network'} does not load: {str(problem).strip().splitlines()[0]}"
        ) from None


def _values(
    session: ort.InferenceSession, names: list[str], given: Fields, path: Path | None
) -> dict[str, AnyArray]:
    try:
        return dict(zip(names, session.run(names, dict(given)), strict=True))
    except Exception as problem:  # see above
        shapes = ", ".join(f"{name} {x.shape[1:]}" for name, x in given.items())
        raise NetworkError(
            f"{_called(path)} cannot run on {len(next(iter(given.values())))} examples of shape "
            f"{shapes}: {str(problem).strip().splitlines()[0]}"
        ) from None


def _tensor(name: str, few: AnyArray, more: AnyArray) -> KnownTensor | None:
    if not isinstance(few, np.ndarray):  # a sequence or an optional
        return None
    if few.shape == more.shape:
        return KnownTensor(name=name, dtype=few.dtype, shape=few.shape, axis=None)
    changed = [i for i, (a, b) in enumerate(zip(few.shape, more.shape, strict=False)) if a != b]
    whole = few.ndim == more.ndim and len(changed) == 1
    if not whole or (few.shape[changed[0]], more.shape[changed[0]]) != _ROWS:
        return KnownTensor(name=name, dtype=few.dtype, shape=few.shape, axis=None, folded=True)
    shape = tuple(1 if i == changed[0] else size for i, size in enumerate(few.shape))
    return KnownTensor(name=name, dtype=few.dtype, shape=shape, axis=changed[0])


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for inner in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            own = {v.name for v in [*inner.input, *inner.initializer]}
            own |= {name for child in inner.node for name in child.output}
            for child in inner.node:
                yield from (name for name in _read_by(child) if name not in own)
            yield from (v.name for v in inner.output if v.name not in own)


def _module_path(recorded: str) -> str:
    """The innermost module in what an exporter recorded of a node."""
    if recorded.startswith("["):  # a list of names, from the outermost to the node itself
        names = [part.strip(" '\"") for part in recorded.strip("[]").split(",")]
        return next((name for name in reversed(names[:-1]) if name), "")
    levels = [level.partition(": ")[0] for level in recorded.split("/")]
    return next((name for name in reversed(levels[:-1]) if name), "")
