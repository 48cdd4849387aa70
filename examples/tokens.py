"""Early exits in a transformer that reads tokens with padding, trained jointly in PyTorch.

Usage: python examples/tokens.py          needs the extra: pip install 'offramp[torch]'

The sequences are made up: most are plain, in some a token turns the answer round, which takes more
than one look. Exits after each layer, trained with the network; a plan; other sequences.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch import Tensor, nn

from offramp import Evaluation, OnnxRuntime, Trace, evaluate, fit
from offramp.base.arrays import IntArray
from offramp.exits.descent import Training
from offramp.exits.module import WithExits, export, linear_head
from offramp.exits.training import shuffled, train
from offramp.networks.data import open_examples
from offramp.recording.record import RecordOptions, record

WORDS, LENGTH, CLASSES, WIDTH, LAYERS = 40, 16, 4, 64, 4
PADDING, TURN = 0, 1


def main() -> None:
    with TemporaryDirectory() as folder:
        found = run(Path(folder))
    print(f"excess loss {found.excess_loss:.2%}, speed-up {found.speedup:.2f}, stops {found.exits}")


def sequences(examples: int, seed: int) -> tuple[IntArray, IntArray]:
    """Tokens (n, LENGTH) and labels: the class most words belong to, the next one if TURN is in."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, examples)
    words = random.integers(2, WORDS, (examples, LENGTH))
    own = random.random((examples, LENGTH)) < 0.6
    words = np.where(own, 2 + (words - 2) // CLASSES * CLASSES + labels[:, None], words) % WORDS
    turned = random.random(examples) < 0.3
    words[np.arange(examples)[turned], random.integers(0, 6, turned.sum())] = TURN
    used = random.integers(6, LENGTH + 1, examples)
    words[np.arange(LENGTH) >= used[:, None]] = PADDING
    return words, (labels + turned) % CLASSES


class Transformer(nn.Module):
    """Layers of masked attention over tokens (batch, tokens), and scores from the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.linear = nn.Linear(WIDTH, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        kept = (tokens != PADDING).float()
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, kept)
        mean = (x * kept[:, :, None]).sum(1) / kept.sum(1, keepdim=True)
        return self.linear(mean)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.one, self.two = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor, kept: Tensor) -> Tensor:
        query, key, value = self.mix(self.norm1(x)).chunk(3, -1)
        sure = query @ key.transpose(1, 2) / WIDTH**0.5 + (kept[:, None, :] - 1) * 1e4
        x = x + self.out(sure.softmax(-1) @ value)
        return (x + self.two(torch.relu(self.one(self.norm2(x))))) * kept[:, :, None]


def run(folder: Path, examples: int = 6000, epochs: int = 8) -> Evaluation:
    """What a plan with exits does on sequences that trained nothing."""
    torch.manual_seed(0)
    x, y = sequences(examples, 0)
    at = {f"exit{number + 1}": f"layers.{number}" for number in range(LAYERS - 1)}
    model = WithExits(Transformer(), at, torch.from_numpy(x[:4]), head=linear_head)
    train(model, shuffled(x, y, 128), Training(mode="distill", epochs=epochs, learning_rate=2e-3))
    networks = export(model, torch.from_numpy(x[:5]), folder / "parts").networks
    runtime = OnnxRuntime(networks.files, networks.graph)

    def recorded(seed: int) -> Trace:
        x, y = sequences(3000, seed)
        np.savez(folder / f"{seed}.npz", x=x, y=y)
        given = open_examples(folder / f"{seed}.npz")
        return record(networks, runtime, given, folder / f"trace{seed}", RecordOptions())

    return evaluate(fit(recorded(1), 0.02, networks=networks), recorded(2))


if __name__ == "__main__":
    main()
