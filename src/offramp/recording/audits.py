"""Audited examples as a trace that grows, and the labels that come for them later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import DataError, InputError, TraceError, foreign
from offramp.base.files import fingerprint, remove, replacing, storage
from offramp.base.manifests import PRINTS, read_manifest, write_manifest
from offramp.base.outputs import new_folder
from offramp.core.parts import (
    TRACE,
    TRACE_VERSION,
    Recording,
    part_path,
    parts,
    read_parts,
    versions,
    write_part,
)
from offramp.core.rows import RowFacts
from offramp.core.tables import read_table
from offramp.core.trace import Trace, assemble
from offramp.plan.plan import Plan

LATE_LABELS = "labels.parquet"  # beside trace.json: labels that came later
_PART = 4096  # rows that one file may hold


class Audits:
    """A folder of audited examples, which is a trace whenever it is looked at.

    Args:
        folder: new, or begun earlier by a plan of the same system; None: nothing is kept.
        plan: whose stages score.

    Raises:
        InputError: the folder holds something else.
        StorageError: it cannot be written.
    """

    folder: Path | None
    plan: Plan

    def __init__(self, folder: Path | None, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self.prints: dict[str, str] = {}
        self.known: set[str] = set()  # ids
        self._last: Trace | None = None  # of the part that still grows
        self._number = 0  # of the next part
        if folder is not None and (folder / "trace.json").exists():
            self._go_on(folder)
        elif folder is not None:
            with new_folder(folder, TRACE) as made:
                write_manifest(made, "trace", {**self._about(), "complete": False}, {})

    def _go_on(self, folder: Path) -> None:
        found = read_manifest(folder, "trace", TRACE_VERSION, Recording, TraceError)
        own = self._about()
        if any(found.get(name) != own.get(name) for name in _SYSTEM):
            raise InputError(f"{folder} holds audits of another system; choose another --audits.")
        self.prints = dict(found[PRINTS])
        for part in parts(folder):  # written, but not yet listed
            if part.name not in self.prints:
                remove(part)
        if self.prints:
            self._number = int(max(self.prints).removeprefix("part-").partition(".")[0]) + 1
            self.known = {str(name) for name in read_parts(folder)["id"].tolist()}

    def _about(self) -> dict[str, Any]:
        known = {key: self.plan.info.get(name) for key, name in _OF_PLAN.items()}
        return {
            "version": TRACE_VERSION,
            "graph": self.plan.graph.to_json(),
            "hash_of": "inputs",
            "versions": versions(),
            **{key: value for key, value in known.items() if value is not None},
        }

    def trace_of(
        self, ids: Sequence[str], scores: Mapping[str, FloatArray], hashes: AnyArray
    ) -> Trace:
        """Audited examples as a trace of their own.

        Args:
            ids: of requests, with the number of the row where they had several.
            scores: stage -> (examples, classes).
            hashes: (examples,) of the inputs, uint64.

        Raises:
            ScoresError: scores that are none.
        """
        plan = self.plan
        facts = RowFacts(ids=np.array(ids, dtype=object), hashes=hashes, task=plan.task)
        about = {key: value for key, value in self._about().items() if key not in _OWN}
        made = assemble(
            plan.graph, plan.costs, scores, kind=plan.task.kinds[0], facts=facts, info=about
        )
        return replace(made, kinds=plan.kinds)

    def add(self, trace: Trace) -> None:
        """Keeps more examples, on disk when this returns.

        Raises:
            StorageError: they cannot be written.
        """
        self.known |= {str(name) for name in (trace.ids if trace.ids is not None else ())}
        if self.folder is None:
            return
        left: str | None = None
        if self._last is not None and self._last.examples + trace.examples <= _PART:
            left, trace = next(reversed(self.prints)), _joined(self._last, trace)
        path = part_path(self.folder, self._number)
        write_part(self.folder, self._number, trace.columns())
        self.prints.pop(left or "", None)
        self.prints[path.name] = fingerprint(path)
        self._last, self._number = trace, self._number + 1
        said = {**trace.manifest(), "examples": len(self.known), "created": _now()}
        write_manifest(self.folder, "trace", said, self.prints)
        if left:  # whose rows the new part holds
            remove(self.folder / left)


_OF_PLAN = {  # what a trace says of its system -> what a plan calls it
    "networks": "recorded_networks",
    "preprocessing": "recorded_preprocessing",
    "class_names": "class_names",
}
_SYSTEM = ("graph", "networks", "preprocessing")
_OWN = ("version", "graph", "hash_of")  # what a trace says in its own words


def _joined(one: Trace, other: Trace) -> Trace:
    def both(a: AnyArray, b: AnyArray) -> AnyArray:
        return np.concatenate([a, b])

    assert one.ids is not None
    assert other.ids is not None
    scores = {stage: both(one.scores[stage], other.scores[stage]) for stage in one.scores}
    hashes = both(one.identity, other.identity)
    return replace(one, scores=scores, ids=both(one.ids, other.ids), hashes=hashes)


def _now() -> str:
    return datetime.now(UTC).isoformat("T", "seconds")


def read_labels(folder: Path) -> dict[str, Any]:
    """The labels that came for the audits in a folder: id -> label.

    Raises:
        DataError: they cannot be read.
    """
    path = folder / LATE_LABELS
    if not path.exists():
        return {}
    with foreign(DataError, f"{path} cannot be read", "Give the labels again: offramp label."):
        rows = pq.read_table(path)
        return dict(zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True))


def add_labels(folder: Path, table: Path, trace: Trace) -> tuple[int, int]:
    """Keeps labels beside the audits that they are for.

    Args:
        folder: of the audits.
        table: Parquet or CSV with the columns id and label.
        trace: the audits.

    Returns:
        How many labels are known now, and how many of `table` are of no audited example.

    Raises:
        DataError: columns that are missing, labels that the task does not have, or another label
            than was given before.
    """
    columns = read_table(table)
    if lacking := [name for name in ("id", "label") if name not in columns.names]:
        raise DataError(f"{table} has no column `{lacking[0]}`; give id and label.")
    ids = [str(name) for name in columns.words("id").tolist()]
    values = columns.rows_of["label"].to_pylist()
    audited = {str(name) for name in (trace.ids if trace.ids is not None else ())}
    given = {name: value for name, value in zip(ids, values, strict=True) if name in audited}
    known = read_labels(folder)
    other = [name for name, value in given.items() if known.get(name, value) != value]
    if other:
        raise DataError(f"the example {other[0]} has the label {known[other[0]]!r} already.")
    if given:
        trace.task.check_labels(np.array(list(given.values())), len(given), trace.classes)
    known |= given
    path = folder / LATE_LABELS
    with replacing(path) as temporary, storage(path):
        pq.write_table(
            pa.table({"id": list(known), "label": pa.array(list(known.values()))}), temporary
        )
    return len(known), len(ids) - len(given)


def labelled(trace: Trace, labels: Mapping[str, Any]) -> Trace | None:
    """The examples whose labels are known, with these; None: there are none.

    Args:
        trace: with ids.
        labels: id -> label.

    Raises:
        DataError: labels that the task does not have.
    """
    ids = (trace.ids if trace.ids is not None else np.arange(trace.examples)).tolist()
    known = np.flatnonzero([str(name) in labels for name in ids])
    if not known.size:
        return None
    some = trace.take(known)
    values = np.array([labels[str(ids[row])] for row in known])
    return replace(some, labels=some.task.check_labels(values, some.examples, some.classes))
