"""A plan in one file, as `offramp export` writes it, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from offramp.arrays import AnyArray
from offramp.errors import NetworkError
from offramp.export.seal import opened
from offramp.export.single import TRADEOFF
from offramp.runtime.driver import Answers, check_tradeoff
from offramp.runtime.onnxruntime import Session


class SingleFile:
    """Runs a file that holds a whole plan. It needs neither the plan nor its networks.

    Args:
        path: of the file.
        threads: 1 starts none.

    Raises:
        NetworkError: it is cut short, altered, not of `offramp export`, or needs a newer engine.
    """

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        self.about: Mapping[str, Any] = opened(read(path), str(path))
        self.session = Session(str(path), path, threads)
        self.stages = np.array(self.about["stages"])
        self.session.wanted = list(self.session.made)
        self.input = next(name for name in self.session.inputs if name != TRADEOFF)

    def __call__(self, x: AnyArray, tradeoff: float | None = None) -> Answers:
        dial = TRADEOFF if TRADEOFF in self.session.inputs else None
        turned = check_tradeoff(tradeoff, self.about, dial)
        scores, answer, stage, cost = self.session.run([x, *turned.values()])
        return Answers(answer, self.stages[stage], cost.astype(np.float64), scores)


def read(path: Path) -> onnx.ModelProto:
    """The model in a file. Raises NetworkError where there is none."""
    try:
        return onnx.load(str(path))
    except FileNotFoundError:
        raise NetworkError(f"{path} does not exist.") from None
    except Exception as problem:  # protobuf's errors share no public base class
        raise NetworkError(
            f"{path} does not load as ONNX ({type(problem).__name__}): it is cut short or altered. "
            "Export it again."
        ) from None
