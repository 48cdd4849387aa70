"""Tables of what stages said, recorded elsewhere: columns `<stage>.scores`, `<stage>.cost`, ...

| column | meaning |
|---|---|
| `<stage>.scores` | lists of numbers, one per class; or columns `<stage>.scores.0`, `.1`, ... |
| `<stage>.loss`, `<stage>.quality` | in [0, 1]; the loss is 1 - quality |
| `<stage>.cost` | what the stage costs that example |
| `<stage>.answer` | of any one type; equal values are equal answers |
| `<stage>.<anything else>` | a number that policies may look at, where stages have no scores |
| `label`, `id` | of the example |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray, IntArray
from offramp.base.errors import CostError, DataError, InputError, LossError, TraceError
from offramp.core import tasks
from offramp.core.costs import Costs
from offramp.core.example_costs import priced_by
from offramp.core.graph import Graph, Stage
from offramp.core.parts import unread
from offramp.core.rows import RowFacts
from offramp.core.tables import Columns
from offramp.core.task import SINGLE, Task
from offramp.core.task.recorded import RecordedAnswers

UNIT = "unit"  # of costs per example, where nobody says
SCORES, LOSS, QUALITY, COST, ANSWER = "scores", "loss", "quality", "cost", "answer"
_ITSELF = (SCORES, LOSS, QUALITY, ANSWER)  # columns that make a stage
_MAKES = (
    "a stage has a column `<stage>.scores`, `<stage>.loss` or `<stage>.quality`, or "
    "`<stage>.answer` beside `label`"
)


@dataclass(frozen=True, kw_only=True)
class FrameOptions:
    """What a table does not say itself."""

    stages: Iterable[str | Stage] | None = None  # in this order; None: those with columns
    # of stages without a column `<stage>.cost`, and the unit of those that columns hold
    costs: Costs | None = None
    edges: str | None = None  # "a>b,b>c"; None makes a chain
    reference: str | None = None  # None: the last stage
    task: Task = SINGLE  # what scores and labels mean, where there are scores


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a table holds, as `assemble` takes it."""

    graph: Graph
    costs: Costs
    scores: Mapping[str, AnyArray]  # stage -> (examples, classes); of recorded answers observations
    labels: IntArray | None
    facts: RowFacts
    info: Mapping[str, Any]  # what was left aside, and names of observations


def framed(table: Columns, options: FrameOptions) -> Frame:
    """What a table holds of some stages.

    Args:
        table: of columns as above.
        options: which stages, and what they cost where no column says so.

    Raises:
        InputError, DataError, ScoresError, LossError, CostError: a column that is missing, holds no
            values, others than asked for, or values out of range.
        TraceError: no rows.
    """
    if not table.rows:
        raise TraceError(f"{table.where} has no rows; record at least a few hundred examples.")
    stages = _stages(table, options)
    names = [stage.name for stage in stages]
    each = {name: _Stage(table, name) for name in names}
    costs, per_example = _costs(each, options)
    if options.stages is None and not (options.costs and set(names) <= set(options.costs.body)):
        stages = sorted(stages, key=lambda stage: costs.body[stage.name] + costs.head[stage.name])
    graph = Graph.build(stages, options.edges, options.reference)
    recorded = not all(stage.scored for stage in each.values())
    said = _recorded(table, each) if recorded else _scored(table, each)
    info = {"observations": said.observations} if recorded else {}
    return Frame(
        graph=graph,
        costs=costs,
        scores=said.scores,
        labels=said.labels,
        facts=RowFacts(
            ids=table.words("id") if "id" in table.names else None,
            loss=said.loss,
            costs=per_example,
            task=RecordedAnswers() if recorded else options.task,
            answers=said.answers,
        ),
        info={**info, "left_aside": unread(table.names, table.read, table.where)},
    )


def _stages(table: Columns, options: FrameOptions) -> list[Stage]:
    """The stages that are asked for, or all that the columns make."""
    there = _found(table)
    if options.stages is None and options.costs and set(there) <= set(options.costs.body):
        wanted: list[str | Stage] = [*options.costs.body]
    else:
        wanted = [*(there if options.stages is None else options.stages)]
    stages = [stage if isinstance(stage, Stage) else Stage(stage) for stage in wanted]
    if missing := [stage.name for stage in stages if stage.name not in there]:
        raise InputError(
            f"stage '{missing[0]}' has no columns in {table.where}: {_MAKES}. Its stages are "
            f"{', '.join(there) or 'none'}."
        )
    if not stages:
        raise InputError(
            f"{table.where} holds no stage: {_MAKES}; its columns are {', '.join(table.names)}."
        )
    return stages


def _found(table: Columns) -> list[str]:
    """Every stage that columns make, in their order."""
    parts = [name.split(".") for name in table.names]
    answers = [part[0] for part in parts if len(part) > 1 and part[1] in _ITSELF]
    return list(dict.fromkeys(answers))


def _costs(
    each: Mapping[str, _Stage], options: FrameOptions
) -> tuple[Costs, Mapping[str, AnyArray] | None]:
    """Costs per stage and, where columns say so, of every example."""
    given = options.costs
    if given is not None and (unknown := [name for name in given.body if name not in each]):
        raise CostError(
            f"a cost is given for '{unknown[0]}', which is no stage here; the stages are "
            f"{', '.join(each)}."
        )
    if given is not None and set(given.body) == set(each):
        return given, None
    if given is not None and (any(given.head.values()) or given.whole):
        raise CostError(
            "costs of bodies and heads do not go with costs per example: give each stage one "
            "number, or all of them as numbers."
        )
    fixed = given.body if given is not None else {}
    columns = {name: fixed.get(name) or stage.cost() for name, stage in each.items()}
    rows = next(iter(each.values())).table.rows
    return priced_by(columns, rows, given.unit if given is not None else UNIT)


@dataclass(frozen=True, kw_only=True)
class _Said:
    """What stages said, as a trace holds it."""

    scores: Mapping[str, AnyArray]
    labels: IntArray | None = None
    loss: Mapping[str, AnyArray] | None = None
    answers: Mapping[str, IntArray] | None = None
    observations: Mapping[str, Sequence[str]] | None = None  # their names


def _scored(table: Columns, each: Mapping[str, _Stage]) -> _Said:
    """Classes that are scored."""
    label = _label(table)
    loss = {name: stage.loss() for name, stage in each.items() if stage.judged}
    if loss and (without := [name for name in each if name not in loss]):
        raise LossError(
            f"stage '{without[0]}' has no `{without[0]}.loss` or `.quality`, others have. Give all "
            "stages a loss, or none."
        )
    labels = None if label is None else tasks.whole_labels(table.plain(label), table.where)
    scores = {name: stage.scores() for name, stage in each.items()}
    return _Said(scores=scores, labels=labels, loss=loss or None)


def _recorded(table: Columns, each: Mapping[str, _Stage]) -> _Said:
    """Answers without scores, with a loss of each."""
    label = _label(table)
    judged = all(stage.judged for stage in each.values())
    answered = all(stage.answered for stage in each.values())
    if not judged and not (answered and label):
        lacking = next((n for n, s in each.items() if not s.judged), "")
        raise LossError(
            f"nobody knows how good the answers of '{lacking}' are: give every stage a column "
            f"`{lacking}.loss` or `{lacking}.quality`, or `{lacking}.answer` and a `label`."
        )
    answers = {f"{n}.{ANSWER}": s.column(ANSWER) for n, s in each.items()} if answered else {}
    if not judged and label:
        answers[label] = table.plain(label)
    ids = numbered(answers)
    answer_ids = {name: ids[f"{name}.{ANSWER}"] for name in each} if answered else None
    if judged:
        loss = {name: stage.loss() for name, stage in each.items()}
    else:
        right = ids[str(label)]
        loss = {n: (given != right).astype(float) for n, given in (answer_ids or {}).items()}
    seen = {name: stage.observations() for name, stage in each.items()}
    return _Said(
        scores={name: values for name, (_, values) in seen.items()},
        loss=loss,
        answers=answer_ids,
        observations={name: names for name, (names, _) in seen.items()},
    )


def _label(table: Columns) -> str | None:
    return next((name for name in tasks.LABELS if name in table.names), None)


def numbered(columns: Mapping[str, AnyArray]) -> dict[str, IntArray]:
    """Answers of any one type as numbers, equal where the answers are, (examples,) each.

    Raises:
        DataError: columns of different types.
    """
    kinds = {name: _kind(values) for name, values in columns.items()}
    first = next(iter(kinds), "")
    for name, kind in kinds.items():
        if kind != kinds[first]:
            raise DataError(
                f"`{first}` holds {kinds[first]}, `{name}` {kind}. Answers are compared: give all "
                "of them as one type."
            )
    if not columns:
        return {}
    _, ids = np.unique(np.concatenate([*columns.values()]), return_inverse=True)
    parts = np.split(ids.reshape(-1).astype(np.int64), len(columns))
    return dict(zip(columns, parts, strict=True))


def _kind(values: AnyArray) -> str:
    kinds = {"b": "true or false", "i": "whole numbers", "u": "whole numbers", "f": "numbers"}
    return kinds.get(values.dtype.kind, "text")


@dataclass(frozen=True)
class _Stage:
    """The columns of one stage."""

    table: Columns
    name: str

    def column(self, what: str) -> AnyArray:
        return self.table.plain(f"{self.name}.{what}")

    def has(self, what: str) -> bool:
        return f"{self.name}.{what}" in self.table.names

    @property
    def scored(self) -> bool:
        return self.has(SCORES) or bool(self._spread)

    @property
    def judged(self) -> bool:
        return self.has(LOSS) or self.has(QUALITY)

    @property
    def answered(self) -> bool:
        return self.has(ANSWER)

    @property
    def _spread(self) -> list[str]:
        """The columns that hold one score each, in their order."""
        start = f"{self.name}.{SCORES}."
        return [name for name in self.table.names if name.startswith(start)]

    def scores(self) -> AnyArray:
        """(examples, classes), from lists or from one column per class."""
        if self.has(SCORES):
            return self.table.lists(f"{self.name}.{SCORES}")
        wanted = [f"{self.name}.{SCORES}.{number}" for number in range(len(self._spread))]
        if missing := [name for name in wanted if name not in self._spread]:
            raise InputError(
                f"{self.table.where} has {len(wanted)} columns {self.name}.{SCORES}.N, but no "
                f"`{missing[0]}`; count the classes from 0."
            )
        return np.column_stack([self.table.numbers(name) for name in wanted])

    def loss(self) -> AnyArray:
        """(examples,) in [0, 1]."""
        if self.has(LOSS) and self.has(QUALITY):
            raise LossError(
                f"stage '{self.name}' has both `{self.name}.{LOSS}` and `{self.name}.{QUALITY}`; "
                "leave one of them out."
            )
        name = f"{self.name}.{LOSS if self.has(LOSS) else QUALITY}"
        values = self.table.numbers(name)
        if values.min() < 0 or values.max() > 1:
            raise LossError(
                f"`{name}` goes from {values.min():.4g} to {values.max():.4g}; it must lie in "
                "[0, 1]: subtract the smallest value that there can be, and divide by the range."
            )
        return values if self.has(LOSS) else 1 - values

    def cost(self) -> AnyArray:
        if not self.has(COST):
            raise CostError(
                f"stage '{self.name}' has no column `{self.name}.{COST}`. Add one, or give one "
                f"cost per stage: --cost {self.name}=1,..."
            )
        return self.table.numbers(f"{self.name}.{COST}", finite=False)

    def observations(self) -> tuple[list[str], AnyArray]:
        """Names, and values float32 (examples, k): its scores if any, then its other numbers."""
        names, values = [], [np.empty((self.table.rows, 0))]
        if self.scored:
            values.append(self.scores())
            names += [f"{SCORES}.{number}" for number in range(values[-1].shape[1])]
        for name in self.table.numeric(f"{self.name}."):
            what = name.removeprefix(f"{self.name}.")
            if what.split(".")[0] not in (*_ITSELF, COST):
                values.append(self.table.numbers(name)[:, None])
                names.append(what)
        return names, np.hstack(values).astype(np.float32)
