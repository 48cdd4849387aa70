"""One command, from networks to a certified file: what it finds, certifies, saves on the clock.

Usage: python -m benchmarks.optimize DATA [--only NAME] [--cache DIR]

Half a point of the tuned ResNet-56 on the 10,000 photographs of the test set: some make copies,
some teach, the rest certifies (`offramp optimize`). Copies that learn do so on photographs of the
training set. Every case runs for requests of 1 and of 64. One thread. Machines are shared and
noisy, so seconds mean little: read the ratios alone. With --only, other cases stay as saved.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import cifar
from benchmarks.results import CACHE, RESULTS, Data, command, load
from offramp.networks.data import open_examples
from offramp.networks.preprocessing import Preprocessing
from offramp.optimizing import Optimized, optimize
from offramp.plan.asked import Promise
from offramp.siblings import SiblingOptions

BATCHES = (1, 64)
PROMISE = Promise(budgets=(0.005,))
SMALL, LARGE = "resnet20_tuned", "resnet56_tuned"


@dataclass(frozen=True)
class Case:
    """What is given."""

    networks: tuple[str, ...]  # the reference last
    epochs: int = 0  # that copies learn
    most: int = 4


CASES = {
    "ResNet-56": Case((LARGE,)),
    "ResNet-56, copies learn": Case((LARGE,), epochs=3),
    "ResNet-20 and 56": Case((SMALL, LARGE)),
    "ResNet-20 and 56, copies learn": Case((SMALL, LARGE), epochs=5),
}
Only = Annotated[str | None, typer.Option(help=f"One of {', '.join(CASES)}.")]


def everything(data: Data, only: Only = None, cache: Path = CACHE) -> dict[str, Any]:
    saved = load("optimize")["cases"] if (RESULTS / "optimize.json").exists() else {}
    found = {name: saved.get(name, {}) for name in CASES}
    for name, case in CASES.items():
        if only in (None, name):
            found[name] = {str(batch): _journey(case, batch, data, cache) for batch in BATCHES}
    return {"budget": PROMISE.budgets[0], "confidence": PROMISE.confidence, "cases": found}


def _journey(case: Case, batch: int, data: Path, cache: Path) -> Mapping[str, Any]:
    """From files to one file, for requests of one size."""
    files = cifar.build_networks(data, cache / "onnx")
    way = Preprocessing(size=(32, 32), mean=cifar.MEAN, std=cifar.STD)
    out = cache / "optimized"
    shutil.rmtree(out, ignore_errors=True)
    several = {name: files[name] for name in case.networks}
    found = optimize(
        several if len(several) > 1 else files[case.networks[0]],
        open_examples(data / "test.parquet", way),
        PROMISE,
        out,
        SiblingOptions(batch=batch, epochs=case.epochs, most=case.most),
        further=open_examples(data / "train.parquet", way) if case.epochs else None,
        preprocessing=way,
    )
    print(*_said(found), sep="\n", flush=True)
    return found.to_json() | {"runs": list(found.plan.running.graph.order)}


def _said(found: Optimized) -> list[str]:
    return [
        f"{found.siblings['stages']}: {found.plan.certificate.verdict}",
        *(f"{row.batch} {row.what} ({row.name}): {row.speedup:.2f}" for row in found.rows),
        f"{found.seconds}",
    ]


if __name__ == "__main__":
    command("optimize", everything)
