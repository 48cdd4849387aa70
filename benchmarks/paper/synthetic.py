"""Made-up scores of three networks on 1,000 classes, shaped like those of ImageNet networks.

Examples differ in difficulty, which the networks share: about half of the examples are right by all
three, a fifth wrong by all. The right class has nine look-alikes, so that top-5 is far easier than
top-1.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offramp.base.arrays import FloatArray, IntArray

CLASSES = 1000
LIKE = 10  # classes that look alike
SKILL = {"alexnet": 2.9, "googlenet": 3.8, "resnet50": 4.6}  # chosen for plausible accuracies
COSTS = {"alexnet": 1.0, "googlenet": 4.0, "resnet50": 12.0}  # made up as well, in ms


def scores(examples: int, seed: int = 0) -> tuple[dict[str, FloatArray], IntArray]:
    """Logits of each network, (examples, 1,000) float16, and labels (examples,)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, examples)
    group = labels // LIKE * LIKE
    difficulty = random.gamma(1.1, 1.5, (examples, 1))
    shared = random.normal(size=(examples, LIKE))
    found = {}
    rows = np.arange(examples)
    for name, skill in SKILL.items():
        logits = random.normal(size=(examples, CLASSES)).astype(np.float16)
        own = 0.4 * random.normal(size=(examples, LIKE))
        alike = difficulty * (shared + own) + 3.0 + skill
        logits[rows[:, None], group[:, None] + np.arange(LIKE)] += alike
        logits[rows, labels] += skill
        found[name] = logits
    return found, labels


def save(path: Path, examples: int, seed: int = 0) -> None:
    """Writes what `offramp import` reads."""
    found, labels = scores(examples, seed)
    np.savez(path, labels=labels, allow_pickle=False, **found)
