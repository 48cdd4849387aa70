"""Cost that is time: survivors are binomial, and what does not pay in it goes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.base.errors import CostError, GraphError
from offramp.core.graph import Costs, Graph, Stage
from offramp.core.prices import Fixed
from offramp.core.trace import Trace
from offramp.learn.latency import Latency
from offramp.learn.teach import Taught, Ways, teach
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.notes import notes
from offramp.plan.plan import Plan
from offramp.testing import synthetic

CHAIN = Graph.chain(["small", "medium", "large"])


def latency(batch: int = 4, medium: float = 3.0, stop: float = 0.0, start: float = 0.0) -> Latency:
    """Seconds that grow with the rows, after what any request costs."""
    per_row = {"small": 1.0, "medium": medium, "large": 9.0}
    sizes = sorted({min(2**power, batch) for power in range(batch.bit_length() + 1)})
    parts = {name: {n: start + cost * n for n in sizes} for name, cost in per_row.items()}
    return Latency(batch=batch, parts=parts, stop=dict.fromkeys(sizes, stop))


def test_time_that_is_proportional_to_rows_is_the_same_for_any_share() -> None:
    found = latency().costs(CHAIN, {"medium": 0.3, "large": 0.01})
    assert found.body == pytest.approx({"small": 1.0, "medium": 3.0, "large": 9.0})
    assert found.whole == pytest.approx({"small": 1.0, "medium": 3.0, "large": 9.0})
    assert set(found.head.values()) == {0.0}


@given(st.floats(0.05, 1.0), st.integers(1, 16))
def test_survivors_are_binomial(share: float, batch: int) -> None:
    """A start of 1 s is paid by requests with any survivors at all; simulated independently."""
    found = latency(batch, start=1.0).costs(CHAIN, {"large": share}).body["large"]
    nobody = (1 - share) ** batch
    assert found == pytest.approx(9.0 + (1 - nobody) / (batch * share), rel=1e-6)


def test_decisions_cost_where_something_follows() -> None:
    found = latency(batch=4, stop=2.0).costs(CHAIN)
    assert found.head == pytest.approx({"small": 0.5, "medium": 0.5, "large": 0.0})
    assert found.whole == latency(batch=4).costs(CHAIN).whole  # one network alone decides nothing


def test_a_part_that_was_not_timed_is_named() -> None:
    with pytest.raises(CostError, match="'other'"):
        latency().costs(Graph.chain(["small", "other"]))


def taught(trace: Trace, prices: Latency) -> Taught:
    ways = Ways(prices=prices, budgets=(0.02,), error=0.05, certifying=2 * trace.examples)
    return teach(trace, ways, "learned")


def test_a_stage_that_takes_as_long_as_the_reference_is_dropped() -> None:
    trace = synthetic(2000, seed=5)
    for medium, dropped in ((9.0, True), (1.1, False)):
        found = taught(trace, latency(medium=medium))
        assert ("medium" in found.dropped) == dropped
        assert ("medium" in found.policy.graph.order) != dropped
        if dropped:
            assert "batch 4" in found.dropped["medium"]


def test_a_plan_says_what_it_dropped_and_still_keeps_its_promise() -> None:
    trace = synthetic(4000, seed=6)
    plan = fit(trace, 0.02, prices=latency(medium=9.0))
    assert plan.running.graph.order == ("small", "large")
    assert plan.graph == trace.graph  # the stage may still be looked at
    assert any("without stage 'medium'" in note for note in notes(plan))
    assert plan.certificate.verdict == "route"
    assert plan.certificate.reference_cost == pytest.approx(9.0)


def test_a_plan_without_a_stage_is_kept_and_evaluated_like_others(tmp_path: Path) -> None:
    plan = fit(synthetic(4000, seed=6), 0.02, prices=latency(medium=9.0))
    plan.write(tmp_path / "plan")
    read = Plan.read(tmp_path / "plan")
    assert notes(read) == notes(plan)
    fresh = synthetic(6000, seed=8)
    fresh = replace(fresh, costs=replace(fresh.costs, unit="s"))
    one, other = evaluate(plan, fresh), evaluate(read, fresh)
    assert one == other
    assert one.kept != "no"


def test_large_requests_make_survivors_cheap_and_small_ones_dear() -> None:
    """What any request costs is shared by its rows: routing gains with the batch."""
    trace = synthetic(4000, seed=7)
    speedups = [
        fit(trace, 0.02, prices=latency(batch, start=6.0)).certificate.speedup for batch in (1, 64)
    ]
    assert speedups[1] > speedups[0]


def test_graphs_without_a_stage() -> None:
    stages = (Stage("a"), Stage("b", "a", ("a",)), Stage("c", "b"), Stage("d"))
    graph = Graph(stages, (("a", "b"), ("b", "c"), ("b", "d"), ("c", "d")), "d")
    less = graph.without("b")
    assert set(less.edges) == {("a", "c"), ("a", "d"), ("c", "d")}
    assert less.order == ("a", "c", "d")
    assert less.stage("b").after == "a"  # still passed on the way to c
    assert less.stage("b").hears == ()
    assert not less.stage("b").answers
    assert graph.without("a").order == ("b", "c", "d")
    for needed in ("d",):
        with pytest.raises(GraphError, match="needs"):
            graph.without(needed)
    with pytest.raises(GraphError, match="needs"):
        less.without("a")  # the root of two branches


def test_costs_of_a_trace_are_left_alone_without_a_batch_size() -> None:
    trace = synthetic(600)
    assert fit(trace, 0.1).costs == trace.costs
    priced = replace(trace, costs=latency().costs(trace.graph))
    assert np.isclose(priced.reference_cost, 9.0)


def test_networks_that_are_left_out_still_cost_something() -> None:
    trace = synthetic(600)
    found = taught(trace, latency(medium=9.0))
    assert found.costs is not None
    assert set(found.costs.body) == {"small", "medium", "large"}
    assert trace.graph.check_costs(found.costs) == found.costs


def test_any_prices_leave_out_what_does_not_pay() -> None:
    """Money, say: a stage that costs as much as the reference takes no part."""
    trace = synthetic(4000, seed=6)
    body = {"small": 1.0, "medium": 9.0, "large": 9.0}
    money = Costs(body=body, head=dict.fromkeys(body, 0.0), unit="USD", source="a list of prices")
    plan = fit(trace, 0.02, prices=Fixed(money, trace.graph))
    assert plan.running.graph.order == ("small", "large")
    assert plan.costs.unit == "USD"
    assert any("medium" in note and "batch" not in note for note in notes(plan))
    assert Fixed(money, trace.graph).alone(trace.graph, "large") == 9.0
    with pytest.raises(CostError, match="'large'"):
        Fixed(replace(money, body={"small": 1.0, "medium": 2.0}), trace.graph)
