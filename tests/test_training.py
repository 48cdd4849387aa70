"""Exits in a PyTorch module: attached, trained, resumed, exported."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from offramp.base.errors import InputError, NetworkError
from offramp.exits.descent import Training, rate_of
from offramp.exits.module import WithExits, deep_head, export, linear_head
from offramp.exits.training import shuffled, train, training_loss
from offramp.runtime import OnnxRuntime
from tests import architectures
from tests.made import blobs

AT = {"exit1": "layers.1", "exit2": "layers.3"}


class Mlp(nn.Module):
    """Small enough to learn in a second; with statistics that training moves, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(6, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 16), nn.Dropout(0.1)
        )
        self.linear = nn.Linear(16, 4)
        self.unused = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.layers(x)))


def fresh() -> tuple[WithExits, Tensor]:
    torch.manual_seed(0)
    x = torch.from_numpy(blobs(400)[0])
    return WithExits(Mlp(), AT, x[:4]), x


def errors(model: nn.Module) -> list[float]:
    x, y = blobs(500, seed=5)
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(x))
    return [float((scores.argmax(1).numpy() != y).mean()) for scores in found]


def test_a_module_with_exits_returns_their_scores_and_its_own() -> None:
    model, x = fresh()
    found = model.eval()(x)
    assert [tuple(scores.shape) for scores in found] == [(400, 4)] * 3
    assert torch.equal(found[-1], model.module(x))


@pytest.mark.parametrize("name", architectures.ALL)
def test_exits_attach_to_any_architecture(name: str, tmp_path: Path) -> None:
    module, x, at = architectures.ALL[name]()
    inputs = torch.from_numpy(x)
    model = WithExits(module, {f"exit{i}": a for i, a in enumerate(at)}, inputs).eval()
    found = export(model, inputs, tmp_path)
    runtime = OnnxRuntime(found.networks.files, found.networks.graph)
    with torch.no_grad():
        expected = model(inputs)
    for stage, scores in zip(found.networks.graph.order, expected, strict=True):
        np.testing.assert_allclose(runtime.run(stage, x), scores.numpy(), atol=1e-5, rtol=1e-5)


def test_unknown_and_idle_submodules_are_named() -> None:
    x = torch.from_numpy(blobs(4)[0])
    with pytest.raises(NetworkError, match=r"no submodule 'layer\.1'.*did you mean 'layers\.1'"):
        WithExits(Mlp(), {"exit1": "layer.1"}, x)
    with pytest.raises(NetworkError, match="'unused' does not run"):
        WithExits(Mlp(), {"exit1": "unused"}, x)


@pytest.mark.parametrize("mode", ["heads", "joint", "distill"])
def test_training_lowers_the_error_of_every_exit_it_trains(mode: str) -> None:
    model, _ = fresh()
    before = errors(model)
    x, y = blobs(400)
    losses: list[float] = []
    train(
        model,
        shuffled(x, y, 50),
        Training(mode=mode, epochs=8, learning_rate=1e-2),  # type: ignore[arg-type]
        progress=lambda what, done, total: losses.append(float(what.split()[-1])),
    )
    after = errors(model)
    assert losses[-1] < losses[0]
    assert all(a < b for a, b in zip(after[:2], before[:2], strict=True))
    assert not model.training


def test_training_heads_alone_leaves_the_network_as_it_was() -> None:
    model, _ = fresh()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    x, y = blobs(100)
    train(model, shuffled(x, y, 50), Training(mode="heads", epochs=2, learning_rate=1e-2))
    after = model.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_schedules_rise_and_fall() -> None:
    for schedule, half, end in (("cosine", 0.5, 0.0), ("linear", 0.5, 0.0), ("constant", 1, 1)):
        rates = [rate_of(schedule, share) for share in (0, 0.025, 0.05, 0.525, 0.999999)]  # type: ignore[arg-type]
        assert rates == pytest.approx([0, 0.5, 1, half, end], abs=1e-5)


def test_the_teacher_is_not_taught_by_its_exits() -> None:
    scores = [torch.randn(5, 4, requires_grad=True) for _ in range(2)]
    plain = Training(mode="joint")
    labels = torch.tensor([0, 1, 2, 3, 0])
    training_loss(scores, labels, Training(mode="distill")).backward()
    taught = scores[-1].grad
    scores[-1].grad = None
    training_loss(scores, labels, plain).backward()
    assert taught is not None
    assert scores[-1].grad is not None
    torch.testing.assert_close(taught, scores[-1].grad)


class Killed(Exception):  # noqa: N818
    pass


def test_a_killed_training_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    x, y = blobs(200)
    every, settings = shuffled(x, y, 50), Training(mode="joint", epochs=5, learning_rate=1e-2)

    def dying(epoch: int) -> Iterable[tuple[Tensor, Tensor]]:
        if epoch == 3:
            raise Killed
        return every(epoch)

    path = tmp_path / "run.safetensors"
    with pytest.raises(Killed):
        train(fresh()[0], dying, settings, checkpoint=path)
    resumed, seen = fresh()[0], []
    train(resumed, every, settings, checkpoint=path, progress=lambda *step: seen.append(step[1]))
    assert seen == [4, 5]
    straight = train(fresh()[0], every, settings)
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value)
    assert not list(tmp_path.glob(".*"))


def test_checkpoints_of_something_else_are_refused(tmp_path: Path) -> None:
    x, y = blobs(50)
    path = tmp_path / "run.safetensors"
    train(fresh()[0], shuffled(x, y, 50), Training(epochs=1), checkpoint=path)
    with pytest.raises(InputError, match="of another training"):
        train(fresh()[0], shuffled(x, y, 50), Training(epochs=2), checkpoint=path)
    other = WithExits(Mlp(), {"exit1": "layers.0"}, torch.from_numpy(x))
    with pytest.raises(InputError, match="of another model"):
        train(other, shuffled(x, y, 50), Training(epochs=1), checkpoint=path)
    path.write_bytes(pickle.dumps({"weights": 1}))
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        train(fresh()[0], shuffled(x, y, 50), Training(epochs=1), checkpoint=path)


class Several(nn.Module):
    """Returns a list of scores by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(6, 8), nn.Linear(8, 8)
        self.first, self.last = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = torch.relu(self.one(x))
        early = self.first(x)
        return [early, self.last(torch.relu(self.two(x)))]


def test_a_module_with_exits_of_its_own_is_taken_as_it_is(tmp_path: Path) -> None:
    x, y = blobs(300)
    model = train(Several(), shuffled(x, y, 50), Training(epochs=2))
    found = export(model, torch.from_numpy(x[:5]), tmp_path)
    assert found.networks.graph.order == ("exit1", "final")
    assert found.costs.body == {"exit1": 48e-6, "final": (64 + 32) * 1e-6}
    assert found.costs.head == {"exit1": 32e-6, "final": 0.0}
    with pytest.raises(InputError, match="trained in a WithExits"):
        train(model, shuffled(x, y, 50), Training(mode="heads", epochs=1))


class Moody(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.sum() > 0:
            return x, x + 1
        return x + 1, x


def test_control_flow_that_depends_on_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="control flow that depends on the data"):
        export(Moody(), torch.ones(3, 4), tmp_path)


def test_heads_fit_every_layout() -> None:
    for shape in ((8, 9, 9), (7, 8), (8,)):
        for make in (linear_head, deep_head):
            assert make(shape, 4).eval()(torch.randn(2, *shape)).shape == (2, 4)
    with pytest.raises(NetworkError, match="a head reads vectors"):
        linear_head((2, 3, 4, 5), 4)
