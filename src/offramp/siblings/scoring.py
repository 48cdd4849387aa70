"""What networks and their copies answer, and how far apart that is."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import NetworkError
from offramp.core.graph import Graph
from offramp.core.tasks import answers, no_scores
from offramp.recording.independence import Judge, Traits, dependence
from offramp.runtime import Stages

_BATCH = 64
_TOGETHER = 32  # examples that are answered together and alone


def scores_of(name: str, file: Path, x: AnyArray, *, checked: bool = True) -> FloatArray:
    """What a network says of examples (n, ...): (n, classes).

    Args:
        name: that messages call it by.
        file: of the network.
        x: examples.
        checked: whether rows are compared together and alone first.

    Raises:
        NetworkError: it does not run, gives no scores, or its rows depend on each other.
    """
    stages = Stages({name: file}, Graph.chain([name]))
    if checked:
        _check_rows(name, file, stages, x[:_TOGETHER])
    scores = np.concatenate([stages.run(name, x[i : i + _BATCH]) for i in range(0, len(x), _BATCH)])
    if no_scores(scores).any():
        raise NetworkError("it gives scores that are no numbers.")
    return scores


def _check_rows(name: str, file: Path, stages: Stages, x: AnyArray) -> None:
    first = stages.run(name, x)
    if len(first) != len(x):
        raise NetworkError(f"it gives {len(first)} rows of scores for {len(x)} examples.")
    traits = Traits.of([file])
    found = dependence(lambda rows: {name: stages.run(name, rows)}, x, {name: traits.tolerance})
    Judge({name: traits})(found)


def changed(scores: FloatArray, others: FloatArray) -> float:
    """The share of examples that two networks answer otherwise.

    Raises:
        NetworkError: they score different numbers of classes.
    """
    if scores.shape != others.shape:
        raise NetworkError(f"it gives {scores.shape[1]} scores, not {others.shape[1]}.")
    return float((answers(scores) != answers(others)).mean())


def shared_answer(scores: FloatArray) -> float:
    """The share of examples that always answering the same would answer as the network does."""
    _, counts = np.unique(answers(scores), return_counts=True)
    return float(counts.max() / len(scores))
