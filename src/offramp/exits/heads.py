"""Heads: small networks that answer from a point of a frozen one, trained without a framework.

`linear` is the head of Bolukbasi et al. 2017 (section 4): average pooling and one linear layer.
`deep` sees more of the point (maxima, and averages over a grid) through one hidden layer.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from offramp.base.arrays import FloatArray, IntArray
from offramp.base.errors import DataError
from offramp.core.tasks import log_probabilities
from offramp.exits.pooling import Nodes, Pooling, Style

_HIDDEN = 128


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

    def __call__(
        self, features: FloatArray, earlier: Mapping[str, FloatArray] | None = None
    ) -> FloatArray:
        """The scores (n, classes), from the deep style's features and scores of earlier stages."""
        heard = [_log_softmax((earlier or {})[stage]) for stage in self.hears]
        x = np.concatenate([self.pooling.of(features), *heard], axis=1)
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
        build = Nodes(f"{stage}.layer", nodes, constants)
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
        features: (n, features) of the deep style.
        labels: (n,) in 0..classes - 1.
        classes: how many the network scores; one that no label names gets a score below all others.
        earlier: scores (n, classes) of earlier stages for the head to read as well.
        seed: of the order of the examples and of the first weights.

    Raises:
        DataError: NaN or infinite features, or fewer than two classes among the labels.
    """
    _check(pooling, features, labels)
    heard = {} if earlier is None else dict(earlier)
    x = np.concatenate([pooling.of(features), *map(_log_softmax, heard.values())], axis=1)
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
    counts = np.unique(labels, return_counts=True)[1]
    deep = MLPClassifier(
        (_HIDDEN,),
        alpha=1e-3,
        batch_size=min(256, len(x)),
        learning_rate_init=2e-3,
        early_stopping=bool(counts.min() > 1 and len(labels) >= 10 * len(counts)),
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
    return log_probabilities(scores, "logits")
