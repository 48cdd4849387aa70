"""The numbers that the learned policy looks at, from the scores of the stages on every path."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.policy import Seen
from offramp.core.tasks import FEW_CLASSES, logits
from offramp.policies.families import numbers
from offramp.policies.operators import Dial, Memory, SeenTensors
from offramp.policies.statistics import SURE
from offramp.policies.statistics import margin as margin_of

BLOCKS = ("margin", "answer", "second", "spread", "earlier", "divergence")
"""Names of the blocks of features, in their order; the first is always there."""
_KNOTS = 6  # bends of the piecewise linear function of the margin
_SPREAD, _EARLIER, _DIVERGENCE = 3, 3, 2  # features in a block, the last two per earlier stage
_HIGHEST = 1.0 - 1e-6  # engines that count in float32 tell no bends above apart
_TINY = 1e-12  # probabilities below count as this in the entropy


@dataclass(frozen=True, kw_only=True)
class Features:
    """From what was seen at a stage to (n, features); learned values are where the bends lie.

    Blocks, all cheap and built from operations that ONNX has:

    - margin: the highest minus the second highest probability, piecewise linear;
    - answer: which class is answered, and how unsurely, since classes differ in how far to trust
      them;
    - second: which class comes second, by how unsurely, since some pairs are confused more;
    - spread: the entropy, the energy (log-sum-exp) of the logits, which softmax hides, and the
      logarithm of what other classes get, without which all that is very sure looks alike;
    - earlier: of each earlier stage whether it answered alike, its margin, and the probability it
      gave to the present answer;
    - divergence: of each earlier stage the probability that its answer has now, and the chance
      that labels drawn from both distributions agree.

    Source of the energy: Liu et al. 2020, Energy-based out-of-distribution detection, section 3.
    """

    stages: tuple[str, ...]  # earlier ones first, the present one last
    classes: int
    knots: FloatArray  # (knots,) margins
    mean: FloatArray  # (features,)
    scale: FloatArray  # (features,)
    names: tuple[str, ...] = BLOCKS  # of the blocks that are looked at

    @classmethod
    def fit(cls, graph: Graph, seen: Seen, names: Collection[str] = BLOCKS) -> Features:
        """Features for `seen.stage`, scaled on the examples that were seen."""
        margins = margin_of(seen.log_probabilities())
        knots = np.unique(np.quantile(margins, np.linspace(0, 1, _KNOTS + 2)[1:-1]))
        knots = knots[knots <= _HIGHEST]
        classes, stages = seen.scores().shape[1], graph.observed[seen.stage]
        chosen = tuple(name for name in BLOCKS if name in names or name == BLOCKS[0])
        raw = cls(
            stages=stages,
            classes=classes,
            knots=knots,
            mean=np.zeros(1),
            scale=np.ones(1),
            names=chosen,
        )
        values = raw(seen)
        scale = values.std(axis=0)
        return replace(raw, mean=values.mean(axis=0), scale=np.where(scale > 1e-9, scale, 1.0))

    @property
    def blocks(self) -> dict[str, int]:
        """The number of features in each block that is looked at and not empty."""
        classes = self.classes if self.classes <= FEW_CLASSES else 0
        before = len(self.stages) - 1
        sizes = {
            "margin": 1 + len(self.knots),
            "answer": 2 * classes,
            "second": classes,
            "spread": _SPREAD,
            "earlier": _EARLIER * before,
            "divergence": _DIVERGENCE * before,
        }
        return {name: sizes[name] for name in self.names if sizes[name]}

    def only(self, names: Collection[str]) -> tuple[Features, FloatArray]:
        """Without the other blocks, and which columns remain, (features,) of booleans."""
        kept = np.concatenate([np.full(size, name in names) for name, size in self.blocks.items()])
        chosen = tuple(name for name in self.names if name in names)
        return replace(self, mean=self.mean[kept], scale=self.scale[kept], names=chosen), kept

    def to_json(self) -> dict[str, Any]:
        return {
            "stages": list(self.stages),
            "classes": self.classes,
            "blocks": list(self.names),
            "knots": self.knots.tolist(),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Features:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
        knots, mean, scale = (numbers(value[name]) for name in ("knots", "mean", "scale"))
        blocks, classes = value["blocks"], value["classes"]
        if not isinstance(classes, int) or classes < 2:
            raise ValueError(f"{classes!r} classes")
        names = tuple(name for name in BLOCKS if name in blocks)
        if list(names) != blocks or BLOCKS[0] not in names:  # in their order, the first always
            raise ValueError(f"blocks {blocks!r}")
        if knots.ndim != 1:
            raise ValueError(f"knots of shape {knots.shape}")
        return cls(
            stages=tuple(value["stages"]),
            classes=classes,
            knots=knots,
            mean=mean,
            scale=scale,
            names=names,
        )

    @property
    def memory(self) -> Memory:
        """What it asks earlier stages to remember."""
        return LOOKED_BACK_AT if {"earlier", "divergence"} & {*self.blocks} else {}

    def fold(self, weights: FloatArray) -> Linear:
        """Linear functions of `parts`, from (outputs, 1 + features) on centred, scaled ones."""
        return Linear.fold(self, weights)

    def __call__(self, seen: Seen) -> FloatArray:
        """(n, features), centred and scaled: what is learned from."""
        return self.spread_out(self.parts(seen))

    def spread_out(self, parts: Parts) -> FloatArray:
        """(n, features) from what a walk computes."""
        columns = [column for name in self.blocks for column in self._columns(name, parts)]
        return np.asarray((np.hstack(columns) - self.mean) / self.scale)

    def _columns(self, name: str, parts: Parts) -> Iterator[FloatArray]:
        margin, classes = parts.margin[:, None], np.arange(self.classes)
        if name == "margin":
            yield from (margin, np.maximum(margin - self.knots, 0.0))
        elif name == "answer":
            member = (parts.answer[:, None] == classes).astype(np.float64)
            yield from (member, member * (1.0 - margin))
        elif name == "second":
            yield (parts.second[:, None] == classes) * (1.0 - margin)
        else:
            values = {
                "spread": parts.spread,
                "earlier": parts.earlier,
                "divergence": parts.divergence,
            }[name]
            assert values is not None
            yield values

    def parts(self, seen: Seen) -> Parts:
        """The features before they are spread over columns: what a walk computes."""
        blocks, probable = self.blocks, seen.probabilities()
        rows, answer = np.arange(len(probable)), probable.argmax(axis=1)
        spread = _spread(seen, probable) if "spread" in blocks else None
        looks, away = [], []
        if "earlier" in blocks or "divergence" in blocks:
            for stage in self.stages[:-1]:
                before = seen.probabilities(stage)
                looks.append(_earlier(before, answer))
                if "divergence" in blocks:
                    away.append(_divergence(before, probable))
        highest = probable[rows, answer]
        probable[rows, answer] = -1.0
        second = probable.argmax(axis=1)
        margins = highest - probable[rows, second]
        earlier = np.hstack(looks) if "earlier" in blocks else None
        return Parts(
            margin=margins,
            answer=answer,
            second=second,
            spread=spread,
            earlier=earlier,
            divergence=np.hstack(away) if away else None,
        )


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The features of n examples, compactly; None: not looked at."""

    margin: FloatArray  # (n,): the highest minus the second highest probability
    answer: IntArray  # (n,)
    second: IntArray  # (n,): the class with the second highest probability
    spread: FloatArray | None  # (n, 3): entropy, energy, log of the rest
    earlier: FloatArray | None  # (n, 3 * earlier stages)
    divergence: FloatArray | None  # (n, 2 * earlier stages)


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Linear functions of the features, with centring, scaling and the answer folded in.

    A block that does not count is None.
    """

    knots: FloatArray  # (1 + knots,): 0, and the margins where the function bends
    curve: FloatArray  # (1 + knots, outputs): added to the slope above each
    constant: FloatArray  # (outputs,)
    answered: FloatArray | None  # (classes, 2, outputs): a constant, and a slope in 1 - margin
    second: FloatArray | None  # (classes, outputs): a slope likewise, for the second class
    spread: FloatArray | None  # (3, outputs)
    earlier: FloatArray | None  # (3 * earlier stages, outputs)
    divergence: FloatArray | None  # (2 * earlier stages, outputs)

    @classmethod
    def fold(cls, features: Features, weights: FloatArray) -> Linear:
        """From (outputs, 1 + features), constant first, on centred and scaled features."""
        slopes = (weights[:, 1:] / features.scale).T
        sizes = np.cumsum(list(features.blocks.values()))[:-1]
        by_block: dict[str, FloatArray] = dict(
            zip(features.blocks, np.split(slopes, sizes), strict=True)
        )
        answered = by_block.get("answer")
        return cls(
            knots=np.concatenate([[0.0], features.knots]),
            curve=by_block["margin"],
            constant=weights[:, 0] - features.mean @ slopes,
            answered=None if answered is None else np.stack(np.split(answered, 2), axis=1),
            second=by_block.get("second"),
            spread=by_block.get("spread"),
            earlier=by_block.get("earlier"),
            divergence=by_block.get("divergence"),
        )

    def __call__(self, parts: Parts) -> FloatArray:
        """(n, outputs)."""
        margin = parts.margin[:, None]
        total: FloatArray = np.maximum(margin - self.knots, 0.0) @ self.curve
        total += self.constant
        if self.answered is not None:
            answered = self.answered[parts.answer]
            total += answered[:, 0]
            total += (1.0 - margin) * answered[:, 1]
        if self.second is not None:
            total += (1.0 - margin) * self.second[parts.second]
        for values, slopes in (
            (parts.spread, self.spread),
            (parts.earlier, self.earlier),
            (parts.divergence, self.divergence),
        ):
            if values is not None and slopes is not None:
                total += values @ slopes
        return total

    def tensor(self, seen: SeenTensors) -> str:
        """The same of what was seen as tensors, (n, outputs)."""
        scope, columns = seen.scope, self.curve.shape[1]
        # columns of `bent`: 1, 1 minus the margin, and the margin above each knot
        bends = len(self.knots)
        slopes = np.array([[0, -1, *[1] * bends], [0, 1, *[-1] * bends]])
        shift = np.array([1, 1, *-self.knots])
        pieces = scope.add("Gemm", seen.two[0], scope.constant(slopes), scope.constant(shift))
        bent = scope.add("Relu", pieces)
        if self.answered is None and self.second is None:
            weights = np.vstack([self.constant, np.zeros(columns), self.curve])
            value = scope.add("MatMul", bent, scope.constant(weights))
        else:
            table = self._table(seen.classes)
            if columns == 1:
                table = table[:, :, 0]
            else:
                bent = scope.add("Unsqueeze", bent, scope.integers(1))
            weighted = scope.add("GatherND", scope.constant(table), seen.two[1])
            product = scope.add("Mul", weighted, bent)
            value = scope.add("ReduceSum", product, scope.integers(-1), keepdims=int(columns == 1))
        if self.spread is not None:
            value = scope.add("Gemm", seen.spread, scope.constant(self.spread), value)
        if self.earlier is not None:
            value = _add_earlier(seen, self.earlier, value)
        if self.divergence is not None:
            # per earlier stage: what its answer is given now, and the chance that draws agree
            now, together = (self.divergence[i::_DIVERGENCE] for i in range(_DIVERGENCE))
            asked = scope.add("Unsqueeze", seen.probabilities, scope.integers(2))
            value = _add_products(seen, asked, np.stack([together, now], axis=1), value)
        return value

    def _table(self, classes: int) -> FloatArray:
        """The coefficients for each answer and second one, (classes, classes, outputs, pieces)."""
        outputs = self.curve.shape[1]
        answered = np.zeros((classes, 2, outputs)) if self.answered is None else self.answered
        second = np.zeros((classes, outputs)) if self.second is None else self.second
        table = np.empty((classes, classes, outputs, 2 + len(self.knots)))
        table[..., 0] = (answered[:, 0] + self.constant)[:, None]
        table[..., 1] = answered[:, None, 1] + second[None]
        table[..., 2:] = self.curve.T
        return table


def _add_earlier(seen: SeenTensors, slopes: FloatArray, value: str) -> str:
    """Adds what the block `earlier` says."""
    scope, before = seen.scope, seen.observed[-2]
    # per earlier stage: whether it answered alike, its margin, what it gave to the answer
    alike, margins, given = (slopes[i::_EARLIER] for i in range(_EARLIER))
    asked = scope.add("Unsqueeze", seen.member, scope.integers(2))
    value = _add_products(seen, asked, np.stack([given, alike], axis=1), value)
    return scope.add("Gemm", seen.get(f"{before}:margins"), scope.constant(margins), value)


def _add_products(seen: SeenTensors, asked: str, slopes: FloatArray, value: str) -> str:
    """Adds products of (n, classes, 1) with every earlier stage's probabilities and answer.

    Slopes: (earlier stages, 2, columns), of the product with probabilities, then with the answer.
    """
    scope = seen.scope
    products = scope.add("MatMul", seen.get(f"{seen.observed[-2]}:seen"), asked)
    both = scope.add("Squeeze", products, scope.integers(2))
    return scope.add("Gemm", both, scope.constant(slopes.reshape(-1, slopes.shape[-1])), value)


def _seen_so_far(seen: SeenTensors, dial: Dial) -> str:
    """Per stage so far two rows, its probabilities and its answer, (n, 2 * stages, classes)."""
    both = (seen.probabilities, seen.member)
    rows = [seen.scope.add("Unsqueeze", part, seen.scope.integers(1)) for part in both]
    before = seen.before("seen")
    return seen.scope.add("Concat", *filter(None, [before]), *rows, axis=1)


def _margins_so_far(seen: SeenTensors, dial: Dial) -> str:
    """The margin of each stage so far, (n, stages)."""
    difference = seen.scope.constant([[1.0], [-1.0]])
    return seen.joined("margins", seen.scope.add("MatMul", seen.two[0], difference))


LOOKED_BACK_AT: Memory = {"seen": _seen_so_far, "margins": _margins_so_far}
"""What a stage remembers for later ones whose features look back."""


def _spread(seen: Seen, probable: FloatArray) -> FloatArray:
    """Entropy in nats, energy, and the logarithm of what other classes get, (n, 3).

    The energy is nothing where scores are probabilities.
    """
    scores = seen.scores()
    entropy = -(probable * np.log(np.maximum(probable, _TINY))).sum(axis=1)
    rest = np.log(np.maximum(1.0 - probable.max(axis=1), SURE))
    if (kind := seen.kinds[seen.stage]) == "probabilities":
        return np.column_stack([entropy, np.zeros(len(scores)), rest])
    scores = logits(scores, kind)
    highest = scores.max(axis=1, keepdims=True)
    energy = highest[:, 0] + np.log(np.exp(scores - highest).sum(axis=1))
    return np.column_stack([entropy, energy, rest])


def _earlier(before: FloatArray, answer: IntArray) -> FloatArray:
    """Whether an earlier stage answered alike, its margin, and what it gave to `answer`, (n, 3)."""
    top = np.partition(before, -2, axis=1)[:, -2:]
    alike, given = before.argmax(axis=1) == answer, before[np.arange(len(answer)), answer]
    return np.column_stack([alike, top[:, 1] - top[:, 0], given])


def _divergence(before: FloatArray, probable: FloatArray) -> FloatArray:
    """What the earlier answer is given now, and the chance that draws from both agree, (n, 2)."""
    now = probable[np.arange(len(before)), before.argmax(axis=1)]
    return np.column_stack([now, (before * probable).sum(axis=1)])
