"""The array types that every signature uses."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
AnyArray = npt.NDArray[Any]


class ArrowTable(Protocol):
    """A table of any library that speaks Arrow: pandas from 2.2 on, polars, pyarrow, duckdb, ..."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table as a capsule, as the Arrow PyCapsule interface says."""
