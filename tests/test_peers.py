"""Published policies against slow, obvious versions of their rules, and on data that is odd."""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import minimize

from offramp import cli
from offramp.answering.committees import with_committees
from offramp.base.arrays import FloatArray
from offramp.base.errors import PlanError
from offramp.core.frontier import area, excess_of, frontier, replay, static_points
from offramp.core.graph import Costs, Graph, Stage
from offramp.core.policy import TRADEOFFS, backbone
from offramp.core.rows import RowFacts
from offramp.core.tasks import Losses
from offramp.core.trace import Trace, assemble
from offramp.policies import FAMILIES, Deployable, policy_from_json, policy_to_json
from offramp.policies import gates as gates_module
from offramp.policies import thresholds as thresholds_module
from offramp.policies.alike import Alike
from offramp.policies.cascade_routing import Routing
from offramp.policies.logistic import logistic
from offramp.policies.thresholds import Thresholds
from offramp.testing import seen_at, synthetic
from tests.made import prices
from tests.strategies import traces
from tests.test_learned import paths

CHAIN = synthetic(400, "abc", classes=4, seed=1)
SKIPS = synthetic(400, "abcd", edges="a>b>d,a>c>d,a>d", classes=4, seed=2)
TIED = assemble(  # scores of few different values, so that many examples are equally sure
    CHAIN.graph,
    CHAIN.costs,
    {stage: np.round(scores / 2) for stage, scores in CHAIN.scores.items()},
    labels=CHAIN.labels,
    kind="logits",
)


def fitted(name: str, trace: Trace) -> Deployable:
    return FAMILIES[name](trace, trace.losses())


def highest(trace: Trace, stage: str) -> FloatArray:
    """The highest probability of every example, in an obvious way."""
    powers = np.exp(trace.scores[stage].astype(np.float64))
    return np.asarray((powers / powers.sum(axis=1, keepdims=True)).max(axis=1))


# ---------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("trace", [CHAIN, TIED], ids=["distinct", "tied"])
def test_exhaustive_is_the_best_of_all_combinations(
    monkeypatch: pytest.MonkeyPatch, trace: Trace
) -> None:
    monkeypatch.setattr(thresholds_module, "_COMBINATIONS", 36)
    trace = trace.take(np.arange(60))
    losses = trace.losses()
    points = [p for cuts in combinations(trace, 6) for p in [totals(trace, losses, cuts)]]
    found = frontier(trace, losses, Thresholds.exhaustive(trace, losses))
    for tradeoff in (0.0, 0.5, 2.0, 10.0, 300.0):
        best = min(tradeoff * lost + cost for lost, cost in points)
        unit = trace.reference_cost
        ours = min(tradeoff * p.excess_loss + p.cost / unit for p in found)
        assert ours == pytest.approx(best, abs=1e-6)


def combinations(trace: Trace, levels: int) -> Iterator[tuple[float, float]]:
    """All pairs of cuts at quantiles, the second among those that the first lets through."""
    first, second = (highest(trace, stage) for stage in "ab")
    for one in np.linspace(0, 1, levels):
        cut = np.inf if one == 1 else np.quantile(first, one) if one else 0.0
        left = second[first < cut]
        for two in np.linspace(0, 1, levels):
            inner = np.quantile(left, two) if len(left) and 0 < two < 1 else 0.0
            yield float(cut), float(np.inf if two == 1 or not len(left) else inner)


def totals(trace: Trace, losses: Losses, cuts: tuple[float, float]) -> tuple[float, float]:
    """Mean excess loss and cost of cuts at stages a and b, one example after the other."""
    lost = cost = 0.0
    sure = {stage: highest(trace, stage) for stage in "ab"}
    for row in range(trace.examples):
        at = "a" if sure["a"][row] >= cuts[0] else "b" if sure["b"][row] >= cuts[1] else "c"
        lost += float(losses.excess(at)[row])
        cost += sum(
            trace.costs.body[stage] for stage in "abc"["abc".index("a") : "abc".index(at) + 1]
        )
    return lost / trace.examples, cost / trace.examples / trace.reference_cost


def test_windows_beat_thresholds_where_the_least_sure_are_hopeless() -> None:
    learning, fresh = hopeless(0), hopeless(1)
    found = {name: reached(fresh, fitted(name, learning)) for name in ("window", "thresholds")}
    assert (found["window"] <= found["thresholds"] + 1e-6).all()
    assert found["window"][1] < found["thresholds"][1] - 0.3


def hopeless(seed: int) -> Trace:
    """The big network errs where the small one does if that is least sure."""
    random = np.random.default_rng(seed)
    sure, labels = random.random(2000) * 4, random.integers(0, 2, 2000)
    small = (sure < 3) & (random.random(2000) < 0.5)
    big = small & (sure < 2)
    scores = {
        name: np.where((labels ^ wrong.astype(int))[:, None] == np.arange(2), sure[:, None], 0.0)
        for name, wrong in (("small", small), ("big", big))
    }
    costs = Costs({"small": 1.0, "big": 9.0}, {"small": 0.0, "big": 0.0})
    return assemble(Graph.chain(scores), costs, scores, labels=labels, kind="logits")


def reached(trace: Trace, policy: Deployable) -> FloatArray:
    """`excess loss * tradeoff + cost` at some tradeoffs, relative to the reference's cost."""
    losses, found = trace.losses(), []
    for tradeoff in policy.settings[[10, 30, 50]]:
        outcome = replay(trace, policy, float(tradeoff))
        mean = excess_of(outcome, losses).mean(dtype=np.float64)
        found.append(tradeoff * mean + outcome.cost.mean() / trace.reference_cost)
    return np.array(found)


def test_a_window_is_left_out_where_it_does_not_pay_held_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learning, fresh = (synthetic(n, "abcd", seed=seed) for n, seed in ((500, 0), (4000, 100)))
    window, plain = (areas(fresh, fitted(name, learning)) for name in ("window", "thresholds"))
    assert window <= plain + 0.01
    monkeypatch.setattr(
        thresholds_module, "_held_out", lambda *given: np.full(len(TRADEOFFS), -float(given[-1]))
    )
    assert areas(fresh, fitted("window", learning)) > plain + 0.05  # else this says nothing


def areas(trace: Trace, policy: Deployable) -> float:
    losses = trace.losses()
    alone = static_points(trace, losses)[trace.graph.reference]
    return area([*frontier(trace, losses, policy), alone], trace.reference_cost)


def test_exit_shares_come_out_as_asked() -> None:
    trace = synthetic(1000, "abcd", seed=3)
    policy = fitted("msdnet", trace)
    for ratio in map(float, policy.settings):
        asked = ratio ** np.arange(4.0)
        exits = replay(trace, policy, ratio).exits()
        for stage, share in zip("abcd", asked / asked.sum(), strict=True):
            assert exits[stage] == pytest.approx(share, abs=0.004)


@pytest.mark.parametrize("trace", [CHAIN, TIED], ids=["distinct", "tied"])
def test_a_greedy_cut_is_the_lowest_within_the_tolerance(trace: Trace) -> None:
    losses, policy = trace.losses(), fitted("greedy", trace)
    assert isinstance(policy, Thresholds)
    for stage in "ab":
        sure = policy.evidence(seen_at(trace.graph, trace, stage))[:, 0]
        accuracy = {
            cut: 1 - float(losses.values[stage][sure >= cut].mean(dtype=np.float64))
            for cut in sorted(sure)
            if (sure >= cut).sum() >= trace.examples / 50
        }
        for at, setting in enumerate(policy.settings):
            allowed = max(accuracy.values()) - (1 - setting) - 1e-9
            lowest = min(cut for cut, right in accuracy.items() if right >= allowed)
            assert policy.cuts[stage][at, 0] == pytest.approx(lowest, abs=1e-9)


@pytest.mark.parametrize("trace", [CHAIN, TIED], ids=["distinct", "tied"])
def test_earlyon_lowers_one_cut_after_the_other_as_far_as_accuracy_lets_it(trace: Trace) -> None:
    losses, policy = trace.losses(), fitted("earlyon", trace)
    assert isinstance(policy, Thresholds)
    grid = (0.99, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
    for at in range(0, len(policy.settings), 7):
        cuts = {"a": np.inf, "b": np.inf}
        for stage in "ab":
            kept = [
                cut
                for cut in grid
                if totals(trace, losses, tuple(({**cuts, stage: cut}).values()))[0]  # type: ignore[arg-type]
                <= 1 - policy.settings[at] + 1e-9
            ]
            cuts[stage] = min(kept, default=np.inf)
        assert {stage: policy.cuts[stage][at, 0] for stage in "ab"} == cuts


def test_apparate_climbs_as_far_as_agreement_lets_it_and_gets_cheaper() -> None:
    trace = synthetic(600, "abcd", seed=5)
    policy, answers = fitted("apparate", trace), {s: trace.scores[s].argmax(axis=1) for s in "abcd"}
    costs = []
    for setting in map(float, policy.settings):
        outcome = replay(trace, policy, setting)
        said = np.choose(outcome.stage, [answers[s] for s in "abcd"])
        assert (said != answers["d"]).mean() <= 1 - setting + 1e-9
        costs.append(float(outcome.cost.mean()))
    assert (np.diff(costs) < 1e-9).mean() > 0.9  # it may climb into another corner
    assert costs[-1] < 0.7 * costs[0]


def test_zero_time_waste_answers_with_ensembles_and_repairs_classes() -> None:
    """A network that is partial to a class is right again, and errors of two average out."""
    learning, fresh = partial_to_a_class(0), partial_to_a_class(1)
    policy, together = FAMILIES["zero-time-waste"].answering(learning, "top1")
    assert all(together[stage].biases for stage in "ab")
    assert together["b"].stages == ("a", "b")
    spoken = with_committees(fresh, together)
    before, after = fresh.losses(), spoken.losses()
    for stage in "ab":
        assert after.values[stage].mean() < before.values[stage].mean() - 0.03
    least = {
        "alone": frontier(fresh, before, fitted("zero-time-waste", learning)),
        "together": frontier(spoken, after, policy),
    }
    found = {how: min(point.excess_loss for point in points) for how, points in least.items()}
    assert found["together"] < found["alone"] - 0.1


def partial_to_a_class(seed: int) -> Trace:
    """Two networks that err apart, each of which says the first class too often."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, 2000)
    scores = {}
    for name in "ab":
        scores[name] = random.normal(size=(2000, 3)) * 1.5 + 2.0 * (labels[:, None] == np.arange(3))
        scores[name][:, 0] += 1.5
    costs = Costs({"a": 1.0, "b": 4.0}, {"a": 0.0, "b": 0.0})
    return assemble(Graph.chain("ab"), costs, scores, labels=labels, kind="logits")


@pytest.mark.parametrize("kind", ["window", "window-pair"])
def test_windows_answer_with_all_that_has_run_where_that_loses_no_more(kind: str) -> None:
    trace = partial_to_a_class(2)
    chain = replace(
        trace,
        graph=Graph.chain("abc"),
        costs=Costs({"a": 1.0, "b": 4.0, "c": 9.0}, dict.fromkeys("abc", 0.0)),
        scores={**trace.scores, "c": trace.scores["b"]},
        kinds={**trace.kinds, "c": trace.kinds["b"]},
    )
    policy, together = FAMILIES[kind].answering(chain, "top1")
    assert together["c"].stages == (("a", "b", "c") if kind == "window" else ("a", "c"))
    assert policy.graph.order == together["c"].stages
    hopeless_ = replace(chain, scores={**chain.scores, "a": -chain.scores["a"]})
    assert FAMILIES[kind].answering(hopeless_, "top1")[1].get("b") is None


# ------------------------------------------------------------------------------------- rules


@pytest.mark.parametrize("kind", ["patience", "agreement"])
def test_votes_are_counted_one_by_one(kind: str) -> None:
    trace = synthetic(200, "abcde", classes=3, seed=4)
    policy = Alike.fit(kind, trace)
    for wanted in range(1, len(policy.graph.order) + 1):
        outcome = replay(trace, policy, float(wanted))
        for row in range(trace.examples):
            answers: list[int] = []
            for stage in policy.graph.order:
                answers.append(int(trace.scores[stage][row].argmax()))
                recent = answers[-wanted:] if kind == "patience" else answers
                if len(recent) >= wanted and len(set(recent)) == 1:
                    break
            assert outcome.stage[row] == len(answers) - 1


# ------------------------------------------------------------------------------------- gates


def statistics(scores: FloatArray) -> list[float]:
    """What gates look at, of one example, from logits, with nothing but loops."""
    powers = [math.exp(float(v) - float(scores.max())) for v in scores]
    p = [power / sum(powers) for power in powers]
    squares = [v * v / sum(w * w for w in p) for v in p]
    first, second = sorted(p)[-1], sorted(p)[-2]
    others = sum(sorted(p)[:-1])
    entropy, sharp = (sum(v * math.log(max(v, 1e-13)) for v in q) for q in (p, squares))
    return [first, first - second, entropy, sharp, -math.log(max(others, 1e-6)), *p]


@pytest.mark.parametrize("name", ["eenet", "jei-dnn"])
@pytest.mark.parametrize("trace", [CHAIN, SKIPS], ids=["chain", "skips"])
def test_gates_decide_as_their_weights_say(name: str, trace: Trace) -> None:
    value = json.loads(json.dumps(policy_to_json(fitted(name, trace))))
    policy = policy_from_json(value)
    for at in (5, 20, 40):
        outcome = replay(trace, policy, value["settings"][at])
        stages = [by_gates(value, trace, row, at) for row in range(100)]
        assert [policy.graph.order[s] for s in outcome.stage[:100]] == stages
        assert at != 20 or len(set(stages)) > 1


def by_gates(value: Mapping[str, Any], trace: Trace, row: int, at: int) -> str:
    """Where one example stops, from the JSON of a policy."""
    chain, known, answers = backbone(trace.graph).order, list[float](), list[int]()
    for stage in chain[:-1]:
        answers.append(int(trace.scores[stage][row].argmax()))
        looks = statistics(trace.scores[stage][row])
        gate = value["weights"][stage]
        if value["kind"] == "eenet":
            looks += [answers.count(answers[-1]) / len(answers), *known]
            weights = gate[0]
        else:
            looks, weights = looks[:5], gate[at]
        score = weights[0] + sum(w * x for w, x in zip(weights[1:], looks, strict=True))
        known.append(score)
        cut = value["cuts"][stage][at][0]
        if cut is not None and score >= cut:
            return stage
    return chain[-1]


@pytest.mark.parametrize("rounds", [1, 2])
def test_gates_are_trained_on_those_that_come(monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """Examples that stop before a gate must not teach it; with one round they do."""
    monkeypatch.setattr(gates_module, "_ROUNDS", rounds)
    policy = fitted("jei-dnn", misleading())
    fresh = misleading(1)
    tradeoff = float(policy.settings[np.abs(policy.settings - 6).argmin()])
    comes = replay(fresh, policy, tradeoff).exits()["a"] < 0.75
    assert comes
    outcome = replay(fresh, policy, tradeoff)
    last = outcome.stage[fresh.info["hard"]] == 2  # what needs the last stage
    assert (last.mean() > 0.9) == (rounds == 2)


def misleading(seed: int = 0) -> Trace:
    """Two in three are settled at a, and look at b like the others, which only c gets right."""
    random = np.random.default_rng(seed)
    labels, hard = random.integers(0, 2, 3000), random.random(3000) < 1 / 3
    wrong = hard & (random.random(3000) < 0.5)
    said = {"a": wrong, "b": wrong, "c": np.zeros(3000, bool)}
    sure = {"a": np.where(hard, 0.5, 4.0), "b": np.full(3000, 2.0), "c": np.full(3000, 5.0)}
    sure["b"] = sure["b"] + random.normal(size=3000) * 0.1
    scores = {
        stage: np.where((labels ^ said[stage])[:, None] == np.arange(2), sure[stage][:, None], 0.0)
        for stage in "abc"
    }
    costs = Costs({"a": 1.0, "b": 1.0, "c": 8.0}, dict.fromkeys("abc", 0.0))
    info = {"hard": hard}
    return assemble(Graph.chain("abc"), costs, scores, labels=labels, kind="logits", info=info)


def test_logistic_regression_is_the_optimum_of_its_penalised_likelihood() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 3)) * [1.0, 5.0, 0.1] + 2
    chance = np.round(1 / (1 + np.exp(-x[:, 0] + 0.3 * x[:, 1])), 1)
    weight, scale = random.random(200), np.array([1.0, 0.1, 1.0])
    found = logistic(x, chance, weight, scale)
    z = (x - x.mean(axis=0)) / x.std(axis=0) * scale
    sides = (weight * chance > 0).sum() + (weight * (1 - chance) > 0).sum()
    mass = weight * sides / weight.sum()

    def worth(w: FloatArray) -> float:
        logits = w[0] + z @ w[1:]
        lost = chance * np.logaddexp(0, -logits) + (1 - chance) * np.logaddexp(0, logits)
        return float((mass * lost).sum() + (w[1:] ** 2).sum() / 2)

    best = minimize(worth, np.zeros(4), tol=1e-10).x
    np.testing.assert_allclose(found[0] + x @ found[1:], best[0] + z @ best[1:], atol=2e-3)


# ----------------------------------------------------------------------------------- routing


@given(traces(carries=True))
@settings(max_examples=60)
def test_routing_knows_every_target_and_the_cheapest_way_to_it(trace: Trace) -> None:
    policy = fitted("cascade-routing", trace)
    assert isinstance(policy, Routing)
    for stage in trace.graph.order:
        ran = {part for seen in trace.graph.observed[stage] for part in prices(trace, seen)}
        ways: dict[str, list[tuple[float, int]]] = {}
        for path in paths(trace.graph, stage):
            paid = {p: c for s in path[1:] for p, c in prices(trace, s).items() if p not in ran}
            after = trace.graph.successors[stage]
            first = after.index(path[1]) + 1 if len(path) > 1 else 0
            ways.setdefault(path[-1], []).append((sum(paid.values()), first))
        targets = sorted(ways, key=trace.graph.order.index)
        assert len(policy.costs[stage]) == len(targets)
        for cost, action, target in zip(
            policy.costs[stage] * trace.reference_cost, policy.actions[stage], targets, strict=True
        ):
            cheapest = min(way for way, _ in ways[target])
            assert cost == pytest.approx(cheapest, abs=1e-9)
            assert any(
                number == action and way == pytest.approx(cheapest, abs=1e-9)
                for way, number in ways[target]
            )


@pytest.mark.parametrize("trace", [CHAIN, SKIPS], ids=["chain", "skips"])
def test_routing_takes_the_target_that_is_worth_most(trace: Trace) -> None:
    value = json.loads(json.dumps(policy_to_json(fitted("cascade-routing", trace))))
    policy = policy_from_json(value)
    for at in (5, 20, 40):
        tradeoff = value["settings"][at]
        outcome = replay(trace, policy, tradeoff)
        stages = [by_routing(value, trace, row, tradeoff) for row in range(100)]
        assert [outcome.order[s] for s in outcome.stage[:100]] == stages
        assert at != 20 or len(set(stages)) > 1


def by_routing(value: Mapping[str, Any], trace: Trace, row: int, tradeoff: float) -> str:
    """Where one example stops, from the JSON of a policy."""
    at = trace.graph.root
    while after := [b for b in trace.graph.order if (at, b) in trace.graph.edges]:
        seen = trace.graph.observed[at]
        looks = [x for stage in seen for x in statistics(trace.scores[stage][row])]
        answers = [trace.scores[stage][row].argmax() for stage in seen]
        looks += [float(answer == answers[-1]) for answer in answers[:-1]]
        best, action = -math.inf, 0
        for weights, first, cost in zip(
            *(value[n][at] for n in ("weights", "actions", "costs")), strict=True
        ):
            z = weights[0] + sum(w * x for w, x in zip(weights[1:], looks, strict=True))
            quality = 1 - 1 / (1 + math.exp(-z))
            if tradeoff * quality - cost > best:
                best, action = tradeoff * quality - cost, first
        if action == 0:
            return at
        at = after[action - 1]
    return at


def test_routing_counts_what_the_losses_count() -> None:
    """Gains make up for no loss where only induced losses count."""
    net, induced = (
        Routing.fit(CHAIN, CHAIN.losses(None, kind)).evidence(seen_at(CHAIN.graph, CHAIN, "a"))
        for kind in ("net", "induced")
    )
    losses = CHAIN.losses(None, "induced")
    for at, stage in enumerate("abc"):
        lost, excess = losses.values[stage].mean(), losses.excess(stage).mean()
        assert net[:, at].mean() == pytest.approx(lost, abs=0.01)
        assert induced[:, at].mean() == pytest.approx(excess, abs=0.01)


# ------------------------------------------------------------------------------------ odd data


def odd(kind: str) -> Trace:
    """Data on which careless learners divide by zero or see one class."""
    few = synthetic(40, "abc", classes=4, seed=3)
    chain, costs, labels = few.graph, few.costs, np.asarray(few.labels)
    if kind == "constant scores":
        scores = {stage: np.zeros((40, 4)) for stage in "abc"}
        return assemble(chain, costs, scores, labels=labels, kind="logits")
    if kind == "one label":
        return assemble(chain, costs, few.scores, labels=np.zeros(40, int), kind="logits")
    if kind in ("always right", "always wrong"):
        target = labels if kind == "always right" else (labels + 1) % 4
        scores = {stage: 9.0 * np.eye(4)[target] for stage in "abc"}
        return assemble(chain, costs, scores, labels=labels, kind="logits")
    if kind == "all alike":
        same = dict.fromkeys("abc", few.scores["a"])
        return assemble(chain, costs, same, labels=labels, kind="logits")
    if kind == "certain":  # probabilities of exactly 0 and 1
        scores = {stage: np.eye(4)[found.argmax(axis=1)] for stage, found in few.scores.items()}
        return assemble(chain, costs, scores, labels=labels)
    if kind == "impossible classes":
        scores = {s: np.where(np.arange(4) == 3, -1e4, found) for s, found in few.scores.items()}
        return assemble(chain, costs, scores, labels=labels % 3, kind="logits")
    if kind == "carries":
        graph = Graph(
            (Stage("a"), Stage("b", "a"), Stage("c", "b", ("a",))),
            (("a", "b"), ("a", "c"), ("b", "c")),
            "c",
        )
        return assemble(graph, costs, few.scores, labels=labels, kind="logits")
    if kind == "own loss":
        loss = {stage: np.linspace(0, 1 - 0.3 * i, 40) for i, stage in enumerate("abc")}
        return assemble(chain, costs, few.scores, facts=RowFacts(loss=loss), kind="logits")
    return {
        "one stage": lambda: synthetic(40, "a", classes=4),
        "one example": lambda: synthetic(1, "abc", classes=4),
        "joined branches": lambda: synthetic(40, "abcde", edges="a>b>d,a>c>d>e", classes=4),
        "skips": lambda: synthetic(40, "abcd", edges="a>b>c>d,a>c,a>d,b>d", classes=4),
        "two classes": lambda: synthetic(40, "abc", classes=2),
        "many classes": lambda: synthetic(40, "abc", classes=80),
    }[kind]()


ODD = (
    *("constant scores", "one label", "always right", "always wrong", "all alike", "certain"),
    *("impossible classes", "carries", "own loss", "one stage", "one example"),
    *("joined branches", "skips", "two classes", "many classes"),
)


NEEDS_MORE = {
    ("learned", "one example"),
    ("network", "one example"),
}  # `offramp.promise.split.FEWEST`
ODD_FOR_EACH = sorted({(name, kind) for name in FAMILIES for kind in ODD} - NEEDS_MORE)


@pytest.mark.parametrize(("name", "kind"), ODD_FOR_EACH)
def test_odd_data_are_no_exception(name: str, kind: str) -> None:
    trace = odd(kind)
    policy = fitted(name, trace)
    loaded = policy_from_json(json.loads(json.dumps(policy_to_json(policy), allow_nan=False)))
    for setting in map(float, policy.settings[:: max(1, len(policy.settings) // 5)]):
        one, other = (replay(trace, found, setting) for found in (policy, loaded))
        assert (one.stage == other.stage).all()
        assert np.isfinite(one.cost).all()


@pytest.mark.parametrize("name", ["thresholds", "window", "eenet", "jei-dnn", "cascade-routing"])
def test_what_no_later_stage_answers_better_stops_at_once(name: str) -> None:
    for kind in ("constant scores", "all alike", "always right"):
        trace = odd(kind)
        policy = fitted(name, trace)
        assert replay(trace, policy, float(policy.settings[-1])).exits()["a"] == 1.0


@pytest.mark.parametrize("trace", [CHAIN, SKIPS, odd("carries"), odd("one stage")])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_forced_policies_do_as_they_are_told(name: str, trace: Trace) -> None:
    policy = fitted(name, trace)
    for goes_on in (False, True):
        found, setting = policy.forced(goes_on=goes_on)
        outcome = replay(trace, found, setting)
        wanted = backbone(trace.graph).order[-1 if goes_on else 0]
        assert outcome.exits()[wanted] == 1.0


# ------------------------------------------------------------------------------------ damage

Spoil = Callable[[dict[str, Any]], object]


def _cut(name: str, stage: str = "b") -> Spoil:
    return lambda value: value[name][stage].pop()


def _put(name: str, new: object) -> Spoil:
    return lambda value: value[name].update(b=new)


def _first(name: str, new: object) -> Spoil:
    def spoil(value: dict[str, Any]) -> None:
        value[name]["b"][0] = new

    return spoil


LEARNERS = ("learned", "network")


def _model(change: Spoil, *, part: str | None = None) -> Spoil:
    """Changes what the second stage has learned, or a part of it."""

    def spoil(value: dict[str, Any]) -> None:
        model = value["models"]["b"]
        change(model[part] if part else model)

    return spoil


DAMAGE: Mapping[str, tuple[tuple[str, ...], Spoil]] = {
    "no kind": (tuple(FAMILIES), lambda value: value.pop("kind")),
    "another kind": (tuple(FAMILIES), lambda value: value.update(kind="magic")),
    "no settings": (tuple(FAMILIES), lambda value: value.update(settings=[])),
    "settings are words": (tuple(FAMILIES), lambda value: value.update(settings=["a"])),
    "no cuts": (("window", "msdnet", "eenet", "jei-dnn"), lambda value: value.pop("cuts")),
    "a stage less": (("exhaustive", "greedy", "eenet"), lambda value: value["cuts"].pop("b")),
    "a setting less": (("thresholds", "window", "msdnet", "eenet", "jei-dnn"), _cut("cuts")),
    "cuts are words": (("greedy", "eenet"), _first("cuts", ["x"])),
    "cuts too wide": (("greedy", "jei-dnn"), _put("cuts", [[0.1] * 4] * 60)),
    "no weights": (("eenet", "jei-dnn", "cascade-routing"), lambda value: value.pop("weights")),
    "a gate less": (("jei-dnn", "eenet", "cascade-routing"), _cut("weights")),
    "weights too short": (("eenet", "cascade-routing"), _put("weights", [[0.0, 1.0]])),
    "weights unequal": (("jei-dnn", "cascade-routing"), _first("weights", [0.0])),
    "a weight missing": (("eenet",), lambda value: value["weights"]["b"][0].__setitem__(2, None)),
    "an action too far": (("cascade-routing",), _put("actions", [0, 7])),
    "no stopping": (("cascade-routing",), _put("actions", [1, 1])),
    "a cost less": (("cascade-routing",), _cut("costs")),
    "a cost below zero": (("cascade-routing",), _put("costs", [0.0, -1.0])),
    "a tradeoff of zero": (LEARNERS, lambda value: value.update(settings=[1.0, 0.0])),
    "a model less": (LEARNERS, lambda value: value["models"].pop("b")),
    "a model too many": (LEARNERS, lambda value: value["models"].update(z=value["models"]["a"])),
    "models are null": (LEARNERS, lambda value: value["models"].update(b=None)),
    "a weight is null": (LEARNERS, _model(lambda m: m["loss"][0][1].__setitem__(0, None))),
    "a cost is infinite": (LEARNERS, _model(lambda m: m["cost"][0][0].__setitem__(0, math.inf))),
    "a weight less": (
        LEARNERS,
        _model(lambda m: m.update(loss=[[basis[:-1] for basis in m["loss"][0]]])),
    ),
    "a successor more": (LEARNERS, _model(lambda m: m.update(cost=m["cost"] * 2))),
    "no successor": (LEARNERS, _model(lambda m: m.update(loss=[]))),
    "a basis less": (LEARNERS, _model(lambda m: m["loss"][0].pop())),
    "a mean less": (LEARNERS, _model(lambda m: m["mean"].pop(), part="features")),
    "a scale less": (LEARNERS, _model(lambda m: m["scale"].pop(), part="features")),
    "a scale of zero": (
        LEARNERS,
        _model(lambda m: m["scale"].__setitem__(0, 0.0), part="features"),
    ),
    "a size more": (LEARNERS, _model(lambda m: m["sizes"].append(4), part="features")),
    "a size is null": (
        LEARNERS,
        _model(lambda m: m["sizes"].__setitem__(0, None), part="features"),
    ),
    "a unit of features less": (LEARNERS, _model(lambda m: m["weights"].pop(), part="features")),
    "a bias of features less": (LEARNERS, _model(lambda m: m["bias"].pop(), part="features")),
    "a block unknown": (LEARNERS, _model(lambda m: m["blocks"].append("mood"), part="features")),
    "a block less": (LEARNERS, _model(lambda m: m["blocks"].pop(0), part="features")),
    "blocks are a word": (LEARNERS, _model(lambda m: m.update(blocks="margin"), part="features")),
    "other stages": (LEARNERS, _model(lambda m: m.update(stages=["b", "a"]), part="features")),
    "classes are no number": (LEARNERS, _model(lambda m: m.update(classes="4"), part="features")),
    "a class less": (
        LEARNERS,
        _model(lambda m: m.update(classes=3, blocks=["margin", "answer"]), part="features"),
    ),
    "hidden units lost": (("network",), _model(lambda m: m.pop("hidden"))),
    "hidden units are null": (("network",), _model(lambda m: m.update(hidden=None))),
    "hidden units in a line": (("learned",), lambda value: value.update(kind="network")),
    "a line in hidden units": (("network",), lambda value: value.update(kind="learned")),
    "a unit less": (("network",), _model(lambda m: m["bias"].pop(), part="hidden")),
    "a hidden feature less": (("network",), _model(lambda m: m["weights"].pop(), part="hidden")),
    "an output less": (
        ("network",),
        _model(lambda m: m.update(out=[row[:-1] for row in m["out"]]), part="hidden"),
    ),
    "a hidden weight is null": (
        ("network",),
        _model(lambda m: m["out"][0].__setitem__(0, None), part="hidden"),
    ),
}


@pytest.mark.parametrize(
    ("name", "how"), [(name, how) for how, (names, _) in DAMAGE.items() for name in names]
)
def test_damaged_policies_are_refused(name: str, how: str) -> None:
    value = copy.deepcopy(WHOLE[name])
    policy_from_json(value)
    DAMAGE[how][1](value)
    with pytest.raises(PlanError) as caught:
        policy_from_json(value)
    assert "\n" not in str(caught.value)


WHOLE = {name: policy_to_json(fitted(name, CHAIN)) for name in FAMILIES}


# -------------------------------------------------------------------------- the command line


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_policy_is_fitted_by_its_name(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    CHAIN.write(tmp_path / "trace")
    given = ["fit", tmp_path / "trace", "--budget", 0.2, "--policy", name, "--out", tmp_path / "p"]
    monkeypatch.setattr(sys, "argv", ["offramp", *map(str, given)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert json.loads((tmp_path / "p" / "plan.json").read_text())["policy"]["kind"] == name


def test_compare_shows_every_policy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    CHAIN.write(tmp_path / "trace")
    monkeypatch.setattr(sys, "argv", ["offramp", "compare", str(tmp_path / "trace"), "--json"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    assert set(json.loads(capsys.readouterr().out)["policies"]) == {"auto", *FAMILIES, "uniform"}


def test_the_table_of_policies_names_them_all() -> None:
    text = (Path(__file__).parents[1] / "docs" / "policies.md").read_text()
    named = {line.split("|")[1].strip().strip("`") for line in text.splitlines() if "|" in line}
    assert set(FAMILIES) <= named
