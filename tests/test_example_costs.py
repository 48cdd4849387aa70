"""Costs that differ from example to example count as each example's own, wherever costs count."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offramp import Plan, Trace, evaluate, fit
from offramp.base.errors import CostError
from offramp.core.example_costs import mean_interval, ratio_interval
from offramp.core.frontier import excess_of, replay
from offramp.core.policy import STOP, Policy, Seen
from offramp.policies import FAMILIES, Static, family
from offramp.policies.baselines import ExactOracle
from offramp.testing import synthetic
from tests.made import Scramble, shown

STAGES = ("small", "medium", "large")


def dear(examples: int = 2000, edges: str | None = None, seed: int = 0) -> Trace:
    """Three networks whose costs differ by example, by different factors for each."""
    trace = synthetic(examples, STAGES, seed=seed)
    random = np.random.default_rng(seed)
    factors = random.lognormal(0, 1, (3, examples))
    each = {s: f * c for s, f, c in zip(STAGES, factors, (1.0, 2.0, 6.0), strict=True)}
    return Trace.of(trace.scores, trace.labels, costs=each, edges=edges)


def slow_cost(trace: Trace, policy: Scramble, setting: float, row: int) -> float:
    """What one example pays, one stage after another."""
    assert trace.example_costs
    graph, at = policy.graph, np.array([row])
    stage, total = graph.root, float(trace.example_costs[graph.root][row])
    while graph.successors[stage]:
        said = {v: (at, trace.scores[v][at]) for v in graph.observed[stage]}
        evidence = policy.evidence(Seen(stage, at, said, trace.kinds))
        action = int(policy.choose(stage, evidence, setting)[0])
        if action == STOP:
            break
        stage = graph.successors[stage][action - 1]
        total += float(trace.example_costs[stage][row])
    return total


@pytest.mark.parametrize("edges", [None, "small>medium,small>large,medium>large"])
def test_each_example_pays_its_own_costs(edges: str | None) -> None:
    trace = dear(200, edges)
    for seed in range(4):
        policy = Scramble(trace.graph, np.array([1.0]), seed)
        paid = replay(trace, policy, 1.0).cost
        assert paid == pytest.approx([slow_cost(trace, policy, 1.0, row) for row in range(200)])


def test_the_mean_stands_for_the_stage_and_follows_the_rows() -> None:
    trace = dear()
    assert trace.example_costs
    assert trace.costs.body["large"] == pytest.approx(trace.example_costs["large"].mean())
    assert trace.costs.source == "mean of 2,000 examples"
    some = trace.take(slice(0, 30))
    assert some.example_costs
    assert some.reference_cost == pytest.approx(trace.example_costs["large"][:30].mean())
    assert np.array_equal(some.reference_costs, trace.example_costs["large"][:30])
    alone = replay(some, Static.of(some.graph, "medium"), np.nan).cost
    assert np.array_equal(alone, trace.example_costs["medium"][:30])


def test_costs_that_do_not_differ_decide_as_one_cost_per_stage_does() -> None:
    plain = synthetic(1500, STAGES)
    same = {s: np.full(1500, plain.costs.body[s] + plain.costs.head[s]) for s in STAGES}
    each = Trace.of(plain.scores, plain.labels, costs=same)
    one = Trace.of(plain.scores, plain.labels, costs={s: float(c[0]) for s, c in same.items()})
    for name in FAMILIES:
        learned = [family(name)(shown(t), t.losses()) for t in (each, one)]
        for setting in learned[1].settings[::20]:
            outcomes = [
                replay(t, p, float(setting)) for t, p in zip((each, one), learned, strict=True)
            ]
            assert np.array_equal(outcomes[0].stage, outcomes[1].stage), name
            assert outcomes[0].cost == pytest.approx(outcomes[1].cost), name


@pytest.mark.parametrize(
    "name", ["learned", "thresholds", "exhaustive", "window", "eenet", "jei-dnn"]
)
def test_policies_go_on_where_that_is_cheap(name: str) -> None:
    # what the small network is unsure of costs the large one nearly nothing
    plain = synthetic(3000, ("small", "large"))
    sure = plain.log_probabilities("small").max(axis=1)
    cost = np.where(sure < np.median(sure), 0.01, 4.0)
    small = np.full(3000, 0.1)
    each = Trace.of(plain.scores, plain.labels, costs={"small": small, "large": cost})
    even = Trace.of(plain.scores, plain.labels, costs={"small": 0.1, "large": float(cost.mean())})
    assert _best(family(name)(each, each.losses()), each) < _best(
        family(name)(even, even.losses()), each
    )


def _best(policy: Policy, trace: Trace) -> float:
    """The lowest mean of cost and loss together that a policy's dial reaches."""
    losses = trace.losses()
    outcomes = [replay(trace, policy, float(setting)) for setting in policy.settings]
    return min(float((o.cost + 1.5 * excess_of(o, losses)).mean()) for o in outcomes)


def test_the_exact_oracle_pays_least_example_by_example() -> None:
    trace = dear(300, "small>medium,small>large,medium>large")
    losses, each = trace.losses(), trace.example_costs
    assert each
    oracle = ExactOracle.fit(trace, losses)
    paths = [("small",), ("small", "medium"), ("small", "large"), STAGES]
    for tradeoff in oracle.settings[::6]:
        outcome = replay(trace, oracle, float(tradeoff))
        unit = trace.reference_cost
        ends = np.stack([losses.excess(s) for s in outcome.order])
        mine = outcome.cost / unit + tradeoff * ends[outcome.stage, np.arange(300)]
        each_path = [
            sum(each[s] for s in path) / unit + tradeoff * losses.excess(path[-1]) for path in paths
        ]
        assert mine == pytest.approx(np.min(each_path, axis=0))


def test_writing_and_reading_keep_each_cost(tmp_path: Path) -> None:
    trace = dear(100)
    trace.write(tmp_path / "t")
    again = Trace.read(tmp_path / "t")
    assert trace.example_costs
    assert again.example_costs
    for stage in STAGES:
        assert np.array_equal(again.example_costs[stage], trace.example_costs[stage])
    assert again.costs == trace.costs


def test_a_plan_says_where_mean_cost_and_speed_up_lie(tmp_path: Path) -> None:
    plan = fit(dear(3000), 0.05)
    promise = plan.certificate
    assert promise.cost_interval
    assert promise.speedup_interval
    assert promise.cost_interval[0] < promise.cost < promise.cost_interval[1]
    assert promise.speedup_interval[0] <= promise.speedup <= promise.speedup_interval[1]
    plan.write(tmp_path / "plan")
    assert Plan.read(tmp_path / "plan").certificate == promise
    other = dear(1000, seed=1)
    found = evaluate(plan, other)
    walked = replay(plan.answering(other), plan.running, plan.setting)
    assert found.cost == pytest.approx(walked.cost.mean())
    assert found.reference_cost == pytest.approx(other.reference_costs.mean())
    said = json.loads(json.dumps(found.to_json()))
    assert said["cost_interval"][0] < said["cost"] < said["cost_interval"][1]
    level = Trace.of(other.scores, other.labels, costs=dict(plan.costs.body))
    without = evaluate(plan, replace(level, costs=replace(level.costs, unit=plan.costs.unit)))
    assert without.cost_interval is None
    assert without.speedup_interval is None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    inside = np.zeros(2)
    for _ in range(1000):
        reference = random.lognormal(0, 0.5, 400)
        cost = reference * random.uniform(0.2, 0.8, 400)
        truth = float(np.exp(0.125)) * 0.5, 2.0
        for i, (low, high) in enumerate((mean_interval(cost), ratio_interval(reference, cost))):
            inside[i] += low <= truth[i] <= high
    assert (inside > 925).all()
    assert (inside < 975).all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: {**c, "small": -c["small"]}, "'small' in row 0 is -"),
        (lambda c: {**c, "small": c["small"] * np.nan}, "'small' in row 0 is nan"),
        (lambda c: {**c, "small": c["small"] * 0}, "'small' costs nothing"),
        (lambda c: {**c, "small": c["small"][1:]}, "99 costs for 100 examples"),
        (lambda c: {**c, "small": c["small"].astype(str)}, "must be numbers"),
        (lambda c: {s: c[s] for s in STAGES[1:]}, "'small' has no body cost"),
        (lambda c: {**c, "huge": c["small"]}, "unknown stage 'huge'"),
    ],
)
def test_costs_that_are_none_are_refused(change, says: str) -> None:  # type: ignore[no-untyped-def]
    trace = dear(100)
    with pytest.raises(CostError, match=says):
        Trace.of(trace.scores, trace.labels, costs=change(dict(trace.example_costs or {})))
