"""Numbers: an error of a stated size counts as 1, and larger ones as no more."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import DataError, InputError, ScoresError
from offramp.core.operators import Operators
from offramp.core.task.task import AnswerLoss, Task, TaskForm
from offramp.core.tasks import FEW_CLASSES, Kind

_SPREADS = "spreads"


@dataclass(frozen=True)
class Numbers(Task):
    """Numbers (n, d), and perhaps a predicted spread of each, after them: (n, 2 d).

    | loss | what it is |
    |---|---|
    | absolute | the mean over the d numbers of the absolute error over `scale`, at most 1 |
    | squared | likewise of the square of the error over `scale` |

    Both are clipped to 1: whatever is promised is promised of clipped errors. Two stages agree
    fully where their answers are equal, and not at all where they lie `scale` apart. A stage is as
    sure as its spreads are small, in units of `scale`; without spreads it is never sure by itself,
    and what is observed are the numbers, and how far from earlier stages they lie.
    """

    name: ClassVar[str] = "regression"
    scale: float = 1.0  # the error that counts as 1, in the unit of the answers
    spreads: bool = False  # whether the second half of the outputs are spreads

    @classmethod
    def of(cls, *parameters: str) -> Self:
        """From a scale, and perhaps the word `spreads`."""
        spreads = parameters[1:] == (_SPREADS,)
        try:
            scale = float(parameters[0]) if spreads or len(parameters) == 1 else math.nan
        except ValueError:
            scale = math.nan
        if not (math.isfinite(scale) and scale > 0):
            raise InputError(
                "the task 'regression' needs the error that counts as 1: --task regression/2.5, "
                "or --task regression/2.5/spreads where outputs are numbers, then their spreads."
            )
        return cls(scale, spreads)

    @property
    def parameters(self) -> tuple[str, ...]:
        return (f"{self.scale!r}", *([_SPREADS] if self.spreads else []))

    def answers(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        """(n, d)."""
        return outputs[:, : outputs.shape[1] // 2] if self.spreads else outputs

    def sure(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        """1 / (1 + mean spread / scale); 0 without spreads."""
        if not self.spreads:
            return np.zeros(len(outputs))
        return np.asarray(1.0 / (1.0 + self._spreads(outputs).mean(axis=1)))

    def observations(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        """The numbers, if few, and log(1 + spread), in units of `scale`."""
        numbers = self.answers(outputs, kind).astype(np.float64) / self.scale
        if not self.spreads:
            return numbers
        few = [numbers] if numbers.shape[1] <= FEW_CLASSES else []
        return np.hstack([*few, np.log1p(self._spreads(outputs))])

    def agreement(self, answers: AnyArray, others: AnyArray) -> FloatArray:
        return 1.0 - self._absolute(answers, others)

    @property
    def losses(self) -> Mapping[str, AnswerLoss]:
        return {"absolute": self._absolute, "squared": self._squared}

    def form(self, width: int) -> TaskForm:
        return _NumbersForm(self, width // 2 if self.spreads else width)

    def check_outputs(self, outputs: AnyArray, stage: str) -> FloatArray:
        values = super().check_outputs(outputs, stage)
        if not values.shape[1] or (self.spreads and values.shape[1] % 2):
            raise ScoresError(
                f"stage '{stage}' has {values.shape[1]} outputs; the task '{self}' takes "
                + ("d numbers and d spreads." if self.spreads else "at least one number.")
            )
        return values

    def check_labels(self, labels: AnyArray, examples: int, width: int) -> AnyArray:
        wanted = width // 2 if self.spreads else width
        column = labels[:, None] if labels.ndim == 1 else labels
        if column.shape != (examples, wanted) or column.dtype.kind not in "fiub":
            raise DataError(
                f"the labels are {labels.dtype} of shape {labels.shape}; the task '{self}' takes "
                f"numbers ({examples}, {wanted}), as many as a stage answers."
            )
        values = column.astype(np.float32)
        if (broken := ~np.isfinite(values).all(axis=1)).any():
            raise DataError(
                f"the label in row {int(np.flatnonzero(broken)[0])} is NaN or infinite. Mend the "
                "label, or leave the example out."
            )
        return values

    def _spreads(self, outputs: FloatArray) -> FloatArray:
        """In units of `scale`, (n, d)."""
        values = outputs[:, outputs.shape[1] // 2 :].astype(np.float64)
        return np.maximum(values, 0.0) / self.scale

    def _errors(self, answers: AnyArray, others: AnyArray) -> FloatArray:
        """In units of `scale`, (n, d)."""
        return np.asarray((answers.astype(np.float64) - others.astype(np.float64)) / self.scale)

    def _absolute(self, answers: AnyArray, labels: AnyArray) -> FloatArray:
        return np.asarray(np.minimum(np.abs(self._errors(answers, labels)).mean(axis=1), 1.0))

    def _squared(self, answers: AnyArray, labels: AnyArray) -> FloatArray:
        return np.asarray(np.minimum((self._errors(answers, labels) ** 2).mean(axis=1), 1.0))


@dataclass(frozen=True)
class _NumbersForm:
    """What `Numbers` says, in operators."""

    task: Numbers
    columns: int
    dtype: type[np.int64] | type[np.float32] = np.float32

    def answers(self, scope: Operators, outputs: str, kind: Kind) -> str:
        if not self.task.spreads:
            return outputs
        return scope.add("Gather", outputs, scope.integers(*range(self.columns)), axis=1)

    def unsure(self, scope: Operators, outputs: str, kind: Kind) -> str:
        """s / (1 + s) of the mean spread s; 1 without spreads."""
        one = scope.constant(1.0)
        if not self.task.spreads:
            nothing = scope.constant(np.zeros((self.columns, 1)))
            return scope.add("Add", scope.add("MatMul", outputs, nothing), one)
        mean = self._mean(scope, self._spreads(scope, outputs))
        return scope.add("Div", mean, scope.add("Add", mean, one))

    def observations(self, scope: Operators, outputs: str, kind: Kind) -> str:
        columns = []
        if self.columns <= FEW_CLASSES or not self.task.spreads:
            columns.append(self._scaled(scope, self.answers(scope, outputs, kind)))
        if self.task.spreads:
            more = scope.add("Add", self._spreads(scope, outputs), scope.constant(1.0))
            columns.append(scope.add("Log", more))
        return scope.add("Concat", *columns, axis=1)

    def agreement(self, scope: Operators, answers: str, others: str) -> str:
        apart = scope.add("Abs", self._scaled(scope, scope.add("Sub", answers, others)))
        one = scope.constant(1.0)
        return scope.add("Sub", one, scope.add("Min", self._mean(scope, apart), one))

    def _mean(self, scope: Operators, values: str) -> str:
        total = scope.add("ReduceSum", values, scope.integers(1))
        return scope.add("Mul", total, scope.constant(1.0 / self.columns))

    def _scaled(self, scope: Operators, values: str) -> str:
        return scope.add("Div", values, scope.constant(self.task.scale))

    def _spreads(self, scope: Operators, outputs: str) -> str:
        second = range(self.columns, 2 * self.columns)
        spreads = scope.add("Gather", outputs, scope.integers(*second), axis=1)
        return self._scaled(scope, scope.add("Max", spreads, scope.constant(0.0)))
