"""Committees: a stage that answers with all the scores that its walk has already paid for.

The combination is log-linear, one weight for each stage that every walk to it has run, and one bias
for each class where that is asked for. It costs nothing at run time, and stands in for the stage's
own answer only where that loses less on examples that it was not learned from. The reference alone
is never a committee; a bias repairs a network that favours some classes, so that what it saves is
shown beside a reference that was repaired as well (`offramp.answering.refit`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
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
_NUMBERS = 20_000_000  # log-probabilities, likewise: a few weights need no more
_SURE = 1.0  # standard errors that a committee must be better by
SMALLEST = -12.0  # log-probabilities below say the same: one stage must not veto alone
_MANY_NUMBERS = 2_000_000  # from which on threads share the work
_PENALTY = 1e-3  # pulls the weights towards the stage's own answer


@dataclass(frozen=True)
class Committee:
    """How a stage answers: the sum over some stages of weight times log-probability."""

    stages: tuple[str, ...]  # all of them on every path to the stage, itself the last
    weights: tuple[float, ...]
    biases: tuple[float, ...] = ()  # of the classes, (classes,), added to the sum; none at all

    def __call__(self, log_probabilities: Sequence[FloatArray]) -> FloatArray:
        """Scores, logits, (n, classes), from those of `stages` in their order."""
        total = np.zeros_like(log_probabilities[0], dtype=np.float32)
        for weight, logs in zip(self.weights, log_probabilities, strict=True):
            if weight:
                total += np.float32(weight) * np.maximum(logs, SMALLEST)
        return total + np.asarray(self.biases, dtype=np.float32) if self.biases else total

    def __str__(self) -> str:
        shares = zip(self.stages, self.weights, strict=True)
        words = [f"{weight:.2f} {stage}" for stage, weight in shares if weight > 0]
        return " + ".join([*words, *(["a bias of each class"] if self.biases else [])])

    def to_json(self) -> dict[str, float]:
        return dict(zip(self.stages, self.weights, strict=True))

    @classmethod
    def from_json(cls, value: Mapping[str, Any], biases: Sequence[float] = ()) -> Committee:
        """The inverse of `to_json`. Raises ValueError where a weight or bias is no number."""
        numbers = fits(Mapping[str, float], value) and all(fits(float, bias) for bias in biases)
        if not numbers:
            raise ValueError(f"a committee is {value!r}, with biases {biases!r}")
        weights = tuple(float(weight) for weight in value.values())
        return cls(tuple(value), weights, tuple(float(bias) for bias in biases))


Committees = Mapping[str, Committee]
Known = MutableMapping[tuple[tuple[str, ...], bool], tuple[Committee, FloatArray] | None]
"""By members, the last of which answers, and whether biases were tried: the committee and its
cross-fitted scores, or None where it does not lose less."""


def biases_to_json(committees: Committees) -> dict[str, list[float]]:
    """Biases of classes by stage, of the committees that have some."""
    return {stage: list(found.biases) for stage, found in committees.items() if found.biases}


def committees_from_json(
    value: Mapping[str, Any],
    graph: Graph,
    walked: Graph,
    biases: Mapping[str, Sequence[float]],
    classes: int,
) -> Committees:
    """Committees by stage from JSON.

    Args:
        value: what `to_json` gave, by stage.
        graph: all stages.
        walked: the part of it that a policy walks, where a stage may pass more others.
        biases: what `biases_to_json` gave.
        classes: how many each of them must be.

    Raises:
        ValueError: a stage is unknown, a member has not run where the committee answers, or biases
            fit no committee.
    """
    for stage, each in biases.items():
        if stage not in value or len(each) != classes:
            raise ValueError(f"{len(each)} biases of classes of the stage {stage!r}")
    found = {
        stage: Committee.from_json(weights, biases.get(stage, ()))
        for stage, weights in value.items()
    }
    for stage, committee in found.items():
        known = walked.observed.get(stage, graph.order)
        if committee.stages[-1:] != (stage,) or not set(committee.stages) <= set(known):
            members = ", ".join(committee.stages)
            raise ValueError(f"the committee of stage {stage!r} has the members {members!r}")
    return found


def learn_committees(
    trace: Trace,
    loss: str | None = None,
    *,
    unlabelled: bool = False,
    seed: int = 0,
    biases: bool = False,
    reference: bool = True,
    known: Known | None = None,
) -> tuple[Committees, Trace]:
    """The committees that lose less than their stages alone, and the trace to go on learning with.

    Args:
        trace: examples that trained none of the networks; more than 50,000 are sampled.
        loss: what must become less; see `Trace.losses`.
        unlabelled: learn the reference's answers, where there are no labels.
        seed: of the folds.
        biases: also try a bias of each class, kept where the loss is then less again.
        reference: whether walks that end in the reference may answer with more than it says.
        known: what was learned of the same examples for other graphs, to which this is added.

    Returns:
        Committees by stage, with weights from all examples, and `trace` as they answer it, each
        example's scores with weights from other examples.

    Source: the weights maximise the likelihood, a logarithmic opinion pool (Heskes 1998); that
        ensembles of what a cascade has run pay: Wang et al. 2022; biases: Wolczyk et al. 2021.
    """
    labels, plain = labels_of(trace, unlabelled), trace.losses(loss)
    if labels is None or plain.name == tasks.RECORDED:  # a loss of scores that are not there
        return {}, trace
    known = {} if known is None else known
    found, crossed = dict[str, Committee](), dict[str, FloatArray]()
    for pooler in _poolers(trace, trace.graph, labels, seed):
        key, stage = (pooler.members, biases), pooler.members[-1]
        if key not in known:
            known[key] = pooler.best(trace, plain, biases)
        if (kept := known[key]) and (reference or stage != trace.graph.reference):
            found[stage], crossed[stage] = kept
    return found, trace.speaking(crossed)


def ensembles(trace: Trace, graph: Graph, *, unlabelled: bool = False, seed: int = 0) -> Committees:
    """A committee of every stage with all before it, with weights and biases, whether it pays.

    Args:
        trace: as for `learn_committees`.
        graph: that is walked.
        unlabelled: learn the reference's answers, where there are no labels.
        seed: of samples.

    Source: Wolczyk et al. 2021, Zero time waste, section 3.2 (geometric ensembles).
    """
    labels = labels_of(trace, unlabelled)
    if labels is None:
        return {}
    poolers = _poolers(trace, graph, labels, seed)
    return {pooler.members[-1]: pooler.learned(True) for pooler in poolers}


def means(trace: Trace, graph: Graph, loss: str | None) -> Committees:
    """A committee of every stage with all before it, all alike, where it loses no more than alone.

    Source: as Xia and Bouganis 2023 answer at the second stage; they take the mean of
        probabilities, and here it is that of their logarithms.
    """
    plain, found = trace.losses(loss), dict[str, Committee]()
    if not trace.task.combines or plain.name == tasks.RECORDED:
        return found
    for stage in graph.order[1:]:
        members = graph.observed[stage]
        each = Committee(members, (1.0 / len(members),) * len(members))
        scores = each([trace.log_probabilities(member) for member in members])
        together = trace.speaking({stage: scores}).losses(plain.name).values[stage]
        if together.mean() <= plain.values[stage].mean():
            found[stage] = each
    return found


def labels_of(trace: Trace, unlabelled: bool) -> IntArray | None:
    """What stages should answer, (examples,): the labels, or the reference's answers.

    None where there are no labels, or the task knows no way to answer together.
    """
    if not trace.task.combines:
        return None
    if unlabelled:
        return tasks.answers(trace.scores[trace.graph.reference])
    return trace.labels


class _Logs(dict[str, FloatArray]):
    """Log-probabilities of stages, none below SMALLEST, computed when they are asked for."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def __missing__(self, stage: str) -> FloatArray:
        self[stage] = np.maximum(self.trace.log_probabilities(stage), SMALLEST)
        return self[stage]


@dataclass(frozen=True, kw_only=True)
class _Pooler:
    """Learns how some stages answer together."""

    members: tuple[str, ...]  # all before the stage that answers, which is the last
    each: _Logs
    labels: IntArray
    seed: int

    @cached_property
    def logs(self) -> Sequence[FloatArray]:
        """Of each member (examples, classes), none below SMALLEST."""
        return [self.each[member] for member in self.members]

    def learned(self, biased: bool, rows: IntArray | None = None) -> Committee:
        """The committee from some rows, or from all of them."""
        rows = sampled(len(self.labels) if rows is None else rows, self.logs, self.seed)
        logs = np.stack([each[rows] for each in self.logs])
        return Committee(self.members, *pool(logs, self.labels[rows], biased))

    def best(
        self, trace: Trace, plain: Losses, biases: bool
    ) -> tuple[Committee, FloatArray] | None:
        """The committee and its cross-fitted scores, where it loses less than its stage alone.

        Args:
            trace: of the same examples.
            plain: losses of the stages alone.
            biases: also try them; the loss must then be less again.
        """
        folds = np.random.default_rng(self.seed).permutation(trace.examples) % ANSWER_FOLDS
        stage, found = self.members[-1], None
        forms = (False, True) if biases else (False,)
        for biased in forms if len(self.members) > 1 else forms[1:]:
            scores = self.crossed(folds, biased)
            before = trace if found is None else trace.speaking({stage: found[1]})
            if better(trace, stage, scores, plain if found is None else before.losses(plain.name)):
                found = self.learned(biased), scores
        return found

    def crossed(self, folds: IntArray, biased: bool) -> FloatArray:
        """Scores (examples, classes), each row's by weights learned from other folds."""
        scores = np.empty(self.logs[0].shape, dtype=np.float32)
        for fold in range(ANSWER_FOLDS):
            held = folds == fold
            committee = self.learned(biased, np.flatnonzero(~held))
            scores[held] = committee([each[held] for each in self.logs])
        return scores


def _poolers(trace: Trace, graph: Graph, labels: IntArray, seed: int) -> Iterator[_Pooler]:
    """One for each stage of a graph."""
    logs = _Logs(trace)
    for stage in graph.order:
        yield _Pooler(members=graph.observed[stage], each=logs, labels=labels, seed=seed)


def sampled(rows: IntArray | int, logs: Sequence[FloatArray], seed: int) -> IntArray:
    """As many of some rows, or of so many, as weights of such members are learned from."""
    known = np.arange(rows) if isinstance(rows, int) else rows
    most = min(ANSWER_SAMPLE, max(1000, _NUMBERS // (len(logs) * logs[0].shape[1])))
    if len(known) <= most:
        return known
    return np.sort(np.random.default_rng(seed).choice(known, most, replace=False))


def pool_weights(logs: FloatArray, labels: IntArray) -> tuple[float, ...]:
    """The weights, at least 0, with the highest likelihood; logs: (stages, n, classes)."""
    return pool(logs, labels, False)[0]


def pool(
    logs: FloatArray, labels: IntArray, biased: bool
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The weights, at least 0, and biases of classes, or none, with the highest likelihood.

    Args:
        logs: log-probabilities, (stages, n, classes).
        labels: (n,).
        biased: whether classes have biases.
    """
    logs = logs.astype(np.float64)
    many, rows = len(logs), np.arange(len(labels))
    own = logs[:, rows, labels]
    start = np.zeros(many + (logs.shape[2] if biased else 0))
    start[many - 1] = 1.0
    shares = np.bincount(labels, minlength=logs.shape[2]) / len(labels)

    def objective(values: FloatArray) -> tuple[float, FloatArray]:
        total = np.tensordot(values[:many], logs, 1)
        total += values[many:] if biased else 0.0
        total -= total.max(axis=1, keepdims=True)
        at = total[rows, labels]
        share = np.exp(total, out=total)
        sums = share.sum(axis=1, keepdims=True)
        share /= sums
        at = at - np.log(sums[:, 0])
        slope = np.einsum("snc,nc->s", logs, share) / len(rows) - own.mean(axis=1)
        slopes = np.concatenate([slope, share.mean(axis=0) - shares] if biased else [slope])
        away = values - start
        return float(-at.mean() + _PENALTY * away @ away), slopes + 2 * _PENALTY * away

    bounds = [(0.0, None)] * many + [(None, None)] * (len(start) - many)
    with few_threads(logs.size):
        result = minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B")
    values = tuple(float(value) for value in result.x)
    return values[:many], values[many:]


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
