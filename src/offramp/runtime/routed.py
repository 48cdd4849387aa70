"""A plan in one file per stage, as `offramp export --stages` writes it, on any engine.

The driver is a page of numpy: it keeps what the files make and gives each one the rows that come to
it. Copy it where another language or engine is spoken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np

from offramp.base.arrays import AnyArray, IntArray
from offramp.base.errors import NetworkError, PlanError, foreign
from offramp.base.manifests import PRINTS, Manifest, read_manifest
from offramp.networks.inputs import Watch
from offramp.runtime.format import KIND, PATH, SCORES, VERSION, Answers, check_tradeoff
from offramp.runtime.session import Device, Session

Run = Callable[[Mapping[str, AnyArray]], Mapping[str, AnyArray]]
Engine = Callable[[Path, int], Run]
"""Opens a file with a number of threads; what it gives turns inputs into outputs, by name."""


class File(TypedDict):
    """One file of a folder."""

    stage: str
    fingerprint: str
    entering: list[int]  # paths that it is given
    reads: dict[str, int | None]  # key -> axis of the batch; None: the same for every row
    makes: dict[str, int | None]


class About(TypedDict):
    """What exported files say of themselves."""

    stages: list[str]
    classes: int
    tradeoffs: list[float]


class Routes(Manifest):
    """What routes.json holds."""

    about: About
    dial: str | None
    stage_of_path: list[int]
    cost_of_path: list[float]
    files: list[File]


class Routed:
    """Drives the files in a folder.

    Args:
        folder: written by `offramp export --stages`.
        engine: opens each file; ONNX Runtime by default.
        threads: of each file.

    Raises:
        PlanError: no such folder, or one that was cut short or altered.
        NetworkError: a file does not load.
    """

    def __init__(
        self, folder: str | Path, engine: Engine | None = None, *, threads: int = 1
    ) -> None:
        folder = Path(folder)
        found = read_manifest(folder, KIND, VERSION, Routes, PlanError)
        self.folder = folder
        self.about, self.files = found["about"], found["files"]
        with foreign(PlanError, f"{folder} is damaged", "Export the plan again."):
            self.watch = Watch.of(self.about.get("input"))
        self.stages = np.array(self.about["stages"])
        self.stage_of_path = np.array(found["stage_of_path"])
        self.cost_of_path = np.array(found["cost_of_path"])
        self.dial = found["dial"]
        names = [f"{file['stage']}.onnx" for file in self.files]
        paths, stages = range(len(self.stage_of_path)), range(len(self.stages))
        if (
            not set(names) <= set(found[PRINTS])
            or len(self.cost_of_path) != len(paths)
            or not set(found["stage_of_path"]) <= set(stages)
            or not {path for file in self.files for path in file["entering"]} <= set(paths)
        ):
            raise PlanError(f"{folder} is damaged: its routes do not fit; export the plan again.")
        open_ = engine or onnxruntime
        with foreign(NetworkError, f"the files of {folder} do not load", "Export the plan again."):
            self.runs = [open_(folder / name, threads) for name in names]

    def __call__(self, x: AnyArray, tradeoff: float | None = None) -> Answers:
        self.watch(x)
        with foreign(NetworkError, f"{self.folder} cannot run on these inputs"):
            return self._answers(x, check_tradeoff(tradeoff, self.about, self.dial))

    def _answers(self, x: AnyArray, turned: Mapping[str, AnyArray]) -> Answers:
        path = np.zeros(len(x), dtype=np.int64)
        scores = np.zeros((len(x), self.about["classes"]), dtype=np.float32)
        kept: dict[str, tuple[IntArray, AnyArray]] = {"x": (np.arange(len(x)), x)}
        for file, run in zip(self.files, self.runs, strict=True):
            rows = np.flatnonzero(np.isin(path, file["entering"]))
            if not rows.size:
                continue
            given = {key: _rows(kept[key], rows, axis) for key, axis in file["reads"].items()}
            made = run({**given, PATH: path[rows], **turned})
            scores[rows] = made.get(SCORES, scores[rows])
            path[rows] = made.get("next", path[rows])
            kept |= {key: (rows, made[key]) for key in file["makes"]}
        stage, cost = self.stage_of_path[path], self.cost_of_path[path]
        return Answers(scores.argmax(axis=1), stage, self.stages, cost, scores)


def _rows(kept: tuple[IntArray, AnyArray], rows: IntArray, axis: int | None) -> AnyArray:
    """What was kept for some rows, for a part of them."""
    known, values = kept
    if axis is None or len(known) == len(rows):
        return values
    return values.take(np.searchsorted(known, rows), axis)


def onnxruntime(file: Path, threads: int, device: Device = "cpu") -> Run:
    """ONNX Runtime, with inputs and outputs bound rather than passed."""
    return Session(file.stem, file, threads, device=device).bound
