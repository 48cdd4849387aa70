"""Every architecture, cut: the stages composed, with rows dropped, against the whole.

Usage: python -m benchmarks.structure
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.results import command
from offramp.base.arrays import AnyArray, FloatArray
from offramp.exits.cutting import exit_point
from offramp.exits.network import Network
from offramp.exits.outputs import FINAL
from offramp.exits.stages import cut_into_stages
from offramp.runtime import OnnxRuntime
from tests import architectures
from tests.test_cutting import with_heads

BATCHES = (1, 3, 5)


def everything() -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        rows = [structure(name, Path(folder) / name) for name in architectures.ALL]
    return {"batches": BATCHES, "rows": rows}


def structure(name: str, folder: Path) -> dict[str, Any]:
    """One architecture, exported by the standard exporter, with a head at each of some points."""
    folder.mkdir()
    module, x, at = architectures.ALL[name]()
    network = Network.read(architectures.export(module, x, folder / "network.onnx"), x)
    wide, outputs = with_heads(network, at)
    networks, _ = cut_into_stages(wide, outputs, folder / "parts", x, original=network)
    runtime = OnnxRuntime(networks.files, networks.graph)
    expected = architectures.answers(module, x)
    found = [difference(runtime, x[:batch], expected[:batch]) for batch in BATCHES]
    return {
        "network": name,
        "at": at,
        "nodes": len(network.nodes),
        "carried": max(len(exit_point(network, where).carry) for where in at),
        "difference": max(found),
    }


def difference(runtime: OnnxRuntime, x: AnyArray, expected: FloatArray) -> float:
    """The largest, relative to the largest score: with all rows, and some dropped at each cut."""
    order = runtime.graph.order
    worst = 0.0
    for dropped in range(len(order) + 1):
        rows, running = np.arange(len(x)), runtime.begin(x)
        for number, stage in enumerate(order):
            rows = rows[::2] if number == dropped else rows
            running.advance(stage, rows)
        found = running.answer(FINAL, rows)
        worst = max(worst, float(np.abs(found - expected[rows]).max()))
    return worst / float(np.abs(expected).max())


if __name__ == "__main__":
    command("structure", everything)
