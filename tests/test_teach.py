"""Which policy decides, and who takes part: chosen on examples that neither has seen."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.answering.posterior import expected_excess
from offramp.base.errors import GraphError
from offramp.core.frontier import cost_at, frontier, static_points
from offramp.core.graph import Costs, Graph, Stage
from offramp.core.trace import Trace, assemble
from offramp.learn.lesson import Rehearsals, Setup, Together
from offramp.learn.pool import Pool, edges_of
from offramp.learn.teach import FEW, TRIED_RULES, Ways, teach
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.notes import notes
from offramp.plan.plan import Plan
from offramp.policies import FAMILIES, policy_from_json, policy_to_json
from offramp.policies.features import BLOCKS
from offramp.policies.learned import Learned
from offramp.policies.regression import Ridge
from offramp.testing import seen_at, synthetic
from tests.made import different

CLASSES = 6


def pairs(examples: int, seed: int) -> Trace:
    """The small network is wrong where its two best classes are an even number apart.

    It is as sure of them as of others, and no class is more often wrong than another: only the pair
    tells, which is no sum of what either class says.
    """
    random = np.random.default_rng(seed)
    rows = np.arange(examples)
    first = random.integers(0, CLASSES, examples)
    second = (first + random.integers(1, CLASSES, examples)) % CLASSES
    right = (first + second) % 2 == 1
    labels = np.where(right, first, second)
    small = np.zeros((examples, CLASSES), np.float32)
    small[rows, first], small[rows, second] = 3.0, 2.0
    small += random.normal(size=small.shape).astype(np.float32) * 0.1
    large = 6.0 * (labels[:, None] == np.arange(CLASSES))
    costs = Costs({"small": 1.0, "large": 8.0}, {"small": 0.0, "large": 0.0}, "MFLOP")
    scores = {"small": small, "large": large.astype(np.float32)}
    return assemble(Graph.chain(scores), costs, scores, labels=labels, kind="logits")


def cost(trace: Trace, policy: str, learning: Trace, level: float = 0.0) -> float:
    """On other examples, at an excess loss, over the reference's."""
    points = frontier(trace, trace.losses(), FAMILIES[policy](learning, learning.losses()))
    alone = static_points(trace, trace.losses())[trace.graph.reference]
    return cost_at([*points, alone], level) / alone.cost


def test_a_small_network_decides_where_no_sum_of_observations_tells() -> None:
    learning, fresh = pairs(3000, 0), pairs(3000, 1)
    taught = teach(learning)
    assert taught.name == "network"
    assert cost(fresh, "network", learning) < cost(fresh, "learned", learning) - 0.1
    assert min(taught.held_out, key=lambda name: taught.held_out[name]) == "network"


def test_a_network_decides_alike_after_it_was_kept() -> None:
    learning = pairs(1000, 0)
    policy = Learned.fit(learning, learning.losses(), units=4)
    again = policy_from_json(policy_to_json(policy))
    seen = seen_at(learning.graph, learning, "small")
    np.testing.assert_array_equal(policy.evidence(seen), again.evidence(seen))
    assert again.kind == "network"


def test_hidden_units_are_what_their_weights_say() -> None:
    trace = synthetic(600, "abc", edges="a>b>c,a>c", classes=4)
    policy = Learned.fit(trace, trace.losses(), units=3)
    for stage, model in policy.models.items():
        seen = seen_at(trace.graph, trace, stage)
        phi, hidden = model.features(seen), model.hidden
        assert hidden is not None
        flat = model.weights.reshape(-1, model.weights.shape[-1])
        linear = flat[:, 0] + phi @ flat[:, 1:].T
        added = np.maximum(phi @ hidden.weights + hidden.bias, 0.0) @ hidden.out
        np.testing.assert_allclose(policy.evidence(seen), linear + added, atol=1e-9)


def test_the_linear_policy_decides_where_nothing_saves_a_point_of_cost() -> None:
    learning = synthetic(1200, ("small", "large"), seed=3)
    taught = teach(learning)
    others = {name: value for name, value in taught.held_out.items() if name != "learned"}
    assert taught.name == "learned"
    assert {*TRIED_RULES, "network"} == {*others}
    assert taught.held_out["learned"] < min(others.values()) + 0.01


def test_few_examples_teach_a_rule() -> None:
    taught = teach(synthetic(FEW - 1, ("small", "large")))
    assert taught.name == TRIED_RULES[0]
    assert taught.held_out == {}


def test_what_is_held_out_is_an_honest_forecast() -> None:
    """The cost foreseen where nothing is tested is the cost on other examples, within noise."""
    learning, fresh = (synthetic(4000, ("small", "large"), seed=seed) for seed in (5, 6))
    taught = teach(learning, Ways(committees=False, budgets=(0.01,)))
    points = frontier(fresh, fresh.losses(), taught.policy)
    alone = static_points(fresh, fresh.losses())["large"]
    found = cost_at([*points, alone], 0.01) / alone.cost
    assert abs(found - taught.held_out[taught.name]) < 0.05


def test_fit_says_what_it_tried() -> None:
    plan = fit(synthetic(3000), 0.02)
    assert {*TRIED_RULES, "learned"} <= {*plan.info["policies_tried"]}


# --- what learning learns from


@pytest.mark.parametrize("together", [False, True])
def test_expected_losses_have_the_mean_of_the_real_ones(together: bool) -> None:
    lesson = Ways(committees=together).lesson(different(2000))
    assert bool(lesson.committees) == together
    expected = expected_excess(lesson.trace, lesson.losses, np.arange(2000) % 5)
    for stage in lesson.trace.graph.order:
        assert abs(expected[stage].mean() - lesson.losses.excess(stage).mean()) < 5e-3


def test_blocks_of_noise_are_left_out() -> None:
    random = np.random.default_rng(0)
    phi = random.normal(size=(2000, 12))
    targets = phi[:, :1] + random.normal(size=(2000, 1))
    ridge = Ridge.tune(phi, targets, {"told": 2, "noise": 9, "more": 1})
    assert ridge.blocks == ("told",)
    assert (ridge.scales == [1, 1] + [0] * 10).all()
    assert (ridge.fit(phi, targets)[3:] == 0).all()


def test_blocks_that_are_left_out_are_not_looked_at() -> None:
    trace = synthetic(800, "abc")
    policy = Learned.fit(trace, trace.losses(), blocks=("gap", "earlier"))
    assert {*policy.models["b"].features.blocks} <= {"gap", "earlier"}
    everything = Learned.fit(trace, trace.losses())
    assert {*BLOCKS} >= {*everything.models["b"].features.blocks}


# --- who takes part


def candidates(examples: int, seed: int = 0) -> Trace:
    """Two good networks, a copy of the small one, and one that is dear and knows nothing."""
    trace = synthetic(examples, ("small", "large"), seed=seed)
    noise = np.random.default_rng(seed + 9).normal(size=trace.scores["small"].shape)
    copy = trace.scores["small"] + 0.3 * noise
    scores = {
        "useless": noise.astype(np.float32),
        "small": trace.scores["small"],
        "copy": copy.astype(np.float32),
        "large": trace.scores["large"],
    }
    costs = Costs(
        {"useless": 0.9, "small": 0.5, "copy": 0.6, "large": 3.0}, dict.fromkeys(scores, 0.0), "MAC"
    )
    return assemble(Graph.chain(scores), costs, scores, labels=trace.labels, kind="logits")


def graph_of(trace: Trace, **options: Any) -> Graph:
    return teach(trace, Ways(budgets=(0.02,), **options)).policy.graph


def test_those_take_part_who_save_and_the_cheaper_first() -> None:
    learning, fresh = candidates(1500), candidates(4000, 1)
    found = graph_of(learning)
    assert "useless" not in found.order
    assert found.order[0] == "small"
    assert found.order[-1] == "large"

    def reached(graph: Graph) -> float:
        trace = replace(learning, graph=graph)
        return cost(replace(fresh, graph=graph), "learned", trace, level=0.02)

    assert reached(found) < reached(learning.graph) - 0.05
    assert graph_of(learning, keep_stages=True) == learning.graph


TOGETHER: tuple[Together, ...] = ("none", "others", "all")


def test_growing_is_as_good_as_trying_every_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    learning, ways = candidates(1200), Ways(budgets=(0.02,))
    room = Rehearsals(learning, ways)

    def score(graph: Graph) -> float:
        return min(room.score(Setup(graph, t, FAMILIES["margin"])).cost for t in TOGETHER)

    pool = Pool(learning.graph)
    every = {names: pool.chain(names) for names in pool.subsets()}
    best = min(score(graph) for graph in every.values() if graph)
    monkeypatch.setattr("offramp.learn.teach.FEW_STAGES", 0)
    assert score(teach(learning, ways, "margin").policy.graph) < best + 0.01


@pytest.mark.parametrize("pool", [False, True])
def test_stages_of_one_network_follow_one_another(pool: bool) -> None:
    stages = (Stage("a1"), Stage("a2", after="a1"), Stage("b"), Stage("end", after="a2"))
    trace = synthetic(600, ("a1", "a2", "b", "end"), seed=2)
    graph = Graph(stages, (("a1", "a2"), ("a2", "b"), ("b", "end")), "end")
    costs = Costs({"a1": 1, "a2": 1, "b": 1.5, "end": 9}, dict.fromkeys(trace.scores, 0.1), "MAC")
    order = graph_of(replace(trace, graph=graph, costs=costs), pool=pool).order
    inside = [s in ("a1", "a2", "end") for s in order]
    assert not pool or inside == sorted(inside)
    assert order[-1] == "end"


EDGES = st.sets(st.sampled_from(["a>b", "a>c", "a>d", "b>c", "b>d", "c>d"]))


@given(EDGES, st.sets(st.sampled_from("abc")))
def test_graphs_that_may_be_chosen_go_where_the_given_edges_lead(
    edges: set[str], names: set[str]
) -> None:
    """Whoever is left out: a walk may come from a to b if it could by the stages left out."""
    try:
        given_graph = Graph.build("abcd", ",".join(sorted(edges)), "d")
    except GraphError:
        return
    pool = Pool(given_graph)
    names &= {*pool.others}
    taking = {*names, "d"}

    def leads(a: str, b: str) -> bool:
        after = given_graph.successors[a]
        return b in after or any(leads(c, b) for c in after if c not in taking)

    chain, whole = pool.chain(names), pool.whole(names)
    if chain:
        assert set(chain.order) == taking
        assert all(leads(a, b) for a, b in chain.edges)
        assert {*chain.edges, *pool.skips(chain)} >= {
            (a, b) for a, b in itertools.permutations(taking, 2) if leads(a, b)
        }
    if whole:
        assert {*whole.edges} == {
            (a, b) for a, b in itertools.permutations(whole.order, 2) if leads(a, b)
        }


def test_a_dropped_exit_leaves_its_body_where_others_need_it() -> None:
    """A deeper exit contains the shallower one's body; only the head goes."""
    stages = (Stage("e1"), Stage("e2", "e1"), Stage("end", "e2"))
    trace = candidates(1500)
    scores = {"e1": trace.scores["useless"], "e2": trace.scores["small"]}
    scores["end"] = trace.scores["large"]
    graph = Graph(stages, (("e1", "e2"), ("e2", "end")), "end")
    costs = Costs({"e1": 0.3, "e2": 0.3, "end": 3.0}, dict.fromkeys(scores, 0.1), "MAC")
    exits = assemble(graph, costs, scores, labels=trace.labels, kind="logits")
    found = teach(exits, Ways(budgets=(0.02,)))
    assert found.policy.graph.order == ("e2", "end")
    assert found.policy.graph.parts("e2") == ("e1", "e2", "e2.head")
    assert "with it" in found.dropped["e1"]


def test_a_dozen_candidates_with_skips_take_seconds() -> None:
    """Found on the processor's own clock, which neighbours do not disturb."""
    names = [f"n{i}" for i in range(12)]
    pairs = ",".join(f"{a}>{b}" for a, b in itertools.combinations(names, 2))
    trace = synthetic(1500, names, edges=pairs, seed=1)
    start = time.process_time()
    found = teach(trace, Ways(budgets=(0.02,)))
    assert time.process_time() - start < 40
    assert len(found.policy.graph.order) < 12


def test_a_plan_of_a_pool_runs_what_was_found(tmp_path: Path) -> None:
    plan = fit(candidates(4000), 0.03, pool=True)
    assert plan.routes
    assert plan.policy.graph.order[0] == "small"
    assert edges_of(plan.policy.graph) == plan.info["pool"]
    assert any("takes part" in note for note in notes(plan))
    plan.write(tmp_path / "plan")
    again = Plan.read(tmp_path / "plan")
    fresh = candidates(3000, 1)
    assert evaluate(again, fresh) == evaluate(plan, fresh)
    assert evaluate(plan, fresh).kept == "yes"


def test_a_pool_of_the_reference_alone_is_the_reference() -> None:
    trace = synthetic(200, ("large",))
    assert teach(trace).policy.graph.order == ("large",)
    assert fit(synthetic(300, ("large",)), 0.1).certificate.verdict == "keep the reference"
