"""Images to the size that a network reads, with the pixels of Pillow and torchvision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from offramp.base.arrays import AnyArray, FloatArray
from offramp.networks.preprocessing import Preprocessing

Size = tuple[int, int]  # height, width
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Framing:
    """A part of an image, scaled, and where that lies on what a network reads."""

    box: tuple[float, float, float, float]  # top, left, bottom, right of the image
    scaled: Size
    at: tuple[int, int]  # top, left; below zero: what lies outside is cut

    @classmethod
    def of(cls, pixels: Preprocessing, image: Size) -> Framing:
        """For images of one size.

        Source: `ImageOps.fit` and `ImageOps.pad` of Pillow, `Resize` and `CenterCrop` of
            torchvision, down to their rounding.
        """
        (height, width), (tall, wide), resize = image, pixels.size, pixels.resize
        whole = (0.0, 0.0, float(height), float(width))
        if resize.how == "squash":
            return cls(whole, pixels.size, (0, 0))
        if resize.how == "fit":
            return cls(_centre(image, wide / tall), pixels.size, (0, 0))
        if resize.how == "letterbox":
            ratio, target = width / height, wide / tall
            high = tall if ratio <= target else max(1, round(height / width * wide))
            broad = wide if ratio >= target else max(1, round(width / height * tall))
            return cls(
                whole, (high, broad), (round((tall - high) * 0.5), round((wide - broad) * 0.5))
            )
        assert resize.side is not None
        short = min(image)
        longer = int(resize.side * max(image) / short)
        scaled = (resize.side, longer) if height == short else (longer, resize.side)
        cut = (round((scaled[0] - tall) / 2), round((scaled[1] - wide) / 2))
        return cls(whole, scaled, (-cut[0], -cut[1]))


def _centre(image: Size, ratio: float) -> tuple[float, float, float, float]:
    """The largest box of a shape, width over height, in the middle."""
    height, width = image
    here = width / height
    wide = width if here <= ratio else ratio * height
    tall = height if here >= ratio else width / ratio
    top, left = (height - tall) * 0.5, (width - wide) * 0.5
    return top, left, top + tall, left + wide


def resized(image: Image.Image, pixels: Preprocessing) -> AnyArray:
    """What a network reads of an image, (height, width[, 3]) uint8, in the image's colours."""
    height, width = pixels.size
    if pixels.resize.how != "shorter" and image.size == (width, height):
        return np.asarray(image)
    frame = Framing.of(pixels, (image.height, image.width))
    if not pixels.resize.antialias:
        return _by_weights(np.asarray(image), pixels)
    top, left, bottom, right = frame.box
    size, box = frame.scaled[::-1], (left, top, right, bottom)
    scaled = image.resize(size, _FILTERS[pixels.resize.filter], box=box)
    if (scaled.size, frame.at) == ((width, height), (0, 0)):
        return np.asarray(scaled)
    placed = Image.new(image.mode, (width, height))
    placed.paste(scaled, frame.at[::-1])
    return np.asarray(placed)


def weights(pixels: Preprocessing, image: Size) -> tuple[FloatArray, FloatArray]:
    """The share of each pixel in each that a network reads: (tall, height) and (wide, width).

    What a network reads is the first, times the image, times the second transposed. Rows are zero
    where nothing of the image lies.
    """
    frame = Framing.of(pixels, image)
    found = []
    for axis in (0, 1):
        ends = (frame.box[axis], frame.box[axis + 2])
        scaled = _shares(frame.scaled[axis], image[axis], ends, pixels)
        rows = np.arange(pixels.size[axis]) - frame.at[axis]
        inside = (rows >= 0) & (rows < len(scaled))
        found.append(np.where(inside[:, None], scaled[rows.clip(0, len(scaled) - 1)], 0.0))
    return found[0], found[1]


def _shares(made: int, given: int, ends: tuple[float, float], pixels: Preprocessing) -> FloatArray:
    """Of each pixel between two ends of an axis in each that is made, (made, given).

    Source: `precompute_coeffs` of Pillow; without antialiasing the filter keeps the width that it
        has where images grow, as `tf.image.resize` does.
    """
    scale = (ends[1] - ends[0]) / made
    wide = max(scale, 1.0) if pixels.resize.antialias else 1.0
    cubic = pixels.resize.filter == "bicubic"
    centre = ends[0] + (np.arange(made) + 0.5) * scale
    support = (2.0 if cubic else 1.0) * wide
    at = np.arange(given)
    first, last = ((centre + sign * support + 0.5).astype(int) for sign in (-1, 1))
    near = (at >= first.clip(0)[:, None]) & (at < last.clip(max=given)[:, None])
    away = np.abs(at - centre[:, None] + 0.5) / wide
    shares = np.where(near, _cubic(away) if cubic else (1 - away).clip(0), 0.0)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def _cubic(away: FloatArray) -> FloatArray:
    """The cubic convolution of Keys (1981), with a = -0.5."""
    near = (1.5 * away - 2.5) * away * away + 1
    far = ((-0.5 * away + 2.5) * away - 4) * away + 2
    return np.where(away < 1, near, np.where(away < 2, far, 0.0))


def _by_weights(image: AnyArray, pixels: Preprocessing) -> AnyArray:
    rows, columns = weights(pixels, (image.shape[0], image.shape[1]))
    values = image.reshape(*image.shape[:2], -1).astype(np.float64)
    scaled = np.einsum("th,hwc,vw->tvc", rows, values, columns, optimize=True)
    made = np.floor(scaled + 0.5).clip(0, 255).astype(np.uint8)
    return np.asarray(made if image.ndim == 3 else made[..., 0])
