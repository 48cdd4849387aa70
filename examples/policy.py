"""A policy of your own, in one file: its rule, its JSON, its forced form and its ONNX form.

Usage: python -m examples.policy

The chance that two labels drawn from a stage's probabilities agree says how sure the stage is; what
is usual differs from stage to stage. Two networks of scikit-learn; the policy is compared with one
of offramp's, put into a plan, read back, exported, and answers alike wherever it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from sklearn.datasets import make_classification

from examples import vectors
from offramp import (
    Answers,
    Comparison,
    Costs,
    Graph,
    Losses,
    Networks,
    OnnxRuntime,
    Plan,
    Trace,
    compare,
    fit,
    infer,
    open_examples,
    record,
)
from offramp.base.arrays import FloatArray, IntArray
from offramp.core.policy import STOP, backbone, seen_by_all
from offramp.export import write_file
from offramp.policies import Decision, Dial, Family, Memory, Saved, Seen, SeenTensors, register
from offramp.recording.record import RecordOptions
from offramp.runtime import SingleFile

# ------------------------------------------------------------------------------- the policy


@dataclass(frozen=True)
class Agreeing:
    """Stops where two draws agree by so much more often than they usually do at the stage."""

    graph: Graph
    settings: FloatArray  # what is added to the usual chance
    usual: Mapping[str, FloatArray]  # stage -> scalar, mean chance that two draws agree
    kind: str = "agreeing"

    @classmethod
    def fit(cls, trace: Trace, losses: Losses) -> Agreeing:
        """Positions of the dial are quantiles over the examples of `trace`."""
        graph = backbone(trace.graph)
        chances = {s: _agree(seen_by_all(trace, s)) for s in graph.order[:-1]}
        usual = {stage: chance.mean() for stage, chance in chances.items()}
        surer = [chance - usual[stage] for stage, chance in chances.items()] or [np.zeros(1)]
        inner = np.quantile(np.concatenate(surer), np.linspace(0, 1, 50))
        return cls(graph, np.concatenate([[2.0], np.unique(inner)[::-1]]), usual)

    def evidence(self, seen: Seen) -> FloatArray:
        return (_agree(seen) - self.usual[seen.stage])[:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return np.where(evidence[:, 0] >= setting, STOP, 1)

    def to_json(self) -> dict[str, Any]:
        return {"usual": {stage: float(chance) for stage, chance in self.usual.items()}}

    @classmethod
    def from_json(cls, saved: Saved) -> Agreeing:
        usual = saved.numbers("usual")
        for stage, chance in usual.items():
            saved.check(chance.ndim == 0 and 0 <= float(chance) <= 1, "usual chances", stage)
        return cls(saved.graph, saved.settings, usual)

    def forced(self, *, goes_on: bool) -> tuple[Agreeing, float]:
        return self, 2.0 if goes_on else -2.0  # no chance reaches one, all reach the other

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        scope = seen.scope
        squares = scope.add("Mul", seen.probabilities, seen.probabilities)
        agree = scope.add("ReduceSum", squares, scope.integers(1))
        surer = scope.add("Sub", agree, scope.constant(self.usual[seen.stage]))
        stops = scope.add("GreaterOrEqual", seen.trusted(surer), dial.setting(scope))
        return Decision.column(scope, stops)

    def remembered(self, stage: str) -> Memory:
        return {}  # later stages ask nothing of earlier ones


def _agree(seen: Seen) -> FloatArray:
    """The chance that two labels drawn from the present probabilities are one, (n,)."""
    return np.asarray((seen.probabilities() ** 2).sum(axis=1))


AGREEING = Family(name="agreeing", fit=Agreeing.fit, read=Agreeing.from_json)
register(AGREEING)  # plans of this kind can be read wherever this module has been imported

# -------------------------------------------------------------------------------- what it does


@dataclass(frozen=True)
class Shown:
    """What came of it."""

    plan: Plan  # read back
    comparison: Comparison
    walked: Answers  # of the plan, stage by stage
    exported: Answers  # of the file


def main() -> None:
    with TemporaryDirectory() as folder:
        shown = run(Path(folder))
    for name, points in shown.comparison.policies.items():
        best = max(p.speedup for p in points if p.excess_loss <= 0.02)
        print(f"{name}: {best:.2f} times as fast as the reference at two points")
    print(f"certified: {shown.plan.certificate.speedup:.2f}")
    print(f"answered alike: {np.mean(shown.walked.answer == shown.exported.answer):.1%}")


def run(folder: Path, examples: int = 1500) -> Shown:
    """The policy in use, on made-up vectors."""
    x, y = make_classification(
        3 * examples,
        vectors.FEATURES,
        n_informative=20,
        n_classes=vectors.CLASSES,
        class_sep=1.5,
        random_state=0,
    )
    x = x.astype(np.float32)
    for part, name in enumerate(("network", "plan")):
        rows = slice(part * examples, (part + 1) * examples)
        np.savez(folder / f"{name}.npz", x=x[rows], y=y[rows])
    for stage, layers in (("small", (16,)), ("big", (128, 128))):
        vectors.network(folder / "network.npz", folder / f"{stage}.onnx", layers)
    files = {stage: folder / f"{stage}.onnx" for stage in ("small", "big")}
    networks = Networks(Graph.chain(["small", "big"]), files)
    runtime = OnnxRuntime(networks.files, networks.graph)
    given = open_examples(folder / "plan.npz")
    costs = Costs({"small": 0.7, "big": 22.1}, {"small": 0.0, "big": 0.0}, "thousand MAC")
    trace = record(networks, runtime, given, folder / "trace", RecordOptions(), costs=costs)

    fit(trace, 0.05, policy=AGREEING, networks=networks).write(folder / "plan")
    plan = Plan.read(folder / "plan")
    write_file(plan, folder / "plan.onnx", dial=True)
    others = x[2 * examples :]
    return Shown(
        plan,
        compare(trace, policies=["margin", AGREEING], bands=False),
        infer(plan, runtime, others),
        SingleFile(folder / "plan.onnx")(others),
    )


if __name__ == "__main__":
    main()
