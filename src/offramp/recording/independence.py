"""Whether a stage answers a row alike, whatever other rows come with it.

A recording sees full batches; a plan drops rows between stages and may meet one alone. A network
whose rows depend on each other is then another system than the certified one.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import NetworkError, OfframpWarning
from offramp.base.fields import Fields, X, count, take
from offramp.base.progress import Progress, silent
from offramp.core import tasks
from offramp.core.graph import Graph
from offramp.networks import weights
from offramp.networks.networks import Networks
from offramp.runtime.stages import Stages

ScoreStages = Callable[[Any], Mapping[str, FloatArray]]
"""Inputs (n, ...), by field where there are several, to the scores (n, classes) of each stage."""

SMALL = 0.05  # of the range of scores: what changes more is refused, whatever is answered
_EXACT = 1e-3  # likewise: what float32 leaves open between batch sizes, with room for deep networks
_HALF = 2e-2  # what 16 bits leave open
_ROUNDED = 5e-2  # what one step more or less in fixed quantisation leaves open
_FLOOR = 0.1  # of the largest score: what counts as the range, at least
_ALONE = 16  # rows of a batch that run alone, where nothing else is found
_MADE_UP = 8  # rows, where there is no data


class RowsDepend(OfframpWarning):
    """Scores depend on the other rows of a batch, though hardly."""


class TrainingMode(OfframpWarning):
    """A network was exported in training mode, and engines differ in what they make of that."""


@dataclass(frozen=True)
class Difference:
    """How far the scores of the same rows lie apart."""

    scores: float  # the largest difference, as a share of the range of all scores
    answers: int  # rows whose answer changes with their scores
    rows: int

    def __add__(self, other: Difference) -> Difference:
        """Of the rows of both."""
        rows, answers = self.rows + other.rows, self.answers + other.answers
        return Difference(max(self.scores, other.scores), answers, rows)


def difference(expected: FloatArray, found: FloatArray, tolerance: float) -> Difference:
    """How far scores (n, classes) lie from others of the same rows.

    Args:
        expected: finite.
        found: of the same rows; no numbers differ by infinity.
        tolerance: a share of the range of scores; what changes less changes no answer.
    """
    if found.shape != expected.shape:
        return Difference(np.inf, len(expected), len(expected))
    if not expected.size:
        return Difference(0.0, 0, 0)
    # scores far from zero that hardly differ carry the noise of their size
    size = max(float(np.ptp(expected)), _FLOOR * float(np.abs(expected).max())) or 1.0
    differences = np.abs(found.astype(np.float64) - expected).max(axis=1) / size
    differences = np.where(np.isnan(differences), np.inf, differences)
    changed = (tasks.answers(found) != tasks.answers(expected)) & (differences > tolerance)
    return Difference(float(differences.max()), int(changed.sum()), len(expected))


@dataclass(frozen=True)
class Traits:
    """What the operators of a stage say of its rows."""

    tolerance: float  # what its precision leaves open, as a share of the range of scores
    reason: str | None = None  # why its rows depend on each other, as far as operators show it
    advice: str = (
        "Export it so that every row is answered by itself (in PyTorch: model.eval() before export)"
    )

    @classmethod
    def of(cls, files: Iterable[Path]) -> Traits:
        """Of the networks of a stage; those that cannot be looked into say nothing."""
        graphs = [graph for file in files for graph in _graphs(file)]
        for graph in graphs:
            constants = {t.name: t for t in graph.initializer if not t.external_data}
            for node in graph.node:
                if found := _mixing(node, constants):
                    return cls(_EXACT, *found)
        operators = {node.op_type for graph in graphs for node in graph.node}
        if any(name.startswith(("QuantizeLinear", "QLinear", "QGemm")) for name in operators):
            return cls(_ROUNDED)
        halves = any(_is_half(t.data_type) for graph in graphs for t in graph.initializer)
        return cls(_HALF if halves or "MatMulNBits" in operators else _EXACT)


def dependence(
    run: ScoreStages, x: AnyArray | Fields, tolerances: Mapping[str, float]
) -> dict[str, Difference]:
    """How far each stage answers rows otherwise with other rows, in another order, and alone.

    Args:
        run: the stages.
        x: a batch, (n, ...); of one row there is nothing to compare.
        tolerances: of each stage.
    """
    size = count(x)
    if size < 2:
        return {}
    expected = run(x)
    if not all(np.isfinite(scores).all() for scores in expected.values()):
        return {}  # which is another fault
    others = np.where((np.arange(size) % 2 == 0), np.arange(size), 0)
    groups = [np.arange(size)[::-1], others, *_some(size, _ALONE)]
    found = differences(run, x, expected, groups, tolerances)
    if any(found[stage].scores > tolerances[stage] for stage in found):
        singles = [np.array([row]) for row in range(size)]
        counted = differences(run, x, expected, singles, tolerances)
        return {stage: found[stage] + counted[stage] for stage in found}
    return found


def _some(rows: int, most: int) -> list[AnyArray]:
    """Pairs of rows, and some of the rows alone, spread over the batch."""
    chosen = np.unique(np.linspace(0, rows - 1, most).astype(np.int64))
    return [np.array([0, rows - 1]), *(np.array([row]) for row in chosen)]


def differences(
    run: ScoreStages,
    x: AnyArray | Fields,
    expected: Mapping[str, FloatArray],
    groups: Iterable[AnyArray],
    tolerances: Mapping[str, float],
) -> dict[str, Difference]:
    """Rows in groups against what was expected of them, all groups together."""
    rows, said = [], []
    for group in groups:
        rows.append(group)
        said.append(run(take(x, group)))
    at = np.concatenate(rows)
    return {
        stage: difference(
            scores[at], np.concatenate([np.asarray(found[stage]) for found in said]), tolerance
        )
        for stage, scores in expected.items()
        for tolerance in (tolerances[stage],)
    }


def runs(runtime: Stages, graph: Graph) -> ScoreStages:
    """All stages of a graph on an engine."""

    def run(x: Fields) -> dict[str, FloatArray]:
        running = runtime.begin(x)
        found = {}
        for stage in graph.order:
            running.advance(stage, None)
            found[stage] = np.array(running.answer(stage, None))
        return found

    return run


@dataclass(frozen=True)
class Judge:
    """Refuses stages whose rows depend on each other, and says where they hardly do."""

    traits: Mapping[str, Traits]  # of each stage

    @classmethod
    def of(cls, networks: Networks) -> Judge:
        graph, files = networks.graph, networks.files
        return cls(
            {s: Traits.of([files[p] for p in graph.parts(s) if p in files]) for s in graph.order}
        )

    @property
    def tolerances(self) -> dict[str, float]:
        return {stage: found.tolerance for stage, found in self.traits.items()}

    def depends(self, found: Mapping[str, Difference]) -> bool:
        """Whether any scores change by more than their precision leaves open."""
        return any(change.scores > self.traits[stage].tolerance for stage, change in found.items())

    def __call__(self, found: Mapping[str, Difference]) -> list[str]:
        """A sentence for each stage whose scores hardly depend on other rows.

        Raises:
            NetworkError: a stage whose answers, or scores by more than `SMALL`, depend on them.
        """
        said = []
        for stage, change in found.items():
            if change.scores <= self.traits[stage].tolerance:
                continue
            if change.answers or change.scores > SMALL:
                raise NetworkError(self._sentence(stage, change))
            said.append(self._sentence(stage, change))
        return said

    def _sentence(self, stage: str, change: Difference) -> str:
        traits = self.traits[stage]
        why = f" ({traits.reason})" if traits.reason else ""
        counted = f"{change.answers} of {change.rows} answers" if change.answers else "no answer"
        return (
            f"stage '{stage}' answers a row otherwise alone than together with other rows: its "
            f"rows depend on each other{why}. Scores change by up to {change.scores:.1%} of their "
            f"range, and {counted} of those compared. Plans drop rows between stages, so what "
            f"is certified would not be what runs. {traits.advice}."
        )


def warn_of_training(files: Mapping[str, Path]) -> None:
    """Says which networks hold Dropout in training mode, whether or not an engine heeds it.

    Args:
        files: by the name that messages call them.
    """
    for name, file in files.items():
        if any(map(_drops, _graphs(file))):
            warnings.warn(
                f"{name} holds Dropout in training mode, which some engines draw at random and "
                "others leave out: what is certified on one is not what runs on another. Export it "
                "in evaluation mode (in PyTorch: model.eval() before export).",
                TrainingMode,
                stacklevel=3,
            )


def _drops(graph: onnx.GraphProto | onnx.FunctionProto) -> bool:
    """Whether dropout is in training mode, or may be."""
    known = {t.name: t for t in getattr(graph, "initializer", ())}
    for node in graph.node:
        if node.op_type == "Constant":
            known.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    modes = [
        known.get(node.input[2])
        for node in graph.node
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]
    ]
    return any(mode is None or bool(numpy_helper.to_array(mode).any()) for mode in modes)


def check_made_up(networks: Networks, runtime: Stages, progress: Progress | None = None) -> None:
    """Compares rows that are made up, where the shape of the input is known and they run.

    Args:
        networks: to look at.
        runtime: that runs them.
        progress: called with what is done, which of how many runs.

    Raises:
        NetworkError: scores depend on other rows by more than `SMALL`. Less is left to a recording,
            which has examples to count answers on.
    """
    x, judge = _inputs_of(networks), Judge.of(networks)
    counted = _counted(runs(runtime, networks.graph), progress or silent)
    try:
        found = {} if x is None else dependence(counted, x, judge.tolerances)
    except NetworkError:  # they read other values than these
        found = {}
    judge({stage: change for stage, change in found.items() if change.scores > SMALL})
    warn_of_training({f"stage '{part}'": file for part, file in networks.files.items()})


def _counted(run: ScoreStages, tell: Progress) -> ScoreStages:
    """Tells how often it has run; where scores differ each row runs once more."""
    runs, total = itertools.count(), 4 + _MADE_UP

    def told(x: Fields) -> Mapping[str, FloatArray]:
        tell("comparing rows together and alone", min(next(runs), total), total)
        return run(x)

    return told


def made_up_rows(value: onnx.ValueInfoProto, rows: int) -> AnyArray | None:
    """Some examples for an input (batch, ...), (rows, ...); None where its shape is not known."""
    dims = value.type.tensor_type.shape.dim[1:]
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    shape = (rows, *(dim.dim_value for dim in dims))
    dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    random = np.random.default_rng(0)
    if dtype.kind in "iub":  # every vocabulary knows 0 and 1
        return random.integers(0, 2, shape).astype(dtype)
    return random.random(shape).astype(dtype)


def _inputs_of(networks: Networks) -> Fields | None:
    """Made-up examples for networks; None where what they read is not known."""
    if networks.fields != (X,):
        return _several_inputs(networks)
    file = networks.files.get(networks.graph.first(networks.graph.root))
    graphs = [] if file is None else list(_graphs(file))[:1]
    for graph in graphs:
        constants = {tensor.name for tensor in graph.initializer}
        values = [value for value in graph.input if value.name not in constants]
        made = made_up_rows(values[0], _MADE_UP) if len(values) == 1 else None
        return None if made is None else {X: made}
    return None


def _several_inputs(networks: Networks) -> Fields | None:
    graphs = [next(_graphs(file), None) for file in networks.files.values()]
    values = {
        v.name: v for graph in graphs if isinstance(graph, onnx.GraphProto) for v in graph.input
    }
    found = {name: made_up_rows(values[name], _MADE_UP) for name in networks.fields}
    known = {name: rows for name, rows in found.items() if rows is not None}
    return known if len(known) == len(found) else None


def _graphs(file: Path) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """The graph of a network, then those inside it."""
    try:
        model = weights.parsed(file)
    except weights.NoModel:
        return
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop(0)
        yield graph
        for attribute in (a for node in graph.node for a in node.attribute):
            waiting += [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]


def _is_half(kind: int) -> bool:
    return kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _mixing(
    node: onnx.NodeProto, constants: Mapping[str, TensorProto]
) -> tuple[str, str] | tuple[str] | None:
    """Why an operator mixes the rows of a batch, and what to do; None: it does not show."""
    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    kind = node.op_type
    if kind == "BatchNormalization" and (given.get("training_mode") or len(node.output) > 1):
        return (
            "batch normalisation in training mode",
            "Export it in evaluation mode (in PyTorch: model.eval() before export)",
        )
    if kind.startswith("DynamicQuantize"):
        return (
            f"dynamic quantisation, {kind}: one scale for the whole batch",
            "Quantise it statically (onnxruntime.quantization.quantize_static)",
        )
    if kind.startswith("Random") or kind in ("Bernoulli", "Multinomial"):
        return (f"{kind} draws random numbers",)
    if kind == "Dropout" and len(node.input) > 2 and node.input[2]:
        training = constants.get(node.input[2])
        if training is None or numpy_helper.to_array(training).any():
            return ("dropout in training mode",)
    if 0 in _axes(node, given, constants):
        return (f"{kind} over the rows of the batch",)
    return None


def _axes(
    node: onnx.NodeProto, given: Mapping[str, object], constants: Mapping[str, TensorProto]
) -> list[int]:
    """The axes that an operator reduces or runs along, as far as they are known."""
    kind = node.op_type
    if kind in ("Softmax", "LogSoftmax", "Hardmax", "ArgMax", "ArgMin", "TopK"):
        return [axis] if isinstance(axis := given.get("axis"), int) else []
    if not (kind.startswith("Reduce") or kind == "CumSum"):
        return []
    if isinstance(axes := given.get("axes"), list):
        return axes
    if len(node.input) < 2 or not node.input[1]:
        return [] if given.get("noop_with_empty_axes") or kind == "CumSum" else [0]
    axes = constants.get(node.input[1])
    return [] if axes is None else np.atleast_1d(numpy_helper.to_array(axes)).tolist()
