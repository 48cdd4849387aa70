"""A network that looks at fewer pixels: a Resize before the same weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from offramp.base.errors import NetworkError
from offramp.networks import weights

SHARES = (0.875, 0.75, 0.625, 0.5)  # of each side of an image
RESIZED = "offramp_resized"  # the tensor that the weights read, and the node that makes it
_COLOURS = (1, 3, 4)  # channels of images
_REGION = f"{RESIZED}_region"  # of the image that is read; none: all of it
_OPTIONAL = 13  # the version of ONNX from which on a region may be left out
_ANTIALIAS = 18  # from which on Resize knows it
_FIRST = 11  # and from which on it knows where pixels lie


def sides(shape: Sequence[int], layout: str | None = None) -> tuple[int, int] | None:
    """The axes of height and width in a batch of images; None: these are no images.

    Args:
        shape: of one example.
        layout: nchw or nhwc; None tells from the number of channels.
    """
    if len(shape) != 3:
        return None
    last = shape[2] in _COLOURS and shape[0] not in _COLOURS if layout is None else layout == "nhwc"
    return (1, 2) if last else (2, 3)


def smaller(shape: Sequence[int], axes: tuple[int, int], share: float) -> tuple[int, int]:
    """Height and width at a share of each side of an example."""
    height, width = (max(1, round(shape[axis - 1] * share)) for axis in axes)
    return height, width


def shrunk(
    file: Path, out: Path, shape: Sequence[int], axes: tuple[int, int], size: tuple[int, int]
) -> Path:
    """Writes a network that reads the same examples and brings them to another size inside.

    Args:
        file: the network.
        out: where to.
        shape: of one example.
        axes: of height and width in a batch.
        size: height and width.

    Raises:
        NetworkError: its version of ONNX knows no such Resize.
    """
    model = weights.load(file)
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    if version < _FIRST:
        raise NetworkError(f"ONNX operators of version {version} resize nothing; export it anew.")
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    read = next(value.name for value in graph.input if value.name not in constants)
    for node in graph.node:
        for number, name in enumerate(node.input):
            if name == read:
                node.input[number] = RESIZED
    scales = np.ones(4, np.float32)
    for axis, wanted in zip(axes, size, strict=True):
        # a little more, as what comes out is rounded down
        scales[axis] = wanted / shape[axis - 1] * (1 + 1e-6)
    graph.initializer.append(numpy_helper.from_array(scales, f"{RESIZED}_scales"))
    graph.node.insert(0, _resize(read, version))
    if version < _OPTIONAL:
        graph.initializer.append(numpy_helper.from_array(np.empty(0, np.float32), _REGION))
    del graph.value_info[:]  # sizes that were
    weights.write(model, out)
    return out


def _resize(read: str, version: int) -> onnx.NodeProto:
    smooth = {"antialias": 1} if version >= _ANTIALIAS else {}
    return helper.make_node(
        "Resize",
        [read, "" if version >= _OPTIONAL else _REGION, f"{RESIZED}_scales"],
        [RESIZED],
        name=RESIZED,
        mode="linear",
        coordinate_transformation_mode="half_pixel",
        **smooth,
    )
