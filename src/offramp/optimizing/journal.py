"""What was asked of a folder and which steps towards it are done: a run that ends early goes on."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from offramp.base.errors import InputError
from offramp.base.files import read_json, storage, write_json
from offramp.base.outputs import OutputKind
from offramp.base.schema import record_of

JOURNAL = "optimize.json"
_OWN = {JOURNAL, "copies", "graph", "trace", "plan", "model.onnx", "stages"}
_OWN |= {"report.html", "bench.json"}


def _own(folder: Path) -> bool:
    """Whether a folder is of this kind, and holds nothing else."""
    if not (folder / JOURNAL).is_file():
        return False
    return all(each.name in _OWN or each.name.startswith(".") for each in folder.iterdir())


OPTIMIZED = OutputKind("a folder of `optimize`", _own)


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What a journal holds on the disk."""

    question: str
    steps: Mapping[str, object]
    seconds: Mapping[str, float]


def _read(path: Path) -> _Written:
    try:
        found: _Written | None = record_of(_Written, read_json(path, InputError))
    except ValueError:
        found = None
    if found is None or found.steps.keys() != found.seconds.keys():
        raise InputError(
            f"{path} cannot be used: it was changed or cut short. Choose another --out, or add "
            "--force."
        )
    return found


@dataclass(kw_only=True)
class Journal:
    """The steps that are done, on the disk after each.

    Args:
        folder: that all is written to.
        question: what tells this run from others.
        steps: what each step that is done said.
        seconds: that each took.
    """

    folder: Path
    question: str
    steps: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def opened(cls, folder: Path, question: Mapping[str, Any]) -> Journal:
        """Of a new folder, or of one that the same run has begun.

        Raises:
            InputError: the folder holds something else, or another run.
            StorageError: it cannot be written.
        """
        asked = json.dumps(question, sort_keys=True, default=str).encode()
        journal = cls(folder=folder, question=hashlib.sha256(asked).hexdigest())
        if (folder / JOURNAL).is_file():
            found = _read(folder / JOURNAL)
            if found.question == journal.question:
                journal.steps, journal.seconds = {**found.steps}, {**found.seconds}
            elif found.steps:  # where nothing is done, nothing is lost
                raise InputError(
                    f"{folder} holds what was asked of other networks, examples or options. Choose "
                    "another --out, or add --force."
                )
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} exists already. Choose another --out, or add --force.")
        with storage(folder):
            folder.mkdir(parents=True, exist_ok=True)
        journal._write()
        return journal

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """What a step said, JSON; it is done where it was not yet."""
        if name not in self.steps:
            begin = time.monotonic()
            self.steps[name] = work()
            self.seconds[name] = time.monotonic() - begin
            self._write()
        return self.steps[name]

    def _write(self) -> None:
        value = {"question": self.question, "steps": self.steps, "seconds": self.seconds}
        write_json(self.folder / JOURNAL, value)
