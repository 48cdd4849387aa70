"""Folders as they come: what is a class, what is an image, and what is said of the rest."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from offramp.base.errors import DataError
from offramp.networks.data import open_examples
from offramp.networks.folders import listed, read_folder
from offramp.networks.preprocessing import Preprocessing
from tests.made import picture

RGB = Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3)


def photos(path: Path, *names: str) -> Path:
    for name in names:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture((9, 9, 9)))
    return path


def labels(path: Path) -> dict[str, int]:
    (batch,) = open_examples(path, RGB).batches(64)
    assert batch.labels is not None
    return dict(zip(map(str, batch.ids), batch.labels.tolist(), strict=True))


@pytest.mark.parametrize(
    "junk",
    [
        *(
            "__MACOSX/._1.jpg",
            "__MACOSX/cats/._1.jpg",
            "@eaDir/x/1.jpg",
            ".ipynb_checkpoints/1.jpg",
        ),
        *(".git/1.jpg", "cats/._1.jpg", "cats/@eaDir/1.jpg/thumb.jpg", ".DS_Store", "Thumbs.db"),
        *("dogs/desktop.ini", "$RECYCLE.BIN/1.jpg", "dogs/.hidden.png", "cats/thumbs.db"),
    ],
)
def test_junk_is_no_class_and_no_image(tmp_path: Path, junk: str) -> None:
    photos(tmp_path, "cats/1.jpg", "dogs/1.jpg", junk)
    assert labels(tmp_path) == {"cats/1.jpg": 0, "dogs/1.jpg": 1}
    examples = open_examples(tmp_path, RGB)
    assert list(examples.classes) == ["cats", "dogs"]
    assert len(examples.notes) == 1


def test_junk_beside_flat_images_is_no_class(tmp_path: Path) -> None:
    photos(tmp_path, "1.jpg", "__MACOSX/._1.jpg", "@eaDir/x/1.jpg")
    (batch,) = open_examples(tmp_path, RGB).batches(64)
    assert batch.labels is None
    assert list(batch.ids) == ["1.jpg"]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["empty/"], "birds"),
        (["empty/notes.txt"], "birds"),
        (["empty/._1.jpg"], "birds"),
    ],
)
def test_folders_without_images_are_refused(tmp_path: Path, names: list[str], says: str) -> None:
    """Whether they are classes decides the labels of all that come after them."""
    photos(tmp_path, "ants/1.jpg", "cats/1.jpg")
    for name in names:
        inside = tmp_path / name.replace("empty", "birds")
        (inside if name.endswith("/") else inside.parent).mkdir(parents=True)
        if not name.endswith("/"):
            inside.write_text("nothing")
    with pytest.raises(DataError, match=f"{says} holds no images.* Remove it if it is no class"):
        open_examples(tmp_path, RGB)
    shutil.rmtree(tmp_path / "birds")
    assert labels(tmp_path) == {"ants/1.jpg": 0, "cats/1.jpg": 1}


def test_folders_inside_classes_are_said_and_splits_refused(tmp_path: Path) -> None:
    photos(tmp_path / "a", "cats/1.jpg", "cats/more/2.jpg", "dogs/1.jpg")
    found = read_folder(tmp_path / "a")
    assert len(found.images) == 2
    assert "cats/more" in found.notes[0]
    photos(tmp_path / "b", "train/cats/1.jpg", "test/cats/1.jpg")
    with pytest.raises(DataError, match="test holds no images itself but folders"):
        read_folder(tmp_path / "b")


def test_files_that_are_no_images_are_counted_and_the_first_named(tmp_path: Path) -> None:
    photos(tmp_path, "cats/1.jpg", "cats/list.csv", "dogs/1.jpg", "dogs/label.xml", "README.md")
    (note,) = read_folder(tmp_path).notes
    assert note.startswith("left aside README.md and 2 more")


def test_classes_that_are_numbers_are_sorted_as_text_and_it_is_said(tmp_path: Path) -> None:
    photos(tmp_path / "a", "1/a.jpg", "2/a.jpg", "10/a.jpg")
    found = read_folder(tmp_path / "a")
    assert found.classes == ("1", "10", "2")
    assert "label 1 is folder '10'" in found.notes[0]
    photos(tmp_path / "b", "01/a.jpg", "02/a.jpg", "10/a.jpg")
    assert not read_folder(tmp_path / "b").notes


def test_classes_are_listed_shortly() -> None:
    assert listed(["cats", "dogs"]) == "0 cats, 1 dogs"
    names = [f"n{i}" for i in range(1000)]
    assert listed(names).endswith("8 n8, ..., 999 n999")


def test_what_lies_in_an_archive_and_is_not_read_is_named(tmp_path: Path) -> None:
    x = np.zeros((3, 2), np.float32)
    np.savez(tmp_path / "a.npz", x=x, labels=np.arange(3), weights=np.ones(3))
    examples = open_examples(tmp_path / "a.npz")
    assert "`weights`" in examples.notes[0]
    (batch,) = examples.batches(8)
    assert batch.labels is not None
    np.savez(tmp_path / "b.npz", x=x, y=np.eye(3, dtype=int))
    with pytest.raises(DataError, match=r"labels\.argmax"):
        open_examples(tmp_path / "b.npz")
