"""Early exits in a trained network: points, heads and placement, to a graph of stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import DataError, InputError, NetworkError
from offramp.base.progress import Progress, silent
from offramp.core.graph import Costs
from offramp.core.tasks import Kind, log_probabilities
from offramp.core.trace import assemble
from offramp.exits.cutting import ExitPoint, exit_point, exit_points
from offramp.exits.depth import by_depth
from offramp.exits.features import FEATURE_BATCH, HeadFeatures, head_features
from offramp.exits.heads import Head, fit_head
from offramp.exits.network import Network, made_up
from offramp.exits.outputs import FINAL, OWN_OUTPUTS, Exits, exits_at_outputs
from offramp.exits.placement import Placement, place, propose
from offramp.exits.pooling import Pooling, Style
from offramp.exits.stages import cut_into_stages
from offramp.networks.data import Examples
from offramp.networks.forms import (
    Brought,
    Outputs,
    ScoresOutput,
    Speaking,
    bring,
    scoring_parts,
)
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing
from offramp.recording.independence import warn_of_training
from offramp.recording.measure import stage_costs
from offramp.runtime import OnnxRuntime

MOST = 8  # exits that are proposed
_TOKENS = ("input_ids", "ids", "tokens")  # what the tokens are called, of several inputs
_HELD_OUT = 0.2  # of the examples: they choose styles and placement


@dataclass(frozen=True, kw_only=True)
class ExitOptions:
    """How exits are put into a network."""

    at: Sequence[str] | None = None  # tensors or modules; None: placed automatically
    style: Style | None = None  # of the heads; None: the better one on held-out examples
    hears: bool = False  # heads read the scores of the heads before them
    padding: int | None = None  # the token that is no token
    seed: int = 0
    # of the network, that is its own scores; None: the one that can be, of several the deepest
    output: str | None = None
    kind: Kind | None = None  # of its scores; None: what its last operator says


def candidate_points(
    path: Path, examples: Examples | None = None, settings: ExitOptions | None = None
) -> list[ExitPoint]:
    """The points of a network that exits may answer from, cheapest first.

    Args:
        path: an ONNX file.
        examples: a few are run; None makes some up where the shapes of the inputs are known.
        settings: which of its outputs is its scores.

    Raises:
        NetworkError: it does not load or run.
    """
    first = None if examples is None else next(examples.batches(3), None)
    brought = _in_one_form(path, settings or ExitOptions())
    given = None if first is None else first.fields
    return exit_points(Network.read(brought.files[FINAL], given))


def add_exits(
    path: Path,
    examples: Examples | None,
    settings: ExitOptions,
    folder: Path,
    *,
    preprocessing: Preprocessing | None = None,
    progress: Progress | None = None,
) -> Exits:
    """Trains heads on a frozen network, keeps those that pay, and cuts the network into stages.

    Args:
        path: an ONNX file with inputs (batch, ...) and scores (batch, classes).
        examples: labelled, 50,000 at most; the graph remembers them, and they certify nothing.
        settings: where and which exits.
        folder: where the parts are written.
        preprocessing: what the graph says of how examples are read.
        progress: called with what is done, how much of it, and how much there is.

    Raises:
        NetworkError, DataError: it cannot be cut as asked; no labels, or too few examples.

    Source: Bolukbasi et al. 2017, section 4, for frozen networks with linear heads.
    """
    warn_of_training({str(path): path})
    if settings.at is not None and list(settings.at) == [OWN_OUTPUTS]:
        return _at_its_outputs(path, examples, settings, folder, preprocessing)
    tell = progress or silent
    tell("reading the network", 0, 1)
    brought = _in_one_form(path, settings)
    network, given = _labelled(brought.files[FINAL], examples)
    places = _places(network, settings)
    poolings = _poolings(network, places, settings)
    seen = head_features(network, poolings, given, tell)
    lesson = _Lesson.of(seen, settings, tell)
    trained = _Trained(
        network=network, places=places, heads=lesson.heads(poolings), held_out=lesson.held_out,
        preprocessing=preprocessing, taught=seen.hashes,
    )  # fmt: skip
    return _noted(_placed(trained, poolings, lesson, folder), brought.outputs[FINAL])


def _at_its_outputs(
    path: Path,
    examples: Examples | None,
    settings: ExitOptions,
    folder: Path,
    preprocessing: Preprocessing | None,
) -> Exits:
    """A network whose outputs are the scores of its exits, taken as it is."""
    first = None if examples is None else next(examples.batches(5), None)
    network = Network.read(path, None if first is None else first.fields)
    x = made_up(network) if first is None else network.given(first.fields)
    ordered = by_depth(network, settings.output)
    return exits_at_outputs(network, ordered, x, folder, preprocessing)


def _in_one_form(path: Path, settings: ExitOptions) -> Brought:
    """A network whose first output is its scores, as `FINAL`."""
    asked = Outputs(
        output={} if settings.output is None else {FINAL: settings.output},
        kind={} if settings.kind is None else {FINAL: settings.kind},
    )
    return bring({FINAL: path}, [Speaking(FINAL, FINAL, named=False)], FINAL, asked, {})


def _noted(exits: Exits, scores: ScoresOutput) -> Exits:
    """Exits whose networks say where the scores of the one that was cut came from."""
    files = exits.networks.files
    ends = [part for part in scoring_parts(files) if part.partition(".")[0] == FINAL]
    return replace(exits, networks=replace(exits.networks, outputs=dict.fromkeys(ends, scores)))


def _poolings(
    network: Network, places: Mapping[str, ExitPoint], settings: ExitOptions
) -> dict[str, Pooling]:
    style = settings.style or "deep"  # whose features hold those of the other
    fixed, padding = _fixed(network), _padding(network, settings)
    return {stage: Pooling(place, style, fixed, padding) for stage, place in places.items()}


def _labelled(path: Path, examples: Examples | None) -> tuple[Network, Examples]:
    """A network that gives scores, and examples for it.

    Raises:
        DataError: there are no examples.
        NetworkError: it gives no scores.
    """
    first = None if examples is None else next(examples.batches(3), None)
    if examples is None or first is None or not len(first.ids):
        raise DataError(
            "heads are trained on labelled examples; give some thousands of them: --data."
        )
    network = Network.read(path, first.fields)
    scores = network.tensors.get(network.outputs[0])
    if scores is None or scores.axis != 0 or len(scores.shape) != 2:
        raise NetworkError(
            f"the first output of {path}, {network.outputs[0]}, must be scores (batch, classes). "
            "Name the output that is, if there is one: --output NAME."
        )
    return network, examples


@dataclass(frozen=True)
class _Lesson:
    """What heads learn from, and what chooses among them."""

    training: HeadFeatures
    held_out: HeadFeatures
    settings: ExitOptions
    progress: Progress

    @classmethod
    def of(cls, seen: HeadFeatures, settings: ExitOptions, progress: Progress) -> _Lesson:
        shuffled = np.random.default_rng(settings.seed).permutation(len(seen.labels))
        share = round(_HELD_OUT * len(shuffled))
        training, held_out = seen.take(shuffled[share:]), seen.take(shuffled[:share])
        return cls(training, held_out, settings, progress)

    def heads(self, poolings: Mapping[str, Pooling]) -> dict[str, Head]:
        return _train(poolings, self.training, self.held_out, self.settings, self.progress)

    def renamed(self, names: Mapping[str, str]) -> _Lesson:
        training, held_out = self.training.renamed(names), self.held_out.renamed(names)
        return replace(self, training=training, held_out=held_out)


def _placed(
    trained: _Trained, poolings: Mapping[str, Pooling], lesson: _Lesson, folder: Path
) -> Exits:
    """The exits that were asked for, or else those that pay on the held-out examples."""
    if lesson.settings.at is not None:
        return trained.exits(folder)
    lesson.progress("measuring which exits pay", 0, 1)
    placement = trained.placement()
    stay = placement.kept[:-1] or (list(placement.dropped)[-1],)  # the best one, if none pays
    names = {stage: f"exit{number}" for number, stage in enumerate(stay, start=1)}
    kept = trained.renamed(names)
    if lesson.settings.hears:  # what a head has heard may have gone
        again = lesson.renamed(names).heads({new: poolings[old] for old, new in names.items()})
        kept = replace(kept, heads=again)
    places = trained.places
    dropped = {places[s].path: why for s, why in placement.dropped.items() if s not in stay}
    return replace(kept.exits(folder), dropped=dropped, saving=placement.saving)


def _places(network: Network, settings: ExitOptions) -> dict[str, ExitPoint]:
    if settings.at is None:
        fitting = [p for p in exit_points(network) if 1 <= len(p.shape) <= 3]
        if not fitting:
            raise NetworkError("this network has no point to exit from; it is a single step.")
        total = network.work(network.outputs[0])
        found = [fitting[i] for i in propose([p.cost for p in fitting], total, MOST)]
    else:
        found = sorted((exit_point(network, name) for name in settings.at), key=lambda p: p.cost)
        names = [p.name for p in found]
        if len(set(names)) < len(names):
            raise InputError("a point is given twice; name each once.")
    return {f"exit{number}": place for number, place in enumerate(found, start=1)}


def _fixed(network: Network) -> bool:
    """Whether every example has the same shape."""
    values = [v for v in network.model.graph.input if v.name in network.inputs]
    dims = [dim for value in values for dim in value.type.tensor_type.shape.dim[1:]]
    return all(dim.HasField("dim_value") for dim in dims)


def _padding(network: Network, settings: ExitOptions) -> tuple[str, int] | None:
    """The input that holds tokens (n, tokens), and the token that is none."""
    if settings.padding is None:
        return None
    inputs = network.inputs
    whole = [n for n in inputs if len(inputs) == 1 or _holds_tokens(network, n)]
    named = [name for name in whole if name in _TOKENS]
    chosen = whole if len(whole) == 1 else named
    if len(chosen) != 1:
        raise InputError(
            f"--padding asks for tokens, and none of the inputs ({', '.join(inputs)}) shows that "
            f"it holds them. Export the network with the tokens as {' or '.join(_TOKENS)}."
        )
    return chosen[0], settings.padding


def _holds_tokens(network: Network, name: str) -> bool:
    tensor = network.tensors[name]
    return tensor.dtype.kind in "iu" and len(tensor.shape) == 2


def _train(
    poolings: Mapping[str, Pooling],
    training: HeadFeatures,
    held_out: HeadFeatures,
    settings: ExitOptions,
    progress: Progress,
) -> dict[str, Head]:
    """A head for each stage, of the style that says more of the held-out labels."""
    classes = training.scores.shape[1]
    heads: dict[str, Head] = {}
    said: dict[str, FloatArray] = {}  # on the training examples
    told: dict[str, FloatArray] = {}  # on the held-out ones
    styles: tuple[Style, ...] = ("linear", "deep") if settings.style is None else (settings.style,)
    for number, (stage, pooling) in enumerate(poolings.items()):
        progress("training heads", number, len(poolings))
        best = np.inf
        for style in styles:
            head = fit_head(
                replace(pooling, style=style),
                training.x[stage],
                training.labels,
                classes,
                earlier=said if settings.hears else None,
                seed=settings.seed,
            )
            scores = head(held_out.x[stage], told)
            loss = -log_probabilities(scores, "logits")[held_out.each, held_out.labels].mean()
            if loss < best:
                best, heads[stage], latest = loss, head, scores
        said[stage], told[stage] = heads[stage](training.x[stage], said), latest
    return heads


@dataclass(frozen=True, kw_only=True)
class _Trained:
    """Exits with heads, to be placed and written."""

    network: Network
    places: Mapping[str, ExitPoint]
    heads: Mapping[str, Head]
    held_out: HeadFeatures
    preprocessing: Preprocessing | None
    taught: AnyArray  # (n,) hashes of all examples that had a part in it

    def renamed(self, names: Mapping[str, str]) -> _Trained:
        """With some of the stages, under new names."""
        places = {new: self.places[old] for old, new in names.items()}
        heads = {new: self.heads[old] for old, new in names.items()}
        return replace(self, places=places, heads=heads, held_out=self.held_out.renamed(names))

    def placement(self) -> Placement:
        """Which exits pay on the held-out examples, at costs measured here."""
        with TemporaryDirectory() as temporary:
            networks, _ = self._cut(Path(temporary))
            runtime = OnnxRuntime(networks.files, networks.graph)
            costs = stage_costs(runtime, networks.graph, self.held_out.some, FEATURE_BATCH)
        scores, labels = self._scores(), self.held_out.labels
        return place(assemble(networks.graph, costs, scores, labels=labels))

    def exits(self, folder: Path) -> Exits:
        labels = self.held_out.labels
        loss = {s: float((x.argmax(axis=1) != labels).mean()) for s, x in self._scores().items()}
        networks, costs = self._cut(folder)
        networks = replace(networks, taught=np.unique(self.taught))
        return Exits(
            networks=networks, costs=costs, points=self.places, heads=self.heads, loss=loss
        )

    def _scores(self) -> dict[str, FloatArray]:
        found: dict[str, FloatArray] = {}
        for stage, head in self.heads.items():
            found[stage] = head(self.held_out.x[stage], found)
        return {**found, FINAL: self.held_out.scores}

    def _cut(self, folder: Path) -> tuple[Networks, Costs]:
        """The network with its heads, cut and written."""
        model = onnx.ModelProto()
        model.CopyFrom(self.network.model)
        del model.graph.output[1:]
        outputs: dict[str, str] = {}
        for stage, head in self.heads.items():
            outputs[stage] = head.attach(model, stage, outputs)
        outputs[FINAL] = self.network.outputs[0]
        x = self.held_out.some
        network = Network.of(model, x)
        return cut_into_stages(network, outputs, folder, x, self.preprocessing, self.network)
