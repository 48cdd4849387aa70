"""Copies of a network that answer alike for less: each kind is made, or the reason why not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from offramp.base.arrays import FloatArray
from offramp.base.errors import InputError, NetworkError
from offramp.base.progress import Progress
from offramp.core.graph import Graph
from offramp.core.tasks import answers, no_scores
from offramp.recording.independence import Judge, Traits, dependence
from offramp.runtime import Stages
from offramp.siblings.examples import Drawn
from offramp.siblings.quantising import CALIBRATIONS, ENDS, Quantiser, Scheme
from offramp.siblings.shrinking import SHARES, shrunk, sides, smaller

FULL, INT8 = "full", "int8"  # the network itself, and its copy in int8
_WORTH = 0.002  # of the answers: what layers in fp32 must save to stay so, beyond noise
_BATCH = 64
_TOGETHER = 32  # examples that are answered together and alone


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A network like another, and what it answers."""

    name: str  # of the stage
    file: Path
    scores: FloatArray  # (n, classes) of the held-out examples
    changed: float  # share of them that it answers otherwise than the network
    size: tuple[int, int] | None = None  # height and width of what its weights see; None: all
    scheme: Scheme | None = None  # how it was brought to int8; None: it was not


@dataclass
class Maker:
    """Makes the copies of one network, and remembers why others could not be made.

    Args:
        file: the network.
        folder: where copies are written.
        drawn: examples.
        layout: of images, nchw or nhwc; None tells by the number of channels.
        tell: called with what is done.
    """

    file: Path
    folder: Path
    drawn: Drawn
    layout: str | None
    tell: Progress
    failed: dict[str, str] = field(default_factory=dict)  # copy -> why there is none

    def full(self) -> Copy:
        """The network itself.

        Raises:
            NetworkError: it does not run on the examples, or its rows depend on each other.
            DataError: its scores are no numbers, or always answer the same.
        """
        scores = self._scores(FULL, self.file)
        return Copy(name=FULL, file=self.file, scores=scores, changed=0.0)

    def copies(self, full: Copy) -> Iterator[Copy]:
        """Those that can be made: int8, fewer pixels, and both."""
        scheme = Scheme()
        if quantised := self._tried(INT8, partial(self._int8, full)):
            yield quantised
            scheme = quantised.scheme or scheme
        for small in self._smaller(full):
            yield small
            name = f"{small.name}-{INT8}"
            if INT8 in self.failed:
                self.failed[name] = self.failed[INT8]
            elif both := self._tried(name, partial(self._both, full, small, name, scheme)):
                yield both

    def _tried(self, name: str, make: Callable[[], Copy]) -> Copy | None:
        """A copy, or None and why in `failed`."""
        try:
            return make()
        except InputError as problem:
            self.failed[name] = str(problem)
            return None

    def _scores(self, name: str, file: Path) -> FloatArray:
        """What a network says of the held-out examples.

        Raises:
            NetworkError: it does not run, gives no scores, or its rows depend on each other.
        """
        stages = Stages({name: file}, Graph.chain([name]))
        x = self.drawn.held_out
        first = stages.run(name, x[:_TOGETHER])
        if len(first) != _TOGETHER:
            raise NetworkError(f"it gives {len(first)} rows of scores for {_TOGETHER} examples.")
        traits = Traits.of([file])
        found = dependence(
            lambda rows: {name: stages.run(name, rows)}, x[:_TOGETHER], {name: traits.tolerance}
        )
        Judge({name: traits})(found)
        scores = np.concatenate(
            [stages.run(name, x[i : i + _BATCH]) for i in range(0, len(x), _BATCH)]
        )
        if no_scores(scores).any():
            raise NetworkError("it gives scores that are no numbers.")
        return scores

    def _copy(
        self,
        full: Copy,
        name: str,
        file: Path,
        size: tuple[int, int] | None,
        scheme: Scheme | None,
    ) -> Copy:
        scores = self._scores(name, file)
        if scores.shape != full.scores.shape:
            raise NetworkError(f"it gives {scores.shape[1]} scores, not {full.scores.shape[1]}.")
        changed = float((answers(scores) != answers(full.scores)).mean())
        return Copy(name=name, file=file, scores=scores, changed=changed, size=size, scheme=scheme)

    def _int8(self, full: Copy) -> Copy:
        """In int8, as it disagrees least: ranges by one of the methods, ends in fp32 if they hurt.

        Raises:
            NetworkError: it cannot be quantised.
        """
        self.tell("preparing int8", 0, 1)
        quantiser = Quantiser(self.file, self.folder, self.drawn.calibrating)

        def tried(scheme: Scheme, number: int) -> Copy:
            self.tell(f"int8, {scheme}", number, len(CALIBRATIONS) + len(ENDS))
            file = quantiser(scheme, self.folder / f"{INT8}.{number}.onnx")
            return self._copy(full, INT8, file, None, scheme)

        found = [tried(Scheme(method), number) for number, method in enumerate(CALIBRATIONS)]
        best = min(found, key=lambda copy: _distance(full, copy))
        method = best.scheme.method if best.scheme else CALIBRATIONS[0]
        for number, kept in enumerate(ENDS, start=len(CALIBRATIONS)):
            if best.changed <= _WORTH:
                break
            copy = tried(Scheme(method, kept), number)
            if copy.changed < best.changed - _WORTH:
                best = copy
        return best

    def _smaller(self, full: Copy) -> Iterator[Copy]:
        """On fewer pixels, where the network takes them."""
        shape = self.drawn.held_out.shape[1:]
        axes = sides(shape, self.layout)
        if axes is None:
            self.failed["fewer pixels"] = (
                f"the network reads {' x '.join(map(str, shape)) or 'numbers'}, which are no images"
            )
            return
        for share in SHARES:
            size = smaller(shape, axes, share)
            name = f"{size[0]}x{size[1]}"
            if small := self._tried(name, partial(self._resized, full, name, axes, size)):
                yield small

    def _resized(self, full: Copy, name: str, axes: tuple[int, int], size: tuple[int, int]) -> Copy:
        """The same weights on fewer pixels.

        Raises:
            NetworkError: it takes other sizes alone.
        """
        self.tell(f"making {name}", 0, 1)
        file = shrunk(
            self.file, self.folder / f"{name}.onnx", self.drawn.held_out.shape[1:], axes, size
        )
        try:
            return self._copy(full, name, file, size, None)
        except NetworkError as problem:
            raise NetworkError(
                f"the network does not take images of {size[0]} x {size[1]}: {problem}"
            ) from None

    def _both(self, full: Copy, small: Copy, name: str, scheme: Scheme) -> Copy:
        """In int8 on fewer pixels; raises NetworkError where it cannot be quantised."""
        self.tell(f"making {name}", 0, 1)
        quantiser = Quantiser(small.file, self.folder, self.drawn.calibrating)
        file = quantiser(scheme, self.folder / f"{name}.onnx")
        return self._copy(full, name, file, small.size, scheme)


def _distance(full: Copy, copy: Copy) -> tuple[float, float]:
    """How far a copy answers from the network: answers first, then scores."""
    return copy.changed, float(np.abs(copy.scores - full.scores).mean())


def shared_answer(scores: FloatArray) -> float:
    """The share of examples that always answering the same would answer as the network does."""
    _, counts = np.unique(answers(scores), return_counts=True)
    return float(counts.max() / len(scores))
