"""A batch through a plan on any engine: the engine runs stages, the walk decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offramp.answering.committees import Speaker
from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import NetworkError
from offramp.core.walk import Outcome, Work, drive, walk
from offramp.plan.plan import Plan
from offramp.runtime.engine import AnyRows, Fields, fields_of
from offramp.runtime.format import Answers
from offramp.runtime.stages import Batch, Stages


class Driver(Protocol):
    """A plan that runs, on whatever engine: the walk driven from outside, or inside a file."""

    def __call__(self, x: AnyArray | Fields, tradeoff: float | None = None) -> Answers:
        """The answers to inputs (n, ...), in their order; n may be 0.

        Args:
            x: the inputs; by field where there are several.
            tradeoff: another than the certified one.

        Raises:
            NetworkError: the inputs have another shape or type than the networks read.
            PlanError: the tradeoff is below zero, or there is none to choose.
        """


@dataclass(frozen=True)
class Walker:
    """Drives the walk of a plan from outside, over its stages on an engine."""

    plan: Plan
    runtime: Stages

    def __call__(self, x: AnyRows, tradeoff: float | None = None) -> Answers:
        return infer(self.plan.turned(tradeoff), self.runtime, x)


def infer(plan: Plan, runtime: Stages, x: AnyRows) -> Answers:
    """Runs just enough network for each row of `x`.

    Args:
        plan: what decides.
        runtime: the stages of the plan, on an engine.
        x: inputs (n, ...), or several fields by name; a list of anything where the stages are
            `Calls`; n may be 0.

    Returns:
        The answers, in the order of `x`.

    Raises:
        NetworkError: a stage cannot run on these inputs.

    Warns:
        UnlikeInputs: they are of another type or range than those recorded; once for a plan.
    """
    fields = fields_of(x)
    count = _count(fields)
    plan.watch(fields)
    policy = plan.running
    walking = walk(policy, plan.setting, plan.costs, plan.answered, count, plan.task)
    scores = np.empty((0, plan.classes), dtype=np.float32)

    if len(policy.graph.order) == 1:  # no routing: the network as it is, uncut
        alone = policy.graph.root
        scores = plan.own(alone, runtime.run(alone, fields)) if count else scores
        return _answers(plan, scores, drive(walking, lambda _: scores))
    walked = _Walked(plan, runtime.begin(fields), scores, count, _no_numbers(fields))
    outcome = drive(walking, walked)  # which makes the scores
    return _answers(plan, walked.scores, outcome)


class _Walked:
    """Runs what a walk asks for, and keeps the scores that each row answers with."""

    def __init__(
        self, plan: Plan, batch: Batch, scores: FloatArray, count: int, broken: AnyArray | None
    ) -> None:
        self.plan, self.batch, self.scores = plan, batch, scores
        self.count, self.broken = count, broken
        self.speaker = Speaker(plan.speaking, plan.refitted)

    def __call__(self, work: Work) -> FloatArray:
        rows = None if len(work.rows) == self.count else work.rows
        self.batch.advance(work.stage, rows)
        by_itself = self.plan.own(work.stage, self.batch.answer(work.stage, rows))
        answered = self.speaker(work.stage, work.rows, by_itself)
        if rows is None:
            self.scores = answered
        else:
            self.scores = self.scores.copy()  # the earlier ones belong to the walk, and the batch
            self.scores[rows] = answered
        if self.broken is None:
            return answered
        return np.where(self.broken[work.rows, None], np.nan, answered)


def _count(fields: Fields) -> int:
    """How many rows all fields have. Raises NetworkError where they differ."""
    rows = {name: len(values) for name, values in fields.items()}
    first = next(iter(rows.values()))
    if any(size != first for size in rows.values()):
        listed = ", ".join(f"{name} {size}" for name, size in rows.items())
        raise NetworkError(
            f"the fields of the examples have different numbers of rows: {listed}. Give a row of "
            "each field for every example."
        )
    return first


def _no_numbers(fields: Fields) -> AnyArray | None:
    """Which inputs hold NaN or infinity, (n,); None: none does.

    Networks may hide it from their scores: rectifiers turn NaN into 0 on many engines.
    """
    broken = None
    for x in fields.values():
        if not isinstance(x, np.ndarray) or not np.issubdtype(x.dtype, np.floating):
            continue  # photographs are prepared later, and hold numbers alone
        total = x.reshape(len(x), math.prod(x.shape[1:])).sum(axis=1, dtype=np.float32)
        if not math.isfinite(total.sum()):
            more = ~np.isfinite(total)
            broken = more if broken is None else broken | more
    return broken


def _answers(plan: Plan, scores: FloatArray, outcome: Outcome) -> Answers:
    names, kinds = plan.running.graph.names, plan.answered
    return Answers(
        answer=plan.task.answers_of(scores, [kinds[s] for s in outcome.order], outcome.stage),
        position=outcome.stage,
        stages=names,
        cost=outcome.cost,
        scores=scores,
    )
