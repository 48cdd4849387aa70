"""What copies are taught: the scores that their network gives to examples."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.progress import Progress
from offramp.core.tasks import Kind, kind_of, log_probabilities
from offramp.siblings.scoring import scores_of


@dataclass(frozen=True, kw_only=True)
class Lessons:
    """What a network says of examples, and of their mirror images where they are images."""

    x: AnyArray  # (n, ...)
    scores: FloatArray  # (views, n, classes): log-probabilities of the network; 1 or 2 views
    kind: Kind  # of the scores that the network gives
    mirrored: int | None  # the axis of a batch along which the second view is mirrored
    epochs: int  # how often a copy sees every example, at most
    until: float  # by `time.monotonic`: no more epochs than end before

    @classmethod
    def of(
        cls,
        file: Path,
        x: AnyArray,
        width: int | None,
        epochs: int,
        tell: Progress,
        until: float = math.inf,
    ) -> Lessons:
        """By a network, or by a copy of it that answers alike and is quicker to ask.

        Args:
            file: of the network.
            x: examples (n, ...).
            width: the axis of a batch along which images are wide; None: they are no images.
            epochs: how often a copy sees every example.
            tell: called with what is done.
            until: by `time.monotonic`, when learning must have ended.

        Raises:
            NetworkError: it does not run on them.
        """
        views = [x] if width is None else [x, np.flip(x, width)]
        found = []
        for number, view in enumerate(views):
            tell("asking the network what copies learn", number, len(views))
            found.append(scores_of("network", file, view, checked=False))
        kind = kind_of(found[0], "network")
        scores = np.stack([log_probabilities(scores, kind) for scores in found])
        return cls(
            x=x,
            scores=scores.astype(np.float32),
            kind=kind,
            mirrored=width,
            epochs=epochs,
            until=until,
        )
