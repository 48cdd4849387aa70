"""A task of your own, in twenty lines: directions on a compass.

Usage: python -m examples.task

Three sensors say how far to the north and to the east something lies, of unit length where they
are sure. What is answered are degrees, and an answer loses what it is turned by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from offramp import Evaluation, Trace, evaluate, fit
from offramp.base.arrays import AnyArray, FloatArray
from offramp.core.tasks import Kind
from offramp.tasks import AnswerLoss, Task, register_tasks

# --------------------------------------------------------------------------------- the task


@dataclass(frozen=True)
class Direction(Task):
    """Degrees, from two outputs: how far north and how far east."""

    name: ClassVar[str] = "direction"

    def answers(self, outputs: FloatArray, kind: Kind) -> AnyArray:
        return np.degrees(np.arctan2(outputs[:, 1], outputs[:, 0]))

    def sure(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        return np.minimum(np.hypot(outputs[:, 0], outputs[:, 1]), 1.0)

    def agreement(self, answers: AnyArray, others: AnyArray) -> FloatArray:
        return 1.0 - turned(answers, others)

    @property
    def losses(self) -> Mapping[str, AnswerLoss]:
        return {"turned": turned}


def turned(answers: AnyArray, others: AnyArray) -> FloatArray:
    """The angle between two directions, as a share of half a turn, (n,)."""
    return np.asarray(np.abs((answers - others + 180) % 360 - 180) / 180)


register_tasks(Direction)

# ------------------------------------------------------------------------------ what it does


def made(examples: int, seed: int) -> Trace:
    """What three sensors said of directions, the cheap ones of fewer of them well."""
    random = np.random.default_rng(seed)
    labels = random.uniform(-180, 180, examples)
    hard = random.uniform(0, 1, examples)
    said = {}
    for stage, noise in (("small", 90), ("middle", 45), ("big", 10)):
        angle = np.radians(labels + noise * hard * random.normal(size=examples))
        length = 1 - hard * noise / 100 + 0.05 * random.normal(size=examples)
        said[stage] = length[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    costs = {"small": 1, "middle": 4, "big": 20}
    return Trace.of(said, labels, costs=costs, task=Direction())


def run(examples: int = 3000) -> Evaluation:
    """A plan that is turned by at most 3.6 degrees more than the big sensor, and what it does."""
    return evaluate(fit(made(examples, 0), 0.02), made(examples, 1))


def main() -> None:
    found = run()
    print(f"{found.speedup:.2f} times less cost, {180 * (found.excess_loss or 0):.1f} degrees more")


if __name__ == "__main__":
    main()
