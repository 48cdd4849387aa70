"""Real networks and photographs; skipped where OFFRAMP_DATA names no folder that holds them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cifar
from offramp.core.frontier import replay
from offramp.plan.fit import fit
from offramp.runtime import OnnxRuntime, infer

DATA = Path(os.environ.get("OFFRAMP_DATA", "absent"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DATA / "test.parquet").exists(), reason="OFFRAMP_DATA is not there"),
]
ACCURACY = {
    "resnet20": 0.810,
    "resnet32": 0.826,
    "resnet56": 0.832,
    "resnet20_tuned": 0.877,
    "resnet56_tuned": 0.894,
}


def test_recorded_networks_are_as_accurate_as_said(tmp_path: Path) -> None:
    trace = cifar.record_all(DATA, tmp_path)
    wrong = trace.losses().values
    for stage, accuracy in ACCURACY.items():
        assert 1 - wrong[stage].mean() == pytest.approx(accuracy, abs=0.001)


def test_live_is_replay_on_ten_thousand_photographs(tmp_path: Path) -> None:
    name = "ResNet-20, 32, 56 with skips"
    trace = cifar.traces(DATA, tmp_path)[name]
    plan = fit(trace, 0.01)
    assert plan.routes
    files = cifar.build_networks(DATA, tmp_path / "onnx")
    runtime = OnnxRuntime({stage: files[stage] for stage in trace.graph.order}, threads=2)
    images = cifar.read_test(DATA)[0]
    parts = [infer(plan, runtime, images[i : i + 64]) for i in range(0, len(images), 64)]
    stage = np.concatenate([part.stage for part in parts])
    outcome = replay(trace, plan.running, plan.setting)
    differ = stage != np.array(outcome.order)[outcome.stage]
    assert differ.mean() <= 0.001  # batches of another size move scores in the last digits
