"""What must always hold. The titles are the list of laws."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.core.frontier import Point, TracePolicy, cost_at, excess_of, frontier, hull, replay
from offramp.core.graph import Graph
from offramp.core.trace import Trace
from offramp.core.walk import drive, walk
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.policies import FAMILIES, Deployable, ExactOracle, Policy, Static
from offramp.policies.rules import Threshold
from offramp.promise.certify import certify
from offramp.promise.order import Candidate
from offramp.promise.pvalues import p_value
from offramp.runtime.driver import infer
from offramp.testing import MemoryRuntime, PolicyLaws, RuntimeLaws, seen_at, synthetic
from tests.made import Scramble, Stopping, prices
from tests.strategies import graphs, traces

SEEDS = st.integers(0, 1000)


def scramble(trace: Trace, seed: int) -> Policy:
    return Scramble(trace.graph, np.array([1.0, 0.5]), seed)


def walked(trace: Trace, policy: Policy, setting: float, rows: IntArray) -> AnyArray:
    """Stage of each of `rows`, walked as one batch of its own."""
    taken = trace.take(rows)
    outcome = replay(taken, policy, setting)
    return np.array(outcome.order)[outcome.stage]


@given(traces(carries=True), SEEDS)
def test_batch_order_changes_nothing(trace: Trace, seed: int) -> None:
    policy = scramble(trace, seed)
    order = np.random.default_rng(seed).permutation(trace.examples)
    whole = walked(trace, policy, 1.0, np.arange(trace.examples))
    assert (walked(trace, policy, 1.0, order) == whole[order]).all()


@given(traces(carries=True), SEEDS, st.integers(1, 5))
def test_batch_size_changes_nothing(trace: Trace, seed: int, size: int) -> None:
    policy = scramble(trace, seed)
    rows = np.arange(trace.examples)
    parts = [walked(trace, policy, 1.0, rows[i : i + size]) for i in range(0, len(rows), size)]
    assert (np.concatenate(parts) == walked(trace, policy, 1.0, rows)).all()


@given(traces(carries=True), SEEDS)
def test_a_cost_is_the_bodies_passed_and_the_heads_answered(trace: Trace, seed: int) -> None:
    policy = scramble(trace, seed)
    outcome = replay(trace, policy, 1.0)
    for row in range(trace.examples):
        stage, cost = one_by_one(trace, policy, row)
        assert outcome.order[outcome.stage[row]] == stage
        assert outcome.cost[row] == pytest.approx(cost)


@pytest.mark.parametrize("seed", range(5))
def test_rows_that_come_by_different_branches_are_joined_in_order(seed: int) -> None:
    edges = "a>b>d>e>f,a>c>d"  # at e is observed what was said at d, where branches join
    trace = synthetic(300, "abcdef", edges=edges, seed=seed)
    policy = scramble(trace, seed)
    outcome = replay(trace, policy, 1.0)
    for row in range(trace.examples):
        assert outcome.order[outcome.stage[row]] == one_by_one(trace, policy, row)[0]


def one_by_one(trace: Trace, policy: Policy, row: int) -> tuple[str, float]:
    """An independent walk of one example: where it stops and what it costs."""

    stage, ran = trace.graph.root, dict[str, float]()
    while True:
        ran |= prices(trace, stage)
        cost = sum(ran.values())
        successors = [b for b in trace.graph.order if (stage, b) in trace.graph.edges]
        if not successors:
            return stage, cost
        seen = seen_at(trace.graph, trace, stage, np.array([row]))
        action = int(policy.choose(stage, policy.evidence(seen), 1.0)[0])
        if action == 0:
            return stage, cost
        stage = successors[action - 1]


@given(traces(), SEEDS)
def test_evidence_distilled_once_serves_every_setting(trace: Trace, seed: int) -> None:
    policy = scramble(trace, seed)
    recorded = TracePolicy(policy, trace)
    for setting in policy.settings:
        one, other = replay(trace, policy, setting), replay(trace, recorded, setting)
        assert (one.stage == other.stage).all()
        assert (one.cost == other.cost).all()


@given(traces())
def test_a_policy_that_never_stops_early_answers_as_the_last_stage(trace: Trace) -> None:
    policy = Threshold.fit("myopic", trace)
    last = policy.graph.order[-1]
    outcome = replay(trace, policy, policy.settings[0])
    assert {outcome.order[stage] for stage in outcome.stage} == {last}


@given(traces())
def test_the_reference_alone_costs_what_it_costs_and_loses_nothing(trace: Trace) -> None:
    losses = trace.losses()
    outcome = replay(trace, Static.of(trace.graph, trace.graph.reference), float("nan"))
    np.testing.assert_allclose(outcome.cost, trace.reference_cost)
    assert not excess_of(outcome, losses).any()


@given(traces(carries=True))
def test_a_larger_tradeoff_never_raises_the_loss_of_the_exact_oracle(trace: Trace) -> None:
    losses = trace.losses()
    points = frontier(trace, losses, ExactOracle.fit(trace, losses))
    for safer, cheaper in itertools.pairwise(points):
        assert safer.excess_loss <= cheaper.excess_loss + 1e-9
        assert safer.cost >= cheaper.cost - 1e-9


@given(traces(carries=True))
def test_no_policy_beats_the_exact_oracle(trace: Trace) -> None:
    losses = trace.losses()
    oracle = ExactOracle.fit(trace, losses)
    best = frontier(trace, losses, oracle)
    for seed in range(4):
        outcome = replay(trace, scramble(trace, seed), 1.0)
        excess = float(excess_of(outcome, losses).mean(dtype=np.float64))
        for tradeoff, point in zip(oracle.settings, best, strict=True):
            ours = tradeoff * excess + outcome.cost.mean() / trace.reference_cost
            theirs = tradeoff * point.excess_loss + point.cost / trace.reference_cost
            assert theirs <= ours + 1e-6


@given(traces(), st.sampled_from(["nan", "inf", "-inf"]))
def test_broken_scores_never_leave_early(trace: Trace, broken: str) -> None:
    root = trace.graph.root
    scores = {**trace.scores, root: np.full_like(trace.scores[root], float(broken))}
    policy = Stopping(trace.graph, np.array([1.0]))
    walking = walk(policy, 1.0, trace.costs, trace.kinds, trace.examples)
    with np.errstate(all="ignore"):
        outcome = drive(walking, lambda work: scores[work.stage][work.rows])
    stopped = {outcome.order[stage] for stage in outcome.stage}
    assert not trace.graph.successors[root] or root not in stopped


@given(graphs(carries=True))
def test_a_stage_observes_what_lies_on_every_path_to_it(graph: Graph) -> None:
    for stage in graph.order:
        paths = all_paths(graph, stage)
        assert set(graph.observed[stage]) == set.intersection(*map(set, paths))


def all_paths(graph: Graph, stage: str) -> list[list[str]]:
    before = [a for a, b in graph.edges if b == stage]
    return [[*path, stage] for b in before for path in all_paths(graph, b)] or [[stage]]


@given(graphs(carries=True))
def test_a_graph_survives_json(graph: Graph) -> None:
    assert Graph.from_json(graph.to_json()) == graph


@given(traces(carries=True, most=5))
@settings(max_examples=20)
def test_a_trace_survives_the_disk(trace: Trace) -> None:
    with TemporaryDirectory() as folder:
        trace.write(Path(folder) / "trace")
        loaded = Trace.read(Path(folder) / "trace")
    assert loaded.graph == trace.graph
    assert loaded.costs == trace.costs
    assert loaded.kinds == trace.kinds
    assert loaded.labels is not None
    assert (loaded.labels == trace.labels).all()
    for stage in trace.graph.order:
        assert (loaded.scores[stage] == trace.scores[stage]).all()


points_of = st.lists(st.tuples(st.integers(-5, 20), st.integers(1, 20)), min_size=1, max_size=12)


@given(points_of)
def test_the_hull_lies_below_every_point_and_is_convex(pairs: list[tuple[int, int]]) -> None:
    points = [
        Point(
            tradeoff=None,
            excess_loss=x / 10,
            induced_loss=0.0,
            cost=float(y),
            speedup=1.0,
            exits={},
        )
        for x, y in pairs
    ]
    corners = hull(points)
    assert all(corner in points for corner in corners)
    for point in points:
        assert cost_at(points, point.excess_loss) <= point.cost + 1e-9
    slopes = [
        (b.cost - a.cost) / (b.excess_loss - a.excess_loss) for a, b in itertools.pairwise(corners)
    ]
    assert all(slope < 0 for slope in slopes)
    assert slopes == sorted(slopes)


@given(
    st.sampled_from(["binomial", "trinomial", "betting"]),
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(0, 300),
)
@settings(max_examples=60)
def test_a_larger_budget_and_fewer_losses_are_easier_to_certify(
    method: str, losses: int, gains: int, rest: int
) -> None:
    gains = 0 if method == "binomial" else gains
    excess = np.array([1.0] * losses + [-1.0] * gains + [0.0] * rest)
    budgets = [0.0, 0.01, 0.05, 0.2]
    found = [p_value(excess, budget, method) for budget in budgets]  # type: ignore[arg-type]
    assert all(0 <= p <= 1 for p in found)
    assert all(a >= b - 1e-9 for a, b in itertools.pairwise(found))
    if losses and method != "betting":  # the order in which a bettor reads would change
        excess[0] = 0.0
        better = [p_value(excess, budget, method) for budget in budgets]  # type: ignore[arg-type]
        assert all(b <= a + 1e-9 for a, b in zip(found, better, strict=True))


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(0, 5))
@settings(max_examples=20)
def test_nothing_behind_the_first_failure_is_certified(losses: list[int], dear: int) -> None:
    path = [
        Candidate(float(100 - i), float(10 - i), np.repeat([1.0, 0.0], [lost, 1000 - lost]))
        for i, lost in enumerate(losses)
    ]
    found = certify(path, {}, 0.02, reference="big", reference_cost=10.5 + dear)
    passed = list(itertools.takewhile(lambda p: p.p_value <= 0.05, found.points))
    assert len(found.points) == min(len(passed) + 1, len(path))
    assert found.tradeoff == (passed[-1].tradeoff if passed else None)


FITTED = synthetic(800, edges="small>medium>large,small>large", seed=3)
SEEN = synthetic(200, edges="small>medium>large,small>large", seed=4)


@pytest.mark.parametrize("name", FAMILIES)
class TestPolicies(PolicyLaws):
    @pytest.fixture
    def policy(self, name: str) -> Deployable:
        return FAMILIES[name](FITTED, FITTED.losses())

    @pytest.fixture
    def trace(self) -> Trace:
        return SEEN


# a setting of each policy at which examples stop at every stage
@pytest.mark.parametrize(("name", "setting"), [("learned", 8.0), ("agreement", 2.0)])
class TestMemoryRuntime(RuntimeLaws):
    @pytest.fixture
    def runtime(self) -> MemoryRuntime:
        return MemoryRuntime.of(SEEN)

    @pytest.fixture
    def plan(self, name: str, setting: float) -> Plan:
        return replace(fit(FITTED, 0.05, policy=name), tradeoff=setting)

    @pytest.fixture
    def x(self) -> FloatArray:
        return np.arange(200, dtype=float)[:, None]


def test_a_saved_plan_is_the_same_plan(tmp_path: Path) -> None:
    plan = fit(FITTED, 0.05)
    assert plan.routes
    plan.write(tmp_path / "plan")
    loaded = Plan.read(tmp_path / "plan")
    loaded.write(tmp_path / "again")
    texts = [(tmp_path / name / "plan.json").read_bytes() for name in ("plan", "again")]
    assert texts[0] == texts[1]
    x = np.arange(SEEN.examples)[:, None]
    one, other = (infer(p, MemoryRuntime.of(SEEN), x) for p in (plan, loaded))
    assert (one.stage == other.stage).all()
    assert (one.scores == other.scores).all()
