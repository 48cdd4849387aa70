"""Writing ONNX graphs: operators, constants, branches, and whole networks placed among them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from offramp.base.arrays import AnyArray

OLDEST_OPSET = 13  # of ONNX, with the operators that decisions need
Shape = Sequence[int | str | None]  # None: nothing is known of a dimension


@dataclass
class Scope:
    """A graph, or one branch of one, being written. A branch sees the tensors of those around it.

    Constants belong to the scope that asks for them: ONNX Runtime lays out the weights of a
    convolution for speed only where they lie in the branch that uses them.
    """

    around: Scope | None = None
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    _numbers: Any = field(default_factory=itertools.count)
    _given: dict[str, str] = field(default_factory=dict)  # names of outputs, by tensor
    _known: dict[Any, list[str]] = field(default_factory=dict)  # what has been written already

    def branch(self) -> Scope:
        """An empty scope inside this one."""
        return Scope(self, _numbers=self._numbers)

    def name(self, hint: str) -> str:
        """A name that nothing else has."""
        return f"{hint}.{next(self._numbers)}"

    def constant(self, value: AnyArray | Sequence[Any] | float, dtype: Any = np.float32) -> str:
        """The name of a constant tensor."""
        array = np.asarray(value, dtype=dtype)

        def write() -> list[str]:
            found = self.name("constant")
            self.constants.append(numpy_helper.from_array(array, found))
            return [found]

        return self._once(("constant", array.dtype.str, array.shape, array.tobytes()), write)[0]

    def integers(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The only output of an operator."""
        return self.several(1, operator, *inputs, **attributes)[0]

    def several(self, outputs: int, operator: str, *inputs: str, **attributes: Any) -> list[str]:
        """The outputs of an operator; what is around already is not computed again."""

        def write() -> list[str]:
            names = [self.name(operator.lower()) for _ in range(outputs)]
            self.call(operator, inputs, names, **attributes)
            return names

        if any(
            isinstance(found, onnx.GraphProto | onnx.TensorProto) for found in attributes.values()
        ):
            return write()
        return self._once((operator, inputs, repr(sorted(attributes.items()))), write)

    def _once(self, key: Any, write: Callable[[], list[str]]) -> list[str]:
        scope: Scope | None = self
        while scope is not None:
            if key in scope._known:
                return scope._known[key]
            scope = scope.around
        self._known[key] = write()
        return self._known[key]

    def call(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """Adds an operator whose outputs have names already."""
        self.nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], **attributes))

    def give(self, tensor: str, name: str) -> None:
        """Makes a tensor an output of the whole graph, under another name."""
        made = [out for node in self.nodes for out in node.output]
        if tensor in made and tensor not in self._given:
            self._given[tensor] = name
        else:
            self.call("Identity", [self._given.get(tensor, tensor)], [name])

    def finished(self) -> list[onnx.NodeProto]:
        """The nodes, with the outputs of the whole graph under the names that they were given."""
        for node in self.nodes:
            _replace(node, self._given)
        return self.nodes

    def choose(
        self,
        condition: str,
        then: tuple[Scope, Sequence[str]],
        otherwise: tuple[Scope, Sequence[str]],
        types: Sequence[int],
    ) -> list[str]:
        """What one of two branches makes: a scope and the names of its outputs, of these types."""
        branches = {
            name: scope.graph(name, outputs, types)
            for name, (scope, outputs) in (("then_branch", then), ("else_branch", otherwise))
        }
        return self.several(len(types), "If", condition, **branches)

    def graph(self, name: str, outputs: Sequence[str], types: Sequence[int]) -> onnx.GraphProto:
        """The finished graph of a branch; an output made elsewhere is handed on."""
        values, own = [], {made for node in self.nodes for made in node.output}
        for out, type_ in zip(outputs, types, strict=True):
            if out not in own:
                given = self.name("identity")
                self.call("Identity", [out], [given])
                out = given
            own.discard(out)  # an output twice needs two names
            values.append(helper.make_tensor_value_info(out, type_, None))
        return helper.make_graph(self.nodes, name, [], values, self.constants)

    def place(
        self, model: onnx.ModelProto, given: Mapping[str, str], wanted: Sequence[str]
    ) -> list[str]:
        """Puts the nodes and weights of a network here; the names of the outputs `wanted`.

        Args:
            model: without functions of its own.
            given: for each of its inputs the tensor to read.
            wanted: names of its outputs.
        """
        prefix = self.name("network")
        names = dict(given)
        graph = onnx.GraphProto()
        graph.CopyFrom(model.graph)
        _rename(graph, names, prefix)
        self.nodes.extend(graph.node)
        self.constants.extend(graph.initializer)
        return [names[name] for name in wanted]


def _replace(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Gives some tensors that a node reads or makes another name, inside its branches as well."""
    for ends in (node.input, node.output):
        for i, name in enumerate(ends):
            ends[i] = names.get(name, name)
    for attribute in node.attribute:
        inner = [attribute.g] if attribute.HasField("g") else []
        for branch in [*inner, *attribute.graphs]:
            for child in branch.node:
                _replace(child, names)


def _rename(graph: onnx.GraphProto, names: dict[str, str], prefix: str) -> None:
    """Gives every tensor that a graph makes a new name, inside its branches as well."""

    def new(name: str) -> str:
        return names.setdefault(name, f"{prefix}/{name}") if name else ""

    for tensor in graph.initializer:
        tensor.name = new(tensor.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = new(sparse.values.name)
    for node in graph.node:
        inputs, outputs = [new(name) for name in node.input], [new(name) for name in node.output]
        del node.input[:], node.output[:], node.metadata_props[:]
        node.input.extend(inputs)
        node.output.extend(outputs)
        node.name, node.doc_string = new(node.name or outputs[0]), ""
        for attribute in node.attribute:
            inner = [attribute.g] if attribute.HasField("g") else []
            for branch in [*inner, *attribute.graphs]:
                _rename(branch, names, prefix)
    for value in [*graph.input, *graph.output]:
        value.name = new(value.name)
    del graph.value_info[:]


def value(name: str, dtype: int, shape: Shape) -> onnx.ValueInfoProto:
    """The description of an input or an output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def is_float(info: onnx.ValueInfoProto) -> bool:
    """Whether a tensor holds 32-bit floats."""
    return bool(info.type.tensor_type.elem_type == TensorProto.FLOAT)
