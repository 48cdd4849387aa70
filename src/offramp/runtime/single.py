"""A plan in one file, as `offramp export` writes it, run by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import NetworkError
from offramp.base.files import read_bytes
from offramp.networks.inputs import Watches
from offramp.runtime.engine import Fields, Part
from offramp.runtime.format import (
    ABOUT,
    OUTPUTS,
    TRADEOFF,
    WEIGHTS,
    Answers,
    check_seal,
    check_tradeoff,
    check_weights,
    inputs_named,
)
from offramp.runtime.onnxruntime import engine
from offramp.runtime.session import Device

_WANTED = tuple(OUTPUTS)


class SingleFile:
    """Runs a file that holds a whole plan. It needs neither the plan nor its networks.

    Args:
        path: of the file.
        threads: 1 starts none.
        device: "cuda" needs the package onnxruntime-gpu.

    Raises:
        NetworkError: it is cut short, altered, not of `offramp export`, or needs a newer engine.
    """

    part: Part
    watch: Watches
    stages: AnyArray
    reads: list[str]

    def __init__(self, path: str | Path, *, threads: int = 1, device: Device = "cpu") -> None:
        path = Path(path)
        # before it is loaded, although hashing takes a quarter of the time of loading: what was
        # damaged may end the process of an engine that reads it
        check_seal(read_bytes(path, NetworkError), str(path))
        self.part = Part(str(path), path, engine(device, spins=True), threads)
        metadata = self.part.program.metadata
        check_weights(path, metadata.get(WEIGHTS))
        self.about: Mapping[str, Any] = json.loads(metadata[ABOUT])
        self.watch = Watches.of(self.about.get("input"))
        self.stages = np.array(self.about["stages"])
        self.dial = TRADEOFF if TRADEOFF in self.part.inputs else None
        self.reads = [name for name in self.part.inputs if name != TRADEOFF]

    def __call__(self, x: AnyArray | Fields, tradeoff: float | None = None) -> Answers:
        """As `Driver`: inputs (n, ...), or by name where the file reads several."""
        given = inputs_named(self.reads, x)
        self.watch(given)
        turned = check_tradeoff(tradeoff, self.about, self.dial)
        found = self.part({**given, **turned}, _WANTED)
        return Answers(
            answer=found["answer"],
            position=found["stage"],
            stages=self.stages,
            cost=found["cost"],
            scores=found["scores"],
        )
