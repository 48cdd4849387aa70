"""Functions as stages: whatever takes rows and gives scores, in this process or far away."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp._version import __version__
from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.checked import checked
from offramp.base.errors import DataError, GraphError, NetworkError, reason
from offramp.core.graph import Graph, Stage
from offramp.plan.plan import Plan
from offramp.runtime.driver import infer
from offramp.runtime.engine import AnyRows, Engine, Fields, Program, Value, fields_of
from offramp.runtime.format import Answers
from offramp.runtime.rows import join
from offramp.runtime.stages import Batch, Stages
from offramp.runtime.waiting import Unanswered, Waiting, is_async

_X, _SCORES = "x", "scores"
_NAMED = 5  # rows that a message names, at most


@dataclass(frozen=True)
class PerRow:
    """A function that is asked about one row at a time, and gives its scores (classes,).

    It is called for several rows at once: in threads, or as tasks of one loop where it is async.
    """

    function: Callable[[Any], Any]

    def __call__(self, row: Any) -> Any:
        return self.function(row)


class Calls(Stages):
    """Runs functions as stages.

    A function takes the rows that come to its stage, and gives one row of scores for each in their
    order, (n, classes). It is given what the plan was given: an array (n, ...) of those rows, a
    list where rows are of any kind (prompts, say), or a mapping from field to either. A `PerRow`
    function takes one row and gives (classes,).

    An async function runs in an event loop in a thread, the same for all, so that a client which it
    keeps is to be made there, at its first call. A plain function runs in the thread of whoever
    asks if there is nothing to wait for: not `PerRow`, no time-out, no retries. Otherwise each call
    has a thread. Nothing can stop a thread: where a plain function takes too long the call fails,
    its thread is left behind as a daemon, and it is not tried again, as it may still be at work.

    Args:
        functions: stage -> function.
        graph: which stage may follow which; None: a chain in this order.
        limit: calls at once, of all stages together; those in the thread of whoever asks do not
            count.
        timeout_s: seconds that one call may take; None: any number.
        retries: further tries of a call that raises, or of an async one that takes too long, after
            pauses that double (0.5 s at most at first, 30 s at last) and are somewhat random.

    Raises:
        NetworkError: a stage without a function, or something that is none.
        GraphError: stages that read what others make, which functions cannot.
        InputError: a number out of range.
    """

    rows_apart: bool

    @checked
    def __init__(
        self,
        functions: Mapping[str, Any],
        graph: Graph | None = None,
        *,
        limit: int = 8,
        timeout_s: float | None = None,
        retries: int = 0,
    ) -> None:
        waiting = Waiting(limit, timeout_s, retries)
        asked = {stage: _asked(stage, f, waiting) for stage, f in functions.items()}
        for stage in graph.stages if graph else ():
            _check_whole(stage)
        super().__init__(asked, graph, engine=CALLS)
        self.rows_apart = all(isinstance(f, PerRow) for f in functions.values())

    def begin(self, x: AnyRows) -> Batch:
        """A batch of rows of any kind, by field where there are several, on its way."""
        rows: Any = Rowful.of(x)
        return Batch(self, {_X: rows})

    def run(self, stage: str, x: AnyRows) -> FloatArray:
        """The scores (n, classes) of a stage alone; n is at least 1.

        Raises:
            NetworkError: it raised, took too long, or gave something else than scores.
        """
        return super().run(stage, fields_of(x))

    async def ainfer(self, plan: Plan, x: AnyRows) -> Answers:
        """As `infer(plan, calls, x)`, for those who wait in an event loop of their own."""
        return await asyncio.to_thread(infer, plan, self, x)


def _asked(stage: str, function: Any, waiting: Waiting) -> Asking:
    inner = function.function if isinstance(function, PerRow) else function
    if not callable(inner) or isinstance(inner, type):
        raise NetworkError(
            f"stage '{stage}' is {inner!r:.60}, which is no function. Give what takes rows and "
            "gives scores (rows, classes), such as the predict_proba of an estimator."
        )
    return Asking(stage, inner, isinstance(function, PerRow), waiting)


def _check_whole(stage: Stage) -> None:
    """Raises GraphError where a stage continues another, or hears its scores."""
    if stage.after is not None or stage.hears:
        raise GraphError(
            f"stage '{stage.name}' reads what other stages make, and functions hand nothing on. "
            "Give a graph in which every stage is a network of its own."
        )


@dataclass(frozen=True)
class Rowful:
    """Rows of any kind, of which some are taken as of an array."""

    fields: Fields
    numbers: IntArray  # (n,) of these rows, in the batch that they come from

    @classmethod
    def of(cls, x: AnyRows) -> Rowful:
        """All rows of a batch. Raises DataError where fields have other numbers of them."""
        fields = fields_of(x)
        counts = {name: len(values) for name, values in fields.items()}
        if len(set(counts.values())) != 1:
            every = ", ".join(f"'{name}' has {count}" for name, count in counts.items())
            raise DataError(
                f"every field holds one row per example, but {every or 'there is no field'}. "
                "Give fields of one length."
            )
        return cls(fields, np.arange(next(iter(counts.values()))))

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self),)

    def __getitem__(self, rows: IntArray | slice) -> Rowful:
        taken = {name: values[rows] for name, values in self.fields.items()}
        return Rowful(taken, self.numbers[rows])

    def together(self) -> Any:
        """As a function of batches takes them."""
        values = self.fields.items()
        return _bare({n: list(v) if v.dtype == object else v for n, v in values})

    def each(self) -> list[Any]:
        """As a function of single rows takes them."""
        rows = zip(*self.fields.values(), strict=True)
        return [_bare(dict(zip(self.fields, row, strict=True))) for row in rows]

    def __str__(self) -> str:
        named = ", ".join(map(str, self.numbers[:_NAMED].tolist()))
        if len(self) == 1:
            return f"row {named}"
        return f"rows {named}" + (f", ... ({len(self)} in all)" if len(self) > _NAMED else "")


@join.register(Rowful)
def _join(value: Rowful, *more: Rowful, axis: int) -> Rowful:
    every = (value, *more)
    fields = {n: np.concatenate([rows.fields[n] for rows in every]) for n in value.fields}
    return Rowful(fields, np.concatenate([rows.numbers for rows in every]))


def _bare(fields: Mapping[str, Any]) -> Any:
    """What there is, by field unless the only one has no name of its own."""
    return fields[_X] if [*fields] == [_X] else fields


@dataclass(frozen=True)
class Asking:
    """A function, the name of its stage, and how its answers are waited for."""

    stage: str
    function: Callable[[Any], Any]
    per_row: bool
    waiting: Waiting

    def __str__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    def scores(self, rows: Rowful) -> AnyArray:
        """The scores (n, classes) of some rows.

        Raises:
            NetworkError: it raised, took too long, or gave something else than scores.
        """
        asked = [rows[np.array([i])] for i in range(len(rows))] if self.per_row else [rows]
        given = rows.each() if self.per_row else [rows.together()]
        try:
            found = self._answers(given)
        except Unanswered as problem:
            raise self._failed(asked[problem.number], problem) from problem.problem
        if self.per_row:
            return self._together(found, rows)
        return self._checked(found[0], rows)

    def _answers(self, given: Sequence[Any]) -> list[Any]:
        if self.per_row or not self.waiting.needless or is_async(self.function):
            return self.waiting.ask(self.function, given)
        try:
            found = self.function(given[0])
        except (Exception, SystemExit) as problem:
            raise Unanswered(0, 1, problem) from problem
        return self.waiting.ask(_self, [found]) if inspect.isawaitable(found) else [found]

    def _failed(self, rows: Rowful, failure: Unanswered) -> NetworkError:
        tries = "" if failure.tries == 1 else f" in {failure.tries} tries"
        if failure.problem is not None:
            return NetworkError(
                f"stage '{self.stage}' failed on {rows}{tries}: {reason(failure.problem)}. "
                "Mend its function, or leave out what it cannot answer."
            )
        left = "" if is_async(self.function) else " It still runs: nothing can stop a thread."
        return NetworkError(
            f"stage '{self.stage}' did not answer {rows} within {self.waiting.timeout_s:g} s"
            f"{tries}.{left} Give more time with timeout_s, or see what it waits for."
        )

    def _together(self, found: Sequence[Any], rows: Rowful) -> AnyArray:
        """The scores of rows that were asked about one by one."""
        scores = [self._numbers(row, rows) for row in found]
        shapes = {row.shape for row in scores}
        if len(shapes) != 1 or scores[0].ndim != 1:
            raise NetworkError(
                f"stage '{self.stage}' gave scores of shape "
                f"{', '.join(map(str, sorted(shapes)))} for single rows; a function per row gives "
                "(classes,), the same for all."
            )
        return np.stack(scores)

    def _checked(self, found: Any, rows: Rowful) -> AnyArray:
        scores = self._numbers(found, rows)
        if not scores.ndim or len(scores) != len(rows):
            gave = f"{len(scores)} rows" if scores.ndim else "one number"
            raise NetworkError(
                f"stage '{self.stage}' was asked about {len(rows)} rows and gave {gave}. A "
                "function gives one row of scores for each, in their order; mark one that takes "
                "a single row as PerRow(function)."
            )
        return scores

    def _numbers(self, found: Any, rows: Rowful) -> AnyArray:
        try:
            return np.asarray(found, dtype=np.float32)
        except (TypeError, ValueError, RuntimeError, OverflowError) as problem:
            raise NetworkError(
                f"stage '{self.stage}' gave {type(found).__name__} for {rows}, which are no "
                f"scores ({reason(problem)}). Give numbers (rows, classes)."
            ) from problem


async def _self(found: Any) -> Any:
    """What a plain function gave that is to be awaited."""
    return await found


def _opened(asking: Asking, threads: int) -> Program:
    def run(fields: Fields, wanted: Sequence[str]) -> dict[str, FloatArray]:
        rows: Any = fields[_X]
        return {_SCORES: asking.scores(rows if isinstance(rows, Rowful) else Rowful.of(rows))}

    return Program({_X: Value()}, {_SCORES: Value()}, run)


CALLS = Engine("Python functions", __version__, _opened, files=False)
"""Opens `Asking`; how many threads there are is up to the functions."""
