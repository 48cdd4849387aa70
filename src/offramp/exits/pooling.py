"""From what a network shows at a point to features: pooling that fits the layout, in ONNX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import NetworkError
from offramp.exits.cutting import ExitPoint
from offramp.exits.network import Network

Style = Literal["linear", "deep"]
_GRID_FEATURES = 640  # a finer grid than this gives is not tried


@dataclass(frozen=True)
class Pooling:
    """From the tensor at a point to features (n, features), as ONNX nodes.

    Images (channels, height, width) are averaged over all pixels; `deep` adds maxima and averages
    over the cells of a grid. Tokens (tokens, width) are averaged where they are no padding; `deep`
    adds maxima and the first token. Vectors are taken as they are.
    """

    point: ExitPoint
    style: Style
    fixed: bool = True  # whether all inputs have the same size, so that a grid fits
    padding: tuple[str, int] | None = None  # the tensor of tokens (n, tokens), and the padding one

    def of(self, features: FloatArray) -> FloatArray:
        """What this style reads of the features of the deep style, (n, features)."""
        shape = self.point.shape
        if self.style == "deep" or len(shape) == 1:
            return features
        return features[:, : shape[0] if len(shape) == 3 else shape[-1]]  # averages come first

    def nodes(self, prefix: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
        """Nodes for any operator set, constants, and the name of the features."""
        build = Nodes(f"{prefix}.pool")
        x = build.add("Cast", [self.point.name], to=onnx.TensorProto.FLOAT)
        rank, axis = len(self.point.shape), self.point.axis
        if axis:
            others = [i for i in range(rank + 1) if i != axis]
            x = build.add("Transpose", [x], perm=[axis, *others])
        if rank == 1:
            parts = [x]
        elif rank == 2:
            parts = self._tokens(build, x)
        elif rank == 3:
            parts = self._images(build, x)
        else:
            raise NetworkError(
                f"'{self.point.name}' holds {self.point.shape} numbers per example; a head reads "
                "vectors, (tokens, width) or (channels, height, width). Choose another point."
            )
        features = parts[0] if len(parts) == 1 else build.add("Concat", parts, axis=1)
        return build.nodes, build.constants, features

    def _images(self, build: Nodes, x: str) -> list[str]:
        channels, height, width = self.point.shape
        parts = [build.flat(build.add("GlobalAveragePool", [x]))]
        if self.style == "linear":
            return parts
        parts.append(build.flat(build.add("GlobalMaxPool", [x])))
        for cells in (4, 3, 2):
            fits = min(height, width) >= 2 * cells and channels * cells**2 <= _GRID_FEATURES
            if self.fixed and fits:
                size = [height // cells, width // cells]
                grid = build.add("AveragePool", [x], kernel_shape=size, strides=size)
                return [*parts, build.flat(grid)]
        return parts

    def _tokens(self, build: Nodes, x: str) -> list[str]:
        if self.padding is None:
            turned = build.add("Transpose", [x], perm=[0, 2, 1])
            mean = build.flat(build.add("GlobalAveragePool", [turned]))
            top = build.flat(build.add("GlobalMaxPool", [turned]))
        else:
            mean, top = self._masked(build, x, *self.padding)
        if self.style == "linear":
            return [mean]
        return [mean, top, build.add("Gather", [x, build.constant(np.array(0))], axis=1)]

    @staticmethod
    def _masked(build: Nodes, x: str, tokens: str, padding: int) -> tuple[str, str]:
        """Mean and maximum over the tokens that are no padding."""
        given = build.add("Cast", [tokens], to=onnx.TensorProto.INT64)
        empty = build.add("Equal", [given, build.constant(np.array(padding))])
        full = build.add("Cast", [build.add("Not", [empty])], to=onnx.TensorProto.FLOAT)
        row = build.add("Reshape", [full, build.constant(np.array([0, 1, -1]))])
        column = build.add("Reshape", [full, build.constant(np.array([0, -1, 1]))])
        count = build.add("MatMul", [row, column])
        one = build.constant(np.array(1, np.float32))
        total = build.add("MatMul", [row, x])
        mean = build.flat(build.add("Div", [total, build.add("Max", [count, one])]))
        away = build.add("Sub", [one, column])
        away = build.add("Mul", [away, build.constant(np.array(1e4, np.float32))])
        kept = build.add("Transpose", [build.add("Sub", [x, away])], perm=[0, 2, 1])
        return mean, build.flat(build.add("GlobalMaxPool", [kept]))


@dataclass
class Nodes:
    """Collects nodes under names of their own."""

    prefix: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(
        self, kind: str, inputs: Sequence[str], *, output: str | None = None, **attributes: object
    ) -> str:
        name = output or f"{self.prefix}.{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: AnyArray) -> str:
        name = f"{self.prefix}.constant{len(self.constants)}"
        single = value.astype(np.float32) if value.dtype == np.float64 else value
        self.constants.append(numpy_helper.from_array(single, name))
        return name

    def flat(self, x: str) -> str:
        return self.add("Flatten", [x], axis=1)


def pooled(network: Network, poolings: Mapping[str, Pooling]) -> onnx.ModelProto:
    """The network with the pooled features of some points as outputs, before its own answer."""
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    del model.graph.output[:]
    for stage, pooling in poolings.items():
        nodes, constants, features = pooling.nodes(stage)
        model.graph.node.extend(nodes)
        model.graph.initializer.extend(constants)
        model.graph.output.append(onnx.ValueInfoProto(name=features))
    model.graph.output.append(network.model.graph.output[0])
    return model
