"""Examples in a table with a column for each field: numbers, lists, encoded images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offramp.base.arrays import AnyArray, IntArray
from offramp.base.errors import DataError, foreign
from offramp.core.tasks import whole_labels
from offramp.networks.batches import Decoded, ExampleBatch, Prepared, pixels_of
from offramp.networks.images import Skipped, photograph
from offramp.networks.preprocessing import Source
from offramp.networks.resizing import resized

Stored = bytes | Path | DataError  # of an image: what is in the file, the file, or why neither
Tables = Callable[[int, int], Iterator[pa.Table]]  # from a row on, of so many rows each
_AT_ONCE = 256  # rows that are read together


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of a table, in a fixed order, with a column for each field."""

    examples: int
    fingerprint: str
    tables: Tables
    sources: Mapping[str, Source]  # by field
    shared: bool  # every network reads images alike, so that they are prepared once
    label: str | None  # the column
    where: str | Path  # for messages
    skipped: Skipped
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def remarks(self) -> Sequence[str]:
        return self.skipped.remarks

    def batches(self, size: int, start: int = 0) -> Iterator[ExampleBatch]:
        for table in self.tables(start, size):
            yield self._batch(table, np.arange(start, start + table.num_rows))
            start += table.num_rows
        self.skipped.check(self.examples)

    def _batch(self, table: pa.Table, ids: IntArray) -> ExampleBatch:
        photographs = {
            source.name: self._photographs(table.column(source.name), source, ids)
            for source in self.sources.values()
            if holds_bytes(table.schema.field(source.name).type)
        }
        whole = [
            all(image[row] is not None for image in photographs.values()) for row in range(len(ids))
        ]
        fields, lengths, kept = {}, {}, np.flatnonzero(whole)
        if len(kept) < len(ids):
            table, ids = table.take(kept), ids[kept]
        for field, source in self.sources.items():
            if source.name in photographs:
                images = [image for image in photographs[source.name] if image is not None]
                fields[field] = self._prepared(images, source)
                continue
            what = f"column `{source.name}` of {self.where}"
            fields[field], size = column_array(table.column(source.name), what)
            if size is not None:
                lengths[field] = size
        labels = label_column(table, self.label, self.where)
        known = None if self.label is None else np.array(labels, dtype=np.int64)
        return ExampleBatch(ids, fields, known, lengths)

    def _photographs(
        self, column: pa.ChunkedArray, source: Source, ids: IntArray
    ) -> list[Decoded | None]:
        modes = [s.preprocessing.mode for s in self.sources.values() if s.preprocessing]
        mode = "RGB" if "RGB" in modes else "L"
        found: list[Decoded | None] = []
        for row, image in zip(ids.tolist(), column.to_pylist(), strict=True):
            stored = encoded(image, f"row {row} of column `{source.name}` in {self.where}")
            try:
                if isinstance(stored, DataError):
                    raise stored
                image = photograph(stored, mode, partial(self.skipped.remark, str(row)))
                # large photographs are kept only where networks read them in several ways
                way = source.preprocessing if self.shared else None
                found.append(image if way is None else resized(image, way))
            except DataError as problem:
                self.skipped.broken(str(row), problem)
                found.append(None)
        return found

    def _prepared(self, images: Sequence[Decoded], source: Source) -> AnyArray:
        way = source.preprocessing
        assert way is not None
        if self.shared:
            return way(pixels_of(images, way))
        return Prepared.field(images, way)


def check_columns(schema: pa.Schema, sources: Iterable[Source], where: str | Path) -> list[str]:
    """Sentences on how columns are read.

    Raises:
        DataError: a field has no column, or one that holds neither numbers nor images; or images,
            where nobody says how they are read.
    """
    notes = {}
    for source in sources:
        if source.name not in schema.names:
            raise DataError(
                f"the networks read a field `{source.name}`, which {where} lacks; its columns are "
                f"{', '.join(schema.names)}. Name one so, or say what each network reads: "
                "offramp graph ... --reads NETWORK.INPUT=FIELD."
            )
        kind = schema.field(source.name).type
        if holds_bytes(kind):
            if source.preprocessing is None:
                raise DataError(
                    f"column `{source.name}` of {where} holds images, but the graph does not say "
                    "how networks read them. Make the graph again with --size, --mean and --std."
                )
            continue
        if _has_lengths(kind):
            notes[source.name] = (
                f"lists of different lengths in `{source.name}` are padded with 0 to the longest "
                "of each batch"
            )
        while _is_list(kind):
            kind = kind.value_type
        if not (
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        ):
            raise DataError(
                f"column `{source.name}` of {where} is of type {kind}; networks read numbers, "
                "lists of them, or encoded images. Convert it: text, for example, to the ids of a "
                "tokeniser."
            )
    return list(notes.values())


def _has_lengths(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(_has_lengths(kind) or pa.types.is_fixed_size_list(kind))


def column_array(column: Any, what: str) -> tuple[AnyArray, IntArray | None]:
    """The values of a column (n, ...), and the lengths of lists that are padded, (n,).

    Raises:
        DataError: rows without a value.
    """
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if values.null_count:
        raise DataError(f"{what} has rows without a value; give every row one.")
    if pa.types.is_fixed_size_list(values.type):
        inside, _ = column_array(values.flatten(), what)
        return inside.reshape(len(values), values.type.list_size, *inside.shape[1:]), None
    if _has_lengths(values.type):
        inside, _ = column_array(values.flatten(), what)
        lengths = values.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
        longest = int(lengths.max(initial=0))
        found = np.zeros((len(values), longest, *inside.shape[1:]), dtype=inside.dtype)
        found[np.arange(longest) < lengths[:, None]] = inside
        return found, lengths
    return np.asarray(values.to_numpy(zero_copy_only=False)), None


def parquet_tables(files: Sequence[pq.ParquetFile], columns: list[str], where: object) -> Tables:
    """The rows of several files, one after the other."""

    def read(start: int, size: int) -> Iterator[pa.Table]:
        waiting: list[pa.RecordBatch] = []
        for group in _from(files, columns, start, where):
            waiting.append(group)
            while sum(part.num_rows for part in waiting) >= size:
                table = pa.Table.from_batches(waiting)
                yield table.slice(0, size)
                waiting = table.slice(size).to_batches()
        if waiting:
            yield pa.Table.from_batches(waiting)

    return read


def _from(
    files: Sequence[pq.ParquetFile], columns: list[str], start: int, where: object
) -> Iterator[pa.RecordBatch]:
    row = 0
    for file in files:
        if row + file.metadata.num_rows <= start:
            row += file.metadata.num_rows
            continue
        for group in groups(file, where, columns):
            if row + group.num_rows > start:
                yield group.slice(max(0, start - row))
            row += group.num_rows


def groups(file: pq.ParquetFile, where: object, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Some rows after the other."""
    rows = file.iter_batches(_AT_ONCE, columns=columns)
    while True:
        with foreign(DataError, f"{where} cannot be read to its end"):
            group = next(rows, None)
        if group is None:
            return
        yield group


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds the bytes of files."""
    if pa.types.is_struct(kind):  # as Hugging Face keeps them, beside the path
        at = kind.get_field_index("bytes")
        return bool(at >= 0 and holds_bytes(kind.field(at).type))
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def encoded(image: Any, where: str) -> Stored:
    """The bytes of an image in a table; Hugging Face keeps them in a struct beside the path."""
    found = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(found, bytes):
        return found
    held = "empty" if found is None else f"of type {type(found).__name__}"
    return DataError(f"{where} is {held}; it must hold the bytes of an encoded image")


def label_column(group: Any, label: str | None, where: str | Path) -> list[int | None]:
    """The labels of some rows; None for each where there is no such column."""
    if label is None:
        return [None] * group.num_rows
    column = group.column(label)
    if column.null_count:
        raise DataError(
            f"{where} has rows without a label; give every row one, or drop the column."
        )
    values = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(False)
    return list(whole_labels(values, str(where)).tolist())
