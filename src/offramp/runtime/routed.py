"""A plan in a file per stage, as `offramp export --stages` writes it, on any engine or several.

The driver is a page of numpy: it keeps what the files make and gives each one the rows that come to
it. Copy it where another language or engine is spoken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from offramp.base.arrays import AnyArray, BoolArray, IntArray
from offramp.base.errors import InputError, PlanError, foreign
from offramp.base.fields import X, count
from offramp.base.manifests import PRINTS, Manifest, read_manifest
from offramp.core.task import SINGLE, Task, task_named
from offramp.networks.inputs import Watches
from offramp.runtime.engine import Engine, Fields, Part, engine_named
from offramp.runtime.format import (
    KIND,
    PATH,
    SCORES,
    VERSION,
    Answers,
    check_tradeoff,
    inputs_named,
)
from offramp.runtime.onnxruntime import engine as onnxruntime
from offramp.runtime.rows import Made


class File(TypedDict):
    """One file of a folder."""

    stage: str
    file: str
    decides: bool  # what is made of the scores of the stage; False: its networks
    fingerprint: str
    entering: list[int]  # paths that it is given
    reads: dict[str, int | None]  # key -> axis of the batch; None: the same for every row
    makes: dict[str, int | None]


class About(TypedDict):
    """What exported files say of themselves."""

    stages: list[str]
    classes: int
    tradeoffs: list[float]
    fields: NotRequired[list[str]]  # that the files read; x alone where there are none


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
        engine: that runs the networks, or its name: onnxruntime, openvino; or the engine of each
            stage, by name. What is decided runs on ONNX Runtime.
        threads: of each file.

    Raises:
        PlanError: no such folder, or one that was cut short or altered.
        NetworkError: a file does not load.
        InputError: an engine for a stage that there is not, or a stage without one.
    """

    about: Any
    files: Any
    watch: Watches
    kinds: list[Any]
    task: Task
    fields: Any
    stages: AnyArray
    stage_of_path: AnyArray
    cost_of_path: AnyArray
    dial: Any
    engines: dict[str, Engine]
    parts: list[Part]
    comes: list[BoolArray]

    def __init__(
        self,
        folder: str | Path,
        engine: Engine | str | Mapping[str, Engine | str] = "onnxruntime",
        *,
        threads: int = 1,
    ) -> None:
        folder = Path(folder)
        found = read_manifest(folder, KIND, VERSION, Routes, PlanError)
        self.folder = folder
        self.about, self.files = found["about"], found["files"]
        with foreign(PlanError, f"{folder} is damaged", "Export the plan again."):
            self.watch = Watches.of(self.about.get("input"))
            said = self.about.get("scores", {})
            self.kinds = [said.get(name, "logits") for name in self.about["stages"]]
            self.task = task_named(self.about.get("task", SINGLE))
            self.fields = self.about.get("fields", [X])
        self.stages = np.array(self.about["stages"])
        self.stage_of_path = np.array(found["stage_of_path"])
        self.cost_of_path = np.array(found["cost_of_path"])
        self.dial = found["dial"]
        if not self._fits(found):
            raise PlanError(f"{folder} is damaged: its routes do not fit; export the plan again.")
        self.engines = _engines(engine, list(dict.fromkeys(file["stage"] for file in self.files)))
        self.parts = [
            Part(
                file["stage"],
                folder / file["file"],
                onnxruntime() if file["decides"] else self.engines[file["stage"]],
                threads,
            )
            for file in self.files
        ]
        # whether each path comes to each file
        self.comes = [
            np.isin(np.arange(len(self.stage_of_path)), file["entering"]) for file in self.files
        ]

    def _fits(self, found: Mapping[str, Any]) -> bool:
        """Whether what routes.json says goes together."""
        paths, stages = range(len(self.stage_of_path)), range(len(self.stages))
        made = {key for file in self.files for key in file["makes"]}
        return (
            {file["file"] for file in self.files} <= set(found[PRINTS])
            and len(self.cost_of_path) == len(paths)
            and set(found["stage_of_path"]) <= set(stages)
            and {path for file in self.files for path in file["entering"]} <= set(paths)
            and {key for file in self.files for key in file["reads"]} <= made | set(self.fields)
        )

    def __call__(self, x: AnyArray | Fields, tradeoff: float | None = None) -> Answers:
        """As `Driver`: inputs (n, ...), or by field where the files read several."""
        given = inputs_named(self.fields, x)
        self.watch(given)
        return self._answers(given, check_tradeoff(tradeoff, self.about, self.dial))

    def _answers(self, fields: Fields, turned: Mapping[str, AnyArray]) -> Answers:
        rows = everything = np.arange(count(fields))
        path = np.zeros(len(rows), dtype=np.int64)
        scores = np.zeros((len(rows), self.about["classes"]), dtype=np.float32)
        whole = Made(rows, fields, dict.fromkeys(fields, 0))
        kept: dict[str, Made] = {}
        for file, part, comes in zip(self.files, self.parts, self.comes, strict=True):
            if not file["decides"]:  # those who come to a network are those who decide after it
                rows = np.flatnonzero(comes[path])
                rows = everything if len(rows) == len(path) else rows
            if not rows.size:
                continue
            given = {
                key: whole.of(key, rows) if key in fields else self._read(kept.get(key), key, rows)
                for key in file["reads"]
            }
            if PATH in part.inputs:
                given[PATH] = path[rows]
            values = part({**given, **turned}, [*part.outputs])
            if SCORES in values:
                scores[rows] = values[SCORES]
            if "next" in values:
                path[rows] = values["next"]
            kept |= dict.fromkeys(file["makes"], Made(rows, values, file["makes"]))
        position = self.stage_of_path[path]
        return Answers(
            answer=self.task.answers_of(scores, self.kinds, position),
            position=position,
            stages=self.stages,
            cost=self.cost_of_path[path],
            scores=scores,
        )

    def _read(self, made: Made | None, key: str, rows: IntArray) -> AnyArray:
        """What earlier files made of some rows; zeros for those of which they made nothing.

        Rows that only pass a stage need not have run those that its head hears: what it then says
        of them is asked for by nobody. That is of scores alone, as what is handed on was made.
        """
        if made is not None and made.rows is rows:
            made_here: AnyArray = made.values[key]
            return made_here
        blank = np.zeros((len(rows), self.about["classes"]), dtype=np.float32)
        if made is None or made.rows is None:
            return blank
        known = made.rows.take(np.searchsorted(made.rows, rows), mode="clip") == rows
        value: AnyArray = made.of(key, rows[known])
        if known.all():
            return value
        blank[known] = value
        return blank


def _engines(
    engine: Engine | str | Mapping[str, Engine | str], stages: Sequence[str]
) -> dict[str, Engine]:
    """The engine of each stage."""
    if not isinstance(engine, Mapping):
        return dict.fromkeys(stages, engine_named(engine))
    for name in [*engine, *stages]:
        if name not in engine or name not in stages:
            what = "no engine" if name in stages else "an engine, and no file"
            raise InputError(
                f"stage '{name}' has {what}. Name one engine for each of {', '.join(stages)}."
            )
    return {stage: engine_named(engine[stage]) for stage in stages}
