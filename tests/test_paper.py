"""The paper's experiment on made-up scores of 1,000 classes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.paper import synthetic
from benchmarks.paper.__main__ import LEVELS, experiment, restrict, speedups, topologies, write
from offramp.base.errors import InputError
from offramp.core.graph import Costs, Graph
from offramp.core.trace import Trace, assemble

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def trace() -> Trace:
    scores, labels = synthetic.scores(3000)
    costs = Costs(synthetic.COSTS, dict.fromkeys(scores, 0.0), "ms")
    return assemble(Graph.chain(scores), costs, scores, labels=labels, kind="logits")


def test_the_scores_are_shaped_like_those_of_imagenet_networks(trace: Trace) -> None:
    for loss, low, high in (("top1", 0.4, 0.85), ("top5", 0.7, 0.99)):
        values = trace.losses(loss).values
        right = [1 - float(values[name].mean()) for name in trace.graph.order]
        assert right == sorted(right)
        assert low < right[0]
        assert right[-1] < high
    wrong = np.stack([trace.losses().values[name] for name in trace.graph.order])
    assert 0.35 < (wrong.sum(axis=0) == 0).mean() < 0.65  # right by all
    assert 0.08 < (wrong.sum(axis=0) == 3).mean() < 0.3  # wrong by all


def test_every_topology_loss_and_baseline_is_there(trace: Trace, tmp_path: Path) -> None:
    found = experiment(trace)
    assert list(found) == ["top1", "top5"]
    for loss, each in found.items():
        assert len(each) == 3
        for comparison in each.values():
            assert comparison.examples == 1500
            assert {"learned", "myopic", "entropy", "thresholds", "uniform"} == set(
                comparison.policies
            )
            reached = speedups(comparison)
            for i in range(len(LEVELS)):
                assert reached["exact oracle"][i] >= max(r[i] for r in reached.values()) - 1e-9
            # for top-5 a blind mix of the two large networks alone can be ahead: nothing to sort
            assert loss == "top5" or reached["learned"][1] > reached["uniform"][1]
    write(found, tmp_path)
    names = {p.name for p in tmp_path.iterdir()}
    figures = {f"{kind}-{loss}.svg" for kind in ("frontier", "share") for loss in ("top1", "top5")}
    assert names == {"paper.json", *figures}
    assert json.loads((tmp_path / "paper.json").read_text())["top5"]


def test_topologies_are_those_of_the_paper() -> None:
    graphs = [Graph.build(names, edges) for names, edges in topologies("AGR").values()]
    assert [graph.edges for graph in graphs] == [
        (("A", "G"), ("G", "R")),
        (("A", "R"),),
        (("A", "G"), ("G", "R"), ("A", "R")),
    ]
    assert {graph.reference for graph in graphs} == {"R"}
    with pytest.raises(InputError, match="three networks"):
        topologies("AB")


def test_a_topology_keeps_scores_and_costs(trace: Trace) -> None:
    found = restrict(trace, ["alexnet", "resnet50"], "alexnet>resnet50")
    assert found.graph.order == ("alexnet", "resnet50")
    assert found.reference_cost == trace.reference_cost
    assert (found.scores["resnet50"] == trace.scores["resnet50"]).all()


def test_it_runs_on_a_file_of_scores(tmp_path: Path) -> None:
    synthetic.save(tmp_path / "s.npz", 400)
    costs = ",".join(f"{name}={cost}" for name, cost in synthetic.COSTS.items())
    command = [sys.executable, "-m", "benchmarks.paper", str(tmp_path / "s.npz"), "--cost", costs]
    command += ["--out", str(tmp_path / "out")]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.startswith("| loss | topology | policy |")
    command[command.index(costs)] = "alexnet=1,googlenet=2"
    again = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert again.returncode == 2
    assert "resnet50" in again.stderr
