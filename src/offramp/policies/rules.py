"""Rules: policies that compare one number with one threshold, and walk a chain.

| policy | stops when | dial |
|---|---|---|
| myopic | the task's sureness, the highest probability, is at least the threshold | threshold |
| margin | the two highest probabilities differ by at least the threshold | threshold |
| entropy | the entropy of the probabilities is at most the threshold | minus the threshold |
| zero-time-waste | as myopic, of answers that are ensembles (Wolczyk et al. 2021) | threshold |

One threshold for all stages whose risk is then controlled (`certify`) is Fast yet Safe (Jazbec et
al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from offramp.answering.committees import Committees, ensembles
from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.policy import STOP, Seen, backbone, seen_by_all
from offramp.core.tasks import DISAGREEMENT, Losses
from offramp.core.trace import Trace
from offramp.policies.families import ALWAYS, Family, Saved
from offramp.policies.operators import Decision, Dial, Memory, SeenTensors
from offramp.policies.statistics import margin, negative_entropy

_NEVER = 2.0  # a threshold that no sureness reaches
_POINTS = 120  # how many thresholds a rule's dial has


SURENESS: Mapping[str, Callable[[Seen], FloatArray]] = {
    "myopic": Seen.sure,
    "margin": lambda seen: margin(seen.log_probabilities()),
    "entropy": lambda seen: negative_entropy(seen.log_probabilities()),
    "zero-time-waste": Seen.sure,
}


@dataclass(frozen=True)
class Threshold:
    """Stops where a sureness reaches the setting, the same at every stage; else goes on."""

    graph: Graph
    settings: FloatArray
    kind: str  # one of SURENESS

    @classmethod
    def fit(cls, kind: str, trace: Trace) -> Threshold:
        """Settings at the quantiles of the sureness on the examples of `trace`."""
        graph = backbone(trace.graph)
        seen = [seen_by_all(trace, stage) for stage in graph.order[:-1]] or [
            seen_by_all(trace, graph.root)
        ]
        values = np.concatenate([SURENESS[kind](s) for s in seen])
        inner = np.unique(np.quantile(values, np.linspace(0, 1, _POINTS)))[::-1]
        return cls(graph, np.concatenate([[_NEVER], inner]), kind)

    def evidence(self, seen: Seen) -> FloatArray:
        return SURENESS[self.kind](seen)[:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return np.where(evidence[:, 0] >= setting, STOP, 1)

    def to_json(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_json(cls, saved: Saved) -> Threshold:
        return cls(saved.graph, saved.settings, saved.kind)

    def forced(self, *, goes_on: bool) -> tuple[Threshold, float]:
        return self, ALWAYS if goes_on else -ALWAYS  # files hold no infinity

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        """Sureness is compared as 1 minus itself, which keeps its digits near 1."""
        scope = seen.scope
        if self.kind == "entropy":
            value = seen.entropy
            limit = dial.setting(scope, lambda t: -t, lambda t: scope.add("Neg", t))
        else:
            value = seen.close if self.kind == "margin" else seen.unsure
            limit = dial.setting(
                scope, lambda t: 1.0 - t, lambda t: scope.add("Sub", scope.constant(1.0), t)
            )
        return Decision.column(scope, scope.add("LessOrEqual", seen.trusted(value), limit))

    def remembered(self, stage: str) -> Memory:
        return {}


def _fit(trace: Trace, losses: Losses, *, kind: str) -> Threshold:
    return Threshold.fit(kind, trace)


def _ensembles(trace: Trace, losses: Losses) -> Committees:
    """Of every stage with all before it, as Wolczyk et al. 2021 answer.

    Their heads also read the scores of the head before, which is training; here heads are as they
    were recorded.
    """
    return ensembles(trace, backbone(trace.graph), unlabelled=losses.name == DISAGREEMENT)


RULES = tuple(
    Family(
        name=kind,
        fit=partial(_fit, kind=kind),
        read=Threshold.from_json,
        any_task=kind == "myopic",
        answers=_ensembles if kind == "zero-time-waste" else None,
    )
    for kind in SURENESS
)
