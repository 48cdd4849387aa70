"""Audits of a server: some rows are scored by every stage after their answer has left, and watched.

What an alarm does is the user's choice: turn to the safe side, run the reference alone, or only
say so.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import BudgetError, OfframpError
from offramp.base.fields import Fields, take
from offramp.base.hashing import hash_rows
from offramp.core.trace import Trace
from offramp.plan.watch import Raised, Watching
from offramp.recording.audits import LATE_LABELS, Audits, labelled, read_labels
from offramp.serving.brownout import Rung, reference_alone, safer
from offramp.serving.service import Served, Service
from offramp.serving.tracing import Caller, tell

OnAlarm = Literal["safer", "reference", "say"]
_TOGETHER = 256  # audited rows that are written at once, or
_WRITE_S = 5.0  # what came in so many seconds


@dataclass(frozen=True, kw_only=True)
class Auditing:
    """How requests are audited.

    Raises:
        BudgetError: a share outside (0, 1].
    """

    share: float  # of rows
    on_alarm: OnAlarm = "safer"
    error: float = 0.05  # chance of a false alarm ever, of all guards of a version together
    folder: Path | None = None  # where audits are kept; None: nowhere

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise BudgetError(f"--audit is {self.share}; it is a share of rows above 0, at most 1.")


@dataclass(frozen=True)
class _Audited:
    """A request whose rows every stage has scored."""

    ids: list[str]
    hashes: AnyArray
    scores: Mapping[str, FloatArray]
    at: datetime


class Auditor:
    """Audits the requests of a service, and turns its dial where a guard raises the alarm.

    A thread of its own looks at what was scored; `observe` is what a service's observer calls.

    Args:
        service: that answers.
        auditing: how much, and what an alarm does.
        count: told how many rows were audited.

    Raises:
        LossError: the plan's loss is the user's own, and cannot be watched.
        InputError: the folder holds something else.
    """

    service: Service
    auditing: Auditing
    audits: Audits

    def __init__(
        self,
        service: Service,
        auditing: Auditing,
        count: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self.service, self.auditing, self._count = service, auditing, count
        self.audits = Audits(auditing.folder, service.plan)
        self._chance = random.Random()
        self._came: queue.SimpleQueue[_Audited | threading.Event | None] = queue.SimpleQueue()
        self._at: dict[str, str] = {}  # id -> when it was answered
        self._labels_seen: set[str] = set()
        self._labels_of = 0.0  # when the file of labels was written that was read last
        plans = service.watched
        self._error = auditing.error / len(plans)
        self._watches: dict[str, tuple[Rung, Watching]] = {
            name: (rung, Watching(rung.plan, error=self._error / 2)) for name, rung in plans.items()
        }
        self._states: list[dict[str, Any]] = []
        self._alarms: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._work, name="offramp audits", daemon=True)
        self._thread.start()

    def observe(self, served: Served, fields: Fields, hold: Any) -> None:
        """Audits some rows of a request that was answered, chosen by chance."""
        rows = [r for r in range(len(served.answers.position)) if self._chosen()]
        if not rows or not isinstance(hold, Caller):
            return
        single = len(served.answers.position) == 1
        ids = [hold.id if single else f"{hold.id}/{row}" for row in rows]
        some = take(fields, np.array(rows))
        recorded = self.service.record(some)
        if recorded is not None:
            recorded.add_done_callback(lambda future: self._scored(future, ids, some))

    def _chosen(self) -> bool:
        return self._chance.random() < self.auditing.share

    def _scored(self, future: Future[Any], ids: list[str], fields: Fields) -> None:
        if not future.cancelled() and future.exception() is None:
            hashes = hash_rows(*(fields[name] for name in sorted(fields)))
            self._came.put(_Audited(ids, hashes, future.result(), datetime.now(UTC)))

    def settle(self) -> None:
        """Waits until all that was scored is looked at, and written."""
        done = threading.Event()
        self._came.put(done)
        done.wait()

    def close(self) -> None:
        """Looks at what is left, and ends the thread."""
        self._came.put(None)
        self._thread.join()

    @property
    def alarmed(self) -> bool:
        return bool(self._alarms)

    def states(self) -> list[dict[str, Any]]:
        """What the guards say, as JSON values: those that raised the alarm first."""
        return [*self._alarms, *self._states]

    def _work(self) -> None:
        going = True
        while going:
            came: list[_Audited] = []
            settled: list[threading.Event] = []
            going = self._gather(came, settled)
            try:
                self._look(came)
            except OfframpError as problem:  # a full disk, say: answers go on
                tell("audits", 40, problem=str(problem))
            for event in settled:
                event.set()

    def _gather(self, came: list[_Audited], settled: list[threading.Event]) -> bool:
        """What comes in the next seconds; whether there will be more."""
        until = datetime.now(UTC).timestamp() + _WRITE_S
        while sum(len(one.ids) for one in came) < _TOGETHER:
            left = until - datetime.now(UTC).timestamp()
            try:
                found = self._came.get(timeout=max(0.0, left))
            except queue.Empty:
                return True
            if found is None:
                return False
            if isinstance(found, threading.Event):
                settled.append(found)
                return True
            came.append(found)
        return True

    def _look(self, came: list[_Audited]) -> None:
        trace = self._trace(came)
        if trace is not None:
            self._count(trace.examples)
            self.audits.add(trace)
        known = self._labelled()
        for name, (rung, watch) in list(self._watches.items()):
            raised = watch.see(trace) if trace is not None else []
            raised += watch.see_labels(known) if known is not None else []
            if raised:
                self._alarmed(name, rung, watch, raised[0])
        self._states = [
            {**self._dated(state), "guard": f"{state['guard']}{name}"}
            for name, (_, watch) in self._watches.items()
            for state in watch.to_json()
        ]

    def _trace(self, came: list[_Audited]) -> Trace | None:
        """Rows that were not audited before, as a trace; None: there are none."""
        fresh, ids = [], []
        for number, name in enumerate(name for one in came for name in one.ids):
            if name not in self.audits.known and name not in ids:
                fresh.append(number)
                ids.append(name)
        if not fresh:
            return None
        self._at |= {name: one.at.isoformat("T", "seconds") for one in came for name in one.ids}
        rows = np.array(fresh)
        scores = {
            stage: np.concatenate([one.scores[stage] for one in came])[rows]
            for stage in came[0].scores
        }
        return self.audits.trace_of(ids, scores, np.concatenate([one.hashes for one in came])[rows])

    def _labelled(self) -> Trace | None:
        """Audits whose labels came since the last time."""
        folder = self.audits.folder
        if folder is None or not (folder / LATE_LABELS).exists():
            return None
        written = (folder / LATE_LABELS).stat().st_mtime
        if written == self._labels_of:
            return None
        self._labels_of = written
        labels = {n: v for n, v in read_labels(folder).items() if n not in self._labels_seen}
        self._labels_seen |= set(labels)
        return labelled(Trace.read(folder), labels)

    def _alarmed(self, name: str, rung: Rung, watch: Watching, raised: Raised) -> None:
        state = next(one for one in watch.to_json() if one["guard"] == raised.guard)
        said = {**self._dated(state), "guard": f"{raised.guard}{name}"}
        did = self._turn(name, rung)
        self._alarms.append({**said, "did": did})
        tell("alarm", 40, **said, did=did)

    def _turn(self, name: str, rung: Rung) -> str:
        """Does what was asked for, and watches what runs then, at half the error."""
        how, dial = self.auditing.on_alarm, self.service.dial
        if how == "say":
            return "nothing: --on-alarm say"
        if name:  # of a larger budget: load may not use it any more
            dial.most, dial.position = 0, 0
            del self._watches[name]
            return "brown-out is off"
        held = safer(rung) if how == "safer" else reference_alone(rung)
        self._error /= 2
        if held is None:
            return "nothing: the reference runs alone"
        dial.held = held
        if held.plan.routes:
            self._watches[name] = (held, Watching(held.plan, error=self._error / 2))
            return f"the dial is at the tradeoff {held.plan.tradeoff:.4g}"
        self._watches.clear()
        return "the reference runs alone"

    def _dated(self, state: Mapping[str, Any]) -> dict[str, Any]:
        return {**state, "since": self._at.get(str(state["since_id"]))}
