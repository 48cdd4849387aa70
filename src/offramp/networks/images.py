"""Encoded images to pixels of 8 bits: upright, of the right size, or refused."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from offramp.base.arrays import AnyArray
from offramp.base.errors import DataError
from offramp.networks.preprocessing import Preprocessing
from offramp.networks.resizing import resized

IMAGES = frozenset(
    (
        *(".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
    )
)
Remark = Callable[[str], None]
_SIXTEEN_BITS = ("PNG", "PPM")  # what these give as 32-bit integers are 16 bits
_PHOTOMETRIC = 262  # the TIFF tag that says what 0 means
_SEVERAL = ("GIF", "PNG", "TIFF", "WEBP")  # formats whose further frames are other pictures


def decode(
    image: bytes | Path, preprocessing: Preprocessing, remark: Remark = lambda what: None
) -> AnyArray:
    """Pixels (height, width[, 3]), uint8: turned upright, and brought to the size that is wanted.

    Pixels of 16 bits are scaled to 8; colours under transparency are taken as they are stored, and
    of several frames the first, as most code that trains networks does.

    Args:
        image: a file, or what is in one.
        preprocessing: the size and the colours that are wanted.
        remark: called with what was left aside, if anything.

    Raises:
        DataError: it does not decode, or nobody knows which of its values are black and white.
    """
    return resized(photograph(image, preprocessing.mode, remark), preprocessing)


def photograph(image: bytes | Path, mode: str, remark: Remark = lambda what: None) -> Image.Image:
    """An image of its own size, upright, in 8 bits: as `decode` reads it before it is scaled.

    Args:
        image: a file, or what is in one.
        mode: RGB, or L for grey.
        remark: called with what was left aside, if anything.

    Raises:
        DataError: as `decode`.
    """
    source = image if isinstance(image, Path) else io.BytesIO(image)
    try:
        with warnings.catch_warnings():
            for kind in (UserWarning, RuntimeWarning):  # cut short, or too large to be sound
                warnings.simplefilter("error", kind)
            warnings.filterwarnings("ignore", "Metadata [Ww]arning")  # of tags that say nothing
            with Image.open(source) as opened:
                return _of_8_bits(opened, mode, remark)
    except DataError:
        raise
    except Exception as problem:  # decoders raise a dozen kinds for damaged files
        raise DataError(_reason(source, problem)) from None


def _reason(source: Path | io.BytesIO, problem: Exception) -> str:
    if isinstance(problem, UnidentifiedImageError):
        empty = not (source.stat().st_size if isinstance(source, Path) else source.getvalue())
        return "it is empty" if empty else "it is no image of a known format"
    return " ".join(str(problem).split()).rstrip(".") or type(problem).__name__


def _of_8_bits(opened: Image.Image, mode: str, remark: Remark) -> Image.Image:
    """An opened image as RGB or L, upright."""
    if opened.format in _SEVERAL and getattr(opened, "is_animated", False):
        remark("have several frames, of which the first is taken")
    upright = ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I;16") or (upright.mode == "I" and opened.format in _SIXTEEN_BITS):
        values = np.asarray(upright).astype(np.int64)
        if getattr(opened, "tag_v2", {}).get(_PHOTOMETRIC) == 0:  # 0 is white, which Pillow leaves
            values = 65535 - values
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert(mode)
    if upright.mode in ("I", "F"):
        raise DataError(
            "it has pixels of 32 bits, and nobody knows which are black and white; save it with 8 "
            "or 16 bits"
        )
    if upright.mode == "LAB":  # which goes through sRGB, and not to grey at once
        upright = upright.convert("RGB")
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        lowest, _ = upright.getchannel("A").getextrema()
        if isinstance(lowest, int) and lowest < 255:
            remark("are transparent in places, where colours are taken as they are stored")
    return upright.convert(mode)


@dataclass
class Skipped:
    """Counts images that did not decode; raises unless skipping was asked for."""

    allowed: bool
    names: dict[str, str] = field(default_factory=dict)  # of an image -> what is wrong with it
    others: dict[str, dict[str, None]] = field(default_factory=dict)  # remark -> images

    def broken(self, name: str, problem: DataError) -> None:
        if not self.allowed:
            raise DataError(
                f"image {name} cannot be decoded: {problem}. "
                "Mend or remove it, or add --skip-broken to leave such images out."
            ) from None
        self.names[name] = str(problem)

    def remark(self, name: str, what: str) -> None:
        self.others.setdefault(what, {})[name] = None

    @property
    def remarks(self) -> list[str]:
        return [
            f"{len(names)} images {what} (first {next(iter(names))})"
            for what, names in self.others.items()
        ]

    def check(self, examples: int) -> None:
        """Raises DataError where every single image was left out."""
        if examples and len(self.names) >= examples:
            name, problem = next(iter(self.names.items()))
            raise DataError(
                f"none of the {examples} images can be decoded; the first is {name}: {problem}. "
                "Give others."
            )
