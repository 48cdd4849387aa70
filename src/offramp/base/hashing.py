"""Which examples are the same, and in which order they are opened: one hash per example.

Hashes tell examples apart, whatever file they lie in and in whichever order. The order in which the
rows of a trace are opened is that of their hashes, so that it is fixed once the examples are, the
same in every recording of them, and knows nothing of what networks answer.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import numpy as np

from offramp.base.arrays import AnyArray, IntArray
from offramp.base.errors import DataError, foreign

_CHUNK_BYTES = 1 << 26  # that are joined at once
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIXERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def hash_rows(*columns: AnyArray) -> AnyArray:
    """One hash per example, uint64 (n,), of all its values.

    Args:
        columns: arrays (n, ...) of numbers, at least one; shape and type count as well. Rows of
            another kind are hashed as JSON.

    Raises:
        DataError: a row that is no JSON, such as an object of a class.

    Source: BLAKE2b (RFC 7693), cut to 64 bits: a million examples meet by chance once in 40 million
        traces.
    """
    digests = b"".join(
        hashlib.blake2b(row, digest_size=8).digest() for row in _rows([*map(_flat, columns)])
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _flat(column: AnyArray) -> AnyArray:
    """As bytes, (n, bytes of a row)."""
    values = _digests(column) if column.dtype == object else np.ascontiguousarray(column)
    return values.reshape(len(values), -1).view(np.uint8) if len(values) else np.empty((0, 1), "u1")


def _digests(column: AnyArray) -> AnyArray:
    """Of rows of any kind, (n, 8): their places in memory say nothing of what they are."""
    with foreign(DataError, "rows cannot be told apart", "Give numbers, texts, or lists of them."):
        texts = [json.dumps(row, sort_keys=True) for row in column.tolist()]
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), np.uint8).reshape(len(column), 8)


def _rows(columns: list[AnyArray]) -> Iterator[memoryview]:
    width = sum(column.shape[1] for column in columns)
    step = max(1, _CHUNK_BYTES // max(1, width))
    for start in range(0, len(columns[0]), step):
        parts = [column[start : start + step] for column in columns]
        joined = memoryview(np.concatenate(parts, axis=1).reshape(-1).data)
        yield from (joined[at : at + width] for at in range(0, len(joined), width))


def repeats(hashes: AnyArray) -> IntArray:
    """How many equal ones come before each row, (n,): 0 for the first of its kind."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    first = np.r_[True, ordered[1:] != ordered[:-1]] if len(hashes) else np.empty(0, bool)
    start = np.maximum.accumulate(np.where(first, np.arange(len(hashes)), 0))
    found = np.empty(len(hashes), dtype=np.int64)
    found[order] = np.arange(len(hashes)) - start
    return found


def turns(hashes: AnyArray) -> AnyArray:
    """When each row is opened, uint64 (n,): rows with lower numbers come first.

    A row that repeats others has a turn of its own, so that copies of one example lie no closer to
    each other than different examples do.

    Source: the finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    """
    mixed = hashes + (repeats(hashes).astype(np.uint64) + np.uint64(1)) * _GOLDEN
    for shift, mixer in zip((30, 27), _MIXERS, strict=True):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * mixer
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


def hash_lists(values: AnyArray, lengths: IntArray) -> AnyArray:
    """One hash per example, uint64 (n,), of a list that is padded: whatever its padding.

    Args:
        values: (n, longest, ...) numbers.
        lengths: (n,) how many of them are the example's own.
    """
    rows = (np.ascontiguousarray(row[:size]) for row, size in zip(values, lengths, strict=True))
    digests = b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
