"""A batch through a plan on any engine: the engine runs stages, the walk decides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offramp import tasks
from offramp.arrays import AnyArray, FloatArray, IntArray
from offramp.plan import Plan
from offramp.walk import Work, drive, walk


class Runtime(Protocol):
    """An engine that runs stages."""

    def run(self, stage: str, x: AnyArray) -> FloatArray:
        """The scores of a stage, (n, classes), for inputs (n, ...) of at least one row.

        Raises:
            NetworkError: the stage cannot run on these inputs.
        """


@dataclass(frozen=True)
class Answers:
    """What a plan answered, in the order of the inputs."""

    answer: IntArray  # (n,) class
    stage: AnyArray  # (n,) name of the stage that answered
    cost: FloatArray  # (n,) in the unit of the plan
    scores: FloatArray  # (n, classes) of the stage that answered


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
    """
    policy = plan.running
    scores = np.empty((0, plan.classes), dtype=np.float32)

    def run(work: Work) -> FloatArray:
        nonlocal scores
        if work.stage == policy.graph.root:
            scores = runtime.run(work.stage, x)
            return scores
        found = runtime.run(work.stage, x[work.rows])
        scores = scores.copy()  # the earlier ones belong to the walk, and to the runtime
        scores[work.rows] = found
        return found

    outcome = drive(walk(policy, plan.setting, plan.costs, plan.kinds, len(x)), run)
    names = policy.graph.names[outcome.stage]
    return Answers(tasks.answers(scores), names, outcome.cost, scores)
