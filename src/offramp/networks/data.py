"""Examples in: npz arrays, Parquet of encoded images, image folders, Hugging Face datasets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offramp.base.errors import DataError, MissingExtra, foreign
from offramp.base.fields import X
from offramp.base.files import fingerprint, regular
from offramp.core.parts import unread
from offramp.core.task import SINGLE, Task, task_named
from offramp.core.tasks import LABELS, whole_labels
from offramp.networks.batches import NOTHING as NOTHING
from offramp.networks.batches import Decoded, Prepared, pixels_of
from offramp.networks.batches import ExampleBatch as ExampleBatch
from offramp.networks.batches import Examples as Examples
from offramp.networks.columns import (
    Stored,
    Table,
    check_columns,
    encoded,
    groups,
    holds_bytes,
    label_column,
    parquet_tables,
)
from offramp.networks.folders import fingerprint_text, read_folder
from offramp.networks.images import Skipped, photograph
from offramp.networks.npz import Arrays as Arrays
from offramp.networks.preprocessing import (
    AnyPreprocessing,
    PerNetwork,
    Preprocessing,
    Source,
    sources_of,
)
from offramp.networks.resizing import resized

_COLUMNS = ("label", *LABELS)  # what tables call labels, before others


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Images that are decoded as they are read: (name, bytes or file, label) in a fixed order."""

    examples: int
    fingerprint: str
    read: Callable[[int], Iterable[tuple[Any, Stored, int | None]]]  # from a number on
    preprocessing: AnyPreprocessing
    skipped: Skipped
    fields: Sequence[str] = (X,)  # under which networks read the images
    classes: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def remarks(self) -> Sequence[str]:
        return self.skipped.remarks

    def batches(self, size: int, start: int = 0) -> Iterator[ExampleBatch]:
        rows = iter(self.read(start))
        while group := list(islice(rows, size)):
            read = ((name, self._decode(name, image), label) for name, image, label in group)
            yield self._batch([(name, image, y) for name, image, y in read if image is not None])
        self.skipped.check(self.examples)

    def _decode(self, name: Any, image: Stored) -> Decoded | None:
        try:
            if isinstance(image, DataError):
                raise image
            remark = partial(self.skipped.remark, str(name))
            found = photograph(image, self._mode, remark)
        except DataError as problem:
            self.skipped.broken(str(name), problem)
            return None
        # large photographs are kept only where networks read them in several ways
        way = self.preprocessing
        return resized(found, way) if isinstance(way, Preprocessing) else found

    @property
    def _ways(self) -> dict[str, Preprocessing]:
        """How each field is prepared."""
        sources = sources_of(self.fields, self.preprocessing)
        return {name: s.preprocessing for name, s in sources.items() if s.preprocessing}

    @property
    def _shared(self) -> bool:
        return isinstance(self.preprocessing, Preprocessing)

    @property
    def _mode(self) -> str:
        return "RGB" if any(way.mode == "RGB" for way in self._ways.values()) else "L"

    def _batch(self, rows: list[tuple[Any, Decoded, int | None]]) -> ExampleBatch:
        labels = [label for _, _, label in rows if label is not None]
        known = np.array(labels, dtype=np.int64) if len(labels) == len(rows) else None
        images = [image for _, image, _ in rows]
        read = {
            name: way(pixels_of(images, way)) if self._shared else Prepared.field(images, way)
            for name, way in self._ways.items()
        }
        return ExampleBatch(np.array([name for name, _, _ in rows]), read, known)


def open_examples(
    source: str | Path,
    preprocessing: AnyPreprocessing | None = None,
    *,
    fields: Sequence[str] = (X,),
    skip_broken: bool = False,
    task: str | Task = SINGLE,
) -> Examples:
    """The examples that `source` names.

    Args:
        source: an .npz, Parquet, a folder of images (one per class, or flat), hf:NAME[:SPLIT].
        preprocessing: the graph's; images need it.
        fields: that networks read, as the graph says; `x` is the only one there is.
        skip_broken: leave out images that do not decode, instead of stopping.
        task: what labels are of; those of others than one label lie in an .npz.

    Raises:
        DataError, MissingExtra: nothing can be read; Hugging Face without the extra `datasets`.
    """
    asked = _Asked(tuple(fields), preprocessing, Skipped(skip_broken))
    if str(source).startswith("hf:"):
        return _hugging_face(str(source)[3:], asked)
    path = Path(source)
    if not path.exists():
        raise DataError(f"{path} does not exist. Give an .npz, a Parquet file or a folder.")
    if path.suffix == ".npz":
        return Arrays.open(path, preprocessing, asked.fields, task_named(task))
    parquet = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if parquet and all(file.suffix == ".parquet" for file in parquet):
        return _parquet(parquet, asked)
    if path.is_dir():
        return _folder(path, asked)
    raise DataError(f"{path} is of no known kind. Give an .npz, a Parquet file or a folder.")


@dataclass(frozen=True)
class _Asked:
    """What is to be read."""

    fields: tuple[str, ...]
    preprocessing: AnyPreprocessing | None
    skipped: Skipped

    @property
    def sources(self) -> dict[str, Source]:
        return sources_of(self.fields, self.preprocessing)

    def images(self, columns: Iterable[str] = ("image",)) -> bool:
        """Whether what is read of these columns are images alone: `x` may be a column as well."""
        names = set(columns)
        if "image" not in names and X in names:
            return False
        return {source.name for source in self.sources.values()} <= {X, "image"}

    def needed(self, source: str | Path) -> AnyPreprocessing:
        """How images are read. Raises DataError where nobody says so."""
        if self.preprocessing is None:
            raise DataError(
                f"{source} holds images, but the graph does not say how networks read them. Make "
                "the graph again with --size, --mean and --std."
            )
        return self.preprocessing

    def table(self, schema: pa.Schema, where: str | Path, **found: Any) -> Table:
        """Examples with a column for each field."""
        notes = check_columns(schema, self.sources.values(), where)
        read = (*(source.name for source in self.sources.values()), found["label"])
        return Table(
            sources=self.sources,
            shared=not isinstance(self.preprocessing, PerNetwork),
            where=where,
            skipped=self.skipped,
            notes=[*unread(schema.names, read, where), *notes],
            **found,
        )


def _parquet(files: list[Path], asked: _Asked) -> Examples:
    schemas = [_opened(file) for file in files]
    if asked.images(schemas[0].schema_arrow.names):
        return _parquet_images(files, asked.needed(_where(files)), asked)
    columns = [set(file.schema_arrow.names) for file in schemas]
    label = next((name for name in _COLUMNS if all(name in names for names in columns)), None)
    for file, path in zip(schemas, files, strict=True):
        check_columns(file.schema_arrow, asked.sources.values(), path)
    read = dict.fromkeys(source.name for source in asked.sources.values())
    return asked.table(
        schemas[0].schema_arrow,
        _where(files),
        examples=sum(file.metadata.num_rows for file in schemas),
        fingerprint=_fingerprint(files),
        tables=parquet_tables(schemas, [*read, *([label] if label else [])], _where(files)),
        label=label,
        classes=_parquet_classes(schemas[0], label),
    )


def _where(files: list[Path]) -> Path:
    return files[0] if len(files) == 1 else files[0].parent


def _fingerprint(files: list[Path]) -> str:
    digest = hashlib.sha256("".join(map(fingerprint, files)).encode())
    return f"sha256:{digest.hexdigest()}"


def _parquet_images(files: list[Path], preprocessing: AnyPreprocessing, asked: _Asked) -> Encoded:
    opened = [_open_parquet(file) for file in files]
    total = sum(file.metadata.num_rows for file in opened)
    columns = [set(file.schema_arrow.names) for file in opened]
    label = next((name for name in _COLUMNS if all(name in names for names in columns)), None)
    notes = unread(set().union(*columns), ("image", label), _where(files))

    def read(start: int) -> Iterator[tuple[int, Stored, int | None]]:
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
    return Encoded(
        examples=total,
        fingerprint=_fingerprint(files),
        fields=asked.fields,
        read=read,
        preprocessing=preprocessing,
        skipped=asked.skipped,
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


def _opened(path: Path) -> pq.ParquetFile:
    with foreign(DataError, f"{path} cannot be read as Parquet"):
        file = pq.ParquetFile(regular(path, DataError))
        names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise DataError(f"{path} has two columns of one name; its columns are {', '.join(names)}.")
    return file


def _open_parquet(path: Path) -> pq.ParquetFile:
    file = _opened(path)
    if "image" not in file.schema_arrow.names:
        raise DataError(
            f"{path} has no column `image` of encoded images; "
            f"its columns are {', '.join(file.schema_arrow.names)}."
        )
    if not holds_bytes(file.schema_arrow.field("image").type):
        raise DataError(
            f"the column `image` of {path} is {file.schema_arrow.field('image').type}; it must "
            "hold encoded images: binary, or a struct with such a field `bytes`."
        )
    return file


def _parquet_rows(
    file: pq.ParquetFile, path: Path, label: str | None, first: int
) -> Iterator[tuple[int, Stored, int | None]]:
    row = 0
    for group in groups(file, path, ["image"] if label is None else ["image", label]):
        with foreign(DataError, f"{path} cannot be read to its end"):
            images = group.column("image").to_pylist()
            labels = label_column(group, label, path)
        for image, number in zip(images, labels, strict=True):
            yield first + row, encoded(image, f"row {row} of column `image` in {path}"), number
            row += 1


def _folder(path: Path, asked: _Asked) -> Encoded:
    preprocessing = asked.needed(path)
    if not asked.images():
        raise DataError(
            f"{path} is a folder of images, but the networks read the fields "
            f"{', '.join(asked.fields)}. Give an .npz or Parquet with these."
        )
    found = read_folder(path)
    names = [str(file.relative_to(path)) for file, _ in found.images]
    digest = hashlib.sha256(fingerprint_text(path, found.images).encode()).hexdigest()

    def read(start: int) -> Iterator[tuple[str, Stored, int | None]]:
        for name, (file, label) in zip(names[start:], found.images[start:], strict=True):
            yield name, file, label

    return Encoded(
        examples=len(names),
        fingerprint=f"sha256:{digest}",
        fields=asked.fields,
        read=read,
        preprocessing=preprocessing,
        skipped=asked.skipped,
        classes=found.classes,
        notes=found.notes,
    )


def _hugging_face(name: str, asked: _Asked) -> Examples:
    """A dataset with a column per field and perhaps `label`: NAME[:SPLIT], or a saved folder."""
    where, _, split = name.partition(":")
    found, images = _hugging_face_rows(name, where, split, asked)
    label = next((name for name in _COLUMNS if name in found.column_names), None)
    if not images:
        return _hugging_face_table(where, found, label, asked)

    def read(start: int) -> Iterator[tuple[int, Stored, int | None]]:
        for row in range(start, len(found)):
            item = found[row]
            image = item["image"] or {}
            file = image.get("path") if image.get("bytes") is None else None
            source = Path(file) if file else encoded(image, f"row {row} of column `image`")
            yield (
                row,
                source,
                None if label is None else int(whole_labels(np.asarray([item[label]]), where)[0]),
            )

    return Encoded(
        examples=len(found),
        fingerprint=f"hf:{found._fingerprint}",
        fields=asked.fields,
        read=read,
        preprocessing=asked.needed(where),
        skipped=asked.skipped,
        classes=getattr(found.features.get(label), "names", None) or (),
        notes=unread(found.column_names, ("image", label), where),
    )


def _hugging_face_rows(name: str, where: str, split: str, asked: _Asked) -> tuple[Any, bool]:
    """The rows of a dataset, images not decoded, and whether images alone are read of it."""
    try:
        import datasets
    except ImportError:
        raise MissingExtra("datasets", "datasets") from None
    try:
        saved = Path(where).is_dir() and (Path(where) / "dataset_info.json").exists()
        found = (
            datasets.load_from_disk(where)
            if saved
            else datasets.load_dataset(where, split=split or "test")
        )
        images = asked.images(found.column_names)
        for column, feature in dict(found.features).items():
            if isinstance(feature, datasets.Image) or (images and column == "image"):
                found = found.cast_column(column, datasets.Image(decode=False))
        if images and "image" not in found.column_names:
            raise KeyError("there is no column image")
    except Exception as problem:  # the library raises many kinds: offline, unknown name, no column
        raise DataError(f"dataset '{name}' cannot be loaded: {problem}.") from None
    return found, images


def _hugging_face_table(where: str, found: Any, label: str | None, asked: _Asked) -> Table:
    rows = found.with_format("arrow")

    def read(start: int, size: int) -> Iterator[pa.Table]:
        for first in range(start, len(found), size):
            yield rows[first : first + size]

    return asked.table(
        found.features.arrow_schema,
        where,
        examples=len(found),
        fingerprint=f"hf:{found._fingerprint}",
        tables=read,
        label=label,
        classes=getattr(found.features.get(label), "names", None) or (),
    )
