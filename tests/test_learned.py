"""The learner, the tuned thresholds and the oracles against brute force on tiny problems."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.frontier import cost_at, excess_of, frontier, replay, static_points
from offramp.core.graph import Costs, Graph
from offramp.core.tasks import Excess, Losses
from offramp.core.trace import Trace, assemble
from offramp.policies import ExactOracle, Learned, SoftOracle
from offramp.policies.features import Features
from offramp.policies.rules import Threshold
from offramp.policies.thresholds import Thresholds, best_bands
from offramp.testing import seen_at, synthetic
from tests.made import prices
from tests.strategies import traces

EDGES = {"two": "a>b", "chain": "a>b>c", "skip": "a>b>c,a>c", "joined": "a>b>d,a>c>d"}


def paths(graph: Graph, stage: str) -> Iterator[tuple[str, ...]]:
    """Every walk from `stage` on, wherever it stops."""
    yield (stage,)
    for successor in graph.successors[stage]:
        for rest in paths(graph, successor):
            yield (stage, *rest)


def path_cost(trace: Trace, path: tuple[str, ...]) -> float:
    ran: dict[str, float] = {}
    for stage in path:
        ran |= prices(trace, stage)
    return sum(ran.values()) / trace.reference_cost


@given(traces(carries=True), st.sampled_from([1.0, 3.0, 50.0]))
def test_the_exact_oracle_is_the_best_of_all_paths(trace: Trace, tradeoff: float) -> None:
    losses = trace.losses()
    outcome = replay(trace, ExactOracle.fit(trace, losses), tradeoff)
    found = tradeoff * excess_of(outcome, losses) + outcome.cost / trace.reference_cost
    everything = list(paths(trace.graph, trace.graph.root))
    best = np.min(
        [tradeoff * losses.excess(p[-1]) + path_cost(trace, p) for p in everything], axis=0
    )
    np.testing.assert_allclose(found, best, rtol=1e-5)


@given(traces(carries=True))
def test_the_soft_oracle_stops_where_every_later_answer_is_right(trace: Trace) -> None:
    """By the cheapest way to such a stage, or to an end."""
    losses, graph = trace.losses(), trace.graph
    outcome = replay(trace, SoftOracle.fit(trace, losses), float("nan"))
    ways = list(paths(graph, graph.root))
    for row in range(trace.examples):
        right = {stage for stage in graph.order if losses.values[stage][row] == 0}
        onward = {s: {v for path in paths(graph, s) for v in path} for s in graph.order}
        stays = {s for s in graph.order if onward[s] <= right or not graph.successors[s]}
        cheapest = min(path_cost(trace, way) for way in ways if way[-1] in stays)
        assert outcome.order[outcome.stage[row]] in stays
        assert outcome.cost[row] / trace.reference_cost == pytest.approx(cheapest, rel=1e-5)


@given(st.integers(1, 4), st.integers(0, 7), st.integers(0, 100))
def test_bands_are_the_best_of_all_cuts(actions: int, n: int, seed: int) -> None:
    costs = np.random.default_rng(seed).integers(0, 5, (actions, n)).astype(float)
    ends = best_bands(costs)
    assert ends == sorted(ends)
    every = itertools.combinations_with_replacement(range(n + 1), actions - 1)
    best = min(_banded(costs, list(cuts)) for cuts in every)
    assert _banded(costs, ends) == pytest.approx(best)


def _banded(costs: FloatArray, ends: list[int]) -> float:
    edges = [0, *ends, costs.shape[1]]
    return float(
        sum(costs[a, start:stop].sum() for a, (start, stop) in enumerate(itertools.pairwise(edges)))
    )


# What a policy sees are a few distinct scores, so that the best policy can be enumerated. How sure
# a stage looks says, without fail, how often it errs.
SURENESS = (0.5, 2.0, 5.0)


def discrete(edges: str, seed: int, examples: int = 4000) -> Trace:
    """Two classes; every stage shows one of three logits, and errs less where it looks surer."""
    graph = Graph.build(sorted({n for e in edges.split(",") for n in e.split(">")}), edges)
    random = np.random.default_rng(seed)
    labels = random.integers(0, 2, examples)
    hard = random.random(examples)
    scores = {}
    for depth, stage in enumerate(graph.order):
        level = np.clip((hard * 3 + random.normal(size=examples) * 0.5).astype(int), 0, 2)
        sure = np.array(SURENESS)[2 - level]
        wrong = random.random(examples) < np.array([0.02, 0.15, 0.45])[level] / (1 + depth)
        answer = np.where(wrong, 1 - labels, labels)
        scores[stage] = np.where(answer[:, None] == np.arange(2), sure[:, None], 0.0)
    costs = {stage: (1.0, 2.0, 4.0, 9.0)[i] for i, stage in enumerate(graph.order)}
    return assemble(
        graph, Costs(costs, dict.fromkeys(costs, 0.0)), scores, labels=labels, kind="logits"
    )


def symbols(trace: Trace, stage: str) -> IntArray:
    """What a stage shows, numbered."""
    return np.unique(trace.scores[stage], axis=0, return_inverse=True)[1].reshape(-1)


def optimum(trace: Trace, losses: Losses, tradeoff: float) -> float:
    """The lowest mean of tradeoff * excess + cost of any table from the present scores to actions.

    By backward induction; with two stages it is the best of all policies.
    """
    graph, unit = trace.graph, trace.reference_cost
    ahead: dict[str, FloatArray] = {}
    for stage in reversed(graph.order):
        choices = [tradeoff * losses.excess(stage)]
        choices += [ahead[u] + trace.costs.body[u] / unit for u in graph.successors[stage]]
        values, seen = np.stack(choices), symbols(trace, stage)
        sums = np.stack([np.bincount(seen, weights=value) for value in values])
        ahead[stage] = values[sums.argmin(axis=0)[seen], np.arange(trace.examples)]
    return float(ahead[graph.root].mean() + trace.costs.body[graph.root] / unit)


def enumerated(trace: Trace, losses: Losses, tradeoff: float) -> float:
    """The same by trying every table of actions, for chains of two stages."""
    first, second = trace.graph.order
    seen = symbols(trace, first)
    stop = tradeoff * losses.excess(first)
    go = tradeoff * losses.excess(second) + trace.costs.body[second] / trace.reference_cost
    tables = itertools.product((0, 1), repeat=int(seen.max()) + 1)
    best = min(float(np.where(np.array(table)[seen], go, stop).mean()) for table in tables)
    return best + trace.costs.body[first] / trace.reference_cost


def reached(trace: Trace, losses: Losses, policy: Learned | Thresholds, tradeoff: float) -> float:
    setting = policy.settings[np.abs(policy.settings - tradeoff).argmin()]
    outcome = replay(trace, policy, float(setting))
    mean = excess_of(outcome, losses).mean(dtype=np.float64)
    return float(tradeoff * mean + outcome.cost.mean() / trace.reference_cost)


def test_backward_induction_agrees_with_trying_every_table() -> None:
    trace = discrete("a>b", 0, examples=300)
    losses = trace.losses()
    for tradeoff in (1.5, 5.0, 40.0):
        assert optimum(trace, losses, tradeoff) == pytest.approx(
            enumerated(trace, losses, tradeoff)
        )


@pytest.mark.parametrize("kind", ["net", "induced"])
@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
def test_the_learned_policy_is_close_to_the_optimum(edges: str, kind: Excess) -> None:
    trace, fresh = discrete(edges, 0), discrete(edges, 1)
    policy = Learned.fit(trace, trace.losses(None, kind))
    losses = fresh.losses(None, kind)
    allowed = 0.005 if edges == "a>b" else 0.05  # beyond two stages it is linear, a table is not
    for tradeoff in (2.0, 8.0, 30.0):
        best = optimum(fresh, losses, tradeoff)
        assert reached(fresh, losses, policy, tradeoff) <= best + allowed


def test_jointly_tuned_thresholds_are_close_to_the_optimum_of_a_chain() -> None:
    trace = discrete("a>b", 0)
    losses = trace.losses()
    policy = Thresholds.fit(trace, losses)
    for tradeoff in (2.0, 8.0, 30.0):
        best = optimum(trace, losses, tradeoff)
        assert reached(trace, losses, policy, tradeoff) <= best + 0.02


def test_folded_weights_are_the_weights_on_the_features() -> None:
    """What a walk computes compactly against the plain product with every feature."""
    trace = synthetic(300, "abc", classes=5)
    for stage in "ab":
        seen = seen_at(trace.graph, trace, stage)
        features = Features.fit(trace.graph, seen)
        phi = features(seen)
        weights = np.random.default_rng(0).normal(size=(3, 1 + phi.shape[1]))
        assert sum(features.blocks.values()) == phi.shape[1]
        np.testing.assert_allclose(
            features.fold(weights)(features.parts(seen)),
            weights[:, 0] + phi @ weights[:, 1:].T,
            atol=1e-9,
        )


@pytest.mark.parametrize("edges", ["a>b>c", "a>b>c,a>c"])
def test_one_class_of_decisions_gives_a_constant_policy(edges: str) -> None:
    trace = synthetic(300, "abc", edges=edges)
    same = dict.fromkeys(trace.graph.order, trace.scores["a"])
    alike = assemble(trace.graph, trace.costs, same, labels=trace.labels, kind="logits")
    policy = Learned.fit(alike, alike.losses())  # later stages never help: everyone stops
    for setting in policy.settings:
        assert replay(alike, policy, float(setting)).exits()["a"] == 1.0


def test_constant_scores_are_no_exception() -> None:
    graph = Graph.chain("ab")
    scores: Mapping[str, FloatArray] = {s: np.zeros((60, 3)) for s in "ab"}
    costs = Costs({"a": 1.0, "b": 2.0}, {"a": 0.0, "b": 0.0})
    trace = assemble(graph, costs, scores, labels=np.zeros(60, int), kind="logits")
    policy = Learned.fit(trace, trace.losses())
    assert replay(trace, policy, 10.0).exits()["a"] == 1.0


def test_specialists_are_found_where_confidence_misleads() -> None:
    """The small network answers half of the classes always surely, and mostly wrongly."""
    learning, fresh = specialist(0), specialist(1)
    losses = fresh.losses()
    alone = static_points(fresh, losses)["big"]
    learned = frontier(fresh, losses, Learned.fit(learning, learning.losses()))
    sure = frontier(fresh, losses, Threshold.fit("myopic", learning))
    learned_cost, sure_cost = (cost_at([*points, alone], 0.01) for points in (learned, sure))
    assert learned_cost < 0.8 * sure_cost


def specialist(seed: int) -> Trace:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 10, 3000)
    known = labels < 5
    answers = np.where(known, labels, random.integers(5, 10, 3000))
    sureness = np.where(known, random.uniform(0.5, 4, 3000), 4.0)
    small = sureness[:, None] * np.eye(10)[answers] + random.normal(size=(3000, 10)) * 0.2
    big = 6.0 * np.eye(10)[labels] + random.normal(size=(3000, 10)) * 0.5
    costs = Costs({"small": 1.0, "big": 5.0}, {"small": 0.0, "big": 0.0})
    scores = {"small": small, "big": big}
    graph = Graph.chain(scores)
    return assemble(graph, costs, scores, labels=labels, kind="logits")
