"""Copies of networks that give scores (n, classes) first, whatever the originals give."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from offramp.core.graph import BATCH
from offramp.core.tasks import SMALLEST_PROBABILITY, Kind
from offramp.networks import weights
from offramp.networks.classes import LACKED, ClassOrder
from offramp.networks.endings import Ending

_AXES_READ = 18  # from this version on, reductions of the least and the most read their axes
_SUMS_READ = 13  # likewise sums
_OPSET = 17  # for networks of other operators alone
_FAR = -float(np.log(SMALLEST_PROBABILITY))  # below the best logit: no chance, and finite


def write_copy(
    ending: Ending, order: ClassOrder | None, kind: Kind | None, target: Path, keeps: bool = False
) -> None:
    """Writes a copy of a network whose first output is its scores, (batch, classes).

    Args:
        ending: where they are.
        order: of the classes; None: as they are.
        kind: what the scores are, which `order` needs where it drops or adds classes.
        target: the new file; weights that are too large for it lie beside it.
        keeps: the output that was changed stays among the others: another part may read it.
    """
    model = weights.load(ending.file)
    tail = _Tail(model)
    scores = _in_one_form(tail, ending)
    dtype, classes = ending.candidate.dtype, ending.classes
    if order is not None and order.changes:
        scores, dtype = _ordered(tail, scores, order, kind), TensorProto.FLOAT
        classes = len(order.take)
    _put_first(model, ending, helper.make_tensor_value_info(scores, dtype, [BATCH, classes]), keeps)
    weights.write(model, target)


@dataclass
class _Tail:
    """Operators behind those of a network."""

    model: onnx.ModelProto
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self.taken |= {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
        own = [entry.version for entry in self.model.opset_import if entry.domain in _OWN]
        if not own:
            self.model.opset_import.append(helper.make_opsetid("", _OPSET))
        self.opset: int = max([*own, *([] if own else [_OPSET])])

    def name(self) -> str:
        return next(
            name for number in self.numbers if (name := f"offramp.{number}") not in self.taken
        )

    def constant(self, values: Any, dtype: int) -> str:
        name = self.name()
        array = np.asarray(values, dtype=helper.tensor_dtype_to_np_dtype(dtype))
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = self.name()
        self.model.graph.node.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def reduce(self, operator: str, scores: str) -> str:
        """The sum, the least or the most of each row, (n, 1)."""
        if self.opset >= (_SUMS_READ if operator == "ReduceSum" else _AXES_READ):
            return self.add(operator, scores, self.constant([1], TensorProto.INT64), keepdims=1)
        return self.add(operator, scores, axes=[1], keepdims=1)


_OWN = ("", "ai.onnx")


def _in_one_form(tail: _Tail, ending: Ending) -> str:
    """The scores (n, classes) of a network, in its own order."""
    scores, shape, dtype = ending.candidate.tensor, ending.shape, ending.candidate.dtype
    if shape is not None and len(shape) != 2:
        width = 1 if ending.binary else ending.classes or -1
        # 0: as many rows as there are, and these may be none
        scores = tail.add("Reshape", scores, tail.constant([0, width], TensorProto.INT64))
    if ending.binary == "sigmoid":
        scores = tail.add("Mul", scores, tail.constant([[-1, 1]], dtype))
        return tail.add("Add", scores, tail.constant([[1, 0]], dtype))
    if ending.binary == "logits":  # whose softmax is the sigmoid of the logit
        return tail.add("Mul", scores, tail.constant([[-0.5, 0.5]], dtype))
    return scores


def _ordered(tail: _Tail, scores: str, order: ClassOrder, kind: Kind | None) -> str:
    """Scores (n, classes of the reference), as float32."""
    scores = tail.add("Cast", scores, to=TensorProto.FLOAT)
    kept = [position for position in order.take if position != LACKED]
    scores = tail.add("Gather", scores, tail.constant(kept, TensorProto.INT64), axis=1)
    if order.dropped and kind == "probabilities":  # what is left sums to 1 again
        tiny = tail.constant(SMALLEST_PROBABILITY, TensorProto.FLOAT)
        scores = tail.add("Add", scores, tiny)
        scores = tail.add("Div", scores, tail.reduce("ReduceSum", scores))
    if not order.lacked:
        return scores
    wide = tail.add("Concat", scores, _lowest(tail, scores, kind), axis=1)
    places, last = itertools.count(), len(kept)
    take = [last if position == LACKED else next(places) for position in order.take]
    return tail.add("Gather", wide, tail.constant(take, TensorProto.INT64), axis=1)


def _lowest(tail: _Tail, scores: str, kind: Kind | None) -> str:
    """A score (n, 1) that is at most those of a row, and stands for no chance."""
    least = tail.reduce("ReduceMin", scores)
    if kind != "logits":
        return tail.add("Mul", least, tail.constant(0, TensorProto.FLOAT))
    far = tail.constant(_FAR, TensorProto.FLOAT)
    return tail.add("Min", least, tail.add("Sub", tail.reduce("ReduceMax", scores), far))


def _put_first(
    model: onnx.ModelProto, ending: Ending, scores: onnx.ValueInfoProto, keeps: bool
) -> None:
    """Makes scores the first output; others stay behind it, those that are no tensors do not."""
    graph, changed = model.graph, ending.candidate
    others = [value for value in graph.output if value.type.HasField("tensor_type")]
    if not keeps:
        others = [value for value in others if value.name != changed.output]
    others = [value for value in others if value.name != scores.name]
    gone = {value.name for value in graph.output} - {value.name for value in others}
    zips = [n for n in graph.node if n.op_type == "ZipMap" and gone & set(n.output)]
    for node in zips:
        graph.node.remove(node)
    del graph.output[:]
    graph.output.extend([scores, *others])
