"""What has been made of which rows of a batch: rows that stop are dropped, others join again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from offramp.base.arrays import IntArray


@dataclass(frozen=True)
class Made:
    """Named values for some rows of a batch: arrays of numpy, or whatever an engine computes in."""

    rows: IntArray | None  # (n,) ascending; None: all
    values: Mapping[str, Any]
    axes: Mapping[str, int | None]  # of the rows in each value; None: the same for every row

    def lacks(self, rows: IntArray | None) -> IntArray | None:
        """Those of `rows` that are not among these; None: all there are."""
        if self.rows is None:
            return np.empty(0, dtype=np.int64)
        return None if rows is None else np.setdiff1d(rows, self.rows, assume_unique=True)

    def of(self, name: str, rows: IntArray | None) -> Any:
        """A value for some of the rows."""
        value, axis = self.values[name], self.axes[name]
        if rows is None or axis is None or (self.rows is not None and len(rows) == len(self.rows)):
            return value
        places = rows if self.rows is None else np.searchsorted(self.rows, rows)
        return take_along(value, places, axis)

    def joined(self, other: Made) -> Made:
        """These rows and the others, ascending."""
        if self.rows is None or other.rows is None:
            return other
        rows = np.concatenate([self.rows, other.rows])
        order = np.argsort(rows)
        both = {}
        for name, value in self.values.items():
            axis = self.axes[name]
            more = other.values[name]
            both[name] = (
                value if axis is None else take_along(join(value, more, axis=axis), order, axis)
            )
        return Made(rows[order], both, self.axes)


@singledispatch
def join(value: Any, *more: Any, axis: int) -> Any:
    """Values along an axis; engines that compute in other arrays register theirs."""
    return np.concatenate([value, *more], axis)


def take_along(value: Any, rows: IntArray | slice, axis: int) -> Any:
    """Some rows of a value, which lie along an axis."""
    return value[rows] if axis == 0 else value[(slice(None),) * axis + (rows,)]
