"""What a fit does not depend on: units, names, and whatever adds nothing to what stages say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offramp.base.arrays import FloatArray
from offramp.core.frontier import replay
from offramp.core.graph import Costs, Graph
from offramp.core.trace import Trace
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.policies import FAMILIES
from offramp.testing import synthetic
from tests.made import unseen

TRACE = synthetic(360, seed=11)
COSTS = ("cost", "reference_cost", "static_cost", "points", "statics", "sizes")  # of a certificate


def said(plan: Plan, *left_out: str) -> dict[str, Any]:
    """What a certificate says, numbers as far as rounding leaves them alone."""
    found = plan.certificate.to_json()
    tested = (*plan.certificate.points, *plan.certificate.statics)
    kept = {name: value for name, value in found.items() if name not in (*COSTS, *left_out)}
    return kept | {f"test {i}": each.excess_loss for i, each in enumerate(tested)}


def stages(plan: Plan, trace: Trace) -> list[str]:
    """Where each example stops."""
    outcome = replay(plan.answering(trace), plan.running, plan.setting)
    return [outcome.order[stage] for stage in outcome.stage]


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        number = isinstance(value, float)
        expected = pytest.approx(value, rel=1e-5, abs=1e-9) if number else value
        assert other[name] == expected, name


def priced(trace: Trace, times: float) -> Trace:
    costs = trace.costs
    body = {stage: cost * times for stage, cost in costs.body.items()}
    return replace(unseen(trace), costs=Costs(body, dict(costs.head), costs.unit))


@pytest.mark.parametrize("policy", FAMILIES)
def test_the_unit_of_cost_changes_costs_alone(policy: str) -> None:
    """A power of two, so that no digit is rounded otherwise."""
    one, other = (fit(priced(TRACE, times), 0.1, policy=policy) for times in (1.0, 1024.0))
    alike(said(one), said(other))
    assert stages(one, TRACE) == stages(other, TRACE)
    assert other.certificate.cost == pytest.approx(1024 * one.certificate.cost)
    assert other.certificate.reference_cost == 1024 * one.certificate.reference_cost


def shifted(trace: Trace) -> Trace:
    """A constant of each row added to all of its logits; a power of two, as digits allow."""
    random = np.random.default_rng(0)

    def moved(scores: FloatArray) -> FloatArray:
        by = random.choice([-2.0, 0.0, 2.0], (len(scores), 1))
        return np.asarray(np.round(scores * 1024) / 1024 + by, dtype=np.float32)

    return replace(unseen(trace), scores={s: moved(v) for s, v in trace.scores.items()})


def rounded(trace: Trace) -> Trace:
    scores = {s: (np.round(v * 1024) / 1024).astype(np.float32) for s, v in trace.scores.items()}
    return replace(unseen(trace), scores=scores)


# the map of refits reads log-probabilities, so that they know no constant either
@pytest.mark.parametrize("policy", ["learned", "margin", "entropy", "thresholds", "patience"])
def test_a_constant_added_to_all_logits_of_a_row_changes_nothing(policy: str) -> None:
    one, other = (fit(t, 0.1, policy=policy) for t in (rounded(TRACE), shifted(TRACE)))
    alike(said(one, "tradeoff"), said(other, "tradeoff"))
    assert stages(one, rounded(TRACE)) == stages(other, shifted(TRACE))


def permuted(trace: Trace) -> Trace:
    order = np.random.default_rng(1).permutation(trace.classes)
    assert trace.labels is not None
    scores = {stage: np.ascontiguousarray(v[:, order]) for stage, v in trace.scores.items()}
    return replace(unseen(trace), scores=scores, labels=np.argsort(order)[trace.labels])


@pytest.mark.parametrize("policy", ["margin", "entropy", "myopic", "thresholds", "patience"])
def test_the_numbers_of_classes_mean_nothing(policy: str) -> None:
    one, other = (fit(t, 0.1, policy=policy) for t in (unseen(TRACE), permuted(TRACE)))
    alike(said(one, "tradeoff"), said(other, "tradeoff"))
    assert stages(one, TRACE) == stages(other, permuted(TRACE))


NAMES = {"small": "zebra", "medium": "bee", "large": "mole"}  # in another order


def renamed(trace: Trace) -> Trace:
    """Names whose order is another."""
    costs = trace.costs
    body, head = ({NAMES[s]: c for s, c in part.items()} for part in (costs.body, costs.head))
    return replace(
        unseen(trace),
        graph=Graph.build(list(NAMES.values()), "zebra>bee>mole,zebra>mole"),
        costs=Costs(body, head, costs.unit),
        scores={NAMES[s]: v for s, v in trace.scores.items()},
        kinds={NAMES[s]: kind for s, kind in trace.kinds.items()},
    )


@pytest.mark.parametrize(
    ("policy", "pool"), [("margin", True), *((name, False) for name in ("auto", *FAMILIES))]
)
def test_the_names_of_stages_mean_nothing(policy: str, pool: bool) -> None:
    trace = synthetic(360, edges="small>medium>large,small>large", seed=11)
    one, other = (fit(t, 0.1, policy=policy, pool=pool) for t in (trace, renamed(trace)))
    names = ("static_choice", "reference")
    alike(said(one, *names), said(other, *names))
    assert NAMES[one.certificate.static_choice] == other.certificate.static_choice
    assert [NAMES[s] for s in stages(one, trace)] == stages(other, renamed(trace))
