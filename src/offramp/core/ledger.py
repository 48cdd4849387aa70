"""How far the rows of a trace have been opened, and how often its sealed rows were looked at.

A trace keeps its ledger in a file beside it, to which lines are added and nothing else. It is a
memory for those who want to keep their own promises, and no defence against those who do not.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from offramp.base.errors import StorageError, TraceError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked there
    fcntl = None  # type: ignore[assignment]

LEDGER = "ledger.jsonl"  # beside trace.json


@dataclass(frozen=True)
class Look:
    """One question that sealed rows have answered."""

    by: str  # fit or evaluate
    question: str  # what was asked, as a hash: the same question again is the same look
    error: float  # chance that this look's promises fail together, in (0, 1]


def _end_line(file: IO[bytes]) -> None:
    """Removes what is left of a line that was cut short."""
    file.seek(0)
    found = file.read()
    if found and not found.endswith(b"\n"):
        file.truncate(found.rfind(b"\n") + 1)


@dataclass
class Ledger:
    """What has been seen of the rows of one trace, kept in a file where there is one."""

    path: Path | None = None  # None: in memory
    mark: int = -1  # rows whose turn is at most this were opened to learn from or to be shown
    looks: list[Look] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """The ledger of a trace's folder; an empty one where nothing was opened yet.

        Raises:
            TraceError: a line that is none of a ledger's.
        """
        found = cls(folder / LEDGER)
        try:
            found._take((folder / LEDGER).read_bytes())
        except FileNotFoundError:
            return found
        except OSError as problem:
            raise TraceError(f"{folder / LEDGER} cannot be read: {problem}.") from None
        return found

    def open(self, by: str, mark: int) -> None:
        """Remembers that rows up to a turn were opened.

        Raises:
            StorageError: the ledger cannot be written.
        """
        if mark > self.mark:
            with self._writing() as write:
                write({"by": by, "opened": f"{mark:016x}"})
            self.mark = max(mark, self.mark)

    def look(self, look: Look) -> int:
        """The number of a look at the sealed rows, from 1; the same question keeps its number.

        Raises:
            StorageError: the ledger cannot be written.
        """
        with self._writing() as write:  # others may have looked since this ledger was read
            if look in self.looks:
                return self.looks.index(look) + 1
            write(asdict(look))
            self.looks.append(look)
            return len(self.looks)

    def together(self, number: int) -> float:
        """The confidence with which all promises of the first looks hold together, at least 0."""
        return max(0.0, round(1 - sum(look.error for look in self.looks[:number]), 12))

    @contextmanager
    def _writing(self) -> Iterator[Callable[[Mapping[str, Any]], None]]:
        """Gives what adds a line; nobody else does at the same time."""
        if self.path is None:
            yield lambda line: None
            return
        try:
            with self.path.open("a+b", buffering=0) as file:
                if fcntl:
                    fcntl.flock(file, fcntl.LOCK_EX)
                _end_line(file)
                file.seek(0)
                self._take(file.read())
                yield lambda line: _write(file, line)
        except OSError as problem:
            raise StorageError(
                f"cannot write {self.path}, which counts what has been seen of these rows: "
                f"{problem.strerror or problem}. Copy the trace to where it can be written."
            ) from None

    def _take(self, content: bytes) -> None:
        """Reads all lines. Raises TraceError where one is damaged."""
        self.mark, self.looks = -1, []
        whole, _, _ = content.rpartition(b"\n")  # a line cut short was never answered
        for number, line in enumerate(filter(None, whole.split(b"\n")), start=1):
            try:
                self._line(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError):
                raise TraceError(
                    f"line {number} of {self.path} is damaged, so that nobody knows what has been "
                    "seen of these rows. Promise on others: record or import new examples."
                ) from None

    def _line(self, line: Mapping[str, Any]) -> None:
        if "opened" in line:
            self.mark = max(self.mark, int(line["opened"], 16))
            return
        look = Look(str(line["by"]), str(line["question"]), float(line["error"]))
        if not 0 < look.error <= 1:
            raise ValueError(look.error)
        self.looks.append(look)


def _write(file: IO[bytes], line: Mapping[str, Any]) -> None:
    file.write((json.dumps(line, allow_nan=False) + "\n").encode())
    os.fsync(file.fileno())


def carry(source: Path, target: Path) -> None:
    """Copies the ledger of a trace's folder to another folder of the same examples."""
    if (source / LEDGER).is_file():
        shutil.copyfile(source / LEDGER, target / LEDGER)
