"""Committees: a stage that answers with all the scores that its walk has already paid for.

The combination is log-linear, one weight for each stage that every walk to it has run. It costs
nothing at run time, and stands in for the stage's own answer only where that loses less on examples
that its weights were not learned from. The reference alone is never a committee.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from offramp.base.arrays import FloatArray, IntArray
from offramp.base.schema import fits
from offramp.core import tasks
from offramp.core.graph import Graph
from offramp.core.tasks import Kind, Losses
from offramp.core.trace import Trace

ANSWER_FOLDS = 5
ANSWER_SAMPLE = 50_000  # examples that weights are learned from, at most
_SURE = 1.0  # standard errors that a committee must be better by
SMALLEST = -12.0  # log-probabilities below say the same: one stage must not veto alone
_MANY_NUMBERS = 2_000_000  # from which on threads share the work
_PENALTY = 1e-3  # pulls the weights towards the stage's own answer


@dataclass(frozen=True)
class Committee:
    """How a stage answers: the sum over some stages of weight times log-probability."""

    stages: tuple[str, ...]  # all of them on every path to the stage, itself the last
    weights: tuple[float, ...]

    def __call__(self, log_probabilities: Sequence[FloatArray]) -> FloatArray:
        """Scores, logits, (n, classes), from those of `stages` in their order."""
        total = sum(
            weight * np.maximum(logs, SMALLEST)
            for weight, logs in zip(self.weights, log_probabilities, strict=True)
        )
        return np.asarray(total, dtype=np.float32)

    def __str__(self) -> str:
        shares = zip(self.stages, self.weights, strict=True)
        return " + ".join(f"{weight:.2f} {stage}" for stage, weight in shares if weight > 0)

    def to_json(self) -> dict[str, float]:
        return dict(zip(self.stages, self.weights, strict=True))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Committee:
        """The inverse of `to_json`. Raises ValueError where a weight is no number."""
        if not fits(Mapping[str, float], value):
            raise ValueError(f"a committee is {value!r}")
        return cls(tuple(value), tuple(float(weight) for weight in value.values()))


Committees = Mapping[str, Committee]


def committees_from_json(value: Mapping[str, Any], graph: Graph, walked: Graph) -> Committees:
    """Committees by stage from JSON.

    Args:
        value: what `to_json` gave, by stage.
        graph: all stages.
        walked: the part of it that a policy walks, where a stage may pass more others.

    Raises:
        ValueError: a stage is unknown, or a member has not run where the committee answers.
    """
    found = {stage: Committee.from_json(weights) for stage, weights in value.items()}
    for stage, committee in found.items():
        known = walked.observed.get(stage, graph.order)
        if committee.stages[-1:] != (stage,) or not set(committee.stages) <= set(known):
            members = ", ".join(committee.stages)
            raise ValueError(f"the committee of stage {stage!r} has the members {members!r}")
    return found


def learn_committees(
    trace: Trace, loss: str | None = None, *, unlabelled: bool = False, seed: int = 0
) -> tuple[Committees, Trace]:
    """The committees that lose less than their stages alone, and the trace to go on learning with.

    Args:
        trace: examples that trained none of the networks; more than 50,000 are sampled.
        loss: what must become less; see `Trace.losses`.
        unlabelled: learn the reference's answers, where there are no labels.
        seed: of the folds.

    Returns:
        Committees by stage, with weights from all examples, and `trace` as they answer it, each
        example's scores with weights from other examples.

    Source: the weights maximise the likelihood, a logarithmic opinion pool (Heskes 1998); that
        ensembles of what a cascade has run pay: Wang et al. 2022.
    """
    labels = labels_of(trace, unlabelled)
    plain = trace.losses(loss)
    if labels is None or plain.name == tasks.RECORDED:  # a loss of scores that are not there
        return {}, trace
    folds = np.random.default_rng(seed).permutation(trace.examples) % ANSWER_FOLDS
    found: dict[str, Committee] = {}
    crossed: dict[str, FloatArray] = {}
    for stage in trace.graph.order:
        members = trace.graph.observed[stage]
        if len(members) < 2:
            continue
        logs = np.stack([np.maximum(trace.log_probabilities(s), SMALLEST) for s in members])
        scores = np.empty(logs.shape[1:], dtype=np.float32)
        for fold in range(ANSWER_FOLDS):
            held = folds == fold
            weights = pool_weights(logs[:, ~held], labels[~held], seed)
            scores[held] = Committee(members, weights)(list(logs[:, held]))
        if better(trace, stage, scores, plain):
            found[stage] = Committee(members, pool_weights(logs, labels, seed))
            crossed[stage] = scores
    return found, trace.speaking(crossed)


def labels_of(trace: Trace, unlabelled: bool) -> IntArray | None:
    """What stages should answer, (examples,): the labels, or the reference's answers.

    None where there are no labels, or the task knows no way to answer together.
    """
    if not trace.task.combines:
        return None
    if unlabelled:
        return tasks.answers(trace.scores[trace.graph.reference])
    return trace.labels


def pool_weights(logs: FloatArray, labels: IntArray, seed: int) -> tuple[float, ...]:
    """The weights, at least 0, with the highest likelihood; logs: (stages, n, classes)."""
    if len(labels) > ANSWER_SAMPLE:
        rows = np.random.default_rng(seed).choice(len(labels), ANSWER_SAMPLE, replace=False)
        logs, labels = logs[:, rows], labels[rows]
    logs = logs.astype(np.float64)
    own = logs[:, np.arange(len(labels)), labels]
    start = np.zeros(len(logs))
    start[-1] = 1.0

    def objective(weights: FloatArray) -> tuple[float, FloatArray]:
        total = np.tensordot(weights, logs, 1)
        total -= total.max(axis=1, keepdims=True)
        share = np.exp(total)
        sums = share.sum(axis=1, keepdims=True)
        share /= sums
        at = total[np.arange(len(labels)), labels] - np.log(sums[:, 0])
        slope = (logs * share).sum(axis=2).mean(axis=1) - own.mean(axis=1)
        away = weights - start
        return float(-at.mean() + _PENALTY * away @ away), slope + 2 * _PENALTY * away

    bounds = [(0.0, None)] * len(logs)
    with few_threads(logs.size):
        result = minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B")
    return tuple(float(weight) for weight in result.x)


def few_threads(numbers: int) -> threadpool_limits:
    """One thread for linear algebra on few `numbers`: more of them wait longer than they work."""
    return threadpool_limits(1 if numbers < _MANY_NUMBERS else None)


def better(trace: Trace, stage: str, scores: FloatArray, plain: Losses) -> bool:
    """Whether the loss is less by more than the noise of the difference."""
    together = trace.speaking({stage: scores}).losses(plain.name).values[stage]
    gain = plain.values[stage].astype(np.float64) - together
    noise = gain.std() / np.sqrt(len(gain))
    return bool(gain.mean() > _SURE * noise)


def with_committees(trace: Trace, committees: Committees) -> Trace:
    """The trace as committees answer it."""
    return trace.speaking(
        {
            stage: committee([trace.log_probabilities(s) for s in committee.stages])
            for stage, committee in committees.items()
        }
    )


class Speaker:
    """Turns what stages say into what they answer, while a batch walks."""

    def __init__(self, committees: Committees, kinds: Mapping[str, Kind]) -> None:
        self.committees: Committees = committees
        self.kinds: Mapping[str, Kind] = kinds
        self.said: dict[str, tuple[IntArray, FloatArray]] = {}

    def __call__(self, stage: str, rows: IntArray, scores: FloatArray) -> FloatArray:
        """The answer's scores (n, classes) of a stage's own, for ascending rows of the batch."""
        if not self.committees:
            return scores
        self.said[stage] = (rows, tasks.log_probabilities(scores, self.kinds[stage]))
        if stage not in self.committees:
            return scores
        committee = self.committees[stage]
        return committee([self._of(member, rows) for member in committee.stages])

    def _of(self, stage: str, rows: IntArray) -> FloatArray:
        known, logs = self.said[stage]
        return logs[np.searchsorted(known, rows)]
