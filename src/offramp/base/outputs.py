"""Where a command may write, and how what it wrote takes its name: all at once, and only over its
own kind.

What can be seen at each moment. A command writes under a hidden name beside OUT, `.OUT.<x>.part`;
until the end there is the old OUT, or none. Once all of it is on the disk, a file takes its name by
one rename, which is atomic, and so does a folder where there is none. No portable call exchanges
two folders, so there are two renames: the old OUT becomes `.OUT.<x>.old`, the new one OUT. Between
the two there is no OUT; whoever reads or writes it with offramp waits for the lock of the folder
around it, and where a command was killed just there, puts the old one back (`restore`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from offramp.base.errors import InputError
from offramp.base.files import hidden, remove, storage, sync, sync_tree, temporary

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

Identity = tuple[int, int] | None  # device and number of a file; None: there is none


@dataclass(frozen=True)
class OutputKind:
    """What a command writes."""

    name: str
    own: Callable[[Path], bool]  # whether something is of this kind, and holds nothing else


def check_output(
    path: Path, force: bool, kind: OutputKind, inputs: Iterable[Path] = ()
) -> Identity:
    """What is at `path` now, which may be replaced.

    Args:
        path: of the output.
        force: an earlier output may be replaced.
        kind: of the output; nothing else is ever replaced.
        inputs: what the command reads, which it must not replace.

    Raises:
        InputError: `path` is taken.
    """
    if path.name in ("", ".."):
        raise InputError(f"'{path}' is no name for something new; give one with --out.")
    restore(path)
    if not os.path.lexists(path) or _empty(path):
        return _identity(path)
    if not force:
        raise InputError(f"{path} exists already. Choose another --out, or add --force.")
    for given in inputs:
        if _within(given, path) or _within(path, given):
            raise InputError(
                f"{path} is, holds or lies in {given}, which this command reads, so --force will "
                "not replace it. Choose another --out."
            )
    if path.is_symlink() or not kind.own(path):
        raise InputError(
            f"{path} was not written by offramp as {kind.name}, or holds other files as well, so "
            "--force will not replace it. Choose another --out."
        )
    return _identity(path)


@contextmanager
def new_output(path: Path, kind: OutputKind, *, force: bool = False) -> Iterator[Path]:
    """A name to write a file or a folder to, which becomes `path` once it is complete.

    Raises:
        InputError: `path` is taken, or is taken meanwhile.
        StorageError: it cannot be written.
    """
    before = check_output(path, force, kind)
    with temporary(path) as written:
        yield written
        with storage(path):
            sync_tree(written)
            _put(written, path, before)


@contextmanager
def new_folder(path: Path, kind: OutputKind, *, force: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `path` once it is complete. Raises as `new_output`."""
    with new_output(path, kind, force=force) as folder:
        with storage(path):
            folder.mkdir()
        yield folder


@contextmanager
def put_aside(path: Path, *, force: bool) -> Iterator[None]:
    """With `force`, takes an output out of the way of one that grows in its place.

    A bad input brings it back; where the new one is complete it goes, as does one that a command
    which was killed had put aside.
    """
    if force and os.path.lexists(path):
        with storage(path), _locked(path.parent), _unused(path):
            os.rename(path, hidden(path, "old"))
    try:
        yield
    except InputError:
        if force and _asides(path):
            remove(path)
            restore(path)
        raise
    for old in _asides(path):
        remove(old)


def _put(written: Path, path: Path, before: Identity) -> None:
    """Gives `written` its name, unless something else has taken it since."""
    with _locked(path.parent), _unused(path):
        if _identity(path) != before:
            raise InputError(
                f"{path} was written by another command meanwhile. It is kept; choose another "
                "--out, or run this again with --force."
            )
        if path.is_dir():
            aside = hidden(path, "old")
            os.rename(path, aside)
            try:
                os.rename(written, path)
            except BaseException:
                os.rename(aside, path)
                raise
        else:
            os.replace(written, path)
        sync(path.parent)
        for old in _asides(path):  # this one, and those of commands that were killed
            remove(old)


def restore(path: Path) -> None:
    """Puts back what a command that was killed had set aside; see the top of this file."""
    if os.path.lexists(path) or not _asides(path):
        return
    with _locked(path.parent):
        asides = _asides(path)
        if asides and not os.path.lexists(path):
            try:
                os.rename(max(asides, key=lambda found: found.lstat().st_mtime), path)
            except OSError:  # not ours to change; what reads `path` says that it is not there
                return


def _asides(path: Path) -> list[Path]:
    ours = f".{path.name}."
    try:
        names = os.listdir(path.parent)
    except OSError:
        return []
    return [path.with_name(n) for n in names if n.startswith(ours) and n.endswith(".old")]


@contextmanager
def only_one(folder: Path, error: type[InputError] = InputError) -> Iterator[None]:
    """Keeps other commands from writing in `folder`. Raises `error` where one does."""
    with _lock(folder, wait=False) as got:
        if not got:
            raise error(f"another command is writing {folder}; wait for it, or choose another.")
        yield


@contextmanager
def _unused(path: Path) -> Iterator[None]:
    if path.is_dir():
        with only_one(path):
            yield
    else:
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with _lock(folder, wait=True):
        yield


@contextmanager
def _lock(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Whether the lock of a folder was got; it ends with the process, however that ends."""
    if fcntl is None:
        yield True
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield _got(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _got(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _identity(path: Path) -> Identity:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _within(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
