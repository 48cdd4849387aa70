"""What stages score the rows of one part of a recording, checked as far as rows can be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import ScoresError
from offramp.base.fields import Fields, X, joined, take
from offramp.base.schema import record_of as record_of
from offramp.core.graph import Costs
from offramp.core.parts import parts
from offramp.core.rows import RowFacts
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import Kind, check_kind, no_scores
from offramp.core.trace import Trace, assemble
from offramp.networks.data import ExampleBatch, Examples
from offramp.networks.inputs import AllInputs, Inputs, Range
from offramp.networks.networks import Networks
from offramp.recording.independence import (
    Difference,
    Judge,
    ScoreStages,
    dependence,
    differences,
    runs,
)
from offramp.runtime.stages import Stages

_RANGE = b"offramp.range"  # in the metadata of a part: what its inputs were like
_TOGETHER = 64  # examples, at least, that are compared with the same run alone
_COUNTED = 256  # likewise, where scores are found to differ
_NONE = Difference(0.0, 0, 0)
_AGAIN = 8  # examples of each part that run once more, together and alone


@dataclass(frozen=True)
class PartRows:
    """What one part holds."""

    columns: Mapping[str, AnyArray]
    metadata: Mapping[bytes, str]
    notes: list[str]  # on stages whose rows depend on each other


@dataclass(frozen=True)
class Recorder:
    """Networks, what runs them, and what tells whether their rows depend on each other."""

    networks: Networks
    runtime: Stages
    judge: Judge
    kind: Kind | None  # what all scores are; None: as they look once all are there
    _: KW_ONLY
    task: Task = SINGLE  # what scores and labels mean

    @property
    def run(self) -> ScoreStages:
        return runs(self.runtime, self.networks.graph)

    def compared(self, examples: Examples, batch: int) -> list[str]:
        """Sentences on stages whose rows hardly depend on each other, on the first examples.

        Raises:
            NetworkError: rows of a stage depend on each other.
        """
        if self.runtime.rows_apart:
            return []
        size = max(batch, _TOGETHER)
        total: dict[str, Difference] = {}
        for first in islice(examples.batches(size), max(1, _COUNTED // size)):
            more = dependence(self.run, first.whole().fields, self.judge.tolerances)
            total = {stage: total.get(stage, _NONE) + change for stage, change in more.items()}
            if not self.judge.depends(total):
                break
        return self.judge(total)

    def part(self, group: Iterable[ExampleBatch]) -> PartRows:
        """The rows of one part, from its batches, of which one is held at a time.

        Raises:
            ScoresError: scores that are broken, of another form or kind.
            NetworkError: rows of a stage depend on each other.
        """
        spread = _Spread()
        kept = [self._ran(batch.whole(), spread) for batch in group if len(batch)]
        if not kept:  # every image of this part was left out
            return PartRows({}, {}, [])
        order = self.networks.graph.order
        scores = {stage: np.concatenate([one.scores[stage] for one in kept]) for stage in order}
        notes = self._again(spread)
        hashes = np.concatenate([one.hashes for one in kept])
        taught = self.networks.taught
        facts = RowFacts(
            ids=np.concatenate([one.ids for one in kept]),
            hashes=hashes,
            taught=None if taught is None else np.isin(hashes, taught),
            task=self.task,
        )
        graph, kind = self.networks.graph, self.kind or self.task.kinds[0]
        trace = assemble(graph, self._free, scores, labels=_labels(kept), kind=kind, facts=facts)
        return PartRows(trace.columns(), {_RANGE: json.dumps(_ranges(kept))}, notes)

    def _ran(self, batch: ExampleBatch, spread: _Spread) -> _Ran:
        """What is kept of a batch when it was run; its last row is added to `spread`."""
        scores = self._scores(batch)
        spread.add(batch.fields, scores)
        ranges = {name: Range.of(values) for name, values in batch.fields.items()}
        return _Ran(
            ids=batch.ids, labels=batch.labels, hashes=batch.hashes, scores=scores, ranges=ranges
        )

    @property
    def _free(self) -> Costs:
        order = self.networks.graph.order
        return Costs(dict.fromkeys(order, 1.0), dict.fromkeys(order, 0.0))

    def _scores(self, batch: ExampleBatch) -> dict[str, FloatArray]:
        """What every stage scores the rows of a batch, checked."""
        graph, running = self.networks.graph, self.runtime.begin(batch.fields)
        scores: dict[str, FloatArray] = {}
        for stage in graph.order:
            running.advance(stage, None)
            scores[stage] = running.answer(stage, None)
            _check_rows(stage, scores[stage], batch)
        # refuses what does not fit
        facts = RowFacts(task=self.task)
        assemble(graph, self._free, scores, labels=batch.labels, kind=self.kind, facts=facts)
        return scores

    def _again(self, spread: _Spread) -> list[str]:
        """Compares some rows that ran in their batches with the same rows together, and alone.

        Returns sentences for stages whose scores hardly depend on other rows; raises as `Judge`.
        """
        if self.runtime.rows_apart:  # and may be paid for: none is asked about twice
            return []
        rows = spread.chosen(_AGAIN)
        x = joined([fields for fields, _ in rows])
        expected = {
            stage: np.concatenate([scores[stage] for _, scores in rows])
            for stage in self.networks.graph.order
        }
        groups = [np.arange(len(rows)), np.array([0]), np.array([len(rows) - 1])]
        return self.judge(differences(self.run, x, expected, groups, self.judge.tolerances))


@dataclass(frozen=True, kw_only=True)
class _Ran:
    """What is kept of a batch: all but its inputs, which may be larger than memory together."""

    ids: AnyArray
    labels: AnyArray | None
    hashes: AnyArray
    scores: Mapping[str, FloatArray]
    ranges: Mapping[str, Range | None]  # of each field


@dataclass
class _Spread:
    """The last rows of batches evenly spread over however many come; few are held at a time."""

    step: int = 1
    count: int = 0  # of batches so far
    rows: list[tuple[Fields, dict[str, FloatArray]]] = field(default_factory=list)

    def add(self, fields: Fields, scores: Mapping[str, FloatArray]) -> None:
        if self.count % self.step == 0:
            last = slice(-1, None)
            own = {stage: values[last].copy() for stage, values in scores.items()}
            self.rows.append(({n: v.copy() for n, v in take(fields, last).items()}, own))
        self.count += 1
        if len(self.rows) > 2 * _AGAIN:
            self.rows, self.step = self.rows[::2], self.step * 2

    def chosen(self, number: int) -> list[tuple[Fields, dict[str, FloatArray]]]:
        """At most so many of them."""
        at = np.unique(np.linspace(0, len(self.rows) - 1, number).astype(np.int64))
        return [self.rows[i] for i in at]


def shown_kinds(networks: Networks, trace: Trace) -> dict[str, Kind]:
    """What scores are, of the stages whose networks show it and whose scores are so."""
    shown = {}
    for stage, kind in networks.kinds.items():
        if stage in trace.scores:
            try:
                check_kind(trace.scores[stage], kind, stage)
            except ScoresError:
                continue  # what they look like counts
            shown[stage] = kind
    return shown


def _labels(kept: Sequence[_Ran]) -> AnyArray | None:
    """The labels of all batches; None where one has none."""
    labels = [batch.labels for batch in kept if batch.labels is not None]
    return np.concatenate(labels) if len(labels) == len(kept) else None


def _ranges(kept: Sequence[_Ran]) -> Any:
    """What each field of some batches was like; of the only one without its name."""
    seen = {name: Range.together(batch.ranges[name] for batch in kept) for name in kept[0].ranges}
    found = {name: value and asdict(value) for name, value in seen.items()}
    return found if len(found) > 1 else next(iter(found.values()))


def recorded_inputs(out: Path, first: Fields) -> AllInputs:
    """What the inputs of all parts were like, those recorded before an interruption as well.

    Args:
        out: of the recording.
        first: the fields of a batch, of (n, ...).
    """
    metadata = [pq.read_schema(part).metadata or {} for part in parts(out)]
    ranges = [json.loads(entry.get(_RANGE, b"null")) for entry in metadata]

    def seen(name: str, x: AnyArray) -> Inputs:
        own = ranges if len(first) == 1 else [entry and entry.get(name) for entry in ranges]
        known = Range.together(value and record_of(Range, value) for value in own)
        return Inputs(x.shape[1:], str(x.dtype), known)

    found = {name: seen(name, x) for name, x in first.items()}
    return found if set(found) != {X} else found[X]


def _check_rows(stage: str, scores: FloatArray, batch: ExampleBatch) -> None:
    """Names the example whose scores are broken, which `assemble` cannot."""
    if scores.ndim != 2 or len(scores) != len(batch):
        raise ScoresError(
            f"stage '{stage}' gave scores of shape {scores.shape} for {len(batch)} examples; "
            "it must give one row of scores per example."
        )
    broken = no_scores(scores)
    if broken.any():
        raise ScoresError(
            f"stage '{stage}' gave NaN or infinite scores for example {batch.ids[broken][0]}. "
            "Check its input and the network; leave the example out if it is broken."
        )
