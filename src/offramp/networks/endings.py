"""How a network ends: which of its outputs are scores, of what shape, and what kind of scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto

from offramp.base.arrays import AnyArray
from offramp.base.errors import NetworkError
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import Kind
from offramp.networks import weights
from offramp.networks.nodes import class_labels, class_numbers, class_values, maker_of
from offramp.networks.trial import ROWS, trial

KnownSizes = tuple[int | None, ...]  # None: any size
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
_WHOLE = (TensorProto.INT64, TensorProto.INT32, TensorProto.UINT8, TensorProto.INT8)
_PASSING = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Dropout"}
_LINEAR = {"Gemm", "MatMul", "Add", "Sub", "Conv", "LinearRegressor"}
_KINDS: Mapping[str, Kind] = {
    "Softmax": "probabilities",
    "Sigmoid": "sigmoid",
    "HardSigmoid": "sigmoid",
    "LogSoftmax": "logits",
    "Relu": "logits",
}
ZIPMAP = "export it without ZipMap (to_onnx(model, options={'zipmap': False}))"
Fit = Literal["scores", "one column", "whole numbers", "no"]
_ORDER: tuple[Fit, ...] = ("scores", "one column", "whole numbers")  # best first


@dataclass(frozen=True)
class ScoredOutput:
    """An output, and what may be scores in it."""

    output: str
    tensor: str  # the output itself, or what a ZipMap reads
    dtype: int  # of ONNX
    shape: KnownSizes | None  # rows first; None: it is not declared

    @property
    def zipped(self) -> bool:
        return self.tensor != self.output

    @property
    def fit(self) -> Fit:
        """How well it may be scores."""
        floats = self.dtype in _FLOATS
        if self.shape is None:
            return "scores" if floats else "no"
        wide = _wide(self.shape)
        if not self.shape or sum(size is not None for size in wide) > 1:
            return "no"
        if floats:
            return "scores" if wide else "one column"
        return "whole numbers" if wide and self.dtype in _WHOLE else "no"

    def __str__(self) -> str:
        dtype = TensorProto.DataType.Name(self.dtype).lower()
        return f"{self.output} ({dtype} {_written(self.shape)})"


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Where and how the scores of a network are found."""

    stage: str
    file: Path
    candidate: ScoredOutput
    first: bool  # its output is the first of the network
    shape: KnownSizes | None  # rows first, as declared or as a few rows show it; None: not known
    kind: Kind | None = None  # of the scores, once they are in one form; None: not known
    binary: Literal["sigmoid", "logits"] | None = None  # what its only column is
    rows: AnyArray | None = None  # what the network made of a few rows, if it was asked
    names: tuple[str, ...] = ()  # of its classes, where the file says them
    numbers: tuple[int, ...] = ()  # likewise, where the file numbers them
    columns: bool = False  # its columns are no classes: what they are, the task says
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int | None:
        """How many it scores, or how many columns it has; None: not known."""
        if self.binary:
            return 2
        if self.columns:
            sizes = (None,) if self.shape is None else self.shape[1:]
            known = [size for size in sizes if size is not None]
            return math.prod(known) if len(known) == len(sizes) else None
        wide = [] if self.shape is None else _wide(self.shape)
        return wide[0] if len(wide) == 1 else None

    @property
    def plain(self) -> bool:
        """Whether the network gives scores (n, classes) first, and says so."""
        declared, changed = self.candidate.shape, self.binary or self.candidate.zipped
        return self.first and declared is not None and len(declared) == 2 and not changed


def ending_of(
    stage: str,
    file: Path,
    *,
    output: str | None = None,
    kind: Kind | None = None,
    task: Task = SINGLE,
    named: bool = True,
) -> Ending:
    """Where a network's scores are.

    Args:
        stage: what messages call it.
        file: ONNX.
        output: that holds the scores; None: the first that can be scores.
        kind: what they are; None: what the last operator says.
        task: what outputs mean; of others than one label they stay as they are, row by row.
        named: options name the network, as there may be several.

    Raises:
        NetworkError: no output can be scores, or none is of this name; one column of which it is
            not known what it is; a kind that the task does not know.
    """
    network = _Network(stage, file, named)
    if task != SINGLE:
        return network.columns(output, kind, task)
    chosen = network.chosen(output)
    found = network.seen(chosen)
    if found.shape is not None and not _wide(found.shape):
        return network.binary(found, kind)
    return network.known(found, kind)


@dataclass(frozen=True)
class _Network:
    """A network, looked at from its outputs."""

    stage: str
    file: Path
    named: bool = True  # options name it: there may be several

    def option(self, name: str, value: str) -> str:
        """What to write to say something of it."""
        return f"--{name} {self.stage}={value}" if self.named else f"--{name} {value}"

    @cached_property
    def model(self) -> onnx.ModelProto:
        return weights.parsed(self.file)

    @cached_property
    def candidates(self) -> list[ScoredOutput]:
        """Every output that is a tensor, or a ZipMap of one."""
        found = []
        for value in self.model.graph.output:
            node = maker_of(self.model.graph.node, value.name)
            if value.type.HasField("tensor_type"):
                kind = value.type.tensor_type
                shape = _declared(kind) if kind.HasField("shape") else None
                found.append(ScoredOutput(value.name, value.name, kind.elem_type, shape))
            elif node is not None and node.op_type == "ZipMap":
                shape = (None, _width(node))
                found.append(ScoredOutput(value.name, node.input[0], TensorProto.FLOAT, shape))
        return found

    def chosen(self, output: str | None) -> ScoredOutput:
        """The output that is asked for, or the first of those that fit best."""
        if output is not None:
            return self._named(output)
        for fit in _ORDER:
            if found := next((c for c in self.candidates if c.fit == fit), None):
                return found
        raise NetworkError(self._none())

    def _named(self, output: str) -> ScoredOutput:
        found = next((c for c in self.candidates if c.output == output), None)
        names = [value.name for value in self.model.graph.output]
        if output not in names:
            raise NetworkError(
                f"{self.option('output', output)}: the outputs of {self.file} are "
                f"{', '.join(names)}. Write one of them."
            )
        if found is None or found.fit == "no":
            what = found or f"{output} (no tensor)"
            raise NetworkError(
                f"{self.option('output', output)}: {what} cannot be scores (batch, classes). "
                "Choose another output, or export the network again."
            )
        return found

    def _none(self) -> str:
        """Why there are no scores, and what to do."""
        outputs = self.model.graph.output
        tensors = {c.output: str(c) for c in self.candidates}
        listed = ", ".join(tensors.get(v.name, f"{v.name} (no tensor)") for v in outputs)
        advice = f"In scikit-learn and its kin {ZIPMAP}" if len(tensors) < len(outputs) else ""
        return (
            f"no output of stage '{self.stage}' can be scores (batch, classes): {listed}. "
            f"{advice or 'Export it with its scores as an output'}."
        )

    def seen(self, chosen: ScoredOutput) -> Ending:
        """An output with its shape: as declared, or as a few rows show it."""
        found = Ending(
            stage=self.stage,
            file=self.file,
            candidate=chosen,
            first=self.model.graph.output[0].name == chosen.output,
            shape=chosen.shape,
            names=next(filter(None, map(class_labels, self.model.graph.node)), ()),
            numbers=next(filter(None, map(class_numbers, self.model.graph.node)), ()),
            notes=tuple(self._choice(chosen)),
        )
        if chosen.shape is not None and None not in chosen.shape[1:]:
            return found
        rows = trial(self.model, self.file, chosen.tensor)
        if rows is None:
            return found if chosen.shape is not None else replace(found, notes=self._unknown(found))
        if rows.ndim < 1 or len(rows) != ROWS or len(_wide(rows.shape)) > 1:
            raise NetworkError(
                f"output {chosen.output} of stage '{self.stage}' has shape {rows.shape} for {ROWS} "
                "rows; it must be scores (batch, classes), one row for each."
            )
        return replace(found, rows=rows, shape=(None, *rows.shape[1:]))

    def _unknown(self, found: Ending) -> tuple[str, ...]:
        note = (
            f"its file does not say the shape of {found.candidate.output}, and rows that are made "
            "up do not run; it is taken to be (batch, classes)"
        )
        return (*found.notes, note)

    def _choice(self, chosen: ScoredOutput) -> Iterable[str]:
        """What is to be said of the choice of an output."""
        first = self.model.graph.output[0].name
        if chosen.output != first:
            what = next((str(c) for c in self.candidates if c.output == first), first)
            yield f"its scores are taken from output {chosen}, not from {what}"
        if chosen.zipped:
            yield "its ZipMap is left out of the copy: scores are a tensor, not dictionaries"
        others = [str(c) for c in self.candidates if c != chosen and c.fit == "scores"]
        if others and chosen.fit == "scores":
            yield (
                f"{chosen.output} is taken as its scores; {', '.join(others)} could be scores as "
                f"well: {self.option('output', 'NAME')} takes another"
            )

    def binary(self, found: Ending, kind: Kind | None) -> Ending:
        """One column, of which the last operator or a few rows say what it is."""
        operator = self.operator(found.candidate.tensor)
        said: Literal["sigmoid", "logits"] | None = None
        if kind is not None:
            said = "logits" if kind == "logits" else "sigmoid"
        elif operator in _KINDS or operator in _LINEAR:
            said = "sigmoid" if _KINDS.get(operator) == "sigmoid" else "logits"
        elif (rows := self._rows(found)) is not None:
            said = "sigmoid" if ((rows >= 0) & (rows <= 1)).all() else "logits"
        other = "logits" if said == "sigmoid" else "sigmoid"
        if said is None:
            raise NetworkError(
                f"stage '{self.stage}' gives one number for each row, and does not show whether "
                f"it is a chance or a logit. Write {self.option('kind', 'sigmoid')} or "
                f"{self.option('kind', 'logits')}."
            )
        what = "chance" if said == "sigmoid" else "logit"
        note = f"its only column is taken as the {what} of class 1, of two classes"
        if kind is None:
            note += f"; if it is not, write {self.option('kind', other)}"
            note += ", or --task regression/SCALE where it predicts a number" * self.named
        kept: Kind = "probabilities" if said == "sigmoid" else "logits"
        return replace(found, binary=said, kind=kept, notes=(*found.notes, note))

    def known(self, found: Ending, kind: Kind | None) -> Ending:
        """Scores of several classes, with what the last operator says of their kind."""
        operator = self.operator(found.candidate.tensor)
        notes = list(found.notes)
        if found.shape is not None and len(found.shape) > 2:
            notes.append(f"its scores {_written(found.shape)} are brought to (batch, classes)")
        if found.rows is not None and found.candidate.shape is None:
            notes.append(
                f"its file does not say the shape of {found.candidate.output}; {ROWS} rows that "
                f"were made up gave {_written(found.shape)}"
            )
        if operator == "Relu":
            notes.append(
                "it ends in ReLU: scores that are 0 tie, and the first of them is answered; leave "
                "the ReLU out when you export it"
            )
        said = kind or _KINDS.get(operator)
        return replace(found, kind=said, notes=tuple(notes))

    def columns(self, output: str | None, kind: Kind | None, task: Task) -> Ending:
        """An output whose columns are no classes: the one of that name, or the first of numbers."""
        fitting = [c for c in self.candidates if c.dtype in _FLOATS and c.shape != ()]
        fitting += [c for c in self.candidates if c.dtype in _WHOLE and c.shape != ()]
        chosen = next((c for c in fitting if output in (None, c.output)), None)
        if chosen is None:
            outputs = ", ".join(value.name for value in self.model.graph.output)
            asked = "" if output is None else f"{self.option('output', output)}: "
            raise NetworkError(
                f"{asked}the task '{task}' takes an output of numbers, a row for each example; the "
                f"outputs of {self.file} are {outputs}. Choose another, or export it again."
            )
        if kind is not None and kind not in task.kinds:
            raise NetworkError(
                f"{self.option('kind', kind)}: the task '{task}' takes {' or '.join(task.kinds)}. "
                "Write one of these, or leave it out."
            )
        said = kind or _KINDS.get(self.operator(chosen.tensor))
        others = [str(c) for c in fitting if output is None and c.output != chosen.output]
        return replace(
            self._laid_out(chosen, others), columns=True, kind=said if said in task.kinds else None
        )

    def _laid_out(self, chosen: ScoredOutput, others: list[str]) -> Ending:
        """An output with its shape, however many dimensions it has."""
        first, shape = self.model.graph.output[0].name == chosen.output, chosen.shape
        if shape is None and (rows := trial(self.model, self.file, chosen.tensor)) is not None:
            shape = (None,) * rows.ndim or None
        notes = []
        if others or not first:
            notes.append(
                f"{chosen} is taken as its answer"
                + (
                    f"; {self.option('output', 'NAME')} takes another: {', '.join(others)}"
                    * bool(others)
                )
            )
        if shape is not None and len(shape) != 2:
            notes.append(f"its outputs {_written(shape)} are brought to (batch, columns)")
        return Ending(
            stage=self.stage,
            file=self.file,
            candidate=chosen,
            first=first,
            shape=shape,
            notes=tuple(notes),
        )

    def _rows(self, found: Ending) -> AnyArray | None:
        if found.rows is not None:
            return found.rows
        return trial(self.model, self.file, found.candidate.tensor)

    def operator(self, tensor: str) -> str:
        """What made a tensor, past what only changes its form."""
        nodes: Iterable[onnx.NodeProto] = self.model.graph.node
        inner = {(f.domain, f.name): f for f in self.model.functions}
        node = maker_of(nodes, tensor)
        while node is not None:
            if function := inner.get((node.domain, node.op_type)):
                position = list(node.output).index(tensor)
                nodes, tensor = function.node, function.output[position]
            elif node.op_type in _PASSING:
                tensor = node.input[0]
            else:
                return str(node.op_type)
            node = maker_of(nodes, tensor)
        return ""


def kind_of_rows(ending: Ending) -> Kind | None:
    """What scores are: as the network says, or as a few rows look; None: they cannot be run."""
    if ending.kind is not None:
        return ending.kind
    rows = ending.rows
    if rows is None:
        rows = trial(weights.parsed(ending.file), ending.file, ending.candidate.tensor)
    if rows is None:
        return None
    rows = rows.astype(np.float64).reshape(len(rows), -1)
    if not ((rows >= 0) & (rows <= 1)).all():
        return "logits"
    return "probabilities" if np.allclose(rows.sum(axis=1), 1, atol=0.01) else "sigmoid"


def _width(node: onnx.NodeProto) -> int | None:
    return len(class_values(node, "classlabels_")) or None


def _declared(kind: onnx.TypeProto.Tensor) -> KnownSizes:
    return tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)


def _wide(shape: Iterable[int | None]) -> list[int | None]:
    """The sizes after the rows that are not 1."""
    return [size for size in list(shape)[1:] if size != 1]


def _written(shape: KnownSizes | None) -> str:
    if shape is None:
        return "of no declared shape"
    sizes = ["n", *("?" if size is None else str(size) for size in shape[1:])][: len(shape)]
    return f"({', '.join(sizes)}{',' * (len(sizes) == 1)})"
