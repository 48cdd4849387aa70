"""Examples in: arrays, Parquet of encoded images, folders, and preprocessing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from offramp.base.errors import DataError, GraphError, InputError, MissingExtra
from offramp.networks.data import ExampleBatch, open_examples
from offramp.networks.preprocessing import Preprocessing
from tests.made import picture

RGB = Preprocessing((8, 8), (0.5, 0.4, 0.3), (0.25, 0.25, 0.5))
COLOURS = [(10 * i, 255 - 10 * i, i) for i in range(20)]


def everything(source: Path, **options: Any) -> ExampleBatch:
    batches = list(open_examples(source, RGB, **options).batches(7))
    labels = [batch.labels for batch in batches if batch.labels is not None]
    return ExampleBatch(
        np.concatenate([batch.ids for batch in batches]),
        np.concatenate([batch.x for batch in batches]),
        np.concatenate(labels) if labels else None,
    )


def parquet(path: Path, images: list[Any], **columns: Any) -> Path:
    pq.write_table(pa.table({"image": images, **columns}), path)
    return path


def expected(colour: tuple[int, int, int]) -> list[float]:
    """Pixel / 255, minus the mean, over the standard deviation."""
    return [(c / 255 - m) / s for c, m, s in zip(colour, RGB.mean, RGB.std, strict=True)]


def test_every_source_gives_the_same_examples(tmp_path: Path) -> None:
    images, labels = [picture(colour) for colour in COLOURS], [i % 3 for i in range(20)]
    sources = [parquet(tmp_path / "a.parquet", images, label=labels)]
    split = tmp_path / "split"
    split.mkdir()
    parquet(split / "0.parquet", images[:8], label=labels[:8])
    parquet(split / "1.parquet", images[8:], label=labels[8:])
    sources.append(split)
    structs = [{"bytes": image, "path": None} for image in images]
    sources.append(parquet(tmp_path / "hf.parquet", structs, label=labels))
    pixels = np.array(COLOURS, np.uint8)[:, None, None, :] * np.ones((1, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "pixels.npz", x=pixels, y=np.array(labels))
    sources.append(tmp_path / "pixels.npz")
    for source in sources:
        found = everything(source)
        assert found.x.shape == (20, 3, 8, 8)
        assert found.x.dtype == np.float32
        assert found.labels is not None
        assert found.labels.tolist() == labels
        np.testing.assert_allclose(found.x[:, :, 2, 5], [expected(c) for c in COLOURS], atol=1e-5)


def test_tables_may_name_their_classes_and_hold_more_than_is_read(tmp_path: Path) -> None:
    about = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [picture(COLOURS[0])], "label": [1], "weight": [0.5]})
    found = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    pq.write_table(found, tmp_path / "a.parquet")
    examples = open_examples(tmp_path / "a.parquet", RGB)
    assert list(examples.classes) == ["cat", "dog"]
    assert "`weight`" in examples.notes[0]
    pq.write_table(table, tmp_path / "b.parquet")
    assert not open_examples(tmp_path / "b.parquet", RGB).classes


def test_a_folder_has_one_sub_folder_per_class(tmp_path: Path) -> None:
    for name, colour in (("cat", COLOURS[0]), ("dog", COLOURS[1])):
        (tmp_path / name).mkdir()
        for i in range(2):
            (tmp_path / name / f"{i}.png").write_bytes(picture(colour))
    (tmp_path / "dog" / "notes.txt").write_text("not an image")
    found = everything(tmp_path)
    assert found.ids.tolist() == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert found.labels is not None
    assert found.labels.tolist() == [0, 0, 1, 1]


def test_a_flat_folder_is_unlabelled(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(picture(COLOURS[1]))
    (tmp_path / "a.JPG").write_bytes(picture(COLOURS[0]))
    found = everything(tmp_path)
    assert found.labels is None
    assert found.ids.tolist() == ["a.JPG", "b.png"]


def test_images_are_turned_upright_scaled_and_cut(tmp_path: Path) -> None:
    wide = Image.new("RGB", (64, 32), (0, 0, 0))
    wide.paste((255, 255, 255), (24, 0, 40, 32))  # the centre, which a cut keeps
    exif = wide.getexif()
    exif[0x0112] = 6  # held by 90 degrees: shown upright it is 32 wide and 64 high
    wide.save(tmp_path / "a.png", exif=exif)
    pixels = everything(tmp_path).x[0]
    white, black = expected((255, 255, 255))[0], expected((0, 0, 0))[0]
    assert pixels[0, 4, 4] == pytest.approx(white, abs=0.1)
    # the white band lies across, from left to right, once the image is upright
    assert pixels[0, 4, 0] == pytest.approx(white, abs=0.1)
    assert pixels[0, 0, 4] == pytest.approx(black, abs=0.1)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_images_of_any_mode_are_read(tmp_path: Path, mode: str) -> None:
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new(mode, (9, 9)).save(tmp_path / f"a.{suffix}")
    assert everything(tmp_path).x.shape == (1, 3, 8, 8)


def test_grey_images_and_channels_last(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture((255, 255, 255)))
    grey = Preprocessing((8, 6), (0.5,), (0.5,), "nhwc")
    (batch,) = open_examples(tmp_path, grey).batches(4)
    assert batch.x.shape == (1, 8, 6, 1)
    np.testing.assert_allclose(batch.x, 1.0, atol=1e-6)


def test_reading_can_start_anywhere(tmp_path: Path) -> None:
    source = parquet(tmp_path / "a.parquet", [picture(c) for c in COLOURS], label=list(range(20)))
    examples = open_examples(source, RGB)
    ids = np.concatenate([batch.ids for batch in examples.batches(6, start=5)])
    assert ids.tolist() == list(range(5, 20))


def test_an_image_that_does_not_decode_is_named_or_counted(tmp_path: Path) -> None:
    images = [picture(c) for c in COLOURS]
    images[3], images[11] = b"no image", images[11][:40]
    source = parquet(tmp_path / "a.parquet", images, label=[i % 3 for i in range(20)])
    with pytest.raises(DataError, match=r"image 3 .*--skip-broken"):
        everything(source)
    found = everything(source, skip_broken=True)
    assert found.ids.tolist() == [i for i in range(20) if i not in (3, 11)]
    assert found.labels is not None
    assert len(found.labels) == len(found.x) == 18


def test_other_examples_have_another_fingerprint(tmp_path: Path) -> None:
    prints = set()
    for i in range(2):
        for shift in range(2):
            images = [picture(c) for c in COLOURS[i:]]
            labels = [(j + shift) % 3 for j in range(len(images))]
            source = parquet(tmp_path / f"{i}{shift}.parquet", images, label=labels)
            prints.add(open_examples(source, RGB).fingerprint)
    assert len(prints) == 4


def npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_examples_that_cannot_be_read(tmp_path: Path) -> None:
    good = [picture(c) for c in COLOURS[:2]]
    (tmp_path / "empty").mkdir()
    both = tmp_path / "both"
    (both / "cat").mkdir(parents=True)
    (both / "a.png").write_bytes(good[0])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 cut short")
    (tmp_path / "notes.txt").write_text("nothing")
    cases = [
        (tmp_path / "absent", "does not exist"),
        (tmp_path / "empty", "no images"),
        (both, "both images and sub-folders"),
        (tmp_path / "cut.parquet", "cannot be read as Parquet"),
        (tmp_path / "notes.txt", "no known kind"),
        (parquet(tmp_path / "l.parquet", good, label=["cat", "dog"]), "must be integers"),
        (parquet(tmp_path / "n.parquet", good, label=[1, None]), "without a label"),
        (npz(tmp_path / "x.npz", z=np.zeros(3)), "must hold numbers `x`"),
        (npz(tmp_path / "o.npz", x=np.array(["a"])), "must hold numbers `x`"),
        (npz(tmp_path / "y.npz", x=np.zeros((3, 2)), y=np.zeros(2, int)), "2 labels for 3"),
        (npz(tmp_path / "f.npz", x=np.zeros((3, 2)), y=np.zeros(3)), "must be integers"),
        (npz(tmp_path / "p.npz", x=np.zeros((3, 2), object)), "cannot be read"),
        (npz(tmp_path / "u.npz", x=np.zeros((3, 9, 9, 3), np.uint8)), "the graph expects"),
    ]
    table = pa.table({"picture": good})
    pq.write_table(table, tmp_path / "c.parquet")
    cases.append((tmp_path / "c.parquet", "no column `image`"))
    for source, says in cases:
        with pytest.raises(DataError, match=says):
            everything(source)


def test_images_need_a_graph_that_says_how_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(COLOURS[0]))
    with pytest.raises(DataError, match="--size"):
        open_examples(tmp_path, None)


def test_a_missing_extra_names_its_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"pip install 'offramp\[datasets\]'"):
        open_examples("hf:cifar10", RGB)


@pytest.mark.parametrize(
    "values",
    [
        ((0, 8), (0.5,), (0.5,), "nchw"),
        ((8, 8), (0.5, 0.5), (0.5, 0.5), "nchw"),
        ((8, 8), (0.5,), (0.0,), "nchw"),
        ((8, 8), (0.5,), (float("nan"),), "nchw"),
        ((8, 8), (0.5,), (0.5,), "chwn"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(values: Any) -> None:
    with pytest.raises(InputError):
        Preprocessing(*values)


def test_preprocessing_survives_json() -> None:
    assert Preprocessing.from_json(RGB.to_json()) == RGB
    with pytest.raises(GraphError):
        Preprocessing.from_json({"size": [8]})
