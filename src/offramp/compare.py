"""Every policy, every single network and the oracles, tuned and measured in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from offramp.errors import TraceError
from offramp.frontier import Point, frontier, static_points, uniform_points
from offramp.policies import FAMILIES, ExactOracle, SoftOracle, family
from offramp.tasks import Losses
from offramp.trace import Trace


@dataclass(frozen=True)
class Comparison:
    """Frontiers on examples that tuned nothing."""

    examples: int
    reference: str
    reference_loss: float
    reference_cost: float
    cost_unit: str
    static: Mapping[str, Point]
    policies: Mapping[str, list[Point]]
    soft_oracle: Point
    exact_oracle: list[Point]

    def to_json(self) -> dict[str, Any]:
        return {
            "examples": self.examples,
            "reference": {
                "stage": self.reference,
                "loss": self.reference_loss,
                "cost": self.reference_cost,
            },
            "cost_unit": self.cost_unit,
            "static": {stage: point.to_json() for stage, point in self.static.items()},
            "policies": {
                name: [point.to_json() for point in points]
                for name, points in self.policies.items()
            },
            "oracle": {
                "soft": self.soft_oracle.to_json(),
                "exact": [point.to_json() for point in self.exact_oracle],
            },
        }


def compare(
    trace: Trace,
    test: Trace | None = None,
    *,
    loss: str | None = None,
    policies: Iterable[str] | None = None,
    seed: int = 0,
) -> Comparison:
    """Every policy tuned on `trace` and measured on `test`, or on halves of `trace`.

    Args:
        trace: recorded examples; without `test` a random half tunes and the other measures.
        test: other examples of the same graph.
        loss: as in `Trace.losses`.
        policies: names; None takes all.
        seed: of the split.

    Raises:
        TraceError: `test` is of another graph.
        InputError: an unknown policy.
    """
    if test is None:
        first, second = trace.split(0.5, seed)
        trace, test = trace.take(first), trace.take(second)
    if test.graph != trace.graph or test.classes != trace.classes:
        raise TraceError("the trace to measure on was recorded with another graph.")
    tune, losses = trace.losses(loss), test.losses(loss)
    statics = static_points(test, losses)
    found = {
        name: frontier(test, losses, family(name)(trace, tune)) for name in policies or FAMILIES
    }
    found["uniform"] = uniform_points(statics.values())
    return Comparison(
        test.examples,
        losses.reference,
        float(losses.of_reference.mean()),
        test.reference_cost,
        test.costs.unit,
        statics,
        found,
        *oracles(test, losses),
    )


def oracles(trace: Trace, losses: Losses) -> tuple[Point, list[Point]]:
    """The soft oracle's point and the exact oracle's frontier."""
    soft = frontier(trace, losses, SoftOracle.fit(trace, losses))[0]
    return soft, frontier(trace, losses, ExactOracle.fit(trace, losses))
