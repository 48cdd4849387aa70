"""How the learned policy regresses: ridge on blocks of features, or a small network beside it.

Which blocks count is found by adding them one after another where the leave-one-out error falls by
more than its noise, so that few examples give few features.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from offramp.base.arrays import FloatArray, IntArray

_PENALTIES = np.geomspace(1e-1, 1e5, 7)  # ridge penalties to choose from
_SCALES = (0.03, 0.1, 0.3, 1.0)  # of a block of features, besides 0
_SWEEPS = 2
_SURE = 0.5  # standard errors that a block must lower the error by
_TINY = 1e-9
_DECAY = 10.0  # weight decay of the small network, over the examples
_STEPS = 60
_HALVES = 2


@dataclass(frozen=True)
class Hidden:
    """The hidden units of a small network: rectified linear functions of the features."""

    weights: FloatArray  # (features, units)
    bias: FloatArray  # (units,)
    out: FloatArray  # (units, outputs): what each adds to each output

    @property
    def before(self) -> FloatArray:
        """What is rectified, as linear functions of the features, (units, 1 + features)."""
        return np.column_stack([self.bias, self.weights.T])

    def __call__(self, phi: FloatArray) -> FloatArray:
        """What they add to each output, (n, outputs)."""
        return np.asarray(np.maximum(phi @ self.weights + self.bias, 0.0) @ self.out)

    def ordered(self, successors: int) -> Hidden:
        """With outputs by successor, then loss and cost, instead of losses first."""
        out = self.out.reshape(len(self.out), 2, successors, 2).transpose(0, 2, 1, 3)
        return replace(self, out=out.reshape(len(self.out), -1))


@dataclass(frozen=True)
class Fitted:
    """What a regression found."""

    blocks: tuple[str, ...]  # those that count
    weights: FloatArray  # (1 + features, outputs), constant first; 0 for blocks that do not count
    held_out: FloatArray  # (n, outputs): predictions, each by a model of other folds
    hidden: Hidden | None = None


@dataclass(frozen=True)
class Regression:
    """Ridge regression, with hidden units of a small network beside the features if asked for."""

    units: int = 0
    seed: int = 0

    def fit(
        self, phi: FloatArray, targets: FloatArray, blocks: Mapping[str, int], folds: IntArray
    ) -> Fitted:
        """Learns (n, outputs) `targets` from centred and scaled features.

        Args:
            phi: (n, features).
            targets: (n, outputs).
            blocks: name -> number of features, in the order of the columns.
            folds: (n,) numbers, for predictions of examples that were not learned from.
        """
        if self.units:
            return self._with_hidden(phi, targets, blocks, folds)
        ridge = Ridge.tune(phi, targets, blocks)
        held_out = np.empty_like(targets)
        for fold in np.unique(folds):
            held = folds == fold
            weights = ridge.fit(phi[~held], targets[~held])
            held_out[held] = weights[0] + phi[held] @ weights[1:]
        return Fitted(ridge.blocks, ridge.fit(phi, targets), held_out)

    def _with_hidden(
        self, phi: FloatArray, targets: FloatArray, blocks: Mapping[str, int], folds: IntArray
    ) -> Fitted:
        """All features, and hidden units that are learned together with what they add."""
        held_out = np.empty_like(targets)
        for fold in range(_HALVES):  # fewer folds: networks take their time
            held = folds % _HALVES == fold
            weights, hidden = self._network(phi[~held], targets[~held])
            linear = weights[0] + phi[held] @ weights[1:]
            held_out[held] = linear + hidden(phi[held])
        weights, hidden = self._network(phi, targets)
        return Fitted(tuple(blocks), weights, held_out, hidden)

    def _network(self, phi: FloatArray, targets: FloatArray) -> tuple[FloatArray, Hidden]:
        """Ridge regression, and a small network of what it leaves unexplained."""
        penalty = _leave_one_out(phi, targets)[1]
        weights = Ridge(np.ones(phi.shape[1]), penalty).fit(phi, targets)
        rest = targets - weights[0] - phi @ weights[1:]
        spread = np.maximum(rest.std(axis=0), _TINY)
        network = MLPRegressor(
            hidden_layer_sizes=(self.units,),
            solver="lbfgs",
            alpha=_DECAY,
            max_iter=_STEPS,
            random_state=self.seed,
        )
        with warnings.catch_warnings():  # stopping early is meant
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(phi, rest / spread)
        (first, second), (bias, constant) = network.coefs_, network.intercepts_
        weights[0] += constant * spread
        return weights, Hidden(first, bias, second * spread)


@dataclass(frozen=True)
class Ridge:
    """Ridge regression with a penalty of its own for each block of features.

    A block's scale multiplies its features before one common penalty acts: 0 leaves it out.
    """

    scales: FloatArray  # (features,)
    penalty: float
    blocks: tuple[str, ...] = ()  # those that are not left out

    @classmethod
    def tune(cls, phi: FloatArray, targets: FloatArray, blocks: Mapping[str, int]) -> Ridge:
        """Blocks are added to the first where they lower the leave-one-out error, at some scale."""
        sizes = list(blocks.values())
        chosen = [1.0] + [0.0] * (len(sizes) - 1)
        best = _leave_one_out(phi * np.repeat(chosen, sizes), targets)
        for _, block in product(range(_SWEEPS), range(1, len(sizes))):
            for scale in _SCALES:
                if scale == chosen[block]:
                    continue
                tried = [*chosen[:block], scale, *chosen[block + 1 :]]
                error = _leave_one_out(phi * np.repeat(tried, sizes), targets)
                gain = best[0] - error[0]
                if gain.mean() > _SURE * gain.std() / np.sqrt(len(gain)):
                    best, chosen = error, tried
        kept = tuple(name for name, scale in zip(blocks, chosen, strict=True) if scale)
        return cls(np.repeat(chosen, sizes), best[1], kept)

    def fit(self, phi: FloatArray, targets: FloatArray) -> FloatArray:
        """The coefficients of each column of `targets`, (1 + features, columns), constant first."""
        centre, middle = phi.mean(axis=0), targets.mean(axis=0)
        scaled = (phi - centre) * self.scales
        gram = scaled.T @ scaled + self.penalty * np.eye(scaled.shape[1])
        slopes = self.scales[:, None] * np.linalg.solve(gram, scaled.T @ (targets - middle))
        return np.vstack([middle - centre @ slopes, slopes])


def _leave_one_out(phi: FloatArray, targets: FloatArray) -> tuple[FloatArray, float]:
    """The leave-one-out error of each example, (n,), at the penalty where their mean is smallest.

    Closed form; errors are squared, in units of each target's variance.
    """
    phi = phi[:, (phi != 0).any(axis=0)]
    y = targets - targets.mean(axis=0)
    y = y / np.maximum(y.std(axis=0), _TINY)
    centred = phi - phi.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    values = np.maximum(values, 0.0)
    rotated = centred @ vectors
    squared, projected = rotated**2, rotated.T @ y
    best: tuple[FloatArray, float] | None = None
    for penalty in _PENALTIES:
        leverage = 1 / len(phi) + squared @ (1 / (values + penalty))
        residual = y - rotated @ (projected / (values + penalty)[:, None])
        errors = (residual / (1 - np.minimum(leverage, 0.999))[:, None]) ** 2
        each = errors.mean(axis=1)
        if best is None or each.mean() < best[0].mean():
            best = (each, float(penalty))
    assert best is not None
    return best
