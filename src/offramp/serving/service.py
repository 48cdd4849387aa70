"""The engine of a server, without a network: requests in, answers out, batches in between.

A request walks as `offramp.runtime.infer` walks; only who runs with whom differs. What waits for a
stage while that is busy becomes its next batch, whoever it belongs to, and rows that stop early
leave at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Annotated, Any

from offramp.base.arrays import FloatArray
from offramp.base.errors import InputError, NetworkError, OfframpError, Overloaded, TooLate
from offramp.base.fields import Fields
from offramp.plan.plan import Plan
from offramp.runtime.driver import Walked
from offramp.runtime.engine import AnyRows, Engine
from offramp.runtime.format import Answers
from offramp.runtime.stages import Stages
from offramp.runtime.together import Passing, scores_together
from offramp.serving.brownout import BrownOut, Rung, ladder
from offramp.serving.queueing import EveryStage, Journey, StageQueue
from offramp.serving.room import Room

_AUDITS = 64  # requests in the background, at most


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a service takes at once.

    Raises:
        InputError: a number below 1.
    """

    rows: Annotated[int, "Rows inside, waiting or running, at most."] = 1024
    request_rows: Annotated[int, "Rows of one request, at most."] = 256
    batch: Annotated[int, "Rows that a stage runs together, at most."] = 64
    deadline_s: Annotated[
        float | None, "Seconds that a request waits which says nothing itself. Default: any number."
    ] = None
    workers: Mapping[str, int] = field(default_factory=dict)  # threads of a stage; 1 unless named

    def __post_init__(self) -> None:
        for name in ("rows", "request_rows", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"the limit of {name} is {getattr(self, name)}; give at least 1.")
        if any(number < 1 for number in self.workers.values()):
            raise InputError("a stage has fewer workers than one; give at least 1.")


@dataclass(frozen=True, kw_only=True)
class Served:
    """The answers to a request, and how it was served."""

    answers: Answers
    tradeoff: float | None  # None: one network ran alone
    budget: float  # excess loss that is promised of answers at this tradeoff
    level: int  # of the ladder; 0 without load; -1: what an alarm holds it at
    waited_s: float
    computed_s: float  # of the runs that it took part in


class Observer:
    """What looks at a service; does nothing by itself."""

    def ran(self, stage: str, journeys: Sequence[Journey], rows: int, seconds: float) -> None:
        """A stage ran a batch."""

    def answered(self, served: Served, fields: Fields, hold: Any) -> None:
        """A request was answered; `hold` is whatever came with it."""

    def refused(self, why: str) -> None:
        """A request was not: full, late, gone, failed."""


class Service:
    """Serves a plan: from many threads at once, or from an event loop by `asyncio.wrap_future`.

    Args:
        plans: one plan; or those of several budgets, of which the smallest runs without load.
        brown_out: the largest budget that load may use; it needs a plan of such a budget.
        runtime: stages of the plan; None: made of its networks.
        engine: that runs these.
        threads: of each network, beside the thread of each stage.
        limits: how much it takes at once.
        observer: is told what happens.

    Raises:
        PlanError: a plan without networks, or plans that do not belong together.
        NetworkError: a network does not load.
    """

    dial: BrownOut
    queues: dict[str, StageQueue]

    def __init__(
        self,
        plans: Plan | Sequence[Plan],
        *,
        brown_out: float | None = None,
        runtime: Stages | None = None,
        engine: Engine | str = "onnxruntime",
        threads: int = 1,
        limits: Limits | None = None,
        observer: Observer | None = None,
    ) -> None:
        self.levels: tuple[Rung, ...] = ladder(
            [plans] if isinstance(plans, Plan) else plans, brown_out
        )
        self.plan: Plan = self.levels[0].plan
        self.dial = BrownOut(self.levels)
        self.limits: Limits = limits or Limits()
        self.observer: Observer = observer or Observer()
        self.runtime: Stages = runtime or Stages(
            self.plan.runnable(), self.plan.graph, engine=engine, threads=threads
        )
        self.queues = {
            name: StageQueue(name, self._run, self.limits.batch) for name in self.plan.graph.order
        }
        if unknown := sorted(set(self.limits.workers) - set(self.queues)):
            raise InputError(
                f"there is no stage '{unknown[0]}' to give workers to; the stages are "
                f"{', '.join(self.queues)}."
            )
        for name, queue in self.queues.items():
            queue.start(self.limits.workers.get(name, 1))
        self._room = Room(self.limits.rows)
        self._places = threading.Semaphore(_AUDITS)  # of audits
        self._stages = self.plan.graph.names

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    @property
    def watched(self) -> dict[str, Rung]:
        """What promises are to be watched, by what to add to their names."""
        found = {"": self.levels[0]}
        for level in self.levels[1:]:  # the cheapest of each budget is the last
            found[f" within {level.budget:g}"] = level
        return found

    @property
    def load(self) -> float:
        """The share of the room for rows that is in use, in [0, 1]."""
        return self._room.used / self.limits.rows

    @property
    def rows(self) -> int:
        """Rows that wait or run."""
        return self._room.used

    @property
    def rung(self) -> Rung:
        """The level that the dial is at."""
        return self.dial.held or self.levels[self.dial.position]

    def position_of(self, level: Rung) -> int:
        """Of a level of the ladder; -1: an alarm holds the dial at another setting."""
        return self.levels.index(level) if level in self.levels else -1

    def threads(self) -> str:
        """A sentence on all threads that compute."""
        own = self.runtime.threads
        each = ", ".join(f"{name} {len(queue.threads)}" for name, queue in self.queues.items())
        return f"threads: {each}, one for each worker of a stage; {own} in each network"

    def infer(self, x: AnyRows, *, deadline_s: float | None = None) -> Served:
        """The answers to some inputs, in their order, equal to those of `offramp.infer`.

        Raises:
            As `submit`, and what its future raises.
        """
        return self.submit(x, deadline_s=deadline_s).result()

    def submit(
        self, x: AnyRows, *, deadline_s: float | None = None, hold: Any = None
    ) -> Future[Served]:
        """The answers to some inputs, when they are there.

        Cancel the future where nobody waits any more: what has not run then does not run.

        Args:
            x: as in `offramp.infer`.
            deadline_s: seconds from now after which the answer is of no use; None: as the limits.
            hold: is given back to the observer with the answer.

        Returns:
            A future, which raises TooLate after its deadline, and NetworkError where a stage cannot
            run on these inputs.

        Raises:
            Overloaded: there is no room, or the service is closed.
            InputError: more rows than a request may have, or fields that do not fit together.
        """
        level = self.dial.turn(self.load, time.monotonic())
        walked = Walked(level.plan, self.runtime, x)
        if walked.count > self.limits.request_rows:
            raise InputError(
                f"the request has {walked.count} rows, and at most {self.limits.request_rows} may "
                "come at once. Send them in several requests."
            )
        self._enter(walked.count)
        future: Future[Served] = Future()
        future.add_done_callback(lambda _: self._room.leave(walked.count))
        wait = self.limits.deadline_s if deadline_s is None else deadline_s
        request = _Request(self, walked, future, level, hold)
        request.deadline = None if wait is None else time.monotonic() + wait
        self._send(request.journey())
        return future

    def _enter(self, rows: int) -> None:
        try:
            self._room.enter(rows)
        except Overloaded:
            self.observer.refused("closed" if self._room.closed else "full")
            raise

    def record(self, x: AnyRows) -> Future[Mapping[str, FloatArray]] | None:
        """What every stage says of some inputs, computed when nothing else waits; None: no room."""
        if self._room.closed or not self._places.acquire(blocking=False):
            return None
        recorded = EveryStage(self.plan.graph.order, self.runtime, x)
        future: Future[Mapping[str, FloatArray]] = Future()
        future.add_done_callback(lambda _: self._places.release())
        self._send(
            Journey(
                recorded,
                _alike(recorded.fields, False),
                done=lambda: _settle(future, recorded.scores),
                failed=lambda problem: _fail(future, problem),
                wanted=lambda: not future.cancelled(),
                background=True,
            )
        )
        return future

    def close(self, wait_s: float | None = None) -> None:
        """Takes no more requests, answers those that are there, and ends the threads.

        Args:
            wait_s: seconds to wait for that, at most; None: any number.
        """
        self._room.close(wait_s)
        for queue in self.queues.values():
            queue.close()
        for queue in self.queues.values():
            for thread in queue.threads:
                thread.join(wait_s)

    def _send(self, journey: Journey) -> None:
        """To the stage that it comes to, or back where it has arrived."""
        if journey.walked.work is None:
            journey.done()
            return
        journey.since = time.monotonic()
        self.queues[journey.walked.work.stage].put(journey)

    def _run(self, stage: str, taken: list[Journey]) -> None:
        """Runs a stage for journeys that go together, and sends each of them on."""
        journeys = [journey for journey in taken if journey.wanted()]
        if not journeys:
            return
        begin = time.monotonic()
        for journey in journeys:
            journey.waited_s += begin - journey.since
        try:
            found = scores_together(
                stage, [_passing(journey) for journey in journeys], alone=journeys[0].walked.alone
            )
        except Exception as problem:  # whatever an engine or a user's function raises
            self._apart(stage, journeys, problem)
            return
        seconds = time.monotonic() - begin
        self.observer.ran(stage, journeys, sum(journey.size for journey in journeys), seconds)
        for journey, scores in zip(journeys, found, strict=True):
            journey.computed_s += seconds
            try:
                journey.walked.hear(scores)
                self._send(journey)
            except Exception as problem:  # of a policy, or a committee: of this request alone
                journey.failed(problem)

    def _apart(self, stage: str, journeys: list[Journey], problem: Exception) -> None:
        """Runs each alone after all failed together, so that none fails for another's inputs."""
        if len(journeys) == 1:
            journeys[0].failed(problem)
            return
        for journey in journeys:
            journey.since = time.monotonic()
            self._run(stage, [journey])


@dataclass(eq=False)
class _Request:
    """What is to be said to whom."""

    service: Service
    walked: Walked
    future: Future[Served]
    level: Rung
    hold: Any
    deadline: float | None = None  # of the clock
    way: Journey | None = None

    def journey(self) -> Journey:
        alike = _alike(self.walked.fields, self.walked.alone)
        self.way = Journey(self.walked, alike, self.answer, self.fail, self.wanted)
        return self.way

    def wanted(self) -> bool:
        if self.future.cancelled():
            self.service.observer.refused("gone")
            return False
        if self.deadline is not None and time.monotonic() > self.deadline:
            late = "the deadline passed before the answer was there; send it again later."
            self.service.observer.refused("late")
            _fail(self.future, TooLate(late))
            return False
        return True

    def answer(self) -> None:
        assert self.way is not None
        service, plan = self.service, self.level.plan
        served = Served(
            answers=self.walked.answers(),
            tradeoff=plan.tradeoff,
            budget=self.level.budget,
            level=service.position_of(self.level),
            waited_s=self.way.waited_s,
            computed_s=self.way.computed_s,
        )
        if _settle(self.future, served):
            service.observer.answered(served, self.walked.fields, self.hold)

    def fail(self, problem: BaseException) -> None:
        self.service.observer.refused("failed")
        if not isinstance(problem, OfframpError):
            problem = NetworkError(f"a stage failed on these inputs: {problem!r}.")
        _fail(self.future, problem)


def _passing(journey: Journey) -> Passing:
    return Passing(journey.walked.batch, journey.walked.rows, journey.size)


def _alike(fields: Fields, alone: bool) -> tuple[Any, ...]:
    """What fields must share to run together: names, types, and the shapes of a row."""
    each = ((n, getattr(v, "dtype", None), v.shape[1:]) for n, v in sorted(fields.items()))
    return alone, *each


def _settle(future: Future[Any], value: Any) -> bool:
    """Gives an answer to whom still waits for it; whether somebody did."""
    try:
        if not future.set_running_or_notify_cancel():
            return False
        future.set_result(value)
    except InvalidStateError:  # too late, or gone, in this very moment
        return False
    return True


def _fail(future: Future[Any], problem: BaseException) -> None:
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(problem)
