"""Rules: policies that compare one number with a threshold and walk a chain.

| policy | stops when | dial |
|---|---|---|
| myopic | the highest probability is at least the threshold | threshold |
| margin | the two highest probabilities differ by at least the threshold | threshold |
| entropy | the entropy of the probabilities is at most the threshold | minus the threshold |
| patience | the last s answers agree (Zhou et al. 2020, PABEE) | s |
| agreement | at least m stages have answered, all alike (Jazbec et al. 2024 calls it voting) | m |
| thresholds | the highest probability reaches the stage's own, jointly tuned cut | tradeoff |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from offramp.arrays import FloatArray, IntArray
from offramp.graph import Graph
from offramp.policies.protocol import STOP, Seen, backbone
from offramp.tasks import Losses
from offramp.trace import Trace

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
        seen = [_seen(trace, stage) for stage in graph.order[:-1]] or [_seen(trace, graph.root)]
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


@dataclass(frozen=True)
class Thresholds:
    """Per-stage cuts of the confidence, tuned jointly for each tradeoff.

    At a stage with several successors the cuts split the confidence into bands: the surest stop,
    the next go to the first successor, and so on, so that a skip is for the least sure.
    """

    graph: Graph
    settings: FloatArray  # tradeoffs
    cuts: Mapping[str, FloatArray]  # stage -> (settings, successors), falling along a row
    kind: str = "thresholds"

    @classmethod
    def fit(cls, trace: Trace, losses: Losses) -> Thresholds:
        graph = trace.graph
        tuner = _Tuner(trace, losses)
        cuts = {v: np.empty((len(TRADEOFFS), len(graph.successors[v]))) for v in graph.order}
        for i, tradeoff in enumerate(TRADEOFFS):
            for stage, values in tuner.tune(tradeoff).items():
                cuts[stage][i] = values
        return cls(graph, TRADEOFFS, cuts)

    def evidence(self, seen: Seen) -> FloatArray:
        return confidence(seen.log_probabilities())[:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        cuts = self.cuts[stage][int(np.abs(self.settings - setting).argmin())]
        return np.asarray((evidence < cuts).sum(axis=1))


class _Tuner:
    """Coordinate descent over the stages' cuts; each step is exact for the rows that reach it."""

    def __init__(self, trace: Trace, losses: Losses, sweeps: int = 4) -> None:
        self.graph, self.sweeps = trace.graph, sweeps
        self.excess = {v: losses.excess(v) for v in self.graph.order}
        self.step = {
            (v, u): self.graph.step_cost(trace.costs, u, self._run(v)) / trace.reference_cost
            for v, u in self.graph.edges
        }
        self.sure = {v: confidence(_seen(trace, v).log_probabilities()) for v in self.graph.order}
        self.order = {v: np.argsort(-sure) for v, sure in self.sure.items()}
        self.n = trace.examples

    def _run(self, stage: str) -> frozenset[str]:
        return self.graph.ran(stage)

    def tune(self, tradeoff: float) -> dict[str, FloatArray]:
        reach = {v: np.ones(self.n, dtype=bool) for v in self.graph.order}
        cuts: dict[str, FloatArray] = {}
        for _ in range(self.sweeps):
            before, cuts = cuts, {}
            ahead = {v: tradeoff * self.excess[v] for v in self.graph.order}
            actions = {}
            for stage in reversed(self.graph.order):
                actions[stage] = self._improve(stage, ahead, reach[stage], cuts)
            reach = self._reach(actions)
            if all(np.array_equal(before.get(v, ()), cuts[v]) for v in cuts):
                break
        return cuts

    def _improve(
        self,
        stage: str,
        ahead: dict[str, FloatArray],
        reach: np.ndarray,
        cuts: dict[str, FloatArray],
    ) -> IntArray:
        """Sets the best cuts of `stage` for the rows in `reach`, and the cost-to-go of all rows."""
        choices = [ahead[stage]] + [
            ahead[u] + self.step[stage, u] for u in self.graph.successors[stage]
        ]
        order = self.order[stage][reach[self.order[stage]]]
        sorted_sure = self.sure[stage][order]
        # equally sure examples must go the same way, so that a cut can only lie between groups
        starts = np.flatnonzero(np.diff(sorted_sure, prepend=np.inf))
        ends = best_bands(np.stack([np.add.reduceat(c[order], starts) for c in choices]))
        sure = np.append(sorted_sure[starts], -np.inf)
        above = np.append(np.inf, sorted_sure[starts])
        cuts[stage] = np.array([_between(above[end], sure[end]) for end in ends])
        action = np.asarray((self.sure[stage][:, None] < cuts[stage]).sum(axis=1))
        ahead[stage] = np.choose(action, choices)
        return action

    def _reach(self, actions: dict[str, IntArray]) -> dict[str, np.ndarray]:
        reach = {v: np.zeros(self.n, dtype=bool) for v in self.graph.order}
        reach[self.graph.root][:] = True
        for stage in self.graph.order:
            for i, successor in enumerate(self.graph.successors[stage], start=1):
                reach[successor] |= reach[stage] & (actions[stage] == i)
        return reach


def _between(above: float, below: float) -> float:
    return (above + below) / 2 if np.isfinite(above) and np.isfinite(below) else above


def best_bands(costs: FloatArray) -> list[int]:
    """Where to cut a sequence into consecutive bands, one per action, at the lowest total cost.

    Args:
        costs: (actions, n): the cost of each action for each element, in the order of the bands.

    Returns:
        actions - 1 cut positions in 0..n, rising: action a takes the elements from cut a - 1 to a.
    """
    totals = np.concatenate([np.zeros((len(costs), 1)), np.cumsum(costs, axis=1)], axis=1)
    best, starts = (
        totals[0],
        [],
    )  # best[i]: lowest cost of the first i elements with the bands so far
    for total in totals[1:]:
        value = best - total
        lowest = np.minimum.accumulate(value)
        starts.append(np.maximum.accumulate(np.where(value == lowest, np.arange(len(value)), 0)))
        best = lowest + total
    end, ends = totals.shape[1] - 1, []
    for start in reversed(starts):
        end = int(start[end])
        ends.append(end)
    return ends[::-1]


def _seen(trace: Trace, stage: str) -> Seen:
    rows = np.arange(trace.examples)
    said = {v: (rows, trace.scores[v]) for v in trace.graph.observed[stage]}
    return Seen(stage, rows, said, trace.kinds)
