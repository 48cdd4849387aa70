"""ONNX Runtime: one session per stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.checked import checked
from offramp.core.graph import Graph, head, whole
from offramp.networks.networks import sources
from offramp.runtime.session import Device, Session


class OnnxRuntime:
    """Runs stages from ONNX files, each body and each head in a session of its own.

    Args:
        networks: part -> ONNX file: a whole network, or bodies with their heads (`big.head`).
        graph: which body continues which; None where every stage is a whole network.
        threads: for each session; 1 starts none.
        device: "cuda" needs the package onnxruntime-gpu.

    Raises:
        NetworkError: a file does not load, or does not have one input and two-dimensional scores;
            or no such device.
    """

    @checked
    def __init__(
        self,
        networks: Mapping[str, Path],
        graph: Graph | None = None,
        *,
        threads: int = 1,
        device: Device = "cpu",
    ) -> None:
        self.threads = threads
        self.graph = graph or Graph.chain(part for part in networks if "." not in part)
        self.parts = {
            part: Session(part, file, threads, device=device) for part, file in networks.items()
        }
        self.source = sources(
            self.graph,
            {part: list(session.inputs) for part, session in self.parts.items()},
            {part: session.made for part, session in self.parts.items()},
        )
        for part, session in self.parts.items():
            read = self.source[part].items()
            session.check_inputs([name for name, source in read if source is None])
            session.give(self._wanted(part), answers=self._answers(part))

    def _answers(self, part: str) -> bool:
        """Whether what a part makes first are the scores of its stage."""
        return "." in part or head(part) not in self.parts

    def _wanted(self, part: str) -> list[str]:
        """The outputs that other parts read, after the scores where it answers."""
        scores = self.parts[part].made[:1] if self._answers(part) else ()
        read = [
            n for other in self.source.values() for n, source in other.items() if source == part
        ]
        return list(dict.fromkeys([*scores, *read]))

    def run(self, stage: str, x: AnyArray) -> FloatArray:
        if whole(stage) in self.parts:
            session = self.parts[whole(stage)]
            return session.run([x])[0]
        batch = self.begin(x)
        batch.advance(stage, None)
        return batch.answer(stage, None)

    def begin(self, x: AnyArray) -> _Batch:
        return _Batch(self, x)


class _Batch:
    """What each part has made of which rows of a batch."""

    def __init__(self, runtime: OnnxRuntime, x: AnyArray) -> None:
        self.runtime, self.x = runtime, x
        self.made: dict[str, _Made] = {}

    def advance(self, stage: str, rows: IntArray | None) -> None:
        for part in self.runtime.graph.bodies(stage):
            self._need(part, rows)

    def answer(self, stage: str, rows: IntArray | None) -> FloatArray:
        part = head(stage) if head(stage) in self.runtime.parts else stage
        return self._need(part, rows).of(rows)[0]

    def _need(self, part: str, rows: IntArray | None) -> _Made:
        """What `part` made, after running it for those of `rows` that it has not seen."""
        known = self.made.get(part)
        missing = rows if known is None else known.lacks(rows)
        if known is None or missing is None or len(missing):
            found = self._run(part, missing)
            self.made[part] = found if known is None else known.joined(found)
        return self.made[part]

    def _run(self, part: str, rows: IntArray | None) -> _Made:
        session = self.runtime.parts[part]
        given = []
        for name, source in self.runtime.source[part].items():
            if source is None:
                given.append(self.x if rows is None else self.x[rows])
            else:
                at = self.runtime.parts[source].wanted.index(name)
                given.append(self._need(source, rows).of(rows)[at])
        return _Made(rows, session.run(given), session.axes)


@dataclass(frozen=True)
class _Made:
    """The outputs of a part for some rows of a batch."""

    rows: IntArray | None  # (n,) ascending; None: all
    values: list[AnyArray]
    axes: tuple[int | None, ...]  # of the batch in each value; None: the same for every row

    def lacks(self, rows: IntArray | None) -> IntArray | None:
        """Those of `rows` that are not among these."""
        if self.rows is None:
            return np.empty(0, dtype=np.int64)
        return None if rows is None else np.setdiff1d(rows, self.rows, assume_unique=True)

    def of(self, rows: IntArray | None) -> list[AnyArray]:
        """The values of some of the rows."""
        if rows is None or (self.rows is not None and len(rows) == len(self.rows)):
            return self.values
        at = rows if self.rows is None else np.searchsorted(self.rows, rows)
        return [_take(v, at, axis) for v, axis in zip(self.values, self.axes, strict=True)]

    def joined(self, other: _Made) -> _Made:
        """These rows and the others, ascending."""
        if self.rows is None or other.rows is None:
            return other
        rows = np.concatenate([self.rows, other.rows])
        order = np.argsort(rows)
        both = [
            value if axis is None else _take(np.concatenate([value, more], axis), order, axis)
            for value, more, axis in zip(self.values, other.values, self.axes, strict=True)
        ]
        return _Made(rows[order], both, self.axes)


def _take(value: AnyArray, rows: IntArray, axis: int | None) -> AnyArray:
    if axis is None:
        return value
    return value[rows] if axis == 0 else value.take(rows, axis)
