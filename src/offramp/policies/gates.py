"""Gates of each stage's own, learned by logistic regression, that compare a score with a cut.

| policy | a gate's score, a logit | its cut |
|---|---|---|
| eenet | that the answer is right, from probabilities, votes, earlier scores | tuned jointly |
| jei-dnn | that stopping here is best, one gate for each tradeoff | 0 |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from offramp.arrays import FloatArray, IntArray
from offramp.graph import Graph
from offramp.policies.protocol import STOP, Seen, backbone
from offramp.policies.rules import TRADEOFFS, seen_by_all
from offramp.policies.statistics import logistic, sureness, votes
from offramp.policies.thresholds import tuned
from offramp.tasks import Losses
from offramp.trace import Trace

_GATES = TRADEOFFS[::4]  # tradeoffs that have gates of their own


@dataclass(frozen=True)
class Gates:
    """Stops where a stage's score reaches its cut; else goes on along a chain."""

    graph: Graph
    settings: FloatArray  # tradeoffs
    weights: Mapping[str, FloatArray]  # stage -> (gates, 1 + features); one gate, or one a setting
    cuts: Mapping[str, FloatArray]  # stage -> (settings,) of the score
    kind: str  # eenet or jei-dnn

    @classmethod
    def eenet(cls, trace: Trace, losses: Losses) -> Gates:
        """Scores from probabilities, votes and earlier scores; cuts under an average cost.

        Source: Ilhan et al. 2024, Adaptive deep neural network inference optimization with EENet,
        section 3. There shares of exits and scores are trained in turns for one budget; here the
        cuts of given scores are tuned jointly at every price of loss, which finds the same shares.
        """
        graph = backbone(trace.graph)
        gates = cls(graph, TRADEOFFS, {}, {}, "eenet")
        sure: dict[str, FloatArray] = {}
        weights: dict[str, FloatArray] = {}
        for stage in graph.order:
            features = gates._looks(seen_by_all(trace, stage, graph), sure)
            right = (losses.values[stage] < 0.5).astype(np.int64)
            weights[stage] = logistic(features, right)[None]
            sure[stage] = _score(features, weights[stage])[:, 0]
        cuts = tuned(trace, losses, graph, sure)
        inner = graph.order[:-1]
        return cls(
            graph,
            TRADEOFFS,
            {stage: weights[stage] for stage in inner},
            {stage: cuts[stage][:, 0] for stage in inner},
            "eenet",
        )

    @classmethod
    def jei_dnn(cls, trace: Trace, losses: Losses) -> Gates:
        """Gates that tell whether stopping costs less than the best of what follows.

        Source: Regol et al. 2024, Jointly-learned exit and inference for a dynamic neural network,
        section 4: gates on statistics of the probabilities, trained on the examples that reach
        them; on recorded scores, so that heads stay as they are.
        """
        graph, unit = backbone(trace.graph), trace.reference_cost
        looks = {s: sureness(seen_by_all(trace, s, graph))[:, :3] for s in graph.order[:-1]}
        weights = {s: np.zeros((len(_GATES), 4)) for s in looks}
        for i, tradeoff in enumerate(_GATES):
            ahead = tradeoff * losses.excess(graph.order[-1]).astype(np.float64)
            for stage in reversed(graph.order[:-1]):
                step = graph.step_cost(trace.costs, graph.successors[stage][0], graph.ran(stage))
                stop, go = tradeoff * losses.excess(stage), ahead + step / unit
                here = (stop <= go).astype(np.int64)
                weights[stage][i] = logistic(looks[stage], here, np.abs(stop - go))
                gate = _score(looks[stage], weights[stage][i][None])[:, 0]
                ahead = np.where(gate >= 0, stop, go)
        return cls(graph, _GATES, weights, {s: np.zeros(len(_GATES)) for s in looks}, "jei-dnn")

    def evidence(self, seen: Seen) -> FloatArray:
        """The score of each gate of the stage, (n, gates)."""
        if self.kind == "jei-dnn":
            return _score(sureness(seen)[:, :3], self.weights[seen.stage])
        earlier: dict[str, FloatArray] = {}
        for stage in self.graph.observed[seen.stage]:
            said = {s: (seen.rows, seen.scores(s)) for s in self.graph.observed[stage]}
            there = Seen(stage, seen.rows, said, seen.kinds)
            earlier[stage] = _score(self._looks(there, earlier), self.weights[stage])[:, 0]
        return earlier[seen.stage][:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        at = int(np.abs(self.settings - setting).argmin())
        score = evidence[:, min(at, evidence.shape[1] - 1)]
        return np.where(score >= self.cuts[stage][at], STOP, 1)

    def _looks(self, seen: Seen, scores: Mapping[str, FloatArray]) -> FloatArray:
        """What the scorer sees, (n, features): statistics, votes, and the scores before."""
        observed = self.graph.observed[seen.stage]
        columns = [sureness(seen), votes(seen, observed)]
        return np.column_stack([*columns, *(scores[s] for s in observed[:-1])])


def _score(features: FloatArray, weights: FloatArray) -> FloatArray:
    """Logits of the gates, (n, gates)."""
    return np.asarray(weights[:, 0] + features @ weights[:, 1:].T)
