"""The networks of the paper, and larger ResNets, in blocks; needs the extra `torch`.

Shapes are those of Krizhevsky et al. 2012, Szegedy et al. 2014 and He et al. 2015, with batch
normalisation after every convolution. Images of 64 pixels and fewer get stems that shrink them
less, and so that costs keep their order. Weights are random until something trains them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

_SMALL = 64  # pixels of a side up to which the stem does not shrink images


class Blocks(nn.Module):
    """A network in blocks, after each of which an exit may lie; the last one makes the scores.

    Args:
        blocks: (batch, 3, side, side) to (batch, classes), one after the other.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.all(x)[-1]

    def all(self, x: Tensor) -> list[Tensor]:
        """What every block makes."""
        found: list[Tensor] = []
        for block in self.blocks:
            found.append(block(found[-1] if found else x))
        return found


def alexnet(side: int, classes: int, width: float = 1.0) -> Blocks:
    """Five convolutions and three linear layers."""
    sizes = [_scaled(width, each) for each in (64, 192, 384, 256, 256)]
    small, hidden = side <= _SMALL, _scaled(width, 1024 if side <= _SMALL else 4096)
    first = _convolution(3, sizes[0], 3 if small else 11, 2 if small else 4)
    pool = partial(nn.MaxPool2d, 3, 2, 1)
    grid = 2 if small else 6
    return Blocks(
        [
            nn.Sequential(first, pool()),
            nn.Sequential(_convolution(sizes[0], sizes[1], 5), pool()),
            _convolution(sizes[1], sizes[2], 3),
            _convolution(sizes[2], sizes[3], 3),
            nn.Sequential(_convolution(sizes[3], sizes[4], 3), pool()),
            nn.Sequential(
                nn.AdaptiveAvgPool2d(grid),
                nn.Flatten(),
                nn.Dropout(),
                nn.Linear(sizes[4] * grid**2, hidden),
                nn.ReLU(),
                nn.Dropout(),
                nn.Linear(hidden, hidden),
                nn.ReLU(),
                nn.Linear(hidden, classes),
            ),
        ]
    )


# channels: 1x1, before 3x3, 3x3, before 5x5, 5x5, after the pool; whether it shrinks images
INCEPTIONS = (
    (64, 96, 128, 16, 32, 32, False),
    (128, 128, 192, 32, 96, 64, True),
    (192, 96, 208, 16, 48, 64, False),
    (160, 112, 224, 24, 64, 64, False),
    (128, 128, 256, 24, 64, 64, False),
    (112, 144, 288, 32, 64, 64, False),
    (256, 160, 320, 32, 128, 128, True),
    (256, 160, 320, 32, 128, 128, False),
    (384, 192, 384, 48, 128, 128, False),
)


class Inception(nn.Module):
    """Four branches side by side."""

    def __init__(self, channels: int, sizes: Sequence[int]) -> None:
        super().__init__()
        one, before3, three, before5, five, pooled = sizes
        self.branches = nn.ModuleList(
            [
                _convolution(channels, one, 1),
                nn.Sequential(_convolution(channels, before3, 1), _convolution(before3, three, 3)),
                nn.Sequential(_convolution(channels, before5, 1), _convolution(before5, five, 5)),
                nn.Sequential(nn.MaxPool2d(3, 1, 1), _convolution(channels, pooled, 1)),
            ]
        )
        self.channels = one + three + five + pooled

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def googlenet(side: int, classes: int, width: float = 1.0) -> Blocks:
    """A stem and nine inception blocks."""
    first, second = _scaled(width, 64), _scaled(width, 192)
    if side <= _SMALL:
        stem: list[nn.Module] = [_convolution(3, second, 3), nn.MaxPool2d(3, 2, 1)]
    else:
        stem = [
            _convolution(3, first, 7, 2),
            nn.MaxPool2d(3, 2, 1),
            _convolution(first, first, 1),
            _convolution(first, second, 3),
            nn.MaxPool2d(3, 2, 1),
        ]
    blocks, channels = [nn.Sequential(*stem)], second
    for *sizes, shrinks in INCEPTIONS:
        found = Inception(channels, [_scaled(width, each) for each in sizes])
        channels = found.channels
        blocks.append(nn.Sequential(found, *([nn.MaxPool2d(3, 2, 1)] if shrinks else [])))
    return Blocks([*blocks[:-1], nn.Sequential(blocks[-1], *_end(channels, classes))])


class Residual(nn.Module):
    """Convolutions beside a shortcut: 3x3 twice, or 1x1, 3x3, 1x1."""

    def __init__(self, channels: int, inner: int, stride: int, *, deep: bool) -> None:
        super().__init__()
        self.channels = inner * (4 if deep else 1)
        if deep:
            layers = [
                _convolution(channels, inner, 1),
                _convolution(inner, inner, 3, stride),
                *_convolution(inner, self.channels, 1)[:2],
            ]
        else:
            layers = [
                _convolution(channels, inner, 3, stride),
                *_convolution(inner, inner, 3)[:2],
            ]
        self.layers = nn.Sequential(*layers)
        changes = stride != 1 or channels != self.channels
        end = _convolution(channels, self.channels, 1, stride)[:2]
        self.shortcut = nn.Sequential(*end) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.layers(x) + self.shortcut(x)
        return total.relu()


DEPTHS = {  # residual blocks of each of the four groups, and whether they have three layers
    18: ((2, 2, 2, 2), False),
    50: ((3, 4, 6, 3), True),
    152: ((3, 8, 36, 3), True),
}


def resnet(depth: int, side: int, classes: int, width: float = 1.0) -> Blocks:
    """A stem and 8, 16 or 50 residual blocks."""
    groups, deep = DEPTHS[depth]
    channels = _scaled(width, 64)
    small = side <= _SMALL
    stem = [_convolution(3, channels, 3 if small else 7, 1 if small else 2)]
    blocks: list[nn.Module] = [nn.Sequential(*stem, *([] if small else [nn.MaxPool2d(3, 2, 1)]))]
    for group, count in enumerate(groups):
        for number in range(count):
            stride = 2 if group and not number else 1
            found = Residual(channels, _scaled(width, 64) * 2**group, stride, deep=deep)
            channels = found.channels
            blocks.append(found)
    return Blocks([*blocks[:-1], nn.Sequential(blocks[-1], *_end(channels, classes))])


PAPER: Mapping[str, Callable[..., Blocks]] = {
    "alexnet": alexnet,
    "googlenet": googlenet,
    "resnet50": partial(resnet, 50),
}


def _convolution(channels: int, out: int, size: int, stride: int = 1) -> nn.Sequential:
    made = nn.Conv2d(channels, out, size, stride, size // 2, bias=False)
    return nn.Sequential(made, nn.BatchNorm2d(out), nn.ReLU())


def _end(channels: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)]


def _scaled(width: float, channels: int) -> int:
    return max(4, round(width * channels))


def multiply_adds(network: Blocks, side: int) -> list[int]:
    """Of each block, for one image: convolutions and linear layers."""
    counts: list[int] = []

    def count(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            size = made[0].numel() * module.in_channels * module.kernel_size[0] ** 2
            counts[-1] += size // module.groups
        elif isinstance(module, nn.Linear):
            counts[-1] += module.in_features * module.out_features

    handles = [module.register_forward_hook(count) for module in network.modules()]
    x = torch.zeros(1, 3, side, side, device=next(network.parameters()).device)
    training = network.training
    with torch.inference_mode():
        network.eval()
        for block in network.blocks:
            counts.append(0)
            x = block(x)
    network.train(training)
    for handle in handles:
        handle.remove()
    return counts
