"""The numbers that the learned policy looks at, from the scores of the stages on every path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.arrays import FloatArray, IntArray
from offramp.graph import Graph
from offramp.policies.protocol import Seen
from offramp.policies.rules import margin

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
        margins = margin(seen.log_probabilities())
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
        columns = [parts.curve]
        if self.answers:
            classes, unsure = np.arange(self.classes), parts.unsure[:, None]
            member = (parts.answer[:, None] == classes).astype(np.float64)
            columns += [member, member * unsure, (parts.second[:, None] == classes) * unsure]
        return (np.hstack([*columns, parts.earlier]) - self.mean) / self.scale

    @property
    def answers(self) -> bool:
        """Whether the answer itself is a feature."""
        return self.classes <= _CLASSES

    def parts(self, seen: Seen) -> Parts:
        """The features before they are spread over columns: what a walk computes."""
        said = seen.log_probabilities()
        margins, answer = margin(said), seen.answers()
        bends = np.maximum(margins[:, None] - self.knots, 0.0)
        earlier = [_earlier(seen.log_probabilities(stage), answer) for stage in self.stages[:-1]]
        return Parts(
            np.hstack([margins[:, None], bends]),
            answer,
            _second(said, answer) if self.answers else answer,
            1.0 - margins,
            np.hstack(earlier) if earlier else np.empty((len(answer), 0)),
        )


@dataclass(frozen=True)
class Parts:
    """The features of n examples, compactly."""

    curve: FloatArray  # (n, 1 + knots): the margin and its bends
    answer: IntArray  # (n,)
    second: IntArray  # (n,): the class with the second highest score
    unsure: FloatArray  # (n,): 1 minus the margin
    earlier: FloatArray  # (n, 3 * earlier stages)


@dataclass(frozen=True)
class Linear:
    """Linear functions of the features, with centring, scaling and the answer folded in."""

    constant: FloatArray  # (outputs,)
    curve: FloatArray  # (1 + knots, outputs)
    # (3, classes, outputs): for the class answered; for it, times 1 minus the margin; for the
    # second class, times 1 minus the margin
    by_class: FloatArray | None
    earlier: FloatArray  # (3 * earlier stages, outputs)

    @classmethod
    def fold(cls, features: Features, weights: FloatArray) -> Linear:
        """From (outputs, 1 + features), constant first, on centred and scaled features."""
        slopes = (weights[:, 1:] / features.scale).T
        curve, answer = 1 + len(features.knots), features.classes if features.answers else 0
        classes = slopes[curve : curve + 3 * answer]
        return cls(
            weights[:, 0] - features.mean @ slopes,
            slopes[:curve],
            classes.reshape(3, answer, -1) if answer else None,
            slopes[curve + 3 * answer :],
        )

    def __call__(self, parts: Parts) -> FloatArray:
        """(n, outputs)."""
        total = self.constant + parts.curve @ self.curve
        if self.by_class is not None:
            answered, unsurely, second = self.by_class
            unsurely = unsurely[parts.answer] + second[parts.second]
            total += answered[parts.answer] + parts.unsure[:, None] * unsurely
        if parts.earlier.shape[1]:
            total += parts.earlier @ self.earlier
        return total


def _second(log_probabilities: FloatArray, answer: IntArray) -> IntArray:
    others = log_probabilities.copy()
    others[np.arange(len(answer)), answer] = -np.inf
    return np.asarray(others.argmax(axis=1), dtype=np.int64)


def _earlier(log_probabilities: FloatArray, answer: IntArray) -> FloatArray:
    given = np.exp(log_probabilities[np.arange(len(answer)), answer])
    alike = log_probabilities.argmax(axis=1) == answer
    return np.column_stack([alike, margin(log_probabilities), given]).astype(np.float64)
