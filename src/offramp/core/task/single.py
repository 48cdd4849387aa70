"""One label: scores of classes, of which the highest is the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import TraceError
from offramp.core import tasks
from offramp.core.task.task import AnswerLoss, Task
from offramp.core.tasks import DISAGREEMENT, Kind


@dataclass(frozen=True)
class Single(Task):
    """One class of several; labels are class numbers (n,).

    Policies of it look at more than the columns below: at classes, margins and entropies.
    """

    name: ClassVar[str] = "single"
    kinds: ClassVar[tuple[Kind, ...]] = ("logits", "probabilities", "sigmoid")
    combines: ClassVar[bool] = True

    def answers(self, outputs: FloatArray, kind: Kind) -> IntArray:
        return tasks.answers(outputs)

    def sure(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        """The highest probability."""
        return tasks.confidence(tasks.log_probabilities(outputs, kind))

    @property
    def losses(self) -> Mapping[str, AnswerLoss]:
        return {"top1": lambda answers, labels: np.asarray(answers != labels, np.float32)}

    def loss_of(
        self, name: str | None, outputs: FloatArray, kind: Kind, labels: AnyArray | None
    ) -> FloatArray:
        if labels is None:
            raise TraceError(tasks.NO_LABELS)
        return tasks.loss_function(name or self.default_loss)(outputs, labels)

    def is_binary(self, loss: str) -> bool:
        return loss == DISAGREEMENT or tasks.is_top(loss)

    def kind_of(self, outputs: FloatArray, stage: str) -> Kind:
        return tasks.kind_of(outputs, stage)

    def check_outputs(self, outputs: AnyArray, stage: str) -> FloatArray:
        return tasks.check_scores(outputs, stage)

    def check_labels(self, labels: AnyArray, examples: int, width: int) -> AnyArray:
        return tasks.check_labels(labels, examples, width)


SINGLE = Single()
