"""Files that are whole or absent: written under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offramp.errors import InputError, StorageError

# A folder that holds one of these was written by offramp, and `--force` may replace it.
MANIFESTS = ("graph.json", "trace.json", "plan.json", "plans.json", "routes.json", "demo.json")


@contextmanager
def storage(path: Path) -> Iterator[None]:
    """Turns what the disk says into a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}. "
            "What was already written is kept; free some space or choose another --out."
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` on success and removed on failure."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        with storage(path):
            os.replace(temporary, path)
    finally:
        remove(temporary)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all; NaN is refused, because JSON has none."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    with replacing(path) as temporary, storage(path):
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path, error: type[InputError]) -> dict[str, Any]:
    """The JSON object in `path`; raises `error` where there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise error(f"{path} does not exist.") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read as JSON: {problem}.") from None
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object, but holds a {type(value).__name__}.")
    return value


def read_manifest(folder: Path, kind: str, version: int, error: type[InputError]) -> dict[str, Any]:
    """The JSON object in folder/KIND.json; raises `error` where it is absent or of another version.

    `kind` is graph, trace or plan.
    """
    path = folder / f"{kind}.json"
    if not path.exists():
        raise error(f"{folder} is not a {kind}: it holds no {path.name}.")
    value = read_json(path, error)
    if value.get("version") != version:
        raise error(
            f"{folder} is a {kind} of version {value.get('version')}; this offramp reads version "
            f"{version}. Upgrade offramp, or make the {kind} again."
        )
    return value


def check_output(path: Path, force: bool) -> None:
    """Raises where `path` is taken; with `force` only where it holds something that is not ours."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not force:
        raise InputError(f"{path} exists already. Choose another --out, or add --force.")
    if path.is_dir() and not any((path / name).exists() for name in MANIFESTS):
        raise InputError(
            f"{path} was not written by offramp, so --force will not replace it. "
            "Choose another --out."
        )


@contextmanager
def new_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """A folder to fill, which takes the name `path` once it is complete.

    Raises:
        InputError: `path` exists and `force` is not given, or is not a folder of ours.
        StorageError: it cannot be written.
    """
    check_output(path, force)
    with replacing(path) as temporary:
        with storage(path):
            temporary.mkdir()
        yield temporary
        remove(path)


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file, as `sha256:` and hexadecimal digits."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
