"""What an answer and a loss are: classification, and the user's own loss."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Literal

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import DataError, LossError, ScoresError, TraceError, foreign

Kind = Literal["logits", "probabilities", "sigmoid"]
"""What scores are: of any size, to be put through softmax; chances of one class among all, which
sum to 1; or chances of each class by itself, as sigmoids give them."""
Excess = Literal["net", "induced"]
LossFunction = Callable[[FloatArray, IntArray], FloatArray]

DISAGREEMENT = "disagreement"  # the loss without labels: another answer than the reference's
RECORDED = "recorded"  # the loss that the trace's own columns hold
LABELS = ("labels", "label", "y", "target", "targets")  # what arrays of labels are called
FEW_CLASSES = 64  # with more, each has too few examples to learn something of it
SMALLEST_PROBABILITY = (
    1e-12  # probabilities below are treated as this; float32 scores carry no more
)
NEAREST = 2.0**-24  # how near to 1 a float32 comes: what a sigmoid leaves to the others
_TOP_K = re.compile(r"top([1-9][0-9]*)")
_SUMS = (0.988, 1.012)  # what half precision and rounded digits leave of a sum of 1
_SAID = (0.5, 1.05)  # the same where it is said: few digits and dropped classes leave less
_ROUNDING = 1e-6  # below 0 and above 1, by arithmetic
_CHANCE = 0.01  # share of rows of logits that may look like probabilities by chance
_MOST = 0.5  # share of rows that makes the others the exception
_IMPOSSIBLE = -1e30  # scores below, as masks leave them, are taken as this: finite, and no chance


@dataclass(frozen=True)
class Losses:
    """What every stage's answer would cost in quality, on every example."""

    name: str  # top1, top5, disagreement, module:function, ...
    values: Mapping[str, FloatArray]  # stage -> (examples,) in [0, 1], at the end of a walk
    reference: str
    kind: Excess
    _: KW_ONLY
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
        return Losses(self.name, values, self.reference, self.kind, alone=alone)

    @property
    def binary(self) -> bool:
        """Whether every loss is 0 or 1, so that counts say everything."""
        each = (*self.values.values(), *self.alone.values())
        return all(bool(np.isin(loss, (0.0, 1.0)).all()) for loss in each)


def excess(loss: FloatArray, reference: FloatArray, kind: Excess) -> FloatArray:
    """Excess loss per example: the difference (`net`) or its positive part (`induced`)."""
    difference = loss - reference
    return np.maximum(difference, 0.0) if kind == "induced" else difference


def kind_of(scores: FloatArray, stage: str) -> Kind:
    """What (n, classes) scores are, from all of their rows.

    | rows | kind |
    |---|---|
    | all in [0, 1], and sum to 1 as far as half precision and rounding let them | probabilities |
    | all in [0, 1], some sum to something else | sigmoid |
    | any other | logits |

    The answer is the highest score whatever the kind; only how sure it is depends on it.

    Raises:
        ScoresError: most rows are probabilities, but some do not even lie in [0, 1].
    """
    if not (within := _within(scores)).all():
        if (rows := _probable(scores, _SUMS)).mean() >= _MOST:
            raise ScoresError(
                f"stage '{stage}' mixes probabilities and logits: {int(rows.sum())} of "
                f"{len(rows)} rows are at least 0 and sum to 1, but row "
                f"{int(np.flatnonzero(~within)[0])} leaves [0, 1]. Mend them, or take all as "
                "logits: --scores logits."
            )
        return "logits"
    return "probabilities" if _probable(scores, _SUMS).all() else "sigmoid"


def doubt(scores: FloatArray, kind: Kind, stage: str) -> str | None:
    """A sentence where many rows of (n, classes) look like another kind; None: they do not."""
    if kind == "probabilities":
        return None
    alike = _probable(scores, _SUMS)
    if kind == "logits" and alike.mean() <= _CHANCE:  # sums may be 1 by chance
        return None
    if kind == "sigmoid":
        return (
            f"the scores of '{stage}' lie in [0, 1], but {int((~alike).sum())} of {len(scores)} "
            "rows do not sum to 1: taken as sigmoids, one for each class. If they are not, say "
            "--scores logits or --scores probabilities."
        )
    return (
        f"{int(alike.sum())} of {len(scores)} rows of '{stage}' look like probabilities, the "
        "others do not: all are taken as logits. Check the network, or say --scores."
    )


def check_kind(scores: FloatArray, kind: Kind, stage: str) -> None:
    """Raises ScoresError where a row of (n, classes) is not what it is said to be."""
    fitting = {
        "logits": np.ones(len(scores), dtype=bool),
        "probabilities": _probable(scores, _SAID),
        "sigmoid": _within(scores),
    }
    wrong = np.flatnonzero(~fitting[kind])
    if wrong.size:
        row = scores[wrong[0]]
        what = "probabilities" if kind == "probabilities" else "sigmoids"
        raise ScoresError(
            f"stage '{stage}' has no {what} in row {wrong[0]} and in {len(wrong)} of "
            f"{len(scores)} rows: the smallest is {row.min():.4g}, the largest {row.max():.4g} "
            f"and the sum {row.sum(dtype=np.float64):.4g}. Give {what}, or say --scores logits."
        )


def _within(scores: FloatArray) -> AnyArray:
    """Which rows of (n, classes) lie within [0, 1], (n,) of booleans."""
    low, high = scores.min(axis=1, initial=0.0), scores.max(axis=1, initial=1.0)
    return np.asarray((low >= -_ROUNDING) & (high <= _SUMS[1]))


def _probable(scores: FloatArray, sums: tuple[float, float]) -> AnyArray:
    """Which rows of (n, classes) lie within [0, 1] and sum to 1, (n,) of booleans."""
    total = scores.sum(axis=1, dtype=np.float64)
    return np.asarray(_within(scores) & (total >= sums[0]) & (total <= sums[1]))


def check_scores(scores: AnyArray, stage: str) -> FloatArray:
    """`scores` as float32, contiguous (n, classes); minus infinity as a finite number.

    Raises:
        ScoresError: not two-dimensional, fewer than two classes, no numbers, NaN, plus infinity, or
            a row in which no class is possible.
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
    with np.errstate(over="ignore"):  # beyond float32: infinite, and refused
        scores = np.ascontiguousarray(scores, dtype=np.float32)
    if (broken := no_scores(scores)).any():
        row = int(np.flatnonzero(broken)[0])
        raise ScoresError(
            f"stage '{stage}' has NaN or infinite scores, first in row {row}; only minus infinity "
            "is taken, for classes that are impossible. Repair or leave out these examples."
        )
    return possible(scores)


def check_observations(values: AnyArray, stage: str) -> FloatArray:
    """`values` as float32 (n, k), any k. Raises ScoresError: other shapes, or not finite."""
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise ScoresError(
            f"the observations of stage '{stage}' are {values.dtype} of shape {values.shape}; they "
            "must be numbers, (examples, any number)."
        )
    with np.errstate(over="ignore"):  # beyond float32: infinite, and refused
        values = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise ScoresError(
            f"the observations of stage '{stage}' are not all finite, first in row {row}. Mend "
            "them, or leave the column out."
        )
    return values


def no_scores(scores: FloatArray) -> AnyArray:
    """Which rows of (n, classes) hold NaN or plus infinity, or no finite score, (n,)."""
    bad = np.isnan(scores) | np.isposinf(scores)
    return np.asarray(bad.any(axis=1) | ~np.isfinite(scores).any(axis=1))


def possible(scores: FloatArray) -> FloatArray:
    """Scores (n, classes) in which those of impossible classes are finite, and harm no sums."""
    if scores.min(initial=0.0) >= _IMPOSSIBLE:
        return scores
    return np.maximum(scores, _IMPOSSIBLE, dtype=scores.dtype)


def check_labels(labels: AnyArray, examples: int, classes: int) -> IntArray:
    """`labels` as int64 (examples,). Raises DataError: wrong type, number, or out of range."""
    labels = whole_labels(labels)
    if len(labels) != examples:
        raise DataError(f"there are {len(labels)} labels for {examples} examples.")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"the label in row {wrong[0]} is {labels[wrong[0]]}, outside 0..{classes - 1} "
            f"({classes} classes). Mend the label, or leave the example out."
        )
    return labels


def whole_labels(labels: AnyArray, source: str = "") -> IntArray:
    """`labels` as int64 (examples,). Raises DataError, with what to do: others than integers."""
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        return np.asarray(labels, dtype=np.int64)
    raise DataError(
        f"labels must be integers of shape (examples,), but {f'those in {source} ' * bool(source)}"
        f"are {labels.dtype} of shape {labels.shape}. {_advice(labels)}"
    )


def _advice(labels: AnyArray) -> str:
    """What makes class numbers of labels of another form."""
    numbers = labels.dtype.kind in "fiub"
    if numbers and labels.ndim == 2 and labels.shape[1] == 1:
        return "They are a column: save labels[:, 0]."
    if numbers and labels.ndim == 2 and ((labels == 0) | (labels == 1)).all():
        return "They are one-hot or of several classes each: where one, save labels.argmax(axis=1)."
    if labels.dtype.kind == "b" or (numbers and labels.ndim == 1 and (labels % 1 == 0).all()):
        return "They are whole numbers: save labels.astype(int)."
    if labels.dtype.kind in "OUS":
        return "Number the classes 0, 1, 2, ... in the order in which the networks score them."
    return "Give the class number of every example."


def logits(scores: FloatArray, kind: Kind) -> FloatArray:
    """What scores (n, classes) that are no probabilities are to softmax, (n, classes).

    Sigmoids p are turned back into log(p / (1 - p)): softmax of these is the chance of each class
    given that exactly one of them is right, where each was judged by itself.
    """
    if kind == "sigmoid":
        left = np.log(np.maximum(1 - scores, NEAREST))
        return np.asarray(np.log(np.maximum(scores, SMALLEST_PROBABILITY)) - left)
    return possible(scores)


def log_probabilities(scores: FloatArray, kind: Kind) -> FloatArray:
    """The logarithms of the probabilities that the scores stand for, (n, classes)."""
    if kind == "probabilities":
        likely = np.maximum(scores, SMALLEST_PROBABILITY)
        return np.asarray(np.log(likely / likely.sum(axis=1, keepdims=True)))
    scores = logits(scores, kind)
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def probabilities(scores: FloatArray, kind: Kind) -> FloatArray:
    """The probabilities that the scores stand for, float64 (n, classes), a new array."""
    if kind == "probabilities":
        values = np.maximum(scores.astype(np.float64), SMALLEST_PROBABILITY)
    else:
        values = logits(scores, kind).astype(np.float64)
        values -= values.max(axis=1, keepdims=True)
        np.exp(values, out=values)
    values /= values.sum(axis=1, keepdims=True)
    return values


def answers(scores: FloatArray) -> IntArray:
    """The class with the highest score, the first of several, (n,)."""
    return np.asarray(scores.argmax(axis=1), dtype=np.int64)


def losses_of(
    name: str, scores: Mapping[str, FloatArray], labels: IntArray | None, reference: FloatArray
) -> dict[str, FloatArray]:
    """The loss of every stage, (examples,) each, from its scores (examples, classes).

    Args:
        name: a loss; `disagreement` is measured against the answers of `reference` alone.
        scores: of every stage.
        labels: (examples,) class numbers, or None.
        reference: the scores of the full network.

    Raises:
        TraceError: a loss that needs labels, and there are none.
        LossError: no such loss, or values outside [0, 1].
    """
    if name == DISAGREEMENT:
        agreed = answers(reference)
        return {s: (answers(v) != agreed).astype(np.float32) for s, v in scores.items()}
    if labels is None:
        raise TraceError(
            "these examples have no labels. Record labelled ones, "
            "or measure disagreement with the reference instead: --unlabelled."
        )
    function = loss_function(name)
    return {stage: function(values, labels) for stage, values in scores.items()}


def loss_function(name: str) -> LossFunction:
    """The loss that `name` stands for: top1, top5 (any k), or module:function.

    The user's own function takes scores (n, classes) and labels (n,) and returns (n,) in [0, 1].

    Raises:
        LossError: no such loss.
    """
    if match := _TOP_K.fullmatch(name):
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
    return name == DISAGREEMENT or is_top(name)


def is_top(name: str) -> bool:
    """Whether loss `name` is top-k error."""
    return _TOP_K.fullmatch(name) is not None


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
