"""The CIFAR ResNets as PyTorch modules, their normalisations folded; needs the extra `torch`."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cifar import CHANNELS, Weights, fold


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters."""

    def __init__(self, weights: Weights, prefix: str, added: int) -> None:
        super().__init__()
        self.added = added
        self.first = _convolution(weights, f"{prefix}.conv1", f"{prefix}.bn1", 2 if added else 1)
        self.second = _convolution(weights, f"{prefix}.conv2", f"{prefix}.bn2")

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.second(self.first(x).relu())
        half = self.added // 2
        if self.added:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, half, self.added - half))
        total: Tensor = (hidden + x).relu()
        return total


def resnet(weights: Weights, blocks: int) -> nn.Module:
    """A ResNet of `blocks` blocks per group: (batch, 3, 32, 32), normalised, to logits."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["stem"] = _convolution(weights, "conv1", "bn1")
    layers["relu"] = nn.ReLU()
    previous = CHANNELS[0]
    for group, channels in enumerate(CHANNELS, start=1):
        for number in range(blocks):
            block = Block(weights, f"layer{group}.{number}", channels - previous)
            layers[f"layer{group}_{number}"] = block
            previous = channels
    layers["pool"], layers["flat"] = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    layers["linear"] = nn.Linear(*reversed(weights["linear.weight"].shape))
    _load(layers["linear"], weights["linear.weight"], weights["linear.bias"])
    return nn.Sequential(layers).eval()


def _convolution(weights: Weights, conv: str, norm: str, stride: int = 1) -> nn.Conv2d:
    kernel, bias = fold(weights, conv, norm)
    made = nn.Conv2d(kernel.shape[1], kernel.shape[0], 3, stride, padding=1)
    _load(made, kernel, bias)
    return made


def _load(module: nn.Module, kernel: object, bias: object) -> None:
    module.load_state_dict({"weight": torch.as_tensor(kernel), "bias": torch.as_tensor(bias)})
