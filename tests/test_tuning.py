"""Networks from their files as modules that learn, shorter networks, and taught copies."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from offramp.base.arrays import AnyArray
from offramp.base.errors import InputError, NetworkError
from offramp.networks import weights
from offramp.networks.data import open_examples
from offramp.runtime import OnnxRuntime
from offramp.siblings import SiblingOptions, make
from offramp.siblings.shortening import residual_blocks, without
from offramp.siblings.shrinking import shrunk
from offramp.siblings.teaching import Lessons
from tests import architectures
from tests.test_siblings import gratings, striped_network

torch = pytest.importorskip("torch")

from offramp.siblings import tuning  # noqa: E402
from offramp.siblings.module import FromOnnx, inlined  # noqa: E402
from offramp.siblings.tuning import distilled  # noqa: E402

RECURRENT = {"lstm"}
BLOCKS = {"resnet": 2, "vit": 6, "bert": 6}  # those of one width; attention and the layer after it
# the others have none


def exported(name: str, folder: Path) -> tuple[Path, AnyArray]:
    module, x, _ = architectures.ALL[name]()
    return architectures.export(module, x, folder / f"{name}.onnx"), x


def scored(file: Path, x: AnyArray) -> AnyArray:
    return OnnxRuntime({"s": file}).run("s", x)


@pytest.mark.parametrize("name", sorted({*architectures.ALL} - RECURRENT))
def test_a_module_of_a_file_answers_as_the_file(name: str, tmp_path: Path) -> None:
    file, x = exported(name, tmp_path)
    module = FromOnnx(inlined(weights.load(file))).eval()
    with torch.no_grad():
        found = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(found, scored(file, x), atol=1e-4, rtol=1e-4)
    loss = module(torch.from_numpy(x)).square().mean()
    loss.backward()
    assert all(weight.grad is not None for weight in module.weights.values())


@pytest.mark.parametrize("name", sorted({*architectures.ALL} - RECURRENT))
def test_weights_go_back_into_the_file_unchanged(name: str, tmp_path: Path) -> None:
    """Also where a normalisation was put in: what it was settled to is folded back."""
    file, x = exported(name, tmp_path)
    model = inlined(weights.load(file))
    module = FromOnnx(model)
    module.settle([torch.from_numpy(x)])
    module.write(model)
    weights.write(model, tmp_path / "again.onnx")
    np.testing.assert_allclose(
        scored(tmp_path / "again.onnx", x), scored(file, x), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("name", sorted(RECURRENT))
def test_operators_that_nothing_computes_are_named(name: str, tmp_path: Path) -> None:
    file, _ = exported(name, tmp_path)
    with pytest.raises(NetworkError, match=r"nothing here computes .*LSTM"):
        FromOnnx(inlined(weights.load(file)))


@pytest.mark.parametrize("name", sorted(architectures.ALL))
def test_blocks_that_pass_their_input_on_can_go(name: str, tmp_path: Path) -> None:
    file, x = exported(name, tmp_path)
    sums = residual_blocks(weights.load(file))
    assert len(sums) == BLOCKS.get(name, 0)
    before = len(onnx.load(file).graph.node)
    for block in sums:
        out = without(file, tmp_path / "shorter.onnx", [block])
        onnx.checker.check_model(onnx.load(out), full_check=True)
        assert len(onnx.load(out).graph.node) < before
        assert scored(out, x).shape == scored(file, x).shape


class StopError(Exception):
    """A run ends in the middle."""


def test_a_copy_learns_what_its_network_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On half the pixels; and a run that is stopped goes on to the same weights."""
    monkeypatch.setattr(
        tuning, "_quicker", lambda *_: tuning._Step(False, 1e-9)
    )  # else the clock would choose
    file = striped_network(tmp_path / "big.onnx")
    small = shrunk(file, tmp_path / "small.onnx", (1, 16, 16), (2, 3), (8, 8))
    x, test = gratings(600, 5)[0], gratings(400, 6)[0]
    lessons = Lessons.of(file, x, 3, 4, lambda *_: None)
    taught = distilled(small, tmp_path / "taught.onnx", lessons)
    wanted = scored(file, test).argmax(1)
    before, after = ((scored(f, test).argmax(1) != wanted).mean() for f in (small, taught))
    assert after < 0.7 * before

    def stop(_: str, done: int, __: int) -> None:
        if done == 2:
            raise StopError

    again = tmp_path / "again.onnx"
    with pytest.raises(StopError):
        distilled(small, again, lessons, progress=stop)
    distilled(small, again, lessons)
    np.testing.assert_array_equal(scored(again, test), scored(taught, test))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network, one with more filters, and examples."""
    path = tmp_path_factory.mktemp("taught")
    striped_network(path / "big.onnx")
    striped_network(path / "one.onnx", opset=18)
    for name, examples, seed in (("choose", 400, 2), ("more", 500, 4)):
        x, y = gratings(examples, seed)
        np.savez(path / f"{name}.npz", x=x, y=y)
    return path


def test_copies_of_several_networks_and_taught_ones(folder: Path, tmp_path: Path) -> None:
    files = {"small": folder / "one.onnx", "big": folder / "big.onnx"}
    examples, more = (open_examples(folder / f"{name}.npz") for name in ("choose", "more"))
    found = make(files, examples, SiblingOptions(epochs=1), tmp_path, further=more)
    names = {copy.name for copy in found.tried}
    assert {"small", "big", "small-int8", "big-int8", "small-12x12"} <= names
    assert {"small-8x8-trained", "small-8x8-trained-int8"} <= names
    assert found.networks.graph.reference == "big"
    assert found.to_json()["tried"]["small-8x8-trained"]["trained"] is True
    taught = found.networks.taught
    assert taught is not None
    assert len(taught) == 900  # those that copies learned from certify nothing, either


def test_a_copy_that_cannot_be_taught_is_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "big.onnx")
    for node in model.graph.node:
        node.op_type = {"Relu": "Celu"}.get(node.op_type, node.op_type)
    onnx.save(model, tmp_path / "odd.onnx")
    examples = open_examples(folder / "choose.npz")
    found = make(tmp_path / "odd.onnx", examples, SiblingOptions(epochs=1), tmp_path)
    assert "nothing here computes Celu" in found.dropped["8x8-trained"]
    assert "int8" in {copy.name for copy in found.tried}


def test_no_time_leaves_the_network_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) * 100.0)
    examples = open_examples(folder / "choose.npz")
    found = make(folder / "big.onnx", examples, SiblingOptions(minutes=1.0, epochs=1), tmp_path)
    assert found.networks.graph.order == ("full",)
    assert "no time left" in found.dropped["int8"]
    assert "no time left" in found.dropped["8x8-trained"]


@pytest.mark.parametrize("wrong", [{"minutes": 0.0}, {"epochs": -1}])
def test_options_out_of_range_are_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        SiblingOptions(**wrong)
