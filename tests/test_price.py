"""One network has one price, wherever it is counted, written or exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.base.errors import CostError
from offramp.command.answers import stream
from offramp.core.frontier import replay, static_points
from offramp.core.graph import Costs, Graph, head, whole
from offramp.core.trace import Trace
from offramp.exits import ExitOptions, add_exits
from offramp.export import write_file, write_folder
from offramp.export.itinerary import Itinerary
from offramp.learn.latency import Latency
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks, combine
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.policies import Static
from offramp.recording.measure import stage_costs
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime, Routed, SingleFile
from offramp.study.bench import Contest, bench
from offramp.study.compare import compare
from tests.made import deep_network, hard_blobs
from tests.strategies import amounts, traces

BODY = {"small-exit1": 1.0, "small": 1.0, "big-exit1": 8.0, "big": 8.0}
HEAD = {"small-exit1": 5.0, "small": 0.0, "big-exit1": 0.5, "big": 0.0}
WHOLE = {"small": 1.5, "big": 14.0}
BATCH = 4


@dataclass(frozen=True)
class Made:
    """Two networks, each with an exit, and what they say of examples that learn and certify."""

    networks: Networks
    learning: Trace
    certifying: Trace
    data: Path  # that certify

    def at(self, costs: Costs) -> Made:
        learning, certifying = (replace(t, costs=costs) for t in (self.learning, self.certifying))
        return replace(self, learning=learning, certifying=certifying)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("price")
    for part, seed in (("train", 1), ("learn", 2), ("certify", 3)):
        x, y = hard_blobs(1200, seed)
        np.savez(folder / f"{part}.npz", x=x, y=y)
    train = open_examples(folder / "train.npz")
    for name, layers in (("small", 2), ("big", 3)):
        network = deep_network(folder / f"{name}.onnx", layers)
        exits = add_exits(network, train, ExitOptions(at=["hidden1"]), folder / f"{name}-parts")
        exits.networks.write(folder / name)
    networks = combine({"small": folder / "small", "big": folder / "big"})
    runtime = OnnxRuntime(networks.files, networks.graph)
    learning, certifying = (
        record(
            networks,
            runtime,
            open_examples(folder / f"{p}.npz"),
            folder / p,
            RecordOptions(batch=100),
        )
        for p in ("learn", "certify")
    )
    return Made(networks, learning, certifying, folder / "certify.npz")


def given_costs(uncut: bool) -> Costs:
    return Costs(BODY, HEAD, "unit", whole=WHOLE if uncut else {})


def request_times(uncut: bool) -> Latency:
    """Seconds of requests: what any takes, and so much a row."""
    rates = {**BODY, **{head(name): cost for name, cost in HEAD.items() if cost}}
    rates |= {whole(name): cost for name, cost in WHOLE.items()} if uncut else {}
    parts = {part: {n: 0.1 + rate * n for n in (1, 2, 4)} for part, rate in rates.items()}
    return Latency(
        batch=BATCH, parts=parts, stop=dict.fromkeys((1, 2, 4), 0.4), source="measured at batch 4"
    )


def planned(made: Made, budget: float, uncut: bool, timed: bool) -> Plan:
    priced = made if timed else made.at(given_costs(uncut))  # requests take measured seconds
    return fit(
        priced.learning,
        budget,
        policy="margin",
        committees=False,
        certify_on=priced.certifying,
        networks=made.networks,
        prices=request_times(uncut) if timed else None,
    )


PRICES: Mapping[str, Callable[[Plan, Made, Path], float]] = {
    "evaluate": lambda plan, made, folder: evaluate(plan, made.certifying).cost,
    "run": lambda plan, made, folder: mean_of_run(plan, made),
    "one file": lambda plan, made, folder: mean_of_file(plan, made, folder),
    "a file per stage": lambda plan, made, folder: mean_of_folder(plan, made, folder),
}


def mean_of_run(plan: Plan, made: Made) -> float:
    runtime = OnnxRuntime(plan.runnable(), plan.graph)
    costs = [
        answers.column("cost").to_numpy()
        for _, answers in stream(plan, runtime, open_examples(made.data), 50)
    ]
    return float(np.concatenate(costs).mean())


def mean_of_file(plan: Plan, made: Made, folder: Path) -> float:
    write_file(plan, folder / "plan.onnx")
    x = np.load(made.data)["x"]
    return float(SingleFile(folder / "plan.onnx")(x).cost.mean(dtype=np.float64))


def mean_of_folder(plan: Plan, made: Made, folder: Path) -> float:
    write_folder(plan, folder / "stages")
    return float(Routed(folder / "stages")(np.load(made.data)["x"]).cost.mean(dtype=np.float64))


@pytest.mark.parametrize("timed", [False, True], ids=["costs of the trace", "times of requests"])
@pytest.mark.parametrize("uncut", [False, True], ids=["in parts", "uncut"])
@pytest.mark.parametrize(
    ("budget", "verdict", "choice"),
    [(0.01, "route", None), (0.3, "one network", "small"), (0.0, "keep the reference", "big")],
)
def test_what_is_certified_is_what_is_evaluated_run_and_exported(
    made: Made,
    tmp_path: Path,
    budget: float,
    verdict: str,
    choice: str | None,
    uncut: bool,
    timed: bool,
) -> None:
    plan = planned(made, budget, uncut, timed)
    plan.write(tmp_path / "plan")
    plan = Plan.read(tmp_path / "plan")
    found = plan.certificate
    assert found.verdict == verdict
    recorded = made if timed else made.at(given_costs(uncut))
    for where, price in PRICES.items():
        assert price(plan, recorded, tmp_path) == pytest.approx(found.cost, rel=1e-5), where
    assert evaluate(plan, recorded.certifying).reference_cost == found.reference_cost
    assert found.reference_cost == plan.graph.alone(plan.costs, "big")
    if choice:
        assert found.static_choice == choice
        assert found.cost == plan.graph.alone(plan.costs, choice)
        if not timed:
            assert found.cost == {True: WHOLE, False: {"small": 2.0, "big": 16.0}}[uncut][choice]


@given(traces(carries=True), st.data())
def test_a_network_alone_has_one_price(trace: Trace, data: st.DataObject) -> None:
    """Uncut where that is known, else the sum of its parts: replayed, in files, compared."""
    graph = trace.graph
    known = data.draw(st.sets(st.sampled_from(graph.order)))
    uncut = {stage: data.draw(amounts) + 0.5 for stage in sorted(known)}
    trace = replace(trace, costs=replace(trace.costs, whole=uncut))
    points = static_points(trace, trace.losses())
    for stage in graph.order:
        expected = uncut.get(stage, graph.step_cost(trace.costs, stage))
        policy = Static.of(graph, stage)
        assert graph.alone(trace.costs, stage) == expected
        assert points[stage].cost == pytest.approx(expected)
        outcome = replay(trace, policy, float("nan"))
        np.testing.assert_allclose(outcome.cost, expected)
        assert Itinerary(policy.graph).costs(trace.costs) == [expected]
    assert points[graph.reference].speedup == pytest.approx(1.0)
    assert Costs.from_json(trace.costs.to_json()) == trace.costs


def test_a_comparison_divides_by_the_reference_it_shows(made: Made) -> None:
    priced = made.at(given_costs(uncut=True))
    found = compare(priced.learning, priced.certifying, policies=["margin"], bands=False)
    assert found.reference_cost == found.static["big"].cost == WHOLE["big"]
    assert found.static["small"].speedup == pytest.approx(14.0 / 1.5)


def test_earlier_costs_hold_the_reference_alone() -> None:
    graph = Graph.chain(["a", "b"])
    before = {**Costs({"a": 1.0, "b": 2.0}, {"a": 0.0, "b": 0.0}).to_json(), "cost_whole": 2.5}
    found = Costs.from_json({**before, "graph": graph.to_json()})
    assert found.whole == {"b": 2.5}
    with pytest.raises(CostError, match="not a record of costs"):
        Costs.from_json({**before, "graph": graph.to_json(), "cost_whole": "much"})
    with pytest.raises(CostError, match="unknown stage 'c'"):
        graph.check_costs(replace(found, whole={"c": 1.0}))
    with pytest.raises(CostError, match="stage 'b' costs nothing"):
        graph.check_costs(replace(found, whole={"b": 0.0}))


def test_a_plan_prices_other_examples_in_its_own_costs(made: Made) -> None:
    """What a plan costs does not change with the machine that recorded other examples."""
    plan = planned(made, 0.01, uncut=True, timed=True)
    slower = replace(made.certifying, costs=replace(made.certifying.costs, body=BODY))
    found = evaluate(plan, slower)
    assert found.cost == pytest.approx(plan.certificate.cost)
    assert found.cost_source == "measured at batch 4, for requests of 4"
    money = replace(slower, costs=replace(slower.costs, unit="USD"))
    with pytest.raises(CostError, match=r"plan's costs are in s, the trace's in USD.*reprice"):
        evaluate(plan, money)


def test_every_network_that_was_cut_is_timed_uncut(made: Made) -> None:
    graph = made.networks.graph
    assert graph.ends == ("small", "big")
    runtime = OnnxRuntime(made.networks.files, graph)
    x = np.load(made.data)["x"][:256]
    costs = stage_costs(runtime, graph, x, 32, rounds=5)
    assert set(costs.whole) == {"small", "big"}
    plan = planned(made, 0.3, uncut=True, timed=False)
    found = bench(plan, x, batch=4, contest=Contest(2, False))
    alone = found.part_ms[whole("small")]["4"]
    assert found.reference_ms / found.theoretical_speedup == pytest.approx(alone)
