"""Thresholds as they are tuned for one loss of accuracy at a time, which is then the dial.

| policy | its cuts | loss of accuracy |
|---|---|---|
| greedy | each stage by itself (Berestizshevsky and Even 2019) | against the stage's own best |
| earlyon | stage after stage, from a grid (earlyon) | against no exit |
| apparate | all at once, by hill climbing (Dai et al. 2024) | answers that differ from no exit |

The dial is 1 minus the loss that is allowed. They compare the task's sureness, of one label the
highest probability, along a chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from offramp.base.arrays import BoolArray, FloatArray, IntArray
from offramp.core.policy import backbone, seen_by_all
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.policies.families import Family
from offramp.policies.thresholds import Thresholds, confidences

_TOLERANCES = np.linspace(0.0, 0.3, 60)  # accuracy that may be lost
_FEWEST = 50  # an accuracy counts where at least one in so many examples is above the cut
_GRID = (0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)  # of earlyon: from careful to bold
_CLIMBED = np.concatenate([[0.0], np.geomspace(0.001, 0.3, 24)])  # each takes three climbs
_STEPS = (0.0125, 0.025, 0.05)  # that climbs of Apparate start with; the first is the smallest


def greedy(trace: Trace, losses: Losses) -> Thresholds:
    """Each exit takes what it answers within a tolerance as well as the best it can.

    Source: Berestizshevsky and Even 2019, Dynamically sacrificing accuracy for reduced
    computation, section 3: an exit's cut is the lowest whose accuracy above it is at least the
    exit's highest minus the tolerance, over all examples. The dial is 1 minus the tolerance.
    """
    graph, sure = backbone(trace.graph), confidences(trace)
    cuts = {
        stage: np.array([[_lowest(sure[stage], losses.values[stage], t)] for t in _TOLERANCES])
        for stage in graph.order[:-1]
    }
    return Thresholds(graph, 1 - _TOLERANCES, cuts, "greedy")


def _lowest(sure: FloatArray, loss: FloatArray, tolerance: float) -> float:
    """The lowest cut above which the mean loss is within `tolerance` of its lowest anywhere."""
    order = np.argsort(-sure)
    falling = sure[order]
    # equally sure examples leave together, and the accuracy of a few is luck
    ends = np.flatnonzero(np.diff(falling, append=-np.inf))
    ends = ends[ends + 1 >= len(sure) / _FEWEST]
    mean = np.cumsum(loss[order], dtype=np.float64)[ends] / (ends + 1)
    return float(falling[ends[mean <= mean.min() + tolerance][-1]])


def earlyon(trace: Trace, losses: Losses) -> Thresholds:
    """From the first exit to the last, the boldest cut of a grid that keeps the accuracy.

    Source: the calibrator of the package earlyon (github.com/sohams25/earlyon, core/thresholds):
    earlier exits keep the cut they got, later ones do not fire yet, and the accuracy of the whole
    is compared with that of the network without exits. Its option to fit one temperature first is
    left out.
    """
    graph, sure = backbone(trace.graph), confidences(trace)
    last = losses.values[graph.order[-1]].astype(np.float64)
    cuts = {stage: np.full((len(_TOLERANCES), 1), np.inf) for stage in graph.order[:-1]}
    for i, tolerance in enumerate(_TOLERANCES):
        here, lost = np.ones(trace.examples, dtype=bool), 0.0
        for stage in cuts:
            worse = losses.values[stage] - last
            total = {cut: lost + float(worse[here & (sure[stage] >= cut)].sum()) for cut in _GRID}
            kept = [cut for cut in _GRID if total[cut] <= tolerance * trace.examples]
            if kept:
                cuts[stage][i] = min(kept)
                lost, here = total[min(kept)], here & (sure[stage] < min(kept))
    return Thresholds(graph, 1 - _TOLERANCES, cuts, "earlyon")


def apparate(trace: Trace, losses: Losses) -> Thresholds:
    """Cuts raised together, each time where least agreement is lost for the cost that is saved.

    Source: Dai et al. 2024, Apparate, section 3.2 (greedy search of thresholds), with the steps of
    github.com/dywsjtu/apparate: they grow where they pay and shrink where nothing is allowed, from
    three sizes; accuracy is agreement with the network without exits. It goes on tuning while it
    serves, and moves exits; here exits lie where they lie. Theirs compares 1 minus the highest
    probability of vision networks, and entropies of others.
    """
    graph = backbone(trace.graph)
    climber = _Climber.of(trace)
    found = []
    for tolerance in _CLIMBED:
        climbs = [climber.climb(float(tolerance), step) for step in _STEPS]
        found.append(min(climbs, key=lambda errors: climber.at(errors).cost))
    # an error below the limit is a sureness above 1 minus the limit, not equal to it
    cuts = np.nextafter(1.0 - np.array(found), np.inf)
    by_stage = {stage: cuts[:, [number]] for number, stage in enumerate(graph.order[:-1])}
    return Thresholds(graph, 1 - _CLIMBED, by_stage, "apparate")


class _State(NamedTuple):
    agreement: float  # share of answers that are the last stage's
    cost: float  # mean, over the reference's


@dataclass(frozen=True)
class _Climber:
    """Climbs from no exit towards lower costs; limits are of the error, 1 minus the sureness."""

    errors: FloatArray  # (exits, examples)
    alike: BoolArray  # (exits, examples) whether the exit answers as the last stage does
    paid: FloatArray  # (exits + 1, examples) what a walk to the stage costs, over the reference's

    @classmethod
    def of(cls, trace: Trace) -> _Climber:
        graph = backbone(trace.graph)
        seen = {stage: seen_by_all(trace, stage, graph) for stage in graph.order}
        exits, last = graph.order[:-1], graph.order[-1]
        same = [seen[last].agreement(stage) >= 1.0 for stage in exits]
        paid, total = [], np.zeros(trace.examples)
        run: frozenset[str] = frozenset()
        for stage in graph.order:
            total = total + trace.step_cost(graph, stage, run) / trace.reference_cost
            paid.append(total)
            run = graph.ran(stage)
        shape = (len(exits), trace.examples)
        errors = 1.0 - np.array([seen[stage].sure() for stage in exits]).reshape(shape)
        return cls(errors, np.array(same, dtype=bool).reshape(shape), np.array(paid))

    def at(self, limits: FloatArray) -> _State:
        """What limits (exits,) reach."""
        leaves = self.errors < limits[:, None]
        everyone = np.vstack([leaves, np.ones(leaves.shape[1:], dtype=bool)])
        stage: IntArray = everyone.argmax(axis=0)
        rows = np.arange(everyone.shape[1])
        alike = np.vstack([self.alike, everyone[-1:]])[stage, rows]
        return _State(float(alike.mean()), float(self.paid[stage, rows].mean()))

    def climb(self, tolerance: float, step: float) -> FloatArray:
        """Limits (exits,) at which so few answers differ, from steps of one size."""
        limits, steps = np.zeros(len(self.errors)), np.full(len(self.errors), step)
        state = self.at(limits)
        while True:
            direction, free = self._direction(limits, steps, state, tolerance)
            if direction is not None and limits[direction] <= 1:
                limits[direction] += steps[direction]
                state = self.at(limits)
                steps[[*{direction, *free}]] *= 2
                continue
            large = (steps > _STEPS[0]) & (limits <= 1)
            if not large.any():
                return limits
            steps[large] /= 2

    def _direction(
        self, limits: FloatArray, steps: FloatArray, state: _State, tolerance: float
    ) -> tuple[int | None, list[int]]:
        """The exit whose limit is raised next, if any, and those that cost or save nothing."""
        best, least, free = None, np.inf, []
        for number in range(len(limits)):
            tried = self.at(limits + np.where(np.arange(len(limits)) == number, steps, 0.0))
            if 1 - tried.agreement > tolerance:
                continue
            lost, saved = abs(tried.agreement - state.agreement), abs(tried.cost - state.cost)
            if saved and lost / saved < least:
                best, least = number, lost / saved
            if not (saved and lost):
                free.append(number)
        return (free[0] if best is None and free else best), free


TUNERS = tuple(
    Family(name=tune.__name__, fit=tune, read=Thresholds.from_json, any_task=True)
    for tune in (greedy, earlyon, apparate)
)
