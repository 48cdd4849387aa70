"""The paper's full setting, with scores, on networks that this trains: goes on where it stopped.

Usage: python -m benchmarks.paper.networks PHOTOGRAPHS --out DIR [--epochs 30] [--device cuda]

PHOTOGRAPHS holds `train` and `test` (Parquet files, or folders of images). AlexNet-, GoogLeNet- and
ResNet-50-shaped networks are trained in bfloat16 with the photographs on the device; then, frozen,
a linear head after each inception and residual block, on global averages, as in the paper. Half of
the test photographs teach the policies, the other half measures: network selection on the paper's
topologies, and early exits in the last two networks. Costs are multiply-adds. DIR keeps weights,
heads and scores; what is there is not made again. Needs the extra `torch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.paper.__main__ import experiment, speedups
from benchmarks.results import command
from benchmarks.shapes import PAPER, Blocks, multiply_adds
from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Costs, Graph, Stage
from offramp.core.trace import Trace, assemble
from offramp.exits.descent import Training, descend, precision
from offramp.networks.data import open_examples
from offramp.networks.preprocessing import Preprocessing
from offramp.study.compare import compare

BATCH, EVALUATED = 512, 1024
PAD = 4  # pixels by which photographs are shifted
EARLY = ("googlenet", "resnet50")  # in which exits are put
RATE, HEAD_RATE = 3e-3, 1e-2
Photographs = tuple[Tensor, Tensor]  # (n, 3, side, side) uint8 and labels (n,), on the device


@dataclass(frozen=True)
class Work:
    """Where and how long."""

    out: Path
    device: torch.device
    epochs: int
    head_epochs: int
    width: float = 1.0


def everything(
    photographs: Annotated[Path, typer.Argument(help="Folder with `train` and `test`.")],
    out: Annotated[Path, typer.Option(help="Where weights and scores are kept.")],
    epochs: int = 30,
    side: int = 32,
    device: str = "cuda",
) -> dict[str, Any]:
    work = Work(out, torch.device(device), epochs, max(1, epochs // 6))
    parts = [loaded(found(photographs, part), side, work.device) for part in ("train", "test")]
    return {"device": device, "epochs": epochs, "pixels": side, **study(work, parts[0], parts[1])}


def found(folder: Path, part: str) -> Path:
    """The photographs of a part: a table or a folder of images."""
    table = folder / f"{part}.parquet"
    return table if table.exists() else folder / part


def loaded(source: Path, side: int, device: torch.device) -> Photographs:
    """All photographs of a part as bytes."""
    plain = Preprocessing((side, side), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    images, labels = [], list[Tensor]()
    for batch in open_examples(source, plain).batches(BATCH):
        assert batch.labels is not None, "photographs without labels"
        images.append((torch.from_numpy(np.asarray(batch.x)) * 255).round().to(torch.uint8))
        labels.append(torch.from_numpy(np.asarray(batch.labels)).long())
    return torch.cat(images).to(device), torch.cat(labels).to(device)


def study(work: Work, train: Photographs, test: Photographs) -> dict[str, Any]:
    """Everything that can be told once the networks are there."""
    classes, side = int(train[1].max()) + 1, train[0].shape[-1]
    scores: dict[str, list[FloatArray]] = {}
    costs: dict[str, list[float]] = {}
    for name, make in PAPER.items():
        torch.manual_seed(0)
        network = make(side, classes, work.width).to(work.device)
        learn(network, train, work, work.out / f"{name}.safetensors")
        heads = taught(network, train, work, work.out / f"{name}-heads.safetensors")
        scores[name] = kept(work.out / f"{name}.npz", partial(said, network, heads, test))
        costs[name] = [count / 1e6 for count in multiply_adds(network, side)]
    labels = test[1].cpu().numpy()
    return {
        "examples": {"train": len(train[1]), "test": len(labels)},
        "error": {
            name: [float((each.argmax(axis=1) != labels).mean()) for each in found]
            for name, found in scores.items()
        },
        "multiply_adds": costs,
        "selection": selection(scores, costs, labels),
        "exits": {name: early(scores[name], costs[name], labels) for name in EARLY},
    }


def learn(network: Blocks, data: Photographs, work: Work, checkpoint: Path) -> None:
    """Trains a network, from where it was stopped."""
    settings = Training(epochs=work.epochs, learning_rate=RATE, weight_decay=5e-2)

    def loss(x: Any, labels: Tensor) -> Tensor:
        with precision(work.device, settings):
            return functional.cross_entropy(network(x).float(), labels, label_smoothing=0.05)

    network.train()
    work.out.mkdir(parents=True, exist_ok=True)
    descend(network, loss, shuffled(data, True), settings, checkpoint=checkpoint)
    network.eval()


def shuffled(data: Photographs, altered: bool) -> Callable[[int], Iterator[tuple[Any, Tensor]]]:
    """Batches of an epoch in an order of its own, and each photograph shifted and mirrored."""
    images, labels = data

    def epoch(number: int) -> Iterator[tuple[Any, Tensor]]:
        random = torch.Generator().manual_seed(number)
        order = torch.randperm(len(labels), generator=random).to(images.device)
        for rows in order.split(BATCH):
            x = scaled(images[rows])
            yield (shifted(x, random) if altered else x), labels[rows]

    return epoch


def scaled(images: Tensor) -> Tensor:
    """Bytes as numbers around 0."""
    return images.float() / 127.5 - 1.0


def shifted(x: Tensor, random: torch.Generator) -> Tensor:
    """A batch moved by some pixels, half of it mirrored."""
    down, right = torch.randint(0, 2 * PAD + 1, (2,), generator=random).tolist()
    side = x.shape[-1]
    moved = functional.pad(x, (PAD,) * 4)[:, :, down : down + side, right : right + side]
    mirrored = (torch.rand(len(x), generator=random) < 0.5).to(x.device)
    return torch.where(mirrored[:, None, None, None], moved.flip(3), moved)


class Heads(nn.Module):
    """A linear head on the global averages of every block but the last."""

    def __init__(self, channels: list[int], classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(each) for each in channels)
        self.heads = nn.ModuleList(nn.Linear(each, classes) for each in channels)

    def forward(self, made: list[Tensor]) -> list[Tensor]:
        averages = [each.float().mean(dim=(2, 3)) for each in made]
        pairs = zip(self.norms, self.heads, averages, strict=True)
        return [head(norm(each)) for norm, head, each in pairs]


def taught(network: Blocks, data: Photographs, work: Work, checkpoint: Path) -> Heads:
    """Heads on the frozen network, from where they were stopped."""
    settings = Training(mode="heads", epochs=work.head_epochs, learning_rate=HEAD_RATE)

    def made(x: Tensor) -> list[Tensor]:
        with torch.no_grad(), precision(work.device, settings):
            return network.all(x)[:-1]

    some = made(scaled(data[0][:2]))
    heads = Heads([each.shape[1] for each in some], int(data[1].max()) + 1)
    heads.to(work.device)

    def loss(x: Any, labels: Tensor) -> Tensor:
        each = [functional.cross_entropy(scores, labels) for scores in heads(made(x))]
        return torch.stack(each).sum()

    heads.train()
    descend(heads, loss, shuffled(data, True), settings, checkpoint=checkpoint)
    heads.eval()
    return heads


def said(network: Blocks, heads: Heads, test: Photographs) -> list[FloatArray]:
    """Scores (n, classes) of every head, and of the network last."""
    found: list[list[Tensor]] = []
    with torch.inference_mode():
        for images in test[0].split(EVALUATED):
            made = network.all(scaled(images))
            found.append([*heads(made[:-1]), made[-1]])
    return [torch.cat(each).float().cpu().numpy() for each in zip(*found, strict=True)]


def kept(file: Path, make: Callable[[], list[FloatArray]]) -> list[FloatArray]:
    """Scores from a file, or made and written there."""
    if not file.exists():
        made = {f"{number:03d}": each for number, each in enumerate(make())}
        partial = file.with_suffix(".part.npz")
        np.savez(partial, allow_pickle=False, **made)
        partial.replace(file)
    with np.load(file) as arrays:
        return [arrays[name] for name in sorted(arrays)]


def selection(
    scores: Mapping[str, list[FloatArray]], costs: Mapping[str, list[float]], labels: IntArray
) -> dict[str, Any]:
    """Speed-ups of network selection on the paper's topologies, by loss and policy."""
    names = list(PAPER)
    body = {name: math.fsum(costs[name]) for name in names}
    priced = Costs(body, dict.fromkeys(names, 0.0), "MFLOP")
    whole = {name: scores[name][-1] for name in names}
    trace = assemble(Graph.chain(names), priced, whole, labels=labels, kind="logits")
    return {
        loss: {topology: told(each) for topology, each in found.items()}
        for loss, found in experiment(trace).items()
    }


def early(scores: list[FloatArray], costs: list[float], labels: IntArray) -> dict[str, Any]:
    """Speed-ups of exits after every block but the first, over the network without them."""
    names = [f"block{number}" for number in range(1, len(scores))]
    body = dict(zip(names, [costs[0] + costs[1], *costs[2:]], strict=True))
    stages = [Stage(name, before) for name, before in zip(names, [None, *names], strict=False)]
    edges = tuple(pairwise(names))
    graph = Graph(tuple(stages), edges=edges, reference=names[-1])
    priced = Costs(body, dict.fromkeys(names, 0.0), "MFLOP")
    spoken = dict(zip(names, scores[1:], strict=True))
    trace: Trace = assemble(graph, priced, spoken, labels=labels, kind="logits", seal=0.0)
    halves = [trace.take(rows) for rows in trace.split(0.5, 0)]
    return told(compare(*halves, policies=("learned", "myopic")))


def told(comparison: Any) -> dict[str, Any]:
    """Speed-ups at equal quality, and the soft oracle's."""
    soft = comparison.soft_oracle
    return {"speedups": speedups(comparison), "soft_oracle": [soft.excess_loss, soft.speedup]}


if __name__ == "__main__":
    command("paper_networks", everything)
