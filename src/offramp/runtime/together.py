"""Several batches through one stage in a single run of each part, as a server brings them together.

What was made is handed back to each batch, so that nothing runs twice for the same row, whoever it
ran together with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import whole
from offramp.runtime.rows import Made, join, take_along
from offramp.runtime.stages import Batch, with_scores


@dataclass(frozen=True)
class Passing:
    """Rows of a batch that come to a stage."""

    batch: Batch
    rows: IntArray | None  # (n,) ascending; None: all
    count: int


def scores_together(
    stage: str, passing: Sequence[Passing], *, alone: bool = False
) -> list[FloatArray]:
    """What a stage says of the rows of each batch, (rows, classes), from one run of each part.

    Args:
        stage: that they come to.
        passing: of the same runtime, with fields of the same types and shapes.
        alone: run the network uncut, where it can run so.

    Raises:
        NetworkError: the stage cannot run on these inputs.
    """
    stages = passing[0].batch.stages
    if alone and whole(stage) in stages.parts:
        end = whole(stage)
    else:
        end = stages.end[stage]
        for part in stages.bodies[stage]:
            _need(part, passing)
    name = stages.wanted[end][0]
    found = zip(_need(end, passing), passing, strict=True)
    return [made.of(name, some.rows) for made, some in found]


def _need(part: str, passing: Sequence[Passing]) -> list[Made]:
    """What `part` made of each batch, after one run for all rows that it has not seen."""
    lacking = [some for one in passing if (some := _lacking(part, one)) is not None]
    if lacking:
        _run(part, lacking)
    return [some.batch.made[part] for some in passing]


def _lacking(part: str, some: Passing) -> Passing | None:
    """The rows that a part has not seen; None: it has seen all."""
    known = some.batch.made.get(part)
    if known is None:
        return some
    rows = known.lacks(some.rows)
    if rows is None:
        return Passing(some.batch, None, some.count)
    return Passing(some.batch, rows, len(rows)) if len(rows) else None


def _run(part: str, passing: Sequence[Passing]) -> None:
    stages = passing[0].batch.stages
    given: dict[str, Any] = {}
    for name, source in stages.source[part].items():
        if source is None:
            axis: int | None = 0
            pieces = [one.batch.field(part, name)[_all_or(one.rows)] for one in passing]
        else:
            axis = stages.axes[source][name]
            made = zip(_need(source, passing), passing, strict=True)
            pieces = [found.of(name, one.rows) for found, one in made]
        if len(pieces) == 1 or axis is None:
            given[name] = pieces[0]
        else:
            given[name] = join(pieces[0], *pieces[1:], axis=axis)
    wanted = stages.wanted[part]
    values = stages.parts[part](given, wanted)
    if part in stages.speaking:
        values = with_scores(part, values, wanted[0])
    start = 0
    for one in passing:
        place = slice(start, start + one.count)
        own = values if len(passing) == 1 else _taken(values, place, stages.axes[part])
        _keep(one.batch, part, Made(one.rows, own, stages.axes[part]))
        start += one.count


def _all_or(rows: IntArray | None) -> IntArray | slice:
    return slice(None) if rows is None else rows


def _taken(values: Any, place: slice, axes: Any) -> dict[str, Any]:
    along = {name: axes[name] for name in values}
    return {
        name: value if along[name] is None else take_along(value, place, along[name])
        for name, value in values.items()
    }


def _keep(batch: Batch, part: str, found: Made) -> None:
    known = batch.made.get(part)
    batch.made[part] = found if known is None else known.joined(found)
