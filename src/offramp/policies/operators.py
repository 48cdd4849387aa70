"""The ONNX form of a policy: what it has seen as tensors, where its dial stands, where rows go.

A policy decides twice, in numpy and in the files that it is exported to. Here is what its second
form is written with; nothing of it needs the package `onnx`, so that both forms stand in one file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.operators import Operators as Operators
from offramp.core.task import SINGLE, Task, TaskForm
from offramp.core.tasks import FEW_CLASSES, NEAREST, SMALLEST_PROBABILITY, Kind
from offramp.policies.statistics import LOWEST, SURE

FLOAT, INT64 = 1, 7  # types of tensors as ONNX numbers them, for its operator Cast


Get = Callable[[str], str]  # from a key to the tensor that earlier blocks recorded under it


@dataclass(kw_only=True)
class SeenTensors:
    """What a walk has seen of n rows that are now at `stage`; each is computed once, if asked for.

    The counterpart of `offramp.policies.Seen`.
    """

    scope: Operators
    stage: str
    observed: tuple[str, ...]  # stages on every path to this one, which is the last
    scores: str  # (n, classes)
    kind: Kind
    classes: int
    get: Get
    taint: str | None = None  # (n,), 0 where the inputs are numbers, else NaN
    task: Task = SINGLE  # what scores mean

    def before(self, what: str) -> str | None:
        """What the stage before this one remembered under `what`; None at the first stage."""
        return self.get(f"{self.observed[-2]}:{what}") if len(self.observed) > 1 else None

    def joined(self, what: str, tensor: str) -> str:
        """A tensor (n, k) after those that earlier stages remembered, (n, stages * k)."""
        before = self.before(what)
        return tensor if before is None else self.scope.add("Concat", before, tensor, axis=1)

    @cached_property
    def probabilities(self) -> str:
        """(n, classes)."""
        scope = self.scope
        if self.kind != "probabilities":
            return scope.add("Softmax", self.logits, axis=1)
        likely = scope.add("Max", self.scores, scope.constant(SMALLEST_PROBABILITY))
        return scope.add("Div", likely, scope.add("ReduceSum", likely, scope.integers(1)))

    @cached_property
    def logits(self) -> str:
        """`tasks.logits` of scores that are no probabilities, (n, classes)."""
        if self.kind != "sigmoid":
            return self.scores
        scope = self.scope
        left = scope.add("Sub", scope.constant(1.0), self.scores)
        each = ((self.scores, SMALLEST_PROBABILITY), (left, NEAREST))
        logs = [scope.add("Log", scope.add("Max", t, scope.constant(low))) for t, low in each]
        return scope.add("Sub", *logs)

    @cached_property
    def logs(self) -> str:
        """Logarithms of the probabilities, (n, classes)."""
        if self.kind != "probabilities":
            return self.scope.add("LogSoftmax", self.logits, axis=1)
        return self.scope.add("Log", self.probabilities)

    @cached_property
    def two(self) -> list[str]:
        """The two highest probabilities, and their classes, (n, 2) each."""
        two = self.scope.integers(2)
        return self.scope.several(2, "TopK", self.probabilities, two, axis=1)

    @cached_property
    def first(self) -> str:
        """The class answered, (n,)."""
        return self.scope.add("Gather", self.two[1], self.scope.constant(0, np.int64), axis=1)

    @cached_property
    def answer(self) -> str:
        """The class answered, (n, 1); of another task its answers, (n, m)."""
        if form := self.form:
            return form.answers(self.scope, self.scores, self.kind)
        return self.scope.add("Unsqueeze", self.first, self.scope.integers(1))

    @cached_property
    def member(self) -> str:
        """1 at the class answered, (n, classes)."""
        # a scalar, and the axis said: the reference evaluator of ONNX takes nothing else
        depth, values = self.scope.constant(self.classes, np.int64), self.scope.constant([0, 1])
        return self.scope.add("OneHot", self.first, depth, values, axis=-1)

    @cached_property
    def unsure(self) -> str:
        """1 minus the sureness, without losing its digits near 0, (n, 1).

        Of one label 1 minus the highest probability.
        """
        if form := self.form:
            return form.unsure(self.scope, self.scores, self.kind)
        others = self.scope.add("Sub", self.scope.constant(1.0), self.member)
        rest = self.scope.add("Mul", self.probabilities, others)
        return self.scope.add("ReduceSum", rest, self.scope.integers(1))

    @cached_property
    def close(self) -> str:
        """1 minus the margin of the two highest probabilities, (n, 1)."""
        return self.scope.add("Add", self.unsure, self.column(self.two[0], 1))

    @cached_property
    def rest(self) -> str:
        """The logarithm of what other classes get, (n, 1)."""
        return self.scope.add("Log", self.scope.add("Max", self.unsure, self.scope.constant(SURE)))

    @cached_property
    def entropy(self) -> str:
        """(n, 1)."""
        return self.scope.add("Neg", self._weighted(self.logs))

    @cached_property
    def observations(self) -> str:
        """`policies.statistics.observations`, (n, 5), or with the probabilities of few classes."""
        scope = self.scope
        logs = scope.add("Max", self.logs, scope.constant(LOWEST))
        squared = scope.add("LogSoftmax", scope.add("Add", logs, logs), axis=1)
        columns = [
            scope.add("Sub", scope.constant(1.0), self.unsure),
            scope.add("Sub", scope.constant(1.0), self.close),
            *(self._weighted(each) for each in (logs, squared)),
            scope.add("Neg", self.rest),
            *([self.probabilities] if self.classes <= FEW_CLASSES else []),
        ]
        return scope.add("Concat", *columns, axis=1)

    def _weighted(self, logs: str) -> str:
        """Logarithms of probabilities, each as often as it happens, (n, 1)."""
        # a class that is impossible counts nothing: minus infinity times 0 would be NaN
        finite = self.scope.add("Max", logs, self.scope.constant(LOWEST))
        weighted = self.scope.add("Mul", finite, self.scope.add("Exp", logs))
        return self.scope.add("ReduceSum", weighted, self.scope.integers(1))

    @property
    def alike(self) -> str:
        """1 for each earlier stage that answered alike, else 0, (n, stages - 1).

        Of other tasks than one label, how far it agrees, in [0, 1]. Stages must remember ANSWERS,
        and there must be an earlier one.
        """
        answer = self.answer
        if form := self.form:
            before, wide = self.get(f"{self.observed[-2]}:answers"), form.columns
            agreed = [
                form.agreement(self.scope, self._columns(before, wide * at, wide), answer)
                for at in range(len(self.observed) - 1)
            ]
            return agreed[0] if len(agreed) == 1 else self.scope.add("Concat", *agreed, axis=1)
        alike = self.scope.add("Equal", self.get(f"{self.observed[-2]}:answers"), answer)
        return self.scope.add("Cast", alike, to=FLOAT)

    @cached_property
    def task_observations(self) -> str:
        """`Task.observations`, (n, k); not for one label, where policies look at more."""
        form = self.form
        assert form is not None
        return form.observations(self.scope, self.scores, self.kind)

    @property
    def looked_back(self) -> str:
        """How far earlier answers agree, then what was observed before, (n, earlier features)."""
        before = self.get(f"{self.observed[-2]}:observed")
        return self.scope.add("Concat", self.alike, before, axis=1)

    @property
    def form(self) -> TaskForm | None:
        """What the task says in operators; None for one label, of which policies say more."""
        return self.task.form(self.classes)

    def _columns(self, tensor: str, start: int, count: int) -> str:
        """Some columns of (n, k), (n, count)."""
        return self.scope.add(
            "Gather", tensor, self.scope.integers(*range(start, start + count)), axis=1
        )

    def column(self, tensor: str, number: int) -> str:
        """One column of (n, k), as (n, 1)."""
        return self.scope.add("Gather", tensor, self.scope.integers(number), axis=1)

    @cached_property
    def trust(self) -> str | None:
        """0 in the rows whose scores and inputs are numbers, else NaN, (n,); None: nothing to add.

        NaN logits of one label are NaN in every probability already.
        """
        if self.kind == "logits" and self.task == SINGLE:
            return self.taint
        nothing = self.scope.constant(np.zeros(self.classes))
        broken = self.scope.add("MatMul", self.scores, nothing)
        return broken if self.taint is None else self.scope.add("Add", broken, self.taint)

    def trusted(self, values: str) -> str:
        """(n, columns) values, NaN in the rows whose scores or inputs are no numbers."""
        if self.trust is None:
            return values
        column = self.scope.add("Unsqueeze", self.trust, self.scope.integers(1))
        return self.scope.add("Add", values, column)


@dataclass(frozen=True)
class Dial:
    """Where a dial stands: a number that is known while the file is written, or an input of it."""

    default: float  # the setting of the plan
    given: str | None = None  # the setting at run time, a scalar
    bases: str | None = None  # likewise (4, 1), of `policies.learned.bases`

    def setting(
        self,
        scope: Operators,
        known: Callable[[float], float] = lambda setting: setting,
        given: Callable[[str], str] = lambda setting: setting,
    ) -> str:
        """What the setting is compared with, a scalar, as worked out from it in two ways."""
        return scope.constant(known(self.default)) if self.given is None else given(self.given)

    def row(self, scope: Operators, settings: FloatArray, table: FloatArray) -> str:
        """The row of a table (settings, ...), or of one row for all, that the dial asks for."""
        if self.given is None or len(table) == 1:
            at = int(np.abs(settings - self.default).argmin())
            return scope.constant(table[min(at, len(table) - 1)])
        away = scope.add("Sub", scope.constant(settings), self.given)
        nearest = scope.add("ArgMin", scope.add("Abs", away), axis=0, keepdims=0)
        return scope.add("Gather", scope.constant(table), nearest, axis=0)


@dataclass(frozen=True)
class Decision:
    """Where n rows go; comparisons are made so that NaN goes on, as far as possible."""

    stops: str  # (n,) whether each stops
    action: str | None = None  # (n,) 0 to stop, i for the i-th successor; None: at most one
    made: Mapping[str, str] = field(default_factory=dict)  # what it remembers, made on the way

    @classmethod
    def column(cls, scope: Operators, stops: str) -> Decision:
        """From (n, 1) that says which rows stop; the others go on to the only successor."""
        return cls(scope.add("Squeeze", stops, scope.integers(1)))

    @classmethod
    def by_action(cls, scope: Operators, action: str) -> Decision:
        """From (n,) actions."""
        return cls(scope.add("Equal", action, scope.constant(0, np.int64)), action)

    @classmethod
    def lowest(
        cls, scope: Operators, values: str, successors: int, actions: IntArray | None = None
    ) -> Decision:
        """The action with the lowest value, the first of several; the last where there is NaN.

        `actions` says which action each column of the values stands for, if not its own number.
        """
        best = scope.add("ArgMin", values, axis=1, keepdims=0)
        if actions is not None:
            best = scope.add("Gather", scope.integers(*actions), best)
        total = scope.add("ReduceSum", values, scope.integers(1), keepdims=0)
        last = scope.constant(successors, np.int64)
        return cls.by_action(scope, scope.add("Where", scope.add("IsNaN", total), last, best))


Memory = Mapping[str, Callable[[SeenTensors, Dial], str]]
"""What later stages may ask of a stage, by name, and how it is made of what the stage has seen.

It is written where it is asked for, since most rows never come that far.
"""


def _answers(seen: SeenTensors, dial: Dial) -> str:
    """The answer of each stage so far, (n, stages)."""
    return seen.joined("answers", seen.answer)


ANSWERS: Memory = {"answers": _answers}
"""What a stage remembers so that later ones can see who agrees with them."""


def _logs(seen: SeenTensors, dial: Dial) -> str:
    """The log-probabilities of the stage, (n, classes)."""
    return seen.logs


LOG_PROBABILITIES = "log_probabilities"
LOGS: Memory = {LOG_PROBABILITIES: _logs}
"""What a stage remembers so that a later one can see what it gave to each class."""
