"""How often an operator multiplies and adds, from the shapes that it reads and makes."""

from __future__ import annotations

import math
from collections.abc import Callable

Sizes = tuple[int, ...]


def multiply_adds(operator: str, inputs: list[Sizes], out: Sizes) -> int:
    """Multiply-adds of one node; 0 for operators that do few, and where a shape is not known."""
    try:
        return _MULTIPLYING.get(operator, _none)(inputs, out)
    except IndexError:
        return 0


def _none(inputs: list[Sizes], out: Sizes) -> int:
    return 0


def _convolution(inputs: list[Sizes], out: Sizes) -> int:
    return math.prod(out) * math.prod(inputs[1][1:])


def _matmul(inputs: list[Sizes], out: Sizes) -> int:
    return math.prod(out) * inputs[0][-1]


def _gemm(inputs: list[Sizes], out: Sizes) -> int:
    return math.prod(inputs[1]) * out[0]


def _recurrent(inputs: list[Sizes], out: Sizes) -> int:
    return inputs[0][0] * (math.prod(inputs[1]) + math.prod(inputs[2]))


_MULTIPLYING: dict[str, Callable[[list[Sizes], Sizes], int]] = {
    "Conv": _convolution,
    "ConvTranspose": lambda inputs, out: math.prod(inputs[0]) * math.prod(inputs[1][1:]),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
"""Operators that multiply and add much, and how often, from the shapes they read and make."""
