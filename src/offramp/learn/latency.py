"""Cost that is time: what a request of a given size takes, and which stages pay in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.stats import binom

from offramp.base.arrays import IntArray
from offramp.base.errors import CostError, GraphError
from offramp.core.frontier import Point, frontier, needed
from offramp.core.graph import Costs, Graph, head, whole
from offramp.core.policy import Learner, Policy
from offramp.core.prices import Prices
from offramp.core.tasks import Losses
from offramp.core.trace import Trace

_ROUNDS = 2  # of learning at the costs that the last round's survivors make


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds of requests, by the number of rows in them."""

    batch: int  # rows of a request
    parts: Mapping[str, Mapping[int, float]]  # of bodies, heads and uncut networks
    stop: Mapping[int, float]  # of deciding at one stage and bringing together the rows that go on
    source: str = "given"  # how and where they were measured
    others: tuple[int, ...] = ()  # further rows of requests, smaller ones, to tell costs of
    engine: str | None = None  # and its version, that they were measured on

    def costs(self, graph: Graph, shares: Mapping[str, float] | None = None) -> Costs:
        """Seconds per example that needs a part, where requests are whole and survivors chance.

        The rows of a request that need a part are binomial; the fewer they are, the dearer is each.

        Args:
            graph: decisions are made at its stages that others follow.
            shares: of the examples that need each part; 1 where not given.

        Raises:
            CostError: a part was not timed.
        """
        shares = shares or {}
        body, heads = {}, {}
        for stage in graph.stages:
            name = stage.name
            body[name] = self._expected(self._times(name), shares.get(name, 1.0))
            share = shares.get(head(name), 1.0)
            own = self.parts.get(head(name), {1: 0.0})  # a network that was not cut has no head
            heads[name] = self._expected(own, share)
            if stage.answers and graph.successors[name]:
                heads[name] += self._expected(self.stop, share)
        smaller = [replace(self, batch=batch, others=()) for batch in self.others]
        return Costs(
            body=body,
            head=heads,
            unit="s",
            source=f"{self.source}, for requests of {self.batch}",
            whole={stage.name: self.alone(graph, stage.name) for stage in graph.stages},
            batch=self.batch,
            overhead=self._expected(self.stop, 1.0),
            at={other.batch: other.costs(graph, shares) for other in smaller},
            engine=self.engine,
        )

    def alone(self, graph: Graph, stage: str) -> float:
        """Seconds per example of one network by itself, which decides nothing."""
        parts = [whole(stage)] if whole(stage) in self.parts else graph.parts(stage)
        own = [p for p in parts if p in self.parts]  # a network that was not cut has no head
        return sum(self._expected(self.parts[part], 1.0) for part in own)

    def _times(self, part: str) -> Mapping[int, float]:
        if part not in self.parts:
            raise CostError(f"'{part}' was not timed; measure the latency of every part.")
        return self.parts[part]

    def _expected(self, times: Mapping[int, float], share: float) -> float:
        """Seconds per example, where each of a request's rows comes here with chance `share`."""
        share = max(share, 0.01 / self.batch)
        rows = np.arange(self.batch + 1)
        spent = np.interp(rows, [0, *times], [0.0, *times.values()])
        chance = binom.pmf(rows, self.batch, min(share, 1.0))
        return float(chance @ spent) / (self.batch * share)

    def to_json(self) -> dict[str, Any]:
        """As JSON values, in milliseconds."""
        parts = {name: _ms(times) for name, times in self.parts.items()}
        return {"batch": self.batch, "part_ms": parts, "stop_ms": _ms(self.stop)}


def _ms(times: Mapping[int, float]) -> dict[str, float]:
    return {str(rows): spent * 1e3 for rows, spent in times.items()}


@dataclass(frozen=True)
class Settled:
    """The stages that pay, and what they cost where the rows that come to each are as expected."""

    graph: Graph
    costs: Costs
    dropped: Mapping[str, str]  # stage -> why


def settle(trials: Trials, prices: Prices, every: Graph) -> Settled:
    """Costs at the expected number of survivors, without the stages that save nothing in them.

    Stages are left out one after the other, the one whose absence saves most first.

    Args:
        trials: examples that certify nothing, and what learns from them.
        prices: of every part.
        every: the graph that the examples' own was searched in, whose stages cost something too.
    """
    graph, dropped = trials.trace.graph, dict[str, str]()
    present = trials.tried(graph, prices)
    while without := {stage: trials.tried(g, prices) for stage, g in _less(graph).items()}:
        least = min(without, key=lambda stage: without[stage].cost)
        saved = (present.cost - without[least].cost) / graph.reference_cost(present.costs)
        if saved <= 0:
            break
        at = "" if present.costs.batch is None else f"at batch {present.costs.batch} "
        dropped[least] = f"{at}it takes {saved:.1%} of the reference's time more than it saves"
        graph, present = graph.without(least), without[least]
    return Settled(graph, _over(prices.costs(every), present.costs), dropped)


@dataclass(frozen=True)
class Tried:
    """What a graph costs by a policy that was learned for it."""

    cost: float  # mean cost of held-out examples
    costs: Costs


@dataclass(frozen=True, kw_only=True)
class Trials:
    """Examples that certify nothing, on which graphs are tried to see which stages pay.

    A policy learns on one half and is measured on the other, at the cheapest setting that keeps the
    budget there.
    """

    trace: Trace
    losses: Losses  # of every stage on them
    learner: Learner[Policy]
    budget: float  # excess loss given up
    seed: int  # of the halves

    def tried(self, graph: Graph, prices: Prices) -> Tried:
        """What a graph costs, where as many examples come to each stage as are seen to come."""
        shares: dict[str, float] = {}
        cost = np.inf
        for _ in range(_ROUNDS):
            cost, shares = self._measured(graph, prices.costs(graph, shares))
        costs = prices.costs(graph, shares)
        return Tried(min(cost, graph.reference_cost(costs)), costs)

    def _measured(self, graph: Graph, costs: Costs) -> tuple[float, dict[str, float]]:
        """The mean cost of held-out examples, and the share of them that needs each part."""
        priced = replace(self.trace, graph=graph, costs=costs)
        (learning, seen), (measuring, met) = (
            (priced.take(rows), self.losses.take(rows)) for rows in self._halves
        )
        policy = self.learner(learning, seen)
        points = frontier(measuring, met, policy)
        kept = [point for point in points if self._lost(point) <= self.budget]
        best = min(kept or points[:1], key=lambda point: point.cost)
        setting = np.nan if best.tradeoff is None else best.tradeoff
        share = {part: float(n.mean()) for part, n in needed(measuring, policy, setting).items()}
        return best.cost if kept else np.inf, share

    def _lost(self, point: Point) -> float:
        return point.excess_loss if self.losses.kind == "net" else point.induced_loss

    @cached_property
    def _halves(self) -> tuple[IntArray, IntArray]:
        return self.trace.split(0.5, self.seed)


def _over(every: Costs, costs: Costs) -> Costs:
    """The costs of walks, beside those of stages that no walk comes to."""
    return replace(
        costs,
        body={**every.body, **costs.body},
        head={**every.head, **costs.head},
        whole=every.whole,
        at={batch: _over(every.at[batch], there) for batch, there in costs.at.items()},
    )


def _less(graph: Graph) -> dict[str, Graph]:
    """The graphs without one stage."""
    found = {}
    for stage in graph.order:
        try:
            found[stage] = graph.without(stage)
        except GraphError:
            continue
    return found
