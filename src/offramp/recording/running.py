"""What stages score the rows of one part of a recording, checked as far as rows can be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import ScoresError
from offramp.base.hashing import hash_rows
from offramp.base.schema import record_of as record_of
from offramp.core.graph import Costs
from offramp.core.parts import parts
from offramp.core.rows import RowFacts
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import Kind, no_scores
from offramp.core.trace import assemble
from offramp.networks.data import ExampleBatch, Examples
from offramp.networks.inputs import Range
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
        size = max(batch, _TOGETHER)
        total: dict[str, Difference] = {}
        for first in islice(examples.batches(size), max(1, _COUNTED // size)):
            more = dependence(self.run, first.x, self.judge.tolerances)
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
        kept = [batch for batch in group if len(batch.x)]
        if not kept:  # every image of this part was left out
            return PartRows({}, {}, [])
        every = [self._scores(batch) for batch in kept]
        scores = {stage: np.concatenate([one[stage] for one in every]) for stage in every[0]}
        notes = self._again(kept, scores)
        hashes = np.concatenate([hash_rows(batch.x) for batch in kept])
        taught = self.networks.taught
        facts = RowFacts(
            ids=np.concatenate([batch.ids for batch in kept]),
            hashes=hashes,
            taught=None if taught is None else np.isin(hashes, taught),
            task=self.task,
        )
        graph, kind = self.networks.graph, self.kind or self.task.kinds[0]
        trace = assemble(graph, self._free, scores, labels=_labels(kept), kind=kind, facts=facts)
        seen = Range.together(Range.of(batch.x) for batch in kept)
        return PartRows(trace.columns(), {_RANGE: json.dumps(seen and asdict(seen))}, notes)

    @property
    def _free(self) -> Costs:
        order = self.networks.graph.order
        return Costs(dict.fromkeys(order, 1.0), dict.fromkeys(order, 0.0))

    def _scores(self, batch: ExampleBatch) -> dict[str, FloatArray]:
        """What every stage scores the rows of a batch, checked."""
        graph, running = self.networks.graph, self.runtime.begin(batch.x)
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
        ends = np.cumsum([len(batch.x) for batch in kept]) - 1
        chosen = np.unique(np.linspace(0, len(kept) - 1, _AGAIN).astype(np.int64))
        x = np.concatenate([kept[i].x[-1:] for i in chosen])
        expected = {stage: values[ends[chosen]] for stage, values in scores.items()}
        groups = [np.arange(len(x)), np.array([0]), np.array([len(x) - 1])]
        return self.judge(differences(self.run, x, expected, groups, self.judge.tolerances))


def _labels(kept: list[ExampleBatch]) -> AnyArray | None:
    """The labels of all batches; None where one has none."""
    labels = [batch.labels for batch in kept if batch.labels is not None]
    return np.concatenate(labels) if len(labels) == len(kept) else None


def recorded_range(out: Path) -> Range | None:
    """What the inputs of all parts were like, those recorded before an interruption as well."""
    metadata = [pq.read_schema(part).metadata or {} for part in parts(out)]
    ranges = [json.loads(entry.get(_RANGE, b"null")) for entry in metadata]
    return Range.together(value and record_of(Range, value) for value in ranges)


def _check_rows(stage: str, scores: FloatArray, batch: ExampleBatch) -> None:
    """Names the example whose scores are broken, which `assemble` cannot."""
    if scores.ndim != 2 or len(scores) != len(batch.x):
        raise ScoresError(
            f"stage '{stage}' gave scores of shape {scores.shape} for {len(batch.x)} examples; "
            "it must give one row of scores per example."
        )
    broken = no_scores(scores)
    if broken.any():
        raise ScoresError(
            f"stage '{stage}' gave NaN or infinite scores for example {batch.ids[broken][0]}. "
            "Check its input and the network; leave the example out if it is broken."
        )
