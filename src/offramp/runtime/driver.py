"""A batch through a plan on any engine: the engine runs stages, the walk decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offramp.answering.committees import Speaker
from offramp.base.arrays import AnyArray, FloatArray
from offramp.core import tasks
from offramp.core.walk import Outcome, Work, drive, walk
from offramp.plan.plan import Plan
from offramp.runtime.engine import AnyRows, Fields, fields_of
from offramp.runtime.format import Answers
from offramp.runtime.stages import Stages


class Driver(Protocol):
    """A plan that runs, on whatever engine: the walk driven from outside, or inside a file."""

    def __call__(self, x: AnyArray, tradeoff: float | None = None) -> Answers:
        """The answers to inputs (n, ...), in their order; n may be 0.

        Args:
            x: the inputs.
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
    count = len(next(iter(fields.values())))
    if len(fields) == 1:
        plan.watch(*fields.values())
    policy = plan.running
    walking = walk(policy, plan.setting, plan.costs, plan.answered, count)
    scores = np.empty((0, plan.classes), dtype=np.float32)

    if len(policy.graph.order) == 1:  # no routing: the network as it is, uncut
        alone = policy.graph.root
        scores = plan.own(alone, runtime.run(alone, fields)) if count else scores
        return _answers(plan, scores, drive(walking, lambda _: scores))
    batch, speaker = runtime.begin(fields), Speaker(plan.speaking, plan.refitted)
    broken = _no_numbers(fields)

    def run(work: Work) -> FloatArray:
        nonlocal scores
        rows = None if len(work.rows) == count else work.rows
        batch.advance(work.stage, rows)
        said = plan.own(work.stage, batch.answer(work.stage, rows))
        found = speaker(work.stage, work.rows, said)
        if rows is None:
            scores = found
        else:
            scores = scores.copy()  # the earlier ones belong to the walk, and to the batch
            scores[rows] = found
        return found if broken is None else np.where(broken[work.rows, None], np.nan, found)

    outcome = drive(walking, run)  # which makes the scores
    return _answers(plan, scores, outcome)


def _no_numbers(fields: Fields) -> AnyArray | None:
    """Which inputs hold NaN or infinity, (n,); None: none does.

    Networks may hide it from their scores: rectifiers turn NaN into 0 on many engines.
    """
    broken = None
    for x in fields.values():
        if not np.issubdtype(x.dtype, np.floating):
            continue
        total = x.reshape(len(x), math.prod(x.shape[1:])).sum(axis=1, dtype=np.float32)
        if not math.isfinite(total.sum()):
            more = ~np.isfinite(total)
            broken = more if broken is None else broken | more
    return broken


def _answers(plan: Plan, scores: FloatArray, outcome: Outcome) -> Answers:
    names = plan.running.graph.names
    return Answers(
        answer=tasks.answers(scores),
        position=outcome.stage,
        stages=names,
        cost=outcome.cost,
        scores=scores,
    )
