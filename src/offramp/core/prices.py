"""Where costs come from: one protocol for what is given, measured, or depends on how many come."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from offramp.core.graph import Costs, Graph


class Prices(Protocol):
    """Where costs come from: given, measured, the time of requests, money or energy."""

    def costs(self, graph: Graph, shares: Mapping[str, float] | None = None) -> Costs:
        """What each stage of a graph costs, per example that comes to it.

        Args:
            graph: the stages that walks may come to.
            shares: of the examples that need each part, in [0, 1]; 1 where not given. Prices that
                do not depend on how many come ignore them.

        Raises:
            CostError: a part has no price.
        """

    def alone(self, graph: Graph, stage: str) -> float:
        """What the network of a stage costs by itself, uncut where it can run so."""

    def to_json(self) -> dict[str, Any]:
        """They as JSON values, for a plan to keep."""


@dataclass(frozen=True)
class Fixed:
    """Prices that are the same however many examples come: given, measured, money or energy.

    Raises:
        CostError: they do not fit the graph.
    """

    each: Costs
    graph: Graph  # with every stage that has a price

    def __post_init__(self) -> None:
        self.graph.check_costs(self.each)

    def costs(self, graph: Graph, shares: Mapping[str, float] | None = None) -> Costs:
        return graph.check_costs(_of(self.each, {stage.name for stage in graph.stages}))

    def alone(self, graph: Graph, stage: str) -> float:
        return graph.alone(self.each, stage)

    def to_json(self) -> dict[str, Any]:
        return self.each.to_json()


def _of(costs: Costs, stages: Collection[str]) -> Costs:
    """The costs of some of the stages."""

    def some(values: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in values.items() if name in stages}

    return replace(
        costs,
        body=some(costs.body),
        head=some(costs.head),
        whole=some(costs.whole),
        at={batch: _of(there, stages) for batch, there in costs.at.items()},
    )
