"""A graph of ONNX operators that is being written; nothing of it needs the package `onnx`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from offramp.base.arrays import AnyArray


class Operators(Protocol):
    """A graph of ONNX operators that is being written; tensors go by their names."""

    def constant(self, value: AnyArray | Sequence[Any] | float, dtype: Any = np.float32) -> str:
        """A constant tensor."""

    def integers(self, *values: int) -> str:
        """A constant of int64, (values,)."""

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The only output of an operator; what is there already is not computed again."""

    def several(self, outputs: int, operator: str, *inputs: str, **attributes: Any) -> list[str]:
        """The outputs of an operator that has more of them."""
