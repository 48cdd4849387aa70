"""Copies of a network that answer alike for less: each kind is made, or the reason why not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from offramp.base.arrays import FloatArray
from offramp.base.errors import InputError, NetworkError
from offramp.base.progress import Progress
from offramp.networks import weights
from offramp.networks.resizing import Size
from offramp.runtime.ends import ends
from offramp.siblings.examples import Drawn
from offramp.siblings.forms import WHOLE, Form, plain_forms, trained_forms
from offramp.siblings.quantising import CALIBRATIONS, ENDS, Quantiser, Scheme
from offramp.siblings.scoring import changed, scores_of
from offramp.siblings.shortening import residual_blocks, without
from offramp.siblings.shrinking import SHARES, shrunk, sides, smaller
from offramp.siblings.teaching import Lessons

FULL, INT8 = "full", "int8"  # a network that was given without a name, and what int8 is called
_FINER = "finer"  # and int8 with ends in fp32
_WORTH = 0.002  # of the answers: what layers in fp32 must save, beyond noise
_TRYING = 64  # examples that tell which blocks do least
_MOST = 64  # residual blocks that are tried one by one
_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A network like another, and what it answers."""

    name: str  # of the stage
    file: Path
    scores: FloatArray  # (n, classes) of the held-out examples
    changed: float  # share of them that it answers otherwise than the reference
    form: Form = WHOLE  # how it was made cheaper, int8 aside
    scheme: Scheme | None = None  # how it was brought to int8; None: it was not


@dataclass(kw_only=True)
class Maker:
    """Makes the copies of one network, and remembers why others could not be made.

    Args:
        name: of the network.
        prefix: of the names of its copies.
        file: the network.
        folder: where copies are written.
        drawn: examples.
        layout: of images, nchw or nhwc; None tells by the number of channels.
        until: by `time.monotonic`, from when on nothing more is begun.
        tell: called with what is done.
    """

    name: str
    prefix: str
    file: Path
    folder: Path
    drawn: Drawn
    layout: str | None
    until: float
    tell: Progress
    failed: dict[str, str] = field(default_factory=dict)  # copy -> why there is none
    _order: list[str] | None = None  # residual blocks, once they are known

    def original(self, reference: Copy | None = None) -> Copy:
        """The network itself, which is the reference where there is none.

        Raises:
            NetworkError: it has several inputs, or something else than scores first; it does not
                run on the examples, or its rows depend on each other.
        """
        _check_ends(self.name, self.file)
        scores = scores_of(self.name, self.file, self.drawn.held_out)
        differs = changed(scores, scores if reference is None else reference.scores)
        return Copy(name=self.name, file=self.file, scores=scores, changed=differs)

    def copies(self, own: Copy, reference: Copy) -> Iterator[Copy]:
        """Those that need no training: int8, fewer pixels, fewer blocks, and int8 of these."""
        schemes = self._tried(f"{self.prefix}{INT8}", partial(self._schemes, own, reference)) or []
        yield from schemes
        scheme = schemes[0].scheme if schemes else None
        blocks = self._blocks(own)
        for form in plain_forms(self._sizes(), len(blocks)):
            yield from self._both(form, reference, scheme, partial(self._formed, form, blocks))

    def trained(self, own: Copy, reference: Copy, lessons: Lessons, alone: bool) -> Iterator[Copy]:
        """Those that learn what the reference answers, in fp32 and in int8.

        Args:
            own: the network.
            reference: whom copies answer like.
            lessons: what they learn.
            alone: whether no smaller network was given.
        """
        blocks = self._blocks(own)
        for form in trained_forms(self._sizes(), len(blocks), alone):
            make = partial(self._taught, form, blocks, lessons)
            yield from self._both(form, reference, Scheme(), make)

    def _both(
        self, form: Form, reference: Copy, scheme: Scheme | None, make: Callable[[Path], Path]
    ) -> Iterator[Copy]:
        """A copy in fp32, and in int8."""
        name = f"{self.prefix}{form.name}"
        judged = partial(self._judged, reference=reference, form=form)
        plain = self._tried(name, lambda: judged(name, make(self._path(name))))
        if plain is None:
            return
        yield plain
        name = f"{name}-{INT8}"
        if scheme is None:
            self.failed[name] = self.failed[f"{self.prefix}{INT8}"]
        elif found := self._tried(
            name, lambda: judged(name, self._quantised(plain.file, scheme, name), scheme=scheme)
        ):
            yield found

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.onnx"

    def _tried(self, name: str, make: Callable[[], _Made]) -> _Made | None:
        """What could be made, or None and why in `failed`."""
        if time.monotonic() > self.until:
            self.failed[name] = "there was no time left to make it"
            return None
        self.tell(f"making {name}", 0, 1)
        try:
            return make()
        except InputError as problem:
            self.failed[name] = str(problem)
            return None

    def _judged(
        self, name: str, file: Path, *, reference: Copy, form: Form, scheme: Scheme | None = None
    ) -> Copy:
        try:
            scores = scores_of(name, file, self.drawn.held_out)
        except NetworkError as problem:
            if form.size is None:
                raise
            height, width = form.size
            why = str(problem).rpartition("] ")[2].partition(" Export it again")[0]
            raise NetworkError(
                f"the network does not take images of {height} x {width}: {why}"
            ) from None
        return Copy(
            name=name,
            file=file,
            scores=scores,
            changed=changed(scores, reference.scores),
            form=form,
            scheme=scheme,
        )

    def _quantised(self, file: Path, scheme: Scheme, name: str) -> Path:
        return Quantiser(file, self.folder, self.drawn.calibrating)(scheme, self._path(name))

    def _schemes(self, own: Copy, reference: Copy) -> list[Copy]:
        """In int8, by the method that disagrees least; and with ends in fp32 where that helps.

        Raises:
            NetworkError: it cannot be quantised.
        """
        quantiser = Quantiser(self.file, self.folder, self.drawn.calibrating)

        def tried(scheme: Scheme, number: int) -> Copy:
            self.tell(f"int8, {scheme}", number, len(CALIBRATIONS) + len(ENDS))
            file = quantiser(scheme, self._path(f"{self.name}.{number}"))
            name = f"{self.prefix}{INT8}{f'-{_FINER}' if scheme.kept else ''}"
            return self._judged(name, file, reference=own, form=WHOLE, scheme=scheme)

        plain = [tried(Scheme(method), number) for number, method in enumerate(CALIBRATIONS)]
        best = min(plain, key=lambda copy: _distance(own, copy))
        found, method = [best], CALIBRATIONS[plain.index(best)]
        if best.changed > _WORTH:
            finer = [tried(Scheme(method, ends), 3 + i) for i, ends in enumerate(ENDS)]
            least = min(finer, key=lambda copy: _distance(own, copy))
            found += [least] if least.changed < best.changed - _WORTH else []
        return [replace(c, changed=changed(c.scores, reference.scores)) for c in found]

    def _sizes(self) -> list[Size]:
        """Height and width of fewer pixels, the most first; none where there are no images."""
        shape = self.drawn.held_out.shape[1:]
        axes = self._sides()
        if axes is None:
            self.failed[f"{self.prefix}fewer pixels"] = (
                f"the network reads {' x '.join(map(str, shape)) or 'numbers'}, which are no images"
            )
            return []
        return [smaller(shape, axes, share) for share in SHARES]

    @property
    def width(self) -> int | None:
        """The axis of a batch along which images are wide; None: these are no images."""
        axes = self._sides()
        return axes and axes[1]

    def _sides(self) -> tuple[int, int] | None:
        return sides(self.drawn.held_out.shape[1:], self.layout)

    def _formed(self, form: Form, blocks: Sequence[str], out: Path) -> Path:
        """The same weights on fewer pixels, or fewer of them."""
        file = self.file
        if form.blocks:
            file = without(file, out, blocks[: form.blocks[1] - form.blocks[0]])
        if form.size:
            axes = self._sides()
            assert axes is not None  # else there are no sizes
            file = shrunk(file, out, self.drawn.held_out.shape[1:], axes, form.size)
        return file

    def _taught(self, form: Form, blocks: Sequence[str], lessons: Lessons, out: Path) -> Path:
        """A form of the network that has learned. Raises NetworkError where it cannot."""
        from offramp.siblings.tuning import distilled  # with PyTorch, an extra

        untrained = self._formed(form, blocks, out.with_suffix(".untrained.onnx"))
        return distilled(untrained, out, lessons, progress=self._telling(out.stem))

    def _telling(self, name: str) -> Progress:
        return lambda what, done, total: self.tell(f"{name}: {what}", done, total)

    def _blocks(self, own: Copy) -> list[str]:
        """Residual blocks, those first without which answers change least."""
        if self._order is None:
            self._order = self._ordered_blocks(own)
        return self._order

    def _ordered_blocks(self, own: Copy) -> list[str]:
        passing = residual_blocks(weights.load(self.file))
        if not 2 < len(passing) <= _MOST:
            return []
        x, out = self.drawn.held_out[:_TRYING], self._path(f"{self.name}.shorter")
        wanted, far = own.scores[:_TRYING], {}
        for number, name in enumerate(passing):
            self.tell("leaving out blocks", number, len(passing))
            file = without(self.file, out, [name])
            try:
                scores = scores_of(self.name, file, x, checked=False)
            except InputError:  # it needs this one
                continue
            far[name] = float(np.abs(scores - wanted).mean())
        return sorted(far, key=far.__getitem__)


def _check_ends(name: str, file: Path) -> None:
    """Raises NetworkError, saying what to do, where a network is none that copies are made of."""
    read, made = ends(file)
    if len(read) > 1:
        raise NetworkError(
            f"'{name}' reads {', '.join(read)}, and copies are made of networks with one input. "
            "Put it into a graph by hand: offramp graph."
        )
    output, value = next(iter(made.items()))
    if len(made) > 1 and value.shape is not None and len(value.shape) < 2:
        raise NetworkError(
            f"the first output of '{name}', '{output}', is no scores (batch, classes). Write the "
            f"network anew: offramp graph big={file} --out graph; then give graph/stages/big.onnx."
        )


def _distance(own: Copy, copy: Copy) -> tuple[float, float]:
    """How far a copy answers from its network: answers first, then scores."""
    return copy.changed, float(np.abs(copy.scores - own.scores).mean())
