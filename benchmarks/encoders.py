"""Encoders of text in the manner of BERT, trained on the CPU; needs the extra `torch`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.paragraphs import FIELDS, PACKAGES
from offramp.base.arrays import IntArray

_BATCH, _HEADS, _RATE = 64, 4, 1e-3


@dataclass(frozen=True)
class Size:
    """How much of a text one encoder reads, how many words it knows, and how large it is."""

    words: int
    length: int
    width: int
    layers: int


class Encoder(nn.Module):
    """Token ids, mask and types, (n, length) int64 each, to logits (n, packages)."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.words = nn.Embedding(size.words, size.width)
        self.places = nn.Parameter(torch.zeros(size.length, size.width))
        self.types = nn.Embedding(2, size.width)
        self.layers = nn.ModuleList(_Layer(size.width) for _ in range(size.layers))
        self.scores = nn.Linear(size.width, len(PACKAGES))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        hidden = self.words(input_ids) + self.places + self.types(token_type_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        weight = attention_mask[:, :, None].to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0)
        scores: Tensor = self.scores(mean)
        return scores


class _Layer(nn.Module):
    """Attention and a feed-forward network, each after a norm and beside what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.forth = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = hidden.shape
        mixed = self.mix(self.before(hidden)).view(batch, length, 3, _HEADS, width // _HEADS)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        weights = query @ key.transpose(-1, -2) / (width // _HEADS) ** 0.5
        weights = weights + (1.0 - mask[:, None, None, :].to(weights.dtype)) * -1e4
        heard = (weights.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
        hidden = hidden + self.out(heard)
        total: Tensor = hidden + self.forth(self.between(hidden))
        return total


def trained(
    size: Size, inputs: Mapping[str, IntArray], labels: IntArray, epochs: int
) -> tuple[Encoder, list[float]]:
    """An encoder after some epochs on one thread, and the mean loss of each epoch."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    encoder = Encoder(size)
    tensors = [torch.from_numpy(inputs[name]) for name in FIELDS]
    target = torch.from_numpy(labels)
    optimiser = torch.optim.AdamW(encoder.parameters(), lr=_RATE, weight_decay=0.01)
    steps = len(labels) // _BATCH
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=epochs * steps)
    losses = []
    for _ in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(labels))[: steps * _BATCH].split(_BATCH):
            scores = encoder(*(tensor[rows] for tensor in tensors))
            loss = functional.cross_entropy(scores, target[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            rate.step()
            total += loss.item()
        losses.append(round(total / steps, 3))
        print(f"loss {losses[-1]:.3f}", flush=True)
    return encoder.eval(), losses


def exported(encoder: Encoder, inputs: Mapping[str, IntArray], path: Path) -> None:
    """Writes an encoder as ONNX that reads any number of rows."""
    torch.onnx.export(
        encoder,
        tuple(torch.from_numpy(inputs[name][:2]) for name in FIELDS),
        str(path),
        input_names=list(FIELDS),
        output_names=["logits"],
        dynamic_axes={name: {0: "batch"} for name in (*FIELDS, "logits")},
        dynamo=False,
        opset_version=17,
    )
