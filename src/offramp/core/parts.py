"""What traces are kept in: a manifest, parts in Parquet, and arrays as numpy saves them."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offramp.base.arrays import AnyArray
from offramp.base.errors import TraceError, foreign
from offramp.base.files import regular, replacing, storage
from offramp.base.manifests import HASH, PRINTS, Manifest, kind_of_folder
from offramp.core.costs import COST_KEYS, CostsJson
from offramp.core.graph import GraphJson
from offramp.core.rows import HashOf
from offramp.core.tasks import Kind

TRACE_VERSION = 1
TRACE = kind_of_folder("trace")
PART_NUMBERS = 16_000_000  # scores in a part, so that reading one at a time takes little memory
TRACE_KEYS = frozenset(  # what a trace says of itself; anything else is its `info`
    (
        *("version", "complete", "examples", "classes", "labelled", "task"),
        *("graph", *COST_KEYS, "scores", "seal", "hash_of", PRINTS, HASH),
    )
)


class Recording(Manifest):
    """What trace.json holds from the first moment of a recording on."""

    complete: bool
    graph: GraphJson
    data: NotRequired[str | None]
    networks: NotRequired[dict[str, str]]  # part -> fingerprint
    graph_folder: NotRequired[str | None]
    input: NotRequired[dict[str, Any]]
    seal: NotRequired[float | None]
    hash_of: NotRequired[HashOf]


class TraceManifest(Recording, CostsJson):
    """What trace.json holds."""

    examples: int
    classes: int
    labelled: bool
    task: NotRequired[str]
    scores: dict[str, Kind]


def part_path(folder: Path, part: int) -> Path:
    return folder / f"part-{part:06d}.parquet"


def write_part(
    folder: Path,
    part: int,
    columns: Mapping[str, AnyArray],
    metadata: Mapping[bytes, str] | None = None,
) -> None:
    """Writes one part, whole or not at all; columns are (rows,) or (rows, numbers)."""
    path = part_path(folder, part)
    rows = pa.table({name: _listed(values) for name, values in columns.items()})
    rows = rows.replace_schema_metadata(metadata) if metadata else rows
    with replacing(path) as temporary, storage(path):
        pq.write_table(rows, temporary, compression="zstd")


def _listed(values: AnyArray) -> pa.Array:
    """A column; the second dimension becomes lists of a fixed size."""
    if values.ndim == 1:
        return pa.array(values)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def parts(path: Path) -> list[Path]:
    return sorted(path.glob("part-*.parquet"))


def read_listed(path: Path, manifest: Mapping[str, Any]) -> dict[str, AnyArray]:
    """What the parts that a manifest lists hold. Raises TraceError where one more or less does."""
    if unlisted := {part.name for part in parts(path)} - set(manifest[PRINTS]):
        raise TraceError(f"{path} holds {min(unlisted)}, which its manifest does not list.")
    columns = read_parts(path)
    rows = len(columns.get("id", ()))
    if rows != manifest.get("examples"):
        raise TraceError(
            f"{path} should hold {manifest.get('examples')} examples but holds {rows}; "
            "a part is missing. Record or import it again."
        )
    return columns


def read_parts(path: Path) -> dict[str, AnyArray]:
    """Every column of every part, (examples,) or (examples, classes)."""
    found = parts(path)
    files = [_open_part(part) for part in found]
    total = sum(file.metadata.num_rows for file in files)
    columns: dict[str, AnyArray] = {}
    start = 0
    for part, file in zip(found, files, strict=True):
        read = _read_part(part, file)
        for name, values in read.items() if not start else ():
            columns[name] = np.empty((total, *values.shape[1:]), values.dtype)
        if _types(read) != _types(columns):
            raise TraceError(f"{part} has other columns than the first part; record it again.")
        for name, values in read.items():
            columns[name][start : start + len(values)] = values
        start += file.metadata.num_rows
    return columns


def _types(columns: Mapping[str, AnyArray]) -> dict[str, tuple[Any, tuple[int, ...]]]:
    return {name: (values.dtype, values.shape[1:]) for name, values in columns.items()}


def _open_part(path: Path) -> pq.ParquetFile:
    with foreign(TraceError, f"{path} cannot be read", "It may be cut short; record it again."):
        return pq.ParquetFile(regular(path, TraceError))


def _read_part(path: Path, file: pq.ParquetFile) -> dict[str, AnyArray]:
    with foreign(TraceError, f"{path} cannot be read", "Record it again."), file:
        rows = file.read()
        return {name: column(rows, name) for name in rows.column_names}


def column(rows: pa.Table, name: str) -> AnyArray:
    """A column as an array; lists of a fixed size become the second dimension."""
    chunks = rows.column(name)
    values = pa.concat_arrays(chunks.chunks) if chunks.chunks else pa.array([], chunks.type)
    if pa.types.is_fixed_size_list(values.type):
        flat = values.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat.reshape(len(values), values.type.list_size))
    return np.asarray(values.to_numpy(zero_copy_only=False))


def read_npz(path: Path) -> dict[str, AnyArray]:
    """Every array in an .npz; never unpickles. Raises TraceError where it cannot be read."""
    what = f"{path} cannot be read as an .npz archive of plain arrays"
    with foreign(TraceError, what, "It may be cut short; save it again."):
        try:
            with regular(path, TraceError).open("rb") as file:
                return _arrays(path, np.load(file, allow_pickle=False))
        except ValueError:  # numpy advises to load it all the same, running whatever code it holds
            raise TraceError(
                f"{what}: it is none, or holds Python objects. Save arrays of numbers with "
                "numpy.savez."
            ) from None


def _arrays(path: Path, archive: Any) -> dict[str, AnyArray]:
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise TraceError(f"{path} is a single array; save several with numpy.savez.")
    with archive:
        found = {name: archive[name] for name in archive.files}
    for name, array in found.items():
        if not isinstance(array, np.ndarray):  # the archive holds other files as well
            raise TraceError(f"{path} holds '{name}', which is no array; save it with numpy.savez.")
    return found


def unread(names: Iterable[str], read: Iterable[str | None], where: str | Path) -> list[str]:
    """A sentence on the arrays or columns that nothing reads; none where all are read."""
    used = set(read)
    left = [f"`{name}`" for name in sorted(names) if name not in used]
    return [f"not read in {where}: {', '.join(left)}"] if left else []


def versions(packages: Sequence[str] = ("offramp", "numpy", "onnxruntime")) -> dict[str, str]:
    """Versions of Python and of `packages`, for records."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
