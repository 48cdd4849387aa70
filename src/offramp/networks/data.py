"""Examples in: npz arrays, Parquet of encoded images, image folders, Hugging Face datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offramp.base.arrays import AnyArray
from offramp.base.errors import DataError, MissingExtra, TraceError, foreign
from offramp.base.files import fingerprint, regular
from offramp.core.parts import read_npz, unread
from offramp.core.task import SINGLE, Task, task_named
from offramp.core.tasks import LABELS, whole_labels
from offramp.networks.folders import fingerprint_text, read_folder
from offramp.networks.images import Skipped, decode
from offramp.networks.preprocessing import Preprocessing

_COLUMNS = ("label", *LABELS)  # what tables call labels, before others
Source = bytes | Path | DataError  # of an image: what is in the file, the file, or why neither


@dataclass(frozen=True)
class ExampleBatch:
    """Some consecutive examples, ready for the networks."""

    ids: AnyArray  # (n,) integers, or file names
    x: AnyArray  # (n, ...)
    labels: AnyArray | None  # (n,), or as the task has them


NOTHING = ExampleBatch(np.empty(0, np.int64), np.empty((0,), np.float32), None)


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
class Arrays:
    """An .npz with `x` (n, ...) and, where labelled, `y` (n,)."""

    x: AnyArray
    y: AnyArray | None
    fingerprint: str
    preprocessing: Preprocessing | None
    classes: Sequence[str] = ()  # names, by label; none known
    notes: Sequence[str] = ()
    remarks: Sequence[str] = ()

    @classmethod
    def open(cls, path: Path, preprocessing: Preprocessing | None, task: Task = SINGLE) -> Arrays:
        try:
            arrays = read_npz(path)
        except TraceError as problem:
            raise DataError(str(problem)) from None
        if "x" not in arrays or arrays["x"].ndim < 1 or arrays["x"].dtype.kind not in "fiub":
            raise DataError(
                f"{path} must hold numbers `x` (n, ...) and, where labelled, `y` (n,); "
                f"it holds {', '.join(arrays) or 'nothing'}."
            )
        name = next((name for name in ("y", *LABELS) if name in arrays), None)
        y = None if name is None else arrays[name]
        if y is not None and task == SINGLE:  # labels of others are checked beside the scores
            y = whole_labels(y, str(path))
        if y is not None and len(y) != len(arrays["x"]):
            raise DataError(f"{path} has {len(y)} labels for {len(arrays['x'])} examples.")
        x, notes = arrays["x"], unread(arrays, ("x", name), path)
        if preprocessing and x.dtype.kind in "iu" and x.dtype != np.uint8:
            raise DataError(
                f"`x` in {path} is {x.dtype}, but the graph reads images of uint8, or floats that "
                "were brought into its range before. Scale them, or make the graph without --size."
            )
        return cls(
            x=x,
            y=y,
            fingerprint=fingerprint(path),
            preprocessing=preprocessing,
            classes=(),
            notes=notes,
        )

    @property
    def examples(self) -> int:
        return len(self.x)

    def batches(self, size: int, start: int = 0) -> Iterator[ExampleBatch]:
        for first in range(start, self.examples, size):
            rows = slice(first, first + size)
            x = self.x[rows]
            if self.preprocessing and x.dtype == np.uint8:
                x = self.preprocessing(x)
            ids = np.arange(first, first + len(x))
            yield ExampleBatch(ids, x, None if self.y is None else self.y[rows])


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Images that are decoded as they are read: (name, bytes or file, label) in a fixed order."""

    examples: int
    fingerprint: str
    read: Callable[[int], Iterable[tuple[Any, Source, int | None]]]  # from a number on
    preprocessing: Preprocessing
    skipped: Skipped
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def remarks(self) -> Sequence[str]:
        return self.skipped.remarks

    def batches(self, size: int, start: int = 0) -> Iterator[ExampleBatch]:
        rows = iter(self.read(start))
        while group := list(islice(rows, size)):
            kept = [(name, self._decode(name, image), label) for name, image, label in group]
            whole = [row for row in kept if row[1] is not None]
            yield self._batch(whole)
        self.skipped.check(self.examples)

    def _decode(self, name: Any, image: Source) -> AnyArray | None:
        try:
            if isinstance(image, DataError):
                raise image
            remark = partial(self.skipped.remark, str(name))
            return decode(image, self.preprocessing, remark)
        except DataError as problem:
            self.skipped.broken(str(name), problem)
            return None

    def _batch(self, rows: list[tuple[Any, AnyArray | None, int | None]]) -> ExampleBatch:
        height, width = self.preprocessing.size
        images = np.zeros((len(rows), height, width, len(self.preprocessing.mean)), np.uint8)
        for position, (_, image, _) in enumerate(rows):
            if image is not None:
                images[position] = image.reshape(images.shape[1:])
        labels = [label for _, _, label in rows if label is not None]
        known = np.array(labels, dtype=np.int64) if len(labels) == len(rows) else None
        return ExampleBatch(
            np.array([name for name, _, _ in rows]), self.preprocessing(images), known
        )


def open_examples(
    source: str | Path,
    preprocessing: Preprocessing | None = None,
    *,
    skip_broken: bool = False,
    task: str | Task = SINGLE,
) -> Examples:
    """The examples that `source` names.

    Args:
        source: an .npz, a Parquet file or a folder of them, a folder of images (one sub-folder per
            class, or flat and unlabelled), or `hf:NAME[:SPLIT]`, a Hugging Face dataset.
        preprocessing: the graph's; images need it.
        skip_broken: leave out images that do not decode, instead of stopping.
        task: what labels are of; those of others than one label lie in an .npz.

    Raises:
        DataError: there is nothing there that can be read.
        MissingExtra: a Hugging Face dataset without the extra `datasets`.
    """
    skipped = Skipped(skip_broken)
    if str(source).startswith("hf:"):
        return _hugging_face(str(source)[3:], _needed(preprocessing, source), skipped)
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path} does not exist. Give an .npz, a Parquet file or a folder.")
    if path.suffix == ".npz":
        return Arrays.open(path, preprocessing, task_named(task))
    parquet = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if parquet and all(file.suffix == ".parquet" for file in parquet):
        return _parquet(parquet, _needed(preprocessing, source), skipped)
    if path.is_dir():
        return _folder(path, _needed(preprocessing, source), skipped)
    raise DataError(f"{path} is of no known kind. Give an .npz, a Parquet file or a folder.")


def _needed(preprocessing: Preprocessing | None, source: str | Path) -> Preprocessing:
    if preprocessing is None:
        raise DataError(
            f"{source} holds images, but the graph does not say how networks read them. Make the "
            "graph again with --size, --mean and --std."
        )
    return preprocessing


def _parquet(files: list[Path], preprocessing: Preprocessing, skipped: Skipped) -> Encoded:
    opened = [_open_parquet(file) for file in files]
    total = sum(file.metadata.num_rows for file in opened)
    digest = hashlib.sha256("".join(map(fingerprint, files)).encode())
    columns = [set(file.schema_arrow.names) for file in opened]
    label = next((name for name in _COLUMNS if all(name in names for names in columns)), None)
    where = files[0] if len(files) == 1 else files[0].parent
    notes = unread(set().union(*columns), ("image", label), where)

    def read(start: int) -> Iterator[tuple[int, Source, int | None]]:
        row = 0
        for file, path in zip(opened, files, strict=True):
            if row + file.metadata.num_rows <= start:
                row += file.metadata.num_rows
                continue
            for name, image, number in _parquet_rows(file, path, label, row):
                if name >= start:
                    yield name, image, number
            row += file.metadata.num_rows

    classes = _parquet_classes(opened[0], label)
    found = f"sha256:{digest.hexdigest()}"
    return Encoded(
        examples=total,
        fingerprint=found,
        read=read,
        preprocessing=preprocessing,
        skipped=skipped,
        classes=classes,
        notes=notes,
    )


def _parquet_classes(file: pq.ParquetFile, label: str | None) -> Sequence[str]:
    """The names of classes that Hugging Face datasets write beside the columns."""
    try:
        about = json.loads((file.schema_arrow.metadata or {})[b"huggingface"])
        names = about["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return [str(name) for name in names] if isinstance(names, list) else ()


def _open_parquet(path: Path) -> pq.ParquetFile:
    with foreign(DataError, f"{path} cannot be read as Parquet"):
        file = pq.ParquetFile(regular(path, DataError))
        names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise DataError(f"{path} has two columns of one name; its columns are {', '.join(names)}.")
    if "image" not in file.schema_arrow.names:
        raise DataError(
            f"{path} has no column `image` of encoded images; "
            f"its columns are {', '.join(file.schema_arrow.names)}."
        )
    if not _holds_bytes(file.schema_arrow.field("image").type):
        raise DataError(
            f"the column `image` of {path} is {file.schema_arrow.field('image').type}; it must "
            "hold encoded images: binary, or a struct with such a field `bytes`."
        )
    return file


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds the bytes of files."""
    if pa.types.is_struct(kind):  # as Hugging Face keeps them, beside the path
        at = kind.get_field_index("bytes")
        return bool(at >= 0 and _holds_bytes(kind.field(at).type))
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _parquet_rows(
    file: pq.ParquetFile, path: Path, label: str | None, first: int
) -> Iterator[tuple[int, Source, int | None]]:
    row = 0
    for group in _groups(file, path, ["image"] if label is None else ["image", label]):
        with foreign(DataError, f"{path} cannot be read to its end"):
            images = group.column("image").to_pylist()
            labels = _labels_of(group, label, path)
        for image, number in zip(images, labels, strict=True):
            yield first + row, _encoded(image, f"row {row} of column `image` in {path}"), number
            row += 1


def _groups(file: pq.ParquetFile, path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    rows = file.iter_batches(256, columns=columns)
    while True:
        with foreign(DataError, f"{path} cannot be read to its end"):
            group = next(rows, None)
        if group is None:
            return
        yield group


def _encoded(image: Any, where: str) -> Source:
    """The bytes of an image in a table; Hugging Face keeps them in a struct beside the path."""
    found = image.get("bytes") if isinstance(image, dict) else image
    if isinstance(found, bytes):
        return found
    held = "empty" if found is None else f"of type {type(found).__name__}"
    return DataError(f"{where} is {held}; it must hold the bytes of an encoded image")


def _labels_of(group: pa.RecordBatch, label: str | None, path: Path) -> list[int | None]:
    if label is None:
        return [None] * group.num_rows
    column = group.column(label)
    if column.null_count:
        raise DataError(f"{path} has rows without a label; give every row one, or drop the column.")
    labels = whole_labels(column.to_numpy(zero_copy_only=False), str(path))
    return list(labels.tolist())


def _folder(path: Path, preprocessing: Preprocessing, skipped: Skipped) -> Encoded:
    found = read_folder(path)
    names = [str(file.relative_to(path)) for file, _ in found.images]
    digest = hashlib.sha256(fingerprint_text(path, found.images).encode()).hexdigest()

    def read(start: int) -> Iterator[tuple[str, Source, int | None]]:
        for name, (file, label) in zip(names[start:], found.images[start:], strict=True):
            yield name, file, label

    what = f"sha256:{digest}"
    return Encoded(
        examples=len(names),
        fingerprint=what,
        read=read,
        preprocessing=preprocessing,
        skipped=skipped,
        classes=found.classes,
        notes=found.notes,
    )


def _whole(label: Any, source: str) -> int:
    return int(whole_labels(np.asarray([label]), source)[0])


def _hugging_face(name: str, preprocessing: Preprocessing, skipped: Skipped) -> Encoded:
    """A dataset with columns `image` and perhaps `label`: NAME[:SPLIT], or a saved folder."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "datasets") from None
    where, _, split = name.partition(":")
    try:
        saved = Path(where).is_dir() and (Path(where) / "dataset_info.json").exists()
        found = (
            datasets.load_from_disk(where)
            if saved
            else datasets.load_dataset(where, split=split or "test")
        )
        found = found.cast_column("image", datasets.Image(decode=False))
    except Exception as problem:  # the library raises many kinds: offline, unknown name, no column
        raise DataError(f"dataset '{name}' cannot be loaded: {problem}.") from None
    label = next((name for name in _COLUMNS if name in found.column_names), None)

    def read(start: int) -> Iterator[tuple[int, Source, int | None]]:
        for row in range(start, len(found)):
            item = found[row]
            image = item["image"] or {}
            file = image.get("path") if image.get("bytes") is None else None
            source = Path(file) if file else _encoded(image, f"row {row} of column `image`")
            yield row, source, None if label is None else _whole(item[label], where)

    classes = getattr(found.features.get(label), "names", None) or ()
    notes = unread(found.column_names, ("image", label), where)
    what = f"hf:{found._fingerprint}"
    return Encoded(
        examples=len(found),
        fingerprint=what,
        read=read,
        preprocessing=preprocessing,
        skipped=skipped,
        classes=classes,
        notes=notes,
    )
