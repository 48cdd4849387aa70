"""What a task is: what the outputs of stages mean, and what a wrong answer costs.

A task is one file: a class that says what a stage answers, how sure it is, and its losses. Those
of offramp are registered when this package is imported; one from elsewhere is registered by the
module that defines it, which must be imported before a trace or a plan of it is read.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol, Self

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import DataError, InputError, LossError, ScoresError, TraceError
from offramp.core import tasks
from offramp.core.operators import Operators
from offramp.core.tasks import DISAGREEMENT, Kind

FLOAT, INT64 = 1, 7  # types of tensors as ONNX numbers them, for its operator Cast
AnswerLoss = Callable[[AnyArray, AnyArray], FloatArray]


class TaskForm(Protocol):
    """The same as a task says, in ONNX operators; tensors of n rows go by their names.

    Operators must mean the same in every version of ONNX from 13 on.
    """

    @property
    def columns(self) -> int:
        """Of answers."""

    @property
    def dtype(self) -> type[np.int64] | type[np.float32]:
        """Of answers."""

    def answers(self, scope: Operators, outputs: str, kind: Kind) -> str:
        """(n, columns)."""

    def unsure(self, scope: Operators, outputs: str, kind: Kind) -> str:
        """1 minus `Task.sure`, without losing its digits near 0, (n, 1)."""

    def observations(self, scope: Operators, outputs: str, kind: Kind) -> str:
        """(n, k)."""

    def agreement(self, scope: Operators, answers: str, others: str) -> str:
        """Of answers (n, columns), (n, 1)."""


@dataclass(frozen=True)
class Task(ABC):
    """What the outputs (n, width) of stages mean.

    A subclass has a `name`, and says `answers`, `sure` and `losses`; all else has a default. What
    it is made with, such as a scale, is what `of` reads and `parameters` writes.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[Kind, ...]] = ("numbers",)  # of outputs that it takes
    alike: ClassVar[bool] = True  # whether all stages have outputs of one width
    combines: ClassVar[bool] = False  # whether stages may answer together, and be refitted
    binary: ClassVar[frozenset[str]] = frozenset()  # losses known to be 0 or 1, whatever the data

    @classmethod
    def of(cls, *parameters: str) -> Self:
        """The task that these words, as in `name/word/word`, stand for.

        Raises:
            InputError: words that mean nothing here.
        """
        if parameters:
            raise InputError(f"the task '{cls.name}' takes nothing after its name; leave it out.")
        return cls()

    @property
    def parameters(self) -> tuple[str, ...]:
        """The inverse of `of`."""
        return ()

    def __str__(self) -> str:
        return "/".join((self.name, *self.parameters))

    # ------------------------------------------------------------ what a subclass says

    @abstractmethod
    def answers(self, outputs: FloatArray, kind: Kind) -> AnyArray:
        """What is answered, (n,) or (n, m)."""

    @abstractmethod
    def sure(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        """How sure a stage is, (n,) in [0, 1], larger is surer: what thresholds are for."""

    @property
    @abstractmethod
    def losses(self) -> Mapping[str, AnswerLoss]:
        """The losses by name, the default first: from answers and labels to (n,) in [0, 1]."""

    # ------------------------------------------------------------ what it may say otherwise

    def observations(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        """What policies learn from after a stage, (n, k)."""
        return self.sure(outputs, kind)[:, None]

    def agreement(self, answers: AnyArray, others: AnyArray) -> FloatArray:
        """How far answers of two stages agree, (n,) in [0, 1]: here, the share that is equal."""
        same = np.asarray(answers == others, dtype=np.float64)
        return same if same.ndim == 1 else np.asarray(same.mean(axis=1))

    def form(self, width: int) -> TaskForm | None:
        """The same of outputs (n, width) in ONNX operators; None: plans are not exported."""
        return None

    def kind_of(self, outputs: FloatArray, stage: str) -> Kind:
        """What outputs are, from all of their rows."""
        return self.kinds[0]

    def check_outputs(self, outputs: AnyArray, stage: str) -> FloatArray:
        """`outputs` as float32 (n, width). Raises ScoresError: of another form, or not finite."""
        if outputs.ndim != 2 or outputs.dtype.kind not in "fiu":
            raise ScoresError(
                f"stage '{stage}' has {outputs.dtype} outputs of shape {outputs.shape}; the task "
                f"'{self}' takes numbers (examples, columns)."
            )
        with np.errstate(over="ignore"):  # beyond float32: infinite, and refused
            values = np.ascontiguousarray(outputs, dtype=np.float32)
        if (broken := ~np.isfinite(values).all(axis=1)).any():
            raise ScoresError(
                f"stage '{stage}' has NaN or infinite outputs, first in row "
                f"{int(np.flatnonzero(broken)[0])}. Repair or leave out these examples."
            )
        return values

    def check_labels(self, labels: AnyArray, examples: int, width: int) -> AnyArray:
        """`labels` as `losses` take them. Raises DataError: others."""
        if labels.dtype.kind not in "fiub" or len(labels) != examples:
            raise DataError(
                f"there are {labels.dtype} labels of shape {labels.shape} for {examples} examples; "
                f"the task '{self}' takes numbers, one row per example."
            )
        return labels

    # ------------------------------------------------------------ what follows from that

    def loss_of(
        self, name: str | None, outputs: FloatArray, kind: Kind, labels: AnyArray | None
    ) -> FloatArray:
        """The loss called `name` (None: the default) of every example, (n,).

        Raises:
            LossError: there is no such loss, or it leaves [0, 1].
            TraceError: there are no labels.
        """
        name = name or self.default_loss
        if name not in self.losses and not tasks.is_own(name):
            known = ", ".join([*self.losses, DISAGREEMENT, "module:function"])
            raise LossError(f"the task '{self}' has no loss '{name}'; it has {known}.")
        if labels is None:
            raise TraceError(tasks.NO_LABELS)
        if name in self.losses:
            values = self.losses[name](self.answers(outputs, kind), labels)
            return tasks.check_loss(np.asarray(values), len(outputs), name)
        return tasks.loss_function(name)(outputs, labels)

    def answers_of(self, outputs: FloatArray, kinds: Sequence[Kind], stage: IntArray) -> AnyArray:
        """The answers of rows that different stages answer, (n,) or (n, m).

        Args:
            outputs: (n, width), each of its own stage.
            kinds: of the outputs of every stage.
            stage: (n,) numbers of stages.
        """
        different = list(dict.fromkeys(kinds))
        answers = self.answers(outputs, different[0])
        for kind in different[1:]:
            rows = np.array([each == kind for each in kinds])[stage]
            answers[rows] = self.answers(outputs[rows], kind)
        return answers

    def is_binary(self, loss: str) -> bool:
        """Whether a loss is known to be 0 or 1, whatever the data."""
        return loss in self.binary

    @property
    def default_loss(self) -> str:
        """The name of the loss that is meant where none is named."""
        return next(iter(self.losses), DISAGREEMENT)


_registered: dict[str, type[Task]] = {}
TASKS: Mapping[str, type[Task]] = MappingProxyType(_registered)
"""Every task that is registered, by the name that the command line and files use."""


def register_tasks(*kinds: type[Task]) -> None:
    """Makes tasks known by name. Raises InputError: a name that is taken, or is none."""
    for each in kinds:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", each.name):
            raise InputError(f"a task cannot be called '{each.name}'; take letters, digits, _, -.")
        if _registered.get(each.name, each) is not each:
            raise InputError(f"another task is called '{each.name}'; take another name.")
        _registered[each.name] = each


def task_named(text: str | Task) -> Task:
    """The task that `text` names, such as `labels` or `regression/2.5`; or `text` where it is one.

    Raises:
        InputError: there is none of that name, or its words mean nothing.
    """
    if isinstance(text, Task):
        return text
    name, *words = text.split("/")
    if name not in TASKS:
        raise InputError(
            f"the task '{name}' is unknown; there are {', '.join(TASKS)}. If it is one of your "
            "own, import the module that registers it first."
        )
    return TASKS[name].of(*words)
