"""Stages that answer with everything a walk has paid for."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from offramp.answering.committees import (
    Committee,
    Speaker,
    learn_committees,
    pool_weights,
    with_committees,
)
from offramp.base.arrays import FloatArray
from offramp.base.errors import PlanError
from offramp.command import tables
from offramp.core.frontier import replay, static_points
from offramp.core.trace import Trace
from offramp.export import write_file
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.job import _static
from offramp.plan.plan import Plan
from offramp.policies import Static
from offramp.report.page import ReportInput, write_report
from offramp.runtime import SingleFile, infer
from offramp.testing import MemoryRuntime, RuntimeLaws, synthetic
from tests.made import different, rehashed
from tests.test_export import check, remembering


def test_stages_that_err_apart_answer_together() -> None:
    first, second = different().split(0.5, 0)
    learning, other = different().take(first), different().take(second)
    found, crossed = learn_committees(learning)
    assert set(found) == {"b", "c"}
    assert found["c"].stages == ("a", "b", "c")
    plain, together = other.losses(), with_committees(other, found).losses()
    assert together.values["c"].mean() < plain.values["c"].mean() - 0.05
    assert (together.values["a"] == plain.values["a"]).all()
    assert crossed.losses().values["c"].mean() < learning.losses().values["c"].mean() - 0.05


def test_a_stage_that_knows_all_the_others_know_answers_alone() -> None:
    trace = synthetic(2000, ("a", "b"), seed=1)
    noise = np.random.default_rng(0).normal(size=trace.scores["a"].shape) * 9
    hopeless = replace(trace, scores={**trace.scores, "a": noise.astype(np.float32)})
    assert learn_committees(hopeless)[0] == {}
    again = replace(trace, scores={**trace.scores, "a": trace.scores["b"]})
    assert learn_committees(again)[0] == {}


def test_only_stages_on_every_path_take_part() -> None:
    found, _ = learn_committees(different(edges="a>b>c,a>c"))
    assert found["c"].stages == ("a", "c")


def test_the_reference_alone_is_no_committee() -> None:
    trace = different()
    found, _ = learn_committees(trace)
    together = with_committees(trace, found)
    plain, losses = trace.losses(), together.losses()
    assert (losses.of_reference == plain.values["c"]).all()
    assert (losses.single().values["c"] == plain.values["c"]).all()
    assert losses.excess("c").mean() < 0  # the last stage of a walk beats the reference
    alone = static_points(together, losses)["c"]
    assert alone.excess_loss == 0
    assert (together.own("c") == trace.scores["c"]).all()
    rows = np.arange(100)
    assert (together.take(rows).own("c") == trace.scores["c"][rows]).all()


def test_out_of_fold_weights_are_not_those_of_all() -> None:
    trace = different(60)
    found, crossed = learn_committees(trace)
    assert not np.array_equal(crossed.scores["c"], with_committees(trace, found).scores["c"])


def test_without_labels_the_reference_is_the_teacher() -> None:
    trace = replace(different(), labels=None)
    found, _ = learn_committees(trace, "disagreement", unlabelled=True)
    assert "c" not in found  # nobody agrees with the reference better than itself
    assert learn_committees(trace, "disagreement") == ({}, trace)


def test_a_loss_that_only_the_trace_knows_leaves_stages_alone() -> None:
    trace = different()
    own = {stage: np.zeros(trace.examples, np.float32) for stage in trace.graph.order}
    given = replace(trace, loss=own)
    assert learn_committees(given) == ({}, given)


def test_a_speaker_says_of_some_rows_what_it_says_of_all() -> None:
    trace = different(200)
    committee = Committee(("a", "b", "c"), (0.2, 0.3, 0.6))
    speaker = Speaker({"c": committee}, trace.kinds)
    everything = with_committees(trace, {"c": committee}).scores["c"]
    rows = np.arange(200)
    for stage, keep in (("a", 1), ("b", 2), ("c", 4)):
        some = rows[::keep]
        found = speaker(stage, some, trace.scores[stage][some])
    np.testing.assert_allclose(found, everything[::4], rtol=1e-6)


def test_committees_are_written_and_read(tmp_path: Path) -> None:
    plan = fit(different(), 0.0, keep_stages=True)
    assert plan.committees
    plan.write(tmp_path / "plan")
    assert Plan.read(tmp_path / "plan").committees == plan.committees
    assert fit(different(), 0.05, committees=False).committees == {}


def test_reports_say_who_answers_with_whom(tmp_path: Path) -> None:
    plan = fit(different(), 0.0, keep_stages=True)
    expected = str(plan.committees["b"])
    assert " a + " in expected
    page = tmp_path / "r.html"
    write_report(page, [ReportInput(name="plan", plan=plan)])
    assert "answers with" in page.read_text()
    assert expected in page.read_text()
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(tables.certificate(plan))
    assert expected in console.export_text()


def test_evaluation_hears_committees() -> None:
    first, second = different().split(0.5, 1)
    plan = fit(different().take(first), 0.0)
    assert plan.routes
    trace = different().take(second)
    found = evaluate(plan, trace)
    outcome = replay(with_committees(trace, plan.committees), plan.policy, plan.setting)
    assert found.cost == pytest.approx(outcome.cost.mean())
    assert found.reference_loss == pytest.approx(trace.losses().values["c"].mean())
    live = infer(plan, MemoryRuntime.of(trace), np.arange(trace.examples)[:, None])
    assert found.loss == pytest.approx((live.answer != trace.labels).mean())


def test_a_network_that_runs_alone_answers_by_itself() -> None:
    plan = fit(different(), 0.05)
    alone = replace(plan, tradeoff=None)
    assert alone.speaking == {}
    assert isinstance(alone.running, Static)


class TestCommitteesInMemory(RuntimeLaws):
    @pytest.fixture
    def plan(self) -> Plan:
        plan = fit(different(), 0.0)
        assert plan.speaking
        return plan

    @pytest.fixture
    def runtime(self) -> MemoryRuntime:
        return MemoryRuntime.of(different())

    @pytest.fixture
    def x(self) -> FloatArray:
        return np.arange(300.0)[:, None]


def test_a_network_alone_is_certified_by_its_own_loss() -> None:
    trace = different(800)
    together = with_committees(trace, learn_committees(trace)[0])
    alone = _static(trace, trace.losses(), "b")
    certified = _static(together, together.losses(), "b")
    assert np.array_equal(alone.excess, certified.excess)


def test_where_nothing_is_known_a_stage_answers_alone() -> None:
    labels = np.arange(30) % 3
    assert pool_weights(np.zeros((2, 30, 3)), labels) == (0.0, 1.0)


def partial_to_a_class() -> tuple[Trace, Trace]:
    """Networks that err apart, and say the first class too often: to learn from, and others."""
    trace = different(2400)
    shift = np.array([2.0, *[0.0] * (trace.classes - 1)], dtype=np.float32)
    partial = replace(trace, scores={s: scores + shift for s, scores in trace.scores.items()})
    return partial.take(np.arange(1200)), partial.take(np.arange(1200, 2400))


def test_biases_of_classes_are_kept_where_they_pay_held_out() -> None:
    trace, fresh = partial_to_a_class()
    plain, _ = learn_committees(trace)
    biased, crossed = learn_committees(trace, biases=True)
    assert not any(committee.biases for committee in plain.values())
    assert all(biased[stage].biases for stage in trace.graph.order)  # the first one alone, too
    assert "a bias of each class" in str(biased["c"])
    before, after = (with_committees(fresh, found).losses().values for found in (plain, biased))
    assert all(after[stage].mean() < before[stage].mean() - 0.02 for stage in trace.graph.order)
    assert crossed.losses().values["a"].mean() < trace.losses().values["a"].mean() - 0.02
    assert not any(c.biases for c in learn_committees(different(), biases=True)[0].values())


def test_biases_are_written_read_and_exported(tmp_path: Path) -> None:
    trace, _ = partial_to_a_class()
    plan = fit(trace, 0.04, policy="margin", keep_stages=True)
    biased, _ = learn_committees(trace, biases=True)
    middle = float(plan.policy.settings[len(plan.policy.settings) // 2])
    networks = remembering(trace, tmp_path / "parts")
    plan = replace(plan, committees=biased, tradeoff=middle, networks=networks)
    plan.write(tmp_path / "plan")
    again = Plan.read(tmp_path / "plan")
    assert again.committees == biased
    write_file(again, tmp_path / "plan.onnx")
    check(again, trace, SingleFile(tmp_path / "plan.onnx"))


@pytest.mark.parametrize("damage", [{"nobody": [0.0] * 5}, {"c": [0.0]}, {"c": ["x"] * 5}])
def test_biases_that_fit_no_committee_are_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    trace, _ = partial_to_a_class()
    plan = fit(trace, 0.04, policy="margin", keep_stages=True)
    plan = replace(plan, committees=learn_committees(trace)[0])
    assert plan.committees
    plan.write(tmp_path / "plan")
    manifest = tmp_path / "plan" / "plan.json"
    rehashed(manifest, {**json.loads(manifest.read_text()), "biases": damage})
    with pytest.raises(PlanError):
        Plan.read(tmp_path / "plan")
