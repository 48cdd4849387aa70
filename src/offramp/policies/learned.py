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
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from offramp.answering.posterior import expected_excess
from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.policy import STOP, TRADEOFFS, Seen, seen_by_all
from offramp.core.task import SINGLE
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.policies.families import ALWAYS, Family, Saved, numbers
from offramp.policies.features import BLOCKS, Features
from offramp.policies.observed import Observed
from offramp.policies.operators import LOG_PROBABILITIES, Decision, Dial, Memory, SeenTensors
from offramp.policies.regression import Hidden, Regression

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

    features: Features | Observed
    loss: FloatArray  # (successors, 2, 1 + features): constant term first; for phi and log t * phi
    cost: FloatArray  # (successors, 2, 1 + features)
    hidden: Hidden | None = None

    @cached_property
    def weights(self) -> FloatArray:
        """(successors, 4, 1 + features): of loss and cost, on phi and on log t * phi."""
        both = np.stack([self.loss, self.cost], axis=1)
        return both.reshape(len(both), 4, -1)

    @cached_property
    def linear(self) -> Any:
        """Both functions of all successors at once, (successors * 4) outputs."""
        return self.features.fold(self.weights.reshape(-1, self.weights.shape[-1]))

    @cached_property
    def rectified(self) -> Any:
        """What the hidden units rectify, (units) outputs; None without any."""
        return self.features.fold(self.hidden.before) if self.hidden else None

    def __call__(self, seen: Seen) -> FloatArray:
        """Loss and cost of each successor, against stopping: (n, successors * 4)."""
        parts = self.features.parts(seen)
        costs: FloatArray = self.linear(parts)
        if self.hidden is not None and self.rectified is not None:
            costs += np.maximum(self.rectified(parts), 0.0) @ self.hidden.out
        return costs

    def to_json(self) -> dict[str, Any]:
        value = {
            "features": self.features.to_json(),
            "loss": self.loss.tolist(),
            "cost": self.cost.tolist(),
        }
        if (hidden := self.hidden) is not None:
            parts = {"weights": hidden.weights, "bias": hidden.bias, "out": hidden.out}
            value["hidden"] = {name: part.tolist() for name, part in parts.items()}
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Model:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
        hidden, features = value.get("hidden"), value["features"]
        kind = Observed if "widths" in features else Features
        return cls(
            kind.from_json(features),
            numbers(value["loss"]),
            numbers(value["cost"]),
            hidden and Hidden(*(numbers(hidden[name]) for name in ("weights", "bias", "out"))),
        )

    def check(self, saved: Saved, stage: str) -> None:
        """Raises PlanError where the model does not fit its stage."""
        features, after = self.features, len(saved.graph.successors[stage])
        check = partial(saved.check, stage=stage)
        observed = saved.graph.observed[stage]
        if isinstance(features, Features):
            check(features.stages in (observed[-2:], observed[-1:]), "stages")
            check(saved.classes in (None, features.classes), "classes")
        else:
            check(features.stages == observed, "stages")
        width = sum(features.blocks.values())
        check(features.mean.shape == features.scale.shape == (width,), "features")
        check(float(features.scale.min()) > 0, "features")
        for weights in (self.loss, self.cost):
            check(weights.shape == (after, 2, 1 + width), "weights")
        check((self.hidden is not None) == (saved.kind == "network"), "hidden units")
        if (hidden := self.hidden) is not None:
            units = len(hidden.bias)
            check(hidden.weights.shape == (width, units), "hidden units")
            check(hidden.bias.shape == (units,), "hidden units")
            check(hidden.out.shape == (units, 4 * after), "hidden units")

    def forced(self, goes_on: bool) -> Model:
        """The first successor far cheaper than the others and than stopping, or all far dearer."""
        cost = self.cost.copy()
        rank = np.arange(len(cost), 0, -1) if goes_on else -np.ones(len(cost))
        cost[:, 0, 0] -= ALWAYS * rank
        return replace(self, cost=cost)

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        """Where rows go: the action whose cost-to-go, against stopping, is lowest."""
        scope, after = seen.scope, len(self.weights)
        value = self._value(seen, dial)
        made = {LOG_PROBABILITIES: seen.logs} if seen.task == SINGLE else {}
        if after > 1:
            return replace(Decision.lowest(scope, seen.trusted(value), after), made=made)
        least = seen.trust or scope.constant(0.0)  # nothing is at least NaN
        return Decision(scope.add("GreaterOrEqual", value, least), made=made)

    def _value(self, seen: SeenTensors, dial: Dial) -> str:
        """The cost-to-go of going on against stopping, (n,); of each action, where several.

        With several successors stopping has a column of its own, of zeros, so that one comparison
        finds the lowest, (n, actions).
        """
        scope, fixed = seen.scope, dial.given is None
        weights = np.concatenate([np.zeros((1, *self.weights.shape[1:])), self.weights])
        weights = weights[1 if len(self.weights) == 1 else 0 :]  # (columns, 4, 1 + features)
        columns = len(weights)
        if fixed:
            weights = np.einsum("k,ckf->cf", bases(dial.default), weights)
        value = self.features.fold(weights.reshape(-1, weights.shape[-1])).tensor(seen)
        if self.hidden is not None and self.rectified is not None:
            units = scope.add("Relu", self.rectified.tensor(seen))
            out = self.hidden.out.reshape(len(self.hidden.out), -1, 4)
            stop = np.zeros((len(out), columns - out.shape[1], 4))
            out = np.concatenate([stop, out], axis=1)
            added = out @ bases(dial.default) if fixed else out.reshape(len(out), -1)
            added = added[:, 0] if added.shape[1] == 1 else added
            value = scope.add("Add", value, scope.add("MatMul", units, scope.constant(added)))
        if dial.bases is None:
            return value
        if columns == 1:
            return scope.add("MatMul", value, dial.bases)
        rows = scope.add("Reshape", value, scope.integers(0, columns, 4))
        return scope.add("MatMul", rows, dial.bases)


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

    def to_json(self) -> dict[str, Any]:
        return {"models": {stage: model.to_json() for stage, model in self.models.items()}}

    @classmethod
    def from_json(cls, saved: Saved) -> Learned:
        saved.check(float(saved.settings.min()) > 0, "settings")  # their logarithm is taken
        models = {s: Model.from_json(model) for s, model in saved.values["models"].items()}
        for stage, model in saved.every(models, "model").items():
            model.check(saved, stage)
        return cls(saved.graph, saved.settings, models, saved.kind)

    def forced(self, *, goes_on: bool) -> tuple[Learned, float]:
        models = {stage: model.forced(goes_on) for stage, model in self.models.items()}
        return replace(self, models=models), 1.0

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        return self.models[seen.stage].decision(seen, dial)

    def remembered(self, stage: str) -> Memory:
        asked = [m.features.memory for m in self.models.values() if stage in m.features.stages[:-1]]
        return next((memory for memory in asked if memory), {})


LEARNED = (
    Family(name="learned", fit=Learned.fit, read=Learned.from_json, most=SAMPLE, any_task=True),
    Family(
        name="network",
        fit=partial(Learned.fit, units=UNITS),
        read=Learned.from_json,
        most=SAMPLE,
        any_task=True,
    ),
)


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
            step = self.trace.step_cost(self.graph, successor, run) / self.trace.reference_cost
            losses.append(ahead[successor][0])
            costs.append(ahead[successor][1] + np.reshape(step, (-1, 1)))
        seen = seen_by_all(self.trace, stage)
        everything: Features | Observed
        if self.trace.task == SINGLE:
            everything = Features.fit(self.graph, seen, self.blocks)
        else:
            everything = Observed.fit(self.graph, seen)
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
