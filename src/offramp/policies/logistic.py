"""Logistic regression, as published gates and routers learn."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from offramp.base.arrays import FloatArray
from offramp.core.tasks import FEW_CLASSES
from offramp.policies.statistics import SUMS

_STRENGTH = 1.0  # inverse penalty of logistic regression
_SHRUNK = 0.1  # what the many probabilities of classes count, before one penalty acts on all


def column_weights(width: int, classes: int, stages: int = 1) -> FloatArray:
    """How much each of `width` columns counts before the penalty acts, (width,).

    The columns begin with the observations of `stages` stages; only probabilities of classes are
    shrunk, of which there are many and of which few say something.
    """
    each = [1.0] * SUMS + [_SHRUNK] * (classes if classes <= FEW_CLASSES else 0)
    return np.array(each * stages + [1.0] * (width - stages * len(each)))


def logistic(
    features: FloatArray,
    chance: FloatArray,
    weight: FloatArray | None = None,
    scale: FloatArray | float = 1.0,
) -> FloatArray:
    """Constant and slopes of a logistic regression, (1 + features,).

    Args:
        features: (n, features).
        chance: (n,) in [0, 1]; mostly 0 or 1.
        weight: (n,) of at least 0; None: all alike.
        scale: (features,), of the standardised features before the penalty acts.

    One class alone, or no weight at all, gives its chance for everyone.
    """
    weight = np.ones(len(chance)) if weight is None else weight
    # a chance between counts as so much of a success, and the rest of a failure
    sides = (weight * chance, weight * (1.0 - chance))
    totals = [float(side.sum()) for side in sides]
    slopes = np.zeros(1 + features.shape[1])
    if min(totals) <= 0:
        slopes[0] = _logit(totals[0] / sum(totals) if sum(totals) > 0 else 0.5)
        return slopes
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0) / scale
    model = _fitted((features - centre) / spread, sides)
    slopes[1:] = model.coef_[0] / spread
    slopes[0] = model.intercept_[0] - centre @ slopes[1:]
    return slopes


def _fitted(features: FloatArray, sides: tuple[FloatArray, FloatArray]) -> LogisticRegression:
    """On examples that count as successes and as failures with so much weight, (n,) each."""
    rows = [np.flatnonzero(side) for side in sides]
    mass = np.concatenate([side[row] for side, row in zip(sides, rows, strict=True)])
    model = LogisticRegression(C=_STRENGTH, max_iter=100, solver="newton-cholesky")
    with warnings.catch_warnings():  # the last digits of the optimum do not matter
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", LinAlgWarning)
        model.fit(
            features[np.concatenate(rows)],
            np.repeat([1, 0], [len(row) for row in rows]),
            sample_weight=mass / mass.mean(),
        )
    return model


def log_odds(features: FloatArray, weights: FloatArray) -> FloatArray:
    """Logits of linear models (models, 1 + features), (n, models)."""
    return np.asarray(weights[:, 0] + features @ weights[:, 1:].T)


def _logit(share: float) -> float:
    share = min(max(share, 1e-3), 1 - 1e-3)
    return float(np.log(share / (1 - share)))
