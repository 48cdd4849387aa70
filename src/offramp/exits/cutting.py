"""Where a network can be cut, and cutting it: one rule for every architecture.

The body of exit k is what the network's own answer shares with exit k, less the bodies before it;
the head of exit k is the rest of what exit k needs. What crosses is the carry.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import onnx
from onnx import helper

from offramp.base.errors import NetworkError
from offramp.core.graph import BATCH, Costs
from offramp.core.graph import head as head_of
from offramp.exits.network import Network
from offramp.exits.passes import bare_scope, chosen_pass, module_names, pass_of, passes

_WIDEST = 8  # tensors in the carry of a point that is proposed
_LATEST = 0.98  # of the work: later there is nothing left to save


@dataclass(frozen=True, kw_only=True)
class ExitPoint:
    """A tensor from which an exit may answer."""

    name: str  # of the tensor
    cost: int  # multiply-adds per example up to here
    carry: tuple[str, ...]  # the tensors that what follows needs from what went before
    carry_bytes: int  # per example
    path: str  # of the module that made it, as recorded by the exporter; `#2` on its second run
    shape: tuple[int, ...]  # of the tensor for one example, without the batch
    axis: int = 0  # of the batch

    def to_json(self) -> dict[str, Any]:
        return {
            "tensor": self.name,
            "module": self.path,
            "multiply_adds": self.cost,
            "carry": list(self.carry),
            "carry_bytes": self.carry_bytes,
            "shape": list(self.shape),
        }


@dataclass(frozen=True)
class CutPart:
    """A body or a head as a model of its own."""

    name: str  # the stage, with `.head` for a head
    model: onnx.ModelProto  # its inputs: examples or tensors that earlier bodies made


def exit_points(network: Network) -> list[ExitPoint]:
    """The candidate points, cheapest first: one for each amount of work done.

    Where every path goes through a single tensor, only such points are given, since their carry is
    the smallest; networks that keep many tensors in flight (DenseNet) give wider ones.
    """
    answer = network.ancestors(network.outputs[0])
    whole = network.work(network.outputs[0])
    modules = module_names(network, _activations(network, answer))
    found = [_point(network, answer, name, module) for name, module in modules.items()]
    early = [p for p in found if p is not None and 0 < p.cost < _LATEST * whole]
    narrow = {p.cost: p for p in early if _narrow(network, p)}  # the last of those of equal cost
    wide = {p.cost: p for p in early if len(p.carry) <= _WIDEST}
    chosen = narrow if len(narrow) > 1 or len(wide) <= len(narrow) else wide
    return [chosen[cost] for cost in sorted(chosen)]


def _narrow(network: Network, found: ExitPoint) -> bool:
    """Whether nothing else crosses that took work to make: a mask made of the input may."""
    return found.name in found.carry and all(
        network.work(name) == 0 for name in found.carry if name != found.name
    )


def exit_point(network: Network, name: str) -> ExitPoint:
    """The point at a tensor, or at the last tensor of a module, called `name`.

    Of a module that runs several times `block#2` is the second pass, and `block` the last.

    Raises:
        NetworkError: no such tensor or pass; one that the answer does not need, or that comes after
            it; one that folds the batch into another dimension.
    """
    answer = network.ancestors(network.outputs[0])
    tensor = _find(network, name)
    if tensor in network.outputs:
        raise NetworkError(f"'{name}' is the network's own answer; choose an earlier point.")
    if network.producer.get(tensor) not in answer:
        raise NetworkError(
            f"'{name}' comes after the answer, or beside it: nothing that '{network.outputs[0]}' "
            "needs. Choose a point that the answer depends on."
        )
    known = network.tensors.get(tensor)
    if known is None or known.axis is None or known.dtype.kind != "f":
        raise NetworkError(f"'{name}' does not hold one row of numbers per example.")
    modules = module_names(network, _activations(network, answer))
    found = _point(network, answer, tensor, modules[tensor])
    if found is None:
        raise NetworkError(_folded_sentence(network, tensor))
    return found


def _find(network: Network, name: str) -> str:
    if name in network.producer:
        return name
    answer = network.ancestors(network.outputs[0])
    made = {tensor: network.scope(tensor) for tensor in _activations(network, answer)}
    module, number = pass_of(name, set(made.values()))
    if number is not None:
        made = {tensor: bare_scope(scope) for tensor, scope in made.items()}
    inside = [tensor for tensor, scope in made.items() if f"{scope}.".startswith(f"{module}.")]
    if not inside:
        raise NetworkError(
            f"there is no point '{module}'. `offramp exits MODEL.onnx --list` shows the points "
            "there are."
        )
    return chosen_pass(module, number, passes(network, inside))[-1]


def _activations(network: Network, answer: frozenset[int]) -> list[str]:
    """Float tensors with one row per example that the answer needs, in the order they are made."""
    return [
        name
        for position in sorted(answer - network.shaping)
        for name in network.nodes[position].output
        if (tensor := network.tensors.get(name)) is not None
        and tensor.axis is not None
        and tensor.dtype.kind == "f"
        and name not in network.outputs
    ]


def _point(network: Network, answer: frozenset[int], name: str, module: str) -> ExitPoint | None:
    """None where a tensor of the carry folds the batch into another dimension."""
    before = network.ancestors(name) & answer
    carry = crossing(network, before, answer - before)
    tensor = network.tensors[name]
    known = [network.tensors.get(t) for t in carry]
    if any(carried is None or carried.folded for carried in known):
        return None
    return ExitPoint(
        name=name,
        cost=sum(network.multiply_adds[i] for i in before),
        carry=carry,
        carry_bytes=sum(carried.bytes for carried in known if carried is not None),
        path=module,
        shape=tuple(size for i, size in enumerate(tensor.shape) if i != tensor.axis),
        axis=tensor.axis or 0,
    )


def crossing(network: Network, before: Collection[int], after: Collection[int]) -> tuple[str, ...]:
    """What nodes `after` the cut read of what nodes `before` it made, shapes recomputed."""
    made = {name for i in before if i not in network.shaping for name in network.nodes[i].output}
    needed = _with_shaping(network, after)
    return tuple(sorted({name for i in needed for name in network.reads[i]} & made))


def _with_shaping(network: Network, nodes: Collection[int]) -> set[int]:
    """`nodes`, and the shape computations that they need."""
    found = set(nodes) - network.shaping
    waiting = [name for i in found for name in network.reads[i]]
    while waiting:
        position = network.producer.get(waiting.pop())
        if position is not None and position in network.shaping and position not in found:
            found.add(position)
            waiting += network.reads[position]
    return found


def _folded_sentence(network: Network, name: str) -> str:
    answer = network.ancestors(network.outputs[0])
    before = network.ancestors(name) & answer
    folded = [
        t
        for t in crossing(network, before, answer - before)
        if t not in network.tensors or network.tensors[t].folded
    ]
    return (
        f"cutting at '{name}' would carry '{folded[0]}', which folds the batch into another "
        "dimension, so rows cannot be dropped there. Choose another point."
    )


@dataclass(frozen=True)
class Cut:
    """A network with several answers, cut into a body and a head for each.

    Args:
        network: whose outputs are the scores of the exits and of its own last answer.
        stages: for each output the name of its stage, cheapest first; the last is the network's.
    """

    network: Network
    stages: tuple[tuple[str, str], ...]  # (stage, output)

    def __post_init__(self) -> None:
        for stage, output in self.stages:
            if output not in self.network.producer:
                raise NetworkError(f"stage '{stage}' answers with '{output}', which nothing makes.")

    @cached_property
    def bodies(self) -> dict[str, frozenset[int]]:
        """For each stage the nodes that must run to pass it, less those of earlier stages."""
        last = self.network.ancestors(self.stages[-1][1]) - self.network.shaping
        found: dict[str, frozenset[int]] = {}
        for stage, output in self.stages:
            before = frozenset[int]().union(*found.values())
            found[stage] = (self.network.ancestors(output) & last) - before
        return found

    @cached_property
    def heads(self) -> dict[str, frozenset[int]]:
        """For each stage the nodes that only its own answer needs; none for the last.

        A head that reads the scores of earlier heads shares nothing else with them.
        """
        taken = self.network.shaping.union(*self.bodies.values())
        found: dict[str, frozenset[int]] = {}
        for stage, output in self.stages:
            found[stage] = self.network.ancestors(output) - taken
            taken |= found[stage]
        return found

    def hears(self, stage: str) -> tuple[str, ...]:
        """The earlier stages whose scores the head of `stage` reads."""
        read = {name for i in self.heads[stage] for name in self.network.reads[i]}
        return tuple(
            name
            for name, output in self.stages
            if name != stage and output in read and self.heads[name]
        )

    def costs(self) -> Costs:
        """Millions of multiply-adds per example of each body and head, and of the uncut network."""

        def work(nodes: Collection[int]) -> float:
            return sum(self.network.multiply_adds[i] for i in nodes) / 1e6

        return Costs(
            {stage: work(nodes) for stage, nodes in self.bodies.items()},
            {stage: work(nodes) for stage, nodes in self.heads.items()},
            "MMAC",
            "counted: convolutions, matrix products and recurrences",
            whole={self.stages[-1][0]: self.network.work(self.stages[-1][1]) / 1e6},
        )

    def parts(self) -> list[CutPart]:
        """Every body and every head as a model.

        Raises:
            NetworkError: a stage adds nothing to the one before it, or a carry folds the batch into
                another dimension.
        """
        found = []
        for number, (stage, output) in enumerate(self.stages):
            body, head = self.bodies[stage], self.heads[stage]
            if not body:
                raise NetworkError(f"exit '{stage}' needs nothing that the one before it lacks.")
            later = [p[s] for s, _ in self.stages[number + 1 :] for p in (self.bodies, self.heads)]
            carry = crossing(self.network, body, head.union(*later))
            wanted = carry if head else dict.fromkeys([output, *carry])
            found.append(CutPart(stage, extract(self.network, body, wanted)))
            if head:
                found.append(CutPart(head_of(stage), extract(self.network, head, [output])))
        return found


def extract(network: Network, nodes: Collection[int], outputs: Iterable[str]) -> onnx.ModelProto:
    """Some nodes of a network as a model of their own, with the shapes they need computed again.

    Raises:
        NetworkError: an input or output folds the batch into another dimension.
    """
    chosen = sorted(_with_shaping(network, nodes))
    made = {name for i in chosen for name in network.nodes[i].output}
    read = dict.fromkeys(name for i in chosen for name in network.reads[i])
    constants = [network.initializers[name] for name in read if name in network.initializers]
    inputs = [name for name in read if name not in made and name not in network.initializers]
    graph = helper.make_graph(
        [network.nodes[i] for i in chosen],
        network.model.graph.name or "part",
        [_described(network, name) for name in inputs],
        [_described(network, name) for name in outputs],
        constants,
    )
    return helper.make_model(
        graph,
        opset_imports=network.model.opset_import,
        ir_version=network.model.ir_version,
        functions=network.model.functions,
    )


def _described(network: Network, name: str) -> onnx.ValueInfoProto:
    tensor = network.tensors.get(name)
    if tensor is None or tensor.folded:
        raise NetworkError(
            f"'{name}' folds the batch into another dimension, so rows cannot be dropped there. "
            "Choose another point."
        )
    kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
    dims = [BATCH if i == tensor.axis else size for i, size in enumerate(_sizes(network, name))]
    return helper.make_tensor_value_info(name, kind, dims)


def _sizes(network: Network, name: str) -> Sequence[int | None]:
    """What the network promises of its inputs; elsewhere sizes may differ between examples."""
    for value in network.model.graph.input:
        if value.name == name:
            return [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
    return [None] * len(network.tensors[name].shape)
