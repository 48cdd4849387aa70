"""Refits: a stage's scores mended on held-out labels, before anything is decided by them.

Networks that meet other inputs than they were trained on favour some classes. An affine map of a
stage's log-probabilities repairs that at no cost at run time. The reference is refitted as well,
and what is saved is saved against the refitted reference: a repair is no adaptive inference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import minimize

from offramp.answering.committees import (
    ANSWER_FOLDS,
    ANSWER_SAMPLE,
    SMALLEST,
    better,
    few_threads,
    labels_of,
)
from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.schema import record_of
from offramp.core import tasks
from offramp.core.graph import Graph
from offramp.core.tasks import Excess, Kind
from offramp.core.trace import Trace

_NUMBERS = 5_000_000  # log-probabilities that a map is learned from, at most
_CHOOSING = 10_000  # examples that the form is chosen on, at most
_PENALTY = 1e-3  # on the bias and the temperature
_STEPS = 200  # of the optimiser: what is not found by then does not generalise
_FORMS = ("temperature", "diagonal", "matrix")  # by the dimensions of the weights


@dataclass(frozen=True)
class Refit:
    """An affine map from the log-probabilities of a stage to logits."""

    weights: FloatArray  # a temperature's inverse (), a diagonal (classes,), or a matrix (in, out)
    bias: FloatArray  # (classes,)

    def __call__(self, log_probabilities: FloatArray) -> FloatArray:
        """Logits, float32 (n, classes), of a stage that says (n, classes)."""
        logs = np.maximum(log_probabilities, SMALLEST).astype(np.float64)
        return np.asarray(_product(logs, self.weights) + self.bias, dtype=np.float32)

    def __str__(self) -> str:
        return f"by a {_FORMS[self.weights.ndim]} and a bias"

    def to_json(self) -> dict[str, Any]:
        return {"weights": self.weights.tolist(), "bias": self.bias.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], classes: int) -> Refit:
        """The inverse of `to_json`. Raises ValueError where it does not map so many classes."""
        weights = np.asarray(value["weights"], dtype=np.float64)
        bias = np.asarray(value["bias"], dtype=np.float64)
        square = weights.shape == (classes,) * weights.ndim and weights.ndim < len(_FORMS)
        if not square or bias.shape != (classes,):
            raise ValueError(f"a refit of {weights.shape} and {bias.shape}, not {classes} classes")
        if not (np.isfinite(weights).all() and np.isfinite(bias).all()):
            raise ValueError("a refit that is no number")
        return cls(weights, bias)


Refits = Mapping[str, Refit]


def refits_from_json(value: Mapping[str, Any], graph: Graph, classes: int) -> Refits:
    """Refits by stage from JSON. Raises ValueError where they do not fit the graph."""
    if unknown := set(value) - set(graph.order):
        raise ValueError(f"a refit of an unknown stage {sorted(unknown)[0]!r}")
    return {stage: Refit.from_json(found, classes) for stage, found in value.items()}


def _product(logs: FloatArray, weights: FloatArray) -> FloatArray:
    return np.asarray(logs @ weights if weights.ndim == 2 else logs * weights)


@dataclass(frozen=True)
class _Family:
    """Maps of one form: how far they may be from a mere temperature."""

    dimensions: int  # of the weights
    penalty: float  # on their distance from a multiple of the identity


_SMALL = (_Family(0, 0.0), _Family(1, 1e-2))
_WHOLE = (_Family(2, 1e-2), _Family(2, 1e-1), _Family(2, 1.0))


def learn_refits(
    trace: Trace, loss: str | None = None, *, unlabelled: bool = False, seed: int = 0
) -> tuple[Refits, Trace]:
    """The refits after which stages lose less, and the trace to go on learning with.

    The form and its penalty are those under which held-out examples are likeliest; the stage is
    refitted where it then loses less on examples that its map was not learned from, by more than
    the noise of the difference.

    Args:
        trace: examples that trained none of the networks; large ones are sampled.
        loss: what must become less; see `Trace.losses`.
        unlabelled: learn the reference's answers, where there are no labels.
        seed: of the folds.

    Returns:
        Refits by stage, the reference's among them, learned from all examples, and `trace` with
        refitted scores, each example's by a map learned from other examples.

    Source: temperature and vector scaling: Guo et al. 2017, On calibration of modern neural
        networks, section 4.2; a ridge on what lies off the diagonal: Kull et al. 2019.
    """
    labels = labels_of(trace, unlabelled)
    plain = trace.losses(loss)
    if labels is None or plain.name == tasks.RECORDED:  # a loss of scores that are not there
        return {}, trace
    folds = np.random.default_rng(seed).permutation(trace.examples) % ANSWER_FOLDS
    found: dict[str, Refit] = {}
    crossed: dict[str, FloatArray] = {}
    for stage in trace.graph.order:
        logs = trace.log_probabilities(stage)
        family = _chosen(logs, labels, folds, seed)
        scores = _crossed(logs, labels, folds, family, seed)
        if better(trace, stage, scores, plain):
            found[stage] = _learned(logs, labels, family, seed)
            crossed[stage] = scores
    return found, _replaced(trace, crossed)


def with_refits(trace: Trace, refits: Refits) -> Trace:
    """The trace with the scores of refitted stages in place of the recorded ones."""
    return _replaced(
        trace, {stage: refit(trace.log_probabilities(stage)) for stage, refit in refits.items()}
    )


def _replaced(trace: Trace, scores: Mapping[str, FloatArray]) -> Trace:
    """Not `Trace.speaking`: what a refitted stage says by itself are its refitted scores."""
    kinds: dict[str, Kind] = {**trace.kinds, **dict.fromkeys(scores, "logits")}
    return replace(trace, scores={**trace.scores, **scores}, kinds=kinds)


def _chosen(logs: FloatArray, labels: IntArray, folds: IntArray, seed: int) -> _Family:
    """The family under which held-out examples are likeliest."""
    if len(labels) > _CHOOSING:
        rows = np.random.default_rng(seed).choice(len(labels), _CHOOSING, replace=False)
        logs, labels, folds = logs[rows], labels[rows], folds[rows]

    def likelihood(family: _Family) -> float:
        crossed = _crossed(logs, labels, folds, family, seed)
        own = tasks.log_probabilities(crossed, "logits")[np.arange(len(labels)), labels]
        return float(own.mean(dtype=np.float64))

    families: list[_Family] = [*_SMALL, *(_WHOLE if logs.shape[1] <= tasks.FEW_CLASSES else ())]
    best: _Family = max(families, key=likelihood)
    return best


def _crossed(
    logs: FloatArray, labels: IntArray, folds: IntArray, family: _Family, seed: int
) -> FloatArray:
    """Refitted scores (n, classes), each row's by a map learned from other folds."""
    scores = np.empty(logs.shape, dtype=np.float32)
    for fold in range(ANSWER_FOLDS):
        held = folds == fold
        scores[held] = _learned(logs[~held], labels[~held], family, seed)(logs[held])
    return scores


def _learned(logs: FloatArray, labels: IntArray, family: _Family, seed: int) -> Refit:
    """The likeliest map of a family: temperature times identity, and a penalised rest."""
    logs, labels = _sample(logs, labels, seed)
    centre = logs.mean(axis=0)
    logs -= centre  # far from 0 weights and bias would pull at each other, and descent be slow
    rows, classes = np.arange(len(labels)), logs.shape[1]
    shape = (classes,) * family.dimensions
    identity = np.eye(classes) if family.dimensions == 2 else np.ones(shape)
    size = identity.size if family.dimensions else 0  # a temperature has no rest

    def parts(values: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        rest = values[1 : 1 + size].reshape(shape) if size else np.zeros(())
        return float(values[0]), rest, values[1 + size :]

    def objective(values: FloatArray) -> tuple[float, FloatArray]:
        scale, rest, bias = parts(values)
        total = _product(logs, scale * identity + rest) + bias
        total -= total.max(axis=1, keepdims=True)
        own = total[rows, labels]
        share = np.exp(total)
        sums = share.sum(axis=1, keepdims=True)
        share /= sums
        share[rows, labels] -= 1
        share /= len(rows)
        by_weight = logs.T @ share if family.dimensions == 2 else (logs * share).sum(axis=0)
        slopes = [
            [(by_weight * identity).sum() + 2 * _PENALTY * (scale - 1)],
            (by_weight + 2 * family.penalty * rest).ravel() if size else [],
            share.sum(axis=0) + 2 * _PENALTY * bias,
        ]
        pull = _PENALTY * ((scale - 1) ** 2 + bias @ bias) + family.penalty * (rest**2).sum()
        return float(np.log(sums).mean() - own.mean() + pull), np.concatenate(slopes)

    start = np.concatenate([[1.0], np.zeros(size + classes)])
    options = {"maxiter": _STEPS}
    with few_threads(logs.size):
        result = minimize(objective, start, jac=True, method="L-BFGS-B", options=options)
    scale, rest, bias = parts(result.x)
    weights = np.asarray(scale * identity + rest)
    return Refit(weights, bias - _product(centre, weights))


def _sample(logs: FloatArray, labels: IntArray, seed: int) -> tuple[FloatArray, IntArray]:
    most = min(ANSWER_SAMPLE, _NUMBERS // logs.shape[1])
    if len(labels) > most:
        rows = np.random.default_rng(seed).choice(len(labels), most, replace=False)
        logs, labels = logs[rows], labels[rows]
    return np.maximum(logs, SMALLEST).astype(np.float64), labels


@dataclass(frozen=True, kw_only=True)
class Repair:
    """What refitting by itself did, on examples that no refit was learned on.

    A single network counts where it loses no more than the reference did as recorded, plus the
    budget: what is saved so is saved by repair, and none of it by routing.
    """

    before: Mapping[str, float]  # loss of each stage alone, as recorded
    after: Mapping[str, float]  # likewise refitted
    choice: str  # the cheapest single network that counts, refitted; the reference always does
    speedup: float  # of that one over the reference
    without: float  # of the cheapest one that counts as recorded: there for the taking

    @property
    def gained(self) -> float:
        """How many times as fast as before the cheapest single network is that counts."""
        return self.speedup / self.without

    @classmethod
    def of(
        cls, recorded: Trace, after: Trace, loss: str | None, excess: Excess, budget: float
    ) -> Repair:
        """From the same examples as recorded and refitted, at the costs of the latter."""
        losses, mended = recorded.losses(loss, excess), after.losses(loss, excess)
        costs = {s: after.graph.alone(after.costs, s) for s in after.graph.order}

        def cheapest(values: Mapping[str, FloatArray]) -> str:
            counting = [
                stage
                for stage in after.graph.order
                if stage == losses.reference
                or _mean(tasks.excess(values[stage], losses.of_reference, excess)) <= budget
            ]
            return min(counting, key=lambda stage: costs[stage])

        choice, plain = cheapest(mended.values), cheapest(losses.values)
        return cls(
            before={stage: _mean(values) for stage, values in losses.values.items()},
            after={stage: _mean(values) for stage, values in mended.values.items()},
            choice=choice,
            speedup=after.reference_cost / costs[choice],
            without=after.reference_cost / costs[plain],
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Repair:
        """The inverse of `to_json`. Raises ValueError where a value is missing or none of it."""
        return record_of(cls, value)


def _mean(values: AnyArray) -> float:
    return float(values.mean(dtype=np.float64))
