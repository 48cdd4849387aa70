"""Costs at several batch sizes: a saving says at which, and shows the others."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from offramp.base.errors import CostError, InputError, PlanError
from offramp.command import tables
from offramp.core.frontier import replay
from offramp.core.graph import Costs, Graph
from offramp.core.trace import Trace
from offramp.learn.latency import Latency
from offramp.networks.data import open_examples
from offramp.networks.networks import combine
from offramp.plan.fit import fit
from offramp.plan.notes import notes
from offramp.plan.plan import Plan
from offramp.recording import measure
from offramp.recording.measure import overheads, recorded_costs
from offramp.recording.record import RecordOptions, record
from offramp.report import ReportInput, report_inputs, write_report
from offramp.report.page import Clock
from offramp.report.sentences import verdict
from offramp.runtime import OnnxRuntime
from offramp.testing import synthetic
from tests.made import blob_networks, blobs

STAGES = ("small", "medium", "large")
NONE = dict.fromkeys(STAGES, 0.0)
ONE = Costs(  # single requests, where calls make small stages dear
    {"small": 8e-5, "medium": 9e-5, "large": 16e-5}, NONE, "s", "by hand", batch=1, overhead=2e-5
)
MANY = Costs(
    {"small": 1e-6, "medium": 3e-6, "large": 9e-6}, NONE, "s", "by hand", batch=64, at={1: ONE}
)


def timed(examples: int = 3000, costs: Costs = MANY) -> Trace:
    return replace(synthetic(examples), costs=costs)


def test_costs_at_every_size_are_kept(tmp_path: Path) -> None:
    trace = timed(300)
    trace.write(tmp_path / "t")
    assert Trace.read(tmp_path / "t").costs == MANY
    manifest = json.loads((tmp_path / "t" / "trace.json").read_text())
    assert manifest["cost_batch"] == 64
    assert manifest["cost_at"]["1"]["cost"]["small"] == {"body": 8e-5, "head": 0.0}
    assert MANY.smallest() == ONE.smallest() == ONE
    for wrong in ({"batch": 0}, {"batch": "many"}, {"overhead": "much"}, {"at": {0: ONE}}):
        with pytest.raises(InputError):
            trace.graph.check_costs(replace(MANY, **wrong))


def test_a_plan_says_at_which_size_it_saves_and_what_at_others(tmp_path: Path) -> None:
    plan = fit(timed(), 0.05)
    found = plan.certificate
    assert (found.verdict, found.batch) == ("route", 64)
    (single,) = found.sizes
    trace = timed()
    certifying = trace.take(trace.opening[trace.unsealed :])
    walked = plan.answering(replace(certifying, costs=ONE))
    cost = replay(walked, plan.policy, plan.setting).cost.mean()
    assert single.batch == 1
    assert single.cost == pytest.approx(cost)
    assert single.speedup == pytest.approx(16e-5 / cost)
    assert single.speedup < found.speedup
    assert f"at batch 64 ({single.speedup:.2f} at batch 1)" in verdict(found)
    rows = [str(name) for name, _ in tables.certificate(plan).lines]
    assert "speed-up at batch 1" in rows
    plan.write(tmp_path / "plan")
    assert Plan.read(tmp_path / "plan").certificate == found
    assert fit(synthetic(3000), 0.05).certificate.batch is None


def test_networks_as_small_as_a_call_are_warned_of() -> None:
    remarks = " ".join(notes(fit(timed(), 0.05)))
    assert "at batch 1 calling a network and deciding take 20 us" not in remarks
    dear = replace(ONE, overhead=5e-5)
    remarks = " ".join(notes(fit(timed(costs=replace(MANY, at={1: dear})), 0.05)))
    assert "at batch 1 calling a network and deciding take 50 us" in remarks
    assert "'small' (80 us), 'medium' (90 us)" in remarks
    assert "'large'" not in remarks


def test_heads_that_a_decision_follows_include_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks that run alone decide nothing, and do not pay for it."""
    runtime = OnnxRuntime(combine(blob_networks(tmp_path)).files)
    graph, x = Graph.chain(["small", "big"]), blobs(10)[0]
    spent = Latency(batch=8, parts={"first": {1: 3.0, 8: 4.0}}, stop={1: 5.0, 8: 16.0})
    monkeypatch.setattr(measure, "overheads", lambda *_: spent)
    found = recorded_costs(runtime, graph, x, 4, (1, 8), 1)
    assert (found.batch, found.overhead) == (8, 4.0 / 8 + 16.0 / 8)
    single = found.at[1]
    assert (single.batch, single.overhead, list(found.at)) == (1, 8.0, [1])
    for costs, stop in ((found, 2.0), (single, 5.0)):
        assert costs.head["small"] == pytest.approx(stop, abs=0.01)
        assert costs.head["big"] < 0.01
        assert graph.alone(costs, "small") < 0.01 < stop < graph.step_cost(costs, "small")
    alone = Graph.chain(["big"])
    assert recorded_costs(runtime, alone, x, 4, (8,), 1).overhead is None


def test_overheads_are_measured_for_any_kind_of_input() -> None:
    for x in (np.zeros((4, 3, 5, 5), np.float32), np.zeros((4, 7), np.int64)):
        found = overheads(x, 3, limit_s=0.05)
        assert found.parts["first"].keys() == found.stop.keys() == {1, 2, 4}
        assert min(found.parts["first"].values()) > 0
        assert min(found.stop.values()) >= 0


def test_a_recording_measures_at_every_size(tmp_path: Path) -> None:
    networks = combine(blob_networks(tmp_path))
    x, y = blobs(40)
    np.savez(tmp_path / "d.npz", x=x, y=y)
    examples = open_examples(tmp_path / "d.npz")
    settings = RecordOptions(batch=64, sizes=(1, 64))  # more than there are examples
    found = record(networks, OnnxRuntime(networks.files), examples, tmp_path / "t", settings).costs
    assert (found.batch, list(found.at)) == (64, [1])
    assert found.overhead is not None
    assert found.at[1].body["big"] > found.body["big"]  # a call is shared by its rows
    assert "batch 64" in found.source
    assert "half of the times lie within" in found.source
    assert Trace.read(tmp_path / "t").costs == found


def test_requests_of_other_sizes_are_priced_as_such() -> None:
    parts = {s: {1: 1.0 + c, 4: 1.0 + 4 * c} for s, c in zip(STAGES, (1.0, 3.0, 9.0), strict=True)}
    latency = Latency(batch=4, parts=parts, stop={1: 0.5, 4: 0.5}, source="by hand", others=(1,))
    plan = fit(synthetic(3000), 0.05, prices=latency)
    alone = replace(latency, batch=1, others=())
    assert plan.certificate.batch == 4
    assert [saving.batch for saving in plan.certificate.sizes] == [1]
    assert plan.costs.at[1].whole == alone.costs(plan.graph).whole
    assert plan.certificate.sizes[0].reference_cost == pytest.approx(10.0)
    assert plan.costs.source == "by hand, for requests of 4"


def clock(**more: object) -> dict[str, object]:
    exits = dict.fromkeys(STAGES, 1 / 3)
    found = Clock(
        batch=64,
        threads=1,
        reference="large, all",
        reference_ms=9.0,
        adaptive_ms=4.0,
        speedup=2.25,
        theoretical_speedup=2.5,
        exits=exits,
    )
    return {**asdict(found), "contestants": [], **more}


def test_a_report_shows_the_clock_before_costs(tmp_path: Path) -> None:
    fit(timed(), 0.05).write(tmp_path / "plan")
    (tmp_path / "bench.json").write_text(json.dumps([clock(), clock(batch=1, speedup=0.8)]))
    found = report_inputs([tmp_path / "plan", tmp_path / "bench.json"])
    assert [c.batch for c in found[0].clocks] == [64, 1]
    write_report(tmp_path / "r.html", found)
    text = (tmp_path / "r.html").read_text()
    single, many = "at batch 1: 1.25 times as slow as", "at batch 64: 2.25 times as fast as"
    assert text.index(single) < text.index(many) < text.index("times less cost")
    write_report(tmp_path / "bare.html", [ReportInput(name="plan", plan=found[0].plan)])
    assert "On the clock" not in (tmp_path / "bare.html").read_text()


def test_all_of_a_plan_is_reported_at_its_costs(tmp_path: Path) -> None:
    """The certified point lies among curves of the same costs, whatever other examples state."""
    fit(timed(600), 0.1, policy="margin").write(tmp_path / "plan")
    timed(400, costs=replace(MANY, body=ONE.body)).write(tmp_path / "slower")
    (found,) = report_inputs([tmp_path / "plan", tmp_path / "slower"])
    assert found.comparison is not None
    assert found.comparison.reference_cost == MANY.body["large"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[{}]", "bench --json"),
        ("half of", "bench --json"),
        (json.dumps([clock(speedup="fast")]), "speedup"),
        (json.dumps([clock(exits={"other": 1.0})]), "stages other"),
    ],
)
def test_what_measured_no_plan_of_these_is_refused(content: str, says: str, tmp_path: Path) -> None:
    fit(timed(600), 0.1).write(tmp_path / "plan")
    (tmp_path / "bench.json").write_text(content)
    with pytest.raises(InputError, match=says):
        report_inputs([tmp_path / "plan", tmp_path / "bench.json"])
    with pytest.raises(InputError, match="name the plan before it"):
        report_inputs([tmp_path / "bench.json", tmp_path / "plan"])


def test_a_damaged_size_of_a_plan_is_refused(tmp_path: Path) -> None:
    fit(timed(600), 0.1).write(tmp_path / "plan")
    manifest = tmp_path / "plan" / "plan.json"
    value = json.loads(manifest.read_text())
    for key, wrong in (("cost_at", {"1": 3}), ("cost_at", [1]), ("cost_batch", "x")):
        manifest.write_text(json.dumps({**value, key: wrong}))
        with pytest.raises((PlanError, CostError)):
            Plan.read(tmp_path / "plan")
