"""Images as they come: every depth, colour and orientation is right or refused, damage is named."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from offramp.base.errors import DataError
from offramp.networks.data import open_examples
from offramp.networks.images import decode
from offramp.networks.preprocessing import Preprocessing
from tests.made import picture

RGB = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3)
GREY = Preprocessing((8, 8), (0.0,), (1.0,))
RAMP = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("pixels", [RGB, GREY])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_16_bits_are_scaled_to_8(kind: str, pixels: Preprocessing) -> None:
    found = decode(encoded(Image.fromarray(RAMP), kind), pixels).reshape(8, 8, -1)
    np.testing.assert_allclose(found[:, :, 0], RAMP / 257, atol=0.6)
    assert (found == found[:, :, :1]).all()


def test_16_bits_of_the_other_byte_order_are_scaled_as_well() -> None:
    data = encoded(Image.fromarray(RAMP.astype(">u2")), "TIFF")
    np.testing.assert_allclose(decode(data, GREY), RAMP / 257, atol=0.6)


def test_16_bits_may_count_from_white() -> None:
    data = encoded(Image.fromarray(RAMP), "TIFF", tiffinfo={262: 0})
    np.testing.assert_allclose(decode(data, GREY), (65535 - RAMP.astype(int)) / 257, atol=0.6)


def test_colours_of_16_bits_are_scaled_to_8() -> None:
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)

    def chunk(name: bytes, body: bytes) -> bytes:
        checked = name + body
        return struct.pack(">I", len(body)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_allclose(decode(data, RGB), colours / 257, atol=1)


@pytest.mark.parametrize("type_", [np.int32, np.float32])
def test_32_bits_are_refused(type_: type[np.generic]) -> None:
    with pytest.raises(DataError, match="32 bits"):
        decode(encoded(Image.fromarray(RAMP.astype(type_)), "TIFF"), RGB)


@pytest.mark.parametrize(
    ("mode", "kind", "stored", "expected"),
    [
        ("1", "PNG", 255, (255, 255, 255)),
        ("L", "PNG", 77, (77, 77, 77)),
        ("LA", "PNG", (77, 10), (77, 77, 77)),
        ("RGBA", "PNG", (10, 200, 30, 5), (10, 200, 30)),
        ("CMYK", "TIFF", (0, 255, 255, 0), (255, 0, 0)),
        ("CMYK", "JPEG", (0, 255, 255, 0), (255, 0, 0)),
        ("YCbCr", "TIFF", (76, 85, 255), (254, 0, 0)),
        ("YCbCr", "JPEG", (76, 85, 255), (254, 0, 0)),
    ],
)
def test_colours_are_those_stored(mode: str, kind: str, stored: Any, expected: Any) -> None:
    found = decode(encoded(Image.new(mode, (8, 8), stored), kind), RGB)
    np.testing.assert_allclose(found, np.broadcast_to(expected, (8, 8, 3)), atol=3)


@pytest.mark.parametrize("pixels", [RGB, GREY])
def test_lab_is_taken_through_srgb(pixels: Preprocessing) -> None:
    """Lightness 53.6 of 100 is the middle grey of sRGB."""
    data = encoded(Image.new("LAB", (8, 8), (137, 128, 128)), "TIFF")
    np.testing.assert_allclose(decode(data, pixels), 128, atol=2)


@pytest.mark.parametrize("pixels", [RGB, GREY])
def test_palettes_with_transparency_keep_their_colours_and_it_is_said(
    pixels: Preprocessing,
) -> None:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([0, 0, 0, 90, 90, 90])
    said: list[str] = []
    data = encoded(image, "PNG", transparency=bytes([255, 7]))
    assert (decode(data, pixels, said.append) == 90).all()
    assert "transparent" in said[0]
    assert not (decode(encoded(image, "PNG"), pixels, said.append) != 90).any()
    assert len(said) == 1


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_orientations_are_turned_upright(orientation: int, depth: int) -> None:
    pixels = (RAMP // 257).astype(np.uint8) if depth == 8 else RAMP
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    found = decode(encoded(image, "PNG", exif=exif), GREY)
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(image, "PNG", exif=exif))))
    assert (np.asarray(turned) != pixels).any() == (orientation != 1)
    np.testing.assert_allclose(found, np.asarray(turned) / (1 if depth == 8 else 257), atol=0.6)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_taken_and_it_is_said(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    said: list[str] = []
    np.testing.assert_allclose(decode(data, RGB, said.append)[4, 4], (200, 0, 0), atol=12)
    assert any("frames" in what for what in said)


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Cut short, or with some bytes changed."""
    found = bytearray(data)
    if random.random() < 0.5:
        found = found[: random.integers(0, len(found))]
    for _ in range(random.integers(0, 6)):
        if found:
            found[random.integers(len(found))] = random.integers(256)
    return bytes(found)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
def test_damaged_images_are_decoded_or_refused_and_nothing_else(kind: str) -> None:
    random = np.random.default_rng(0)
    colours = random.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    images = [Image.fromarray(colours), Image.fromarray(colours).convert("P")]
    for image in images if kind in ("PNG", "GIF", "BMP", "TIFF") else images[:1]:
        data = encoded(image, kind)
        refused = 0
        for _ in range(150):
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # none gets out either
                try:
                    assert decode(damaged(data, random), RGB).shape == (8, 8, 3)
                except DataError:
                    refused += 1
        assert 0 < refused < 150


@pytest.mark.parametrize(
    "problem",
    [
        *(SyntaxError, struct.error, EOFError, IndexError, TypeError, OverflowError, MemoryError),
        *(Image.DecompressionBombError, AssertionError, KeyError, RecursionError),
    ],
)
def test_whatever_a_decoder_raises_is_a_broken_image(
    problem: type[Exception], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem("inside\nthe decoder")

    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(picture((1, 2, 3)))
    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(DataError, match=r"image a\.png .*--skip-broken"):
        list(open_examples(tmp_path, RGB).batches(4))
    with pytest.raises(DataError, match=r"none of the 2 images.*first is a\.png"):
        list(open_examples(tmp_path, RGB, skip_broken=True).batches(4))


@pytest.mark.parametrize("times", [1.5, 3.0])
def test_images_too_large_to_be_sound_are_refused(
    times: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow warns of the former and raises for the latter."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(64 / times))
    with pytest.raises(DataError, match="exceeds limit"):
        decode(picture((1, 2, 3)), RGB)


def test_empty_files_are_broken_and_pipes_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture((1, 2, 3)))
    (tmp_path / "b.png").touch()
    os.mkfifo(tmp_path / "c.png")
    with pytest.raises(DataError, match=r"image b\.png .*empty"):
        list(open_examples(tmp_path, RGB).batches(4))
    examples = open_examples(tmp_path, RGB, skip_broken=True)
    assert [list(batch.ids) for batch in examples.batches(4)] == [["a.png"]]
    assert any("c.png" in note for note in examples.notes)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ([b"", None], "row 1 of column `image` .* is empty"),
        (["a.png", "b.png"], "the column `image` of .* is string"),
        ([[1, 2], [3]], "the column `image` of .* is list"),
        ([{"path": "a.png"}, {"path": "b.png"}], "the column `image` of .* is struct<path"),
    ],
)
def test_what_is_no_image_in_a_table_is_named(tmp_path: Path, images: Any, says: str) -> None:
    images = [picture((1, 2, 3)) if image == b"" else image for image in images]
    pq.write_table(pa.table({"image": images}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=says):
        list(open_examples(tmp_path / "a.parquet", RGB).batches(4))


def test_arrays_of_16_bits_are_no_images(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((2, 8, 8, 3), np.uint16))
    with pytest.raises(DataError, match="uint16"):
        open_examples(tmp_path / "a.npz", RGB)
