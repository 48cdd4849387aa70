"""Answers of a plan, streamed from examples to Parquet or to CSV."""

from __future__ import annotations

import io
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import compute, csv

from offramp.base.arrays import AnyArray
from offramp.base.errors import InputError, foreign
from offramp.base.files import regular, storage
from offramp.base.outputs import OutputKind, new_output
from offramp.networks.data import Examples
from offramp.plan.plan import Plan
from offramp.runtime.driver import infer
from offramp.runtime.stages import Stages

_MARK = {b"offramp": b"answers"}  # in the schema: what --force may replace
_FORMULA = r"^([=+\-@\t\r])"  # spreadsheets run cells that begin so


def _is_answers(path: Path) -> bool:
    try:
        with foreign(InputError, str(path)):
            found = pq.read_schema(regular(path, InputError)).metadata or {}
    except InputError:
        return False
    return _MARK.items() <= found.items()


ANSWERS = OutputKind("answers", _is_answers)

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
    plan: Plan, runtime: Stages, examples: Examples, batch: int
) -> Iterator[tuple[int, pa.Table]]:
    """The number of examples read so far and the answers to the last batch, in input order.

    Columns: id, answer, stage, cost, and scores (a list of floats). Of several labels the answer
    is a list of 0 and 1; several numbers are columns of their own, answer.0, answer.1 and so on.
    """
    done = 0
    for group in examples.batches(batch):
        found = infer(plan, runtime, group.fields)
        done = min(done + batch, examples.examples)
        scores = pa.array(np.ascontiguousarray(found.scores).reshape(-1))
        columns: dict[str, Any] = {
            "id": _ids(group.ids),
            **_answer_columns(found.answer),
            "stage": pa.array(found.stage, pa.string()),
            "cost": found.cost,
            "scores": pa.FixedSizeListArray.from_arrays(scores, plan.classes),
        }
        yield done, pa.table(columns)


def _answer_columns(answer: AnyArray) -> dict[str, Any]:
    """The columns of answers (n,) or (n, m)."""
    if answer.ndim == 1:
        return {"answer": answer}
    if answer.dtype.kind == "f":
        names = (
            [f"answer.{i}" for i in range(answer.shape[1])] if answer.shape[1] > 1 else ["answer"]
        )
        return {name: answer[:, i] for i, name in enumerate(names)}
    flat = pa.array(np.ascontiguousarray(answer).reshape(-1))
    return {"answer": pa.FixedSizeListArray.from_arrays(flat, answer.shape[1])}


def _ids(ids: AnyArray) -> pa.Array:
    return pa.array(ids.astype(np.int64) if ids.dtype.kind in "iuf" else ids.astype(object))


def harmless(answers: pa.Table) -> pa.Table:
    """The table with a ' before every text that a spreadsheet would run as a formula."""
    for position, field in enumerate(answers.schema):
        if pa.types.is_string(field.type):
            plain = compute.replace_substring_regex(answers.column(position), _FORMULA, r"'\1")
            answers = answers.set_column(position, field, plain)
    return answers


def _spelled(answers: pa.Table) -> pa.Table:
    """The table with lists, which CSV cannot hold, as words: 0 1 1."""
    for position, field in enumerate(answers.schema):
        if pa.types.is_fixed_size_list(field.type):
            words = [" ".join(map(str, each)) for each in answers.column(position).to_pylist()]
            answers = answers.set_column(position, field.name, pa.array(words, pa.string()))
    return answers


class AnswerFile:
    """Where answers go: a Parquet file, whole or absent, or CSV on standard output."""

    target: Path | None
    scores: bool
    cost: float

    def __init__(self, target: Path | None, scores: bool) -> None:
        self.target, self.scores = target, scores
        self.stages: Counter[str] = Counter()
        self.cost = 0.0
        self._writer: Any = None
        self._started = False

    @classmethod
    @contextmanager
    def open(
        cls, path: Path | None, *, scores: bool = False, force: bool = False
    ) -> Iterator[AnswerFile]:
        """A file to write answers to; it takes its name when the block ends well.

        Raises:
            InputError: `path` is taken, or scores are asked for without a file: CSV has no lists.
            StorageError: it cannot be written.
        """
        if path is None:
            if scores:
                raise InputError("scores are lists, which CSV cannot hold; add --out FILE.parquet.")
            yield cls(None, scores)
            return
        with new_output(path, ANSWERS, force=force) as written:
            file = cls(written, scores)
            try:
                yield file
                if file._writer is None:
                    file.write(_NO_ANSWERS)
            finally:
                file.close()

    def write(self, answers: pa.Table) -> None:
        """Adds the answers of a batch."""
        self.stages.update(answers.column("stage").to_pylist())
        self.cost += float(np.sum(answers.column("cost").to_numpy()))
        chosen = answers if self.scores else answers.drop_columns(["scores"])
        if self.target is None:
            self._print(chosen)
            return
        with storage(self.target):
            if self._writer is None:
                self._writer = pq.ParquetWriter(self.target, chosen.schema.with_metadata(_MARK))
            self._writer.write_table(chosen.replace_schema_metadata(_MARK))

    def _print(self, answers: pa.Table) -> None:
        """CSV, in one call a batch: whoever reads it may close the pipe at any moment."""
        rows, text = csv.WriteOptions(include_header=not self._started), io.BytesIO()
        csv.write_csv(harmless(_spelled(answers)), text, rows)
        self._started = True
        sys.stdout.buffer.write(text.getvalue())

    def close(self) -> None:
        """Ends the file, where it was begun."""
        if self.target is not None and self._writer is not None:
            with storage(self.target):
                self._writer.close()

    def summary(self, plan: Plan) -> str:
        """How many examples each stage answered, and at what cost."""
        total = sum(self.stages.values())
        if not total:
            return "no examples, no answers"
        shares = ", ".join(f"{stage} {count / total:.1%}" for stage, count in self.stages.items())
        mean = self.cost / total
        by = "mean costs of stages" if plan.costs.examples else "costs"
        return (
            f"{total} answers ({shares}); mean cost {mean:.4g} {plan.costs.unit} by the plan's "
            f"{by}, {plan.graph.reference_cost(plan.costs) / mean:.2f} times less than the "
            "reference"
        )
