"""The whole journey on handwritten digits, with networks that come along: nothing to download."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from offramp.base.progress import Progress
from offramp.core.graph import Graph
from offramp.core.parts import versions
from offramp.core.trace import Trace
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks
from offramp.plan.evaluate import Evaluation, evaluate
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.recording.measure import machine
from offramp.recording.record import RecordOptions, record
from offramp.report import Clock, ReportInput, dial, write_report
from offramp.runtime import Stages
from offramp.study.bench import QUICK, Bench, bench
from offramp.study.compare import Comparison, compare

DEMO = kind_of_folder("demo")
BUDGET, CONFIDENCE = 0.02, 0.9
LEARN_SHARE = 1 / 3  # the rest certifies: the digits are few, and a certificate needs more of them
STAGES = ("small", "medium", "large")
_EDGES = "small>medium>large,small>large"
_STEPS = ("recording", "fitting", "measuring", "comparing", "reporting")


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo found."""

    plan: Plan
    evaluation: Evaluation
    comparison: Comparison
    benches: tuple[Bench, ...]
    report: Path | None  # None: the extra `report` is not installed
    missing: str = ""  # what the missing extra says

    def summary(self) -> list[tuple[str, str]]:
        """Five lines: what ran, what it saved, whether the promise was kept, and where to go on."""
        stops = ", ".join(f"{stage} {share:.0%}" for stage, share in self.evaluation.exits.items())
        clock = ", ".join(f"{b.speedup:.2f} times as fast at batch {b.batch}" for b in self.benches)
        promise = self.plan.certificate
        return [
            ("ran", f"{self.evaluation.examples} digits that taught nothing; answered by {stops}"),
            ("saved", f"on the clock, against {self.plan.graph.reference} alone: {clock}"),
            ("promise", f"at most {promise.budget:.0%} more wrong answers: {self._kept()}"),
            ("page", f"{self.report} (open it in a browser)" if self.report else self.missing),
            ("next", "your networks: offramp graph small=a.onnx big=b.onnx --out graph"),
        ]

    def _kept(self) -> str:
        found = {"yes": "kept", "no": "broken", "unknown": "neither shown to be kept nor broken"}
        excess = self.evaluation.excess_loss
        counted = "" if excess is None else f" ({excess:+.2%} here)"
        return found[self.evaluation.kept] + counted

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


def journey(out: Path, *, force: bool = False, progress: Progress) -> Demo:
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
    entry = _entry(plan, evaluation, comparison, measuring, benches, folder)
    report, missing = _report(entry, folder)
    result = Demo(
        plan=plan,
        evaluation=evaluation,
        comparison=comparison,
        benches=benches,
        report=out / report if report else None,
        missing=missing,
    )
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
        RecordOptions(batch=1, graph_folder=out / "graph"),
    )


def _entry(
    plan: Plan,
    evaluation: Evaluation,
    comparison: Comparison,
    measuring: Trace,
    benches: Sequence[Bench],
    folder: Path,
) -> ReportInput:
    clocks = tuple(Clock.of(row) for row in benches)
    turned = dial(plan, measuring, str(folder / "measure.npz"))
    return ReportInput(
        name="digits",
        comparison=comparison,
        plan=plan,
        evaluation=evaluation,
        clocks=clocks,
        dial=turned,
    )


def _report(entry: ReportInput, folder: Path) -> tuple[str | None, str]:
    try:
        write_report(folder / "report.html", [entry])
    except MissingExtra as missing:
        return None, str(missing)
    return "report.html", ""
