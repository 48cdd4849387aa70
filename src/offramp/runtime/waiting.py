"""Calls that take their time: several at once, each with a time-out and further tries."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import os
import random
import threading
from asyncio import AbstractEventLoop, Future, Semaphore
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from offramp.base.errors import InputError, NetworkError

PAUSE_S = 0.5  # before the second try, at most; doubles with each
LONGEST_PAUSE_S = 30.0
_lock = threading.Lock()
_loops: dict[int, tuple[AbstractEventLoop, threading.Thread]] = {}  # by process: forks have no loop


class Unanswered(Exception):  # noqa: N818 - reads as the situation
    """A call that failed for good."""

    number: int
    tries: int

    def __init__(self, number: int, tries: int, problem: BaseException | None) -> None:
        super().__init__(number, tries, problem)
        self.number, self.tries = number, tries  # of the call, from 0 on; how often it was tried
        self.problem = problem  # what it raised; None: it took too long


@dataclass(frozen=True)
class Waiting:
    """How calls are waited for.

    Raises:
        InputError: a number out of range.
    """

    limit: int  # calls at once
    timeout_s: float | None  # None: any number of seconds
    retries: int  # further tries
    turns: WeakKeyDictionary[AbstractEventLoop, Semaphore] = field(
        default_factory=WeakKeyDictionary
    )

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InputError(f"the limit of calls at once is {self.limit}; give at least 1.")
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise InputError(
                f"timeout_s is {self.timeout_s}; give seconds above 0, or None for any number."
            )
        if self.retries < 0:
            raise InputError(f"the number of retries is {self.retries}; give 0 or more.")

    @property
    def needless(self) -> bool:
        """Whether nothing is asked for that one needs a thread for."""
        return self.timeout_s is None and not self.retries

    def ask(self, function: Callable[[Any], Any], given: Sequence[Any]) -> list[Any]:
        """What a function, plain or async, answers to each of some arguments, in their order.

        Raises:
            Unanswered: the first that failed for good; the others are called off.
            NetworkError: an async function asks, which would wait for itself.
        """
        loop, thread = _running_loop()
        if threading.current_thread() is thread:
            raise NetworkError(
                "an async function of a stage runs a plan itself, and would wait for its own "
                "thread. Write `await calls.ainfer(plan, x)` there."
            )
        waited = asyncio.run_coroutine_threadsafe(self._every(function, given), loop)
        try:
            return waited.result()
        except BaseException:  # an interrupted caller as well
            waited.cancel()
            raise

    async def _every(self, function: Callable[[Any], Any], given: Sequence[Any]) -> list[Any]:
        turns = self.turns.setdefault(asyncio.get_running_loop(), Semaphore(self.limit))
        try:
            async with asyncio.TaskGroup() as group:
                calls = [
                    group.create_task(self._tried(partial(function, argument), number, turns))
                    for number, argument in enumerate(given)
                ]
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [call.result() for call in calls]

    async def _tried(self, call: Callable[[], Any], number: int, turns: Semaphore) -> Any:
        """The answer of one call, after as many tries as it takes and may have."""
        for tries in range(1, self.retries + 2):
            try:
                async with turns, asyncio.timeout(self.timeout_s) as clock:
                    return await _answered(call)
            except (Exception, SystemExit) as problem:
                late = clock.expired()
                # a thread may still be at it, and would do its work twice
                if tries > self.retries or (late and not is_async(call)):
                    raise Unanswered(number, tries, None if late else problem) from problem
            await asyncio.sleep(pause_s(tries))
        raise AssertionError("the last try answers or raises")


def pause_s(tries: int) -> float:
    """Seconds to wait after so many tries: exponential, and random so that calls spread.

    Source: full jitter, Brooker 2015, Exponential backoff and jitter.
    """
    return random.uniform(0, min(LONGEST_PAUSE_S, PAUSE_S * 2 ** (tries - 1)))


def is_async(function: Any) -> bool:
    """Whether calling it gives something to await, as far as can be told before."""
    while isinstance(function, partial):
        function = function.func
    called = getattr(function, "__call__", None)  # noqa: B004 - its own, to look at
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)


async def _answered(call: Callable[[], Any]) -> Any:
    answer = call() if is_async(call) else await _in_thread(call)
    return await answer if inspect.isawaitable(answer) else answer


async def _in_thread(call: Callable[[], Any]) -> Any:
    """What a plain function answers in a daemon thread, which is left behind if nobody waits."""
    loop = asyncio.get_running_loop()
    told: Future[tuple[Any, BaseException | None]] = loop.create_future()

    def tell(answer: Any, problem: BaseException | None) -> None:
        if not told.done():
            told.set_result((answer, problem))

    def work() -> None:
        answer, problem = None, None
        try:
            answer = call()
        except BaseException as raised:
            problem = raised
        loop.call_soon_threadsafe(tell, answer, problem)

    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(work,), daemon=True, name="offramp call").start()
    answer, problem = await told
    if problem is not None:
        raise problem
    return answer


def _running_loop() -> tuple[AbstractEventLoop, threading.Thread]:
    """The event loop of all calls of this process, and the daemon thread that it runs in."""
    process = os.getpid()
    with _lock:
        if process not in _loops:
            loop = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="offramp calls", daemon=True)
            thread.start()
            _loops[process] = loop, thread
        return _loops[process]
