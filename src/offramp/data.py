"""Examples in: npz arrays, Parquet of encoded images, image folders, Hugging Face datasets."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from offramp.arrays import AnyArray, IntArray
from offramp.errors import DataError, MissingExtra, TraceError, foreign
from offramp.files import fingerprint, regular
from offramp.preprocessing import Preprocessing
from offramp.trace import read_npz

IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class Batch:
    """Some consecutive examples, ready for the networks."""

    ids: AnyArray  # (n,) integers, or file names
    x: AnyArray  # (n, ...)
    labels: IntArray | None  # (n,)


NOTHING = Batch(np.empty(0, np.int64), np.empty((0,), np.float32), None)


class Examples(Protocol):
    """Examples in a fixed order, read in batches."""

    @property
    def examples(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """What tells these examples from others."""

    def batches(self, size: int, start: int = 0) -> Iterator[Batch]:
        """Batches of `size` examples from number `start` on; the last may be smaller.

        A batch has fewer rows where broken images are skipped.
        """


@dataclass
class Skipped:
    """Counts images that did not decode; raises unless skipping was asked for."""

    allowed: bool
    names: list[str] = field(default_factory=list)

    def broken(self, name: str, problem: Exception) -> None:
        if not self.allowed:
            raise DataError(
                f"image {name} cannot be decoded: {problem}. "
                "Mend or remove it, or add --skip-broken to leave such images out."
            ) from None
        self.names.append(name)


@dataclass(frozen=True)
class Arrays:
    """An .npz with `x` (n, ...) and, where labelled, `y` (n,)."""

    x: AnyArray
    y: IntArray | None
    fingerprint: str
    preprocessing: Preprocessing | None

    @classmethod
    def open(cls, path: Path, preprocessing: Preprocessing | None) -> Arrays:
        try:
            arrays = read_npz(path)
        except TraceError as problem:
            raise DataError(str(problem)) from None
        if "x" not in arrays or arrays["x"].ndim < 1 or arrays["x"].dtype.kind not in "fiub":
            raise DataError(
                f"{path} must hold numbers `x` (n, ...) and, where labelled, `y` (n,); "
                f"it holds {', '.join(arrays) or 'nothing'}."
            )
        y = None if "y" not in arrays else _labels(arrays["y"], str(path))
        if y is not None and len(y) != len(arrays["x"]):
            raise DataError(f"{path} has {len(y)} labels for {len(arrays['x'])} examples.")
        return cls(arrays["x"], y, fingerprint(path), preprocessing)

    @property
    def examples(self) -> int:
        return len(self.x)

    def batches(self, size: int, start: int = 0) -> Iterator[Batch]:
        for first in range(start, self.examples, size):
            rows = slice(first, first + size)
            x = self.x[rows]
            if self.preprocessing and x.dtype == np.uint8:
                x = self.preprocessing(x)
            ids = np.arange(first, first + len(x))
            yield Batch(ids, x, None if self.y is None else self.y[rows])


@dataclass(frozen=True)
class Encoded:
    """Images that are decoded as they are read: (name, bytes or file, label) in a fixed order."""

    examples: int
    fingerprint: str
    read: Callable[[int], Iterable[tuple[Any, bytes | Path, int | None]]]  # from a number on
    preprocessing: Preprocessing
    skipped: Skipped

    def batches(self, size: int, start: int = 0) -> Iterator[Batch]:
        rows = iter(self.read(start))
        while group := list(islice(rows, size)):
            kept = [(name, self._decode(name, image), label) for name, image, label in group]
            whole = [row for row in kept if row[1] is not None]
            yield self._batch(whole)

    def _decode(self, name: Any, image: bytes | Path) -> AnyArray | None:
        try:
            return decode(image, self.preprocessing)
        except (
            OSError,
            ValueError,
            Image.DecompressionBombError,
        ) as problem:
            self.skipped.broken(str(name), problem)
            return None

    def _batch(self, rows: list[tuple[Any, AnyArray | None, int | None]]) -> Batch:
        height, width = self.preprocessing.size
        images = np.zeros((len(rows), height, width, len(self.preprocessing.mean)), np.uint8)
        for position, (_, image, _) in enumerate(rows):
            if image is not None:
                images[position] = image.reshape(images.shape[1:])
        labels = [label for _, _, label in rows if label is not None]
        known = np.array(labels, dtype=np.int64) if len(labels) == len(rows) else None
        return Batch(np.array([name for name, _, _ in rows]), self.preprocessing(images), known)


def decode(image: bytes | Path, preprocessing: Preprocessing) -> AnyArray:
    """Pixels (height, width[, 3]): turned upright, the shorter side scaled, the centre cut."""
    source = image if isinstance(image, Path) else io.BytesIO(image)
    height, width = preprocessing.size
    with Image.open(source) as opened:
        upright = ImageOps.exif_transpose(opened).convert(preprocessing.mode)
        if upright.size != (width, height):
            upright = ImageOps.fit(upright, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(upright)


def open_examples(
    source: str | Path,
    preprocessing: Preprocessing | None = None,
    *,
    skip_broken: bool = False,
) -> Examples:
    """The examples that `source` names.

    Args:
        source: an .npz, a Parquet file or a folder of them, a folder of images (one sub-folder per
            class, or flat and unlabelled), or `hf:NAME[:SPLIT]`, a Hugging Face dataset.
        preprocessing: the graph's; images need it.
        skip_broken: leave out images that do not decode, instead of stopping.

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
        return Arrays.open(path, preprocessing)
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
    labelled = all("label" in file.schema_arrow.names for file in opened)

    def read(start: int) -> Iterator[tuple[int, bytes, int | None]]:
        row = 0
        for file, path in zip(opened, files, strict=True):
            if row + file.metadata.num_rows <= start:
                row += file.metadata.num_rows
                continue
            for name, image, label in _parquet_rows(file, path, labelled, row):
                if name >= start:
                    yield name, image, label
            row += file.metadata.num_rows

    return Encoded(total, f"sha256:{digest.hexdigest()}", read, preprocessing, skipped)


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
    if not _encoded(file.schema_arrow.field("image").type):
        raise DataError(
            f"the column `image` of {path} is {file.schema_arrow.field('image').type}; it must "
            "hold encoded images: binary, or a struct with such a field `bytes`."
        )
    return file


def _encoded(kind: pa.DataType) -> bool:
    """Whether a column holds the bytes of files."""
    if pa.types.is_struct(kind):  # as Hugging Face keeps them, beside the path
        at = kind.get_field_index("bytes")
        return bool(at >= 0 and _encoded(kind.field(at).type))
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _parquet_rows(
    file: pq.ParquetFile, path: Path, labelled: bool, first: int
) -> Iterator[tuple[int, bytes, int | None]]:
    columns = ["image", "label"] if labelled else ["image"]
    groups = iter(_groups(file, path, columns))
    for group in groups:
        with foreign(DataError, f"{path} cannot be read to its end"):
            images = group.column("image").to_pylist()
            labels = _labels_of(group, labelled, path)
        for image, label in zip(images, labels, strict=True):
            found = image["bytes"] if isinstance(image, dict) else image
            yield first, b"" if found is None else found, label  # which no decoder takes
            first += 1


def _groups(file: pq.ParquetFile, path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    rows = file.iter_batches(256, columns=columns)
    while True:
        with foreign(DataError, f"{path} cannot be read to its end"):
            group = next(rows, None)
        if group is None:
            return
        yield group


def _labels_of(group: pa.RecordBatch, labelled: bool, path: Path) -> list[int | None]:
    if not labelled:
        return [None] * group.num_rows
    column = group.column("label")
    if column.null_count:
        raise DataError(f"{path} has rows without a label; give every row one, or drop the column.")
    labels: list[int | None] = _labels(column.to_numpy(zero_copy_only=False), str(path)).tolist()
    return labels


def _labels(labels: AnyArray, source: str) -> IntArray:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(
            f"the labels in {source} are {labels.dtype} of shape {labels.shape}; "
            "they must be integers, one per example."
        )
    return np.asarray(labels, dtype=np.int64)


def _folder(path: Path, preprocessing: Preprocessing, skipped: Skipped) -> Encoded:
    classes = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    found: list[tuple[Path, int | None]] = [(file, None) for file in _images(path)]
    if classes and found:
        raise DataError(
            f"{path} holds both images and sub-folders. Use one sub-folder per class, or a flat "
            "folder of unlabelled images."
        )
    for label, name in enumerate(classes):
        found += [(file, label) for file in _images(path / name)]
    if not found:
        raise DataError(f"{path} holds no images ({', '.join(sorted(IMAGES))}).")
    names = [str(file.relative_to(path)) for file, _ in found]
    for name in names:
        if name.encode(errors="replace") != os.fsencode(name):
            raise DataError(
                f"the file name {name!r} holds bytes that are no text; rename the file."
            )
    prints = (fingerprint(file) for file, _ in found)  # contents: names and sizes may stay the same
    listing = "\n".join(f"{name} {of}" for name, of in zip(names, prints, strict=True))

    def read(start: int) -> Iterator[tuple[str, Path, int | None]]:
        for name, (file, label) in zip(names[start:], found[start:], strict=True):
            yield name, file, label

    digest = hashlib.sha256(listing.encode()).hexdigest()
    return Encoded(len(found), f"sha256:{digest}", read, preprocessing, skipped)


def _images(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGES and f.is_file())


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
    labelled = "label" in found.column_names

    def read(start: int) -> Iterator[tuple[int, bytes | Path, int | None]]:
        for row in range(start, len(found)):
            item = found[row]
            image = item["image"]["bytes"] or Path(item["image"]["path"])
            yield row, image, int(item["label"]) if labelled else None

    return Encoded(len(found), f"hf:{found._fingerprint}", read, preprocessing, skipped)
