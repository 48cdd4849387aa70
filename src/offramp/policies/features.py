"""The numbers that the learned policy looks at, from the scores of the stages on every path.

They are what one layer of a small network makes of the two highest log-probabilities, and which
classes these are, so that an exported file works them out in a few operators, and replay, driver
and file follow one rule.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.policy import Seen
from offramp.core.tasks import FEW_CLASSES
from offramp.policies.families import numbers
from offramp.policies.operators import LOG_PROBABILITIES, LOGS, Memory, SeenTensors
from offramp.policies.statistics import LOWEST

BLOCKS = ("gap", "sure", "answer", "second", "earlier")
"""Names of the blocks of features, in their order; the first is always there."""
HIGHEST = 2  # log-probabilities of each stage that are looked at
_CLOSE = 3.0  # a gap below makes an answer unsure: the second class is at least e^-3 as likely
_KNOTS = {"gap": 6, "sure": 4, "earlier": 4}  # bends of each function
_LOWEST = np.float32(LOWEST)


@dataclass(frozen=True, kw_only=True)
class Features:
    """From what was seen at a stage to (n, features): units, and units by class.

    Units are distances |weights @ seen + bias|. What is seen are the two highest log-probabilities
    of the stage, and those that the stage before gave to the same classes. Distances from several
    points along a line make up any function that is piecewise linear along it. Blocks:

    - gap: how far the highest log-probability is above the second;
    - sure: the highest;
    - answer: which class is answered, and how unsurely, since classes differ in how far to trust
      them;
    - second: which class comes second, by how unsurely, since some pairs are confused more;
    - earlier: what the stage before gave to the present answer, and to the class that comes second
      here, and the difference, which tells whether it answered alike.
    """

    stages: tuple[str, ...]  # the one before, where there is one, and the present one
    classes: int
    weights: FloatArray  # (units, seen)
    bias: FloatArray  # (units,)
    mean: FloatArray  # (features,)
    scale: FloatArray  # (features,)
    blocks: Mapping[str, int]  # the number of features in each block that is looked at

    @classmethod
    def fit(cls, graph: Graph, seen: Seen, names: Collection[str] = BLOCKS) -> Features:
        """Features for `seen.stage`, scaled on the examples that were seen."""
        classes, stages = seen.scores().shape[1], graph.observed[seen.stage][-2:]
        values, _ = _looked_at(seen, stages)
        chosen = [name for name in BLOCKS if name in names or name == BLOCKS[0]]
        units, blocks = list[tuple[FloatArray, float]](), dict[str, int]()
        for name in chosen:
            found = [*_units(name, values)]
            units += found
            blocks[name] = len(found) or _BY_CLASS.get(name, 0) * classes * (classes <= FEW_CLASSES)
        raw = cls(
            stages=stages,
            classes=classes,
            weights=np.array([weights for weights, _ in units]),
            bias=np.array([bias for _, bias in units]),
            mean=np.zeros(1),
            scale=np.ones(1),
            blocks={name: size for name, size in blocks.items() if size},
        )
        features = raw(seen)
        scale = features.std(axis=0)
        scale = np.where(scale > 1e-6, scale, 1.0)  # in single precision less is no difference
        return replace(raw, mean=features.mean(axis=0), scale=scale)

    def only(self, names: Collection[str]) -> tuple[Features, FloatArray]:
        """Without the other blocks, and which columns remain, (features,) of booleans."""
        kept = np.concatenate([np.full(size, name in names) for name, size in self.blocks.items()])
        units = np.concatenate(
            [np.full(size, n in names) for n, size in self.blocks.items() if n not in _BY_CLASS]
        )
        left = replace(
            self,
            weights=self.weights[units],
            bias=self.bias[units],
            mean=self.mean[kept],
            scale=self.scale[kept],
            blocks={name: size for name, size in self.blocks.items() if name in names},
        )
        if left.looks_back:
            return left, kept
        return replace(left, stages=self.stages[-1:], weights=left.weights[:, :HIGHEST]), kept

    @property
    def looks_back(self) -> bool:
        """Whether the stage before counts."""
        return "earlier" in self.blocks

    def to_json(self) -> dict[str, Any]:
        return {
            "stages": list(self.stages),
            "classes": self.classes,
            "blocks": [*self.blocks],
            "sizes": [*self.blocks.values()],
            "weights": self.weights.tolist(),
            "bias": self.bias.tolist(),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Features:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
        arrays = {name: numbers(value[name]) for name in ("weights", "bias", "mean", "scale")}
        blocks = dict(zip(value["blocks"], value["sizes"], strict=True))
        classes = value["classes"]
        if not isinstance(classes, int) or classes < 2:
            raise ValueError(f"{classes!r} classes")
        names = [name for name in BLOCKS if name in blocks]
        if (
            names != value["blocks"]  # in their order, each once
            or not all(isinstance(size, int) and size > 0 for size in blocks.values())
            or blocks.get(BLOCKS[0], 0) < len(_CLOSER)  # the first always
            or any(blocks.get(name, n * classes) != n * classes for name, n in _BY_CLASS.items())
        ):
            raise ValueError(f"blocks {blocks!r} of {classes} classes")
        found = cls(stages=tuple(value["stages"]), classes=classes, blocks=blocks, **arrays)
        units = sum(size for name, size in blocks.items() if name not in _BY_CLASS)
        if found.weights.shape != (units, HIGHEST * len(found.stages)):
            raise ValueError(f"weights of shape {found.weights.shape}")
        if found.bias.shape != (units,):
            raise ValueError(f"bias of shape {found.bias.shape}")
        return found

    @property
    def memory(self) -> Memory:
        """What it asks the stage before to remember."""
        return LOGS if self.looks_back else {}

    def fold(self, weights: FloatArray) -> Linear:
        """Linear functions of `parts`, from (outputs, 1 + features) on centred, scaled ones."""
        slopes = (weights[:, 1:] / self.scale).T
        ends = np.cumsum(list(self.blocks.values()))[:-1]
        by_block = dict(zip(self.blocks, np.split(slopes, ends), strict=True))
        outputs, classes = len(weights), self.classes
        pairs = None
        if {*_BY_CLASS} & {*by_block}:
            answer = by_block.get("answer", np.zeros((2 * classes, outputs)))
            second = by_block.get("second", np.zeros((classes, outputs)))
            fixed, unsure = np.split(answer, 2)
            pairs = np.empty((classes, classes, 2, outputs))
            pairs[:, :, 0] = fixed[:, None]
            pairs[:, :, 1] = unsure[:, None] + second[None]
        units = [found for name, found in by_block.items() if name not in _BY_CLASS]
        constant = weights[:, 0] - self.mean @ slopes
        return Linear(features=self, units=np.vstack(units), constant=constant, pairs=pairs)

    def __call__(self, seen: Seen) -> FloatArray:
        """(n, features), centred and scaled: what is learned from."""
        parts = self.parts(seen)
        unsure, classes = parts.unsure[:, None], np.arange(self.classes)
        columns, units = [], parts.units.astype(np.float64)
        for name, size in self.blocks.items():
            if name == "answer":
                member = (parts.answer[:, None] == classes).astype(np.float64)
                columns += [member, member * unsure]
            elif name == "second":
                columns.append((parts.second[:, None] == classes) * unsure)
            else:
                columns.append(units[:, :size])
                units = units[:, size:]
        return np.asarray((np.hstack(columns) - self.mean) / self.scale)

    def parts(self, seen: Seen) -> Parts:
        """The features before they are spread over columns, as a walk computes them."""
        values, order = _looked_at(seen, self.stages)
        away = values @ self._single[0]
        away += self._single[1]
        return Parts(np.abs(away, out=away), *order.T)

    @cached_property
    def _single(self) -> tuple[FloatArray, FloatArray]:
        """Weights, as they are multiplied from the right, and bias in single precision."""
        return self.weights.T.astype(np.float32, order="C"), self.bias.astype(np.float32)


_BY_CLASS = {"answer": 2, "second": 1}  # features of each class
_CLOSER = np.array([-0.5, 0.5]) / _CLOSE  # how unsure an answer is, from the first two units


@dataclass(frozen=True)
class Parts:
    """The features of n examples, compactly."""

    units: FloatArray  # (n, units) in single precision
    answer: IntArray  # (n,)
    second: IntArray  # (n,): the class with the second highest probability

    @property
    def unsure(self) -> FloatArray:
        """How far the gap is below what is close, (n,) in [0, 1]."""
        return np.asarray(0.5 + self.units[:, :2] @ _CLOSER)


def _looked_at(seen: Seen, stages: Sequence[str]) -> tuple[FloatArray, IntArray]:
    """The log-probabilities that are looked at, (n, 2 * stages), and of which classes, (n, 2)."""
    logs = seen.log_probabilities().astype(np.float32, copy=False)
    # engines put the first of equals first, and so does a stable sort
    order = np.argsort(-logs, axis=1, kind="stable")[:, :HIGHEST]
    found = [np.take_along_axis(logs, order, axis=1)]
    for stage in stages[:-1]:
        before = seen.log_probabilities(stage).astype(np.float32, copy=False)
        found.append(np.take_along_axis(before, order, axis=1))
    return np.maximum(np.hstack(found) if stages[1:] else found[0], _LOWEST), order


def _units(name: str, seen: FloatArray) -> Iterator[tuple[FloatArray, float]]:
    """The weights and the bias of each unit of a block, on the examples that were seen."""
    axes = np.eye(seen.shape[1])
    now, before = axes[:HIGHEST], axes[HIGHEST:]
    lines = {
        "gap": [now[0] - now[1]],
        "sure": [now[0]],
        "earlier": [*before, before[0] - before[1]] if len(before) else [],
    }.get(name, [])
    for line in lines:
        along = seen.astype(np.float64) @ line
        points = np.quantile(along, np.linspace(0, 1, _KNOTS[name] + 2)[1:-1])
        # log-probabilities are not above 0, so the distance from 0 is linear in them
        first = [0.0, _CLOSE] if name == BLOCKS[0] else [0.0]
        for point in [*first, *np.setdiff1d(points, first)]:
            yield line, -float(point)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Linear functions of the features, with centring and scaling folded in."""

    features: Features
    units: FloatArray  # (units, outputs)
    constant: FloatArray  # (outputs,)
    # by answer and second class, (classes, classes, 2, outputs): a constant, and a slope in how
    # unsure the answer is; None: classes do not count
    pairs: FloatArray | None

    def __call__(self, parts: Parts) -> FloatArray:
        """(n, outputs)."""
        total: FloatArray = parts.units @ self.units
        total += self.constant
        if self.pairs is not None:
            fixed, slope = self.pairs[parts.answer, parts.second].swapaxes(0, 1)
            total += fixed
            total += parts.unsure[:, None] * slope
        return total

    def tensor(self, seen: SeenTensors) -> str:
        """The same of what was seen as tensors, (n, outputs); (n,) of one."""
        scope, features, one = seen.scope, self.features, self.units.shape[1] == 1
        logs, order = scope.several(2, "TopK", seen.logs, scope.integers(HIGHEST), axis=1)
        if features.looks_back:
            remembered = seen.get(f"{features.stages[0]}:{LOG_PROBABILITIES}")
            before = scope.add("GatherElements", remembered, order, axis=1)
            logs = scope.add("Concat", logs, before, axis=1)
        logs = scope.add("Max", logs, scope.constant(LOWEST))
        # one unit more, which is always 1, carries the constants
        weights = np.column_stack([features.weights.T, np.zeros(features.weights.shape[1])])
        bias = np.append(features.bias, 1.0)
        units = scope.add("Abs", scope.add("Gemm", logs, *map(scope.constant, (weights, bias))))
        slopes = np.vstack([self.units, self.constant])
        if self.pairs is None:
            return scope.add("MatMul", units, scope.constant(slopes[:, 0] if one else slopes))
        table = scope.constant(self._table(slopes)[:, :, 0 if one else slice(None)])
        chosen = scope.add("GatherND", table, order)  # (n, outputs, units), or (n, units)
        units = units if one else scope.add("Unsqueeze", units, scope.integers(1))
        product = scope.add("Mul", chosen, units)
        return scope.add("ReduceSum", product, scope.integers(-1), keepdims=0)

    def _table(self, slopes: FloatArray) -> FloatArray:
        """What each unit counts by answer and second class, (classes, classes, outputs, units)."""
        assert self.pairs is not None
        fixed, unsure = np.moveaxis(self.pairs, 2, 0)  # (classes, classes, outputs) each
        table = np.broadcast_to(slopes.T, (*fixed.shape, len(slopes))).copy()
        table[..., -1] += fixed + 0.5 * unsure
        table[..., :2] += unsure[..., None] * _CLOSER
        return table
