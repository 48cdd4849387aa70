"""Sequences of labels: scores of classes at every place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import DataError, InputError, ScoresError
from offramp.core import tasks
from offramp.core.task.task import AnswerLoss, Task
from offramp.core.tasks import Kind

PADDING = -1  # the label of a place that does not count, and the answer there


@dataclass(frozen=True)
class Sequences(Task):
    """Logits of classes at each place, flattened: (n, length * classes); labels (n, length).

    | loss | what it is |
    |---|---|
    | wrong | the share of places whose label is -1 nowhere that are answered wrongly |
    | any | 1 where any of them is |

    A place whose scores are all equal is padding: it is answered with -1 and not looked at. A stage
    is as sure as it is at the place that it knows least about; observed are the least and the mean
    of the highest probabilities.
    """

    name: ClassVar[str] = "sequences"
    kinds: ClassVar[tuple[Kind, ...]] = ("logits", "probabilities")
    binary: ClassVar[frozenset[str]] = frozenset({"any"})
    classes: int = 2

    @classmethod
    def of(cls, *parameters: str) -> Self:
        """From the number of classes."""
        if len(parameters) != 1 or not parameters[0].isdecimal() or int(parameters[0]) < 2:
            raise InputError(
                "the task 'sequences' needs the number of classes, at least 2: --task sequences/9."
            )
        return cls(int(parameters[0]))

    @property
    def parameters(self) -> tuple[str, ...]:
        return (str(self.classes),)

    def answers(self, outputs: FloatArray, kind: Kind) -> IntArray:
        """The class at each place, int64 (n, length); -1 at padding."""
        places = self._places(outputs)
        return np.where(_padding(places), PADDING, places.argmax(axis=2))

    def sure(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        """The highest probability at the least sure place; 1 where all is padding."""
        return self.observations(outputs, kind)[:, 0]

    def observations(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        places = self._places(outputs)
        logs = tasks.log_probabilities(places.reshape(-1, self.classes), kind)
        sure = np.where(_padding(places), 1.0, tasks.confidence(logs).reshape(places.shape[:2]))
        return np.column_stack([sure.min(axis=1, initial=1.0), sure.mean(axis=1)])

    @property
    def losses(self) -> Mapping[str, AnswerLoss]:
        return {"wrong": _wrong, "any": lambda said, labels: np.ceil(_wrong(said, labels))}

    def check_outputs(self, outputs: AnyArray, stage: str) -> FloatArray:
        values = super().check_outputs(outputs, stage)
        if not values.shape[1] or values.shape[1] % self.classes:
            raise ScoresError(
                f"stage '{stage}' has {values.shape[1]} outputs; the task '{self}' takes "
                f"{self.classes} for each place of a sequence."
            )
        return values

    def check_labels(self, labels: AnyArray, examples: int, width: int) -> AnyArray:
        shape = (examples, width // self.classes)
        whole = labels.dtype.kind in "iu" and labels.shape == shape
        if not whole or (labels < PADDING).any() or (labels >= self.classes).any():
            raise DataError(
                f"the labels are {labels.dtype} of shape {labels.shape}; the task '{self}' takes "
                f"whole numbers {shape} from 0 to {self.classes - 1}, and -1 at padding."
            )
        return np.asarray(labels, dtype=np.int64)

    def _places(self, outputs: FloatArray) -> FloatArray:
        """(n, length, classes)."""
        length = outputs.shape[1] // self.classes
        return outputs.reshape(len(outputs), length, self.classes)


def _padding(places: FloatArray) -> AnyArray:
    """Where all scores of a place are equal, (n, length)."""
    return np.asarray((places == places[:, :, :1]).all(axis=2))


def _wrong(answers: AnyArray, labels: AnyArray) -> FloatArray:
    """The share of wrong places among those that count, (n,); 0 where none does."""
    counts = labels != PADDING
    return np.asarray(
        ((answers != labels) & counts).sum(axis=1) / np.maximum(1, counts.sum(axis=1))
    )
