"""Answers of a plan, streamed from examples to Parquet or to CSV."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from offramp.arrays import AnyArray
from offramp.data import Examples
from offramp.errors import InputError
from offramp.files import replacing, storage
from offramp.plan import Plan
from offramp.runtime.driver import Runtime, infer

_NO_ANSWERS = pa.table(
    {
        "id": pa.array([], pa.int64()),
        "answer": pa.array([], pa.int64()),
        "stage": pa.array([], pa.string()),
        "cost": pa.array([], pa.float64()),
        "scores": pa.array([], pa.list_(pa.float32())),
    }
)


def stream(
    plan: Plan, runtime: Runtime, examples: Examples, batch: int
) -> Iterator[tuple[int, pa.Table]]:
    """The number of examples read so far and the answers to the last batch, in input order.

    Columns: id, answer, stage, cost, and scores (a list of floats).
    """
    done = 0
    for group in examples.batches(batch):
        found = infer(plan, runtime, group.x)
        done = min(done + batch, examples.examples)
        scores = pa.array(np.ascontiguousarray(found.scores).reshape(-1))
        columns: dict[str, Any] = {
            "id": _ids(group.ids),
            "answer": found.answer,
            "stage": pa.array(found.stage, pa.string()),
            "cost": found.cost,
            "scores": pa.FixedSizeListArray.from_arrays(scores, plan.classes),
        }
        yield done, pa.table(columns)


def _ids(ids: AnyArray) -> pa.Array:
    return pa.array(ids.astype(np.int64) if ids.dtype.kind in "iuf" else ids.astype(object))


class AnswerFile:
    """Where answers go: a Parquet file, whole or absent, or CSV on standard output."""

    def __init__(self, target: Path | None, scores: bool) -> None:
        self.target, self.scores = target, scores
        self.stages: Counter[str] = Counter()
        self.cost = 0.0
        self._writer: Any = None

    @classmethod
    @contextmanager
    def open(cls, path: Path | None, *, scores: bool = False) -> Iterator[AnswerFile]:
        """A file to write answers to; it takes its name when the block ends well.

        Raises:
            InputError: scores are asked for without a file: CSV has no lists.
        """
        if path is None:
            if scores:
                raise InputError("scores are lists, which CSV cannot hold; add --out FILE.parquet.")
            yield cls(None, scores)
            return
        with replacing(path) as temporary, storage(path):
            file = cls(temporary, scores)
            try:
                yield file
                if file._writer is None:
                    file.write(_NO_ANSWERS)
            finally:
                if file._writer is not None:
                    file._writer.close()

    def write(self, answers: pa.Table) -> None:
        """Adds the answers of a batch."""
        self.stages.update(answers.column("stage").to_pylist())
        self.cost += float(np.sum(answers.column("cost").to_numpy()))
        chosen = answers if self.scores else answers.drop_columns(["scores"])
        if self._writer is None:
            self._writer = self._start(chosen.schema)
        self._writer.write_table(chosen)

    def _start(self, schema: pa.Schema) -> Any:
        if self.target is None:
            return csv.CSVWriter(sys.stdout.buffer, schema)
        return pq.ParquetWriter(self.target, schema)

    def summary(self, plan: Plan) -> str:
        """How many examples each stage answered, and at what cost."""
        total = sum(self.stages.values())
        if not total:
            return "no examples, no answers"
        shares = ", ".join(f"{stage} {count / total:.1%}" for stage, count in self.stages.items())
        mean = self.cost / total
        return (
            f"{total} answers ({shares}); mean cost {mean:.4g} {plan.costs.unit} by the plan's "
            f"costs, {plan.graph.reference_cost(plan.costs) / mean:.2f} times less than the "
            "reference"
        )
