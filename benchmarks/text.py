"""Two encoders of text, three inputs each and a vocabulary of its own, from words to one file.

Usage: python -m benchmarks.text [--cache DIR] [--paragraphs 4000] [--epochs 4]

Paragraphs of the documentation that comes with five Python packages, whose names are blotted out;
the task is to tell which package a paragraph is from. A small and a larger encoder in the manner of
BERT (token ids, mask, token types) are trained on one half, each with the commonest words of that
half as its vocabulary. The other half is split: one part is learned from and certified on, the
other measured. Everything after the export from PyTorch is done on the command line of offramp.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.encoders import Size, exported, trained
from benchmarks.journey import Journey
from benchmarks.paragraphs import FIELDS, PACKAGES, corpus, encoded, vocabulary
from benchmarks.results import command
from offramp.base.arrays import AnyArray
from offramp.base.files import write_json

SIZES = {
    "small": Size(words=1500, length=24, width=48, layers=1),
    "big": Size(words=8000, length=48, width=128, layers=2),
}
READS = {
    f"{name}.{field}": f"{name}_{short}"
    for name in SIZES
    for field, short in zip(FIELDS, ("ids", "mask", "types"), strict=True)
}
BUDGETS = (0.01, 0.02)


def everything(
    cache: Path = Path("build/text"), paragraphs: int = 4000, epochs: int = 4
) -> dict[str, Any]:
    cache.mkdir(parents=True, exist_ok=True)
    about = networks(cache, paragraphs, epochs)
    journey = Journey(cache, {name: cache / f"{name}.onnx" for name in SIZES})
    journey.graph("--reads", ",".join(f"{name}={field}" for name, field in READS.items()))
    for part in ("certify", "measure"):
        journey.record(cache / f"{part}.npz", part)
    plans = journey.certified("certify", BUDGETS)
    for plan in plans:
        plan["evaluation"] = journey.evaluated(plan["budget"], "measure")
        data = cache / "measure.npz"
        plan |= journey.running(plan["budget"], "measure", data, requests=256, passes=9)
    return {
        "classes": len(PACKAGES),
        "networks": about,
        "accuracy": journey.accuracy("measure"),
        "plans": plans,
    }


def networks(cache: Path, paragraphs: int, epochs: int) -> dict[str, Any]:
    """Trains the encoders, unless the cache has them, and writes examples for both to read.

    Returns how they were trained.
    """
    told = cache / "networks.json"
    if told.exists():
        found: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
        return found
    texts, labels = corpus(paragraphs)
    learning, certifying = len(texts) // 2, len(texts) * 3 // 4
    parts = {"certify": slice(learning, certifying), "measure": slice(certifying, None)}
    about, arrays = dict[str, Any](), dict[str, AnyArray]()
    for name, size in SIZES.items():
        known = vocabulary(texts[:learning], size.words)
        inputs = encoded(texts, known, size.length)
        arrays |= {READS[f"{name}.{field}"]: values for field, values in inputs.items()}
        train = {field: values[:learning] for field, values in inputs.items()}
        encoder, losses = trained(size, train, labels[:learning], epochs)
        exported(encoder, inputs, cache / f"{name}.onnx")
        about[name] = {**vars(size), "epochs": epochs, "examples": learning, "loss": losses}
    for part, rows in parts.items():
        chosen: dict[str, Any] = {field: values[rows] for field, values in arrays.items()}
        np.savez(cache / f"{part}.npz", **chosen, y=labels[rows])
    write_json(told, about)
    return about


if __name__ == "__main__":
    command("text", everything)
