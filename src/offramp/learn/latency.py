"""Cost that is time: what a request of a given size takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import binom

from offramp.base.errors import CostError
from offramp.core.graph import Costs, Graph, head, whole


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
