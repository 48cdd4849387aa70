"""A folder of versions: the newest whole one is served, bad ones are refused and the old one stays.

A new version may first be tried on a share of the requests; it leaves where one of them fails, or
its guard raises the alarm. Nothing waits for a change: requests that have a version keep it, and it
is closed when the last of them is done.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from offramp.base.errors import InputError, OfframpError, PlanError
from offramp.serving.models import ServedPlan
from offramp.serving.shelf import OnTrial, Shelf
from offramp.serving.tracing import tell

_MANIFESTS = ("plan.json", "plans.json")
State = tuple[tuple[str, int, int], ...]  # of a folder: its files, their sizes and times


@dataclass(frozen=True, kw_only=True)
class Canary:
    """How a new version is tried.

    Raises:
        InputError: a share outside [0, 1], or a number of requests below 1.
    """

    share: float = 0.0  # of requests that name no version; 0: it is served at once
    requests: int = 1000  # that must be answered well

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1 or self.requests < 1:
            raise InputError(
                "--canary is a share of requests, from 0 to 1, and takes at least one of them."
            )


class Versions:
    """Follows a folder whose sub-folders are plans, newest last by their names' numbers.

    Args:
        folder: of versions; or of one plan, which is its only version.
        shelf: that serves them.
        open_: makes a model from a folder and a version.
        canary: how a new version is tried.

    Raises:
        PlanError: there is no version that can be served.
    """

    folder: Path
    shelf: Shelf
    canary: Canary

    def __init__(
        self,
        folder: Path,
        shelf: Shelf,
        open_: Callable[[Path, str], ServedPlan],
        canary: Canary | None = None,
    ) -> None:
        self.folder, self.shelf, self.canary = folder, shelf, canary or Canary()
        self.single: bool = is_plan(folder)
        self._open = open_
        self._refused: dict[str, State] = {}  # version -> its state when it was refused
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        problem = self.look()
        if shelf.current is None:
            raise problem or PlanError(
                f"{folder} holds no plan. Give a folder that `offramp fit` wrote, or one of such."
            )

    def follow(self, every_s: float) -> None:
        """Looks again every so many seconds, in a thread of its own, until `close`."""
        if self.single:
            return
        self._thread = threading.Thread(
            target=self._follow, args=(every_s,), name="offramp versions", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Looks no more."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def look(self) -> OfframpError | None:
        """Serves the newest whole version; what was wrong with newer ones, where there are any."""
        self._judge()
        if self.single:
            return self._take(self.folder, "1") if self.shelf.current is None else None
        problem: OfframpError | None = None
        served = [model.version for model in self.shelf.models]
        for version in self._newest_first():
            if version in served:
                self._drop_newer(version)
                return problem
            if self._refused.get(version) == state_of(self.folder / version):
                continue
            found = self._take(self.folder / version, version)
            if found is None:
                return problem
            problem = problem or found
        return problem

    def _follow(self, every_s: float) -> None:
        while not self._ended.wait(every_s):
            self.look()

    def _newest_first(self) -> list[str]:
        if not self.folder.is_dir():
            return []
        names = [path.name for path in self.folder.iterdir() if is_plan(path)]
        return sorted(names, key=_by_number, reverse=True)

    def _take(self, folder: Path, version: str) -> OfframpError | None:
        """Opens a version and serves it, or tries it; what was wrong with it, or None."""
        before = state_of(folder)
        try:
            model = self._open(folder, version)
        except OfframpError as problem:
            self._refused[version] = before
            tell("version refused", 40, version=version, problem=str(problem))
            return problem
        share = self.canary.share
        trial = OnTrial(model, share, self.canary.requests) if share else None
        tried = trial is not None and self.shelf.current is not None
        old = self.shelf.put(model, trial)
        tell("version on trial" if tried else "version served", version=version)
        if old is not None:
            self.shelf.retire(old)
        return None

    def _drop_newer(self, version: str) -> None:
        """Ends a trial of a newer version that was taken out of the folder."""
        trial = self.shelf.trial
        if trial is not None and trial.model.version != version:
            self._end_trial(passed=False, why="it was taken out of the folder")

    def _judge(self) -> None:
        """Ends a trial that was passed, or failed."""
        trial = self.shelf.trial
        if trial is None:
            return
        model = trial.model
        if model.failed or model.alarmed:
            self._refused[model.version] = state_of(self.folder / model.version)
            why = "its guard raised the alarm" if model.alarmed else "a request failed"
            self._end_trial(passed=False, why=why)
        elif model.answered >= trial.requests:
            self._end_trial(passed=True, why=f"{model.answered} requests were answered well")

    def _end_trial(self, *, passed: bool, why: str) -> None:
        left = self.shelf.end_trial(passed=passed)
        current = self.shelf.current
        tell(
            "trial passed" if passed else "trial failed",
            20 if passed else 40,
            why=why,
            serves=current and current.version,
        )
        if left is not None:
            self.shelf.retire(left)


def is_plan(folder: Path) -> bool:
    """Whether a folder is one that `offramp fit` wrote."""
    return any((folder / name).is_file() for name in _MANIFESTS)


def state_of(folder: Path) -> State:
    """What tells whether anything in a folder has changed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple(
        (str(path), found.st_size, found.st_mtime_ns) for path in files for found in [path.stat()]
    )


def _by_number(name: str) -> tuple[tuple[int, int | str], ...]:
    """Names in the order of the numbers in them: v2 before v10."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(part)) if part.isdigit() else (1, part) for part in parts)
