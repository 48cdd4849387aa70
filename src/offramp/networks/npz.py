"""Examples in an .npz: an array per field, and labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from offramp.base.arrays import AnyArray
from offramp.base.errors import DataError, TraceError
from offramp.base.fields import X
from offramp.base.files import fingerprint
from offramp.core.parts import read_npz, unread
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import LABELS, whole_labels
from offramp.networks.batches import ExampleBatch, Prepared
from offramp.networks.preprocessing import AnyPreprocessing, PerNetwork, Source, sources_of

_LABELS = ("y", *LABELS)


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """An .npz with `x` (n, ...), or an array for each field, and, where labelled, `y` (n,)."""

    x: AnyArray | Mapping[str, AnyArray]  # the only field, or by the name of each
    y: AnyArray | None
    fingerprint: str
    preprocessing: AnyPreprocessing | None
    classes: Sequence[str] = ()  # names, by label; none known
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()

    @classmethod
    def open(
        cls,
        path: Path,
        preprocessing: AnyPreprocessing | None = None,
        fields: Sequence[str] = (X,),
        task: Task = SINGLE,
    ) -> Arrays:
        try:
            held = read_npz(path)
        except TraceError as problem:
            raise DataError(str(problem)) from None
        name = next((name for name in _LABELS if name in held), None)
        sources = sources_of(fields, preprocessing)
        read = {field: source.name for field, source in sources.items()}
        for field, found in read.items():
            if found not in held or held[found].ndim < 1 or held[found].dtype.kind not in "fiub":
                raise DataError(_missing(path, held, field, found, fields))
            _check_pixels(held[found], sources[field], path, preprocessing)
        y = None if name is None else held[name]
        if y is not None and task == SINGLE:  # labels of others are checked beside the scores
            y = whole_labels(y, str(path))
        rows = {found: len(held[found]) for found in read.values()}
        count = next(iter(rows.values()))
        if y is not None and len(y) != count:
            raise DataError(f"{path} has {len(y)} labels for {count} examples.")
        for found, size in rows.items():
            if size != count:
                raise DataError(
                    f"`{found}` in {path} has {size} rows, and `{next(iter(rows))}` {count}; every "
                    "field needs a row for each example."
                )
        return cls(
            x={field: held[found] for field, found in read.items()},
            y=y,
            fingerprint=fingerprint(path),
            preprocessing=preprocessing,
            classes=(),
            notes=unread(held, (*read.values(), name), path),
        )

    @property
    def _fields(self) -> Mapping[str, AnyArray]:
        return self.x if isinstance(self.x, Mapping) else {X: self.x}

    @property
    def examples(self) -> int:
        return len(next(iter(self._fields.values())))

    def batches(self, size: int, start: int = 0) -> Iterator[ExampleBatch]:
        sources = sources_of(self._fields, self.preprocessing)
        for first in range(start, self.examples, size):
            rows = slice(first, first + size)
            ids = np.arange(first, min(first + size, self.examples))
            read = {
                name: self._read(values[rows], sources[name])
                for name, values in self._fields.items()
            }
            yield ExampleBatch(ids, read, None if self.y is None else self.y[rows])

    def _read(self, values: AnyArray, source: Source) -> AnyArray:
        pixels = source.preprocessing
        if pixels is None or values.dtype != np.uint8 or not _is_image(values, self.preprocessing):
            return values
        if isinstance(self.preprocessing, PerNetwork):
            images = [Image.fromarray(image.squeeze()) for image in values]
            return Prepared.field(images, pixels)
        return pixels(values)


def _is_image(values: AnyArray, preprocessing: AnyPreprocessing | None) -> bool:
    """Whether pixels of uint8 may lie in (n, ...), beside other fields."""
    return values.ndim in (3, 4)


def _missing(
    path: Path, held: Mapping[str, AnyArray], field: str, found: str, fields: Sequence[str]
) -> str:
    if tuple(fields) == (X,):
        return (
            f"{path} must hold numbers `x` (n, ...) and, where labelled, `y` (n,); "
            f"it holds {', '.join(held) or 'nothing'}. Networks that read other fields say so: "
            "offramp graph ... --reads NETWORK.INPUT=FIELD."
        )
    return (
        f"the networks read a field `{found}`, numbers (n, ...), which {path} lacks; it holds "
        f"{', '.join(held) or 'nothing'}. Name it so, or say what each network reads: "
        "offramp graph ... --reads NETWORK.INPUT=FIELD."
    )


def _check_pixels(
    values: AnyArray, source: Source, path: Path, preprocessing: AnyPreprocessing | None
) -> None:
    """Raises DataError where what should be images is none of the kinds that are read."""
    if source.preprocessing is None:
        return
    if isinstance(preprocessing, PerNetwork) and values.dtype != np.uint8:
        raise DataError(
            f"`{source.name}` in {path} is {values.dtype}, but the networks read images of uint8 "
            "(n, height, width, channels), each in its own way. Give these."
        )
    single = source.name == X
    if single and values.dtype.kind in "iu" and values.dtype != np.uint8:
        raise DataError(
            f"`x` in {path} is {values.dtype}, but the graph reads images of uint8, or floats that "
            "were brought into its range before. Scale them, or make the graph without --size."
        )
