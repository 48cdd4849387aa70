"""A queue before each stage: what waits while a stage is busy becomes its next batch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from offramp.base.arrays import FloatArray
from offramp.base.fields import Fields, count, fields_of
from offramp.core.walk import Work
from offramp.runtime.engine import AnyRows
from offramp.runtime.stages import Batch, Stages


class OnItsWay(Protocol):
    """A batch that says what it wants to be run next, and hears what was said."""

    alone: bool  # whether its networks run uncut
    batch: Batch
    work: Work | None  # None: it has arrived

    @property
    def rows(self) -> Any:
        """The rows of `work`; None: all."""

    def hear(self, scores: Any) -> None:
        """Goes on with the scores of `work`."""


@dataclass(eq=False)
class Journey:
    """One request on its way through the stages."""

    walked: OnItsWay
    alike: Hashable  # only requests of the same run together: types and shapes of their fields
    done: Callable[[], object]  # called once it has arrived
    failed: Callable[[BaseException], None]
    wanted: Callable[[], bool]  # whether somebody still waits; asked before anything is computed
    background: bool = False  # runs only where nobody else waits
    since: float = 0.0  # when it came to the queue it is in, as the clock has it
    waited_s: float = 0.0
    computed_s: float = 0.0  # of the runs that it took part in

    @property
    def size(self) -> int:
        """Rows that come to the next stage."""
        return len(self.walked.work.rows) if self.walked.work else 0


@dataclass(eq=False)
class StageQueue:
    """What waits for a stage, and the threads that run it."""

    stage: str
    run: Callable[[str, list[Journey]], None]  # of journeys that go together
    most: int  # rows in a batch, unless a single request has more
    threads: list[threading.Thread] = field(default_factory=list)
    waiting: deque[Journey] = field(default_factory=deque)
    behind: deque[Journey] = field(default_factory=deque)  # those in the background
    changed: threading.Condition = field(default_factory=threading.Condition)
    closed: bool = False

    def start(self, workers: int) -> None:
        """Starts the threads that take batches from the queue."""
        for number in range(workers):
            name = f"offramp {self.stage} {number + 1}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self.threads.append(thread)
            thread.start()

    def put(self, journey: Journey) -> None:
        with self.changed:
            (self.behind if journey.background else self.waiting).append(journey)
            self.changed.notify()

    def take(self) -> list[Journey] | None:
        """The next batch, as soon as there is one; None: the queue is closed and empty."""
        with self.changed:
            while not (self.waiting or self.behind or self.closed):
                self.changed.wait()
            return self._batch(self.waiting or self.behind) if self.depth else None

    def _batch(self, line: deque[Journey]) -> list[Journey]:
        """Those at the front that go together; others keep their places."""
        taken, rows = [line.popleft()], 0
        rows += taken[0].size
        kept: list[Journey] = []
        while line and rows < self.most:
            journey = line.popleft()
            if journey.alike == taken[0].alike and rows + journey.size <= self.most:
                taken.append(journey)
                rows += journey.size
            else:
                kept.append(journey)
        line.extendleft(reversed(kept))
        return taken

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return len(self.waiting) + len(self.behind)

    def close(self) -> None:
        """Ends the threads once nothing waits."""
        with self.changed:
            self.closed = True
            self.changed.notify_all()

    def _work(self) -> None:
        while (taken := self.take()) is not None:
            self.run(self.stage, taken)


class EveryStage:
    """A batch that every stage scores, whatever a policy would do: what an audit needs.

    Args:
        graph_order: the stages that answer, each after all that may precede it.
        runtime: runs them.
        x: inputs (n, ...), by field where there are several.
    """

    batch: Batch

    def __init__(self, graph_order: Sequence[str], runtime: Stages, x: AnyRows) -> None:
        self.fields: Fields = fields_of(x)
        self.batch = runtime.begin(self.fields)
        self.alone: bool = False
        self.rows: None = None
        self.scores: dict[str, FloatArray] = {}
        self._every = np.arange(count(self.fields))
        self._coming = iter(graph_order)
        self.work: Work | None = Work(next(self._coming), self._every)

    def hear(self, scores: FloatArray) -> None:
        assert self.work is not None
        self.scores[self.work.stage] = scores
        following = next(self._coming, None)
        self.work = None if following is None else Work(following, self._every)
