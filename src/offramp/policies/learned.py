"""The learned policy: cost-sensitive decisions, trained from the leaves to the root.

At every stage two things are regressed for each action on what has been observed: the excess loss
with which the walk will end, and the cost it will still pay. The action with the lowest
`tradeoff * loss + cost` is taken. This is the regression form of cost-sensitive classification,
and the reduction of Bolukbasi et al. 2017 (section 3) for any graph: early exit and network
selection differ only in it.

Both regressions see (phi, log t * phi), so one set of coefficients serves every tradeoff t.
Downstream decisions are out of fold for the examples that upstream stages learn from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from threadpoolctl import threadpool_limits

from offramp.arrays import FloatArray, IntArray
from offramp.graph import Graph
from offramp.policies.features import Features, Linear
from offramp.policies.posterior import expected_excess
from offramp.policies.protocol import STOP, Seen
from offramp.policies.rules import TRADEOFFS
from offramp.tasks import Losses
from offramp.trace import Trace

FOLDS = 5
SAMPLE = 50_000  # larger learning sets are sampled
_GRID = np.geomspace(1.2, 1000.0, 40)  # tradeoffs that the learning set is stacked over
_PENALTIES = np.geomspace(1e-1, 1e5, 13)  # ridge penalties to choose from
_SCALES = (0.3, 0.1, 0.03, 0.0)  # of a block of features, besides 1
_SWEEPS = 2


@dataclass(frozen=True)
class Model:
    """What one stage has learned: for each successor u, two linear functions of (phi, log t * phi).

    The first is the excess loss of going on to u instead of stopping, the second the cost still to
    pay, divided by the reference's.
    """

    features: Features
    loss: FloatArray  # (successors, 2, 1 + features): constant term first; for phi and log t * phi
    cost: FloatArray  # (successors, 2, 1 + features)

    @cached_property
    def weights(self) -> FloatArray:
        """(successors, 4, 1 + features): of loss and cost, on phi and on log t * phi."""
        both = np.stack([self.loss, self.cost], axis=1)
        return both.reshape(len(both), 4, -1)

    @cached_property
    def linear(self) -> Linear:
        """Both functions of all successors at once, (successors * 4) outputs."""
        return Linear.fold(self.features, self.weights.reshape(-1, self.weights.shape[-1]))


@dataclass(frozen=True)
class Learned:
    """Takes the action whose predicted `tradeoff * excess loss + cost` is lowest."""

    graph: Graph
    settings: FloatArray  # tradeoffs, safest first
    models: Mapping[str, Model]  # of every stage with a successor
    kind: str = "learned"

    @classmethod
    def fit(cls, trace: Trace, losses: Losses, *, seed: int = 0) -> Learned:
        """The policy learned from a trace; more than 50,000 examples are sampled.

        Args:
            trace: examples that trained none of the networks.
            losses: what stopping costs, and which kind of excess counts.
            seed: of the folds and the sample.

        Source: Bolukbasi et al. 2017, section 3, with regression of both parts of the cost-to-go.
        """
        if trace.examples > SAMPLE:
            rows = np.random.default_rng(seed).choice(trace.examples, SAMPLE, replace=False)
            rows.sort()
            trace, losses = trace.take(rows), losses.take(rows)
        with threadpool_limits(1):  # small matrices: on a busy machine threads only wait
            return cls(trace.graph, TRADEOFFS, _Learner(trace, losses, seed).learn())

    def evidence(self, seen: Seen) -> FloatArray:
        """Loss and cost of each successor, against stopping: (n, successors * 4)."""
        model = self.models[seen.stage]
        return model.linear(model.features.parts(seen))

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        """As `decide`; a setting beyond the learned tradeoffs counts as the nearest of them."""
        return decide(evidence, min(max(setting, self.settings[-1]), self.settings[0]))


def decide(evidence: FloatArray, tradeoff: float) -> IntArray:
    """The action with the lowest predicted cost-to-go, (n,); stopping wins ties."""
    going = evidence.reshape(len(evidence), -1, 4) @ bases(tradeoff)
    if going.shape[1] == 1:  # most stages: no choice among successors to make
        return np.asarray(going[:, 0] < 0, dtype=np.int64)
    return np.where(going.min(axis=1) < 0, going.argmin(axis=1) + 1, STOP)


@lru_cache(maxsize=256)
def bases(tradeoff: float) -> FloatArray:
    """What loss, log t * loss, cost and log t * cost count in the cost-to-go, (4,)."""
    log_t = math.log(tradeoff)
    return np.array([tradeoff, tradeoff * log_t, 1.0, log_t])


class _Learner:
    """Works from the leaves to the root; (n, tradeoffs) arrays hold the realised cost-to-go."""

    def __init__(self, trace: Trace, losses: Losses, seed: int) -> None:
        self.trace, self.graph = trace, trace.graph
        self.folds = np.random.default_rng(seed).permutation(trace.examples) % FOLDS
        self.excess = expected_excess(trace, losses, self.folds)
        self.rows = np.arange(trace.examples)

    def learn(self) -> dict[str, Model]:
        models = {}
        ahead: dict[str, tuple[FloatArray, FloatArray]] = {}
        for stage in reversed(self.graph.order):
            stop = np.repeat(self.excess[stage][:, None], len(_GRID), axis=1)
            ahead[stage] = (stop, np.zeros_like(stop))
            if self.graph.successors[stage]:
                models[stage], ahead[stage] = self._learn_stage(stage, ahead)
        return models

    def _learn_stage(
        self, stage: str, ahead: Mapping[str, tuple[FloatArray, FloatArray]]
    ) -> tuple[Model, tuple[FloatArray, FloatArray]]:
        """The model of a stage, and the loss and cost with which walks from it end."""
        run = self.graph.ran(stage)
        stop, nothing = ahead[stage]
        losses, costs = [stop], [nothing]
        for successor in self.graph.successors[stage]:
            step = self.graph.step_cost(self.trace.costs, successor, run)
            losses.append(ahead[successor][0])
            costs.append(ahead[successor][1] + step / self.trace.reference_cost)
        said = {v: (self.rows, self.trace.scores[v]) for v in self.graph.observed[stage]}
        seen = Seen(stage, self.rows, said, self.trace.kinds)
        features = Features.fit(self.graph, seen)
        phi = features(seen)
        targets = np.concatenate(
            [_on_basis(y - stop) for y in losses[1:]] + [_on_basis(y) for y in costs[1:]], axis=1
        )
        ridge = _Ridge.tune(phi, targets, features.blocks)
        action = self._out_of_fold(ridge, phi, targets)
        weights = ridge.fit(phi, targets).T.reshape(2, len(losses) - 1, 2, -1)
        model = Model(features, weights[0], weights[1])
        taken = (np.choose(action, losses), np.choose(action, costs))
        return model, taken

    def _out_of_fold(self, ridge: _Ridge, phi: FloatArray, targets: FloatArray) -> IntArray:
        """The action at every tradeoff of the grid, each example's by a model that never saw it."""
        action = np.empty((len(phi), len(_GRID)), dtype=np.int64)
        for fold in range(FOLDS):
            held = self.folds == fold
            weights = ridge.fit(phi[~held], targets[~held])
            predicted = weights[0] + phi[held] @ weights[1:]
            evidence = predicted.reshape(len(predicted), 2, -1, 2).transpose(0, 2, 1, 3)
            flat = evidence.reshape(len(predicted), -1)
            action[held] = np.stack([decide(flat, t) for t in _GRID], axis=1)
        return action


def _on_basis(values: FloatArray) -> FloatArray:
    """(n, tradeoffs) as (n, 2): the least-squares constant and slope in log t."""
    basis = np.column_stack([np.ones_like(_GRID), np.log(_GRID)])
    return np.asarray(values @ np.linalg.pinv(basis).T)


@dataclass(frozen=True)
class _Ridge:
    """Ridge regression with a penalty of its own for each block of features.

    A block's scale multiplies its features before one common penalty acts: 0 leaves it out.
    """

    scales: FloatArray  # (features,)
    penalty: float

    @classmethod
    def tune(cls, phi: FloatArray, targets: FloatArray, blocks: tuple[int, ...]) -> _Ridge:
        """The scales and the penalty with the smallest leave-one-out error, block after block."""
        chosen = [1.0] * len(blocks)
        best = _leave_one_out(phi, targets)
        for _, block in product(range(_SWEEPS), range(1, len(blocks))):
            for scale in _SCALES:
                tried = [*chosen[:block], scale, *chosen[block + 1 :]]
                found = _leave_one_out(phi * np.repeat(tried, blocks), targets)
                if found < best:
                    best, chosen = found, tried
        return cls(np.repeat(chosen, blocks), best[1])

    def fit(self, phi: FloatArray, targets: FloatArray) -> FloatArray:
        """The coefficients of each column of `targets`, (1 + features, columns), constant first."""
        centre, middle = phi.mean(axis=0), targets.mean(axis=0)
        scaled = (phi - centre) * self.scales
        gram = scaled.T @ scaled + self.penalty * np.eye(scaled.shape[1])
        slopes = self.scales[:, None] * np.linalg.solve(gram, scaled.T @ (targets - middle))
        return np.vstack([middle - centre @ slopes, slopes])


def _leave_one_out(phi: FloatArray, targets: FloatArray) -> tuple[float, float]:
    """The smallest leave-one-out error of ridge regression, in closed form, and its penalty."""
    y = targets - targets.mean(axis=0)
    y = y / np.maximum(y.std(axis=0), 1e-9)
    values, vectors = np.linalg.eigh((phi - phi.mean(axis=0)).T @ (phi - phi.mean(axis=0)))
    values = np.maximum(values, 0.0)
    rotated = (phi - phi.mean(axis=0)) @ vectors
    squared, projected = rotated**2, rotated.T @ y
    errors = []
    for penalty in _PENALTIES:
        leverage = 1 / len(phi) + squared @ (1 / (values + penalty))
        residual = y - rotated @ (projected / (values + penalty)[:, None])
        left_out = residual / (1 - np.minimum(leverage, 0.999))[:, None]
        errors.append((float((left_out**2).mean()), float(penalty)))
    return min(errors)
