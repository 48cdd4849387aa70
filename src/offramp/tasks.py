"""What an answer and a loss are: classification, and the user's own loss."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from offramp.arrays import AnyArray, FloatArray, IntArray
from offramp.errors import DataError, LossError, ScoresError, foreign

Kind = Literal["logits", "probabilities"]
Excess = Literal["net", "induced"]
LossFunction = Callable[[FloatArray, IntArray], FloatArray]

DISAGREEMENT = "disagreement"  # the loss without labels: another answer than the reference's
RECORDED = "recorded"  # the loss that the trace's own columns hold
FEW_CLASSES = 64  # with more, each has too few examples to learn something of it
_SMALLEST = 1e-12  # probabilities below are treated as this; float32 scores carry no more
_SUM_TOLERANCE = 1e-3
_CHANCE = 0.01  # share of rows of two logits that may look like probabilities by chance


@dataclass(frozen=True)
class Losses:
    """What every stage's answer would cost in quality, on every example."""

    name: str  # top1, top5, disagreement, module:function, ...
    values: Mapping[str, FloatArray]  # stage -> (examples,) in [0, 1], at the end of a walk
    reference: str
    kind: Excess
    alone: Mapping[str, FloatArray] = field(default_factory=dict)  # likewise, of stages run alone

    @property
    def of_reference(self) -> FloatArray:
        """The loss of the reference by itself, (examples,): never a committee's."""
        return self.alone.get(self.reference, self.values[self.reference])

    def excess(self, stage: str, kind: Excess | None = None) -> FloatArray:
        """Loss of `stage` minus the reference's, (examples,); its positive part if induced."""
        return excess(self.values[stage], self.of_reference, kind or self.kind)

    def single(self) -> Losses:
        """The losses of stages that run alone, not at the end of a walk."""
        return replace(self, values={**self.values, **self.alone})

    def take(self, rows: AnyArray) -> Losses:
        values = {stage: loss[rows] for stage, loss in self.values.items()}
        alone = {stage: loss[rows] for stage, loss in self.alone.items()}
        return Losses(self.name, values, self.reference, self.kind, alone)

    @property
    def binary(self) -> bool:
        """Whether every loss is 0 or 1, so that counts say everything."""
        return all(bool(np.isin(loss, (0.0, 1.0)).all()) for loss in self.values.values())


def excess(loss: FloatArray, reference: FloatArray, kind: Excess) -> FloatArray:
    """Excess loss per example: the difference (`net`) or its positive part (`induced`)."""
    difference = loss - reference
    return np.maximum(difference, 0.0) if kind == "induced" else difference


def kind_of(scores: FloatArray, stage: str) -> Kind:
    """Whether (n, classes) scores are probabilities (rows of at least 0 that sum to 1) or logits.

    Two logits may sum to 1 by chance: a few such rows among many are no other kind.

    Raises:
        ScoresError: some rows are probabilities and others are not.
    """
    rows = _probable(scores)
    if rows.all():
        return "probabilities"
    if rows.any() and not (scores.shape[1] == 2 and rows.mean() < _CHANCE):
        first = int(np.flatnonzero(rows != rows[0])[0])
        raise ScoresError(
            f"stage '{stage}' mixes probabilities and logits: {int(rows.sum())} of {len(rows)} "
            f"rows are at least 0 and sum to 1, and row {first} is of another kind than row 0. "
            "Say which they are: --scores logits or --scores probabilities."
        )
    return "logits"


def check_probabilities(scores: FloatArray, stage: str) -> None:
    """Raises ScoresError where a row of (n, classes) is below 0 somewhere, or does not sum to 1."""
    wrong = np.flatnonzero(~_probable(scores))
    if wrong.size:
        row = scores[wrong[0]]
        raise ScoresError(
            f"stage '{stage}' has no probabilities in row {wrong[0]} and in {len(wrong)} of "
            f"{len(scores)} rows: the smallest is {row.min():.4g} and the sum "
            f"{row.sum(dtype=np.float64):.4g}. Give probabilities, or say --scores logits."
        )


def _probable(scores: FloatArray) -> AnyArray:
    """Which rows of (n, classes) are at least 0 and sum to 1, (n,) of booleans."""
    sums = scores.sum(axis=1, dtype=np.float64)
    return np.asarray((scores.min(axis=1, initial=0.0) >= 0) & (np.abs(sums - 1) <= _SUM_TOLERANCE))


def check_scores(scores: AnyArray, stage: str) -> FloatArray:
    """`scores` as float32, contiguous (n, classes).

    Raises:
        ScoresError: not two-dimensional, fewer than two classes, no numbers, NaN or infinite.
    """
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise ScoresError(
            f"stage '{stage}' has scores of shape {scores.shape}; "
            "they must be (examples, classes) with at least two classes."
        )
    if scores.dtype.kind not in "fiu":
        raise ScoresError(
            f"stage '{stage}' has scores of type {scores.dtype}; they must be floats."
        )
    scores = np.ascontiguousarray(scores, dtype=np.float32)
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise ScoresError(
            f"stage '{stage}' has NaN or infinite scores, first in row {row}. "
            "Repair or leave out these examples."
        )
    return scores


def check_labels(labels: AnyArray, examples: int, classes: int) -> IntArray:
    """`labels` as int64 (examples,). Raises DataError: wrong type, number, or out of range."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"labels must be integers of shape (examples,), but are {labels.dtype} of shape "
            f"{labels.shape}. Give the class number of every example."
        )
    if len(labels) != examples:
        raise DataError(f"there are {len(labels)} labels for {examples} examples.")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"the label in row {wrong[0]} is {labels[wrong[0]]}, outside 0..{classes - 1} "
            f"({classes} classes). Mend the label, or leave the example out."
        )
    return np.asarray(labels, dtype=np.int64)


def log_probabilities(scores: FloatArray, kind: Kind) -> FloatArray:
    """The logarithms of the probabilities that the scores stand for, (n, classes)."""
    if kind == "probabilities":
        return np.asarray(np.log(np.maximum(scores, _SMALLEST)))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def probabilities(scores: FloatArray, kind: Kind) -> FloatArray:
    """The probabilities that the scores stand for, float64 (n, classes), a new array."""
    values = scores.astype(np.float64)
    if kind == "probabilities":
        return np.asarray(np.maximum(values, _SMALLEST))
    values -= values.max(axis=1, keepdims=True)
    np.exp(values, out=values)
    values /= values.sum(axis=1, keepdims=True)
    return values


def answers(scores: FloatArray) -> IntArray:
    """The class with the highest score, the first of several, (n,)."""
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def loss_function(name: str) -> LossFunction:
    """The loss that `name` stands for: top1, top5 (any k), or module:function.

    The user's own function takes scores (n, classes) and labels (n,) and returns (n,) in [0, 1].

    Raises:
        LossError: no such loss.
    """
    if match := re.fullmatch(r"top([1-9][0-9]*)", name):
        return _TopK(int(match[1]))
    module, _, function = name.partition(":")
    if not (module and function):
        raise LossError(f"loss '{name}' is unknown. Use top1, top5 or module:function.")
    with foreign(LossError, f"loss '{name}' cannot be imported"):  # which runs the user's code
        found = getattr(importlib.import_module(module), function)
    return _Checked(name, found)


def is_own(name: str) -> bool:
    """Whether loss `name` is code of the user's, which no file may start."""
    return ":" in name


def is_binary(name: str) -> bool:
    """Whether loss `name` is known to be 0 or 1, whatever the data."""
    return name == DISAGREEMENT or name.startswith("top")


@dataclass(frozen=True)
class _TopK:
    """1 where the label is not among the k highest scores; ties go to the lower class number."""

    k: int

    def __call__(self, scores: FloatArray, labels: IntArray) -> FloatArray:
        classes = scores.shape[1]
        if self.k >= classes:
            raise LossError(
                f"loss 'top{self.k}' is always 0 with {classes} classes; "
                f"use top{classes - 1} or less."
            )
        if self.k == 1:
            return np.asarray(answers(scores) != labels, dtype=np.float32)
        own = scores[np.arange(len(scores)), labels][:, None]
        earlier = np.arange(scores.shape[1]) < labels[:, None]
        rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
        return np.asarray(rank >= self.k, dtype=np.float32)


@dataclass(frozen=True)
class _Checked:
    """The user's own loss, with its values checked."""

    name: str
    function: LossFunction

    def __call__(self, scores: FloatArray, labels: IntArray) -> FloatArray:
        with foreign(LossError, f"loss '{self.name}' failed"):
            values = np.asarray(self.function(scores, labels))
        return check_loss(values, len(labels), self.name)


def check_loss(values: AnyArray, examples: int, name: str) -> FloatArray:
    """`values` as float32 (examples,). Raises LossError: wrong shape, or outside [0, 1]."""
    if values.shape != (examples,) or values.dtype.kind not in "fiub":
        raise LossError(
            f"loss '{name}' gave {values.dtype} values of shape {values.shape}; "
            f"it must give one number per example, ({examples},)."
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise LossError(f"loss '{name}' gave values outside [0, 1]; scale it to that range.")
    return values.astype(np.float32)
