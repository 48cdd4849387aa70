"""The saving on the clock: ResNet-20 > ResNet-56 against ResNet-56 alone, in ONNX Runtime.

Usage: python -m benchmarks.wall_clock DATA [--cache DIR]

The plan is fitted on half of the test photographs and timed on the other half, with costs measured
at the batch size that it is timed at.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cifar
from benchmarks.results import save
from offramp.arrays import FloatArray
from offramp.fit import fit
from offramp.measure import bench, stage_costs
from offramp.runtime import OnnxRuntime
from offramp.trace import Trace

CHAIN = "ResNet-20 > ResNet-56"
BUDGETS = (0.005, 0.01)  # net excess loss, certified with confidence 0.95
BATCHES = (1, 64)
EXAMPLES = 1024  # per pass
ROUNDS = 9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of the CIFAR-10 networks and photographs")
    parser.add_argument("--cache", type=Path, default=Path("build/cifar"))
    options = parser.parse_args()
    start = time.perf_counter()
    trace = cifar.traces(options.data, options.cache)[CHAIN]
    first, second = trace.split(0.5, 0)
    images = cifar.read_test(options.data)[0][second[:EXAMPLES]]
    files = cifar.build_networks(options.data, options.cache / "onnx")
    runtime = OnnxRuntime({stage: files[stage] for stage in trace.graph.order}, threads=1)
    rows = [
        timed(trace.take(first), runtime, images, budget, batch)
        for budget in BUDGETS
        for batch in BATCHES
    ]
    values = {"graph": CHAIN, "examples": EXAMPLES, "rounds": ROUNDS, "rows": rows}
    save("wall_clock", values, time.perf_counter() - start)


def timed(
    trace: Trace, runtime: OnnxRuntime, images: FloatArray, budget: float, batch: int
) -> dict[str, Any]:
    """One row: a plan fitted with costs at this batch size, timed on images it has not seen."""
    costs = stage_costs(runtime, trace.graph, images, batch)
    plan = fit(replace(trace, costs=costs), budget)
    found = bench(plan, runtime, images, batch=batch, rounds=ROUNDS, most=EXAMPLES)
    return {
        "budget": budget,
        "confidence": plan.certificate.confidence,
        "verdict": plan.certificate.verdict,
        "certified_speedup": plan.certificate.speedup,
        "stage_ms": {stage: float(np.round(s * 1e3, 4)) for stage, s in costs.body.items()},
        **found.to_json(),
    }


if __name__ == "__main__":
    main()
