"""ONNX Runtime as an engine: a session for each file."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

from offramp.runtime.engine import Engine, Program
from offramp.runtime.session import BEST, Device, Level, Session


def engine(device: Device = "cpu", *, level: Level = BEST, spins: bool = False) -> Engine:
    """ONNX Runtime.

    Args:
        device: "cuda" needs the package onnxruntime-gpu.
        level: of graph optimisation.
        spins: its threads wait for work by spinning, which is quicker and burns the cores that
            other sessions need.
    """

    def opened(file: Path, threads: int) -> Program:
        session = Session(file, threads, level, device, spins)
        return Program(session.inputs, session.outputs, session.run, session.metadata)

    return Engine("ONNX Runtime", ort.__version__, opened)
