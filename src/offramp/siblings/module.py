"""An ONNX network as a PyTorch module that learns, and its weights back in the file.

The file stays as it is but for its weights: what is trained is what is deployed. Needs the extra
`torch`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from offramp.base.errors import MissingExtra, NetworkError
from offramp.siblings.operators import known_operators, operator_named

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional
except ImportError as _problem:
    raise MissingExtra(_problem.name or "torch", "torch") from None

_OWN = ("", "ai.onnx")
_NORM = "BatchNormalization"
_MOMENTUM = 0.1  # of the mean and variance that are kept while a module learns
_SMALLEST = 1e-5  # added to variances


class FromOnnx(nn.Module):
    """The network of an ONNX model, with its weights as parameters.

    Convolutions whose normalisation was folded into their weights have one again: it learns far
    better so. `settle` gives it the statistics with which nothing changes; `write` folds it back.

    Args:
        model: with one input and one output that counts, the first.

    Raises:
        NetworkError: an operator that cannot be computed here.
    """

    nodes: list[_Step]
    constants: dict[str, Any]
    names: dict[str, str]
    read: Any
    made: Any
    last: dict[int, tuple[str, ...]]

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.nodes = [_Step.of(node) for node in model.graph.node]
        self._check()
        self.constants = _constants(model)
        learned = _learned(model, self.constants)
        self.weights = nn.ParameterDict({_key(n): _tensor(self.constants[n]) for n in learned})
        self.names = {name: _key(name) for name in learned}
        known = set(self.constants)
        self.read = next(value.name for value in model.graph.input if value.name not in known)
        self.made = model.graph.output[0].name
        self.norms = nn.ModuleDict(
            {_key(name): _Norm(width) for name, width in _unnormalised(model, learned).items()}
        )
        self.last = _last_uses(self.nodes, self.made)

    def _check(self) -> None:
        missing = {step.kind for step in self.nodes} - known_operators()
        if missing:
            raise NetworkError(
                "copies of it cannot be trained: nothing here computes "
                f"{', '.join(sorted(missing))}."
            )

    def forward(self, x: Tensor) -> Tensor:
        """Scores (n, classes) of inputs (n, ...)."""
        values: dict[str, Any] = {self.read: x}
        for number, step in enumerate(self.nodes):
            made = self._step(step, [self._value(values, name) for name in step.inputs])
            several = made if isinstance(made, tuple) else (made,)
            values.update(zip(step.outputs, several, strict=False))
            for name in self.last.get(number, ()):
                values.pop(name, None)
        scores: Tensor = values[self.made]
        return scores

    def _value(self, values: Mapping[str, Any], name: str) -> Tensor | None:
        if not name:
            return None
        if name in values:
            found: Tensor = values[name]
            return found
        if name in self.names:
            return self.weights[self.names[name]]
        return torch.from_numpy(self.constants[name])

    def _step(self, step: _Step, inputs: list[Tensor | None]) -> Any:
        if step.kind == _NORM and self.training and step.inputs[1] in self.names:
            return self._normalised(step, inputs)
        operator = operator_named(step.kind)
        assert operator is not None  # `_check` has looked
        made = operator(step.attributes, *inputs)
        norm = _key(step.outputs[0])
        return self.norms[norm](made) if norm in self.norms else made

    def _normalised(self, step: _Step, inputs: list[Any]) -> Tensor:
        """By the mean and variance of the batch, which those that are kept follow."""
        x, scale, shift, mean, spread = inputs
        return functional.batch_norm(
            x, mean.data, spread.data, scale, shift, True, _MOMENTUM, step.attributes["epsilon"]
        )

    def settle(self, batches: Sequence[Tensor]) -> None:
        """Gives each normalisation that was put in the statistics with which nothing changes."""
        self.eval()
        with torch.no_grad():
            for norm in self.norms.values():
                norm.begin()
            for batch in batches:
                self(batch)
            for norm in self.norms.values():
                norm.settle()

    def write(self, model: onnx.ModelProto) -> None:
        """Puts the weights, with all normalisation that was put in, back into a model."""
        found = {name: self.weights[key].detach().numpy() for name, key in self.names.items()}
        added = {}
        for node in model.graph.node:
            key = _key(node.output[0])
            if key not in self.norms:
                continue
            scale, shift = self.norms[key].folded()
            weight = found[node.input[1]]
            found[node.input[1]] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
            bias = node.input[2] if len(node.input) > 2 and node.input[2] else ""
            name = f"{node.output[0]}.bias"
            added[name] = (found[bias] * scale if bias else 0.0) + shift
            del node.input[2:]
            node.input.append(name)
        kept = [tensor for tensor in model.graph.initializer if tensor.name not in found]
        used = {name for node in model.graph.node for name in node.input}
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        for name, value in {**found, **added}.items():
            if name in used:
                array = np.ascontiguousarray(value, dtype=np.float32)
                model.graph.initializer.append(numpy_helper.from_array(array, name))


class _Norm(nn.Module):
    """Normalises what a convolution makes; `settle` makes it change nothing at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, eps=_SMALLEST, momentum=_MOMENTUM)
        self.seen: list[tuple[Tensor, Tensor]] | None = None

    def begin(self) -> None:
        self.seen = []

    def settle(self) -> None:
        means, squares = (torch.stack(part).mean(0) for part in zip(*self.seen or (), strict=True))
        spread = (squares - means**2).clamp_min(0.0)
        self.norm.running_mean, self.norm.running_var = means, spread
        with torch.no_grad():
            self.norm.weight.copy_((spread + _SMALLEST).sqrt())
            self.norm.bias.copy_(means)
        self.seen = None

    def forward(self, x: Tensor) -> Tensor:
        if self.seen is not None:
            self.seen.append((x.mean((0, 2, 3)), (x**2).mean((0, 2, 3))))
            return x
        made: Tensor = self.norm(x)
        return made

    def folded(self) -> tuple[Any, Any]:
        """What its input is multiplied by, and what is added then, (channels,) each."""
        mean, spread = self.norm.running_mean, self.norm.running_var
        assert mean is not None
        assert spread is not None
        scale = (self.norm.weight / (spread + _SMALLEST).sqrt()).detach()
        return scale.numpy(), (self.norm.bias - mean * scale).detach().numpy()


@dataclass(frozen=True)
class _Step:
    """A node, with its attributes as Python values."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, node: onnx.NodeProto) -> _Step:
        if node.domain not in _OWN:
            raise NetworkError(
                f"copies of it cannot be trained: its operator {node.domain}.{node.op_type} is "
                "not ONNX's own."
            )
        found = {a.name: _attribute(a) for a in node.attribute}
        if node.op_type == _NORM:
            found = {"epsilon": 1e-5} | found
        return cls(node.op_type, tuple(node.input), tuple(node.output), found)


def _attribute(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return value.decode() if isinstance(value, bytes) else value


def _constants(model: onnx.ModelProto) -> dict[str, Any]:
    """All tensors that do not depend on inputs, by name."""
    return {t.name: np.array(numpy_helper.to_array(t)) for t in model.graph.initializer}


def inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the values of its Constant nodes among its weights."""
    kept = []
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in _OWN:
            value = np.asarray(_attribute(node.attribute[0]))
            value = value.astype(np.float32) if value.dtype == np.float64 else value
            model.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        else:
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def _learned(model: onnx.ModelProto, constants: Mapping[str, Any]) -> list[str]:
    """The tensors of numbers that a network multiplies with, adds, or looks up."""
    shapes = {  # what tells operators how, and not what
        name
        for node in model.graph.node
        for name in (node.input[1:] if node.op_type in _TOLD else ())
    }
    return [
        name
        for name, value in constants.items()
        if value.dtype == np.float32 and value.size > 1 and name not in shapes
    ]


_TOLD = ("Clip", "Resize", "Pad", "Range", "Pow")


def _unnormalised(model: onnx.ModelProto, learned: Sequence[str]) -> dict[str, int]:
    """The outputs of convolutions that no normalisation follows -> their channels."""
    readers = Counter(name for node in model.graph.node for name in node.input)
    normed = {node.input[0] for node in model.graph.node if node.op_type == _NORM}
    widths = {t.name: t.dims[0] for t in model.graph.initializer if len(t.dims) == 4}
    return {
        node.output[0]: widths[node.input[1]]
        for node in model.graph.node
        if node.op_type == "Conv"
        and node.input[1] in widths
        and node.input[1] in learned
        and all(readers[name] == 1 for name in node.input[1:] if name)
        and node.output[0] not in normed
    }


def _last_uses(nodes: Sequence[_Step], made: str) -> dict[int, tuple[str, ...]]:
    """After which step which values are needed no more."""
    last: dict[str, int] = {}
    for number, step in enumerate(nodes):
        last |= dict.fromkeys(step.inputs, number)
    last.pop(made, None)
    found: dict[int, list[str]] = {}
    for name, number in last.items():
        found.setdefault(number, []).append(name)
    return {number: tuple(names) for number, names in found.items()}


def _tensor(value: Any) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(value.copy()))


def _key(name: str) -> str:
    return name.replace(".", "|")
