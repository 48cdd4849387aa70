"""The stages of a graph on an engine, one batch at a time: nothing runs twice for the same row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.checked import checked
from offramp.base.errors import NetworkError
from offramp.core.graph import Graph, head, whole
from offramp.networks.networks import sources
from offramp.runtime.engine import Engine, Fields, Part, engine_named, fields_of
from offramp.runtime.onnxruntime import engine as onnxruntime
from offramp.runtime.rows import Made
from offramp.runtime.session import Device


class Stages:
    """Runs stages, each body and each head as a program of its own.

    Args:
        networks: part -> what the engine opens, ONNX files for most: a whole network, or bodies
            with their heads (`big.head`).
        graph: which body continues which; None where every stage is a whole network.
        engine: that runs them, or its name: onnxruntime, openvino.
        threads: of each program; 1 starts none.

    Raises:
        NetworkError: a stage without a network, one that does not load, that reads a fixed number
            of examples, or has no two-dimensional scores.
        MissingExtra: the engine is not installed.
    """

    engine: Engine
    threads: int
    graph: Graph
    parts: dict[str, Part]
    source: dict[str, dict[str, str | None]]
    bodies: dict[str, tuple[str, ...]]
    end: dict[str, str]
    speaking: set[str]
    wanted: dict[str, tuple[str, ...]]
    axes: dict[str, dict[str, int | None]]

    def __init__(
        self,
        networks: Mapping[str, Any],
        graph: Graph | None = None,
        *,
        engine: Engine | str = "onnxruntime",
        threads: int = 1,
    ) -> None:
        self.engine, self.threads = engine_named(engine), threads
        self.rows_apart = False  # whether each row is a call of its own: none depends on others
        self.graph = graph or Graph.chain(part for part in networks if "." not in part)
        for stage in self.graph.stages:
            if stage.name not in networks:
                raise NetworkError(f"stage '{stage.name}' has no network.")
        self.parts = {
            name: Part(name, network, self.engine, threads) for name, network in networks.items()
        }
        self.source = sources(
            self.graph,
            {name: list(part.inputs) for name, part in self.parts.items()},
            {name: list(part.outputs) for name, part in self.parts.items()},
        )
        self.bodies = {s.name: self.graph.bodies(s.name) for s in self.graph.stages}
        # the part that a stage answers with: its head, or itself where it was not cut
        self.end = {s: head(s) if head(s) in networks else s for s in self.bodies}
        # what these make first are scores: ends, and networks uncut
        self.speaking = {p for p in networks if "." in p or head(p) not in networks}
        self.wanted = {name: self._wanted(name) for name in self.parts}
        self.axes = {
            name: {output: part.outputs[output].axis for output in self.wanted[name]}
            for name, part in self.parts.items()
        }
        for name, part in self.parts.items():
            read = [n for n, source in self.source[name].items() if source is None]
            _check_inputs(part, read)
            if name in self.speaking:
                _check_scores(part, self.wanted[name][0])
                self.axes[name][self.wanted[name][0]] = 0

    def _wanted(self, part: str) -> tuple[str, ...]:
        """The outputs that other parts read, after the scores where it answers."""
        scores = list(self.parts[part].outputs)[:1] if part in self.speaking else ()
        read = [
            n for other in self.source.values() for n, source in other.items() if source == part
        ]
        return tuple(dict.fromkeys([*scores, *read]))

    def run(self, stage: str, x: AnyArray | Fields) -> FloatArray:
        """The scores (n, classes) of a stage alone, uncut where it can run so; n is at least 1.

        Raises:
            NetworkError: the stage cannot run on these inputs.
        """
        batch = self.begin(x)
        if whole(stage) in self.parts:
            return batch.scores(whole(stage), None)
        batch.advance(stage, None)
        return batch.answer(stage, None)

    def begin(self, x: AnyArray | Fields) -> Batch:
        """A batch of inputs (n, ...), by field where there are several, on its way."""
        return Batch(self, fields_of(x))


@checked
class OnnxRuntime(Stages):
    """Stages on ONNX Runtime, on a device: short for `Stages` with that engine.

    Args:
        networks: part -> ONNX file, as for `Stages`.
        graph: likewise.
        threads: for each session; 1 starts none.
        device: "cuda" needs the package onnxruntime-gpu.

    Raises:
        NetworkError: as `Stages`, or there is no such device.
    """

    def __init__(
        self,
        networks: Mapping[str, Path],
        graph: Graph | None = None,
        *,
        threads: int = 1,
        device: Device = "cpu",
    ) -> None:
        super().__init__(networks, graph, engine=onnxruntime(device), threads=threads)


class Batch:
    """What each part has made of which rows of a batch."""

    stages: Stages
    fields: Fields

    def __init__(self, stages: Stages, fields: Fields) -> None:
        self.stages, self.fields = stages, fields
        self.made: dict[str, Made] = {}

    def advance(self, stage: str, rows: IntArray | None) -> None:
        """Runs what must run to pass `stage` and has not run yet, for some rows (None: all)."""
        for part in self.stages.bodies[stage]:
            self._need(part, rows)

    def answer(self, stage: str, rows: IntArray | None) -> FloatArray:
        """The scores (n, classes) of a stage that the rows have advanced to."""
        return self.scores(self.stages.end[stage], rows)

    def scores(self, part: str, rows: IntArray | None) -> FloatArray:
        """What a part that answers says of some rows, (n, classes)."""
        found: FloatArray = self._need(part, rows).of(self.stages.wanted[part][0], rows)
        return found

    def _need(self, part: str, rows: IntArray | None) -> Made:
        """What `part` made, after running it for those of `rows` that it has not seen."""
        known = self.made.get(part)
        missing = rows if known is None else known.lacks(rows)
        if known is None or missing is None or len(missing):
            found = self._run(part, missing)
            self.made[part] = found if known is None else known.joined(found)
        return self.made[part]

    def _run(self, part: str, rows: IntArray | None) -> Made:
        stages, given = self.stages, {}
        for name, source in stages.source[part].items():
            if source is None:
                # what is made as it is read, is made for these rows alone
                given[name] = self.field(part, name)[slice(None) if rows is None else rows]
            else:
                given[name] = self._need(source, rows).of(name, rows)
        wanted = stages.wanted[part]
        values = stages.parts[part](given, wanted)
        if part in stages.speaking:
            values = with_scores(part, values, wanted[0])
        return Made(rows, values, stages.axes[part])

    def field(self, part: str, name: str) -> AnyArray:
        """The field that an input reads: the one of its name; the only one of the only input.

        Raises:
            NetworkError: there is none.
        """
        if name in self.fields:
            return self.fields[name]
        reads = [n for n, source in self.stages.source[part].items() if source is None]
        if len(self.fields) == 1 and len(reads) > 1:
            raise NetworkError(
                f"stage '{part}' reads {', '.join(reads)}, and the examples have the one field "
                f"'{next(iter(self.fields))}'. Give a mapping with an array for each input."
            )
        if len(self.fields) != 1:
            raise NetworkError(
                f"stage '{part}' reads '{name}', which is not among the fields of the examples: "
                f"{', '.join(self.fields)}. Name them so, or say what it reads: offramp graph ... "
                f"--reads {part}.{name}=FIELD."
            )
        return next(iter(self.fields.values()))


def with_scores(part: str, values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """What a part made, its scores as all that follows takes them: float32, (n, classes)."""
    scores = values[name]
    if scores.ndim != 2:
        raise NetworkError(
            f"stage '{part}' gave scores of shape {scores.shape}; it must give (batch, classes)."
        )
    if scores.dtype == np.float32:
        return values
    with np.errstate(over="ignore"):  # infinite, and no score
        return {**values, name: scores.astype(np.float32)}


def _check_inputs(part: Part, examples: list[str]) -> None:
    """Raises NetworkError where the number of examples is fixed."""
    for name in examples:
        shape = part.inputs[name].shape
        if shape and isinstance(shape[0], int):
            raise NetworkError(
                f"stage '{part.name}' has a fixed batch size of {shape[0]}; rows are "
                "compacted between stages, so export it with a symbolic batch dimension "
                "(torch.onnx.export: dynamic_shapes={'x': {0: 'batch'}})."
            )


def _check_scores(part: Part, name: str) -> None:
    value = part.outputs[name]
    if value.shape is not None and len(value.shape) != 2:
        raise NetworkError(
            f"the first output of stage '{part.name}', {name}, has shape "
            f"{list(value.shape)}; it must be scores (batch, classes)."
        )
    if isinstance(value.dtype, str):
        raise NetworkError(
            f"stage '{part.name}' gives scores of type {value.dtype}, which cannot be read here. "
            "End it with a Cast to float and export it again."
        )
