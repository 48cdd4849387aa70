"""Whether labels mean the classes that scores are of, or others: shifted, permuted, any."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import OfframpWarning
from offramp.core import tasks

FEWEST_LABELS = 20  # examples; fewer say nothing
_SHIFTS = (1, -1, 2, -2, 3, -3)
_CLASSES = 4000  # with more, a table of all pairs takes too long
_MUCH = 0.5  # of the errors must go for another reading of the labels to be the right one
_SURE, _CLEARLY = 5.0, 2.0  # standard errors: for another reading; for better than chance


class DoubtfulLabels(OfframpWarning):
    """Labels do not seem to mean the classes that scores are of."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong with the labels of some scores."""

    reason: Literal["shifted", "permuted", "chance"]
    loss: float  # share of wrong answers, as labels stand
    chance: float  # what always answering the commonest label gets wrong
    mended: float | None = None  # share of wrong answers, read otherwise; held out where learned
    shift: int = 0  # to add to every label

    def __str__(self) -> str:
        wrong = f"is wrong about {self.loss:.1%} of the examples"
        if self.reason == "shifted":
            verb = "added to" if self.shift > 0 else "taken from"
            return (
                f"{wrong}, but about {self.mended:.1%} where {abs(self.shift)} is {verb} every "
                "label: the labels are shifted (off by a background class, or counted from 1?). "
                "Mend the labels, or the order of its classes"
            )
        if self.reason == "permuted":
            return (
                f"{wrong}, but about {self.mended:.1%} where classes are permuted: the labels "
                "number other classes than the scores do. Bring both into one order"
            )
        return (
            f"{wrong}, no better than chance: always answering the commonest label is wrong about "
            f"{self.chance:.1%}. Check that the labels mean the classes that it scores, that its "
            "first output is its scores, and how examples are prepared for it"
        )


def finding_of(scores: FloatArray, labels: IntArray) -> Finding | None:
    """What is wrong with labels (n,) of classes, given scores (n, classes); None: nothing seen.

    A permutation is learned on every other example and judged on the rest, so that many classes and
    few examples do not make noise look like one.
    """
    if len(labels) < FEWEST_LABELS:
        return None
    answers = tasks.answers(scores)
    wrong, plain = answers != labels, labels != _commonest(labels)
    loss, chance = float(wrong.mean()), float(plain.mean())
    shift = min(_SHIFTS, key=lambda by: float((labels + by != answers).mean()))
    mended = labels + shift != answers
    if _is_right(wrong, mended, plain):
        return Finding(
            reason="shifted", loss=loss, chance=chance, mended=float(mended.mean()), shift=shift
        )
    if scores.shape[1] <= _CLASSES:
        half = np.arange(len(labels)) % 2 == 0
        order = _assigned(answers[half], labels[half], scores.shape[1])
        mended = order[answers[~half]] != labels[~half]
        if _is_right(wrong[~half], mended, plain[~half]):
            return Finding(reason="permuted", loss=loss, chance=chance, mended=float(mended.mean()))
    return (
        None
        if _surer(plain, wrong) >= _CLEARLY
        else Finding(reason="chance", loss=loss, chance=chance)
    )


def _commonest(labels: IntArray) -> int:
    values, counts = np.unique(labels, return_counts=True)
    return int(values[counts.argmax()])


def _is_right(before: AnyArray, after: AnyArray, plain: AnyArray) -> bool:
    """Whether another reading errs much less than the present one, and less than chance."""
    much = after.mean() <= _MUCH * before.mean()
    return bool(much and _surer(before, after) > _SURE and _surer(plain, after) > _CLEARLY)


def _surer(one: AnyArray, other: AnyArray) -> float:
    """How many standard errors fewer errors the other has on the same examples (McNemar 1947)."""
    gains, losses = int((one & ~other).sum()), int((other & ~one).sum())
    return (gains - losses) / math.sqrt(max(1, gains + losses))


def _assigned(answers: IntArray, labels: IntArray, classes: int) -> IntArray:
    """For each class that is answered the label that it stands for, one to one."""
    counts = np.zeros((classes, classes))
    inside = labels < classes
    np.add.at(counts, (answers[inside], labels[inside]), 1)
    counts += 1e-3 * np.eye(classes)  # where nothing is known, as it stands
    return np.asarray(linear_sum_assignment(counts, maximize=True)[1])


def doubts(scores: Mapping[str, FloatArray], labels: IntArray | None, reference: str) -> list[str]:
    """A sentence for each stage whose labels seem to mean other classes.

    Only the reference must be better than chance: cheap stages may know little.
    """
    if labels is None:
        return []
    found = {stage: finding_of(said, labels) for stage, said in scores.items()}
    return [
        f"stage '{stage}' {finding}."
        for stage, finding in found.items()
        if finding and (finding.reason != "chance" or stage == reference)
    ]


def chance_loss(loss: str, labels: IntArray, classes: int) -> float | None:
    """What always answering the commonest labels loses under top-k; None: under another loss."""
    if not tasks.is_top(loss):
        return None
    counts = np.bincount(labels, minlength=classes).astype(np.float32)
    said = np.broadcast_to(counts, (len(labels), classes))
    return float(tasks.loss_function(loss)(said, labels).mean())
