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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from threadpoolctl import threadpool_limits

from offramp.answering.posterior import expected_excess
from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.policy import STOP, Seen
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.policies.features import BLOCKS, Features, Linear
from offramp.policies.regression import Hidden, Regression
from offramp.policies.rules import TRADEOFFS, seen_by_all

FOLDS = 5
SAMPLE = 50_000  # larger learning sets are sampled
UNITS = 8  # hidden ones of a small network
_GRID = np.geomspace(1.2, 1000.0, 40)  # tradeoffs that the learning set is stacked over


@dataclass(frozen=True)
class Model:
    """What one stage has learned: for each successor u, two functions of (phi, log t * phi).

    The first is the excess loss of going on to u instead of stopping, the second the cost still to
    pay, divided by the reference's. They are linear, plus what hidden units add where there are
    any.
    """

    features: Features
    loss: FloatArray  # (successors, 2, 1 + features): constant term first; for phi and log t * phi
    cost: FloatArray  # (successors, 2, 1 + features)
    hidden: Hidden | None = None

    @cached_property
    def weights(self) -> FloatArray:
        """(successors, 4, 1 + features): of loss and cost, on phi and on log t * phi."""
        both = np.stack([self.loss, self.cost], axis=1)
        return both.reshape(len(both), 4, -1)

    @cached_property
    def linear(self) -> Linear:
        """Both functions of all successors at once, (successors * 4) outputs."""
        return Linear.fold(self.features, self.weights.reshape(-1, self.weights.shape[-1]))

    @cached_property
    def rectified(self) -> Linear | None:
        """What the hidden units rectify, (units) outputs."""
        return Linear.fold(self.features, self.hidden.before) if self.hidden else None

    def __call__(self, seen: Seen) -> FloatArray:
        """Loss and cost of each successor, against stopping: (n, successors * 4)."""
        parts = self.features.parts(seen)
        found = self.linear(parts)
        if self.hidden is not None and self.rectified is not None:
            found += np.maximum(self.rectified(parts), 0.0) @ self.hidden.out
        return found


@dataclass(frozen=True)
class Learned:
    """Takes the action whose predicted `tradeoff * excess loss + cost` is lowest."""

    graph: Graph
    settings: FloatArray  # tradeoffs, safest first
    models: Mapping[str, Model]  # of every stage with a successor
    kind: str = "learned"  # or network: with hidden units

    @classmethod
    def fit(
        cls,
        trace: Trace,
        losses: Losses,
        *,
        units: int = 0,
        blocks: Collection[str] = BLOCKS,
        seed: int = 0,
    ) -> Learned:
        """The policy learned from a trace; more than 50,000 examples are sampled.

        Args:
            trace: examples that trained none of the networks.
            losses: what stopping costs, and which kind of excess counts.
            units: hidden ones of each stage's small network; 0: linear functions.
            blocks: of features to choose from (`features.BLOCKS`).
            seed: of the folds, the sample and the hidden units.

        Source: Bolukbasi et al. 2017, section 3, with regression of both parts of the cost-to-go.
        """
        if trace.examples > SAMPLE:
            rows = trace.sample(SAMPLE, seed)
            trace, losses = trace.take(rows), losses.take(rows)
        with threadpool_limits(1):  # small matrices: on a busy machine threads only wait
            models = _Learner(trace, losses, Regression(units, seed), tuple(blocks), seed).learn()
        return cls(trace.graph, TRADEOFFS, models, "network" if units else "learned")

    def evidence(self, seen: Seen) -> FloatArray:
        """Loss and cost of each successor, against stopping: (n, successors * 4)."""
        return self.models[seen.stage](seen)

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

    def __init__(
        self,
        trace: Trace,
        losses: Losses,
        regression: Regression,
        blocks: tuple[str, ...],
        seed: int,
    ) -> None:
        self.trace, self.graph, self.regression = trace, trace.graph, regression
        self.blocks = blocks
        self.folds = np.random.default_rng(seed).permutation(trace.examples) % FOLDS
        self.excess = expected_excess(trace, losses, self.folds)

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
        seen = seen_by_all(self.trace, stage)
        everything = Features.fit(self.graph, seen, self.blocks)
        targets = np.concatenate(
            [_on_basis(y - stop) for y in losses[1:]] + [_on_basis(y) for y in costs[1:]], axis=1
        )
        fitted = self.regression.fit(everything(seen), targets, everything.blocks, self.folds)
        features, kept = everything.only(fitted.blocks)
        weights = fitted.weights[np.append(True, kept)].T.reshape(2, len(losses) - 1, 2, -1)
        hidden = fitted.hidden and fitted.hidden.ordered(len(losses) - 1)
        model = Model(features, weights[0], weights[1], hidden)
        action = _actions(fitted.held_out)
        return model, (np.choose(action, losses), np.choose(action, costs))


def _actions(predicted: FloatArray) -> IntArray:
    """The action at every tradeoff of the grid, (n, tradeoffs), from predictions of all targets."""
    evidence = predicted.reshape(len(predicted), 2, -1, 2).transpose(0, 2, 1, 3)
    flat = evidence.reshape(len(predicted), -1)
    return np.stack([decide(flat, t) for t in _GRID], axis=1)


def _on_basis(values: FloatArray) -> FloatArray:
    """(n, tradeoffs) as (n, 2): the least-squares constant and slope in log t."""
    basis = np.column_stack([np.ones_like(_GRID), np.log(_GRID)])
    return np.asarray(values @ np.linalg.pinv(basis).T)
