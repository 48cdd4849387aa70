"""Heads: small networks that answer from a point of a frozen one, trained without a framework.

`linear` is the head of Bolukbasi et al. 2017 (section 4): average pooling and one linear layer.
`deep` sees more of the point (maxima, and averages over a grid) through one hidden layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
from onnx import helper, numpy_helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from offramp.arrays import AnyArray, FloatArray, IntArray
from offramp.errors import DataError, NetworkError
from offramp.exits.cutting import Point
from offramp.exits.network import Network

Style = Literal["linear", "deep"]
_GRID_FEATURES = 640  # a finer grid than this gives is not tried
_HIDDEN = 128


@dataclass(frozen=True)
class Pooling:
    """From the tensor at a point to features (n, features), as ONNX nodes.

    Images (channels, height, width) are averaged over all pixels; `deep` adds maxima and averages
    over the cells of a grid. Tokens (tokens, width) are averaged where they are no padding; `deep`
    adds maxima and the first token. Vectors are taken as they are.
    """

    point: Point
    style: Style
    fixed: bool = True  # whether all inputs have the same size, so that a grid fits
    padding: tuple[str, int] | None = None  # the tensor of tokens (n, tokens), and the padding one

    def nodes(self, prefix: str) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], str]:
        """Nodes for any operator set, constants, and the name of the features."""
        build = _Nodes(f"{prefix}.pool")
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

    def _images(self, build: _Nodes, x: str) -> list[str]:
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

    def _tokens(self, build: _Nodes, x: str) -> list[str]:
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
    def _masked(build: _Nodes, x: str, tokens: str, padding: int) -> tuple[str, str]:
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


@dataclass(frozen=True)
class Head:
    """A trained head: pooled features, and the earlier scores it reads, to scores."""

    pooling: Pooling
    weights: tuple[
        tuple[FloatArray, FloatArray], ...
    ]  # of each layer: (inputs, outputs), (outputs,)
    hears: tuple[str, ...] = ()  # earlier stages whose scores it reads, in the order of its inputs

    @property
    def multiply_adds(self) -> int:
        return sum(weights.size for weights, _ in self.weights)

    def __call__(self, features: FloatArray, *earlier: FloatArray) -> FloatArray:
        """The scores (n, classes), from features and the scores of the stages it hears."""
        x = np.concatenate([features, *map(_log_softmax, earlier)], axis=1)
        for number, (weights, bias) in enumerate(self.weights):
            x = (np.maximum(x, 0) if number else x) @ weights + bias
        return np.asarray(x, dtype=np.float32)

    def attach(self, model: onnx.ModelProto, stage: str, scores: Mapping[str, str]) -> str:
        """Adds the head's nodes to a model, and its scores to the outputs; returns their name.

        Args:
            model: changed in place.
            stage: prefixes what is added.
            scores: for each earlier stage the name of its scores.
        """
        nodes, constants, x = self.pooling.nodes(stage)
        build = _Nodes(f"{stage}.layer", nodes, constants)
        if self.hears:
            earlier = [build.add("LogSoftmax", [scores[s]], axis=1) for s in self.hears]
            x = build.add("Concat", [x, *earlier], axis=1)
        for number, (weights, bias) in enumerate(self.weights):
            x = build.add("Relu", [x]) if number else x
            layer = [x, build.constant(weights), build.constant(bias)]
            x = build.add("Gemm", layer)
        x = build.add("Identity", [x], output=f"{stage}.scores")
        model.graph.node.extend(build.nodes)
        model.graph.initializer.extend(build.constants)
        classes, kind = len(self.weights[-1][1]), onnx.TensorProto.FLOAT
        model.graph.output.append(helper.make_tensor_value_info(x, kind, [None, classes]))
        return x


def fit_head(
    pooling: Pooling,
    features: FloatArray,
    labels: IntArray,
    classes: int,
    *,
    earlier: Mapping[str, FloatArray] | None = None,
    seed: int = 0,
) -> Head:
    """The head trained on pooled features.

    Args:
        pooling: how the features were made; its style chooses one layer or two.
        features: (n, features).
        labels: (n,) in 0..classes - 1.
        classes: how many the network scores; one that no label names gets a score below all others.
        earlier: scores (n, classes) of earlier stages for the head to read as well.
        seed: of the order of the examples and of the first weights.

    Raises:
        DataError: NaN or infinite features, or fewer than two classes among the labels.
    """
    _check(pooling, features, labels)
    heard = {} if earlier is None else dict(earlier)
    x = np.concatenate([features, *map(_log_softmax, heard.values())], axis=1)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-6, scale, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as far as the rounds go
        layers, known = _train(pooling.style, (x - centre) / scale, labels, seed)
    (first, bias), *rest = layers
    folded = first / scale[:, None]
    layers = [(folded, bias - centre @ folded), *rest]
    layers[-1] = _every_class(*layers[-1], known, classes)
    return Head(pooling, tuple(layers), tuple(heard))


def _check(pooling: Pooling, features: FloatArray, labels: IntArray) -> None:
    broken = ~np.isfinite(features).all(axis=1)
    if broken.any():
        raise DataError(
            f"the head at '{pooling.point.name}' sees NaN or infinite numbers, first in example "
            f"{int(np.flatnonzero(broken)[0])}. Leave the example out, or choose another point."
        )
    if len(np.unique(labels)) < 2:
        raise DataError("the labels name a single class; a head learns from at least two.")


def _train(
    style: Style, x: FloatArray, labels: IntArray, seed: int
) -> tuple[list[tuple[FloatArray, FloatArray]], IntArray]:
    """Layers, and the class that each of the last outputs stands for."""
    if style == "linear":
        linear = LogisticRegression(C=1.0, max_iter=200).fit(x, labels)
        weights, bias = linear.coef_.T, linear.intercept_
        if weights.shape[1] == 1:  # two classes: one score is enough, but we give both
            weights, bias = weights * [[-0.5, 0.5]], bias * [-0.5, 0.5]
        return [(weights, bias)], linear.classes_
    deep = MLPClassifier(
        (_HIDDEN,),
        alpha=1e-3,
        batch_size=min(256, len(x)),
        learning_rate_init=2e-3,
        early_stopping=True,
        n_iter_no_change=4,
        max_iter=40,
        random_state=seed,
    ).fit(x, labels)
    layers = list(zip(deep.coefs_, deep.intercepts_, strict=True))
    if layers[-1][0].shape[1] == 1:
        weights, bias = layers[-1]
        layers[-1] = (weights * [[-0.5, 0.5]], bias * [-0.5, 0.5])
    return layers, deep.classes_


def _every_class(
    weights: FloatArray, bias: FloatArray, known: IntArray, classes: int
) -> tuple[FloatArray, FloatArray]:
    """Classes that no label named never win, and change no probability by much."""
    wide = np.zeros((len(weights), classes))
    wide[:, known] = weights
    offset = np.full(classes, -30.0)
    offset[known] = bias
    return wide, offset


def _log_softmax(scores: FloatArray) -> FloatArray:
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


@dataclass
class _Nodes:
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
