"""What examples look like to a plan: where they stop, and how sure its first stage is of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from offramp.base.arrays import FloatArray
from offramp.base.schema import record_of


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What the certification examples looked like, to compare others with."""

    examples: int
    exits: Mapping[str, float]  # share that stops at each stage
    edges: tuple[float, ...]  # of bins of the root's sureness, rising
    shares: tuple[float, ...]  # of examples in each bin, one more than edges
    changed: float | None  # share whose answer is not the reference's; None: nobody knows

    @classmethod
    def of(
        cls, sure: FloatArray, exits: Mapping[str, float], changed: float | None = None
    ) -> Profile:
        """The profile of examples of which the root is so sure, (n,)."""
        edges = np.unique(np.quantile(sure, np.linspace(0, 1, 11)[1:-1]))
        return cls(
            examples=len(sure),
            exits=dict(exits),
            edges=tuple(edges.tolist()),
            shares=_shares(sure, edges),
            changed=changed,
        )

    def like(self, sure: FloatArray, exits: Mapping[str, float]) -> Profile:
        """The profile of other examples, in the same bins."""
        shares = _shares(sure, np.array(self.edges))
        return replace(self, examples=len(sure), exits=dict(exits), shares=shares, changed=None)

    def to_json(self) -> dict[str, Any]:
        return {
            "examples": self.examples,
            "exits": dict(self.exits),
            "edges": list(self.edges),
            "shares": list(self.shares),
            "changed": self.changed,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Profile:
        """The inverse of `to_json`. Raises ValueError where a value is missing or none of it."""
        found = record_of(cls, value)
        if not found.edges or len(found.shares) != len(found.edges) + 1:
            raise ValueError(f"{len(found.shares)} shares between {len(found.edges)} edges")
        return found


def _shares(values: FloatArray, edges: FloatArray) -> tuple[float, ...]:
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return tuple((counts / max(1, len(values))).tolist())
