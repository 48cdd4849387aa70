"""A network with some of its residual blocks left out: what they add hardly changes the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from offramp.networks import weights


def residual_blocks(model: onnx.ModelProto) -> dict[str, str]:
    """The sums that end a residual block -> what enters the block and passes by it.

    Such a sum adds to a tensor what is computed from that tensor, so that the network runs without:
    the tensor passes on as it is.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    ends = {value.name for value in graph.output}
    sizes = _sizes(model)
    found = {}
    for node in graph.node:
        if node.op_type != "Add" or node.output[0] in ends or set(node.input) & constants:
            continue
        for entering, branch in (tuple(node.input), tuple(reversed(node.input))):
            alike = sizes.get(entering) == sizes.get(node.output[0])  # else it is spread by the sum
            if entering != branch and alike and _computed_from(branch, entering, makers):
                found[node.output[0]] = entering
                break
    return found


def _sizes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Of the tensors whose number of axes is known; 0 where a size is not."""
    known = onnx.shape_inference.infer_shapes(model).graph
    return {
        value.name: tuple(size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in known.value_info
        if value.type.tensor_type.HasField("shape")
    }


def _computed_from(branch: str, entering: str, makers: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a tensor depends on another one."""
    waiting, seen = [branch], {""}
    while waiting:
        name = waiting.pop()
        if name == entering:
            return True
        if name not in seen and name in makers:
            waiting.extend(makers[name].input)
        seen.add(name)
    return False


def without(file: Path, out: Path, sums: Sequence[str]) -> Path:
    """Writes a network without the blocks that these sums end.

    Args:
        file: the network.
        out: where to.
        sums: keys of `residual_blocks`.
    """
    model = weights.load(file)
    passing = residual_blocks(model)
    instead = {name: passing[name] for name in sums}

    def kept(name: str) -> str:
        while name in instead:
            name = instead[name]
        return name

    for node in model.graph.node:
        for number, name in enumerate(node.input):
            node.input[number] = kept(name)
    _prune(model)
    del model.graph.value_info[:]
    weights.write(model, out)
    return out


def _prune(model: onnx.ModelProto) -> None:
    """Removes the nodes and weights that no output needs."""
    needed = {value.name for value in model.graph.output}
    kept = []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(onnx.NodeProto.FromString(node.SerializeToString()))
            needed |= set(node.input)
    used = [onnx.TensorProto.FromString(t.SerializeToString()) for t in model.graph.initializer]
    del model.graph.node[:]
    model.graph.node.extend(reversed(kept))
    del model.graph.initializer[:]
    model.graph.initializer.extend(tensor for tensor in used if tensor.name in needed)
