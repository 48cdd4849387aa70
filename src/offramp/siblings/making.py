"""Cheap copies of a network, from its file and some examples, to a graph of stages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
from offramp.siblings.copies import FULL, Copy, Maker, shared_answer
from offramp.siblings.examples import Drawn
from offramp.siblings.timing import quiet_costs

CALIBRATING = (50, 500)  # examples, from and to


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
    seed: Annotated[int, "Of the examples that are drawn.", AtLeast(0)] = 0

    def __post_init__(self) -> None:
        low, high = CALIBRATING
        if not low <= self.calibrate <= high:
            raise InputError(
                f"{self.calibrate} examples shall calibrate int8; give {low} to {high}."
            )
        if min(self.batch, self.threads, self.most) < 1:
            raise InputError("the batch, the threads and the most copies are at least 1 each.")


@dataclass(frozen=True, kw_only=True)
class Siblings:
    """A network with cheap copies of itself before it."""

    networks: Networks  # the chain, cheapest first; the network itself is the reference
    tried: Sequence[Copy]  # every copy that could be made, and the network
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
        """How many times as fast as the network a copy is."""
        return self.costs.body[FULL] / self.costs.body[name]

    def _copy(self, copy: Copy) -> dict[str, Any]:
        scheme = copy.scheme
        return {
            "size": copy.size and list(copy.size),
            "int8": scheme and {"method": scheme.method, "fp32": list(scheme.kept)},
            "cost": self.costs.body[copy.name],
            "speedup": self.speedup(copy.name),
            "changed": copy.changed,
            "error": self.error.get(copy.name),
        }


@checked
def make(
    path: Path,
    examples: Examples | None,
    options: SiblingOptions,
    folder: Path,
    progress: Progress | None = None,
    *,
    preprocessing: Preprocessing | None = None,
) -> Siblings:
    """Makes copies of a network that cost less, and keeps those that could pay before it.

    Copies are static int8 networks, the same weights on fewer pixels, and both. All read what the
    network reads. No training takes place.

    Args:
        path: an ONNX file with one input (batch, ...) and scores (batch, classes).
        examples: with or without labels; 2,000 and those that calibrate are drawn from them. The
            graph remembers these, and they certify nothing.
        options: how copies are made and judged.
        folder: where they are written.
        progress: called with what is done, how much of it, and how much there is.
        preprocessing: what the graph says of how examples are read.

    Returns:
        A chain of the copies that stay and the network, which is alone where there is none.

    Raises:
        DataError: too few examples, or such as the network does not read.
        NetworkError: the network does not run on them, or its rows depend on each other.
    """
    tell = progress or silent
    drawn = Drawn.of(examples, options.calibrate, options.seed, tell)
    layout = None if preprocessing is None else preprocessing.layout
    maker = Maker(path, folder, drawn, layout, tell)
    return _chosen(maker, options, preprocessing)


def _chosen(maker: Maker, options: SiblingOptions, preprocessing: Preprocessing | None) -> Siblings:
    """The copies that can be made, judged on the held-out examples."""
    drawn, full = maker.drawn, maker.full()
    _check_answers(full, drawn)
    tried = [*_like(maker, full), full]
    trace, costs = _judged(tried, drawn, options, maker.tell)
    choice = choose(trace, {copy.name: copy.changed for copy in tried}, options.most, maker.tell)
    return Siblings(
        networks=_networks(choice, tried, preprocessing, drawn),
        tried=tried,
        costs=costs,
        dropped={**maker.failed, **choice.dropped},
        cost=choice.cost,
        calibrated=len(drawn.calibrating),
        error=_errors(tried, drawn),
    )


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


def _like(maker: Maker, full: Copy) -> Iterator[Copy]:
    """The copies that know anything of what the network answers."""
    chance = 1 - shared_answer(full.scores)
    for copy in maker.copies(full):
        if copy.changed < chance:
            yield copy
        else:
            maker.failed[copy.name] = (
                f"changes {copy.changed:.1%} of the answers; always answering the same changes "
                f"{chance:.1%}"
            )


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
