"""The examples that copies are made and judged with: some calibrate or teach, others choose."""

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
_LARGEST = 2**30  # bytes of examples that teach; there are fewer where they are large
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How many examples are drawn, and what for."""

    calibrate: int  # that calibrate int8
    most: int | None  # of all, at most; None: as many as are of use
    train: bool  # whether copies are trained
    seed: int  # of the order in which they are drawn


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Examples at random, as the network reads them."""

    calibrating: AnyArray  # (c, ...)
    held_out: AnyArray  # (n, ...)
    labels: IntArray | None  # (n,) of those held out
    teaching: AnyArray  # (t, ...): those that calibrate and more; none where nothing is trained
    hashes: AnyArray  # uint64 of all of them: they certify nothing

    @classmethod
    def of(
        cls, examples: Examples | None, further: Examples | None, wanted: Wanted, tell: Progress
    ) -> Drawn:
        """So many that calibrate, others that choose, 2,000 at most, and where asked some to train.

        Args:
            examples: with or without labels.
            further: to train on; None takes those of `examples` that do not choose.
            wanted: how many, and what for.
            tell: called with what is read.

        Raises:
            DataError: there are too few.
        """
        calibrate, train = wanted.calibrate, wanted.train
        total = 0 if examples is None else min(examples.examples, _READ)
        if examples is None or total < calibrate + FEWEST_HELD_OUT:
            raise _too_few(total, calibrate)
        random = np.random.default_rng(wanted.seed)
        own = train and further is None
        drawn = random.permutation(total)[: wanted.most]
        drawn = drawn if own else drawn[: calibrate + MOST_HELD_OUT]
        x, labels = _read(examples, np.sort(drawn), tell)
        apart, chosen = _apart(len(x), calibrate, own, random)
        others = [] if further is None or not train else [_teaching(further, random, tell)]
        return cls(
            calibrating=x[apart[:calibrate]],
            held_out=x[chosen],
            labels=None if labels is None else labels[chosen],
            teaching=np.concatenate([x[apart], *others]) if train else x[:0],
            hashes=np.unique(np.concatenate([hash_rows(x), *map(hash_rows, others)])),
        )


def _apart(
    there: int, calibrate: int, teach: bool, random: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Which of so many calibrate, or teach as well, and which choose: half of them at most."""
    if there < calibrate + FEWEST_HELD_OUT:
        raise _too_few(there, calibrate)
    held = there - calibrate
    if teach:
        held = min(MOST_HELD_OUT, held, max(FEWEST_HELD_OUT, there // 2))
    order = random.permutation(there)
    return order[:-held], np.sort(order[-held:])


def _too_few(there: int, calibrate: int) -> DataError:
    return DataError(
        f"{there} examples are too few: {calibrate} calibrate int8, and at least "
        f"{FEWEST_HELD_OUT} others choose among the copies. Give {calibrate + FEWEST_HELD_OUT} or "
        "more; labels are not needed."
    )


def _teaching(examples: Examples, random: np.random.Generator, tell: Progress) -> AnyArray:
    """As many at random as fit."""
    first = next((batch.x for batch in examples.batches(1) if len(batch.x)), None)
    if first is None:
        raise DataError("none of the examples to train copies on can be read.")
    most = min(examples.examples, _READ, max(1, _LARGEST // max(1, first[0].nbytes)))
    wanted = np.sort(random.permutation(examples.examples)[:most])
    return _read(examples, wanted, tell)[0]


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
