"""Several labels at once: a sigmoid for each, which is on or off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import DataError
from offramp.core.operators import Operators
from offramp.core.task.task import FLOAT, INT64, AnswerLoss, Task, TaskForm
from offramp.core.tasks import FEW_CLASSES, Kind

_HALF: Mapping[Kind, float] = {"logits": 0.0, "sigmoid": 0.5}  # where a label is as likely as not


@dataclass(frozen=True)
class Labels(Task):
    """Each label on or off; labels are 0 or 1, (n, labels), as answers are.

    | loss | what it is |
    |---|---|
    | hamming | the share of labels that are wrong |
    | subset | 1 where any label is wrong |

    A stage is as sure as it is of the label that it knows least about. Observed are the least and
    the mean sureness, and, of few labels, the chance of each.
    """

    name: ClassVar[str] = "labels"
    kinds: ClassVar[tuple[Kind, ...]] = ("logits", "sigmoid")
    binary: ClassVar[frozenset[str]] = frozenset({"subset"})

    def answers(self, outputs: FloatArray, kind: Kind) -> AnyArray:
        """1 where a label is likelier than not, int64 (n, labels)."""
        return np.asarray(outputs > _HALF[kind], dtype=np.int64)

    def sure(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        """1 minus twice the chance that the least sure label is wrong."""
        return np.asarray(1.0 - 2 * _doubts(outputs, kind).max(axis=1))

    def observations(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        doubts = _doubts(outputs, kind)
        likely = np.where(outputs > _HALF[kind], 1.0 - doubts, doubts)
        few = [likely] if outputs.shape[1] <= FEW_CLASSES else []
        both = (doubts.max(axis=1), doubts.mean(axis=1))
        return np.hstack([1.0 - 2 * np.column_stack(both), *few])

    @property
    def losses(self) -> Mapping[str, AnswerLoss]:
        return {
            "hamming": lambda answers, labels: np.asarray((answers != labels).mean(axis=1)),
            "subset": lambda answers, labels: np.asarray((answers != labels).any(axis=1)),
        }

    def form(self, width: int) -> TaskForm:
        return _LabelsForm(width)

    def kind_of(self, outputs: FloatArray, stage: str) -> Kind:
        """Sigmoids where all lie within [0, 1], else logits."""
        within = (outputs >= 0).all() and (outputs <= 1).all()
        return "sigmoid" if within else "logits"

    def check_labels(self, labels: AnyArray, examples: int, width: int) -> AnyArray:
        if labels.shape != (examples, width) or not np.isin(labels, (0, 1)).all():
            raise DataError(
                f"the labels are {labels.dtype} of shape {labels.shape}; the task 'labels' takes "
                f"0 or 1 for each label of each example, ({examples}, {width})."
            )
        return np.asarray(labels, dtype=np.int64)


def _doubts(outputs: FloatArray, kind: Kind) -> FloatArray:
    """The chance that each label is not as answered, float64 (n, labels) in [0, 0.5]."""
    values = outputs.astype(np.float64)
    if kind == "sigmoid":
        return np.clip(np.minimum(values, 1.0 - values), 0.0, 0.5)
    return np.asarray(1.0 / (1.0 + np.exp(np.minimum(np.abs(values), 700.0))))


@dataclass(frozen=True)
class _LabelsForm:
    """What `Labels` says, in operators."""

    columns: int
    dtype: type[np.int64] | type[np.float32] = np.int64

    def answers(self, scope: Operators, outputs: str, kind: Kind) -> str:
        on = scope.add("Greater", outputs, scope.constant(_HALF[kind]))
        return scope.add("Cast", on, to=INT64)

    def unsure(self, scope: Operators, outputs: str, kind: Kind) -> str:
        most = self._most(scope, self._doubts(scope, outputs, kind))
        return scope.add("Add", most, most)

    def observations(self, scope: Operators, outputs: str, kind: Kind) -> str:
        doubts = self._doubts(scope, outputs, kind)
        one = scope.constant(1.0)
        both = [self._most(scope, doubts), self._mean(scope, doubts)]
        sure = [scope.add("Sub", one, scope.add("Add", each, each)) for each in both]
        if self.columns > FEW_CLASSES:
            return scope.add("Concat", *sure, axis=1)
        likely = outputs if kind == "sigmoid" else scope.add("Sigmoid", outputs)
        return scope.add("Concat", *sure, likely, axis=1)

    def agreement(self, scope: Operators, answers: str, others: str) -> str:
        same = scope.add("Cast", scope.add("Equal", answers, others), to=FLOAT)
        return self._mean(scope, same)

    def _mean(self, scope: Operators, values: str) -> str:
        total = scope.add("ReduceSum", values, scope.integers(1))
        return scope.add("Mul", total, scope.constant(1.0 / self.columns))

    @staticmethod
    def _most(scope: Operators, values: str) -> str:
        return scope.several(2, "TopK", values, scope.integers(1), axis=1)[0]

    @staticmethod
    def _doubts(scope: Operators, outputs: str, kind: Kind) -> str:
        if kind == "logits":
            return scope.add("Sigmoid", scope.add("Neg", scope.add("Abs", outputs)))
        other = scope.add("Sub", scope.constant(1.0), outputs)
        return scope.add("Max", scope.add("Min", outputs, other), scope.constant(0.0))
