"""A server without a network: answers are those of `infer`, whoever they ran together with."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import InputError, NetworkError, Overloaded, PlanError, TooLate
from offramp.core.trace import Trace
from offramp.plan.asked import Asked
from offramp.plan.fit import fit, fit_each
from offramp.plan.plan import Plan
from offramp.runtime import Calls, infer
from offramp.runtime.format import Answers
from offramp.serving import Limits, Service
from offramp.serving.brownout import HOLD_S, BrownOut, ladder, safer
from offramp.testing import MemoryRuntime, synthetic

TRACE = synthetic(3000, edges="small>medium>large,small>large", seed=3)
PLAN = fit(TRACE, 0.03)
NUMBERS = np.arange(400)[:, None]


class Gate:
    """Functions as stages, which wait until they may go on and keep what they were asked."""

    def __init__(self, trace: Trace = TRACE) -> None:
        self.trace, self.open = trace, threading.Event()
        self.open.set()
        self.asked: list[tuple[str, list[int]]] = []
        self.reached = threading.Semaphore(0)

    def runtime(self) -> Calls:
        return Calls({s: self._stage(s) for s in self.trace.graph.order}, self.trace.graph)

    def _stage(self, stage: str):  # type: ignore[no-untyped-def]
        def scores(x: AnyArray) -> FloatArray:
            rows = x[:, 0].astype(int)
            self.asked.append((stage, rows.tolist()))
            self.reached.release()
            assert self.open.wait(30)
            found: FloatArray = self.trace.scores[stage][rows]
            return found

        return scores

    def ran(self, row: int) -> list[str]:
        return [stage for stage, rows in self.asked if row in rows]


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(PLAN, runtime=MemoryRuntime.of(TRACE)) as served:
        yield served


def same(one: Answers, other: Answers) -> bool:
    return bool(
        (one.answer == other.answer).all()
        and (one.position == other.position).all()
        and np.allclose(one.cost, other.cost)
        and np.array_equal(one.scores, other.scores)
    )


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_requests_that_run_together_are_answered_as_alone(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    runtime, limits = MemoryRuntime.of(TRACE), Limits(batch=int(random.integers(1, 20)))
    requests = [NUMBERS[random.integers(0, 400, size)] for size in sizes]
    with Service(PLAN, runtime=runtime, limits=limits) as service:
        futures = [service.submit(x) for x in requests]
        for x, future in zip(requests, futures, strict=True):
            assert same(future.result(10).answers, infer(PLAN, runtime, x))


def test_what_waits_while_a_stage_is_busy_is_its_next_batch() -> None:
    gate = Gate()
    gate.open.clear()
    with Service(PLAN, runtime=gate.runtime()) as service:
        first = service.submit(NUMBERS[:1])
        assert gate.reached.acquire(timeout=10)  # the stage is busy with the first
        others = [service.submit(NUMBERS[i : i + 2]) for i in (1, 3, 5)]
        gate.open.set()
        assert [len(f.result(10).answers.answer) for f in (first, *others)] == [1, 2, 2, 2]
    at_root = [rows for stage, rows in gate.asked if stage == "small"]
    assert at_root == [[0], [1, 2, 3, 4, 5, 6]]


def test_rows_that_stop_run_no_further() -> None:
    gate = Gate()
    with Service(PLAN, runtime=gate.runtime()) as service:
        found = service.infer(NUMBERS[:200]).answers
    for stage, rows in gate.asked:
        later = [PLAN.graph.order.index(found.stage[row]) for row in rows]
        assert min(later) >= PLAN.graph.order.index(stage)


def test_a_client_that_has_gone_is_not_computed_for() -> None:
    gate = Gate()
    gate.open.clear()
    with Service(PLAN, runtime=gate.runtime()) as service:
        first = service.submit(NUMBERS[:1])
        assert gate.reached.acquire(timeout=10)
        gone, stays = service.submit(NUMBERS[1:2]), service.submit(NUMBERS[2:3])
        assert gone.cancel()
        gate.open.set()
        first.result(10)
        stays.result(10)
        assert service.rows == 0
        with pytest.raises(CancelledError):
            gone.result(1)
    assert gate.ran(1) == []
    assert gate.ran(2)


def test_what_is_late_is_not_computed() -> None:
    gate = Gate()
    gate.open.clear()
    with Service(PLAN, runtime=gate.runtime()) as service:
        first = service.submit(NUMBERS[:1])
        assert gate.reached.acquire(timeout=10)
        late = service.submit(NUMBERS[1:2], deadline_s=-1.0)
        gate.open.set()
        first.result(10)
        with pytest.raises(TooLate, match="deadline"):
            late.result(10)
    assert gate.ran(1) == []


def test_there_is_room_for_so_many_rows_and_no_more() -> None:
    gate = Gate()
    gate.open.clear()
    with Service(PLAN, runtime=gate.runtime(), limits=Limits(rows=5)) as service:
        inside = [service.submit(NUMBERS[:3]), service.submit(NUMBERS[:2])]
        with pytest.raises(Overloaded, match="full") as full:
            service.submit(NUMBERS[:1])
        assert full.value.retry_after_s > 0
        gate.open.set()
        assert all(len(future.result(10).answers.answer) for future in inside)
        service.infer(NUMBERS[:1])  # there is room again
        with pytest.raises(InputError, match="at most 256"):
            service.submit(np.zeros((257, 1)))


def test_all_that_is_inside_is_answered_when_it_ends() -> None:
    gate = Gate()
    gate.open.clear()
    service = Service(PLAN, runtime=gate.runtime())
    inside = [service.submit(NUMBERS[i : i + 1]) for i in range(20)]
    threading.Timer(0.01, gate.open.set).start()
    service.close()
    assert all(future.done() and not future.exception() for future in inside)
    with pytest.raises(Overloaded, match="about to end"):
        service.submit(NUMBERS[:1])
    assert not any(thread.is_alive() for q in service.queues.values() for thread in q.threads)


def test_inputs_that_a_stage_cannot_run_on_fail_their_own_request_alone() -> None:
    gate = Gate()
    gate.open.clear()
    with Service(PLAN, runtime=gate.runtime()) as service:
        first = service.submit(NUMBERS[:1])
        assert gate.reached.acquire(timeout=10)
        bad, good = service.submit(np.array([[9e9]])), service.submit(NUMBERS[2:3].astype(float))
        gate.open.set()
        first.result(10)
        with pytest.raises(NetworkError, match="small"):
            bad.result(10)
        assert len(good.result(10).answers.answer) == 1


def test_inputs_of_other_shapes_never_run_together(service: Service) -> None:
    with pytest.raises(NetworkError, match="shape"):
        service.submit(np.zeros((2, 1, 3))).result(10)
    assert len(service.infer(NUMBERS[:2]).answers.answer) == 2


def test_what_every_stage_says_is_computed_behind_all_others() -> None:
    gate = Gate()
    gate.open.clear()
    with Service(PLAN, runtime=gate.runtime()) as service:
        first = service.submit(NUMBERS[:1])
        assert gate.reached.acquire(timeout=10)
        behind = service.record(NUMBERS[5:7])
        ahead = service.submit(NUMBERS[1:2])
        gate.open.set()
        first.result(10)
        ahead.result(10)
        assert behind is not None
        said = behind.result(10)
    at_root = [rows for stage, rows in gate.asked if stage == "small"]
    assert at_root == [[0], [1], [5, 6]]
    for stage in TRACE.graph.order:
        assert np.array_equal(said[stage], TRACE.scores[stage][5:7])


def test_threads_are_said_and_as_many_as_asked_for() -> None:
    limits = Limits(workers={"large": 3})
    with Service(PLAN, runtime=MemoryRuntime.of(TRACE), limits=limits) as service:
        assert "large 3" in service.threads()
        assert [len(q.threads) for q in service.queues.values()] == [1, 1, 3]
    with pytest.raises(InputError, match="no stage 'huge'"):
        Service(PLAN, runtime=MemoryRuntime.of(TRACE), limits=Limits(workers={"huge": 1}))


TOGETHER = fit_each(TRACE, Asked.of(0.02, 0.1))


def test_levels_are_certified_at_their_budget_and_cost_less_and_less() -> None:
    levels = ladder(TOGETHER, 0.1)
    costs = [level.cost for level in levels]
    assert costs == sorted(costs, reverse=True)
    assert len(levels) > 2
    large = TOGETHER[1].certificate
    passed = {p.tradeoff for p in large.points if p.p_value <= large.level}
    assert {level.plan.tradeoff for level in levels[1:]} <= passed | {large.tradeoff}
    assert [level.budget for level in levels] == [0.02] + [0.1] * (len(levels) - 1)
    assert len(ladder(TOGETHER, None)) == 1


def test_plans_that_were_certified_apart_are_no_levels() -> None:
    with pytest.raises(PlanError, match="fit TRACE --budget"):
        ladder(TOGETHER, 0.05)
    apart = replace(TOGETHER[1], info={**TOGETHER[1].info, "certification_rows": "others"})
    with pytest.raises(PlanError, match="certified apart"):
        ladder([TOGETHER[0], apart], 0.1)


def test_the_dial_turns_with_load_and_back_without() -> None:
    levels = ladder(TOGETHER, 0.1)
    dial = BrownOut(levels)
    assert dial.turn(0.1, 0.0) is levels[0]
    assert dial.turn(1.0, 1.0) is levels[-1]
    assert dial.turn(0.0, 1.0) is levels[-1]  # not at once
    seen = [dial.turn(0.0, 1.0 + HOLD_S * (i + 1)) for i in range(len(levels) + 2)]
    assert seen[-1] is levels[0]
    assert all(b.cost >= a.cost for a, b in pairwise(seen))
    dial.most = 1
    assert dial.turn(1.0, 98.0) is levels[1]
    dial.held = levels[0]
    assert dial.turn(1.0, 99.0) is levels[0]


def test_what_is_safer_ends_at_the_reference() -> None:
    found = [ladder(TOGETHER, None)[0]]
    while (safe := safer(found[-1])) is not None:
        found.append(safe)
    assert [rung.plan.routes for rung in found] == [True, True, False]
    assert found[1].plan.tradeoff == TOGETHER[0].certificate.points[0].tradeoff
    last = found[-1]
    alone = infer(last.plan, MemoryRuntime.of(TRACE), NUMBERS)
    assert (alone.stage == "large").all()
    assert (last.budget, last.cost) == (0.0, TOGETHER[0].certificate.reference_cost)


def test_under_load_answers_are_cheaper_and_say_so() -> None:
    gate = Gate()
    gate.open.clear()
    limits = Limits(rows=100)
    with Service(TOGETHER, brown_out=0.1, runtime=gate.runtime(), limits=limits) as service:
        futures = [service.submit(NUMBERS[i : i + 1]) for i in range(100)]
        gate.open.set()
        found = [future.result(10) for future in futures]
    assert (found[0].level, found[0].budget) == (0, 0.02)
    assert found[-1].level == len(service.levels) - 1
    assert (found[-1].budget, found[-1].tradeoff) == (
        0.1,
        service.levels[-1].plan.tradeoff,
    )
    for number in (0, 50, 99):
        plan: Plan = service.levels[found[number].level].plan
        alone = infer(plan, MemoryRuntime.of(TRACE), NUMBERS[number : number + 1])
        assert same(found[number].answers, alone)


def test_a_plan_of_one_network_is_served_uncut() -> None:
    certificate = replace(PLAN.certificate, tradeoff=None, verdict="keep the reference")
    kept = replace(PLAN, tradeoff=None, certificate=replace(certificate, static_choice="large"))
    runtime = MemoryRuntime.of(TRACE)
    with Service(kept, runtime=runtime) as service:
        found = service.infer(NUMBERS[:7])
    assert found.tradeoff is None
    assert same(found.answers, infer(kept, runtime, NUMBERS[:7]))
