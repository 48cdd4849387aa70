"""Exported files as those who run them see them: names, seal, and what they answer.

What writes them builds on it; whoever runs them needs numpy and an engine.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import NetworkError, PlanError
from offramp.base.fields import Fields, arrays, fields_of
from offramp.base.files import data_of, fingerprint

ABOUT, FINGERPRINT, WEIGHTS = "offramp", "fingerprint", "weights"  # keys of metadata
TRADEOFF = "tradeoff"  # the input that turns the dial
OUTPUTS = {"scores": np.float32, "answer": np.int64, "stage": np.int64, "cost": np.float32}
KIND, VERSION = "routes", 2  # of a folder with a file per stage
PATH, SCORES = "path", "scores"  # names of tensors; keys of what is handed on contain a / or a :


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a plan answered, in the order of the inputs."""

    answer: IntArray  # (n,) class
    position: IntArray  # (n,) of the stage that answered, among `stages`
    stages: AnyArray  # names
    cost: FloatArray  # (n,) in the unit of the plan
    scores: FloatArray  # (n, classes) of the stage that answered

    @cached_property
    def stage(self) -> AnyArray:
        """The name of the stage that answered, (n,)."""
        return self.stages[self.position]


def check_tradeoff(
    tradeoff: float | None, about: Mapping[str, Any], dial: str | None
) -> dict[str, AnyArray]:
    """What to give an exported file for a tradeoff: by name, nothing where it has no dial.

    Args:
        tradeoff: None or NaN for the certified one.
        about: what the file says of itself.
        dial: the name of its input; None: there is none.

    Raises:
        PlanError: the tradeoff is below zero, or there is none to choose.
    """
    if dial is None:
        if not (tradeoff is None or math.isnan(tradeoff)):
            raise PlanError(
                "this was exported at one tradeoff. Export it with --dial to choose another."
            )
        return {}
    value = np.nan if tradeoff is None else tradeoff
    if value < 0 <= about["tradeoffs"][0]:
        raise PlanError(f"the tradeoff is {value}; it must be a number of at least 0.")
    return {dial: np.array(value, dtype=np.float32)}


def inputs_named(reads: Sequence[str], x: AnyArray | Fields) -> Fields:
    """What to give an exported file for its examples: by name, or by place where there is one.

    Args:
        reads: the names of its inputs.
        x: examples, by field where there are several.

    Raises:
        NetworkError: it reads a field that is not among these, or fields differ in their rows.
    """
    fields = fields_of(x)
    if len(fields) == len(reads) == 1:
        return {reads[0]: next(iter(arrays(fields).values()))}
    if lacking := [name for name in reads if name not in fields]:
        raise NetworkError(
            f"the file reads {', '.join(reads)}, and {', '.join(fields)} came, without "
            f"{', '.join(lacking)}. Give a mapping with an array for each."
        )
    given = arrays({name: fields[name] for name in reads})
    if len({len(values) for values in given.values()}) > 1:
        rows = ", ".join(f"{name} {len(values)}" for name, values in given.items())
        raise NetworkError(f"fields have different numbers of rows: {rows}. Give as many of each.")
    return given


def check_weights(path: Path, expected: str | None) -> None:
    """Raises NetworkError: the file of weights beside an exported one is missing or altered."""
    data = data_of(path)
    if expected is not None and (not data.is_file() or fingerprint(data) != expected):
        raise NetworkError(
            f"{data}, which holds the weights of {path.name}, is missing or altered. Copy both "
            "files together, or export the plan again."
        )


def check_seal(content: bytes, name: str) -> None:
    """Raises NetworkError: not of `offramp export`, cut short, or altered since."""
    size = len(seal_of(b""))
    if content[-size:] != seal_of(content[:-size]):
        raise NetworkError(
            f"{name} was not made by `offramp export`, or it was cut short or altered since, and a "
            "certificate holds for the original alone. Export the plan again."
        )


def seal_of(content: bytes) -> bytes:
    """The fingerprint of a model's file, as an entry of its metadata.

    Protocol buffers that follow one another are merged, so that these bytes after the others add it
    (fields 1 and 2 of an entry, which is field 14 of a model).
    """
    key, value = FINGERPRINT.encode(), hashlib.sha256(content).hexdigest().encode()
    entry = _field(1, key) + _field(2, value)
    return _field(14, entry)


def _field(number: int, value: bytes) -> bytes:
    """A field of bytes, fewer than 128, in a protocol buffer."""
    return bytes([number << 3 | 2, len(value)]) + value
