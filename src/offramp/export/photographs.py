"""What an exported file reads: what networks do, or uint8 images that it prepares inside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from offramp.base.errors import PlanError
from offramp.core.graph import BATCH
from offramp.export.scope import Scope, value
from offramp.export.stages import StageWriter, preprocess
from offramp.networks.preprocessing import PerNetwork, Source, sources_of
from offramp.networks.resizing import Size
from offramp.plan.plan import Plan


@dataclass(frozen=True)
class Reading:
    """The inputs of a file, and what each field of its networks is made of."""

    inputs: dict[str, onnx.ValueInfoProto]  # by the key under which they are kept
    sources: dict[str, tuple[str, Source | None]]  # of each field: its input's key; how prepared
    size: Size | None = None  # of the images, where it reads such

    @classmethod
    def of(cls, stages: StageWriter, images: bool, size: Size | None) -> Reading:
        """What to read.

        Raises:
            PlanError: images are asked for, and the plan reads none, or nobody says of which size.
        """
        examples = stages.examples
        if not images:
            return cls(examples, {name: (name, None) for name in examples})
        size = _size_of(stages.plan, size)
        found = sources_of(examples, stages.plan.preprocessing)
        inputs: dict[str, onnx.ValueInfoProto] = {}
        sources: dict[str, tuple[str, Source | None]] = {}
        for name, source in found.items():
            way = source.preprocessing
            if way is None or len(examples[name].type.tensor_type.shape.dim) not in (0, 4):
                inputs[name], sources[name] = examples[name], (name, None)
                continue
            channels = 3 if way.mode == "RGB" else 1
            called = examples[name].name if source.name == name else source.name
            inputs[source.name] = value(called, TensorProto.UINT8, (BATCH, *size, channels))
            sources[name] = (source.name, source)
        return cls(inputs, sources, size)

    def make(self, scope: Scope, field: str, get: Callable[[str], str]) -> str:
        """A field of the networks, from the inputs by key."""
        key, source = self.sources[field]
        if source is None or source.preprocessing is None or self.size is None:
            return get(key)
        return preprocess(scope, get(key), source.preprocessing, self.size)


def _size_of(plan: Plan, size: Size | None) -> Size:
    """The height and width of the images that a file reads."""
    way = plan.preprocessing
    if way is None:
        raise PlanError(
            "the plan reads arrays, not images: its graph was made without --size. "
            "Export without --images."
        )
    if size is not None:
        return size
    if isinstance(way, PerNetwork) or way.resize.how == "shorter":
        raise PlanError(
            "the networks resize images each in its own way, so the file must know of which size "
            "they come. Say so: --image-size 480x640 (height x width)."
        )
    return way.size
