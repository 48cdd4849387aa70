"""What the label probably is, given all that every stage said: labels of less noise to learn from.

A stage's excess loss on one example is 1, 0 or -1, mostly by the luck of that label. Its
expectation given the scores of all stages has the same mean given what a policy observes, and far
less noise (Rao and Blackwell), so policies learn from that instead. It is cross-fitted, and only
learning uses it: certificates and reports count real losses.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from offramp.arrays import FloatArray, IntArray
from offramp.tasks import Losses, answers
from offramp.trace import Trace

SHARE = 0.8  # of the expectation; the rest is the real loss, should the model of the label be wrong
_CLASSES = 64  # with more classes there are too few labels of each
_FEWEST = 200  # examples that the model of the label is worth learning from
_SMALLEST = -8.0  # log-probabilities below say the same
_STRENGTH = 0.1  # inverse penalty; anything from 0.01 to 1 does as well


def expected_excess(trace: Trace, losses: Losses, folds: IntArray) -> Mapping[str, FloatArray]:
    """The excess loss of every stage to learn from, (examples,) each, in [-1, 1].

    Args:
        trace: with labels, or without: then the real losses are returned.
        losses: only top-1 losses are replaced.
        folds: (examples,): each example's label is predicted by a model of the other folds.
    """
    real = {stage: losses.excess(stage).astype(np.float64) for stage in trace.graph.order}
    few = trace.examples < _FEWEST or trace.classes > _CLASSES
    if losses.name != "top1" or trace.labels is None or few:
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
        expected[stage] = SHARE * mean + (1 - SHARE) * real[stage]
    return expected


def _posterior(trace: Trace, labels: IntArray, folds: IntArray) -> FloatArray:
    """The probability of each class given the scores of all stages, out of fold."""
    said = np.hstack(
        [np.maximum(trace.log_probabilities(stage), _SMALLEST) for stage in trace.graph.order]
    )
    said = StandardScaler().fit_transform(said)
    probable = np.zeros((trace.examples, trace.classes))
    for fold in np.unique(folds):
        held = folds == fold
        known = np.unique(labels[~held])
        if len(known) == 1:
            probable[held, known[0]] = 1.0
            continue
        model = LogisticRegression(C=_STRENGTH, max_iter=100)
        with warnings.catch_warnings():  # the last digits of the optimum do not matter
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(said[~held], labels[~held])
        probable[np.ix_(held, known)] = model.predict_proba(said[held])
    return probable
