"""A network that was cut into stages, and one whose outputs are the scores of its exits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offramp.base.errors import NetworkError
from offramp.core.graph import Costs
from offramp.exits.cutting import ExitPoint
from offramp.exits.heads import Head
from offramp.exits.network import Network
from offramp.exits.stages import cut_into_stages
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing
from offramp.runtime.engine import Fields

OWN_OUTPUTS = "outputs"  # instead of points: its outputs are scores of exits, the deepest its own
FINAL = "final"  # the stage of the network's own answer


@dataclass(frozen=True, kw_only=True)
class Exits:
    """A network with exits, cut into stages."""

    networks: Networks
    costs: Costs  # millions of multiply-adds of every body and head
    points: Mapping[str, ExitPoint]  # of each exit that stays, by stage
    heads: Mapping[str, Head]  # likewise
    loss: Mapping[str, float]  # top-1 error of each stage on held-out examples
    dropped: Mapping[str, str] = field(default_factory=dict)  # point -> why it went
    saving: float | None = None  # of the reference's cost on held-out examples; None: not placed

    def to_json(self) -> dict[str, Any]:
        order = self.networks.graph.order
        return {
            "stages": {stage: self._stage(stage) for stage in order},
            "reference": self.networks.graph.reference,
            "dropped": dict(self.dropped),
            "saving": self.saving,
        }

    def _stage(self, stage: str) -> dict[str, Any]:
        """Its costs in millions of multiply-adds, where it answers, and how often it is wrong."""
        point, head = self.points.get(stage), self.heads.get(stage)
        return {
            "at": point and point.to_json(),
            "style": head and head.pooling.style,
            "body": self.costs.body[stage],
            "head": self.costs.head[stage],
            "error": self.loss.get(stage),
        }


def exits_at_outputs(
    network: Network,
    outputs: Sequence[str],
    x: Fields,
    folder: Path,
    preprocessing: Preprocessing | None,
) -> Exits:
    """A network whose outputs are the scores of its exits, taken as it is.

    Args:
        network: to cut.
        outputs: its scores, each before those that go further; its own the last.
        x: a few examples by input, to check the parts with.
        folder: where the parts are written.
        preprocessing: of the graph.

    Raises:
        NetworkError: there is a single output, or it cannot be cut.
    """
    if len(outputs) < 2:
        raise NetworkError(
            f"{network.path or 'the network'} has a single output. Export it with the scores of "
            "every exit as outputs, or let offramp train heads: --at auto."
        )
    wide = {f"exit{number}": name for number, name in enumerate(outputs[:-1], start=1)}
    networks, costs = cut_into_stages(
        network, {**wide, FINAL: outputs[-1]}, folder, x, preprocessing
    )
    return Exits(networks=networks, costs=costs, points={}, heads={}, loss={})
