"""CIFAR-10 networks and photographs for the benchmarks.

Builds ONNX models of the CIFAR ResNets (He et al. 2016, section 4.2) straight from
safetensors files, and reads the photographs from Parquet. Every function takes the
folder that holds these files as an argument.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.numpy import load_file

from offramp.core.graph import Costs, Graph
from offramp.core.trace import Trace, assemble
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime

Floats = NDArray[np.float32]
Weights = Mapping[str, Floats]

SIDE = 32
CLASSES = 10
CHANNELS = (16, 32, 64)
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
BATCH_NORM_EPSILON = 1e-5
OPSET = 17
IR_VERSION = 8

# Name of the network -> (file of its weights, blocks per group).
NETWORKS: dict[str, tuple[str, int]] = {
    "resnet20": ("resnet20.safetensors", 3),
    "resnet32": ("resnet32.safetensors", 5),
    "resnet56": ("resnet56.safetensors", 9),
    "resnet20_tuned": ("resnet20_tuned.safetensors", 3),
    "resnet56_tuned": ("resnet56_exits.safetensors", 9),  # its final answer only
}


def multiply_adds(blocks: int) -> int:
    """Count the multiply-adds of one image through a ResNet of `blocks` blocks per group."""
    side, previous = SIDE, CHANNELS[0]
    total = side * side * 3 * previous * 9
    for group, channels in enumerate(CHANNELS):
        side = SIDE >> group
        first = side * side * previous * channels * 9
        total += first + (2 * blocks - 1) * side * side * channels * channels * 9
        previous = channels
    return total + previous * CLASSES


# Millions of multiply-adds per image as usually quoted, batch normalisation included.
# `multiply_adds` counts convolutions and the linear layer alone: 40.6, 68.9 and 125.5 millions.
COSTS: dict[str, int] = {
    "resnet20": 41,
    "resnet32": 69,
    "resnet56": 126,
    "resnet20_tuned": 41,
    "resnet56_tuned": 126,
}


class _Builder:
    """Collects the nodes and weights of one ONNX graph."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._known: set[str] = set()

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """Add a constant tensor, once for each name, and return its name."""
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Add one node with one output and return that output's name."""
        self.nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def convolution(self, x: str, conv: str, norm: str, stride: int = 1) -> str:
        """Add a 3x3 convolution, (batch, i, h, w) -> (batch, o, h/stride, w/stride).

        The batch normalisation that follows it is folded into its weights.
        """
        kernel, bias = fold(self.weights, conv, norm)
        inputs = [x, self.constant(f"{conv}.kernel", kernel), self.constant(f"{conv}.bias", bias)]
        return self.node(
            "Conv",
            inputs,
            f"{conv}.out",
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=[stride, stride],
        )

    def shortcut(self, x: str, prefix: str, added: int) -> str:
        """Take every second pixel and pad `added` channels of zeros, half on each side.

        (batch, i, h, w) -> (batch, i + added, h/2, w/2).
        """
        half = added // 2
        sliced = self.node(
            "Slice",
            [
                x,
                self.constant("slice.starts", np.array([0, 0], np.int64)),
                self.constant("slice.ends", np.array([SIDE, SIDE], np.int64)),
                self.constant("slice.axes", np.array([2, 3], np.int64)),
                self.constant("slice.steps", np.array([2, 2], np.int64)),
            ],
            f"{prefix}.sliced",
        )
        pads = np.array([0, half, 0, 0, 0, added - half, 0, 0], np.int64)
        return self.node("Pad", [sliced, self.constant(f"pads.{added}", pads)], f"{prefix}.padded")

    def block(self, x: str, prefix: str, stride: int, added: int) -> str:
        """Add one basic block: two convolutions and a shortcut without parameters."""
        hidden = self.convolution(x, f"{prefix}.conv1", f"{prefix}.bn1", stride)
        hidden = self.node("Relu", [hidden], f"{prefix}.hidden")
        hidden = self.convolution(hidden, f"{prefix}.conv2", f"{prefix}.bn2")
        side = self.shortcut(x, prefix, added) if added else x
        total = self.node("Add", [hidden, side], f"{prefix}.sum")
        return self.node("Relu", [total], f"{prefix}.out")

    def answer(self, x: str) -> str:
        """Add global average pooling and the linear layer: (batch, 64, 8, 8) -> (batch, 10)."""
        pooled = self.node("GlobalAveragePool", [x], "pooled")
        flat = self.node("Flatten", [pooled], "flat", axis=1)
        kernel = self.constant("linear.kernel", self.weights["linear.weight"])
        bias = self.constant("linear.bias", self.weights["linear.bias"])
        return self.node("Gemm", [flat, kernel, bias], "scores", transB=1)

    def exit(self, x: str, name: str, stride: int) -> str:
        """Add the head of an exit: two convolutions to 64 channels, pooling, the linear layer."""
        for number, step in ((1, 2), (2, stride)):
            x = self.convolution(x, f"{name}.conv{number}", f"{name}.bn{number}", step)
            x = self.node("Relu", [x], f"{name}.relu{number}")
        pooled = self.node("GlobalAveragePool", [x], f"{name}.pooled")
        flat = self.node("Flatten", [pooled], f"{name}.flat", axis=1)
        kernel = self.constant(f"{name}.kernel", self.weights[f"{name}.linear.weight"])
        bias = self.constant(f"{name}.bias", self.weights[f"{name}.linear.bias"])
        return self.node("Gemm", [flat, kernel, bias], f"{name}.scores", transB=1)


def fold(weights: Weights, conv: str, norm: str) -> tuple[Floats, Floats]:
    """Fold a batch normalisation into the convolution before it.

    Returns the kernel (o, i, 3, 3) and the bias (o,), both float32.
    """
    kernel = weights[f"{conv}.weight"].astype(np.float64)
    variance = weights[f"{norm}.running_var"].astype(np.float64)
    scale = weights[f"{norm}.weight"] / np.sqrt(variance + BATCH_NORM_EPSILON)
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * scale
    folded = kernel * scale[:, None, None, None]
    return folded.astype(np.float32), bias.astype(np.float32)


def build_model(weights: Weights, blocks: int, exits: bool = False) -> onnx.ModelProto:
    """Build a ResNet: input (batch, 3, 32, 32), normalised; scores (batch, 10), logits.

    With `exits` the scores of its two exits, after the first and the second group, come first.
    """
    builder = _Builder(weights)
    x = builder.convolution("input", "conv1", "bn1")
    x = builder.node("Relu", [x], "stem")
    previous = CHANNELS[0]
    outputs = []
    for group, channels in enumerate(CHANNELS, start=1):
        for number in range(blocks):
            added = channels - previous
            x = builder.block(x, f"layer{group}.{number}", 2 if added else 1, added)
            previous = channels
        if exits and group < len(CHANNELS):
            outputs.append(builder.exit(x, f"exit{group}", 2 if group == 1 else 1))
    outputs.append(builder.answer(x))
    return _model(builder, outputs)


def _model(builder: _Builder, outputs: Sequence[str]) -> onnx.ModelProto:
    """Wrap the nodes of a builder into a checked model with a symbolic batch."""
    shape = ["batch", 3, SIDE, SIDE]
    graph = helper.make_graph(
        builder.nodes,
        "resnet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, ["batch", CLASSES]) for o in outputs],
        builder.initializers,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def build_networks(data: Path, out: Path) -> dict[str, Path]:
    """Write every network of NETWORKS as ONNX into `out`; return its path for each name."""
    out.mkdir(parents=True, exist_ok=True)
    paths = {}
    for name, (file, blocks) in NETWORKS.items():
        paths[name] = out / f"{name}.onnx"
        onnx.save(build_model(load_file(data / file), blocks), paths[name])
    return paths


def normalise(pixels: NDArray[np.uint8]) -> Floats:
    """Turn pixels (n, h, w, 3) of 0 to 255 into network inputs (n, 3, h, w)."""
    scaled = pixels.astype(np.float32) / np.float32(255)
    centred = (scaled - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(centred.transpose(0, 3, 1, 2))


def read_images(path: Path, limit: int | None = None) -> tuple[Floats, NDArray[np.int64]]:
    """Read photographs, at most `limit` of them, from a Parquet file with image and label.

    Returns the normalised images (n, 3, 32, 32) float32 and the labels (n,) int64.
    """
    table = pq.read_table(path, columns=["image", "label"]).slice(0, limit)
    pixels = np.empty((table.num_rows, SIDE, SIDE, 3), np.uint8)
    for row, encoded in enumerate(table["image"].to_pylist()):
        with Image.open(io.BytesIO(encoded)) as picture:
            pixels[row] = np.asarray(picture.convert("RGB"))
    return normalise(pixels), table["label"].to_numpy().astype(np.int64)


def read_test(data: Path) -> tuple[Floats, NDArray[np.int64]]:
    """Read the 10,000 test photographs: images (n, 3, 32, 32) normalised, labels (n,)."""
    return read_images(data / "test.parquet")


def record_all(data: Path, cache: Path) -> Trace:
    """Every network's scores of the 10,000 test photographs, recorded once and kept in `cache`.

    Costs are millions of multiply-adds.
    """
    folder = cache / "trace"
    if not (folder / "trace.json").exists():
        networks = described(data, cache)
        examples = open_examples(data / "test.parquet", networks.preprocessing)
        runtime = OnnxRuntime(networks.files, threads=2)
        record(networks, runtime, examples, folder, RecordOptions(batch=100, threads=2))
    return Trace.read(folder)


def described(data: Path, cache: Path) -> Networks:
    """All networks as one chain, with what they read."""
    files = build_networks(data, cache / "onnx")
    return Networks(Graph.chain(files), files, Preprocessing((SIDE, SIDE), MEAN, STD))


def select(trace: Trace, names: Sequence[str], edges: str | None = None) -> Trace:
    """The trace of some networks in a graph of their own, in millions of multiply-adds."""
    costs = Costs({n: float(COSTS[n]) for n in names}, dict.fromkeys(names, 0.0), "MMAC")
    scores = {name: trace.scores[name] for name in names}
    return assemble(Graph.build(names, edges), costs, scores, labels=trace.labels)


GRAPHS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "ResNet-20 > ResNet-56": (("resnet20", "resnet56"), None),
    "ResNet-20 tuned > ResNet-56 tuned": (("resnet20_tuned", "resnet56_tuned"), None),
    "ResNet-20, 32, 56 with skips": (
        ("resnet20", "resnet32", "resnet56"),
        "resnet20>resnet32,resnet20>resnet56,resnet32>resnet56",
    ),
}
"""The graphs of the benchmarks: networks from the cheapest to the reference, and edges."""


def traces(data: Path, cache: Path) -> dict[str, Trace]:
    """One trace for each of GRAPHS."""
    everything = record_all(data, cache)
    return {name: select(everything, *graph) for name, graph in GRAPHS.items()}
