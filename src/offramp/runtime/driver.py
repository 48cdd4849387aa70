"""A batch through a plan on any engine: the engine runs stages, the walk decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offramp.answering.committees import Speaker
from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import NetworkError
from offramp.core.walk import Outcome, Work, walk
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
    walked = Walked(plan, runtime, x)
    while (work := walked.work) is not None:
        rows = walked.rows
        if walked.alone:
            walked.hear(runtime.run(work.stage, walked.fields))
            continue
        walked.batch.advance(work.stage, rows)
        walked.hear(walked.batch.answer(work.stage, rows))
    return walked.answers()


class Walked:
    """A batch on its way through a plan: what it asks to be run next, and what it answers.

    Args:
        plan: what decides.
        runtime: the stages that `work` is for.
        x: as `infer`, which runs all of a batch at once; a server runs many of them by turns.

    Raises:
        As `infer`.
    """

    plan: Plan
    fields: Fields
    count: int
    batch: Batch

    def __init__(self, plan: Plan, runtime: Stages, x: AnyRows) -> None:
        fields = fields_of(x)
        self.plan, self.fields, self.count = plan, fields, _count(fields)
        plan.watch(fields)
        policy = plan.running
        walking = walk(policy, plan.setting, plan.costs, plan.answered, self.count, plan.task)
        self.alone: bool = len(policy.graph.order) == 1  # no routing: the network as it is, uncut
        self.batch = runtime.begin(fields)
        self.scores: FloatArray = np.empty((0, plan.classes), dtype=np.float32)
        self.outcome: Outcome | None = None
        self.work: Work | None = None  # what must run next; None: it has arrived
        self._walking, self._broken = walking, None if self.alone else _no_numbers(fields)
        self._speaker = Speaker(plan.speaking, plan.refitted)
        self._go_on(None)

    @property
    def rows(self) -> IntArray | None:
        """Those that must run next; None: all."""
        assert self.work is not None
        return None if len(self.work.rows) == self.count else self.work.rows

    def hear(self, scores: FloatArray) -> None:
        """Goes on with what the stage of `work` itself said of its rows, (rows, classes)."""
        assert self.work is not None
        work, rows = self.work, self.rows
        by_itself = self.plan.own(work.stage, scores)
        answered = self._speaker(work.stage, work.rows, by_itself)
        if rows is None:
            self.scores = answered
        else:
            self.scores = self.scores.copy()  # the earlier ones belong to the walk, and the batch
            self.scores[rows] = answered
        if self._broken is not None:
            answered = np.where(self._broken[work.rows, None], np.nan, answered)
        self._go_on(answered)

    def _go_on(self, heard: FloatArray | None) -> None:
        try:
            self.work = next(self._walking) if heard is None else self._walking.send(heard)
        except StopIteration as stop:
            self.work, self.outcome = None, stop.value

    def answers(self) -> Answers:
        """What it answers, once it has arrived."""
        assert self.outcome is not None
        return _answers(self.plan, self.scores, self.outcome)


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
