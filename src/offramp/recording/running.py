"""What stages score the rows of one part of a recording, checked as far as rows can be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
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

    def part(self, group: list[ExampleBatch]) -> PartRows:
        """The rows of one part, from its batches.

        Raises:
            ScoresError: scores that are broken, of another form or kind.
            NetworkError: rows of a stage depend on each other.
        """
        kept = [batch.whole() for batch in group if len(batch)]
        if not kept:  # every image of this part was left out
            return PartRows({}, {}, [])
        every = [self._scores(batch) for batch in kept]
        scores = {stage: np.concatenate([one[stage] for one in every]) for stage in every[0]}
        notes = self._again(kept, scores)
        hashes = np.concatenate([batch.hashes for batch in kept])
        taught = self.networks.taught
        facts = RowFacts(
            ids=np.concatenate([batch.ids for batch in kept]),
            hashes=hashes,
            taught=None if taught is None else np.isin(hashes, taught),
            task=self.task,
        )
        graph, kind = self.networks.graph, self.kind or self.task.kinds[0]
        trace = assemble(graph, self._free, scores, labels=_labels(kept), kind=kind, facts=facts)
        return PartRows(trace.columns(), {_RANGE: json.dumps(_ranges(kept))}, notes)

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

    def _again(self, kept: list[ExampleBatch], scores: Mapping[str, FloatArray]) -> list[str]:
        """Compares the last rows of some batches with the same rows together, and alone.

        Returns sentences for stages whose scores hardly depend on other rows; raises as `Judge`.
        """
        if self.runtime.rows_apart:  # and may be paid for: none is asked about twice
            return []
        ends = np.cumsum([len(batch) for batch in kept]) - 1
        chosen = np.unique(np.linspace(0, len(kept) - 1, _AGAIN).astype(np.int64))
        x = joined([take(kept[i].fields, slice(-1, None)) for i in chosen])
        expected = {stage: values[ends[chosen]] for stage, values in scores.items()}
        groups = [np.arange(len(chosen)), np.array([0]), np.array([len(chosen) - 1])]
        return self.judge(differences(self.run, x, expected, groups, self.judge.tolerances))


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


def _labels(kept: list[ExampleBatch]) -> AnyArray | None:
    """The labels of all batches; None where one has none."""
    labels = [batch.labels for batch in kept if batch.labels is not None]
    return np.concatenate(labels) if len(labels) == len(kept) else None


def _ranges(kept: list[ExampleBatch]) -> Any:
    """What each field of some batches was like; of the only one without its name."""
    seen = {
        name: Range.together(Range.of(batch.fields[name]) for batch in kept)
        for name in kept[0].fields
    }
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
