"""Gates of each stage's own, learned by logistic regression, that compare a score with a cut.

| policy | a gate's score, a logit | its cut |
|---|---|---|
| eenet | that the answer is right, from probabilities, votes, earlier scores | tuned jointly |
| jei-dnn | that stopping here costs no more than going on, one gate for each tradeoff | 0 |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.policy import STOP, TRADEOFFS, Seen, backbone, seen_by_all
from offramp.core.tasks import FEW_CLASSES, Losses
from offramp.core.trace import Trace
from offramp.policies.families import Family, Saved, arrays_to_json, cuts_to_json
from offramp.policies.logistic import column_weights, log_odds, logistic
from offramp.policies.operators import ANSWERS, Decision, Dial, Memory, SeenTensors
from offramp.policies.statistics import agreeing, observations, summary
from offramp.policies.thresholds import tuned

_FOLDS = 5
_ROUNDS = 2  # in the first all examples count alike at every gate


@dataclass(frozen=True, kw_only=True)
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

        The scorer is theirs: linear, of the probabilities, their summary, the share of votes and
        the scores before. Their second head is not here: it learns, for one budget, which share of
        the examples each exit takes, and the cuts follow from the shares. Here the cuts are tuned
        jointly for the lowest loss at every price of cost, on scores out of fold, which has the
        same purpose, needs no gradient descent and leaves no better shares to be found on the
        learning set one exit at a time.

        Source: Ilhan et al. 2024, Adaptive deep neural network inference optimization with EENet,
        section 3. Votes are counted for the present answer, not for the most frequent one.
        """
        graph = backbone(trace.graph)
        gates = cls(graph=graph, settings=TRADEOFFS, weights={}, cuts={}, kind="eenet")
        folds = np.random.default_rng(0).permutation(trace.examples) % _FOLDS
        weights: dict[str, FloatArray] = {}
        known: dict[str, FloatArray] = {}  # scores that later scorers look at
        honest: dict[str, FloatArray] = {}  # out of fold, for the cuts
        for stage in graph.order:
            features = gates._looks(seen_by_all(trace, stage, graph), known)
            right = 1.0 - losses.values[stage].astype(np.float64)
            scale = column_weights(features.shape[1], trace.classes)
            weights[stage] = logistic(features, right, scale=scale)[None]
            known[stage] = log_odds(features, weights[stage])[:, 0]
            honest[stage] = np.empty(trace.examples)
            for held in (folds == fold for fold in np.unique(folds)):
                other = logistic(features[~held], right[~held], scale=scale)[None]
                honest[stage][held] = log_odds(features[held], other)[:, 0]
        cuts = tuned(trace, losses, graph, honest)
        inner = graph.order[:-1]
        return cls(
            graph=graph,
            settings=TRADEOFFS,
            weights={stage: weights[stage] for stage in inner},
            cuts={stage: cuts[stage][:, 0] for stage in inner},
            kind="eenet",
        )

    @classmethod
    def jei_dnn(cls, trace: Trace, losses: Losses) -> Gates:
        """Gates that tell whether stopping costs less than what follows.

        They are theirs in what they look at (four statistics of the probabilities), in being
        linear, in how they are trained (whether stopping costs less than later exits, at one
        tradeoff), and in weighing each example by the chance that it comes to the gate. Heads stay
        as they are, since only their scores are recorded: the joint training of heads is not here.
        Two things differ, in their favour: examples also weigh by what is at stake, without which
        losses of 0 and 1 give the same gates at every tradeoff; and what follows is what the later
        gates will do, not the best that could follow.

        Source: Regol et al. 2024, Jointly-learned exit and inference for a dynamic neural network,
        section 4.
        """
        graph = backbone(trace.graph)
        looks = {s: summary(seen_by_all(trace, s, graph)) for s in graph.order[:-1]}
        taught = [_taught(trace, losses, graph, looks, tradeoff) for tradeoff in TRADEOFFS]
        weights = {s: np.stack([gates[s] for gates in taught]) for s in looks}
        cuts = {s: np.zeros(len(TRADEOFFS)) for s in looks}
        return cls(graph=graph, settings=TRADEOFFS, weights=weights, cuts=cuts, kind="jei-dnn")

    def evidence(self, seen: Seen) -> FloatArray:
        """The score of each gate of the stage, (n, gates)."""
        if self.kind == "jei-dnn":
            return log_odds(summary(seen), self.weights[seen.stage])
        known: dict[str, FloatArray] = {}
        for stage in self.graph.observed[seen.stage]:
            said = {s: (seen.rows, seen.scores(s)) for s in self.graph.observed[stage]}
            there = Seen(stage, seen.rows, said, seen.kinds)
            known[stage] = log_odds(self._looks(there, known), self.weights[stage])[:, 0]
        return known[seen.stage][:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        at = int(np.abs(self.settings - setting).argmin())
        score = evidence[:, min(at, evidence.shape[1] - 1)]
        return np.where(score >= self.cuts[stage][at], STOP, 1)

    def _looks(self, seen: Seen, known: Mapping[str, FloatArray]) -> FloatArray:
        """What the scorer sees, (n, features): observations, votes, and the scores before."""
        observed = self.graph.observed[seen.stage]
        votes = agreeing(seen, observed).mean(axis=1)
        return np.column_stack([observations(seen), votes, *(known[s] for s in observed[:-1])])

    def to_json(self) -> dict[str, Any]:
        cuts = {stage: cuts_to_json(cut[:, None]) for stage, cut in self.cuts.items()}
        return {"weights": arrays_to_json(self.weights), "cuts": cuts}

    @classmethod
    def from_json(cls, saved: Saved) -> Gates:
        graph, weights, cuts = saved.graph, saved.numbers("weights"), saved.cuts("cuts")
        gates = 1 if saved.kind == "eenet" else len(saved.settings)
        for stage, weight in weights.items():
            before = len(graph.observed[stage]) - 1 if saved.kind == "eenet" else 0
            first = weights[graph.root].shape[1]
            saved.check(weight.shape == (gates, first + before), "weights", stage)
            saved.check(cuts[stage].shape == (len(saved.settings), 1), "cuts", stage)
        flat = {stage: cut[:, 0] for stage, cut in cuts.items()}
        return cls(
            graph=graph, settings=saved.settings, weights=weights, cuts=flat, kind=saved.kind
        )

    def forced(self, *, goes_on: bool) -> tuple[Gates, float]:
        always = np.inf if goes_on else -np.inf
        cuts = {stage: np.full_like(cut, always) for stage, cut in self.cuts.items()}
        return replace(self, cuts=cuts), float(self.settings[0])

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        value = seen.trusted(self._score(seen, dial))
        limit = dial.row(seen.scope, self.settings, self.cuts[seen.stage][:, None])
        return Decision.column(seen.scope, seen.scope.add("GreaterOrEqual", value, limit))

    def remembered(self, stage: str) -> Memory:
        return {} if self.kind == "jei-dnn" else {**ANSWERS, "scores": self._scores}

    def _score(self, seen: SeenTensors, dial: Dial) -> str:
        """The score of the gate of a stage, (n, 1)."""
        scope, weights, stages = seen.scope, self.weights[seen.stage], len(seen.observed)
        looks = [seen.observations]
        if self.kind == "jei-dnn":  # looks at no probabilities of classes
            rest = seen.classes if seen.classes <= FEW_CLASSES else 0
            weights = np.pad(weights, ((0, 0), (0, rest)))
        elif stages == 1:  # the only vote is its own
            weights = np.concatenate([weights[:, :1] + weights[:, -1:], weights[:, 1:-1]], axis=1)
        else:
            alike = scope.add("ReduceSum", seen.alike, scope.integers(1))
            votes = scope.add("Add", alike, scope.constant(1.0))
            looks.append(scope.add("Div", votes, scope.constant(float(stages))))
            looks.append(seen.get(f"{seen.observed[-2]}:scores"))
        slopes = dial.row(scope, self.settings, weights[:, 1:, None])
        constant = dial.row(scope, self.settings, weights[:, :1])
        row = looks[0] if len(looks) == 1 else scope.add("Concat", *looks, axis=1)
        return scope.add("Add", scope.add("MatMul", row, slopes), constant)

    def _scores(self, seen: SeenTensors, dial: Dial) -> str:
        """The score of the gate of each stage so far, (n, stages)."""
        return seen.joined("scores", self._score(seen, dial))


GATES = (
    Family(name="eenet", fit=Gates.eenet, read=Gates.from_json),
    Family(name="jei-dnn", fit=Gates.jei_dnn, read=Gates.from_json),
)


def _taught(
    trace: Trace,
    losses: Losses,
    graph: Graph,
    looks: Mapping[str, FloatArray],
    tradeoff: float,
) -> dict[str, FloatArray]:
    """The gate of every stage but the last at one tradeoff, (1 + features,) each."""
    gates: dict[str, FloatArray] = {}
    comes = {stage: np.ones(trace.examples) for stage in looks}
    for _ in range(_ROUNDS):
        ahead = tradeoff * losses.excess(graph.order[-1]).astype(np.float64)
        stays = {}
        for stage in reversed(graph.order[:-1]):
            step = trace.step_cost(graph, graph.successors[stage][0], graph.ran(stage))
            stop, go = tradeoff * losses.excess(stage), ahead + step / trace.reference_cost
            better = (stop <= go).astype(np.float64)
            gates[stage] = logistic(looks[stage], better, np.abs(stop - go) * comes[stage])
            score = log_odds(looks[stage], gates[stage][None])[:, 0]
            ahead, stays[stage] = np.where(score >= 0, stop, go), expit(score)
        chance = np.ones(trace.examples)
        for stage in graph.order[:-1]:
            comes[stage] = chance
            chance = chance * (1.0 - stays[stage])
    return gates
