"""Photographs that each network reads in its own way: pixels of Pillow, in and outside of files."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from offramp.base.arrays import AnyArray
from offramp.cli import main
from offramp.networks import batches
from offramp.networks.data import open_examples
from offramp.networks.images import decode
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing, Resize
from offramp.networks.resizing import resized, weights
from offramp.plan.plan import Plan
from offramp.runtime import Driver, Routed, SingleFile, Stages, infer
from tests.made import linear_network
from tests.test_images import encoded

BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC
FILTERS = {"bilinear": BILINEAR, "bicubic": BICUBIC}


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth picture with some noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), BICUBIC)).astype(np.int64)
    noisy = smooth + random.integers(-20, 21, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def torchvision(image: Image.Image, side: int, size: int, filter_: Any) -> AnyArray:
    """`Resize(side)` and `CenterCrop(size)` of torchvision, on an image of Pillow."""
    width, height = image.size
    longer = int(side * max(width, height) / min(width, height))
    scaled = image.resize((side, longer) if width <= height else (longer, side), filter_)
    top, left = (round((n - size) / 2.0) for n in scaled.size[::-1])
    return np.asarray(scaled.crop((left, top, left + size, top + size)))


def whole(values: AnyArray) -> AnyArray:
    return np.asarray(np.floor(values + 0.5).clip(0, 255))


sides = st.integers(12, 70)


@given(sides, sides, st.sampled_from(["bilinear", "bicubic"]), st.integers(6, 40))
def test_pixels_are_those_of_pillow_and_torchvision(
    height: int, width: int, filter_: Any, size: int
) -> None:
    image, pillow = picture(height, width), FILTERS[filter_]
    square = (size, size)
    expected = {
        Resize(filter=filter_): ImageOps.fit(image, square, pillow),
        Resize(how="squash", filter=filter_): image.resize(square, pillow),
        Resize(how="letterbox", filter=filter_): ImageOps.pad(image, square, pillow),
        Resize(how="shorter", side=size + 5, filter=filter_): torchvision(
            image, size + 5, size, pillow
        ),
    }
    for resize, pixels in expected.items():
        way = Preprocessing(square, (0.0,) * 3, (1.0,) * 3, resize=resize)
        assert (resized(image, way) == np.asarray(pixels)).all(), resize


@given(sides, sides, st.sampled_from(["bilinear", "bicubic"]), st.sampled_from([7, 16, 33]))
def test_products_with_weights_are_the_same_pixels_within_rounding(
    height: int, width: int, filter_: Any, size: int
) -> None:
    image = picture(height, width)
    values = np.asarray(image).astype(np.float64)
    ways: list[dict[str, Any]] = [
        {"how": "fit"},
        {"how": "squash"},
        {"how": "letterbox"},
        {"how": "shorter", "side": size + 5},
    ]
    for asked in ways:
        resize = Resize(filter=filter_, **asked)
        way = Preprocessing((size, size), (0.0,) * 3, (1.0,) * 3, resize=resize)
        rows, columns = weights(way, (height, width))
        across = whole(np.einsum("vw,hwc->hvc", columns, values))
        found = whole(np.einsum("th,hvc->tvc", rows, across))
        assert np.abs(found - resized(image, way)).max() <= 1, asked


def test_without_antialiasing_the_nearest_pixels_count_alone() -> None:
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    resize = Resize(how="squash", antialias=False)
    found = resized(image, Preprocessing((2, 2), (0.0,), (1.0,), resize=resize))
    # the middles of the new pixels lie between the second and the third of four
    values = np.asarray(image).astype(np.float64)
    expected = [[values[y - 1 : y + 1, x - 1 : x + 1].mean() for x in (2, 6)] for y in (2, 6)]
    assert np.abs(found - np.array(expected)).max() <= 0.5
    smooth = resized(image, Preprocessing((2, 2), (0.0,), (1.0,), resize=Resize(how="squash")))
    assert smooth.shape == (2, 2)
    larger = Preprocessing((16, 16), (0.0,), (1.0,), resize=resize)
    plain = Preprocessing((16, 16), (0.0,), (1.0,), resize=Resize(how="squash"))
    assert np.abs(resized(image, larger).astype(int) - resized(image, plain)).max() <= 1


# ------------------------------------------------------------------------------ several networks


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["offramp", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def coloured(row: int) -> Image.Image:
    """A picture of 16 x 20 whose colour says its class, more or less."""
    random = np.random.default_rng(row)
    base = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[row % 3]
    values = base + random.normal(size=(16, 20, 3)) * 60 + random.normal(size=3) * 55
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def by_colour(path: Path, size: int, noise: float) -> Path:
    """A network (batch, 3, size, size) that scores the mean of each colour."""
    random = np.random.default_rng(size)
    found = np.repeat(np.eye(3), size * size, axis=0) / (size * size) * 6
    return linear_network(path, found + random.normal(size=found.shape) * noise, [3, size, size])


WAYS = (
    *("--size", "small=8", "--size", "big=12", "--mean", "big=0.4,0.5,0.6,small=0.5,0.5,0.5"),
    *("--std", "0.5,0.5,0.5", "--resize", "big=14,bicubic"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs")
    nets = [f"small={by_colour(path / 's.onnx', 8, 0.3)}"]
    nets.append(f"big={by_colour(path / 'b.onnx', 12, 0.0)}")
    images = [encoded(coloured(row), "PNG") for row in range(600)]
    labels = [row % 3 for row in range(600)]
    pq.write_table(pa.table({"image": images, "label": labels}), path / "data.parquet")
    assert run("graph", *nets, *WAYS, "--out", path / "graph") == 0
    data = ("--data", path / "data.parquet")
    costs = ("--cost", "small=1,big=10")
    assert run("record", path / "graph", *data, *costs, "--out", path / "trace") == 0
    fit = ("--budget", "0.1", "--confidence", "0.8", "--policy", "margin")
    assert run("fit", path / "trace", *fit, "--out", path / "plan") == 0
    return path


def test_each_network_reads_photographs_in_its_own_way(folder: Path) -> None:
    said = json.loads((folder / "graph" / "graph.json").read_text())
    assert said["fields"] == ["small.x", "big.x"]
    ways = {name: Preprocessing.from_json(way) for name, way in said["preprocessing"].items()}
    assert (ways["small"].size, ways["big"].size) == ((8, 8), (12, 12))
    assert ways["big"].resize == Resize(how="shorter", side=14, filter="bicubic")
    assert ways["small"].mean == (0.5, 0.5, 0.5)
    networks = Networks.read(folder / "graph")
    (batch,) = open_examples(
        folder / "data.parquet", networks.preprocessing, fields=networks.fields
    ).batches(600)
    for name, way in ways.items():
        plain = decode(encoded(coloured(5), "PNG"), way)
        assert (batch.fields[f"{name}.x"][5:6] == way(plain[None])).all()


def test_photographs_are_decoded_once_and_prepared_where_they_come(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan.read(folder / "plan")
    prepared: list[tuple[tuple[int, int], int]] = []

    def counted(photographs: Any, way: Preprocessing) -> AnyArray:
        prepared.append((way.size, len(photographs)))
        return pixels_of(photographs, way)

    pixels_of = batches.pixels_of
    monkeypatch.setattr(batches, "pixels_of", counted)
    examples = open_examples(folder / "data.parquet", plan.preprocessing, fields=plan.fields)
    batch = next(iter(examples.batches(100)))
    answers = infer(plan, Stages(plan.runnable(), plan.graph), batch.fields)
    further = int((answers.stage == "big").sum())
    assert 0 < further < 100
    assert prepared == [((8, 8), 100), ((12, 12), further)]


def test_exported_files_prepare_photographs_inside(folder: Path, tmp_path: Path) -> None:
    plan = Plan.read(folder / "plan")
    images = np.stack([np.asarray(coloured(row)) for row in range(1000, 1080)])
    np.savez(tmp_path / "d.npz", x=images)
    examples = open_examples(tmp_path / "d.npz", plan.preprocessing, fields=plan.fields)
    (batch,) = examples.batches(80)
    expected = infer(plan, Stages(plan.runnable(), plan.graph), batch.fields)
    size = ("--images", "--image-size", "16x20")
    assert run("export", folder / "plan", *size, "--out", tmp_path / "a.onnx") == 0
    assert run("export", folder / "plan", *size, "--stages", "--out", tmp_path / "a") == 0
    assert run("export", folder / "plan", "--out", tmp_path / "b.onnx") == 0
    assert run("export", folder / "plan", "--stages", "--out", tmp_path / "b") == 0
    drivers: list[tuple[Driver, Any]] = [
        (SingleFile(tmp_path / "a.onnx"), images),
        (Routed(tmp_path / "a"), images),
        (Routed(tmp_path / "a", "openvino"), images),
        (SingleFile(tmp_path / "b.onnx"), batch.fields),
        (Routed(tmp_path / "b"), batch.fields),
    ]
    for driver, x in drivers:
        found = driver(x)
        # a grey level more or less, of 255, is what rounding leaves open
        np.testing.assert_allclose(found.scores, expected.scores, atol=6 * 2 / 255)
        assert (found.stage == expected.stage).mean() > 0.95
        assert set(found.stage) == {"small", "big"}


def test_the_size_of_photographs_must_be_known_inside(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("export", folder / "plan", "--images", "--out", tmp_path / "a.onnx") == 2
    assert "--image-size 480x640" in capsys.readouterr().err
    assert run("export", folder / "plan", "--image-size", "9", "--out", tmp_path / "a.onnx") == 2
    assert "--images" in capsys.readouterr().err
    assert not (tmp_path / "a.onnx").exists()


def test_bench_and_costs_of_requests_know_several_sizes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = ("--budget", "0.2", "--confidence", "0.8", "--policy", "margin", "--batch", "4")
    assert run("fit", folder / "trace", *fit, "--out", tmp_path / "timed") in (0, 1)
    capsys.readouterr()
    given = ("--data", folder / "data.parquet", "--batch", "8", "--json")
    assert run("bench", folder / "plan", *given) == 0
    assert json.loads(capsys.readouterr().out)[0]["speedup"] > 0


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("--size", "12"), "--size small=8 --size big=12"),
    (("--size", "small=8,big=12", "--mean", "0.5"), "--mean small=0.5,0.5,0.5 --std small="),
    ((), "--size small=8 --size big=12"),
    (("--size", "small=8,middle=12"), "'middle'"),
    (("--size", "small=8"), "--size big=12"),
    (("--size", "small=8,big=12", "--size", "big=13"), "twice for 'big'"),
    (("--size", "small=8,big=12", "--layout", "big=nhwc"), "--layout big=nchw"),
    (("--size", "small=8,big=12", "--resize", "wide"), "256,bicubic"),
    (("--size", "small=8,big=12", "--resize", "9"), "larger --resize"),
    (("--size", "small=8,big=12", "--crop", "0.9", "--resize", "squash"), "--resize"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_ways_that_do_not_fit_are_refused_by_graph(
    options: tuple[str, ...],
    says: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nets = [f"small={folder / 's.onnx'}", f"big={folder / 'b.onnx'}"]
    capsys.readouterr()
    assert run("graph", *nets, *options, "--out", tmp_path / "graph") == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "graph").exists()


def test_crop_is_a_size_or_a_share(folder: Path, tmp_path: Path) -> None:
    nets = [f"small={folder / 's.onnx'}", f"big={folder / 'b.onnx'}"]
    out = tmp_path / "graph"
    crops = ("--crop", "small=8", "--crop", "big=0.875", "--size", "big=12", "--resize", "small=9")
    assert run("graph", *nets, *crops, "--out", out) == 0
    said = json.loads((out / "graph.json").read_text())["preprocessing"]
    assert said["small"]["size"] == [8, 8]
    assert said["small"]["resize"]["side"] == 9
    assert said["big"]["resize"]["side"] == 13
