"""What published gates look at: a few numbers that sum up what a stage says, and their learner."""

from __future__ import annotations

import warnings

import numpy as np
from scipy.linalg import LinAlgWarning
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from offramp.base.arrays import FloatArray
from offramp.core.policy import Seen
from offramp.core.tasks import FEW_CLASSES
from offramp.policies.features import SURE
from offramp.policies.rules import confidence, margin, negative_entropy

SUMS = 5  # numbers that sum up the probabilities, before the probabilities themselves
LOWEST = -30.0  # of logarithms of probabilities: a class may be impossible
_STRENGTH = 1.0  # inverse penalty of logistic regression
_SHRUNK = 0.1  # what the many probabilities of classes count, before one penalty acts on all


def summary(seen: Seen, stage: str | None = None) -> FloatArray:
    """Numbers that sum up the probabilities, (n, 5).

    Highest probability, margin, minus the entropy, and that of the squared probabilities, which
    looks at the few highest alone (all of Regol et al. 2024, section 4); and minus the logarithm of
    what the other classes get, without which networks that are too sure of everything look alike.
    """
    logs = np.maximum(seen.log_probabilities(stage).astype(np.float64), LOWEST)
    sure = confidence(logs)
    surest = -np.log(np.maximum(1.0 - sure, SURE))
    squared = 2 * logs - logsumexp(2 * logs, axis=1, keepdims=True)
    found = (sure, margin(logs), negative_entropy(logs), negative_entropy(squared), surest)
    return np.column_stack(found)


def sureness(seen: Seen, stage: str | None = None) -> FloatArray:
    """The summary and, of classes, all probabilities.

    (n, 5), or (n, 5 + classes) where there are few enough classes.
    """
    probable = seen.probabilities(stage)
    few = probable.shape[1] <= FEW_CLASSES
    return np.hstack([summary(seen, stage), *([probable] if few else [])])


def agreeing(seen: Seen, observed: tuple[str, ...]) -> FloatArray:
    """1 for each of some stages that answers as the present one, else 0, (n, observed)."""
    present = seen.answers()
    alike = np.array([seen.answers(stage) == present for stage in observed], dtype=np.float64)
    return alike.reshape(len(observed), len(present)).T


def scales(width: int, classes: int, stages: int = 1) -> FloatArray:
    """How much each of `width` columns counts before the penalty acts, (width,).

    The columns begin with the sureness of `stages` stages; only probabilities of classes are
    shrunk, of which there are many and of which few say something.
    """
    one = [1.0] * SUMS + [_SHRUNK] * (classes if classes <= FEW_CLASSES else 0)
    return np.array(one * stages + [1.0] * (width - stages * len(one)))


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
    rows = [np.flatnonzero(side) for side in sides]
    mass = np.concatenate([side[row] for side, row in zip(sides, rows, strict=True)])
    centre, spread = features.mean(axis=0), features.std(axis=0)
    spread = np.where(spread > 1e-9, spread, 1.0) / scale
    model = LogisticRegression(C=_STRENGTH, max_iter=100, solver="newton-cholesky")
    with warnings.catch_warnings():  # the last digits of the optimum do not matter
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", LinAlgWarning)
        model.fit(
            (features[np.concatenate(rows)] - centre) / spread,
            np.repeat([1, 0], [len(row) for row in rows]),
            sample_weight=mass / mass.mean(),
        )
    slopes[1:] = model.coef_[0] / spread
    slopes[0] = model.intercept_[0] - centre @ slopes[1:]
    return slopes


def scores(features: FloatArray, weights: FloatArray) -> FloatArray:
    """Logits of linear models (models, 1 + features), (n, models)."""
    return np.asarray(weights[:, 0] + features @ weights[:, 1:].T)


def _logit(share: float) -> float:
    share = min(max(share, 1e-3), 1 - 1e-3)
    return float(np.log(share / (1 - share)))
