"""The numbers that the learned policy looks at, from the scores of the stages on every path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.arrays import FloatArray, IntArray
from offramp.graph import Graph
from offramp.policies.protocol import Seen
from offramp.policies.rules import margin as margin_of

_KNOTS = 6  # bends of the piecewise linear function of the margin
_CLASSES = 64  # with more classes the answer itself is no feature


@dataclass(frozen=True)
class Features:
    """From what was seen at a stage to (n, features); learned values are where the bends lie.

    Blocks, all cheap and built from operations that ONNX has:

    1. the margin (highest minus second highest probability), piecewise linear;
    2. which class is answered, and how unsurely: networks are biased by class where inputs shift;
    3. which class comes second, by how unsurely: some pairs are confused more than others;
    4. of each earlier stage on every path: whether it answered alike, its margin, and the
       probability it gave to the present answer.
    """

    stages: tuple[str, ...]  # earlier ones first, the present one last
    classes: int
    knots: FloatArray  # (knots,) margins
    mean: FloatArray  # (features,)
    scale: FloatArray  # (features,)

    @classmethod
    def fit(cls, graph: Graph, seen: Seen) -> Features:
        """Features for `seen.stage`, scaled on the examples that were seen."""
        margins = margin_of(seen.log_probabilities())
        knots = np.unique(np.quantile(margins, np.linspace(0, 1, _KNOTS + 2)[1:-1]))
        classes = seen.scores().shape[1]
        raw = cls(graph.observed[seen.stage], classes, knots, np.zeros(1), np.ones(1))
        values = raw(seen)
        scale = values.std(axis=0)
        return cls(
            raw.stages, classes, knots, values.mean(axis=0), np.where(scale > 1e-9, scale, 1.0)
        )

    @property
    def blocks(self) -> tuple[int, ...]:
        """The number of features in each block that is not empty."""
        answered = 2 * self.classes if self.classes <= _CLASSES else 0
        sizes = (1 + len(self.knots), answered, answered // 2, 3 * (len(self.stages) - 1))
        return tuple(size for size in sizes if size)

    def __call__(self, seen: Seen) -> FloatArray:
        """(n, features), centred and scaled: what is learned from."""
        parts = self.parts(seen)
        margin = parts.margin[:, None]
        columns = [margin, np.maximum(margin - self.knots, 0.0)]
        if self.answers:
            classes, unsure = np.arange(self.classes), 1.0 - margin
            member = (parts.answer[:, None] == classes).astype(np.float64)
            columns += [member, member * unsure, (parts.second[:, None] == classes) * unsure]
        if parts.earlier is not None:
            columns.append(parts.earlier)
        return (np.hstack(columns) - self.mean) / self.scale

    @property
    def answers(self) -> bool:
        """Whether the answer itself is a feature."""
        return self.classes <= _CLASSES

    def parts(self, seen: Seen) -> Parts:
        """The features before they are spread over columns: what a walk computes."""
        probable = seen.probabilities()
        rows, answer = np.arange(len(probable)), probable.argmax(axis=1)
        highest = probable[rows, answer]
        probable[rows, answer] = -1.0
        second = probable.argmax(axis=1)
        margins = highest - probable[rows, second]
        earlier = [_earlier(seen.probabilities(stage), answer) for stage in self.stages[:-1]]
        return Parts(margins, answer, second, np.hstack(earlier) if earlier else None)


@dataclass(frozen=True)
class Parts:
    """The features of n examples, compactly."""

    margin: FloatArray  # (n,): the highest minus the second highest probability
    answer: IntArray  # (n,)
    second: IntArray  # (n,): the class with the second highest probability
    earlier: FloatArray | None  # (n, 3 * earlier stages)


@dataclass(frozen=True)
class Linear:
    """Linear functions of the features, with centring, scaling and the answer folded in."""

    knots: FloatArray  # (1 + knots,): 0, and the margins where the function bends
    curve: FloatArray  # (1 + knots, outputs): added to the slope above each
    constant: FloatArray  # (outputs,)
    # for the class answered, (classes, 2, outputs): a constant, and a slope in 1 minus the margin;
    # for the second class, (classes, outputs): a slope likewise; None: they do not count
    answered: FloatArray | None
    second: FloatArray | None
    earlier: FloatArray  # (3 * earlier stages, outputs)

    @classmethod
    def fold(cls, features: Features, weights: FloatArray) -> Linear:
        """From (outputs, 1 + features), constant first, on centred and scaled features."""
        slopes = (weights[:, 1:] / features.scale).T
        classes = features.classes if features.answers else 0
        sizes = np.cumsum([1 + len(features.knots), classes, classes, classes])
        curve, answered, unsurely, second, earlier = np.split(slopes, sizes)
        return cls(
            np.concatenate([[0.0], features.knots]),
            curve,
            weights[:, 0] - features.mean @ slopes,
            np.stack([answered, unsurely], axis=1) if classes else None,
            second if classes else None,
            earlier,
        )

    def __call__(self, parts: Parts) -> FloatArray:
        """(n, outputs)."""
        margin = parts.margin[:, None]
        total: FloatArray = np.maximum(margin - self.knots, 0.0) @ self.curve
        total += self.constant
        if self.answered is not None and self.second is not None:
            answered = self.answered[parts.answer]
            total += answered[:, 0]
            total += (1.0 - margin) * (answered[:, 1] + self.second[parts.second])
        if parts.earlier is not None:
            total += parts.earlier @ self.earlier
        return total


def _earlier(probable: FloatArray, answer: IntArray) -> FloatArray:
    """Whether an earlier stage answered alike, its margin, and what it gave to `answer`, (n, 3)."""
    given = probable[np.arange(len(answer)), answer]
    top = np.partition(probable, -2, axis=1)[:, -2:]
    alike = probable.argmax(axis=1) == answer
    return np.column_stack([alike, top[:, 1] - top[:, 0], given])
