"""Cost that is time: what a request of a given size takes, and which stages pay in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import binom

from offramp.base.errors import CostError, GraphError
from offramp.core.frontier import frontier, needed
from offramp.core.graph import Costs, Graph, head, whole
from offramp.core.policy import Family, Policy
from offramp.core.tasks import Losses
from offramp.core.trace import Trace

_ROUNDS = 2  # of learning at the costs that the last round's survivors make


@dataclass(frozen=True)
class Latency:
    """Seconds of requests, by the number of rows in them."""

    batch: int  # rows of a request
    parts: Mapping[str, Mapping[int, float]]  # of bodies, heads and uncut networks
    stop: Mapping[int, float]  # of deciding at one stage and bringing together the rows that go on
    source: str = "given"  # how and where they were measured
    others: tuple[int, ...] = ()  # further rows of requests, smaller ones, to tell costs of
    engine: str | None = None  # and its version, that they were measured on

    def costs(
        self, graph: Graph, shares: Mapping[str, float] | None = None, *, stops: bool = True
    ) -> Costs:
        """Seconds per example that needs a part, where requests are whole and survivors chance.

        The rows of a request that need a part are binomial; the fewer they are, the dearer is each.

        Args:
            graph: decisions are made at its stages that others follow.
            shares: of the examples that need each part; 1 where not given.
            stops: whether deciding is counted.

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
            if stops and stage.answers and graph.successors[name]:
                heads[name] += self._expected(self.stop, share)
        alone = {stage.name: self._alone(graph, stage.name) for stage in graph.stages}
        smaller = [replace(self, batch=batch, others=()) for batch in self.others]
        return Costs(
            body,
            heads,
            "s",
            f"{self.source}, for requests of {self.batch}",
            alone,
            self.batch,
            self._expected(self.stop, 1.0),
            {other.batch: other.costs(graph, shares, stops=stops) for other in smaller},
            self.engine,
        )

    def _alone(self, graph: Graph, stage: str) -> float:
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


def settle(
    trace: Trace,
    losses: Losses,
    family: Family[Policy],
    latency: Latency,
    budget: float,
    seed: int,
    every: Graph | None = None,
) -> Settled:
    """Costs at the expected number of survivors, without the stages that save nothing in them.

    Learns on one half and measures on the other, at the cheapest setting that keeps the budget
    there. Stages are left out one after the other, the one whose absence saves most first.

    Args:
        trace: examples that certify nothing.
        losses: of every stage on them.
        family: of the policy.
        latency: of every part.
        budget: excess loss given up.
        seed: of the halves.
        every: the graph that `trace.graph` was searched in, whose stages cost something as well.
    """
    halves = trace.split(0.5, seed)

    def tried(graph: Graph) -> tuple[float, Costs]:
        shares: dict[str, float] = {}
        cost = np.inf
        for _ in range(_ROUNDS):
            priced = replace(trace, graph=graph, costs=latency.costs(graph, shares))
            (learning, seen), (measuring, met) = (
                (priced.take(rows), losses.take(rows)) for rows in halves
            )
            policy = family(learning, seen)
            points = frontier(measuring, met, policy)
            kept = [
                point
                for point in points
                if (point.excess_loss if met.kind == "net" else point.induced_loss) <= budget
            ]
            best = min(kept or points[:1], key=lambda point: point.cost)
            setting = np.nan if best.tradeoff is None else best.tradeoff
            found = needed(measuring, policy, setting)
            shares = {part: float(need.mean()) for part, need in found.items()}
            cost = best.cost if kept else np.inf
        costs = latency.costs(graph, shares)
        return min(cost, graph.reference_cost(costs)), costs

    graph, dropped = trace.graph, dict[str, str]()
    present, costs = tried(graph)
    while True:
        without = {stage: tried(less) for stage, less in _less(graph).items()}
        if not without:
            break
        least = min(without, key=lambda stage: without[stage][0])
        saved = (present - without[least][0]) / graph.reference_cost(costs)
        if saved <= 0:
            break
        dropped[least] = (
            f"at batch {latency.batch} it takes {saved:.1%} of the reference's time more than it "
            "saves"
        )
        graph = graph.without(least)
        present, costs = without[least]
    alone = latency.costs(every or trace.graph, stops=False)  # of what was left out as well
    return Settled(graph, _over(alone, costs), dropped)


def _over(alone: Costs, costs: Costs) -> Costs:
    """The costs of walks, beside those of stages that no walk comes to."""
    return replace(
        costs,
        body={**alone.body, **costs.body},
        head={**alone.head, **costs.head},
        whole=alone.whole,
        at={batch: _over(alone.at[batch], there) for batch, there in costs.at.items()},
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
