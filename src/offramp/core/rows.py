"""What is known of the rows of a trace besides scores and labels, and what all rows must be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from offramp.base.arrays import AnyArray, BoolArray, FloatArray, IntArray
from offramp.base.errors import BudgetError, DataError, ScoresError, TraceError
from offramp.core import tasks
from offramp.core.example_costs import ExampleCosts, check_example_costs
from offramp.core.task import SINGLE, Task

UNSEALED_SHARE = 1 / 3  # of the examples, that are not sealed unless somebody says otherwise
UNSEALED_MOST = 2500  # examples, likewise
HashOf = Literal["inputs", "scores"]


@dataclass(frozen=True, kw_only=True)
class RowFacts:
    """What is known of examples besides their scores and labels, and what these mean.

    Hashes are of what networks read (`hashing.hash_rows`) and tell examples apart; where there are
    none, scores and labels do.
    """

    ids: AnyArray | None = None  # (examples,) integers or strings; None: 0, 1, 2, ...
    loss: Mapping[str, AnyArray] | None = None  # stage -> (examples,), the user's own, in [0, 1]
    hashes: AnyArray | None = None  # (examples,) uint64
    taught: BoolArray | None = None  # (examples,) whether one trained heads
    costs: Mapping[str, AnyArray] | None = None  # stage -> (examples,), where they differ
    task: Task = SINGLE  # what scores and labels mean
    answers: Mapping[str, AnyArray] | None = None  # stage -> (examples,) integer ids of answers

    @property
    def hash_of(self) -> HashOf:
        return "scores" if self.hashes is None else "inputs"

    def check_ids(self, examples: int) -> None:
        """Raises TraceError where examples are not each named by an integer or a string."""
        if self.ids is None:
            return
        if self.ids.shape != (examples,) or self.ids.dtype.kind not in "iuUO":
            raise TraceError(
                f"the ids are {self.ids.dtype} of shape {self.ids.shape}; they must be integers "
                "or names, one per example."
            )
        seen = set[object]()
        for name in self.ids.tolist():
            if name in seen or name is None:
                raise TraceError(f"the id {name!r} is there twice; every example needs its own.")
            seen.add(name)

    def checked_loss(self, stages: Iterable[str], examples: int) -> dict[str, FloatArray] | None:
        """The user's own loss of every stage; raises LossError where a value leaves [0, 1]."""
        if not self.loss:
            return None
        given = {stage: array_of(self.loss, stage) for stage in stages}
        return {s: tasks.check_loss(loss, examples, f"{s}.loss") for s, loss in given.items()}

    def checked_answers(self, stages: Iterable[str], examples: int) -> dict[str, IntArray] | None:
        """The ids of every stage's answers; raises DataError where they are not integers."""
        if not self.answers:
            return None
        given = {stage: array_of(self.answers, stage) for stage in stages}
        for stage, ids in given.items():
            if ids.shape != (examples,) or ids.dtype.kind not in "iu":
                raise DataError(
                    f"the answers of stage '{stage}' are {ids.dtype} of shape {ids.shape}; they "
                    "must be integers, one per example, equal where answers are. Number them."
                )
        return {stage: np.asarray(ids, dtype=np.int64) for stage, ids in given.items()}

    def checked_costs(self, stages: Sequence[str], examples: int) -> ExampleCosts | None:
        """The costs of every stage; raises CostError where they are no costs."""
        return check_example_costs(self.costs, stages, examples) if self.costs else None


NO_FACTS = RowFacts()  # nothing is known


def learning_share(examples: int) -> float:
    """The part to learn from: policies soon learn no more, and certificates always gain."""
    return min(UNSEALED_SHARE, UNSEALED_MOST / max(1, examples))


def checked_seal(seal: float | None) -> float | None:
    """`seal`. Raises BudgetError where it is no share in [0, 1)."""
    if seal is not None and not 0 <= seal < 1:
        raise BudgetError(
            f"the seal is {seal}; it is the share of the examples that only certificates may see, "
            "at least 0 and below 1."
        )
    return seal


def array_of(arrays: Mapping[str, AnyArray], stage: str) -> AnyArray:
    """The array of a stage. Raises ScoresError where there is none."""
    if stage not in arrays:
        raise ScoresError(f"stage '{stage}' has no array; the arrays are {', '.join(arrays)}.")
    return arrays[stage]


def check_shapes(scores: Mapping[str, FloatArray], *, alike: bool = True) -> None:
    """Raises ScoresError where stages differ in rows or classes, TraceError where none has rows.

    Where they need not be `alike`, they may differ in columns.
    """
    (first, wanted), *others = scores.items()
    for name, other in others:
        for axis, what, verb in (
            (0, "rows", "see the same examples"),
            (1, "classes", "score them"),
        ):
            if other.shape[axis] != wanted.shape[axis] and (alike or not axis):
                raise ScoresError(
                    f"stage '{name}' has {other.shape[axis]} {what}, stage '{first}' has "
                    f"{wanted.shape[axis]}. Every stage must {verb} all; check '{name}'."
                )
    if not len(wanted):
        raise TraceError("there are no examples; record at least a few hundred.")


def check_order(names: Sequence[str], scored: Sequence[str]) -> None:
    """Looks at classes by name: of labels, and as networks score them; either may not be known.

    Raises:
        DataError: a class has one number as a label, and another one as a score.
    """
    at = {name: number for number, name in enumerate(scored)}
    for label, name in enumerate(names):
        if at.get(name, label) != label:
            raise DataError(
                f"'{name}' is label {label} of the examples, but class {at[name]} of the networks. "
                "Number the labels as the networks score them, or make the graph again with "
                "--classes for its reference."
            )


def other_classes(names: Sequence[str], others: Sequence[str], classes: int) -> list[str]:
    """Sentences on the names of classes: fewer than are scored, or others than in `others`."""
    if names and len(names) < classes:
        return [
            f"the examples are of {len(names)} named classes, but networks score {classes}: "
            "if a folder is missing, the labels after it are wrong"
        ]
    if not (names and others) or list(names) == list(others):
        return []
    at = next(
        (i for i, pair in enumerate(zip(names, others, strict=False)) if pair[0] != pair[1]), 0
    )
    return [
        f"label {at} is '{names[at]}' here and '{others[at]}' in the other recording: one of them "
        "has its classes in another order, or lacks one"
    ]
