"""What published gates look at: a few numbers that sum up what a stage says."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from offramp.arrays import FloatArray, IntArray
from offramp.policies.protocol import Seen
from offramp.policies.rules import confidence, margin, negative_entropy

_CLASSES = 64  # with more classes the probabilities themselves are no features
_STRENGTH = 1.0  # inverse penalty of logistic regression


def sureness(seen: Seen, stage: str | None = None) -> FloatArray:
    """Highest probability, margin, minus the entropy and, of classes, all probabilities.

    (n, 3), or (n, 3 + classes) where there are few enough classes.
    """
    logs = seen.log_probabilities(stage)
    columns = [confidence(logs), margin(logs), negative_entropy(logs)]
    if logs.shape[1] <= _CLASSES:
        columns += list(np.exp(logs.astype(np.float64)).T)
    return np.column_stack(columns)


def votes(seen: Seen, observed: tuple[str, ...]) -> FloatArray:
    """The share of the stages so far that answer as the present one, (n, 1)."""
    present = seen.answers()
    alike = np.mean([seen.answers(stage) == present for stage in observed], axis=0)
    return np.asarray(alike)[:, None]


def logistic(
    features: FloatArray, target: IntArray, weight: FloatArray | None = None
) -> FloatArray:
    """Constant and slopes of a logistic regression of a 0/1 target, (1 + features,).

    One class alone, or no weight at all, gives its chance for everyone.
    """
    weight = np.ones(len(target)) if weight is None else weight
    told = weight > 0
    share = float(np.average(target, weights=weight)) if told.any() else 0.5
    slopes = np.zeros(1 + features.shape[1])
    if not told.any() or len(np.unique(target[told])) < 2:
        slopes[0] = _logit(share)
        return slopes
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    model = LogisticRegression(C=_STRENGTH, max_iter=200)
    with warnings.catch_warnings():  # the last digits of the optimum do not matter
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit((features[told] - centre) / spread, target[told], sample_weight=weight[told])
    slopes[1:] = model.coef_[0] / spread
    slopes[0] = model.intercept_[0] - centre @ slopes[1:]
    return slopes


def _logit(share: float) -> float:
    share = min(max(share, 1e-3), 1 - 1e-3)
    return float(np.log(share / (1 - share)))
