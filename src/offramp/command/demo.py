"""The whole journey on handwritten digits, with networks that come along: nothing to download."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

from offramp.base.arrays import AnyArray, IntArray
from offramp.base.errors import MissingExtra
from offramp.base.manifests import kind_of_folder, write_manifest
from offramp.base.outputs import new_folder
from offramp.core.graph import Graph
from offramp.core.parts import versions
from offramp.core.trace import Trace
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks
from offramp.plan.evaluate import Evaluation, evaluate
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.recording.measure import machine
from offramp.recording.record import Settings, record
from offramp.runtime import Stages
from offramp.study.bench import QUICK, Bench, bench
from offramp.study.compare import Comparison, compare

DEMO = kind_of_folder("demo")
BUDGET, CONFIDENCE = 0.02, 0.9
LEARN_SHARE = 1 / 3  # the rest certifies: the digits are few, and a certificate needs more of them
STAGES = ("small", "medium", "large")
_EDGES = "small>medium>large,small>large"
_STEPS = ("recording", "fitting", "measuring", "comparing", "reporting")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Demo:
    """What the demo found."""

    plan: Plan
    evaluation: Evaluation
    comparison: Comparison
    benches: tuple[Bench, ...]
    report: Path | None  # None: the extra `report` is not installed
    missing: str = ""  # what the missing extra says

    def to_json(self) -> dict[str, Any]:
        return {
            "certificate": self.plan.certificate.to_json(),
            "evaluation": self.evaluation.to_json(),
            "bench": [row.to_json() for row in self.benches],
            "machine": machine(),
            "versions": versions(),
        }


def split() -> Mapping[str, IntArray]:
    """Rows of the digits: 300 trained the networks, 600 learn and certify, 897 only measure."""
    order = np.random.default_rng(0).permutation(1797)
    return {"train": order[:300], "fit": order[300:900], "measure": order[900:]}


def digits(part: str) -> tuple[AnyArray, IntArray]:
    """Images (n, 1, 8, 8) float32 in [0, 1] and labels (n,) of a part of the data."""
    images, labels = load_digits(return_X_y=True)
    rows = split()[part]
    scaled = (images[rows] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    return scaled, labels[rows].astype(np.int64)


def run(out: Path, *, force: bool = False, progress: Progress) -> Demo:
    """Records, fits, certifies and measures in folder `out`, and writes a report there.

    Raises:
        InputError: `out` is taken.
    """
    with new_folder(out, DEMO, force=force) as folder:
        with as_file(files("offramp") / "demo_networks") as shipped:
            found = {stage: shipped / f"{stage}.onnx" for stage in STAGES}
            Networks(Graph.build(STAGES, _EDGES), found).write(folder / "graph")
        for part in ("fit", "measure"):
            x, y = digits(part)
            np.savez(folder / f"{part}.npz", x=x, y=y)
        return _journey(folder, out, progress)


def _journey(folder: Path, out: Path, progress: Progress) -> Demo:
    networks = Networks.read(folder / "graph")
    runtime = Stages(networks.files)

    def step(number: int) -> None:
        progress(_STEPS[number], number, len(_STEPS))

    step(0)
    learning = _record(networks, runtime, folder, out, "fit")
    measuring = _record(networks, runtime, folder, out, "measure")
    step(1)
    plan = fit(learning, BUDGET, confidence=CONFIDENCE, learn_share=LEARN_SHARE, networks=networks)
    plan.write(folder / "plan")
    step(2)
    x, y = digits("measure")
    benches = tuple(bench(plan, x, y, batch=batch, contest=QUICK) for batch in (1, 64))
    step(3)
    evaluation, comparison = evaluate(plan, measuring), compare(learning, measuring)
    step(4)
    report, missing = _report(plan, evaluation, comparison, folder)
    result = Demo(plan, evaluation, comparison, benches, out / report if report else None, missing)
    write_manifest(folder, "demo", result.to_json())
    return result


def _record(networks: Networks, runtime: Stages, folder: Path, out: Path, part: str) -> Trace:
    """Recorded one by one: the demo answers single requests, so costs are measured there."""
    examples = open_examples(folder / f"{part}.npz")
    return record(
        networks,
        runtime,
        examples,
        folder / f"{part}-trace",
        Settings(batch=1),
        graph_folder=out / "graph",
    )


def _report(
    plan: Plan, evaluation: Evaluation, comparison: Comparison, folder: Path
) -> tuple[str | None, str]:
    from offramp.report import ReportInput, write_report

    try:
        entry = ReportInput("digits", comparison, plan, evaluation)
        write_report(folder / "report.html", [entry])
    except MissingExtra as missing:
        return None, str(missing)
    return "report.html", ""
