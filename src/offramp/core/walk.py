"""THE LOOP. It asks for stages to be run and decides where each example goes; it does no I/O.

Replay of a trace and every engine drive this generator: they receive `Work`, send back the scores
of those rows, and get the `Outcome` at the end. Exported files hold the same walk unrolled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.example_costs import AnyCosts, paid
from offramp.core.graph import Costs, Graph
from offramp.core.policy import STOP, Policy, Seen
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import Kind


@dataclass(frozen=True)
class Work:
    """Which rows of the batch must be run through which stage."""

    stage: str
    rows: IntArray  # (n,) ascending


@dataclass(frozen=True)
class Outcome:
    """Where each example stopped and what its walk cost."""

    order: tuple[str, ...]  # the stages that `stage` counts
    stage: IntArray  # (batch,) position in `order`
    cost: FloatArray  # (batch,) in the unit of the costs

    def exits(self) -> dict[str, float]:
        """The share of examples that stopped at each stage."""
        counts = np.bincount(self.stage, minlength=len(self.order))
        return {
            s: float(c / max(1, len(self.stage))) for s, c in zip(self.order, counts, strict=True)
        }


def walk(
    policy: Policy,
    setting: float,
    costs: AnyCosts,
    kinds: Mapping[str, Kind],
    batch: int,
    task: Task = SINGLE,
) -> Generator[Work, FloatArray, Outcome]:
    """The routing of one batch, whose rows are compacted between stages.

    Stages are asked for in topological order, each at most once: rows of branches are joined.

    Args:
        policy: what decides, and the graph to walk.
        setting: the position of the policy's dial.
        costs: of every stage of the policy's graph; or of each row of the batch, where they differ.
        kinds: what each stage's scores are; what they mean, `task` says.
        batch: number of rows.

    Yields:
        Work, of at least one row; expects the scores (rows, classes) of it.
    """
    graph = policy.graph
    at, cost, meter = np.zeros(batch, np.int64), np.zeros(batch), _Meter(graph, costs, batch)
    said: dict[str, tuple[IntArray, FloatArray]] = {}
    waiting: dict[str, list[IntArray]] = {graph.root: [np.arange(batch)]}
    for position, stage in enumerate(graph.order):
        if not (rows := _joined(waiting.pop(stage, []))).size:
            continue
        at[rows] = position
        cost[rows] += meter.pay(stage, rows)
        scores = yield Work(stage, rows)
        said[stage] = (rows, scores)
        if successors := graph.successors[stage]:
            seen = Seen(stage, rows, {v: said[v] for v in graph.observed[stage]}, kinds, task=task)
            chosen = policy.choose(stage, policy.evidence(seen), setting)
            action = _never_trust_broken(chosen, scores, len(successors), kinds[stage])
            for number, successor in enumerate(successors, start=1):
                waiting.setdefault(successor, []).append(rows[action == number])
    return Outcome(graph.order, at, cost)


def _joined(waiting: list[IntArray]) -> IntArray:
    """The rows that have come by any way, ascending."""
    arrived = [rows for rows in waiting if rows.size]
    if len(arrived) == 1:
        return arrived[0]
    return np.sort(np.concatenate(arrived)) if arrived else np.empty(0, dtype=np.int64)


def drive(
    walking: Generator[Work, FloatArray, Outcome], run: Callable[[Work], FloatArray]
) -> Outcome:
    """Drives a walk to its end: `run` answers each Work with scores."""
    try:
        work = next(walking)
        while True:
            work = walking.send(run(work))
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome


def _never_trust_broken(action: IntArray, scores: FloatArray, last: int, kind: Kind) -> IntArray:
    """Examples without a finite highest score do not leave early: they go on, as far as possible.

    A class that is impossible, at minus infinity, breaks nothing; of numbers all must be finite.
    """
    with np.errstate(over="ignore"):  # many impossible classes, at the smallest number there is
        if math.isfinite(scores.sum()):  # the quick look that nearly every batch passes
            return action
    if kind == "numbers":
        broken = ~np.isfinite(scores).all(axis=1)
    else:
        broken = ~np.isfinite(scores.max(axis=1))
    return np.where(broken & (action == STOP), last, action)


class _Meter:
    """Charges each example for the bodies and heads that it needs and has not run yet."""

    def __init__(self, graph: Graph, costs: AnyCosts, batch: int) -> None:
        self.graph, self.costs = graph, costs
        self.alone: float | None = None
        if len(graph.order) == 1 and isinstance(costs, Costs):
            self.alone = graph.alone(costs, graph.root)
        self.ran = {name: np.zeros(batch, dtype=bool) for name in graph.shared}

    def pay(self, stage: str, rows: IntArray) -> FloatArray | float:
        if self.alone is not None:  # nothing is routed: the network as it is, uncut
            return self.alone
        total: FloatArray | float = 0.0
        for part in self.graph.parts(stage):
            price = self._price(part, rows)
            if part in self.ran:
                price = np.where(self.ran[part][rows], 0.0, price)
                self.ran[part][rows] = True
            total = total + price
        return total

    def _price(self, part: str, rows: IntArray) -> FloatArray | float:
        own = self.costs
        return own.part(part) if isinstance(own, Costs) else paid(own, part, rows)
