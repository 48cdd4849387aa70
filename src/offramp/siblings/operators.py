"""What single ONNX operators compute, in PyTorch, with gradients.

Each function takes the attributes of a node and its inputs, None for one that is left out, and
gives one tensor or several. Needs the extra `torch`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession

from offramp.base.errors import MissingExtra

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ImportError as _problem:
    raise MissingExtra(_problem.name or "torch", "torch") from None

Attributes = Mapping[str, Any]
Operator = Callable[..., Any]
Axes: TypeAlias = Tensor | Sequence[int] | None


def operator_named(kind: str) -> Operator | None:
    """The function that computes an operator of ONNX, by its type; None: there is none here."""
    return _OPERATORS.get(kind)


def known_operators() -> frozenset[str]:
    """The types of all operators that can be computed here."""
    return frozenset(_OPERATORS)


def _listed(value: Axes) -> list[int]:
    if value is None:
        return []
    return [int(v) for v in (value.reshape(-1).tolist() if isinstance(value, Tensor) else value)]


def _spread(pads: Sequence[int]) -> list[int]:
    """ONNX's pads (begins, then ends) in the order of PyTorch: last axis first, in pairs."""
    half = len(pads) // 2
    return [pads[i + end * half] for i in reversed(range(half)) for end in (0, 1)]


def _padded(a: Attributes, x: Tensor, kernel: Sequence[int], value: float = 0.0) -> Tensor:
    """With the edges that a convolution or pooling reads beyond an image."""
    auto, dims = a.get("auto_pad", "NOTSET"), len(kernel)
    if auto in ("NOTSET", "VALID"):
        pads = list(a.get("pads", [0] * 2 * dims)) if auto == "NOTSET" else [0] * 2 * dims
    else:
        strides, dilations = a.get("strides", [1] * dims), a.get("dilations", [1] * dims)
        total = [
            max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
            for n, s, k, d in zip(x.shape[2:], strides, kernel, dilations, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        pads = small + large if auto == "SAME_UPPER" else large + small
    return functional.pad(x, _spread(pads), value=value) if any(pads) else x


_CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_LARGEST = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}


def _convolution(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel, dims = weight.shape[2:], weight.dim() - 2
    pads = a.get("pads", [0] * 2 * dims)
    same = a.get("auto_pad", "NOTSET") == "NOTSET" and pads[:dims] == pads[dims:]
    given = x if same else _padded(a, x, kernel)
    return _CONVOLVE[dims](
        given,
        weight,
        bias,
        stride=tuple(a.get("strides", [1] * dims)),
        padding=tuple(pads[:dims]) if same else 0,
        dilation=tuple(a.get("dilations", [1] * dims)),
        groups=a.get("group", 1),
    )


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel = a["kernel_shape"]
    if a.get("ceil_mode", 0):
        raise NotImplementedError("MaxPool with ceil_mode")
    return _LARGEST[len(kernel)](
        _padded(a, x, kernel, -torch.inf),
        tuple(kernel),
        stride=tuple(a.get("strides", [1] * len(kernel))),
        dilation=tuple(a.get("dilations", [1] * len(kernel))),
    )


def _average_pool(a: Attributes, x: Tensor) -> Tensor:
    kernel, dims = a["kernel_shape"], len(a["kernel_shape"])
    if a.get("ceil_mode", 0) or dims > 2:
        raise NotImplementedError("AveragePool with ceil_mode, or of volumes")
    pool = functional.avg_pool1d if dims == 1 else functional.avg_pool2d
    stride = tuple(a.get("strides", [1] * dims))
    summed = pool(_padded(a, x, kernel), tuple(kernel), stride=stride)
    if a.get("count_include_pad", 0) or not (any(a.get("pads", [])) or "auto_pad" in a):
        return summed
    inside = torch.ones_like(x[:1, :1])
    return summed / pool(_padded(a, inside, kernel), tuple(kernel), stride=stride)


def _gemm(a: Attributes, x: Tensor, y: Tensor, c: Tensor | None = None) -> Tensor:
    x, y = (x.t() if a.get("transA") else x), (y.t() if a.get("transB") else y)
    product = a.get("alpha", 1.0) * (x @ y)
    return product if c is None else product + a.get("beta", 1.0) * c


def _normalised(
    a: Attributes, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, spread: Tensor
) -> Tensor:
    return functional.batch_norm(x, mean, spread, scale, shift, eps=a.get("epsilon", 1e-5))


def _layer_norm(a: Attributes, x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    shape = x.shape[a.get("axis", -1) :]
    return functional.layer_norm(x, shape, scale.expand(shape), shift, a.get("epsilon", 1e-5))


def _flatten(a: Attributes, x: Tensor) -> Tensor:
    axis = a.get("axis", 1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    wanted = _listed(shape)
    if not a.get("allowzero", 0):
        wanted = [x.shape[i] if size == 0 else size for i, size in enumerate(wanted)]
    return x.reshape(wanted)


def _transpose(a: Attributes, x: Tensor) -> Tensor:
    return x.permute(a.get("perm", list(reversed(range(x.dim())))))


def _squeeze(a: Attributes, x: Tensor, axes: Axes = None) -> Tensor:
    wanted = _listed(a.get("axes", axes))
    return x.squeeze(tuple(wanted)) if wanted else x.squeeze()


def _unsqueeze(a: Attributes, x: Tensor, axes: Axes = None) -> Tensor:
    wanted = _listed(a.get("axes", axes))
    for axis in sorted(axis % (x.dim() + len(wanted)) for axis in wanted):
        x = x.unsqueeze(axis)
    return x


def _slice(
    a: Attributes,
    x: Tensor,
    starts: Axes = None,
    ends: Axes = None,
    axes: Axes = None,
    steps: Axes = None,
) -> Tensor:
    begin, end = _listed(a.get("starts", starts)), _listed(a.get("ends", ends))
    along = _listed(a.get("axes", axes)) or list(range(len(begin)))
    by = _listed(steps) or [1] * len(begin)
    for first, last, axis, step in zip(begin, end, along, by, strict=True):
        chosen = range(*slice(first, last, step).indices(x.shape[axis]))
        if step > 0:
            index = [slice(None)] * x.dim()
            index[axis] = slice(chosen.start, chosen.stop, step)
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, torch.tensor(list(chosen)))
    return x


def _pad(
    a: Attributes,
    x: Tensor,
    pads: Axes = None,
    value: Tensor | None = None,
    axes: Axes = None,
) -> Tensor:
    wanted = _listed(a.get("pads", pads))
    along = [axis % x.dim() for axis in _listed(axes)] or list(range(x.dim()))
    whole = [0] * 2 * x.dim()
    for place, axis in enumerate(along):
        whole[axis], whole[axis + x.dim()] = wanted[place], wanted[place + len(along)]
    mode = a.get("mode", "constant")
    if mode != "constant":
        raise NotImplementedError(f"Pad with mode {mode}")
    filled = a.get("value", 0.0) if value is None or value.numel() == 0 else value.item()
    return functional.pad(x, _spread(whole), value=filled)


def _split(a: Attributes, x: Tensor, sizes: Axes = None) -> tuple[Tensor, ...]:
    axis, wanted = a.get("axis", 0), _listed(a.get("split", sizes))
    if not wanted:
        wanted = [-(-x.shape[axis] // a["num_outputs"])] * (a["num_outputs"] - 1)
        wanted.append(x.shape[axis] - sum(wanted))
    parts: tuple[Tensor, ...] = torch.split(x, wanted, axis)
    return parts


def _gather(a: Attributes, x: Tensor, index: Tensor) -> Tensor:
    axis = a.get("axis", 0) % x.dim()
    places = torch.where(index < 0, index + x.shape[axis], index).long()
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def _reduced(function: Callable[..., Tensor]) -> Operator:
    def reduce(a: Attributes, x: Tensor, axes: Axes = None) -> Tensor:
        wanted, keep = _listed(a.get("axes", axes)), bool(a.get("keepdims", 1))
        if not wanted and a.get("noop_with_empty_axes", 0):
            return x
        return function(x, dim=tuple(wanted or range(x.dim())), keepdim=keep)

    return reduce


def _resize(
    a: Attributes,
    x: Tensor,
    _region: Tensor | None = None,
    scales: Tensor | None = None,
    sizes: Tensor | None = None,
) -> Tensor:
    if sizes is not None and sizes.numel():
        wanted = _listed(sizes)
    else:
        factors = [] if scales is None else scales.tolist()
        wanted = [math.floor(n * s) for n, s in zip(x.shape, factors, strict=True)]
    how = tuple((key, a[key]) for key in sorted({*a} & _HOW))
    for axis, (before, after) in enumerate(zip(x.shape, wanted, strict=True)):
        if before != after:
            weights = _resampling(how, before, after).to(x.device, x.dtype)
            x = torch.tensordot(x, weights, ([axis], [0])).movedim(-1, axis)
    return x


_HOW = {"antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside"}
_HOW |= {"mode", "nearest_mode"}


@lru_cache(maxsize=64)
def _resampling(how: tuple[tuple[str, Any], ...], before: int, after: int) -> Tensor:
    """What each new place takes of each old one, (before, after), as ONNX Runtime has it.

    Engines differ, at edges and where they smooth, and files are run there.
    """
    node = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], **dict(how))
    sizes = numpy_helper.from_array(np.array([before, 1, 1, after], np.int64), "sizes")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph([node], "resize", ends[:1], ends[1:], [sizes])
    opsets = [helper.make_opsetid("", _RESIZE)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR)
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    each = np.eye(before, dtype=np.float32)[:, None, None]
    (found,) = session.run(None, {"x": each})
    return torch.from_numpy(found[:, 0, 0])


_RESIZE, _IR = 19, 9  # versions


def _scattered(a: Attributes, x: Tensor, places: Tensor, values: Tensor) -> Tensor:
    if a.get("reduction", "none") != "none":
        raise NotImplementedError("ScatterElements with a reduction")
    return x.scatter(a.get("axis", 0), places, values)


def _cast(a: Attributes, x: Tensor) -> Tensor:
    return x.to(torch.from_numpy(np.empty(0, helper.tensor_dtype_to_np_dtype(a["to"]))).dtype)


def _clip(
    a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    least = a.get("min") if low is None or not low.numel() else low.item()
    most = a.get("max") if high is None or not high.numel() else high.item()
    return x.clamp(least, most) if least is not None or most is not None else x


def _filled(a: Attributes, shape: Tensor) -> Tensor:
    value = a.get("value")
    filled = torch.zeros(1) if value is None else torch.from_numpy(value.reshape(-1).copy())
    return filled.expand(_listed(shape)).clone()


def _dropped(_a: Attributes, x: Tensor, *_: Any) -> Tensor:
    return x  # copies learn with what they will answer with


def _whole(a: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end")])


def _divided(_a: Attributes, x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def _plain(function: Callable[..., Any]) -> Operator:
    """An operator that has no attributes."""
    return lambda _attributes, *inputs: function(*inputs)


_OPERATORS: dict[str, Operator] = {
    name: _plain(function)
    for name, function in {
        "Abs": torch.abs,
        "Add": torch.add,
        "And": torch.logical_and,
        "Cos": torch.cos,
        "Div": torch.div,
        "Equal": torch.eq,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Expand": lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, _listed(shape))),
        "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.dim())), keepdim=True),
        "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.dim())), keepdim=True),
        "Greater": torch.gt,
        "GreaterOrEqual": torch.ge,
        "HardSwish": functional.hardswish,
        "Identity": lambda x: x,
        "Less": torch.lt,
        "LessOrEqual": torch.le,
        "Log": torch.log,
        "MatMul": torch.matmul,
        "Mul": torch.mul,
        "Neg": torch.neg,
        "Not": torch.logical_not,
        "Or": torch.logical_or,
        "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
        "Pow": torch.pow,
        "Range": lambda first, last, step: torch.arange(first.item(), last.item(), step.item()),
        "Reciprocal": torch.reciprocal,
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Sin": torch.sin,
        "Softplus": functional.softplus,
        "Sqrt": torch.sqrt,
        "Sub": torch.sub,
        "Tanh": torch.tanh,
        "Where": torch.where,
        "Xor": torch.logical_xor,
    }.items()
} | {
    "AveragePool": _average_pool,
    "BatchNormalization": _normalised,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda a, *x: torch.cat(x, a["axis"]),
    "ConstantOfShape": _filled,
    "Conv": _convolution,
    "Div": _divided,
    "Dropout": _dropped,
    "Elu": lambda a, x: functional.elu(x, a.get("alpha", 1.0)),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": lambda a, x: functional.gelu(x, approximate=a.get("approximate", "none")),
    "Gemm": _gemm,
    "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda a, x: functional.leaky_relu(x, a.get("alpha", 0.01)),
    "LogSoftmax": lambda a, x: x.log_softmax(a.get("axis", -1)),
    "Max": lambda _a, *x: torch.stack(torch.broadcast_tensors(*x)).amax(0),
    "MaxPool": _max_pool,
    "Min": lambda _a, *x: torch.stack(torch.broadcast_tensors(*x)).amin(0),
    "Pad": _pad,
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Reshape": _reshape,
    "Resize": _resize,
    "ScatterElements": _scattered,
    "Shape": _whole,
    "Slice": _slice,
    "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
