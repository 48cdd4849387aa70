"""Examples by field: arrays by name, rows first; `x` where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray

Fields = Mapping[str, AnyArray]
"""Arrays by name, rows first: what examples consist of, what parts read and make. Values may also
be made as they are read: they have a length, give an array for some rows, and become one whole."""
AnyRows = AnyArray | Mapping[str, Any] | Sequence[Any]
"""What is given: an array, arrays or lists by field, or a list of rows of any kind."""
X = "x"  # what the field is called where there is one


def fields_of(x: AnyRows) -> Fields:
    """Examples by field; a bare array, or list, is the only field there is."""
    return {n: _rows(v) for n, v in x.items()} if isinstance(x, Mapping) else {X: _rows(x)}


def _rows(values: Any) -> AnyArray:
    """Rows as they come, those of a list as an array (n,) of whatever they are."""
    if not isinstance(values, list | tuple):
        rows: AnyArray = values
        return rows
    rows = np.empty(len(values), dtype=object)
    for number, value in enumerate(values):  # at once, numpy would look into equal lengths
        rows[number] = value
    return rows


def count(x: AnyRows) -> int:
    """How many examples there are."""
    return len(next(iter(fields_of(x).values())))


def take(x: AnyArray | Fields, rows: Any) -> Any:
    """Some rows of an array, or of every field: their numbers, or a slice."""
    if isinstance(x, np.ndarray):
        return x[rows]
    return {name: values[rows] for name, values in x.items()}


def arrays(fields: Fields) -> Fields:
    """The same fields with every value as an array: what is made as it is read is made now."""
    return {name: np.asarray(values) for name, values in fields.items()}


def joined(groups: Sequence[Fields]) -> Fields:
    """The rows of several groups; shorter ones are padded with zeros to the longest."""
    return {name: _joined([group[name] for group in groups]) for name in groups[0]}


def _joined(values: Sequence[AnyArray]) -> AnyArray:
    whole = [np.asarray(value) for value in values]
    if len({value.shape[1:] for value in whole}) == 1:
        return np.concatenate(whole)
    longest = np.max([value.shape[1:] for value in whole], axis=0)
    return np.concatenate([_padded(value, longest) for value in whole])


def _padded(value: AnyArray, shape: AnyArray) -> AnyArray:
    return np.pad(
        value, [(0, 0), *((0, n - m) for n, m in zip(shape, value.shape[1:], strict=True))]
    )
