"""Who takes part, chosen by default: how often fits route, how far they vary, what they promise.

Usage: python -m benchmarks.choice DATA [--cache DIR] [--seeds 50] [--former CHECKOUT]

DATA holds `cifar10`, `files` and `language`. Of each trace some examples are drawn, on which `fit`
learns and certifies as it would for a user. All examples that did not teach are the population that
those who certify were drawn from, so that the true excess loss and cost of a plan are known: their
means over it. A fit could route where the best of the points that are within the budget on the
population saves 1.3 times; those points are of the plans of all the seeds. With CHECKOUT, a
checkout of an earlier commit, the same fits are made by it as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import cifar, exits
from benchmarks.recorded import MMLU, scored
from benchmarks.results import ROOT, command
from offramp.base.arrays import AnyArray
from offramp.core.frontier import excess_of, frontier, replay, static_points
from offramp.core.ledger import Ledger
from offramp.core.trace import Trace
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.runtime import OnnxRuntime

BUDGETS = (0.005, 0.01, 0.02)
WORTH = 1.3  # times, from which a fit should route
NETWORKS = ("resnet20", "resnet32", "resnet20_tuned", "resnet56", "resnet56_tuned")
EXITS = (
    "ResNet-56 tuned, 2 exits trained jointly",
    "ResNet-20 tuned > ResNet-56 tuned, 2 exits trained jointly",
)
SIX = {
    "llama_2_7b_hf": 7.0,
    "mistral_7b_v0_1": 7.0,
    "llama_2_13b_hf": 13.0,
    "deepseek_llm_67b_base": 67.0,
}
FILES = (("fast", "v2_1"), ("standard", "v3_3"))
MILLISECONDS = {"fast": 2.7, "standard": 5.0}  # a file, on one thread
FIRST = 1000  # seed of the first draw: what was chosen by hand was chosen on others
FORMER = "before"
KINDS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "all stages": {"keep_stages": True},
}
Files = Annotated[Path, typer.Argument(help="Folder with `cifar10`, `files` and `language`.")]


def everything(
    data: Files,
    cache: Path = Path("build/cifar"),
    seeds: int = 50,
    former: Annotated[Path | None, typer.Option(help="A checkout of an earlier commit.")] = None,
    only: Annotated[str | None, typer.Option(help="This trace; nothing is saved.")] = None,
) -> dict[str, Any] | None:
    found = traces(data, cache)
    rows = []
    for name, (trace, size) in found.items():
        if only in (None, name):
            row = study(trace, size, seeds, former)
            rows.append({"trace": name, **row})
            print(name, json.dumps(row["summary"]), flush=True)
    if only is not None:
        return None
    return {
        "budgets": BUDGETS,
        "seeds": seeds,
        "worth": WORTH,
        "former": former and _commit(former),
        "rows": rows,
        "total": total(rows),
    }


def traces(data: Path, cache: Path) -> dict[str, tuple[Trace, int]]:
    """Traces by name, and how many examples are drawn of each."""
    found = {name: (trace, 5000) for name, trace in cifar.traces(data / "cifar10", cache).items()}
    everyone = cifar.record_all(data / "cifar10", cache)
    found["five networks"] = (cifar.select(everyone, NETWORKS), 5000)
    found["five networks, few examples"] = (cifar.select(everyone, NETWORKS), 2000)
    made = exits.Made(data / "cifar10", cache)
    for name in EXITS:
        networks, costs = made.graphs()[name]()
        found[name] = (replace(made.recorded(name, networks), costs=costs), 5000)
    found["file types"] = (file_types(data / "files", cache), 3000)
    language = dict(np.load(data / "language" / "mmlu.npz"))
    found["MMLU, three"] = (scored(language, MMLU), 5000)
    found["MMLU, four"] = (scored(language, SIX), 5000)
    return found


def file_types(data: Path, cache: Path) -> Trace:
    """Two networks that tell types of files; the first one's classes in the order of the second."""
    kept = cache / "files.npz"
    examples = dict(np.load(data / "examples.npz"))
    if not kept.exists():
        runtime = OnnxRuntime({name: data / f"{name}_{version}.onnx" for name, version in FILES})
        said: dict[str, AnyArray] = {}
        for name, _ in FILES:
            parts = np.array_split(examples[f"{name}_bytes"].astype(np.int32), 64)
            said[name] = np.concatenate([runtime.run(name, part) for part in parts])
        np.savez(kept, allow_pickle=False, **said)
    scores = dict(np.load(kept))
    order = [str(name) for name in examples["classes_standard"]]
    own = ["randombytes" if name == "unknown" else str(name) for name in examples["classes"]]
    places = np.array([order.index(name) for name in own])
    taken = np.zeros((len(scores["fast"]), len(order)), np.float32)
    taken[:, places] = scores["fast"]
    labels = places[examples["y"].astype(np.int64)]
    return Trace.of({"fast": taken, "standard": scores["standard"]}, labels, costs=MILLISECONDS)


def study(trace: Trace, size: int, seeds: int, former: Path | None) -> dict[str, Any]:
    """Every kind of fit on one trace."""
    found = {name: fits(trace, size, seeds, options) for name, options in KINDS.items()}
    if former is not None:
        found[FORMER] = elsewhere(trace, size, seeds, former)
    possible = [
        max(
            float(np.median([f["possible"] for f in each if f["budget"] == b]))
            for each in found.values()
        )
        for b in BUDGETS
    ]
    return {
        "examples": size,
        "possible": possible,
        "summary": {name: summary(each, possible) for name, each in found.items()},
        "fits": found,
    }


def fits(trace: Trace, size: int, seeds: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What `fit` comes to on some examples of a trace, for each seed and budget."""
    return [one(trace, size, seed, budget, options) for seed in range(seeds) for budget in BUDGETS]


def one(
    trace: Trace, size: int, seed: int, budget: float, options: Mapping[str, Any]
) -> dict[str, Any]:
    order = np.random.default_rng(FIRST + seed).permutation(trace.examples)
    drawn = replace(trace.take(order[:size]), ledger=Ledger())
    start = time.process_time()
    plan = fit(drawn, budget, repeats="real", **options)
    seconds = time.process_time() - start
    taught = order[:size][drawn.opening[: drawn.unsealed]]
    population = trace.take(np.setdiff1d(order, taught))
    spoken = plan.answering(population)
    losses, unit = spoken.losses("top1"), spoken.reference_cost
    points = frontier(spoken, losses, plan.policy)
    points += [p for s, p in static_points(spoken, losses).items()]
    allowed = [p.cost for p in points if p.excess_loss <= budget]
    lost, _ = kept(plan, spoken)
    return {
        "budget": budget,
        "seed": seed,
        "speedup": plan.certificate.speedup,
        "routes": plan.certificate.verdict != "keep the reference",
        "broken": lost > budget,
        "excess_loss": lost,
        "possible": unit / min([*allowed, unit]),
        "stages": list(plan.policy.graph.order),
        "policy": plan.policy.kind,
        "seconds": seconds,
    }


def kept(plan: Plan, population: Trace) -> tuple[float, float]:
    """Mean excess loss and cost of a plan over a population."""
    outcome = replay(population, plan.running, plan.setting)
    lost = excess_of(outcome, population.losses("top1"), "net")
    return float(lost.mean(dtype=np.float64)), float(outcome.cost.mean())


def elsewhere(trace: Trace, size: int, seeds: int, checkout: Path) -> list[dict[str, Any]]:
    """As `fits`, by the offramp of a checkout, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        given, told = Path(folder) / "trace", Path(folder) / "fits.json"
        trace.write(given)
        asked = (str(given), size, seeds, str(told))
        code = f"from benchmarks.choice import told; told(*{asked!r})"
        paths = os.pathsep.join([str(checkout / "src"), str(ROOT.parent)])
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, check=True
        )
        found: list[dict[str, Any]] = json.loads(told.read_text(encoding="utf-8"))
        return found


def told(trace: str, size: int, seeds: int, out: str) -> None:
    """`fits` with no options, as a file."""
    Path(out).write_text(json.dumps(fits(Trace.read(trace), size, seeds, {})), encoding="utf-8")


def summary(found: list[dict[str, Any]], possible: list[float]) -> list[dict[str, Any]]:
    """A row for each budget."""
    rows = []
    for budget, most in zip(BUDGETS, possible, strict=True):
        each = [f for f in found if f["budget"] == budget]
        speedups = np.array([f["speedup"] for f in each])
        middle, low = float(np.median(speedups)), float(np.quantile(speedups, 0.1))
        rows.append(
            {
                "budget": budget,
                "possible": most,
                "routed": float(np.mean([f["routes"] for f in each])),
                "median": middle,
                "low": low,
                "steady": low / middle,
                "cost": float((1 / speedups).mean()),
                "broken": float(np.mean([f["broken"] for f in each])),
                "seconds": float(np.median([f["seconds"] for f in each])),
            }
        )
    return rows


def total(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Over all traces and budgets, for each kind of fit."""
    names = rows[0]["summary"]
    return {name: _total([each for row in rows for each in row["summary"][name]]) for name in names}


def _total(each: list[dict[str, Any]]) -> dict[str, Any]:
    worth = [row for row in each if row["possible"] >= WORTH]
    return {
        "routed": float(np.mean([row["routed"] for row in worth])),
        "least routed": min(row["routed"] for row in worth),
        "steady": float(np.mean([row["steady"] for row in worth])),
        "least steady": min(row["steady"] for row in worth),
        "cost": float(np.mean([row["cost"] for row in each])),
        "broken": float(np.mean([row["broken"] for row in each])),
        "most broken": max(row["broken"] for row in each),
    }


def _commit(checkout: Path) -> str:
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(
        command, cwd=checkout, capture_output=True, text=True, check=True
    ).stdout.strip()


if __name__ == "__main__":
    command("choice", everything)
