"""Small networks of many kinds, with random weights: what a cutting rule must be able to cut."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from offramp.base.arrays import AnyArray, FloatArray

CLASSES = 4


def export(module: nn.Module, x: AnyArray | Mapping[str, AnyArray], path: Path) -> Path:
    """By the standard exporter, with a symbolic batch."""
    several = list(x.values()) if isinstance(x, Mapping) else [x]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(torch.from_numpy(values[:3]) for values in several),
            path,
            dynamo=True,
            external_data=False,
            verbose=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},) * len(several),
        )
    return path


def answers(module: nn.Module, x: AnyArray) -> FloatArray:
    """What a module says in its own framework."""
    with torch.no_grad():
        found: FloatArray = module.eval()(torch.from_numpy(x)).numpy()
    return found


def _seeded(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module.eval()


def _images() -> AnyArray:
    return np.random.default_rng(0).normal(size=(6, 3, 16, 16)).astype(np.float32)


def _tokens() -> AnyArray:
    tokens = np.random.default_rng(0).integers(1, 30, (6, 9))
    tokens[np.arange(9) >= np.array([9, 4, 6, 9, 2, 7])[:, None]] = 0  # padding
    return tokens


class _Block(nn.Module):
    def __init__(self, width: int, stride: int = 1, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or width
        self.conv1 = nn.Conv2d(width, inner, 3, stride, 1)
        self.norm = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, 1, 1)
        same = stride == 1 and inner == width
        self.shortcut = nn.Identity() if same else nn.Conv2d(width, inner, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.conv1(x)))
        return torch.relu(self.conv2(hidden) + self.shortcut(x))


class _Resnet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(_Block(8), _Block(8, 2, 12), _Block(12))
        self.linear = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.blocks(self.stem(x)).mean((2, 3)))


def resnet() -> tuple[nn.Module, AnyArray, list[str]]:
    return _seeded(_Resnet()), _images(), ["blocks.0", "blocks.1"]


class _Vit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.first = nn.Parameter(torch.zeros(1, 1, 16))
        self.positions = nn.Parameter(torch.zeros(1, 17, 16))
        layers = [
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
            for _ in range(3)
        ]
        self.layers = nn.ModuleList(layers)
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.linear(x[:, 0])


def vit() -> tuple[nn.Module, AnyArray, list[str]]:
    return _seeded(_Vit()), _images(), ["layers.0", "layers.1"]


class _Bert(nn.Module):
    """Tokens with padding; the mask is made once and read by every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.positions = nn.Embedding(9, 16)
        self.layers = nn.ModuleList(_Attention(16) for _ in range(3))
        self.linear = nn.Linear(16, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = (tokens == 0)[:, None, None, :] * -1e9
        x = self.embed(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x, mask)
        return self.linear(x[:, 0])


class _Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.one, self.two = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, t, width = x.shape
        q, k, v = self.mix(x).view(n, t, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 4 + mask, -1)
        x = self.norm1(x + self.out((weights @ v).transpose(1, 2).reshape(n, t, width)))
        return self.norm2(x + self.two(torch.relu(self.one(x))))


def bert() -> tuple[nn.Module, AnyArray, list[str]]:
    return _seeded(_Bert()), _tokens(), ["layers.0", "layers.1"]


class _Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.left = nn.Sequential(nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
        self.right = nn.Conv2d(8, 6, 5, padding=2)
        self.join = nn.Sequential(nn.Conv2d(12, 10, 3, padding=1), nn.ReLU())
        self.linear = nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.join(torch.cat([self.left(x), self.right(x)], 1))
        return self.linear(x.mean((2, 3)))


def inception() -> tuple[nn.Module, AnyArray, list[str]]:
    """An exit inside a branch, and one after the branches have met."""
    return _seeded(_Inception()), _images(), ["left.0", "join.0"]


class _Densenet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 2, 1)
        self.layers = nn.ModuleList(nn.Conv2d(6 + 4 * i, 4, 3, padding=1) for i in range(4))
        self.linear = nn.Linear(22, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        seen = [self.stem(x)]
        for layer in self.layers:
            seen.append(torch.relu(layer(torch.cat(seen, 1))))
        return self.linear(torch.cat(seen, 1).mean((2, 3)))


def densenet() -> tuple[nn.Module, AnyArray, list[str]]:
    """Every layer reads all before it: the carry holds several tensors."""
    return _seeded(_Densenet()), _images(), ["layers.1", "layers.2"]


class _Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.one, self.two = (nn.LSTM(8, 8, batch_first=True) for _ in range(2))
        self.linear = nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        x, _ = self.one(self.embed(tokens))
        x, _ = self.two(x)
        return self.linear(x[:, -1])


def lstm() -> tuple[nn.Module, AnyArray, list[str]]:
    return _seeded(_Lstm()), _tokens(), ["one"]


class _Inplace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.linear = nn.Linear(3, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.one(x), inplace=True)
        x += 0.5
        x = self.two(x)
        x[:, 0] = 0.0
        x.mul_(2)
        return self.linear(self.three(x).mean((2, 3)))


def inplace() -> tuple[nn.Module, AnyArray, list[str]]:
    return _seeded(_Inplace()), _images(), ["one", "two"]


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def vectors() -> tuple[nn.Module, AnyArray, list[str]]:
    x = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32)
    return _seeded(_Mlp()), x, ["layers.1"]


ALL = {f.__name__: f for f in (resnet, vit, bert, inception, densenet, lstm, inplace, vectors)}


@dataclass
class EncoderAnswer:
    """As libraries of transformers answer: what was not asked for is None."""

    logits: Tensor
    pooled: Tensor
    hidden: Tensor | None = None


class Encoder(nn.Module):
    """Token ids with their mask and types, which answers in a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.types = nn.Embedding(30, 16), nn.Embedding(2, 16)
        self.positions = nn.Embedding(9, 16)
        self.layers = nn.ModuleList(_Attention(16) for _ in range(3))
        self.pooler, self.linear = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor | None = None) -> EncoderAnswer:
        away = (1 - mask.float())[:, None, None, :] * -1e9
        x = self.embed(ids) + self.positions(torch.arange(ids.shape[1]))
        x = x if types is None else x + self.types(types)
        for layer in self.layers:
            x = layer(x, away)
        pooled = torch.tanh(self.pooler(x[:, 0]))
        return EncoderAnswer(self.linear(pooled), pooled)


def encoder() -> tuple[Encoder, dict[str, AnyArray]]:
    """With examples for it, by the names of its inputs."""
    module, ids = _seeded(Encoder()), _tokens()
    assert isinstance(module, Encoder)
    mask = (ids != 0).astype(np.int64)
    types = np.where(np.arange(9) > 4, mask, 0)
    return module, {"ids": ids, "mask": mask, "types": types}


class WithAuxiliaries(NamedTuple):
    main: Tensor
    auxiliary2: Tensor
    auxiliary1: Tensor


class Googlenet(nn.Module):
    """Answers with its own scores first, then with those of its exits, the later one first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.middle, self.late = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.auxiliary1, self.auxiliary2 = nn.Linear(8, CLASSES), nn.Linear(8, CLASSES)
        self.linear = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> WithAuxiliaries:
        x = torch.relu(self.middle(torch.relu(self.stem(x))))
        one = self.auxiliary1(x.mean((2, 3)))
        x = torch.relu(self.late(x))
        two = self.auxiliary2(x.mean((2, 3)))
        return WithAuxiliaries(self.linear(torch.relu(self.last(x)).mean((2, 3))), two, one)


def googlenet() -> tuple[nn.Module, AnyArray]:
    return _seeded(Googlenet()), _images()


class Mixer(nn.Module):
    """What runs again and again in the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.linear(self.norm(x)))


class Recurrent(nn.Module):
    """One block, used three times."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.linear = nn.Linear(10, 8), Mixer(), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(3):
            x = self.block(x)
        return self.linear(x)


def recurrent() -> tuple[Recurrent, AnyArray]:
    module, x = _seeded(Recurrent()), np.random.default_rng(0).normal(size=(6, 10))
    assert isinstance(module, Recurrent)
    return module, x.astype(np.float32)
