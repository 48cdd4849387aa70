"""What the label probably is, given all that every stage said: labels of less noise to learn from.

A stage's excess loss on one example is 1, 0 or -1, mostly by the luck of that label. Its
expectation given the scores of all stages has the same mean given what a policy observes, and far
less noise (Rao and Blackwell), so policies learn from that instead. It is cross-fitted, and only
learning uses it: certificates and reports count real losses.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from offramp.answering.committees import SMALLEST, pool_weights, sampled
from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.core import tasks
from offramp.core.tasks import Losses, answers
from offramp.core.trace import Trace

SHARE = 0.8  # of the expectation; the rest is the real loss, should the model of the label be wrong
_NUMBERS = 50_000_000  # scores of all examples; with more there is enough to learn from
_FEWEST = 200  # examples that the model of the label is worth learning from
_FEWEST_CHANGES = 20  # answers that differ; with fewer the model is taken as it is
_SMALLEST = -8.0  # log-probabilities below say the same
_STRENGTH = 0.03  # inverse penalty
_SLOPE, _BIAS = 0.5, 0.01  # how far off the model of the label is thought to be, beforehand
_POOL = 2.0  # how much more freely the pool counts than what each stage says
_STEPS = 60  # of the optimiser
_KEPT = 8_000_000  # probabilities that are kept, at most
_found: dict[str, FloatArray] = {}  # those of the last examples, by what they are of
_TINY = 1e-6  # probabilities below are not told apart


def expected_excess(trace: Trace, losses: Losses, folds: IntArray) -> Mapping[str, FloatArray]:
    """The excess loss of every stage to learn from, (examples,) each, in [-1, 1].

    Args:
        trace: with labels, or without: then the real losses are returned.
        losses: only top-1 losses are replaced.
        folds: (examples,): each example's label is predicted by a model of the other folds.
    """
    real = {stage: losses.excess(stage).astype(np.float64) for stage in trace.graph.order}
    numbers = trace.examples * trace.classes * len(trace.scores)
    fits = trace.examples >= _FEWEST and numbers <= _NUMBERS
    if losses.name != "top1" or trace.labels is None or not fits:
        return real
    probable = _posterior(trace, trace.labels, folds)
    rows = np.arange(trace.examples)
    best = answers(trace.own(losses.reference))
    expected = {}
    for stage in trace.graph.order:
        own = answers(trace.scores[stage])
        # both right or both wrong where they answer alike; else each is right with its probability
        lost = np.where(own == best, 0.0, probable[rows, best])
        gained = np.where(own == best, 0.0, probable[rows, own])
        mean = lost - gained if losses.kind == "net" else lost
        mean = _calibrated(mean, real[stage], own != best)
        expected[stage] = SHARE * mean + (1 - SHARE) * real[stage]
    return expected


def _calibrated(mean: FloatArray, real: FloatArray, differ: AnyArray) -> FloatArray:
    """Expectations corrected by the real losses, where answers differ, as far as those tell.

    A model of the label learned from few examples is too sure, and not equally so of every stage:
    policies would prefer the stages that it flatters. Its bias and slope are estimated and shrunk
    to none: of few examples, real losses say less than the model does.
    """
    if differ.sum() < _FEWEST_CHANGES:
        return mean
    x, y = mean[differ], real[differ]
    away, spread = x - x.mean(), max(float(x.var()), 1e-12)
    slope = float(away @ y) / (spread * len(x))
    slope = 1.0 + _weight(_SLOPE, y.std() / np.sqrt(spread * len(x))) * (slope - 1.0)
    bias = _weight(_BIAS, real.std() / np.sqrt(len(real))) * (y.mean() - x.mean())
    found = mean.copy()
    found[differ] = np.clip(x.mean() + bias + np.clip(slope, 0.0, 1.0) * away, -1.0, 1.0)
    return found


def _weight(prior: float, noise: float) -> float:
    """What data count whose noise is so large, against a prior of that width."""
    return float(prior**2 / (prior**2 + noise**2))


def _posterior(trace: Trace, labels: IntArray, folds: IntArray) -> FloatArray:
    """As `_modelled`, found once for the last examples: many graphs are tried on the same."""
    key = _key(trace, labels, folds)
    if (known := _found.get(key)) is not None:
        return known
    found = _modelled(trace, labels, folds)
    while _found and found.size + sum(each.size for each in _found.values()) > _KEPT:
        _found.pop(next(iter(_found)))
    _found[key] = found
    return found


def _key(trace: Trace, labels: IntArray, folds: IntArray) -> str:
    """What tells examples and their folds from others."""
    digest = hashlib.blake2b(repr((sorted(trace.scores), trace.classes)).encode())
    for stage in sorted(trace.scores):
        digest.update(repr(trace.alone_kinds.get(stage, trace.kinds[stage])).encode())
        digest.update(np.ascontiguousarray(trace.own(stage)).data)
    digest.update(np.ascontiguousarray(labels).data)
    digest.update(np.ascontiguousarray(folds).data)
    return digest.hexdigest()


def _modelled(trace: Trace, labels: IntArray, folds: IntArray) -> FloatArray:
    """The probability of each class given the scores of all stages, out of fold.

    The likelier of two: the pool of what all stages say, and a logistic model beside it, which
    needs more examples and finds what networks that meet other inputs confuse.
    """
    logs = np.stack([np.maximum(trace.own_log_probabilities(s), SMALLEST) for s in trace.scores])
    said = None
    if trace.classes <= tasks.FEW_CLASSES:
        said = StandardScaler().fit_transform(np.hstack(list(np.maximum(logs, _SMALLEST))))
    pooled, beside = (np.zeros((trace.examples, trace.classes)) for _ in range(2))
    for fold in np.unique(folds):
        held = folds == fold
        rows = sampled(np.flatnonzero(~held), list(logs), int(fold))
        total = np.tensordot(pool_weights(logs[:, rows], labels[rows]), logs, 1)
        pool = tasks.log_probabilities(total, "logits")
        pooled[held] = np.exp(pool[held])
        if said is not None:
            features = np.hstack([_POOL * np.maximum(pool, _SMALLEST), said])
            beside[held] = _classes(features[~held], labels[~held], features[held], trace.classes)
    rows = np.arange(trace.examples)
    return max(pooled, beside, key=lambda p: np.log(np.maximum(p[rows, labels], _TINY)).mean())


def _classes(
    features: FloatArray, labels: IntArray, others: FloatArray, classes: int
) -> FloatArray:
    """What a logistic model says of other examples, (others, classes)."""
    known = np.unique(labels)
    found = np.zeros((len(others), classes))
    if len(known) == 1:
        found[:, known[0]] = 1.0
        return found
    model = LogisticRegression(C=_STRENGTH, max_iter=_STEPS)
    with warnings.catch_warnings():  # the last digits of the optimum do not matter
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, labels)
    found[:, known] = model.predict_proba(others)
    return found
