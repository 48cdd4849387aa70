"""Functions as stages: plain and async, per batch and per row, with time-outs and retries."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp import Costs, Graph, Networks, Stage, Trace, fit, infer, record
from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import DataError, GraphError, InputError, NetworkError
from offramp.core.frontier import replay
from offramp.core.task import task_named
from offramp.networks.data import Arrays
from offramp.plan.plan import Plan
from offramp.recording.record import RecordOptions
from offramp.runtime import Calls, PerRow, Walker, waiting
from offramp.runtime.driver import Driver
from offramp.testing import DriverLaws, RuntimeLaws, synthetic

TRACE = synthetic(900, ("small", "big"), classes=5, seed=4)
PLAN = fit(TRACE, 0.05, policy="margin")
ROWS = 90
NUMBERS = np.stack([np.arange(ROWS), np.ones(ROWS)], axis=1).astype(np.float32)
Function = Callable[[Any], Any]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "PAUSE_S", 0.0)


def said(stage: str, rows: AnyArray) -> FloatArray:
    """What was recorded of examples, whose numbers come first in each row, (n, 2)."""
    if rows.ndim != 2 or rows.shape[1] != 2:
        raise ValueError(f"rows have the shape {rows.shape}")
    scores: FloatArray = TRACE.scores[stage][np.nan_to_num(rows[:, 0], posinf=0).astype(int)]
    scaled: FloatArray = scores * rows[:, 1:]
    return scaled


def known(stage: str, row: AnyArray) -> FloatArray:
    scores: FloatArray = said(stage, row[None])[0]
    return scores


def plain(stage: str) -> Function:
    return lambda rows: said(stage, rows)


def awaited(stage: str) -> Function:
    async def ask(rows: AnyArray) -> FloatArray:
        await asyncio.sleep(0)
        return said(stage, rows)

    return ask


def per_row(stage: str) -> Function:
    return PerRow(lambda row: known(stage, row))


def awaited_per_row(stage: str) -> Function:
    async def ask(row: AnyArray) -> FloatArray:
        await asyncio.sleep(0)
        return known(stage, row)

    return PerRow(ask)


def later(stage: str) -> Function:
    """A plain function that gives something to await."""
    return lambda rows: awaited(stage)(rows)


KINDS: Mapping[str, Callable[[], Calls]] = {
    "plain": lambda: Calls({s: plain(s) for s in TRACE.graph.order}),
    "in threads": lambda: Calls({s: plain(s) for s in TRACE.graph.order}, timeout_s=60),
    "async": lambda: Calls({s: awaited(s) for s in TRACE.graph.order}, retries=1),
    "per row": lambda: Calls({s: per_row(s) for s in TRACE.graph.order}, limit=3),
    "async per row": lambda: Calls({s: awaited_per_row(s) for s in TRACE.graph.order}),
    "mixed": lambda: Calls({"small": later("small"), "big": awaited_per_row("big")}),
}


@pytest.fixture(params=KINDS)
def runtime(request: pytest.FixtureRequest) -> Calls:
    return KINDS[request.param]()


class _Given:
    @pytest.fixture
    def plan(self) -> Plan:
        return PLAN

    @pytest.fixture
    def x(self) -> AnyArray:
        return NUMBERS


class TestCalls(_Given, RuntimeLaws):
    pass


class TestWalksOnCalls(_Given, DriverLaws):
    @pytest.fixture
    def driver(self, runtime: Calls) -> Driver:
        return Walker(PLAN, runtime)


def texts(stage: str) -> Function:
    return lambda prompts: [TRACE.scores[stage][int(prompt.split()[-1])] for prompt in prompts]


PROMPTS = [f"example {number}" for number in range(ROWS)]


def test_rows_may_be_anything() -> None:
    expected = infer(PLAN, KINDS["plain"](), NUMBERS)
    of_prompts = Calls({stage: texts(stage) for stage in TRACE.graph.order})
    of_fields = Calls(
        {
            "small": lambda fields: texts("small")(fields["prompt"]),
            "big": PerRow(lambda fields: TRACE.scores["big"][int(fields["number"])]),
        }
    )
    fields = {"prompt": PROMPTS, "number": np.arange(ROWS)}
    for found in (infer(PLAN, of_prompts, PROMPTS), infer(PLAN, of_fields, fields)):
        assert (found.stage == expected.stage).all()
        assert (found.scores == expected.scores).all()


def test_a_list_of_lists_of_one_length_is_a_list_of_rows() -> None:
    given: list[Any] = []

    def ask(rows: Any) -> FloatArray:
        given.append(rows)
        return np.zeros((len(rows), 2))

    Calls({"small": ask}).run("small", [[1, 2], [3, 4]])
    assert given == [[[1, 2], [3, 4]]]


def test_no_row_is_asked_about_twice_by_one_stage() -> None:
    asked: Counter[tuple[str, int]] = Counter()

    def counting(stage: str) -> Function:
        def ask(row: Any) -> FloatArray:
            asked[stage, int(row[0])] += 1
            return known(stage, row)

        return PerRow(ask)

    answers = infer(PLAN, Calls({s: counting(s) for s in TRACE.graph.order}), NUMBERS)
    big = {number for stage, number in asked if stage == "big"}
    assert big == set(np.flatnonzero(answers.stage == "big").tolist())
    assert len(asked) == ROWS + len(big)
    assert set(asked.values()) == {1}


@pytest.mark.parametrize("asynchronous", [True, False])
def test_no_more_calls_run_at_once_than_the_limit(asynchronous: bool) -> None:
    """Calls wait for each other in threes: more at once would be seen, fewer never end."""
    running, most, lock = 0, 0, threading.Lock()
    barrier, gate = threading.Barrier(3), asyncio.Barrier(3)

    def count(change: int) -> None:
        nonlocal running, most
        with lock:
            running += change
            most = max(most, running)

    async def ask(row: Any) -> FloatArray:
        count(1)
        await gate.wait()
        count(-1)
        return np.zeros(2)

    def ask_plainly(row: Any) -> FloatArray:
        count(1)
        barrier.wait()
        count(-1)
        return np.zeros(2)

    runtime = Calls({"small": PerRow(ask if asynchronous else ask_plainly)}, limit=3)
    runtime.run("small", np.zeros((9, 1)))
    assert most == 3


class Failing:
    """Raises a number of times before it answers."""

    def __init__(self, times: int) -> None:
        self.times, self.calls = times, 0

    def __call__(self, rows: AnyArray) -> FloatArray:
        self.calls += 1
        if self.calls <= self.times:
            raise ConnectionError("the line is dead")
        return np.zeros((len(rows), 3))


def test_what_fails_is_tried_again() -> None:
    function = Failing(2)
    assert Calls({"small": function}, retries=2).run("small", NUMBERS).shape == (ROWS, 3)
    assert function.calls == 3


@pytest.mark.parametrize("retries", [0, 1])
def test_what_fails_for_good_is_said_with_stage_and_rows(retries: int) -> None:
    function = Failing(5)
    tries = " in 2 tries" if retries else ""
    with pytest.raises(
        NetworkError, match=rf"'small' failed on rows 0, 1, 2{tries}: .*the line is dead"
    ) as caught:
        Calls({"small": function}, retries=retries).run("small", NUMBERS[:3])
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert function.calls == retries + 1


def test_the_row_that_fails_is_named_as_in_the_batch() -> None:
    def ask(row: AnyArray) -> FloatArray:
        if row[0] == 7:
            raise StopIteration
        return np.zeros(2)

    batch = Calls({"small": PerRow(ask)}).begin(NUMBERS)
    with pytest.raises(NetworkError, match="'small' failed on row 7: "):
        batch.advance("small", np.array([2, 7, 9]))


def test_exits_of_a_function_end_nothing_else() -> None:
    def leave(rows: Any) -> FloatArray:
        raise SystemExit(2)

    async def leave_later(rows: Any) -> FloatArray:
        raise SystemExit(2)

    for runtime in (
        Calls({"a": leave}),
        Calls({"a": leave}, timeout_s=9),
        Calls({"a": leave_later}),
    ):
        with pytest.raises(NetworkError, match=r"sys\.exit"):
            runtime.run("a", NUMBERS)
    assert len(KINDS["async"]().run("small", NUMBERS)) == ROWS


def test_an_async_call_that_hangs_ends_and_is_tried_again() -> None:
    tries = []

    async def hang(rows: Any) -> FloatArray:
        tries.append(len(rows))
        await asyncio.Event().wait()
        raise AssertionError

    with pytest.raises(NetworkError, match=r"did not answer rows 0, 1 within 0\.01 s in 2 tries"):
        Calls({"small": hang}, timeout_s=0.01, retries=1).run("small", NUMBERS[:2])
    assert tries == [2, 2]


def test_a_plain_call_that_hangs_fails_and_is_left_behind_once() -> None:
    release, tries = threading.Event(), []

    def hang(rows: Any) -> FloatArray:
        tries.append(threading.current_thread())
        release.wait()
        return np.zeros((len(rows), 2))

    try:
        with pytest.raises(NetworkError, match=r"within 0\.01 s\. It still runs"):
            Calls({"small": hang}, timeout_s=0.01, retries=5).run("small", NUMBERS[:2])
        assert len(tries) == 1
        assert tries[0].daemon
    finally:
        release.set()
        tries[0].join()


def test_a_time_out_of_the_function_itself_is_not_ours() -> None:
    async def ask(rows: Any) -> FloatArray:
        raise TimeoutError("no answer from the server")

    with pytest.raises(NetworkError, match="no answer from the server"):
        Calls({"small": ask}, timeout_s=60).run("small", NUMBERS)


def _twice(rows: AnyArray) -> FloatArray:
    return np.zeros((2 * len(rows), 2))


PLANTED: Mapping[str, tuple[Any, str]] = {
    "drops a row": (lambda rows: np.zeros((len(rows) - 1, 2)), "about 4 rows and gave 3 rows"),
    "answers twice": (_twice, "about 4 rows and gave 8 rows"),
    "one number": (lambda rows: 0.5, "gave one number"),
    "nothing": (lambda rows: None, r"gave one number|NoneType"),
    "words": (lambda rows: ["yes"] * len(rows), "which are no scores"),
    "ragged": (lambda rows: [[0.0]] * 3 + [[0.0, 1.0]], "which are no scores"),
    "labels alone": (lambda rows: np.zeros(len(rows)), r"must give \(batch, classes\)"),
    "ragged rows": (PerRow(lambda row: np.zeros(int(row[0]) + 1)), "for single rows"),
    "a table per row": (PerRow(lambda row: np.zeros((1, 2))), r"\(1, 2\) for single rows"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_what_gives_no_scores_is_refused_in_a_sentence(fault: str) -> None:
    function, words = PLANTED[fault]
    with pytest.raises(NetworkError, match=words) as caught:
        Calls({"small": function}).run("small", NUMBERS[:4])
    assert "'small'" in str(caught.value)
    assert "\n" not in str(caught.value)


def _unordered(rows: AnyArray) -> FloatArray:
    return said("big", rows)[::-1]


def test_the_laws_find_a_function_that_answers_in_another_order() -> None:
    runtime = Calls({"small": plain("small"), "big": _unordered})
    with pytest.raises(AssertionError):
        RuntimeLaws().test_a_row_does_not_depend_on_its_batch(runtime, PLAN, NUMBERS)
    with pytest.raises(AssertionError):
        RuntimeLaws().test_batch_order_changes_nothing(runtime, PLAN, NUMBERS)


def test_what_cannot_be_called_at_all_is_refused() -> None:
    with pytest.raises(NetworkError, match="'small' is 3, which is no function"):
        Calls({"small": 3})
    with pytest.raises(NetworkError, match="no function"):
        Calls({"small": Failing})
    with pytest.raises(NetworkError, match="no network"):
        Calls({"small": plain("small")}, TRACE.graph)
    continued = Graph.build([Stage("small"), Stage("big", "small")])
    with pytest.raises(GraphError, match="'big' reads what other stages make"):
        Calls({s: plain(s) for s in TRACE.graph.order}, continued)
    with pytest.raises(DataError, match="'a' has 2, 'b' has 3"):
        Calls({"small": plain("small")}).run("small", {"a": [1, 2], "b": [1, 2, 3]})


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"timeout_s": 0.0}, {"retries": -1}])
def test_numbers_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        Calls({"small": plain("small")}, **wrong)


def test_pauses_double_and_end() -> None:
    waiting.PAUSE_S = 0.5
    for tries, longest in ((1, 0.5), (2, 1.0), (3, 2.0), (30, waiting.LONGEST_PAUSE_S)):
        pauses = [waiting.pause_s(tries) for _ in range(200)]
        assert longest / 2 < max(pauses) <= longest
        assert min(pauses) >= 0


def test_a_plan_is_awaited_inside_an_event_loop() -> None:
    runtime = KINDS["async per row"]()
    expected = infer(PLAN, runtime, NUMBERS)

    async def both() -> Any:
        return await asyncio.gather(
            runtime.ainfer(PLAN, NUMBERS), runtime.ainfer(PLAN, NUMBERS[:5])
        )

    whole, part = asyncio.run(both())
    assert (whole.answer == expected.answer).all()
    assert (part.answer == expected.answer[:5]).all()


def test_a_stage_that_waits_for_its_own_thread_is_refused() -> None:
    inner = KINDS["async"]()

    async def ask(rows: AnyArray) -> FloatArray:
        return inner.run("small", rows)

    with pytest.raises(NetworkError, match=r"await calls\.ainfer"):
        Calls({"small": ask}).run("small", NUMBERS)


@pytest.fixture
def examples() -> Arrays:
    rows: AnyArray = np.empty(TRACE.examples, dtype=object)
    rows[:] = [f"example {number}" for number in range(len(rows))]
    return Arrays(x=rows, y=TRACE.labels, fingerprint="prompts", preprocessing=None)


@pytest.mark.parametrize("costs", [TRACE.costs, None])
def test_prompts_are_recorded(examples: Arrays, costs: Costs | None, tmp_path: Path) -> None:
    runtime = Calls({stage: texts(stage) for stage in TRACE.graph.order})
    networks, options = Networks(runtime.graph, {}), RecordOptions()
    trace = record(networks, runtime, examples, tmp_path / "trace", options, costs=costs)
    for stage in TRACE.graph.order:
        assert (trace.scores[stage] == TRACE.scores[stage]).all()
    assert len(set(trace.identity.tolist())) == trace.examples
    again = record(networks, runtime, examples, tmp_path / "again", options, costs=TRACE.costs)
    assert (again.identity == trace.identity).all()
    plan = fit(trace, 0.05, policy="margin")
    assert len(infer(plan, runtime, PROMPTS).answer) == ROWS


def test_rows_that_are_asked_apart_are_recorded_once(examples: Arrays, tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    def ask(prompt: str) -> FloatArray:
        asked[prompt] += 1
        scores: FloatArray = TRACE.scores["big"][int(prompt.split()[-1])]
        return scores

    runtime = Calls({stage: PerRow(ask) for stage in TRACE.graph.order})
    networks = Networks(runtime.graph, {})
    record(networks, runtime, examples, tmp_path / "t", RecordOptions(), costs=TRACE.costs)
    assert set(asked.values()) == {len(TRACE.graph.order)}


def test_rows_that_cannot_be_told_apart_are_not_recorded(tmp_path: Path) -> None:
    rows: AnyArray = np.array([object() for _ in range(40)])
    examples = Arrays(x=rows, y=None, fingerprint="things", preprocessing=None)
    runtime = Calls({"a": PerRow(lambda row: np.zeros(2)), "b": PerRow(lambda row: np.ones(2))})
    with pytest.raises(DataError, match="cannot be told apart"):
        record(Networks(runtime.graph, {}), runtime, examples, tmp_path / "t", RecordOptions())


def test_answers_are_enough_for_a_trace() -> None:
    runtime = Calls({stage: texts(stage) for stage in TRACE.graph.order})
    prompts = [f"example {number}" for number in range(TRACE.examples)]
    scores = {stage: runtime.run(stage, prompts) for stage in runtime.graph.order}
    plan = fit(Trace.of(scores, TRACE.labels, costs={"small": 1.0, "big": 3.0}), 0.05)
    assert len(infer(plan, runtime, prompts).answer) == len(prompts)


def test_functions_may_answer_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(1500, 3)).astype(np.float32)
    bent = 2 * np.maximum(x[:, :1], 0)  # where `small` is wrong

    def big(rows: AnyArray) -> Any:
        return rows.sum(axis=1, keepdims=True) + 2 * np.maximum(rows[:, :1], 0)

    def small(rows: AnyArray) -> Any:
        return rows.sum(axis=1, keepdims=True)

    runtime = Calls({"small": small, "big": big})
    y = x.sum(axis=1) + bent[:, 0]
    rows = Arrays(x=x, y=y, fingerprint="numbers", preprocessing=None)
    options = RecordOptions(task=task_named("regression/2.0"))
    costs = Costs({"small": 1.0, "big": 9.0}, {"small": 0.0, "big": 0.0})
    networks = Networks(runtime.graph, {})
    trace = record(networks, runtime, rows, tmp_path / "trace", options, costs=costs)
    plan = fit(trace, 0.2, policy="learned")
    live = infer(plan, runtime, x)
    assert live.answer.shape == (1500, 1)
    np.testing.assert_array_equal(live.position, replay(trace, plan.running, plan.setting).stage)
    assert len({*live.position.tolist()}) == 2
