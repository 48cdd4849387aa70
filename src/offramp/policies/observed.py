"""What the learned policy looks at where outputs are no scores of classes: what the task observes.

| block | columns |
|---|---|
| sure | how sure the stage is, piecewise linear |
| observed | what the task observes after the stage |
| earlier | of each earlier stage: how far its answer agrees, and what the task observed after it |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from offramp.base.arrays import FloatArray
from offramp.core.graph import Graph
from offramp.core.policy import Seen
from offramp.policies.families import numbers
from offramp.policies.operators import ANSWERS, Dial, Memory, SeenTensors

OBSERVED = ("sure", "observed", "earlier")
"""Names of the blocks, in their order; the first is always there."""
_KNOTS = 6  # bends of the piecewise linear function of the sureness


@dataclass(frozen=True, kw_only=True)
class Observed:
    """From what was seen at a stage to (n, features), for any task."""

    stages: tuple[str, ...]  # earlier ones first, the present one last
    widths: tuple[int, ...]  # how many numbers are observed after each
    knots: FloatArray  # (knots,) where the function of the sureness bends
    mean: FloatArray  # (features,)
    scale: FloatArray  # (features,)
    names: tuple[str, ...] = OBSERVED  # of the blocks that are looked at

    @classmethod
    def fit(cls, graph: Graph, seen: Seen) -> Self:
        """Features for `seen.stage`, scaled on the examples that were seen."""
        stages = graph.observed[seen.stage]
        knots = np.unique(np.quantile(seen.sure(), np.linspace(0, 1, _KNOTS + 2)[1:-1]))
        widths = tuple(seen.observations(stage).shape[1] for stage in stages)
        raw = cls(stages=stages, widths=widths, knots=knots, mean=np.zeros(1), scale=np.ones(1))
        values = raw.parts(seen)
        scale = values.std(axis=0)
        return replace(raw, mean=values.mean(axis=0), scale=np.where(scale > 1e-9, scale, 1.0))

    @property
    def blocks(self) -> dict[str, int]:
        """The number of features in each block that is looked at and not empty."""
        *before, present = self.widths
        sizes = {
            "sure": 1 + len(self.knots),
            "observed": present,
            "earlier": len(before) + sum(before),
        }
        return {name: sizes[name] for name in self.names if sizes[name]}

    def only(self, names: Collection[str]) -> tuple[Self, FloatArray]:
        """Without the other blocks, and which columns remain, (features,) of booleans."""
        kept = np.concatenate([np.full(size, name in names) for name, size in self.blocks.items()])
        chosen = tuple(name for name in self.names if name in names)
        return replace(self, mean=self.mean[kept], scale=self.scale[kept], names=chosen), kept

    @property
    def memory(self) -> Memory:
        """What it asks earlier stages to remember."""
        return _LOOKED_BACK_AT if "earlier" in self.blocks else {}

    def __call__(self, seen: Seen) -> FloatArray:
        """(n, features), centred and scaled: what is learned from."""
        return np.asarray((self.parts(seen) - self.mean) / self.scale)

    def parts(self, seen: Seen) -> FloatArray:
        """(n, features), as they are observed."""
        blocks, sure = self.blocks, seen.sure()[:, None]
        columns = [sure, np.maximum(sure - self.knots, 0.0)]
        if "observed" in blocks:
            columns.append(seen.observations())
        if "earlier" in blocks:
            earlier = self.stages[:-1]
            columns += [seen.agreement(stage)[:, None] for stage in earlier]
            columns += [seen.observations(stage) for stage in earlier]
        return np.hstack(columns)

    def fold(self, weights: FloatArray) -> Straight:
        """Linear functions of `parts`, from (outputs, 1 + features) on centred, scaled ones."""
        slopes = (weights[:, 1:] / self.scale).T
        return Straight(self, slopes, weights[:, 0] - self.mean @ slopes)

    def to_json(self) -> dict[str, Any]:
        return {
            "stages": list(self.stages),
            "widths": list(self.widths),
            "blocks": list(self.names),
            "knots": self.knots.tolist(),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
        blocks, widths, stages = value["blocks"], value["widths"], value["stages"]
        names = tuple(name for name in OBSERVED if name in blocks)
        if list(names) != blocks or OBSERVED[0] not in names:
            raise ValueError(f"blocks {blocks!r}")
        if len(widths) != len(stages) or not all(isinstance(w, int) and w >= 0 for w in widths):
            raise ValueError(f"widths {widths!r}")
        knots, mean, scale = (numbers(value[name]) for name in ("knots", "mean", "scale"))
        if knots.ndim != 1:
            raise ValueError(f"knots of shape {knots.shape}")
        return cls(
            stages=tuple(stages),
            widths=tuple(widths),
            knots=knots,
            mean=mean,
            scale=scale,
            names=names,
        )


@dataclass(frozen=True)
class Straight:
    """Linear functions of what is observed, with centring and scaling folded in."""

    features: Observed
    slopes: FloatArray  # (features, outputs)
    constant: FloatArray  # (outputs,)

    def __call__(self, parts: FloatArray) -> FloatArray:
        """(n, outputs)."""
        return np.asarray(parts @ self.slopes + self.constant)

    def tensor(self, seen: SeenTensors) -> str:
        """The same of what was seen as tensors, (n, outputs); (n,) of one."""
        scope, features = seen.scope, self.features
        ends = np.cumsum(list(features.blocks.values()))[:-1]
        slopes = dict(zip(features.blocks, np.split(self.slopes, ends), strict=True))
        # sureness is near 1 where it counts: as 1 minus itself it keeps its digits there
        bends = scope.constant(np.concatenate([[1.0], 1.0 - features.knots])[None])
        above = scope.add("Relu", scope.add("Sub", bends, seen.unsure))
        value = scope.add("Gemm", above, *map(scope.constant, (slopes["sure"], self.constant)))
        if "observed" in slopes:
            weights = scope.constant(slopes["observed"])
            value = scope.add("Gemm", seen.task_observations, weights, value)
        if "earlier" in slopes:
            weights = scope.constant(slopes["earlier"])
            value = scope.add("Gemm", seen.looked_back, weights, value)
        one = self.slopes.shape[1] == 1
        return scope.add("Squeeze", value, scope.integers(1)) if one else value


def _observations_so_far(seen: SeenTensors, dial: Dial) -> str:
    """What was observed after each stage so far, (n, stages * k)."""
    return seen.joined("observed", seen.task_observations)


_LOOKED_BACK_AT: Memory = {**ANSWERS, "observed": _observations_so_far}
