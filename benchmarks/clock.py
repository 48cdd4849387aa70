"""The saving on the clock: exported plans against the reference in its best static runtime.

Usage: python -m benchmarks.clock DATA [--cache DIR] [--quick] [--only PART_OF_A_NAME]

Policies learn on one half of the test photographs, at the time of requests of each size; everything
is timed on the other half.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from safetensors.numpy import load_file

from benchmarks import cifar
from benchmarks.exits import PIXELS, Made
from benchmarks.modules import resnet
from benchmarks.results import CACHE, Data, command
from offramp.answering.committees import with_committees
from offramp.base.arrays import AnyArray, IntArray
from offramp.core.frontier import frontier, replay
from offramp.core.graph import Graph
from offramp.core.policy import backbone
from offramp.core.trace import Trace
from offramp.export import write_file, write_folder
from offramp.networks.networks import Networks
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.recording.measure import laps, latency, seconds
from offramp.runtime import OnnxRuntime, Routed, SingleFile
from offramp.runtime.engine import Part
from offramp.runtime.onnxruntime import engine
from offramp.runtime.torch import TorchRuntime
from offramp.study.bench import Contest, bench
from offramp.study.contestants import Answer, alone
from offramp.testing import close

BATCHES, THREADS = (1, 8, 64), (1, 2)
LEVEL = 0.005  # of net excess loss, at equal quality
BUDGETS = (0.005, 0.01)  # certified with confidence 0.95


def everything(
    data: Data,
    cache: Path = CACHE,
    quick: Annotated[
        bool, typer.Option("--quick", help="One thread, few passes; saves nothing.")
    ] = False,
    only: Annotated[str, typer.Option(help="Systems whose names hold this; saves nothing.")] = "",
) -> dict[str, Any] | None:
    made = Made(data, cache)
    x, y = cifar.read_test(data)
    found: dict[str, Any] = {}
    for name, (networks, trace) in systems(made, cache).items():
        if only not in name:
            continue
        weights = cifar.NETWORKS["resnet56_tuned" if "tuned" in name else "resnet56"][0]
        system = System(networks, trace, x, y, data / weights, 2 if quick else 4)
        found[name] = system.measured(THREADS[:1] if quick else THREADS)
    return None if quick or only else {"level": LEVEL, "budgets": BUDGETS, "systems": found}


def systems(made: Made, cache: Path) -> dict[str, tuple[Networks, Trace]]:
    """Two networks, one network with exits, and a network before one with exits."""
    chain = Networks(
        Graph.chain(["resnet20", "resnet56"]),
        {stage: made.files[stage] for stage in ("resnet20", "resnet56")},
        PIXELS,
    )
    found = {"ResNet-20 > ResNet-56": (chain, cifar.traces(made.data, cache)[cifar_chain()])}
    for name in (
        "ResNet-56, frozen exits placed by offramp",
        "ResNet-20 tuned > ResNet-56 tuned, 5 frozen exits",
    ):
        networks, _ = made.graphs()[name]()
        found[name] = (networks, made.recorded(name, networks))
    return found


def cifar_chain() -> str:
    return next(iter(cifar.GRAPHS))


@dataclass(frozen=True)
class System:
    """Networks, what they said of every photograph, and the photographs."""

    networks: Networks
    trace: Trace
    x: AnyArray
    y: IntArray
    weights: Path  # of the reference
    passes: int

    def measured(self, threads: tuple[int, ...]) -> dict[str, Any]:
        plan = fit(self.half(0), LEVEL, networks=self.networks)
        spent = latency(plan, self.x[:1], limit_s=5.0)
        plan = fit(self.half(0), LEVEL, networks=self.networks, prices=spent)
        found: dict[str, Any] = {"export": self.exported(plan)}
        for number in threads:
            found.setdefault("routing", []).append(self.routing(plan, number))
            print(json.dumps(found), flush=True)
            for batch in BATCHES:
                for row in self.timed(plan, batch, number):
                    found.setdefault("rows", []).append(row)
                    print(_summary(row), flush=True)
        return found

    def half(self, number: int) -> Trace:
        trace = replace(self.trace, info={})
        return trace.take(self.trace.split(0.5, 0)[number])

    def timed(self, plan: Plan, batch: int, threads: int) -> Iterator[dict[str, Any]]:
        """A plan at equal quality and certified ones, fitted to requests of one size."""
        second = self.trace.split(0.5, 0)[1]
        x, y = self.x[second], self.y[second]
        spent = latency(plan, x[:batch], threads, limit_s=10.0)
        fitted = partial(fit, self.half(0), networks=self.networks, prices=spent)
        equal = self.at_level(fitted(LEVEL, certify_on=self.half(1)))
        plans = [(LEVEL, False, equal), *((budget, True, fitted(budget)) for budget in BUDGETS)]
        for number, (budget, certified, made) in enumerate(plans):
            thorough = number == 0 and threads == 1
            found = bench(
                made,
                x,
                y,
                batch=batch,
                threads=threads,
                contest=Contest(
                    self.passes,
                    thorough,
                    {"reference, PyTorch": self.in_torch(threads)} if thorough else {},
                ),
            )
            yield {
                "budget": budget,
                "certified": certified,
                "verdict": made.certificate.verdict if certified else None,
                "dropped": made.info["dropped"],
                "stop_ms": spent.to_json()["stop_ms"],
                **found.to_json(),
            }

    def in_torch(self, threads: int) -> Answer:
        """The reference as a PyTorch module."""
        module = resnet(load_file(self.weights), blocks=9)
        runtime = TorchRuntime({"reference": module}, threads=threads)
        return lambda x: runtime.run("reference", x).argmax(axis=1)

    def at_level(self, plan: Plan) -> Plan:
        """The plan at its cheapest setting that loses at most LEVEL on the second half."""
        trace = replace(with_committees(self.half(1), plan.committees), costs=plan.costs)
        points = frontier(trace, trace.losses("top1"), plan.policy)
        best = min((p for p in points if p.excess_loss <= LEVEL), key=lambda p: p.cost)
        return replace(plan, tradeoff=best.tradeoff)

    def exported(self, plan: Plan) -> dict[str, Any]:
        """Seconds to export and load, and rows that the file answers otherwise than the replay."""
        plan = self.at_level(plan)
        with TemporaryDirectory() as name:
            folder = Path(name)
            file = folder / "plan.onnx"
            export_s = seconds(lambda: write_file(plan, file, force=True))
            folder_s = seconds(lambda: write_folder(plan, folder / "stages"))
            networks = [alone(plan, stage, folder) for stage in self.separate()]
            parts = [file for part, file in plan.runnable().items() if not part.endswith(".whole")]
            loading: dict[str, Callable[[], object]] = {
                "load_s": partial(SingleFile, file),
                "load_networks_s": partial(_load, networks),
                "load_parts_s": partial(_load, parts),
            }
            load = {
                what: float(np.median([seconds(task) for _ in range(9)]))
                for what, task in loading.items()
            }
            single, routed = SingleFile(file, threads=2), Routed(folder / "stages", threads=2)
            trace = with_committees(self.trace, plan.speaking)
            outcome = replay(trace, plan.running, plan.setting)
            stages = np.array(outcome.order)[outcome.stage]
            answers = {
                driver: [run(self.x[i : i + 100]) for i in range(0, len(self.x), 100)]
                for driver, run in (("one file", single), ("a file per stage", routed))
            }
        return {
            "export_s": export_s,
            "export_stages_s": folder_s,
            **load,
            "examples": len(self.x),
            "close": int(close(plan, trace).sum()),
            "otherwise": {
                driver: int((np.concatenate([a.stage for a in found]) != stages).sum())
                for driver, found in answers.items()
            },
        }

    def separate(self) -> list[str]:
        """The stages whose networks one would load without offramp."""
        graph = self.networks.graph
        reference = graph.first(graph.reference)
        return [s for s in graph.order if graph.first(s) != reference] + [graph.reference]

    def parts(self, plan: Plan) -> set[str]:
        """The bodies and heads that a walk which never stops runs."""
        walked = backbone(plan.policy.graph)
        return {part for stage in walked.order for part in walked.parts(stage)}

    def routing(self, plan: Plan, threads: int) -> dict[str, Any]:
        """At batch 1: what deciding adds where all stop at the first stage, and where none does."""
        graph = plan.policy.graph
        with TemporaryDirectory() as name:
            folder, runs = Path(name), {}
            for outcome, goes_on in (("stop", False), ("go", True)):
                policy, setting = plan.policy.forced(goes_on=goes_on)
                file = folder / f"{outcome}.onnx"
                write_file(replace(plan, policy=policy, tradeoff=setting), file, force=True)
                runs[outcome] = SingleFile(file, threads=threads)
            static = {}
            for stage in (graph.root, *self.separate()):
                file = alone(plan, stage, folder)
                static[stage] = Part(stage, file, engine(spins=True), threads)
            walked = self.parts(plan)
            apart = OnnxRuntime(plan.runnable(), self.networks.graph, threads=threads)

            def parts(one: AnyArray) -> float:
                lap = dict(laps(apart, self.networks.graph, one))
                return sum(lap[part] for part in walked & lap.keys())

            tasks: dict[str, Callable[[AnyArray], float]] = {
                **{name: partial(_timed, run) for name, run in runs.items()},
                **{name: partial(_timed, _alone(run)) for name, run in static.items()},
                "parts": parts,
            }
            spent: dict[str, list[float]] = {}
            random = np.random.default_rng(0)
            for i in range(-20, 300):
                for what in random.permutation(list(tasks)).tolist():
                    took = tasks[what](self.x[i % 100][None])
                    if i >= 0:
                        spent.setdefault(what, []).append(took * 1e3)
            stages = set(runs["go"](self.x[:100]).stage.tolist())
        ms = {what: float(np.median(took)) for what, took in spent.items()}
        whole_ms, reference = sum(ms[s] for s in self.separate()), ms[graph.reference]
        return {
            "threads": threads,
            "ms": ms,
            "ends_at": sorted(stages),
            "stop_over_reference": (ms["stop"] - ms[graph.root]) / reference,
            "go_over_reference": (ms["go"] - whole_ms) / reference,
            "deepest_over_networks": ms["go"] / whole_ms,
            "deepest_over_parts": ms["go"] / ms["parts"],
            "p99_ms": {what: float(np.percentile(took, 99)) for what, took in spent.items()},
        }


def _timed(run: Callable[[AnyArray], object], x: AnyArray) -> float:
    return seconds(partial(run, x))


def _alone(part: Part) -> Callable[[AnyArray], object]:
    read, said = next(iter(part.inputs)), next(iter(part.outputs))
    return lambda x: part({read: x}, (said,))


def _load(paths: Sequence[Path]) -> None:
    for path in paths:
        Part(path.stem, path, engine(), 1)


def _summary(row: dict[str, Any]) -> str:
    names = ("threads", "batch", "certified", "budget", "verdict", "dropped", "speedup")
    more = ("theoretical_speedup", "realised", "reference", "exits", "stop_ms")
    return json.dumps({name: row[name] for name in (*names, *more)})


if __name__ == "__main__":
    command("clock", everything)
