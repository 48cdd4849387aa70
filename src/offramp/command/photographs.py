"""What the options on images mean: sizes, colours, and how photographs are brought to them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from offramp.base.errors import GraphError
from offramp.command.parsing import Given, by_name, number_of, whole_number
from offramp.networks.preprocessing import AnyPreprocessing, PerNetwork, Preprocessing, Resize


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """How images are read, as options say it."""

    size: Given = None
    mean: Given = None
    std: Given = None
    layout: Given = None
    resize: Given = None
    crop: Given = None

    def of(self, networks: Iterable[str]) -> AnyPreprocessing | None:
        """The preprocessing of these networks: one where nothing is said of some of them alone.

        Raises:
            GraphError: a name that is none of the networks', a network of which no size is said
                where it is of others, or values that are none.
        """
        said = {name: by_name(given, f"--{name}") for name, given in vars(self).items()}
        named = {name for values in said.values() for name in values if name}
        names = list(networks)
        if unknown := sorted(named - {*names}):
            option = next(f"--{o}" for o, values in said.items() if unknown[0] in values)
            raise GraphError(
                f"{option} names a network '{unknown[0]}', and there are {', '.join(names)}. Name "
                "one of these, or give one value for all."
            )
        if not named:
            return preprocessing(**{name: values.get("") for name, values in said.items()})
        found = {}
        for name in names:
            own = {option: values.get(name, values.get("")) for option, values in said.items()}
            if (way := preprocessing(**own, of=name)) is not None:
                found[name] = way
        ways = list(found.values())
        if len(ways) == len(names) and all(way == ways[0] for way in ways):
            return ways[0]
        return PerNetwork(found)


_LACKS_SIZE = "--mean, --std, --resize and --crop say how images are read; give --size{} as well."


def preprocessing(
    size: str | None,
    mean: str | None,
    std: str | None,
    layout: str | None = None,
    resize: str | None = None,
    crop: str | None = None,
    *,
    of: str | None = None,
) -> Preprocessing | None:
    """The preprocessing that the options describe; None without a size.

    Args:
        size: "32" or "240x320".
        mean: of pixel / 255, per channel; `std` likewise.
        std: see `mean`.
        layout: nchw or nhwc; None: nchw.
        resize: how photographs are brought to the size; see `_resize`.
        crop: the size that is cut from the centre, or its share of the shorter side.
        of: the network, for messages.
    """
    if size is None and crop is not None and not _is_share(crop):
        size = crop
    if size is None:
        if any(option is not None for option in (mean, std, resize, crop)):
            raise GraphError(_LACKS_SIZE.format(f" {of}=..." if of else ""))
        return None
    height, width = height_and_width(size)
    if crop is not None and not _is_share(crop) and height_and_width(crop) != (height, width):
        raise GraphError(
            f"--size is '{size}' and --crop '{crop}', but what is cut out is what the network "
            f"reads. Leave out --size, and say with --resize to what the shorter side is scaled."
        )
    means = None if mean is None else _numbers(mean, "--mean")
    deviations = None if std is None else _numbers(std, "--std")
    channels = len(means or deviations or (0.0, 0.0, 0.0))
    colours = (means or (0.0,) * channels, deviations or (1.0,) * channels)
    way = _resize(resize, crop, (height, width))
    return Preprocessing((height, width), *colours, layout or "nchw", resize=way)  # type: ignore[arg-type]


def _is_share(crop: str) -> bool:
    """Whether --crop is a share of the shorter side."""
    try:
        return 0 < float(crop) <= 1 and crop.strip() != "1"
    except ValueError:
        return False


def _resize(text: str | None, crop: str | None, size: tuple[int, int]) -> Resize:
    """ "256,bicubic" and the like: a side, a filter, squash or letterbox, aliased, in any order.

    Raises:
        GraphError: a word that is none of these, or two of a kind.
    """
    words = [word.strip().lower() for word in text.split(",")] if text else []
    found: dict[str, Any] = {}
    for word in words:
        known = {
            "squash": ("how", "squash"),
            "letterbox": ("how", "letterbox"),
            "bilinear": ("filter", "bilinear"),
            "bicubic": ("filter", "bicubic"),
            "antialias": ("antialias", True),
            "aliased": ("antialias", False),
        }.get(word)
        if known is None and word.isdigit() and int(word):
            known = ("side", int(word))
        if known is None or known[0] in found:
            raise GraphError(
                f"--resize is '{text}'; it is the length that the shorter side is scaled to, or "
                "squash or letterbox; bilinear or bicubic; and aliased or antialias: for example "
                "256,bicubic."
            )
        found[known[0]] = known[1]
    if crop is not None and _is_share(crop):
        if "side" in found:
            raise GraphError("--crop is a share, and --resize a side; give one of both.")
        found["side"] = math.floor(min(size) / float(crop))  # as timm does
    if "side" in found:
        if "how" in found:
            raise GraphError(
                f"--resize is '{text}', with a centre cut out, but one that is squashed or boxed "
                "is whole. Leave out one of both."
            )
        found["how"] = "shorter"
    return Resize(**found)


def height_and_width(text: str, option: str = "--size") -> tuple[int, int]:
    """ "32" or "240x320"."""
    try:
        found = [whole_number(part) for part in text.lower().replace("x", ",").split(",")]
    except ValueError:
        found = []
    if len(found) not in (1, 2) or min(found) < 1:
        raise GraphError(f"{option} is '{text}'; it must be 32, or 240x320 (height x width).")
    return found[0], found[-1]


def _numbers(text: str, option: str) -> tuple[float, ...]:
    try:
        return tuple(number_of(part) for part in text.split(","))
    except ValueError:
        raise GraphError(
            f"{option} is '{text}'; it must be numbers such as 0.5, separated by commas."
        ) from None
