"""Cheap copies of networks, from their files and some examples, to a graph of stages."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from offramp.base.checked import checked
from offramp.base.errors import DataError, InputError
from offramp.base.progress import Progress, silent
from offramp.core.graph import Costs, Graph
from offramp.core.meaning import finding_of
from offramp.core.tasks import answers, check_labels
from offramp.core.trace import Trace, assemble
from offramp.networks.data import Examples
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing
from offramp.plan.asked import AtLeast
from offramp.runtime import Stages
from offramp.siblings.choosing import Choice, choose
from offramp.siblings.copies import FULL, Copy, Maker
from offramp.siblings.examples import FEWEST_HELD_OUT, Drawn, Wanted
from offramp.siblings.forms import WHOLE
from offramp.siblings.scoring import shared_answer
from offramp.siblings.teaching import Lessons
from offramp.siblings.timing import quiet_costs

CALIBRATING = (50, 500)  # examples, from and to
_ALIKE = 0.02  # of the answers: what a copy may change that is asked in place of the reference


@dataclass(frozen=True, kw_only=True)
class SiblingOptions:
    """How copies are made and judged.

    Raises:
        InputError: a number out of range.
    """

    batch: Annotated[int, "Examples per call that copies are timed at.", AtLeast(1)] = 1
    threads: Annotated[int, "Threads of each network.", AtLeast(1)] = 1
    most: Annotated[int, "Copies to keep, at most.", AtLeast(1)] = 4
    calibrate: Annotated[int, "Examples that int8 takes its ranges from: 50 to 500."] = 100
    epochs: Annotated[
        int, "Times that copies learn from every example; 0: no training.", AtLeast(0)
    ] = 0
    minutes: Annotated[float | None, "From when on no further copy is begun."] = None
    drawn: Annotated[
        int | None, "Of --data, that make and choose copies, at most; the others can certify."
    ] = None
    seed: Annotated[int, "Of the examples that are drawn.", AtLeast(0)] = 0

    def __post_init__(self) -> None:
        low, high = CALIBRATING
        if not low <= self.calibrate <= high:
            raise InputError(
                f"{self.calibrate} examples shall calibrate int8; give {low} to {high}."
            )
        if min(self.batch, self.threads, self.most) < 1 or self.epochs < 0:
            raise InputError("the batch, the threads and the most copies are at least 1 each.")
        if self.drawn is not None and self.drawn < self.calibrate + FEWEST_HELD_OUT:
            raise InputError(
                f"{self.drawn} examples shall make and choose copies; give "
                f"{self.calibrate + FEWEST_HELD_OUT} or more."
            )
        if self.minutes is not None and not self.minutes > 0:
            raise InputError(f"{self.minutes} minutes are none; give more than 0.")


@dataclass(frozen=True, kw_only=True)
class Siblings:
    """Networks with cheap copies of themselves before the last of them, the reference."""

    networks: Networks  # the chain, cheapest first, the reference last
    tried: Sequence[Copy]  # every copy that could be made, and the networks; the reference last
    costs: Costs  # of each of them
    dropped: Mapping[str, str]  # what did not stay or could not be made -> why
    cost: float  # of walks by one threshold on held-out examples, over the network's
    calibrated: int  # examples that calibrated
    error: Mapping[str, float]  # share of wrong answers of each; empty without labels

    def to_json(self) -> dict[str, Any]:
        order = self.networks.graph.order
        return {
            "stages": list(order),
            "reference": self.networks.graph.reference,
            "tried": {copy.name: self._copy(copy) for copy in self.tried},
            "dropped": dict(self.dropped),
            "saving": 1 - self.cost,
            "batch": self.costs.batch,
            "cost_unit": self.costs.unit,
            "cost_source": self.costs.source,
            "calibrated": self.calibrated,
            "held_out": len(self.tried[0].scores),
        }

    def speedup(self, name: str) -> float:
        """How many times as fast as the reference a copy is."""
        return self.costs.body[self.networks.graph.reference] / self.costs.body[name]

    def _copy(self, copy: Copy) -> dict[str, Any]:
        scheme = copy.scheme
        return {
            "size": copy.form.size and list(copy.form.size),
            "blocks": copy.form.blocks and list(copy.form.blocks),
            "trained": copy.form.trained,
            "int8": scheme and {"method": scheme.method, "fp32": list(scheme.kept)},
            "cost": self.costs.body[copy.name],
            "speedup": self.speedup(copy.name),
            "changed": copy.changed,
            "error": self.error.get(copy.name),
        }


@checked
def make(
    networks: Path | Mapping[str, Path],
    examples: Examples | None,
    options: SiblingOptions,
    folder: Path,
    progress: Progress | None = None,
    *,
    further: Examples | None = None,
    preprocessing: Preprocessing | None = None,
) -> Siblings:
    """Makes copies of networks that cost less, and keeps those that could pay before the last.

    Copies are static int8 networks, the same weights on fewer pixels, fewer residual blocks, and
    int8 of these. With epochs, some learn what the last network answers; this needs the extra
    `torch`. All read what the networks read.

    Args:
        networks: an ONNX file with one input (batch, ...) and scores (batch, classes), or several
            by name, the reference last.
        examples: with or without labels; 2,000 that choose and those that calibrate are drawn from
            them. The graph remembers these, and they certify nothing.
        options: how many, of which kinds.
        folder: where they are written.
        progress: called with what is done, how much of it, and how much there is.
        further: that copies learn from, without labels; None: those that do not choose.
        preprocessing: what the graph says of how examples are read.

    Raises:
        DataError: too few examples, or such as the networks do not read.
        NetworkError: a network does not run on them, or its rows depend on each other.
        MissingExtra: copies shall be trained, and PyTorch is not there.
    """
    tell = progress or silent
    files = {FULL: networks} if isinstance(networks, Path) else dict(networks)
    wanted = Wanted(
        calibrate=options.calibrate, most=options.drawn, train=_trains(options), seed=options.seed
    )
    drawn = Drawn.of(examples, further, wanted, tell)
    makers = _makers(files, drawn, options, folder, preprocessing, tell)
    return _chosen(makers, options, preprocessing)


def _trains(options: SiblingOptions) -> bool:
    """Whether copies learn. Raises MissingExtra before anything is made where they cannot."""
    if options.epochs:
        import offramp.siblings.tuning  # noqa: F401
    return options.epochs > 0


def _makers(
    files: Mapping[str, Path],
    drawn: Drawn,
    options: SiblingOptions,
    folder: Path,
    preprocessing: Preprocessing | None,
    tell: Progress,
) -> list[Maker]:
    """One for each network, all with the same time."""
    until = math.inf if options.minutes is None else time.monotonic() + 60 * options.minutes
    return [
        Maker(
            name=name,
            prefix="" if len(files) == 1 else f"{name}-",
            file=file,
            folder=folder,
            drawn=drawn,
            layout=None if preprocessing is None else preprocessing.layout,
            until=until,
            tell=tell,
        )
        for name, file in files.items()
    ]


def _chosen(
    makers: Sequence[Maker], options: SiblingOptions, preprocessing: Preprocessing | None
) -> Siblings:
    """The networks and copies that can be made, judged on the held-out examples."""
    drawn, tell = makers[-1].drawn, makers[-1].tell
    reference = makers[-1].original()
    _check_answers(reference, drawn)
    own = [*(maker.original(reference) for maker in makers[:-1]), reference]
    copies = [c for m, o in zip(makers, own, strict=True) for c in m.copies(o, reference)]
    if options.epochs:
        copies += _trained(makers, own, copies, options)
    failed = {name: why for maker in makers for name, why in maker.failed.items()}
    unlike = _unlike(copies, reference)
    tried = [*(copy for copy in copies if copy.name not in unlike), *own]
    trace, costs = _judged(tried, drawn, options, tell)
    choice = choose(trace, {copy.name: copy.changed for copy in tried}, options.most, tell)
    return Siblings(
        networks=_networks(choice, tried, preprocessing, drawn),
        tried=tried,
        costs=costs,
        dropped={**failed, **unlike, **choice.dropped},
        cost=choice.cost,
        calibrated=len(drawn.calibrating),
        error=_errors(tried, drawn),
    )


def _trained(
    makers: Sequence[Maker], own: Sequence[Copy], copies: Sequence[Copy], options: SiblingOptions
) -> list[Copy]:
    """Copies that learn what the reference answers, or what a copy of it does in its place."""
    reference, last = own[-1], makers[-1]
    alike = [c for c in copies if c.form == WHOLE and c.changed <= _ALIKE and c.scheme]
    asked = min((c for c in alike if c.name.startswith(last.prefix)), key=_changed, default=None)
    lessons = Lessons.of(
        (asked or reference).file,
        last.drawn.teaching,
        last.width,
        options.epochs,
        last.tell,
        last.until,
    )
    alone = len(makers) == 1
    pairs = list(zip(makers, own, strict=True))
    return [
        copy
        for maker, network in (pairs if alone else pairs[:-1])
        for copy in maker.trained(network, reference, lessons, alone)
    ]


def _changed(copy: Copy) -> float:
    return copy.changed


def _check_answers(full: Copy, drawn: Drawn) -> None:
    """Raises DataError where the answers of the network cannot mean anything on these examples."""
    if drawn.labels is not None:
        labels = check_labels(drawn.labels, len(full.scores), full.scores.shape[1])
        if finding := finding_of(full.scores, labels):
            raise DataError(f"the network {finding}.")
    if shared_answer(full.scores) == 1.0:
        low, high = float(drawn.held_out.min()), float(drawn.held_out.max())
        raise DataError(
            f"the network answers all {len(full.scores)} examples alike. They lie in "
            f"[{low:.4g}, {high:.4g}]: check that this is the range that it reads."
        )


def _unlike(copies: Sequence[Copy], reference: Copy) -> dict[str, str]:
    """The copies that know nothing of what the reference answers -> why they went."""
    chance = 1 - shared_answer(reference.scores)
    return {
        copy.name: f"changes {copy.changed:.1%} of the answers; always answering the same changes "
        f"{chance:.1%}"
        for copy in copies
        if copy.changed >= chance
    }


def _judged(
    copies: Sequence[Copy], drawn: Drawn, options: SiblingOptions, tell: Progress
) -> tuple[Trace, Costs]:
    """All networks on the held-out examples, and the time that each takes, measured in turn."""
    graph = Graph.chain([copy.name for copy in copies])
    stages = Stages({c.name: c.file for c in copies}, graph, threads=options.threads)
    classes = copies[-1].scores.shape[1]
    costs = quiet_costs(stages, drawn.held_out, classes, options.batch, tell)
    scores = {copy.name: copy.scores for copy in copies}
    # without labels the network is taken to be right
    labels = answers(copies[-1].scores) if drawn.labels is None else drawn.labels
    return assemble(graph, costs, scores, labels=labels), costs


def _networks(
    choice: Choice, copies: Sequence[Copy], preprocessing: Preprocessing | None, drawn: Drawn
) -> Networks:
    files = {copy.name: copy.file for copy in copies}
    kept = {name: files[name] for name in choice.kept}
    return Networks(Graph.chain(choice.kept), kept, preprocessing, drawn.hashes)


def _errors(copies: Sequence[Copy], drawn: Drawn) -> dict[str, float]:
    if drawn.labels is None:
        return {}
    return {c.name: float((answers(c.scores) != drawn.labels).mean()) for c in copies}
