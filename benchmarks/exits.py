"""Early exits in one network, frozen and trained jointly, and exits and networks in one graph.

Usage: python -m benchmarks.exits DATA [--cache DIR] [--splits 20]

Heads are trained on the training photographs; policies learn on one half of the test photographs
and are measured on the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from safetensors.numpy import load_file

from benchmarks import cifar
from benchmarks.real_networks import LEVELS, Halves, study
from benchmarks.results import CACHE, Data, command
from offramp.base.files import write_json
from offramp.core.graph import Costs, whole
from offramp.core.trace import Trace
from offramp.exits import ExitOptions, Exits, add_exits, candidate_points
from offramp.exits.placement import propose
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks, combine
from offramp.networks.preprocessing import Preprocessing
from offramp.plan.fit import fit
from offramp.recording.measure import stage_costs
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime

BUDGET, BATCHES = 0.01, (1, 64)  # of the plans whose parts are timed
TIMED = 1024  # photographs
PIXELS = Preprocessing((cifar.SIDE, cifar.SIDE), cifar.MEAN, cifar.STD)


def everything(data: Data, cache: Path = CACHE, splits: int = 20) -> dict[str, Any]:
    made = Made(data, cache)
    ready = {name: make() for name, make in made.graphs().items()}
    traces = {name: made.recorded(name, networks) for name, (networks, _) in ready.items()}
    graphs: dict[str, dict[str, Any]] = {}
    for name, (networks, costs) in ready.items():
        trace = traces[name]
        runtime = OnnxRuntime(networks.files, networks.graph)
        graphs[name] = {
            "stages": networks.graph.order,
            "cost": costs.to_json(),
            "error": errors(trace),
            "unchanged": made.unchanged(networks, runtime),
            **study(replace(trace, costs=costs), splits),
        }
        print(name, json.dumps(graphs[name]["equal_quality"]["learned"]["mean"]), flush=True)
    for name, (networks, _) in ready.items():
        graphs[name]["clock"] = [made.timed(traces[name], networks, batch) for batch in BATCHES]
    return {"levels": LEVELS, "splits": splits, "graphs": graphs}


def errors(trace: Trace) -> dict[str, float]:
    """Top-1 error of every stage on all photographs."""
    return {s: float(loss.mean()) for s, loss in trace.losses("top1").values.items()}


class Made:
    """The graphs of this benchmark, made once and kept."""

    def __init__(self, data: Path, cache: Path) -> None:
        self.data, self.cache = data, cache
        self.files = cifar.build_networks(data, cache / "onnx")
        self.test = cifar.read_test(data)[0]

    def graphs(self) -> dict[str, Callable[[], tuple[Networks, Costs]]]:
        small = self.files["resnet20_tuned"]
        return {
            "ResNet-56, 3 frozen exits": lambda: self.frozen("resnet56", 3),
            "ResNet-56, 5 frozen exits": lambda: self.frozen("resnet56", 5),
            "ResNet-56, 8 frozen exits": lambda: self.frozen("resnet56", 8),
            "ResNet-56, frozen exits placed by offramp": lambda: self.frozen("resnet56", None),
            "ResNet-56 tuned, 2 exits trained jointly": self.joint,
            "ResNet-56 tuned, 5 frozen exits": lambda: self.frozen("resnet56_tuned", 5),
            "ResNet-20 tuned > ResNet-56 tuned, 2 exits trained jointly": lambda: self.after(
                small, self.joint(), "joint"
            ),
            "ResNet-20 tuned > ResNet-56 tuned, 5 frozen exits": lambda: self.after(
                small, self.frozen("resnet56_tuned", 5), "frozen"
            ),
        }

    def frozen(self, network: str, exits: int | None) -> tuple[Networks, Costs]:
        """Heads on a frozen network, at a number of points or where offramp puts them."""
        path = self.files[network]

        def make(folder: Path) -> Exits:
            found = candidate_points(path)
            total = found[-1].cost
            chosen = propose([p.cost for p in found], total, exits or 0)
            at = [found[i].name for i in chosen] if exits else None
            examples = open_examples(self.data / "train.parquet", PIXELS)
            return add_exits(path, examples, ExitOptions(at=at), folder, preprocessing=PIXELS)

        return self.kept(f"{network}-{exits or 'placed'}", make)

    def joint(self) -> tuple[Networks, Costs]:
        """The network whose exits were trained with it, taken as it is."""

        def make(folder: Path) -> Exits:
            path = folder.parent / "whole.onnx"
            weights = load_file(self.data / "resnet56_exits.safetensors")
            onnx.save(cifar.build_model(weights, 9, exits=True), path)
            return add_exits(path, None, ExitOptions(at=["outputs"]), folder, preprocessing=PIXELS)

        return self.kept("resnet56_tuned-joint", make)

    def kept(self, name: str, make: Callable[[Path], Exits]) -> tuple[Networks, Costs]:
        folder = self.cache / "exits" / name
        if not (folder / "costs.json").exists():
            parts = folder / "parts"
            parts.mkdir(parents=True, exist_ok=True)
            found = make(parts)
            found.networks.write(folder / "graph", force=True)
            write_json(folder / "costs.json", found.costs.to_json())
        costs = json.loads((folder / "costs.json").read_text(encoding="utf-8"))
        return Networks.read(folder / "graph"), Costs.from_json(costs)

    def after(self, small: Path, big: tuple[Networks, Costs], name: str) -> tuple[Networks, Costs]:
        """A small network before one with exits, with a skip straight to its end."""
        _, inside = big
        folder = self.cache / "exits" / f"resnet56_tuned-{'joint' if name == 'joint' else 5}"
        networks = combine({"small": small, "big": folder / "graph"}, preprocessing=PIXELS)
        renamed = {s: "big" if s == "final" else f"big-{s}" for s in inside.body}
        body = {"small": cifar.multiply_adds(3) / 1e6}
        body |= {renamed[s]: cost for s, cost in inside.body.items()}
        uncut = {renamed[s]: cost for s, cost in inside.whole.items()}
        head = {"small": 0.0, **{renamed[s]: cost for s, cost in inside.head.items()}}
        return networks, Costs(body, head, inside.unit, inside.source, whole=uncut)

    def recorded(self, name: str, networks: Networks) -> Trace:
        folder = self.cache / "exits" / "traces" / name.replace(" ", "-").replace(">", "to")
        if not (folder / "trace.json").exists():
            examples = open_examples(self.data / "test.parquet", PIXELS)
            runtime = OnnxRuntime(networks.files, networks.graph, threads=2)
            record(networks, runtime, examples, folder, RecordOptions(batch=100, threads=2))
        return Trace.read(folder)

    def unchanged(self, networks: Networks, runtime: OnnxRuntime) -> float:
        """Share of all test photographs that the cut reference answers as the uncut one does."""
        same = 0
        reference = networks.graph.reference
        for start in range(0, len(self.test), 100):
            x = self.test[start : start + 100]
            running = runtime.begin(x)
            running.advance(reference, None)
            cut = running.answer(reference, None).argmax(axis=1)
            same += int((cut == runtime.run(reference, x).argmax(axis=1)).sum())
        return same / len(self.test)

    def timed(self, trace: Trace, networks: Networks, batch: int) -> dict[str, Any]:
        """A certified plan and equal quality, at the measured time of each part."""
        runtime = OnnxRuntime(networks.files, networks.graph)
        first, second = trace.split(0.5, 0)
        costs = stage_costs(runtime, networks.graph, self.test[second[:TIMED]], batch)
        priced = replace(trace, costs=costs)
        plan = fit(priced.take(first), BUDGET, networks=None)
        halves = Halves(priced.take(first), priced.take(second))
        parts = {**costs.body, **{whole(stage): cost for stage, cost in costs.whole.items()}}
        return {
            "batch": batch,
            "budget": BUDGET,
            "verdict": plan.certificate.verdict,
            "certified_speedup": plan.certificate.speedup,
            "reference_alone_ms": plan.certificate.reference_cost * 1e3,
            "part_ms": {p: float(np.round(s * 1e3, 4)) for p, s in parts.items() if s},
            "equal_quality": {n: halves.speedups(halves.points(n)) for n in ("learned", "margin")},
        }


if __name__ == "__main__":
    command("exits", everything)
