"""Examples by the batch: what every source of them gives."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from PIL import Image

from offramp.base.arrays import AnyArray, BoolArray, IntArray
from offramp.base.errors import DataError
from offramp.base.fields import Fields, X, arrays, take
from offramp.base.hashing import hash_lists, hash_rows
from offramp.networks.preprocessing import Preprocessing
from offramp.networks.resizing import resized

Decoded = Image.Image | AnyArray  # a photograph of its own size, or as all networks read it


@dataclass(frozen=True)
class ExampleBatch:
    """Some consecutive examples, ready for the networks."""

    ids: AnyArray  # (n,) integers, or file names
    fields: Fields  # of (n, ...), by the name under which networks read them
    labels: AnyArray | None  # (n,), or as the task has them
    lengths: Mapping[str, IntArray] = field(default_factory=dict)  # (n,) of lists that are padded

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def x(self) -> AnyArray:
        """The only field. Raises DataError where there are several."""
        if len(self.fields) != 1:
            raise DataError(
                f"the examples have {len(self.fields)} fields ({', '.join(self.fields)}), where "
                "one is asked for. Give examples with one field."
            )
        return np.asarray(next(iter(self.fields.values())))

    def whole(self) -> ExampleBatch:
        """The same batch with every field made, those too that are made as they are read."""
        return ExampleBatch(self.ids, arrays(self.fields), self.labels, self.lengths)

    def rows(self, kept: BoolArray) -> ExampleBatch:
        """Some of the examples, by a mask (n,)."""
        if kept.all():
            return self
        wanted = np.flatnonzero(kept)
        return ExampleBatch(
            self.ids[wanted],
            take(self.fields, wanted),
            None if self.labels is None else self.labels[wanted],
            {name: lengths[wanted] for name, lengths in self.lengths.items()},
        )

    @property
    def hashes(self) -> AnyArray:
        """What tells each example from others, uint64 (n,): of all fields, whatever pads them."""
        columns = [
            hash_lists(values, self.lengths[name]) if name in self.lengths else np.asarray(values)
            for name, values in self.fields.items()
        ]
        return hash_rows(*columns)


NOTHING = ExampleBatch(np.empty(0, np.int64), {X: np.empty((0,), np.float32)}, None)


class Examples(Protocol):
    """Examples in a fixed order, read in batches."""

    @property
    def examples(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """What tells these examples from others."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the classes, by label; none where they are not known."""

    @property
    def notes(self) -> Sequence[str]:
        """Sentences on what lies there and is not read, known from the start."""

    @property
    def remarks(self) -> Sequence[str]:
        """Sentences on what was read so far."""

    def batches(self, size: int, start: int = 0) -> Iterator[ExampleBatch]:
        """Batches of `size` examples from number `start` on; the last may be smaller.

        A batch has fewer rows where broken images are skipped.
        """


@dataclass(frozen=True, kw_only=True)
class Without:
    """Examples but for some, which are told by their hashes: batches have fewer rows.

    Args:
        source: all examples.
        hashes: of those that are left out, uint64 (k,).
        most: of the source, from its beginning, that are read at all; None: all.
    """

    source: Examples
    hashes: AnyArray
    most: int | None = None

    @property
    def examples(self) -> int:
        total = self.source.examples
        return total if self.most is None else min(total, self.most)

    @property
    def fingerprint(self) -> str:
        digest = hashlib.sha256(self.source.fingerprint.encode())
        digest.update(np.sort(self.hashes).tobytes() + str(self.examples).encode())
        return digest.hexdigest()

    @property
    def classes(self) -> Sequence[str]:
        return self.source.classes

    @property
    def notes(self) -> Sequence[str]:
        return self.source.notes

    @property
    def remarks(self) -> Sequence[str]:
        return self.source.remarks

    def batches(self, size: int, start: int = 0) -> Iterator[ExampleBatch]:
        for number, batch in enumerate(self.source.batches(size, start)):
            left = self.examples - start - number * size
            if left <= 0:
                break
            yield batch.rows(~np.isin(batch.hashes, self.hashes) & (np.arange(len(batch)) < left))


@dataclass(frozen=True)
class Prepared:
    """Photographs as one network reads them (n, ...), made for the rows that come to it."""

    photographs: Sequence[Decoded]
    preprocessing: Preprocessing
    dtype = np.dtype(np.float32)

    @classmethod
    def field(cls, photographs: Sequence[Decoded], preprocessing: Preprocessing) -> AnyArray:
        """As a field of a batch, which need not be an array."""
        return cast(AnyArray, cls(photographs, preprocessing))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.preprocessing.shape)

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, rows: Any) -> AnyArray:
        """Some of the rows: their numbers, or a slice."""
        chosen = [self.photographs[row] for row in np.arange(len(self))[rows]]
        return self.preprocessing(pixels_of(chosen, self.preprocessing))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> AnyArray:
        found = self[:]
        return found if dtype is None else found.astype(dtype)


def pixels_of(photographs: Sequence[Decoded], preprocessing: Preprocessing) -> AnyArray:
    """Photographs as a network reads them, (n, height, width, channels), uint8."""
    images = np.zeros(
        (len(photographs), *preprocessing.size, len(preprocessing.mean)), dtype=np.uint8
    )
    for position, photograph in enumerate(photographs):
        found = photograph
        if isinstance(found, Image.Image):
            found = resized(found.convert(preprocessing.mode), preprocessing)
        images[position] = found.reshape(images.shape[1:])
    return images
