"""Policies that cut one number into bands, with cuts of each stage's own for each setting.

| policy | its cuts of the sureness: of one label the highest probability | dial |
|---|---|---|
| thresholds | tuned jointly: coordinate descent, each step exact | tradeoff |
| window | likewise, and the least sure stop as well (Xia and Bouganis 2023) | tradeoff |
| exhaustive | the best of all combinations of quantiles | rank on the hull |
| msdnet | the surest share leaves; shares fall geometrically (Huang et al. 2018) | ratio |

Those whose cuts are found for one loss of accuracy at a time are in `offramp.policies.tuners`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from offramp.answering.committees import Committees, means
from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Graph
from offramp.core.hulls import corners
from offramp.core.policy import TRADEOFFS, Seen, backbone, path, seen_by_all
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.policies.families import Family, Saved, cuts_to_json
from offramp.policies.operators import INT64, Decision, Dial, Memory, SeenTensors

_COMBINATIONS = 4096  # of cuts that the exhaustive search tries, at most
_FINEST = 60  # quantiles of one stage, at most
_RATIOS = np.geomspace(100.0, 0.01, 60)  # of the share of one exit to that of the one before
_ROUNDED = 2.0**-54  # 1 minus less than this is 1 in numpy


@dataclass(frozen=True)
class Thresholds:
    """Cuts the highest probability into bands of falling sureness, one action each.

    The surest stop, the next go to the first successor, and so on, so that a skip is for the least
    sure. One cut more than successors: the band below it, the hopeless, stops again.
    """

    graph: Graph
    settings: FloatArray
    cuts: Mapping[str, FloatArray]  # stage -> (settings, successors or one more), falling along it
    kind: str = "thresholds"

    @classmethod
    def fit(cls, trace: Trace, losses: Losses) -> Thresholds:
        """One set of cuts for each tradeoff, on the whole graph."""
        return cls(trace.graph, TRADEOFFS, tuned(trace, losses, trace.graph, confidences(trace)))

    @classmethod
    def window(cls, trace: Trace, losses: Losses, kind: str = "window") -> Thresholds:
        """Stops the hopeless as well as the sure, where that pays held out.

        Source: Xia and Bouganis 2023, Window-based early-exit cascades: only what lies in a window
        of sureness goes on. There the window lies around one decision; here both its ends are tuned
        for the loss that counts, and at tradeoffs where the lower end lost more than it saved on
        halves that did not tune it, there is none. Theirs are pairs of networks; here the chain is
        walked as well.
        """
        graph = _windowed(trace.graph, kind)
        sure = {v: seen_by_all(trace, v).sure() for v in graph.order}
        plain = tuned(trace, losses, graph, sure)
        cuts = tuned(trace, losses, graph, sure, window=True)
        pays = _held_out(trace, losses, graph, True) < _held_out(trace, losses, graph, False)
        for stage in graph.order[:-1]:
            alone = np.column_stack([plain[stage], np.zeros(len(TRADEOFFS))])
            cuts[stage] = np.where(pays[:, None], cuts[stage], alone)
        return cls(graph, TRADEOFFS, cuts, kind)

    @classmethod
    def exhaustive(cls, trace: Trace, losses: Losses) -> Thresholds:
        """The hull of all combinations of quantiles, at most some thousand, along the chain.

        Source: what BranchyNet (Teerapittayanon et al. 2016, section III) leaves to its users, to
        look through ranges of thresholds, done exactly.
        """
        graph = backbone(trace.graph)
        corners = _Search(trace, losses, graph).best()
        inner = enumerate(graph.order[:-1])
        by_stage = {stage: np.array([[cuts[i]] for _, _, cuts in corners]) for i, stage in inner}
        return cls(graph, np.arange(len(corners), 0, -1.0), by_stage, "exhaustive")

    @classmethod
    def msdnet(cls, trace: Trace, losses: Losses) -> Thresholds:
        """Each exit takes its share of the examples, the surest of those that have come to it.

        Source: Huang et al. 2018, Multi-scale dense networks, section 4 (budgeted batches): shares
        proportional to powers of one ratio, which is the dial; above 1 most reach the last.
        """
        graph = backbone(trace.graph)
        sure = confidences(trace)
        cuts = {stage: np.full((len(_RATIOS), 1), np.inf) for stage in graph.order[:-1]}
        for i, ratio in enumerate(_RATIOS):
            shares = ratio ** np.arange(len(graph.order))
            left = np.ones(trace.examples, dtype=bool)
            for stage, share in zip(cuts, shares / shares.sum(), strict=False):
                leaving = min(1.0, share * trace.examples / max(1, left.sum()))
                cuts[stage][i] = _inner(sure[stage][left], 1 - leaving)
                left &= sure[stage] < cuts[stage][i]
        return cls(graph, _RATIOS, cuts, "msdnet")

    def evidence(self, seen: Seen) -> FloatArray:
        return seen.sure()[:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        cuts = self.cuts[stage][int(np.abs(self.settings - setting).argmin())]
        band = (evidence < cuts).sum(axis=1)
        return np.asarray(band % (len(self.graph.successors[stage]) + 1))

    def to_json(self) -> dict[str, Any]:
        return {"cuts": {stage: cuts_to_json(cuts) for stage, cuts in self.cuts.items()}}

    @classmethod
    def from_json(cls, saved: Saved) -> Thresholds:
        rows = len(saved.settings)
        cuts = {stage: cut.reshape(rows, -1) for stage, cut in saved.cuts("cuts").items()}
        for stage, after in saved.graph.successors.items():
            many = (len(after), len(after) + 1)
            saved.check(not after or cuts[stage].shape[1] in many, "cuts", stage)
        return cls(saved.graph, saved.settings, cuts, saved.kind)

    def forced(self, *, goes_on: bool) -> tuple[Thresholds, float]:
        cuts = {stage: np.full_like(cut, -np.inf) for stage, cut in self.cuts.items()}
        for cut in cuts.values():
            cut[:, :1] = np.inf if goes_on else -np.inf
        return replace(self, cuts=cuts), float(self.settings[0])

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        """Sureness is compared as 1 minus itself, which keeps its digits near 1."""
        scope, cuts = seen.scope, 1.0 - self.cuts[seen.stage]
        cuts = np.where(cuts == 0, _ROUNDED, cuts)
        limits = dial.row(scope, self.settings, cuts)
        unsure = seen.trusted(seen.unsure)
        above = scope.add("LessOrEqual", unsure, limits)
        if cuts.shape[1] == 1:
            return Decision.column(scope, above)
        bands = scope.add("Cast", scope.add("Not", above), to=INT64)
        action = scope.add("ReduceSum", bands, scope.integers(1), keepdims=0)
        successors = len(self.graph.successors[seen.stage])
        if cuts.shape[1] > successors:  # below the last band the hopeless stop, what is NaN goes on
            last = scope.constant(successors, np.int64)
            stopping = scope.add("Mod", action, scope.constant(successors + 1, np.int64))
            broken = scope.add("Squeeze", scope.add("IsNaN", unsure), scope.integers(1))
            action = scope.add("Where", broken, last, stopping)
        return Decision.by_action(scope, action)

    def remembered(self, stage: str) -> Memory:
        return {}


WINDOWS = ("window", "window-pair")  # along the chain; from the first stage to the last alone


def _windowed(graph: Graph, kind: str) -> Graph:
    chain = backbone(graph)
    return chain if kind == WINDOWS[0] else path(graph, [*{chain.order[0]: 0, chain.order[-1]: 0}])


def _means(trace: Trace, losses: Losses, *, kind: str) -> Committees:
    """Later stages answer with all before them, where that loses no more."""
    return means(trace, _windowed(trace.graph, kind), losses.name)


THRESHOLDS = (
    Family(name="thresholds", fit=Thresholds.fit, read=Thresholds.from_json, any_task=True),
    *(
        Family(
            name=kind,
            fit=partial(Thresholds.window, kind=kind),
            read=Thresholds.from_json,
            any_task=True,
            answers=partial(_means, kind=kind),
        )
        for kind in WINDOWS
    ),
    Family(name="exhaustive", fit=Thresholds.exhaustive, read=Thresholds.from_json, any_task=True),
    Family(name="msdnet", fit=Thresholds.msdnet, read=Thresholds.from_json, any_task=True),
)


def confidences(trace: Trace) -> dict[str, FloatArray]:
    """How sure every stage is of every example, (examples,) each in [0, 1]."""
    return {v: seen_by_all(trace, v).sure() for v in trace.graph.order}


def _inner(sure: FloatArray, share: float) -> float:
    """The cut with this share of `sure` below it; at the ends infinite, and 0."""
    if not len(sure) or share >= 1:
        return np.inf
    return float(np.quantile(sure, share)) if share > 0 else 0.0


class _Search:
    """All combinations of quantiles along a chain; what later stages do best is a hull of its own.

    For whatever earlier cuts let through, only the corners of the later stages' hull can lie on the
    hull of the whole, so that nothing is lost by keeping no more.
    """

    def __init__(self, trace: Trace, losses: Losses, graph: Graph) -> None:
        self.graph, self.sure = graph, confidences(trace)
        stages = graph.order
        levels = round(_COMBINATIONS ** (1 / max(1, len(stages) - 1)))
        self.shares = np.linspace(0, 1, max(2, min(levels, _FINEST)))
        self.excess = [losses.excess(stage) for stage in stages]
        self.steps = [trace.step_cost(graph, stages[0])]
        for before, after in itertools.pairwise(stages):
            self.steps.append(trace.step_cost(graph, after, graph.ran(before)))

    def best(self) -> list[tuple[float, float, tuple[float, ...]]]:
        """Total excess loss, total cost and cuts of each corner, from the dearest down."""
        return self._from(0, np.arange(len(self.excess[0])))

    def _from(self, at: int, rows: IntArray) -> list[tuple[float, float, tuple[float, ...]]]:
        paid = _total(self.steps[at], rows)
        if at == len(self.steps) - 1:
            return [(float(self.excess[at][rows].sum()), paid, ())]
        sure, tried = self.sure[self.graph.order[at]][rows], []
        for share in self.shares:
            cut = _inner(sure, float(share))
            goes = sure < cut
            lost = float(self.excess[at][rows[~goes]].sum())
            for loss, cost, cuts in self._from(at + 1, rows[goes]):
                tried.append((lost + loss, paid + cost, (cut, *cuts)))
        kept = corners(np.array([each[0] for each in tried]), np.array([each[1] for each in tried]))
        return [tried[i] for i in kept]


def _total(cost: FloatArray | float, rows: IntArray) -> float:
    """What these rows cost together, at one cost for all or at one for each example."""
    return cost * len(rows) if isinstance(cost, float) else float(np.asarray(cost)[rows].sum())


def tuned(
    trace: Trace,
    losses: Losses,
    graph: Graph,
    sure: Mapping[str, FloatArray],
    *,
    window: bool = False,
) -> dict[str, FloatArray]:
    """Jointly tuned cuts of any sureness, stage -> (tradeoffs, bands - 1), for each of TRADEOFFS.

    Args:
        trace: what costs and edges cost.
        losses: of its examples.
        graph: of the policy.
        sure: stage -> (examples,), larger is surer.
        window: whether there is one more band, the least sure, which stops.
    """
    tuner = _Tuner(trace, losses, graph, sure, window)
    rows = [tuner.tune(tradeoff) for tradeoff in TRADEOFFS]
    return {stage: np.stack([row[stage] for row in rows]) for stage in graph.order}


def _held_out(trace: Trace, losses: Losses, graph: Graph, window: bool) -> FloatArray:
    """What cuts that are tuned on one half cost the other half, in sum, at each of TRADEOFFS."""
    half = np.random.default_rng(0).permutation(trace.examples) % 2
    total = np.zeros(len(TRADEOFFS))
    parts = [(trace.take(rows), losses.take(rows)) for rows in (half == 0, half == 1)]
    tuners = [_Tuner(part, its, graph, confidences(part), window) for part, its in parts]
    for tuner, other in (tuners, tuners[::-1]):
        total += [other.total(tradeoff, tuner.tune(tradeoff)) for tradeoff in TRADEOFFS]
    return total


class _Tuner:
    """Coordinate descent over the stages' cuts; each step is exact for the rows that reach it."""

    def __init__(
        self,
        trace: Trace,
        losses: Losses,
        graph: Graph,
        sure: Mapping[str, FloatArray],
        window: bool,
        sweeps: int = 4,
    ) -> None:
        self.graph, self.sweeps, self.window = graph, sweeps, window
        self.excess = {v: losses.excess(v) for v in graph.order}
        self.step = {
            (v, u): trace.step_cost(graph, u, graph.ran(v)) / trace.reference_cost
            for v, u in graph.edges
        }
        self.sure = sure
        self.order = {v: np.argsort(-sure[v]) for v in graph.order}
        self.n = trace.examples

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
        choices = self._choices(stage, ahead)
        bands = [*choices, choices[0]] if self.window and len(choices) > 1 else choices
        order = self.order[stage][reach[self.order[stage]]]
        sorted_sure = self.sure[stage][order]
        # equally sure examples must go the same way, so that a cut can only lie between groups
        starts = np.flatnonzero(np.diff(sorted_sure, prepend=np.inf))
        ends = best_bands(np.stack([np.add.reduceat(c[order], starts) for c in bands]))
        sure = np.append(sorted_sure[starts], -np.inf)
        above = np.append(np.inf, sorted_sure[starts])
        cuts[stage] = np.array([_between(above[end], sure[end]) for end in ends])
        if not order.size:  # nobody has come: whoever comes goes on
            cuts[stage] = np.repeat([np.inf, 0.0], [len(choices) - 1, len(bands) - len(choices)])
        return self._go(stage, ahead, cuts)

    def _choices(self, stage: str, ahead: Mapping[str, FloatArray]) -> list[FloatArray]:
        """The cost-to-go of every action, (n,) each."""
        successors = self.graph.successors[stage]
        return [ahead[stage]] + [ahead[u] + self.step[stage, u] for u in successors]

    def _go(
        self, stage: str, ahead: dict[str, FloatArray], cuts: Mapping[str, FloatArray]
    ) -> IntArray:
        """The action of all rows; sets their cost-to-go."""
        choices = self._choices(stage, ahead)
        band = (self.sure[stage][:, None] < cuts[stage]).sum(axis=1)
        action = np.asarray(band % len(choices))
        ahead[stage] = np.choose(action, choices)
        return action

    def total(self, tradeoff: float, cuts: Mapping[str, FloatArray]) -> float:
        """Tradeoff times excess loss, plus the cost from the root on, of all rows together."""
        ahead = {v: tradeoff * self.excess[v] for v in self.graph.order}
        for stage in reversed(self.graph.order):
            self._go(stage, ahead, cuts)
        return float(ahead[self.graph.root].sum(dtype=np.float64))

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
