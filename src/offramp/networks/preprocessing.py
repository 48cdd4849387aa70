"""From photographs to what networks read; kept in the graph, so that every run does the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from typing import Any, Literal

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.checked import checked
from offramp.base.errors import DataError, GraphError
from offramp.base.schema import record_of

Layout = Literal["nchw", "nhwc"]
How = Literal["fit", "shorter", "squash", "letterbox"]
Filter = Literal["bilinear", "bicubic"]


@checked
@dataclass(frozen=True, kw_only=True)
class Resize:
    """How images of any size are brought to the one that a network reads.

    Raises:
        GraphError: a side where none is asked for, or none where one is.
    """

    # fit: the largest centre of the right shape, scaled; shorter: the shorter side scaled to
    # `side`, then the centre cut; squash: scaled whatever its shape; letterbox: scaled to fit
    # inside, black around
    how: How = "fit"
    side: int | None = None  # pixels
    filter: Filter = "bilinear"
    antialias: bool = True  # False: only the nearest pixels count, as in TensorFlow by default

    def __post_init__(self) -> None:
        if (self.how == "shorter") != (self.side is not None) or (self.side or 1) < 1:
            raise GraphError(
                f"resizing by '{self.how}' with a side of {self.side}; a side of at least one "
                "pixel is for 'shorter', which needs it."
            )


@checked
@dataclass(frozen=True)
class Preprocessing:
    """Pixels over 255, minus the mean, over the standard deviation, in the layout of the networks.

    Raises:
        GraphError: a size that is not positive, means and deviations that do not match.
    """

    size: tuple[int, int]  # height and width that images are brought to
    mean: tuple[float, ...]  # per channel, in units of pixel / 255; one value means grey images
    std: tuple[float, ...]  # likewise, positive
    layout: Layout = "nchw"
    _: KW_ONLY
    resize: Resize = Resize()

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise GraphError(f"the image size is {self.size}; it must be two positive numbers.")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise GraphError(
                f"there are {len(self.mean)} means and {len(self.std)} standard deviations; "
                "give three of each for colour images, one of each for grey ones."
            )
        if not np.isfinite([*self.mean, *self.std]).all() or min(self.std) <= 0:
            raise GraphError(
                f"the means are {self.mean} and the standard deviations {self.std}; they must be "
                "finite, and deviations positive."
            )
        if self.layout not in ("nchw", "nhwc"):
            raise GraphError(f"layout '{self.layout}' is unknown; it is nchw or nhwc.")
        if self.resize.side is not None and self.resize.side < min(self.size):
            raise GraphError(
                f"the shorter side is scaled to {self.resize.side}, from which {self.size} cannot "
                "be cut. Give a larger --resize."
            )

    @property
    def mode(self) -> str:
        """The colour mode that images are decoded to: RGB or L (grey)."""
        return "RGB" if len(self.mean) == 3 else "L"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example, as networks read it."""
        channels = len(self.mean)
        return (channels, *self.size) if self.layout == "nchw" else (*self.size, channels)

    @property
    def factors(self) -> tuple[FloatArray, FloatArray]:
        """What pixels are multiplied by, and what is then subtracted, float32 (channels,)."""
        std = np.asarray(self.std, dtype=np.float32)
        return 1 / (255 * std), np.asarray(self.mean, dtype=np.float32) / std

    def __call__(self, images: AnyArray) -> FloatArray:
        """Network inputs, float32, from uint8 images (n, height, width[, channels]).

        Raises:
            DataError: another type, size or number of channels.
        """
        if images.ndim == 3:
            images = images[..., None]
        expected = (*self.size, len(self.mean))
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise DataError(
                f"images are {images.dtype} of shape {images.shape[1:]}; the graph expects uint8 "
                f"of shape {expected} (height, width, channels)."
            )
        scale, offset = self.factors
        values = np.asarray(images.astype(np.float32) * scale - offset, dtype=np.float32)
        channels_first = self.layout == "nchw"
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2)) if channels_first else values

    def to_json(self) -> dict[str, Any]:
        return {
            "size": list(self.size),
            "mean": list(self.mean),
            "std": list(self.std),
            "layout": self.layout,
            **({} if self.resize == Resize() else {"resize": asdict(self.resize)}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_json`. Raises GraphError where an entry is missing."""
        try:
            size, mean, std = (tuple(value[name]) for name in ("size", "mean", "std"))
            resize = record_of(Resize, value["resize"]) if "resize" in value else Resize()
            return cls((int(size[0]), int(size[1])), mean, std, value["layout"], resize=resize)
        except (KeyError, TypeError, ValueError, IndexError) as problem:
            raise GraphError(f"this is no description of preprocessing: {problem!r}.") from None


@dataclass(frozen=True)
class PerNetwork:
    """Preprocessing of networks that read the same images each in its own way.

    Such a network reads the field `<network>.<field>`, which is made of `<field>` for it.
    """

    networks: Mapping[str, Preprocessing]

    def to_json(self) -> dict[str, Any]:
        return {name: found.to_json() for name, found in self.networks.items()}


AnyPreprocessing = Preprocessing | PerNetwork


def preprocessing_from_json(value: Mapping[str, Any]) -> AnyPreprocessing:
    """The inverse of both `to_json`. Raises GraphError where an entry is missing."""
    if isinstance(value.get("size"), list):
        return Preprocessing.from_json(value)
    return PerNetwork({name: Preprocessing.from_json(item) for name, item in value.items()})


@dataclass(frozen=True)
class Source:
    """What a field is made of."""

    name: str  # of the array or column that examples hold
    preprocessing: Preprocessing | None  # of its images, where it holds such


def sources_of(fields: Iterable[str], preprocessing: AnyPreprocessing | None) -> dict[str, Source]:
    """For each field that networks read, what it is made of."""
    if not isinstance(preprocessing, PerNetwork):
        return {name: Source(name, preprocessing) for name in fields}
    found = {}
    for name in fields:
        network, _, field = name.partition(".")
        own = preprocessing.networks.get(network) if field else None
        found[name] = Source(name if own is None else field, own)
    return found
