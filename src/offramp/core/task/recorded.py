"""RecordedAnswers answers: any system whose answers are opaque, with a loss of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.task.task import AnswerLoss, Task
from offramp.core.tasks import DISAGREEMENT, RECORDED, Kind


@dataclass(frozen=True)
class RecordedAnswers(Task):
    """Answers that are numbers of answers, and losses that are columns of the trace.

    What a stage says of an example are its observations, and after them `alike`: equal where stages
    answered alike. How sure it is, is its first observation, larger is surer, brought into (0, 1).
    """

    name: ClassVar[str] = RECORDED
    alike: ClassVar[bool] = False
    binary: ClassVar[frozenset[str]] = frozenset({DISAGREEMENT})

    def answers(self, outputs: FloatArray, kind: Kind) -> IntArray:
        """Numbers that are equal where answers of one example are, (n,)."""
        return outputs[:, -1].astype(np.int64)

    def sure(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        """The first observation x as (1 + x / (1 + |x|)) / 2; 0 without observations."""
        if outputs.shape[1] < 2:
            return np.zeros(len(outputs))
        first = outputs[:, 0].astype(np.float64)
        return np.asarray((1.0 + first / (1.0 + np.abs(first))) / 2)

    def observations(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        return outputs[:, :-1].astype(np.float64)

    @property
    def losses(self) -> Mapping[str, AnswerLoss]:
        return {}


def alike(answers: Mapping[str, IntArray]) -> dict[str, FloatArray]:
    """For each stage which was the first that answered an example as it did, (n,) whole numbers.

    Ids of answers may be any integers; these are few, and float32 holds them.
    """
    known = np.stack(list(answers.values()))
    return {
        stage: np.asarray((known == ids).argmax(axis=0), dtype=np.float32)
        for stage, ids in answers.items()
    }
