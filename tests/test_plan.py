"""Plans: fit, evaluate, compare, and plans that cannot be read."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.base.errors import BudgetError, InputError, LossError, PlanError, TraceError
from offramp.core.frontier import cost_at, frontier, hull, static_points
from offramp.core.graph import Graph
from offramp.core.rows import learning_share
from offramp.core.trace import Trace, assemble
from offramp.learn.teach import Taught, Ways
from offramp.networks.networks import Networks
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.needs import needs
from offramp.plan.notes import notes
from offramp.plan.plan import Plan
from offramp.policies import FAMILIES, families, policy_to_json
from offramp.promise import split
from offramp.study.compare import compare
from offramp.testing import synthetic
from tests.made import blob_networks, different, rehashed, shown, unseen

LEARN = synthetic(1500, seed=1)
FRESH = synthetic(1500, seed=2)
ROUTED = fit(LEARN, 0.1, policy="learned")


@pytest.mark.parametrize("policy", FAMILIES)
def test_every_policy_can_be_planned_and_kept(policy: str, tmp_path: Path) -> None:
    plan = fit(LEARN, 0.1, policy=policy)
    plan.write(tmp_path / "plan")
    loaded = Plan.read(tmp_path / "plan")
    found = evaluate(loaded, FRESH)
    assert found.kept != "no"
    assert found.exits.keys() == set(LEARN.graph.order)
    assert sum(found.exits.values()) == pytest.approx(1)
    assert found.speedup == pytest.approx(FRESH.reference_cost / found.cost)


def test_learning_and_certifying_examples_are_apart() -> None:
    plan = fit(unseen(LEARN), 0.05, learn_share=0.4)
    assert plan.info["learning_examples"] == 600
    assert plan.certificate.examples == 900
    other = fit(unseen(LEARN), 0.05, certify_on=FRESH)
    assert other.info["learning_examples"] == other.certificate.examples == 1500


def test_the_path_is_fixed_before_the_certification_examples_are_seen() -> None:
    """Other labels on the certification part change the certificate, never policy or order."""
    sealed = np.argsort(LEARN.turns)[LEARN.unsealed :]
    assert LEARN.labels is not None
    labels = LEARN.labels.copy()
    labels[sealed] = (labels[sealed] + 1) % 10
    one, other = fit(LEARN, 0.05), fit(replace(LEARN, labels=labels), 0.05)
    one_json, other_json = (_policy(plan) for plan in (one, other))
    assert one_json == other_json
    assert one.certificate != other.certificate
    orders = [[p.tradeoff for p in plan.certificate.points] for plan in (one, other)]
    assert all(a == b for a, b in zip(*orders, strict=False))
    assert orders[0]


def test_learning_takes_a_third_of_few_examples_and_no_more_than_it_needs_of_many() -> None:
    assert learning_share(900) == pytest.approx(1 / 3)
    assert learning_share(100_000) == pytest.approx(0.025)
    plan = fit(LEARN, 0.05)
    assert (plan.info["learning_examples"], plan.certificate.examples) == (500, 1000)


def test_needs_are_told_without_labels() -> None:
    bare = needs(shown(replace(LEARN, labels=None)), 0.02)
    told = needs(shown(LEARN), 0.02)
    assert all(need.excess_loss is None is need.examples_measured for need in bare.settings)
    assert all(need.excess_loss is not None for need in told.settings)
    for found in (bare, told):
        assert found.examples == 750
        assert [need.stage for need in found.settings if need.stage] == ["small", "medium"]
        for need in found.settings:
            numbers = [n or 0 for n in need.examples_needed]
            assert 0 < numbers[0] <= numbers[1] <= numbers[2]
        changed = [need.changed for need in found.settings if need.stage is None]
        assert changed[0] < changed[-1]
    for bad in (replace(LEARN, labels=None).take(slice(90)), LEARN.take(slice(118))):
        with pytest.raises(TraceError, match="at least 40"):
            needs(bad, 0.02)
    with pytest.raises(BudgetError, match="power"):
        needs(LEARN, 0.02, power=1.0)


def _policy(plan: Plan) -> str:
    return json.dumps(policy_to_json(plan.policy))


def test_nothing_of_a_fit_is_left_to_chance() -> None:
    assert fit(LEARN, 0.05, seed=3).certificate == fit(LEARN, 0.05, seed=3).certificate


def test_without_labels_disagreement_is_certified() -> None:
    plan = fit(replace(LEARN, labels=None), 0.15, unlabelled=True)
    assert plan.certificate.loss == "disagreement"
    found = evaluate(plan, replace(FRESH, labels=None))
    assert found.loss is not None
    assert found.reference_loss == 0.0


def test_unlabelled_examples_say_only_whether_they_look_alike() -> None:
    plan = fit(LEARN, 0.1)
    found = evaluate(plan, replace(FRESH, labels=None))
    assert (found.loss, found.excess_loss, found.interval, found.kept) == (
        None, None, None, "unknown",
    )  # fmt: skip
    assert found.shift.alike


def test_shifted_examples_do_not_look_alike() -> None:
    noisy = {
        stage: scores + np.random.default_rng(0).normal(size=scores.shape).astype(np.float32) * 3
        for stage, scores in FRESH.scores.items()
    }
    found = evaluate(fit(LEARN, 0.1), replace(FRESH, scores=noisy))
    assert not found.shift.alike
    assert found.kept == "yes"  # the reference sees the noise as well: excess loss tells no shift


def test_a_broken_promise_is_called_broken() -> None:
    plan = fit(LEARN, 0.05)
    assert plan.routes
    wrong = {"small": np.roll(FRESH.scores["small"], 1, axis=1)}  # as sure, of the next class
    found = evaluate(plan, replace(FRESH, scores={**FRESH.scores, **wrong}))
    assert found.kept == "no"
    assert found.interval is not None
    assert found.interval[0] > 0.05


def test_few_examples_leave_it_unknown() -> None:
    found = evaluate(fit(LEARN, 0.05), FRESH.take(slice(60)))
    assert found.interval is not None
    assert found.interval[0] <= 0.05 < found.interval[1]
    assert found.kept == "unknown"


def test_a_plan_runs_no_code_of_its_own_accord() -> None:
    name = "tests.test_tasks:half_wrong"
    plan = fit(LEARN, 0.1, loss=name)
    with pytest.raises(LossError, match="--loss"):
        evaluate(plan, FRESH)
    assert evaluate(plan, FRESH, loss=name).loss is not None


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_learning_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(BudgetError, match="share"):
        fit(LEARN, 0.05, learn_share=share)


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(TraceError, match="at least 20"):
        fit(LEARN.take(slice(30)), 0.05)


def test_a_comparison_of_a_handful_of_examples_is_refused() -> None:
    for few in (LEARN.take(slice(39)), LEARN.take(slice(3))):
        with pytest.raises(TraceError, match="at least 20"):
            compare(few)
    with pytest.raises(TraceError, match="at least 20"):
        compare(LEARN, shown(FRESH.take(slice(19))))
    with pytest.raises(TraceError, match="at least 20"):
        compare(shown(LEARN.take(slice(19))), FRESH)
    assert compare(LEARN.take(slice(120)), policies=["margin"], bands=False).examples == 20


def test_a_comparison_learns_with_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seeds = sys.modules["offramp.study.compare"], list[int]()
    taught = module.teach

    def spy(trace: Trace, ways: Ways) -> Taught:
        seeds.append(ways.seed)
        found: Taught = taught(trace, ways)
        return found

    monkeypatch.setattr(module, "teach", spy)
    compare(shown(LEARN.take(slice(90))), policies=["auto"], seed=5, bands=False)
    assert seeds == [5]


def test_traces_of_another_graph_are_refused() -> None:
    other = synthetic(300, ("small", "large"))
    plan = fit(LEARN, 0.1)
    for call in (
        lambda: evaluate(plan, other),
        lambda: fit(LEARN, 0.1, certify_on=other),
        lambda: compare(LEARN, other),
    ):
        with pytest.raises(TraceError, match="another graph"):
            call()


def test_examples_that_taught_cannot_certify() -> None:
    trace = replace(synthetic(400), info={"data": "0123"})
    with pytest.raises(TraceError, match="the same examples"):
        fit(trace, 0.05, certify_on=trace)
    assert fit(unseen(trace), 0.05, certify_on=synthetic(400, seed=1))


def test_unknown_policies_are_refused() -> None:
    with pytest.raises(InputError, match="learned, network"):
        fit(LEARN, 0.1, policy="magic")


def test_comparison_measures_on_other_examples_than_it_tunes_on() -> None:
    tuned, fresh = (split.shown(shown(trace), "compare") for trace in (LEARN, FRESH))
    found = compare(shown(LEARN), shown(FRESH), bands=False)
    assert found.examples == FRESH.examples
    assert set(found.policies) == {"auto", *FAMILIES, "uniform"}
    again = frontier(fresh, fresh.losses(), FAMILIES["learned"](tuned, tuned.losses()))
    assert found.policies["learned"] == again
    alone = found.static["large"]
    oracle = cost_at([*found.exact_oracle, alone], 0.01)
    for points in found.policies.values():
        assert oracle <= cost_at([*points, alone], 0.01) + 1e-9


def test_uniform_lies_on_the_hull_of_the_single_networks() -> None:
    statics = static_points(FRESH, FRESH.losses())
    for point in compare(LEARN, shown(FRESH), policies=["margin"]).policies["uniform"]:
        assert point.cost == pytest.approx(cost_at(list(statics.values()), point.excess_loss))
    assert hull(statics.values())


def written(tmp_path: Path) -> Path:
    graph_files = blob_networks(tmp_path / "onnx")
    trace = synthetic(300, ("small", "big"), classes=4)
    networks = Networks(Graph.chain(["small", "big"]), graph_files)
    fit(trace, 0.1, networks=networks).write(tmp_path / "plan")
    return tmp_path / "plan"


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("newer", "version 99"),
        ("no json", "JSON"),
        ("no policy", "damaged"),
        ("other policy", "unknown"),
        ("altered network", "fingerprint"),
        ("missing network", "missing"),
        ("costs", "cost"),
    ],
)
def test_damaged_plans_are_refused(tmp_path: Path, how: str, says: str) -> None:
    plan = written(tmp_path)
    manifest, network = plan / "plan.json", plan / "stages" / "small.onnx"
    value = json.loads(manifest.read_text())
    if how == "newer":
        value["version"] = 99
    elif how == "no policy":
        del value["policy"]["graph"]
    elif how == "other policy":
        value["policy"]["kind"] = "magic"
    elif how == "costs":
        value["cost"]["small"]["body"] = -1
    elif how == "altered network":
        network.write_bytes(network.read_bytes() + b"\0")
    elif how == "missing network":
        network.unlink()
    rehashed(manifest, value)
    if how == "no json":
        manifest.write_text("{")
    with pytest.raises(InputError, match=says):
        Plan.read(plan)


def _put(value: dict[str, Any], path: str, new: object) -> None:
    """Puts a value at a path such as "profile.exits"; `...` deletes what is there."""
    *above, last = path.split(".")
    for name in above:
        value = value[name]
    if new is ...:
        del value[last]
    else:
        value[last] = new


DAMAGE: list[tuple[str, object]] = [
    ("tradeoff", None),
    ("tradeoff", "x"),
    ("tradeoff", True),
    ("tradeoff", float("nan")),
    ("classes", 1),
    ("classes", 7.5),
    ("classes", 11),
    ("scores", "x"),
    ("scores.small", ...),
    ("scores.small", "odds"),
    ("policy", {"kind": "margin", "graph": Graph.chain("xy").to_json(), "settings": [0.5]}),
    ("profile", None),
    ("profile.exits", None),
    ("profile.exits", {"nobody": 1.0}),
    ("profile.edges", []),
    ("profile.edges", ["x"]),
    ("profile.shares", [1.0]),
    ("profile.examples", "many"),
    ("certificate.budget", None),
    ("certificate.budget", 7),
    ("certificate.confidence", 1),
    ("certificate.method", "guess"),
    ("certificate.excess", "gross"),
    ("certificate.loss", 1),
    ("certificate.examples", -1),
    ("certificate.tradeoff", "x"),
    ("certificate.reference_cost", 0),
    ("certificate.cost", float("inf")),
    ("certificate.static_choice", "nobody"),
    ("certificate.verdict", "perhaps"),
    ("certificate.verdict", "do not route"),
    ("certificate.verdict", "one network"),
    ("certificate.verdict", "keep the reference"),
    ("certificate.points", [{"tradeoff": 1.0}]),
    ("certificate.points", None),
    ("certificate.extra", 1),
    ("committees", None),
    ("committees.medium", {}),
    ("committees.nobody", {"nobody": 1.0}),
    ("committees.medium", {"large": 1.0, "medium": 1.0}),
    ("committees.medium", {"medium": 1.0, "small": 1.0}),
    ("committees.medium", {"medium": None}),
    ("committees.medium", {"medium": float("nan")}),
    ("committees.medium", {"medium": "1.0"}),
    ("repair", {"before": {}}),
    ("repair", {"before": {}, "after": {}, "choice": "small", "speedup": 1.0, "without": 1.0}),
]


@pytest.mark.parametrize(("path", "new"), DAMAGE)
def test_every_value_of_a_plan_is_checked(path: str, new: object, tmp_path: Path) -> None:
    ROUTED.write(tmp_path / "plan")
    manifest = tmp_path / "plan" / "plan.json"
    value = json.loads(manifest.read_text())
    Plan.read(tmp_path / "plan")
    _put(value, path, new)
    rehashed(manifest, value)
    with pytest.raises(PlanError) as caught:
        Plan.read(tmp_path / "plan")
    assert "\n" not in str(caught.value)


def test_a_plan_may_walk_less_than_its_committees_know(tmp_path: Path) -> None:
    """A rule walks one path of a graph with skips, on which a stage passes more others."""
    trace = different(1000)
    names = (*"abc", "end")
    graph = Graph.build(names, "a>b,b>c,a>c,c>end")
    scores = {**trace.scores, "end": trace.scores["c"]}
    costs = synthetic(20, names).costs
    wide = assemble(graph, costs, scores, labels=trace.labels, kind="logits")
    plan = fit(wide, 0.05, keep_stages=True, policy="entropy")
    assert any(c.stages != plan.policy.graph.observed[s] for s, c in plan.committees.items())
    plan.write(tmp_path / "plan")
    assert Plan.read(tmp_path / "plan").committees == plan.committees


def test_a_plan_that_does_not_route_has_no_tradeoff(tmp_path: Path) -> None:
    plan = fit(LEARN, 0.0)
    assert not plan.routes
    plan.write(tmp_path / "plan")
    assert Plan.read(tmp_path / "plan").tradeoff is None
    manifest = tmp_path / "plan" / "plan.json"
    rehashed(manifest, json.loads(manifest.read_text()) | {"tradeoff": 5.0})
    with pytest.raises(PlanError, match="keep the reference"):
        Plan.read(tmp_path / "plan")


def test_a_plan_without_networks_says_so() -> None:
    with pytest.raises(PlanError, match="--graph"):
        fit(LEARN, 0.1).runnable()


def test_large_learning_sets_are_sampled_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["offramp.policies.learned"], "SAMPLE", 300)
    few = replace(FAMILIES["learned"], most=300)
    monkeypatch.setitem(families._registered, few.name, few)
    plan = fit(LEARN, 0.1)
    assert any("sample of 300 of 500" in note for note in notes(plan))
    assert plan.certificate.examples == 1000


def test_a_trace_without_examples_of_some_class_can_be_learned() -> None:
    rows = np.flatnonzero(np.asarray(LEARN.labels) < 3)
    assert fit(LEARN.take(rows), 0.2).certificate.examples > 0
