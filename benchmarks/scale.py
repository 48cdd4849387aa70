"""Time and peak memory of `offramp import` and `offramp fit`, each in a process of its own.

Usage: python -m benchmarks.scale [--largest 1000000]
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.results import command
from offramp.base.arrays import FloatArray

# (examples, classes); four stages each
SIZES = ((5_000, 10), (10_000, 10), (100_000, 10), (1_000_000, 10), (50_000, 1000))
STAGES = ("a", "b", "c", "d")
COSTS = "a=1,b=3,c=9,d=27"
CHUNK = 20_000


def everything(largest: int = SIZES[-2][0]) -> dict[str, Any]:
    rows = [row(*size) for size in SIZES if size[0] <= largest]
    return {"stages": len(STAGES), "rows": rows}


def row(examples: int, classes: int) -> dict[str, Any]:
    """Makes scores, then times both commands on them."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        np.savez(folder / "scores.npz", allow_pickle=False, **made(examples, classes))
        imported = timed(
            ["import", str(folder / "scores.npz"), "--cost", COSTS, "--out", str(folder / "trace")]
        )
        fitted = timed(
            ["fit", str(folder / "trace"), "--budget", "0.01", "--out", str(folder / "plan")]
        )
    found = {"examples": examples, "classes": classes, "import": imported, "fit": fitted}
    print(found, flush=True)
    return found


def made(examples: int, classes: int) -> dict[str, Any]:
    """Labels and logits; examples differ in difficulty, and stages err together."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, examples)
    scores = {stage: np.empty((examples, classes), np.float32) for stage in STAGES}
    for rows in _chunks(examples):
        n = len(labels[rows])
        hard = random.gamma(1.0, 1.0, (n, 1)).astype(np.float32)
        shared = random.standard_normal((n, classes), np.float32)
        for depth, stage in enumerate(STAGES):
            own = random.standard_normal((n, classes), np.float32) * (1.5 / (1 + depth))
            noise: FloatArray = hard * (shared + own)
            noise[np.arange(n), labels[rows]] += 4.0 + (classes > 100) * 3.0
            scores[stage][rows] = noise
    return {"labels": labels, **scores}


def _chunks(examples: int) -> Iterator[slice]:
    for start in range(0, examples, CHUNK):
        yield slice(start, start + CHUNK)


def timed(arguments: list[str]) -> dict[str, Any]:
    """Seconds and peak memory (GB) of one run of the command line."""
    script = "import sys; from benchmarks.scale import child; sys.exit(child())"
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.communicate()
    seconds = time.perf_counter() - start
    if process.returncode not in (0, 1):
        raise RuntimeError(err.decode())
    peak = float(out.decode().splitlines()[-1])
    return {"seconds": round(seconds, 2), "peak_gb": round(peak, 3), "code": process.returncode}


def child() -> int:
    """Runs the command line, then prints this process's peak memory in GB."""
    from offramp.cli import main as offramp

    try:
        offramp()
    except SystemExit as exit_:
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6)
        return int(exit_.code or 0)
    return 0


if __name__ == "__main__":
    command("scale", everything)
