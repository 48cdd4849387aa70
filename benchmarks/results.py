"""Results as JSON beside the machine, the versions and the commit that made them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from offramp.base.arrays import FloatArray
from offramp.base.files import write_json
from offramp.core.parts import versions
from offramp.recording.measure import machine

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
MADE = (
    "benchmarks/results",
    "README.md",
    "docs/results",
    "docs/house.md",
    "docs/paper.md",
    "docs/paper.svg",
    "docs/frontier.svg",
    "docs/clock.svg",
)  # what benchmarks write
Study = Callable[..., Mapping[str, Any] | None]
Data = Annotated[Path, typer.Argument(help="Folder of the CIFAR-10 networks and photographs.")]
CACHE = Path("build/cifar")  # where networks and scores that were made once are kept
PACKAGES = ("offramp", "numpy", "scipy", "scikit-learn", "onnxruntime", "openvino")


def save(name: str, values: Mapping[str, Any], seconds: float) -> Path:
    """Writes results/NAME.json and returns its path."""
    path = RESULTS / f"{name}.json"
    about = {
        "machine": machine(),
        "versions": versions(PACKAGES),
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat("T", "seconds"),
        "seconds": round(seconds, 1),
    }
    write_json(path, {"about": about, **values})
    print(f"{path.relative_to(ROOT.parent)}: {seconds:.0f} s")
    return path


def command(name: str, study: Study) -> None:
    """Runs a study from the command line and saves the values that it returns as results/NAME.json.

    Its parameters are the arguments and options, its module's documentation the help.

    Args:
        name: of the results.
        study: measures; what it returns is saved, and nothing is where that is None.
    """

    @wraps(study)
    def run(**options: Any) -> None:
        start = time.perf_counter()
        values = study(**options)
        if values is not None:
            save(name, values, time.perf_counter() - start)

    run.__doc__ = sys.modules[study.__module__].__doc__
    typer.run(run)


def standard_error(values: FloatArray) -> FloatArray:
    """Of the mean over the first axis; 0 where there is one row."""
    if len(values) < 2:
        return np.zeros(values.shape[1:])
    return np.asarray(values.std(axis=0, ddof=1) / np.sqrt(len(values)))


def load(name: str) -> dict[str, Any]:
    """What `save` wrote."""
    value: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return value


def _commit() -> str:
    """The commit that was measured, and whether anything but results differed from it."""
    found = _git("rev-parse", "--short=12", "HEAD")
    others = [":/", *(f":(exclude,top){made}" for made in MADE)]
    changed = _git("status", "--porcelain", "--", *others)
    return f"{found}-dirty" if changed else found or "unknown"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()
