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
    3. of each earlier stage on every path: whether it answered alike, its margin, and the
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
        sizes = (1 + len(self.knots), answered, 3 * (len(self.stages) - 1))
        return tuple(size for size in sizes if size)

    def __call__(self, seen: Seen) -> FloatArray:
        """(n, features), centred and scaled."""
        margins, answer = margin(seen.log_probabilities()), seen.answers()
        columns = [margins, *(np.maximum(margins - knot, 0.0) for knot in self.knots)]
        if self.classes <= _CLASSES:
            member = (answer[:, None] == np.arange(self.classes)).astype(np.float64)
            columns += [member, member * (1.0 - margins)[:, None]]
        for stage in self.stages[:-1]:
            columns += _earlier(seen.log_probabilities(stage), answer)
        return (np.column_stack(columns) - self.mean) / self.scale


def _earlier(log_probabilities: FloatArray, answer: IntArray) -> list[FloatArray]:
    given = np.exp(log_probabilities[np.arange(len(answer)), answer].astype(np.float64))
    alike = (log_probabilities.argmax(axis=1) == answer).astype(np.float64)
    return [alike, margin(log_probabilities), given]
