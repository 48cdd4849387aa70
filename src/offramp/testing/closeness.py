"""Which decisions are so close that engines may differ: a little more or less decides them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.core.frontier import replay
from offramp.core.graph import Graph
from offramp.core.policy import Policy, Seen, Wrapped
from offramp.core.trace import Trace
from offramp.plan.plan import Plan

MOST_CLOSE = 0.5  # share of rows that may be close, or little would be compared
_ROUNDING = 1e-7  # of evidence: what single precision leaves of chances close to 1
_NUDGES = 20  # of evidence, at random, that tell which decisions are close
_MARGIN = 1e-4  # decisions closer than this may differ between engines


def close(plan: Plan, trace: Trace) -> AnyArray:
    """Which examples of a trace are decided otherwise when scores move by a little, (examples,)."""
    near = np.zeros(trace.examples, dtype=bool)
    before = replay(trace, plan.running, plan.setting).stage
    for moved in _tilted(trace):
        near |= replay(moved, plan.running, plan.setting).stage != before
    for number in range(_NUDGES):
        near |= replay(trace, _Nudged(plan.running, number), plan.setting).stage != before
    return near


def close_at(policy: Policy, trace: Trace, stage: str, setting: float) -> AnyArray:
    """As `close`, of what is decided at one stage."""

    def evidence(of: Trace) -> FloatArray:
        return policy.evidence(seen_at(policy.graph, of, stage))

    exact = evidence(trace)
    others = [evidence(moved) for moved in _tilted(trace)]
    others += [_nudged(exact, number) for number in range(_NUDGES)]
    before = policy.choose(stage, exact, setting)
    moved = [policy.choose(stage, other, setting) != before for other in others]
    return np.asarray(np.any(moved, axis=0))


def _tilted(trace: Trace) -> Iterator[Trace]:
    """The trace with scores that are a little further apart, and a little closer."""
    for sign in (-1, 1):
        tilt = np.float32(1 + sign * _MARGIN)
        scores = {
            stage: values * tilt
            if trace.kinds[stage] == "logits"
            else np.maximum(values, 0) ** tilt  # a factor says nothing of shares
            for stage, values in trace.scores.items()
        }
        yield Trace(graph=trace.graph, costs=trace.costs, scores=scores, kinds=trace.kinds)


@dataclass(frozen=True)
class _Nudged(Wrapped):
    """A policy whose evidence is off by what single precision leaves of chances close to 1."""

    seed: int

    def evidence(self, seen: Seen) -> FloatArray:
        return _nudged(self.policy.evidence(seen), self.seed)


def _nudged(evidence: FloatArray, seed: int) -> FloatArray:
    signs = np.random.default_rng(seed).choice([-1, 1], evidence.shape)
    counts = evidence == np.round(evidence)  # which are exact
    return np.asarray(np.where(counts, evidence, evidence + signs * _ROUNDING))


def seen_at(graph: Graph, trace: Trace, stage: str, rows: IntArray | None = None) -> Seen:
    """What a walk that lets everything through has seen at `stage`."""
    rows = np.arange(trace.examples) if rows is None else rows
    said = {v: (rows, trace.scores[v][rows]) for v in graph.observed[stage]}
    return Seen(stage, rows, said, trace.kinds)
