"""The script of the paper's full setting, on a few tiny photographs, stopped and gone on with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.paper import networks
from benchmarks.shapes import PAPER


@pytest.fixture
def photographs() -> tuple[networks.Photographs, networks.Photographs]:
    """Squares of one of eight colours each."""
    random = torch.Generator().manual_seed(0)

    def part(count: int) -> networks.Photographs:
        labels = torch.arange(count) % 8
        images = torch.randint(0, 160, (count, 3, 16, 16), generator=random)
        bits = (labels[:, None] >> torch.arange(3)) & 1
        images += 80 * bits[:, :, None, None]
        return images.to(torch.uint8), labels

    return part(96), part(240)


def test_it_goes_on_where_it_stopped_and_tells_both_halves_of_the_paper(
    tmp_path: Path, photographs: tuple[networks.Photographs, networks.Photographs]
) -> None:
    train, test = photographs
    work = networks.Work(tmp_path, torch.device("cpu"), epochs=1, head_epochs=1, width=0.05)
    found = networks.study(work, train, test)
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name}{end}" for name in PAPER for end in (".safetensors", "-heads.safetensors", ".npz")
    }
    assert [len(found["error"][name]) for name in PAPER] == [6, 10, 17]
    assert found["error"].keys() == found["multiply_adds"].keys() == PAPER.keys()
    assert {*found["selection"]} == {"top1", "top5"}
    assert all(len(each) == 3 for each in found["selection"].values())
    assert {*found["exits"]} == {"googlenet", "resnet50"}
    weights = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert networks.study(work, train, test) == found
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == weights


def test_photographs_of_a_table_and_of_folders_are_read(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("a", "b"):
        (tmp_path / "train" / label).mkdir(parents=True)
        Image.fromarray(np.full((20, 20, 3), 90, np.uint8)).save(
            tmp_path / "train" / label / "1.png"
        )
    images, labels = networks.loaded(networks.found(tmp_path, "train"), 16, torch.device("cpu"))
    assert images.shape == (2, 3, 16, 16)
    assert (images == 90).all()
    assert labels.tolist() == [0, 1]
