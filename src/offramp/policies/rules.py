"""Rules: policies that compare one number with one threshold, and walk a chain.

| policy | stops when | dial |
|---|---|---|
| myopic | the highest probability is at least the threshold | threshold |
| margin | the two highest probabilities differ by at least the threshold | threshold |
| entropy | the entropy of the probabilities is at most the threshold | minus the threshold |
| patience | the last s answers agree (Zhou et al. 2020, PABEE) | s |
| agreement | at least m stages have answered, all alike (Jazbec et al. 2024 call it voting) | m |

One threshold for all stages whose risk is then controlled (`certify`) is Fast yet Safe (Jazbec et
al. 2024); votes that need no training are Agreement-Based Cascading (Kolawole et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.policy import STOP, Seen, backbone
from offramp.core.trace import Trace

TRADEOFFS = np.geomspace(1000.0, 1.0, 60)  # the dial of everything that weighs loss against cost
_NEVER = 2.0  # a threshold that no sureness reaches
_POINTS = 120  # how many thresholds a rule's dial has


def confidence(log_probabilities: FloatArray) -> FloatArray:
    """The highest probability, (n,); 1 minus the others, which keeps its digits near 1."""
    others = np.sort(log_probabilities.astype(np.float64), axis=1)[:, :-1]
    return np.asarray(1.0 - np.exp(others).sum(axis=1))


def margin(log_probabilities: FloatArray) -> FloatArray:
    """The highest minus the second highest probability, (n,)."""
    top = np.exp(np.partition(log_probabilities.astype(np.float64), -2, axis=1)[:, -2:])
    return np.asarray(top[:, 1] - top[:, 0])


def negative_entropy(log_probabilities: FloatArray) -> FloatArray:
    """Minus the entropy in nats, (n,): larger is surer."""
    values = log_probabilities.astype(np.float64)
    return np.asarray((np.exp(values) * values).sum(axis=1))


SURENESS: Mapping[str, Callable[[FloatArray], FloatArray]] = {
    "myopic": confidence,
    "margin": margin,
    "entropy": negative_entropy,
}


@dataclass(frozen=True)
class Threshold:
    """Stops where a sureness reaches the setting, the same at every stage; else goes on."""

    graph: Graph
    settings: FloatArray
    kind: str  # myopic, margin or entropy

    @classmethod
    def fit(cls, kind: str, trace: Trace) -> Threshold:
        """Settings at the quantiles of the sureness on the examples of `trace`."""
        graph = backbone(trace.graph)
        seen = [seen_by_all(trace, stage) for stage in graph.order[:-1]] or [
            seen_by_all(trace, graph.root)
        ]
        values = np.concatenate([SURENESS[kind](s.log_probabilities()) for s in seen])
        inner = np.unique(np.quantile(values, np.linspace(0, 1, _POINTS)))[::-1]
        return cls(graph, np.concatenate([[_NEVER], inner]), kind)

    def evidence(self, seen: Seen) -> FloatArray:
        return SURENESS[self.kind](seen.log_probabilities())[:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return np.where(evidence[:, 0] >= setting, STOP, 1)


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
        present = seen.answers()
        same = np.stack([seen.answers(stage) == present for stage in reversed(stages)])
        streak = np.cumprod(same, axis=0).sum(axis=0)
        if self.kind == "agreement":
            streak = np.where(streak == len(stages), streak, 0)
        return np.asarray(streak, dtype=float)[:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return np.where(evidence[:, 0] >= setting, STOP, 1)


def seen_by_all(trace: Trace, stage: str, graph: Graph | None = None) -> Seen:
    """What a walk of `graph`, the trace's own by default, has seen at `stage` of every example."""
    rows = np.arange(trace.examples)
    said = {v: (rows, trace.scores[v]) for v in (graph or trace.graph).observed[stage]}
    return Seen(stage, rows, said, trace.kinds)
