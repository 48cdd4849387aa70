"""An engine of one's own: the reference evaluator of ONNX, which is slow and knows every operator.

Usage: python -m examples.engine

`opened`, `REFERENCE` and a fixture in a test that inherits `offramp.testing.EngineLaws` are all
that an engine takes: it runs what is recorded, what is timed, plans, and exported files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import make_classification

from examples.vectors import CLASSES, FEATURES, network
from offramp import Costs, fit, infer, record
from offramp.base.arrays import AnyArray
from offramp.export import write_folder
from offramp.networks.data import open_examples
from offramp.networks.networks import combine
from offramp.recording.record import RecordOptions
from offramp.runtime import Engine, Program, Routed, Stages
from offramp.runtime.ends import ends
from offramp.runtime.engine import Fields


def opened(file: Path, threads: int) -> Program:
    """A network in the reference evaluator, which knows of no threads."""
    evaluator = ReferenceEvaluator(str(file))

    def run(fields: Fields, wanted: Sequence[str]) -> Fields:
        return dict(zip(wanted, evaluator.run(list(wanted), dict(fields)), strict=True))

    return Program(*ends(file), run)


REFERENCE = Engine("onnx.reference", onnx.__version__, opened)


def main() -> None:
    with TemporaryDirectory() as folder:
        stages = run(Path(folder))
    print(f"answered by: {sorted(set(stages.tolist()))}")


def run(folder: Path, examples: int = 600) -> AnyArray:
    """The stage that answers each of some examples, (n,): everything runs on the engine."""
    x, y = make_classification(
        3 * examples, FEATURES, n_informative=20, n_classes=CLASSES, random_state=0
    )
    for part, name in enumerate(("networks", "plan", "others")):
        rows = slice(part * examples, (part + 1) * examples)
        np.savez(folder / f"{name}.npz", x=x[rows].astype(np.float32), y=y[rows])
    files = {"small": folder / "small.onnx", "big": folder / "big.onnx"}
    for file, sizes in zip(files.values(), ((4,), (64, 64)), strict=True):
        network(folder / "networks.npz", file, sizes)
    networks = combine(files)
    runtime = Stages(networks.files, networks.graph, engine=REFERENCE)
    costs = Costs({"small": 1.0, "big": 9.0}, {"small": 0.0, "big": 0.0}, "unit")
    given = open_examples(folder / "plan.npz")
    trace = record(networks, runtime, given, folder / "trace", RecordOptions(), costs=costs)
    plan = fit(trace, 0.05, policy="margin", networks=networks)
    middle = plan.policy.settings[len(plan.policy.settings) // 2]
    plan = replace(plan, tradeoff=float(middle))  # wherever that is: so few examples certify little
    write_folder(plan, folder / "exported")
    with np.load(folder / "others.npz") as others:
        answers = infer(plan, runtime, others["x"])
        exported = Routed(folder / "exported", REFERENCE)(others["x"])
    assert (exported.stage == answers.stage).all()
    return answers.stage


if __name__ == "__main__":
    main()
