"""Stages whose scores are mended on held-out labels, and what that may count as."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from offramp.answering.committees import SMALLEST
from offramp.answering.refit import Refit, Repair, learn_refits, with_refits
from offramp.base.arrays import FloatArray
from offramp.base.errors import PlanError
from offramp.cli import app
from offramp.command import tables
from offramp.core import tasks
from offramp.core.frontier import excess_of, replay, static_points
from offramp.core.graph import Costs, Graph
from offramp.core.trace import Trace, assemble
from offramp.learn.latency import Latency
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.notes import notes, repairs
from offramp.plan.plan import Plan
from offramp.report import report_inputs, write_report
from offramp.runtime import infer
from offramp.testing import MemoryRuntime, RuntimeLaws, synthetic
from tests.made import rehashed

BIAS = np.array([3.0, 0, 0, 0, -3.0], dtype=np.float32)


def fair(examples: int = 3000, seed: int = 0, stages: int = 2, classes: int = 5) -> Trace:
    """Networks whose scores are the logarithms of the true chances, up to a shift per example."""
    random = np.random.default_rng(seed)
    names = [f"n{depth}" for depth in range(stages)]
    labels = random.integers(0, classes, examples)
    scores = {}
    for depth, name in enumerate(names):
        sight = 1.2 + depth  # mean apart over noise: the likelihood ratio of two classes
        seen = sight * (labels[:, None] == np.arange(classes))
        scores[name] = (sight * (seen + random.normal(size=seen.shape))).astype(np.float32)
    costs = Costs({n: 3.0**i for i, n in enumerate(names)}, dict.fromkeys(names, 0.0), "MFLOP")
    return assemble(Graph.chain(names), costs, scores, labels=labels, kind="logits")


def biased(trace: Trace, *stages: str) -> Trace:
    """Some stages favour the first class and shun the last."""
    return replace(trace, scores={**trace.scores, **{s: trace.scores[s] + BIAS for s in stages}})


def loss_of(trace: Trace, stage: str) -> float:
    return float(trace.losses("top1").values[stage].mean())


# ------------------------------------------------------------------------------ learning


def test_a_network_with_biased_classes_recovers_its_accuracy() -> None:
    first, second = fair(6000).split(0.5, 0)
    honest = fair(6000).take(second)
    learning, other = (biased(fair(6000), "n0", "n1").take(rows) for rows in (first, second))
    found, crossed = learn_refits(learning)
    mended = with_refits(other, found)
    assert set(found) == {"n0", "n1"}
    for stage in found:
        assert loss_of(other, stage) > loss_of(honest, stage) + 0.02
        assert loss_of(mended, stage) == pytest.approx(loss_of(honest, stage), abs=0.01)
        assert loss_of(crossed, stage) == pytest.approx(loss_of(honest, stage), abs=0.02)


def test_mixed_up_classes_need_a_matrix_and_get_it() -> None:
    trace = fair(4000)
    swapped = trace.scores["n0"][:, [1, 0, 2, 3, 4]]
    found, _ = learn_refits(replace(trace, scores={**trace.scores, "n0": swapped}))
    assert found["n0"].weights.shape == (5, 5)
    assert loss_of(with_refits(trace, {}), "n0") == pytest.approx(
        loss_of(with_refits(replace(trace, scores={**trace.scores, "n0": swapped}), found), "n0"),
        abs=0.02,
    )


def test_where_nothing_helps_nothing_changes() -> None:
    trace = fair()
    found, crossed = learn_refits(trace)
    assert found == {}
    assert crossed.scores == trace.scores
    assert with_refits(trace, found) == trace


def test_a_network_that_is_always_right_is_left_alone() -> None:
    trace = fair()
    agreeing = replace(trace, labels=tasks.answers(trace.scores["n0"]))
    assert "n0" not in learn_refits(agreeing)[0]


def test_only_the_stage_that_gains_is_refitted() -> None:
    assert set(learn_refits(biased(fair(), "n1"))[0]) == {"n1"}


def test_crossed_scores_are_not_those_of_the_refit_of_all() -> None:
    trace = biased(fair(400), "n0")
    found, crossed = learn_refits(trace)
    assert not np.allclose(crossed.scores["n0"], with_refits(trace, found).scores["n0"])


def test_labels_that_say_nothing_are_not_learned() -> None:
    """On random labels a map fits its own examples; held-out ones find that out."""
    chosen = 0
    for seed in range(10):
        trace = fair(300, seed)
        noise = np.random.default_rng(seed).integers(0, 5, trace.examples)
        chosen += len(learn_refits(replace(trace, labels=noise))[0])
    assert chosen <= 7  # of 20: a standard error is passed by chance one time in six


def test_many_classes_get_no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = biased(fair(), "n0")
    turned = trace.scores["n0"][:, [1, 0, 2, 3, 4]]
    mixed = replace(trace, scores={**trace.scores, "n0": turned})
    assert learn_refits(mixed)[0]["n0"].weights.ndim == 2
    monkeypatch.setattr("offramp.core.tasks.FEW_CLASSES", 4)
    assert learn_refits(mixed)[0]["n0"].weights.ndim < 2


def test_large_sets_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = biased(fair(2000), "n0")
    monkeypatch.setattr("offramp.answering.refit.ANSWER_SAMPLE", 500)
    found, crossed = learn_refits(trace)
    assert crossed.examples == trace.examples
    monkeypatch.undo()
    assert not np.allclose(found["n0"].bias, learn_refits(trace)[0]["n0"].bias)


def test_without_labels_the_reference_is_the_teacher() -> None:
    trace = replace(biased(fair(), "n0", "n1"), labels=None)
    found, _ = learn_refits(trace, "disagreement", unlabelled=True)
    assert "n1" not in found  # nobody agrees with the reference better than itself
    assert learn_refits(trace, "disagreement") == ({}, trace)


def test_a_loss_that_only_the_trace_knows_is_left_alone() -> None:
    trace = biased(fair(), "n0")
    own = {stage: np.zeros(trace.examples, np.float32) for stage in trace.graph.order}
    known = replace(trace, loss=own)
    assert learn_refits(known) == ({}, known)
    assert set(learn_refits(known, "top1")[0]) == {"n0"}


# ------------------------------------------------------------------------------ records


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2), st.integers(2, 6), st.integers(0, 1000))
def test_a_refit_is_an_affine_map_of_clipped_logarithms(form: int, classes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    refit = Refit(random.normal(size=(classes,) * form), random.normal(size=classes))
    logs = -random.gamma(1.0, 8.0, size=(7, classes))
    matrix = refit.weights
    if form < 2:
        matrix = np.diag(np.broadcast_to(refit.weights, (classes,)))
    slow = [
        [
            sum(max(row[i], SMALLEST) * matrix[i, j] for i in range(classes)) + refit.bias[j]
            for j in range(classes)
        ]
        for row in logs
    ]
    np.testing.assert_allclose(refit(logs), slow, rtol=1e-5, atol=1e-5)
    again = Refit.from_json(json.loads(json.dumps(refit.to_json())), classes)
    assert np.array_equal(again.weights, refit.weights)
    assert np.array_equal(again(logs), refit(logs))


def test_probabilities_are_refitted_as_the_logits_they_stand_for() -> None:
    trace = biased(fair(), "n0")
    shares = tasks.probabilities(trace.scores["n0"], "logits").astype(np.float32)
    other = replace(
        trace, scores={**trace.scores, "n0": shares}, kinds={**trace.kinds, "n0": "probabilities"}
    )
    found, _ = learn_refits(trace)
    one, two = with_refits(trace, found), with_refits(other, found)
    np.testing.assert_allclose(one.scores["n0"], two.scores["n0"], atol=1e-3)
    assert two.kinds["n0"] == "logits"


# ------------------------------------------------------------------------------ plans


def planned(trace: Trace, budget: float = 0.02) -> Plan:
    plan = fit(trace, budget, refit=True, learn_share=0.5)
    assert plan.refits
    return plan


def test_the_promise_is_against_the_refitted_reference() -> None:
    """The reference by itself is its refitted self, never the one that was recorded."""
    trace = biased(fair(8000), "n0", "n1")
    plan = planned(trace, 0.05)
    assert plan.routes
    rest = trace.opening[4000:]
    after = plan.answering(trace.take(rest))
    outcome = replay(after, plan.running, plan.setting)
    excess = excess_of(outcome, after.losses("top1"))
    assert (int((excess > 0).sum()), int((excess < 0).sum())) == (
        plan.certificate.losses,
        plan.certificate.gains,
    )
    mended = loss_of(with_refits(trace.take(rest), plan.refits), "n1")
    assert after.losses("top1").of_reference.mean() == pytest.approx(mended)
    statics = static_points(after, after.losses("top1"))
    assert statics["n1"].excess_loss == 0


def test_a_repair_is_not_sold_as_routing() -> None:
    """Only the small network was broken: mended it saves much, and routing is counted apart."""
    trace = biased(fair(8000, stages=2), "n1")
    plan = planned(trace, 0.01)
    repair = plan.repair
    assert repair is not None
    recorded = trace.take(trace.opening[4000:])
    assert repair.before["n1"] == pytest.approx(loss_of(recorded, "n1"))
    assert repair.after["n1"] == pytest.approx(loss_of(plan.answering(recorded), "n1"), abs=0.01)
    assert repair.after["n1"] < repair.before["n1"] - 0.02
    assert repair.before["n0"] == repair.after["n0"]  # not refitted
    assert repair.speedup == repair.without  # what was mended is the reference, no cheaper one


def test_a_mended_network_that_stands_in_for_the_reference_is_a_repair() -> None:
    whole, spoiled = fair(4000), biased(fair(4000), "n0", "n1")
    mended = with_refits(spoiled, learn_refits(spoiled)[0])
    budget = loss_of(whole, "n0") - loss_of(spoiled, "n1") + 0.02
    assert loss_of(spoiled, "n0") - loss_of(spoiled, "n1") > budget
    found = Repair.of(spoiled, mended, "top1", "net", budget)
    assert (found.choice, found.speedup, found.without) == ("n0", 3.0, 1.0)
    none = Repair.of(spoiled, spoiled, "top1", "net", budget)
    assert (none.choice, none.speedup, none.without) == ("n1", 1.0, 1.0)


def test_plans_say_what_is_repair_and_what_is_routing(tmp_path: Path) -> None:
    trace = biased(fair(6000), "n0", "n1")
    plan = planned(trace)
    assert plan.repair is not None
    shown = (f"{plan.repair.before['n1']:.2%}", f"{plan.repair.after['n1']:.2%}", "by routing")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(tables.certificate(plan))
    plan.write(tmp_path / "plan")
    trace.write(tmp_path / "trace")
    inputs = report_inputs([tmp_path / "plan", tmp_path / "trace"])
    write_report(tmp_path / "r.html", inputs)
    page, table = (tmp_path / "r.html").read_text(), console.export_text()
    for text in (table, page, " ".join(notes(plan))):
        for said in shown:
            assert said in text
    for text in (table, page):
        assert f"{plan.repair.before['n0']:.2%}, then {plan.repair.after['n0']:.2%}" in text
    assert inputs[0].comparison is not None
    assert inputs[0].comparison.reference_loss == pytest.approx(plan.repair.after["n1"], abs=0.02)
    assert "is refitted as in the plan" in page


def test_without_the_option_nothing_is_refitted() -> None:
    trace = biased(fair(), "n0", "n1")
    plan = fit(trace, 0.02)
    assert (plan.refits, plan.repair, repairs(plan)) == ({}, None, [])
    assert plan.answering(trace).own("n1") is trace.scores["n1"]


def test_asked_for_in_vain_a_plan_says_so() -> None:
    plan = fit(fair(), 0.02, refit=True)
    assert plan.refits == {}
    assert any("no stage is refitted" in note for note in notes(plan))
    assert fit(fair(), 0.02).certificate == plan.certificate


def test_evaluation_is_against_the_refitted_reference_and_tells_the_other() -> None:
    first, second = biased(fair(8000), "n0", "n1").split(0.5, 1)
    trace = biased(fair(8000), "n0", "n1")
    plan = planned(trace.take(first))
    other = trace.take(second)
    found = evaluate(plan, other)
    assert found.reference_loss == pytest.approx(loss_of(with_refits(other, plan.refits), "n1"))
    assert found.unrefitted_reference_loss == pytest.approx(loss_of(other, "n1"))
    live = infer(plan, MemoryRuntime.of(other), np.arange(other.examples)[:, None])
    assert found.loss == pytest.approx((live.answer != other.labels).mean())
    plain = evaluate(fit(trace.take(first), 0.02), other)
    assert plain.unrefitted_reference_loss == plain.reference_loss


def test_a_network_that_runs_alone_answers_refitted() -> None:
    trace = biased(fair(), "n0", "n1")
    plan = planned(trace)
    for stage in trace.graph.order:
        certificate = replace(plan.certificate, static_choice=stage)
        alone = replace(plan, tradeoff=None, certificate=certificate)
        live = infer(alone, MemoryRuntime.of(trace), np.arange(trace.examples)[:, None])
        np.testing.assert_array_equal(live.scores, with_refits(trace, plan.refits).scores[stage])


def test_plans_are_written_and_read(tmp_path: Path) -> None:
    trace = biased(fair(), "n0", "n1")
    plan = planned(trace)
    plan.write(tmp_path / "plan")
    read = Plan.read(tmp_path / "plan")
    assert read.repair == plan.repair
    x, runtime = np.arange(trace.examples)[:, None], MemoryRuntime.of(trace)
    one, two = infer(plan, runtime, x), infer(read, runtime, x)
    assert (one.answer == two.answer).all()
    assert (one.scores == two.scores).all()
    assert notes(read) == notes(plan)


@pytest.mark.parametrize(
    "spoil",
    [
        {"nobody": {"weights": 1.0, "bias": [0.0] * 5}},
        {"n0": {"weights": [1.0] * 4, "bias": [0.0] * 5}},
        {"n0": {"weights": 1.0, "bias": [0.0] * 4}},
        {"n0": {"weights": [[1.0] * 5] * 4, "bias": [0.0] * 5}},
        {"n0": {"weights": None, "bias": [0.0] * 5}},
        {"n0": {"weights": "os.system", "bias": [0.0] * 5}},
        {"n0": {"weights": 1.0, "bias": [float("inf")] * 5}},
        {"n0": {}},
        ["n0"],
    ],
)
def test_refits_that_do_not_fit_are_refused(tmp_path: Path, spoil: object) -> None:
    planned(biased(fair(), "n0", "n1")).write(tmp_path / "plan")
    path = tmp_path / "plan" / "plan.json"
    rehashed(path, {**json.loads(path.read_text()), "refits": spoil})
    with pytest.raises(PlanError, match="damaged"):
        Plan.read(tmp_path / "plan")


def test_plans_from_before_there_were_refits_load(tmp_path: Path) -> None:
    plan = fit(synthetic(600), 0.05)
    plan.write(tmp_path / "plan")
    path = tmp_path / "plan" / "plan.json"
    value = json.loads(path.read_text())
    del value["refits"], value["repair"]
    rehashed(path, value)
    read = Plan.read(tmp_path / "plan")
    assert (read.refits, read.repair) == ({}, None)


class TestRefitsInMemory(RuntimeLaws):
    @pytest.fixture
    def trace(self) -> Trace:
        return biased(fair(3000, stages=3), "n0", "n1", "n2")

    @pytest.fixture
    def plan(self, trace: Trace) -> Plan:
        plan = planned(trace, 0.05)
        assert plan.routes
        return plan

    @pytest.fixture
    def runtime(self, trace: Trace) -> MemoryRuntime:
        return MemoryRuntime.of(trace)

    @pytest.fixture
    def x(self) -> FloatArray:
        return np.arange(300.0)[:, None]

    def test_a_driver_that_forgets_refits_is_caught(
        self, runtime: MemoryRuntime, plan: Plan, x: FloatArray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Plan, "own", lambda plan, stage, scores: scores)
        with pytest.raises(AssertionError):
            self.test_live_is_replay(runtime, plan, x)


# ------------------------------------------------------------------------------ on the command line


def test_fit_refit_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    biased(fair(4000), "n0", "n1").write(tmp_path / "trace")
    given = ["fit", str(tmp_path / "trace"), "--budget", "0.05", "--json"]
    app([*given, "--refit", "--out", str(tmp_path / "plan")], standalone_mode=False)
    found = json.loads(capsys.readouterr().out)
    plan = Plan.read(tmp_path / "plan")
    assert set(plan.refits) == {"n0", "n1"}
    assert plan.repair is not None
    assert found == {
        **plan.certificate.to_json(),
        "dropped": plan.info["dropped"],
        "repair": plan.repair.to_json(),
    }
    app([*given, "--out", str(tmp_path / "plain")], standalone_mode=False)
    assert "repair" not in json.loads(capsys.readouterr().out)
    evaluated = ["evaluate", str(tmp_path / "plan"), str(tmp_path / "trace")]
    app(evaluated, standalone_mode=False)
    assert "refitted" in capsys.readouterr().out


def test_costs_that_are_time_go_with_refits() -> None:
    trace = biased(fair(4000), "n0", "n1")
    latency = Latency(
        batch=8, parts={s: {1: c, 8: 4 * c} for s, c in trace.costs.body.items()}, stop={1: 0.0}
    )
    plan = fit(trace, 0.05, refit=True, prices=latency)
    assert set(plan.refits) == {"n0", "n1"}
    assert plan.repair is not None
    assert plan.repair.speedup in (1.0, pytest.approx(3.0))
