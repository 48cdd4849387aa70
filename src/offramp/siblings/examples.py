"""The examples that copies are made and judged with: some calibrate, the others choose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from offramp.base.arrays import AnyArray, IntArray
from offramp.base.errors import DataError
from offramp.base.hashing import hash_rows
from offramp.base.progress import Progress
from offramp.networks.data import Examples

FEWEST_HELD_OUT, MOST_HELD_OUT = 100, 2000
_READ = 50_000  # examples that some are drawn from, at most
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Examples at random, as the network reads them."""

    calibrating: AnyArray  # (c, ...)
    held_out: AnyArray  # (n, ...)
    labels: IntArray | None  # (n,) of those held out
    hashes: AnyArray  # (c + n,) uint64 of all of them: they certify nothing

    @classmethod
    def of(cls, examples: Examples | None, calibrate: int, seed: int, tell: Progress) -> Drawn:
        """So many that calibrate, and as many others as there are, 2,000 at most.

        Raises:
            DataError: there are too few.
        """
        total = 0 if examples is None else min(examples.examples, _READ)
        needed = calibrate + FEWEST_HELD_OUT
        if examples is None or total < needed:
            raise _too_few(total, calibrate)
        random = np.random.default_rng(seed)
        drawn = random.permutation(total)[: calibrate + MOST_HELD_OUT]
        x, labels = _read(examples, np.sort(drawn), tell)
        if len(x) < needed:
            raise _too_few(len(x), calibrate)
        order = random.permutation(len(x))
        return cls(
            calibrating=x[order[:calibrate]],
            held_out=x[order[calibrate:]],
            labels=None if labels is None else labels[order[calibrate:]],
            hashes=np.unique(hash_rows(x)),
        )


def _too_few(there: int, calibrate: int) -> DataError:
    return DataError(
        f"{there} examples are too few: {calibrate} calibrate int8, and at least "
        f"{FEWEST_HELD_OUT} others choose among the copies. Give {calibrate + FEWEST_HELD_OUT} or "
        "more; labels are not needed."
    )


def _read(examples: Examples, wanted: AnyArray, tell: Progress) -> tuple[AnyArray, IntArray | None]:
    """The inputs and, where there are any, the labels of some examples, by their numbers."""
    inputs, labels = [], []
    last = int(wanted[-1]) + 1
    for number, batch in enumerate(examples.batches(_BATCH)):
        first = number * _BATCH
        if first >= last:
            break
        tell("reading examples", first, last)
        rows = wanted[(wanted >= first) & (wanted < first + len(batch.x))] - first
        if len(rows):
            inputs.append(batch.x[rows])
            labels.append(None if batch.labels is None else batch.labels[rows])
    known = [given for given in labels if given is not None]
    return np.concatenate(inputs), np.concatenate(known) if len(known) == len(labels) else None
