"""Policies that stop where enough answers agree, along a chain.

| policy | stops when | dial |
|---|---|---|
| patience | the last s answers agree (Zhou et al. 2020, PABEE) | s |
| agreement | at least m stages have answered, all alike (Jazbec et al. 2024 call it voting) | m |

Votes that need no training are Agreement-Based Cascading (Kolawole et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.policy import STOP, Seen, backbone
from offramp.core.task import SINGLE
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.policies.families import ALWAYS, Family, Saved
from offramp.policies.operators import ANSWERS, FLOAT, Decision, Dial, Memory, SeenTensors

_ALIKE = 0.9  # answers that agree so far count as one: of labels and numbers few are equal


@dataclass(frozen=True)
class Alike:
    """Stops where enough answers agree: the last `setting` ones, or all of at least `setting`."""

    graph: Graph
    settings: FloatArray
    kind: str  # patience or agreement

    @classmethod
    def fit(cls, kind: str, trace: Trace) -> Alike:
        graph = backbone(trace.graph)
        return cls(graph, np.arange(len(graph.order), 0, -1, dtype=float), kind)

    def evidence(self, seen: Seen) -> FloatArray:
        """How many answers agree: the streak that ends here; for agreement 0 unless all do."""
        stages = self.graph.observed[seen.stage]
        same = np.stack([seen.agreement(stage) > _ALIKE for stage in reversed(stages)])
        streak = np.cumprod(same, axis=0).sum(axis=0)
        if self.kind == "agreement":
            streak = np.where(streak == len(stages), streak, 0)
        return np.asarray(streak, dtype=float)[:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return np.where(evidence[:, 0] >= setting, STOP, 1)

    def to_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, saved: Saved) -> Alike:
        return cls(saved.graph, saved.settings, saved.kind)

    def forced(self, *, goes_on: bool) -> tuple[Alike, float]:
        return self, ALWAYS if goes_on else -ALWAYS  # files hold no infinity

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        """How many answers agree, counted back from this one."""
        scope, stages = seen.scope, len(seen.observed)
        streak = scope.constant([[1.0]])
        if stages > 1:
            same, together = _counted(seen), None
            for back in reversed(range(stages - 1)):
                column = seen.column(same, back)
                together = column if together is None else scope.add("Mul", together, column)
                streak = scope.add("Add", streak, together)
        if self.kind == "agreement":
            all_ = scope.constant(float(stages))
            zero = scope.constant([[0.0]])
            streak = scope.add("Where", scope.add("Equal", streak, all_), streak, zero)
        limit = dial.setting(scope)
        stops = scope.add("GreaterOrEqual", seen.trusted(streak), limit)
        return Decision.column(scope, stops)

    def remembered(self, stage: str) -> Memory:
        return ANSWERS


def _counted(seen: SeenTensors) -> str:
    """1 for each earlier stage whose answer agrees, else 0, (n, stages - 1)."""
    if seen.task == SINGLE:
        return seen.alike
    agrees = seen.scope.add("Greater", seen.alike, seen.scope.constant(_ALIKE))
    return seen.scope.add("Cast", agrees, to=FLOAT)


def _fit(trace: Trace, losses: Losses, *, kind: str) -> Alike:
    return Alike.fit(kind, trace)


VOTES = tuple(
    Family(name=kind, fit=partial(_fit, kind=kind), read=Alike.from_json, any_task=True)
    for kind in ("patience", "agreement")
)
