"""One network with cheap copies of itself: what stays, what is certified, what the clock says.

Usage: python -m benchmarks.siblings DATA [--cache DIR]

The tuned ResNet-56. Copies are made and chosen on 2,000 photographs of the test set, policies learn
on 3,000 others, half a point is certified on the remaining 5,000, and requests of these are timed.
One thread. Machines are shared and noisy, so seconds mean little: read the ratios alone.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import cifar
from benchmarks.results import CACHE, Data, command
from offramp.base.arrays import AnyArray, IntArray
from offramp.core.trace import Trace
from offramp.networks.data import open_examples
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime
from offramp.siblings import SiblingOptions, Siblings, make
from offramp.study.bench import Contest, bench

NETWORK = "resnet56_tuned"
BATCHES = (1, 64)
BUDGET, CONFIDENCE = 0.005, 0.95
ROWS = {"copies": slice(0, 2000), "learn": slice(2000, 5000), "certify": slice(5000, 10_000)}
TIMED = 640  # requests' rows: whole batches of each size


def everything(data: Data, cache: Path = CACHE) -> dict[str, Any]:
    x, y = cifar.read_test(data)
    file = cifar.build_networks(data, cache / "onnx")[NETWORK]
    with TemporaryDirectory() as folder:
        for name, rows in ROWS.items():
            np.savez(Path(folder) / f"{name}.npz", x=x[rows], y=y[rows])
        rows_ = [_journey(batch, file, Path(folder), x, y) for batch in BATCHES]
    return {"network": NETWORK, "budget": BUDGET, "confidence": CONFIDENCE, "rows": rows_}


def _journey(batch: int, file: Path, folder: Path, x: AnyArray, y: IntArray) -> dict[str, Any]:
    """From the file to a plan and its times, for requests of one size."""
    parts = folder / str(batch)
    parts.mkdir()
    options = SiblingOptions(batch=batch)
    found = make(file, open_examples(folder / "copies.npz"), options, parts)
    print(found.to_json(), flush=True)
    plan = _fitted(found, batch, folder)
    print(plan.certificate, flush=True)
    timed = ROWS["certify"].start + np.arange(TIMED)
    contest = Contest(passes=5)
    clock = bench(plan, x[timed], y[timed], batch=batch, contest=contest)
    return {
        "batch": batch,
        "siblings": found.to_json(),
        "certificate": asdict(plan.certificate),
        "bench": clock.to_json(),
    }


def _fitted(found: Siblings, batch: int, folder: Path) -> Plan:
    """Learned on some photographs and certified on others, at the time of requests of one size."""
    networks, order = found.networks, found.networks.graph.order
    costs = replace(
        found.costs,
        body={name: found.costs.body[name] for name in order},
        head={name: found.costs.head[name] for name in order},
        whole={},
    )
    options = RecordOptions(batch=64, seal=0.0)
    runtime = OnnxRuntime(networks.files, networks.graph)

    def recorded(name: str) -> Trace:
        out = folder / f"{name}{batch}"
        examples = open_examples(folder / f"{name}.npz")
        return record(networks, runtime, examples, out, options, costs=costs)

    return fit(
        recorded("learn"),
        BUDGET,
        confidence=CONFIDENCE,
        certify_on=recorded("certify"),
        networks=networks,
    )


if __name__ == "__main__":
    command("siblings", everything)
