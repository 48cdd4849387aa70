"""Files that are whole or absent, and reading that never waits, never leaves a folder."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from offramp.base.errors import InputError, StorageError, reason


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


def hidden(path: Path, ending: str) -> Path:
    """A new name beside `path` that no listing shows: .NAME.<random>.<ending>."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.{ending}")


@contextmanager
def temporary(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; what is there at the end is removed."""
    found = hidden(path, "part")
    with storage(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield found
    finally:
        remove(found)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to `path` on success and removed on failure.

    The content is on the disk before the name is, so that a crash leaves the old or the new.
    """
    with temporary(path) as written:
        yield written
        with storage(path):
            sync_tree(written)
            os.replace(written, path)
            sync(path.parent)


def sync_tree(path: Path) -> None:
    """Waits until a file, or a folder with all that it holds, is on the disk."""
    if path.is_dir():
        for inside in path.iterdir():
            sync_tree(inside)
    sync(path)


def sync(path: Path) -> None:
    """Waits until the content of a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all; NaN is refused, because JSON has none."""
    text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    with replacing(path) as written, storage(path):
        # a name that is no UTF-8 is a lone surrogate in Python, and \udcff an escape in JSON
        written.write_bytes(text.encode("utf-8", "backslashreplace"))


def regular(path: Path, error: type[InputError]) -> Path:
    """`path`, where it is a file: reading a pipe or a device may never end.

    Raises:
        InputError: `error`, where nothing, or something else, is there.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise error(f"{path} does not exist.") from None
    except (OSError, ValueError) as problem:
        raise error(f"{path} cannot be read: {reason(problem)}.") from None
    if not stat.S_ISREG(mode):
        what = "folder" if stat.S_ISDIR(mode) else "pipe or device"
        raise error(f"{path} is a {what}; give a file.")
    return path


def read_bytes(path: Path, error: type[InputError]) -> bytes:
    """What a file holds; raises `error` where there is none that can be read."""
    try:
        return regular(path, error).read_bytes()
    except OSError as problem:
        raise error(f"{path} cannot be read: {reason(problem)}.") from None


def read_json(path: Path, error: type[InputError]) -> dict[str, Any]:
    """The JSON object in `path`; raises `error` where there is none."""
    content = read_bytes(path, error)
    try:
        value = json.loads(content.decode("utf-8"))
    except RecursionError:  # brackets within brackets, thousands deep
        raise error(f"{path} cannot be read as JSON: it is nested too deeply.") from None
    except ValueError as problem:
        raise error(f"{path} cannot be read as JSON: {reason(problem)}.") from None
    if not isinstance(value, dict):
        raise error(f"{path} must hold a JSON object, but holds a {type(value).__name__}.")
    return value


def fingerprint(path: Path) -> str:
    """The SHA-256 of a file, as `sha256:` and hexadecimal digits.

    Raises:
        InputError: there is no file that can be read.
    """
    try:
        with regular(path, InputError).open("rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as problem:
        raise InputError(f"{path} cannot be read: {reason(problem)}.") from None


def fingerprint_of(content: bytes) -> str:
    """The fingerprint of a file that would hold `content`."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def data_of(path: Path) -> Path:
    """Where the weights of a network lie that is too large for one file."""
    return path.with_name(f"{path.name}.data")
