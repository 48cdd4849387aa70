"""A batch through a plan on any engine: the engine runs stages, the walk decides."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offramp.answering.committees import Speaker
from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.core import tasks
from offramp.core.walk import Outcome, Work, drive, walk
from offramp.plan.plan import Plan
from offramp.runtime.format import Answers


class Batch(Protocol):
    """A batch on its way: what stages handed on is kept, so that nothing runs twice."""

    def advance(self, stage: str, rows: IntArray | None) -> None:
        """Runs what must run to pass `stage` and has not run yet, for some rows (None: all)."""

    def answer(self, stage: str, rows: IntArray | None) -> FloatArray:
        """The scores (n, classes) of a stage that the rows have advanced to."""


class Runtime(Protocol):
    """An engine that runs stages."""

    def run(self, stage: str, x: AnyArray) -> FloatArray:
        """The scores of a stage alone, (n, classes), for inputs (n, ...) of at least one row.

        Raises:
            NetworkError: the stage cannot run on these inputs.
        """

    def begin(self, x: AnyArray) -> Batch:
        """Starts a batch of inputs (n, ...)."""


@dataclass
class Alone:
    """A batch of an engine whose stages hand nothing on: each reads the input."""

    runtime: Runtime
    x: AnyArray

    def advance(self, stage: str, rows: IntArray | None) -> None:
        self.scores = self.runtime.run(stage, self.x if rows is None else self.x[rows])

    def answer(self, stage: str, rows: IntArray | None) -> FloatArray:
        return self.scores


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
    """Drives the walk of a plan on a runtime."""

    plan: Plan
    runtime: Runtime

    def __call__(self, x: AnyArray, tradeoff: float | None = None) -> Answers:
        return infer(self.plan.turned(tradeoff), self.runtime, x)


def infer(plan: Plan, runtime: Runtime, x: AnyArray) -> Answers:
    """Runs just enough network for each row of `x`.

    Args:
        plan: what decides.
        runtime: holds the networks of the plan.
        x: inputs of the root, (n, ...); n may be 0.

    Returns:
        The answers, in the order of `x`.

    Raises:
        NetworkError: a stage cannot run on these inputs.

    Warns:
        UnlikeInputs: they are of another type or range than those recorded; once for a plan.
    """
    plan.watch(x)
    policy = plan.running
    walking = walk(policy, plan.setting, plan.costs, plan.answered, len(x))
    scores = np.empty((0, plan.classes), dtype=np.float32)

    if len(policy.graph.order) == 1:  # no routing: the network as it is, uncut
        alone = policy.graph.root
        scores = plan.own(alone, runtime.run(alone, x)) if len(x) else scores
        return _answers(plan, scores, drive(walking, lambda _: scores))
    batch, speaker = runtime.begin(x), Speaker(plan.speaking, plan.refitted)
    broken = _no_numbers(x)

    def run(work: Work) -> FloatArray:
        nonlocal scores
        rows = None if len(work.rows) == len(x) else work.rows
        batch.advance(work.stage, rows)
        said = plan.own(work.stage, batch.answer(work.stage, rows))
        found = speaker(work.stage, work.rows, said)
        if rows is None:
            scores = found
        else:
            scores = scores.copy()  # the earlier ones belong to the walk, and to the runtime
            scores[rows] = found
        return found if broken is None else np.where(broken[work.rows, None], np.nan, found)

    outcome = drive(walking, run)
    return _answers(plan, scores, outcome)


def _no_numbers(x: AnyArray) -> AnyArray | None:
    """Which inputs hold NaN or infinity, (n,); None: none does.

    Networks may hide it from their scores: rectifiers turn NaN into 0 on many engines.
    """
    if not np.issubdtype(x.dtype, np.floating):
        return None
    total = x.reshape(len(x), math.prod(x.shape[1:])).sum(axis=1, dtype=np.float32)
    return None if math.isfinite(total.sum()) else ~np.isfinite(total)


def _answers(plan: Plan, scores: FloatArray, outcome: Outcome) -> Answers:
    names = plan.running.graph.names
    return Answers(tasks.answers(scores), outcome.stage, names, outcome.cost, scores)
