"""Numbers that sum up what a stage says: how sure it is, and who agrees with it."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

from offramp.base.arrays import FloatArray
from offramp.core.policy import Seen
from offramp.core.tasks import FEW_CLASSES
from offramp.core.tasks import confidence as confidence

SUMS = 5  # numbers that sum up the probabilities, before the probabilities themselves
LOWEST = -30.0  # of logarithms of probabilities: a class may be impossible
SURE = 1e-6  # where other classes get less than that together, no more is made of it


def margin(log_probabilities: FloatArray) -> FloatArray:
    """The highest minus the second highest probability, (n,)."""
    top = np.exp(np.partition(log_probabilities.astype(np.float64), -2, axis=1)[:, -2:])
    return np.asarray(top[:, 1] - top[:, 0])


def negative_entropy(log_probabilities: FloatArray) -> FloatArray:
    """Minus the entropy in nats, (n,): larger is surer."""
    values = log_probabilities.astype(np.float64)
    return np.asarray((np.exp(values) * values).sum(axis=1))


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
    columns = (sure, margin(logs), negative_entropy(logs), negative_entropy(squared), surest)
    return np.column_stack(columns)


def observations(seen: Seen, stage: str | None = None) -> FloatArray:
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
