"""Columns of a table that somebody else wrote: CSV, Parquet, or a data frame of any library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from offramp.base.arrays import AnyArray, ArrowTable
from offramp.base.errors import DataError, InputError, ScoresError, foreign
from offramp.base.files import regular

ENDINGS = (".parquet", ".csv")
_LARGEST_BLOCK = 1 << 30  # bytes of a CSV that types are found out from
_NUMBERS = ("loss", "quality", "cost")  # columns that cannot be anything else


@dataclass
class Columns:
    """Columns by name, of which it is remembered which were read."""

    rows_of: Any  # pyarrow.Table
    where: str  # what messages call it
    read: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        twice = [name for name in self.names if self.names.count(name) > 1]
        if twice:
            raise InputError(f"the column `{twice[0]}` is there twice in {self.where}.")

    @classmethod
    def of(cls, columns: Mapping[str, AnyArray], where: str) -> Columns:
        """The table of some arrays, (rows,) each."""
        return cls(pa.table({name: pa.array(values) for name, values in columns.items()}), where)

    @property
    def rows(self) -> int:
        return int(self.rows_of.num_rows)

    @property
    def names(self) -> list[str]:
        return list(self.rows_of.column_names)

    def numeric(self, prefix: str) -> list[str]:
        """The columns of numbers whose names start so, in their order."""
        fields = [f for f in self.rows_of.schema if f.name.startswith(prefix)]
        return [f.name for f in fields if _is_number(f.type)]

    def numbers(self, name: str, *, finite: bool = True) -> AnyArray:
        """A column as float64 (rows,). Raises DataError: no numbers, or not in every row.

        Where they need not be `finite`, whoever asks says what is wrong with NaN.
        """
        column = self._whole(name)
        if not _is_number(column.type):
            raise DataError(f"`{name}` in {self.where} holds {column.type}; it must be numbers.")
        values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size and finite:
            raise DataError(
                f"`{name}` in {self.where} is {values[wrong[0]]} in row {wrong[0]}. Mend it, or "
                "leave the example out."
            )
        return values

    def words(self, name: str) -> AnyArray:
        """A column of integers or text, (rows,)."""
        values = self.plain(name)
        return values.astype(object) if values.dtype.kind == "U" else values

    def plain(self, name: str) -> AnyArray:
        """A column of numbers, truths or text, (rows,). Raises DataError where it is another."""
        column = self._whole(name)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return np.array(column.to_pylist(), dtype=np.str_)
        if not (_is_number(column.type) or pa.types.is_boolean(column.type)):
            raise DataError(
                f"`{name}` in {self.where} holds {column.type}; it must be text or numbers."
            )
        return np.asarray(column.to_numpy(zero_copy_only=False))

    def lists(self, name: str) -> AnyArray:
        """A column of lists of numbers, all equally long, (rows, numbers).

        Raises:
            ScoresError: no lists, of different lengths, or with something missing.
        """
        column = self._whole(name)
        if not _is_list(column.type) or not _is_number(column.type.value_type):
            raise ScoresError(
                f"`{name}` in {self.where} holds {column.type}; it must be lists of numbers. In "
                f"CSV write one column per class: `{name}.0`, `{name}.1`, ..."
            )
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        other = np.flatnonzero(lengths != lengths[0])
        if other.size:
            raise ScoresError(
                f"`{name}` in {self.where} has lists of {lengths[0]} and, in row {other[0]}, of "
                f"{lengths[other[0]]} numbers; every list must hold one per class."
            )
        flat = pc.list_flatten(column)
        if flat.null_count:
            row = int(np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False))[0]) // int(
                lengths[0]
            )
            raise ScoresError(f"`{name}` in {self.where} lacks a number in row {row}; give all.")
        return np.asarray(flat.to_numpy(zero_copy_only=False)).reshape(self.rows, -1)

    def _whole(self, name: str) -> Any:
        """A column without gaps, in one piece."""
        self.read.add(name)
        column = self.rows_of.column(name).combine_chunks()
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if column.null_count:
            row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise DataError(
                f"`{name}` in {self.where} is empty in row {row}. Fill it in, or leave the example "
                "out."
            )
        return column


def _is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def read_table(path: Path) -> Columns:
    """The table in a Parquet or CSV file. Raises InputError where it cannot be read."""
    path = regular(path, InputError)
    with foreign(InputError, f"{path} cannot be read", "Save the table again."):
        rows = _read_csv(path) if path.suffix == ".csv" else pq.read_table(path)
    mark = next((mark for mark in ";\t|" if mark in rows.column_names[0]), "")
    if rows.num_columns == 1 and mark:
        raise InputError(f"columns of {path} are separated by {mark!r}; save it with commas.")
    return Columns(rows, path.name)


def _read_csv(path: Path) -> Any:
    """Types are found out from all rows; what can only be numbers is read as such."""
    block = pa.csv.ReadOptions(block_size=min(_LARGEST_BLOCK, path.stat().st_size + 1))
    with pa.csv.open_csv(path) as file:
        names = file.schema.names
    known = {name: pa.float64() for name in names if _must_be_number(name)}
    return pa.csv.read_csv(
        path,
        read_options=block,
        convert_options=pa.csv.ConvertOptions(column_types=known),
    )


def _must_be_number(name: str) -> bool:
    _, _, what = name.partition(".")
    return what in _NUMBERS or what.startswith("scores.")


def table_of(value: ArrowTable) -> Columns:
    """The columns of a data frame. Raises InputError where it does not become Arrow."""
    with foreign(InputError, "the table cannot be read as Arrow", "Give each column one type."):
        return Columns(pa.table(value), "the table")
