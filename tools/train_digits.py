"""Trains the demo's three networks on 300 digits and writes them as ONNX beside the package.

Usage: python tools/train_digits.py        needs torch (pip install torch), nothing else does

The 300 images are those that `offramp.command.demo.split` calls "train": the demo fits, certifies
and measures on the others. Widths and training were chosen by cross-validation inside the 300.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional

from offramp.command.demo import digits

OUT = Path(__file__).resolve().parents[1] / "src" / "offramp" / "demo_networks"
Layers = tuple[tuple[int, int], ...]  # channels and stride of each 3x3 convolution
NETWORKS: dict[str, Layers] = {
    "small": ((4, 2), (8, 2)),
    "medium": ((8, 2), (16, 2)),
    "large": ((48, 1), (96, 1), (96, 1), (96, 1)),
}
DOUBLED = ("large",)  # networks that see every pixel as two by two
FOLDS = 5
README = """Three networks for handwritten digits, trained by tools/train_digits.py on 300 of the
1,797 images of scikit-learn's digits; offramp's demo uses the others. Input (batch, 1, 8, 8) in
[0, 1]; `large` doubles it first. Accuracy is cross-validated inside the 300.

| network | channels/stride of the 3x3 convolutions | million multiply-adds | accuracy |
|---|---|---|---|
"""


def network(name: str) -> nn.Sequential:
    """Convolutions with batch normalisation, pooling to 2 by 2, and one linear layer."""
    modules: list[nn.Module] = [nn.Upsample(scale_factor=2)] if name in DOUBLED else []
    channels = 1
    for width, stride in NETWORKS[name]:
        modules += [
            nn.Conv2d(channels, width, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        channels = width
    return nn.Sequential(
        *modules, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 10)
    )


def augmented(images: torch.Tensor) -> torch.Tensor:
    """Images (n, 1, 8, 8), each turned, scaled and moved a little, with noise."""
    n = len(images)
    angle = (torch.rand(n) - 0.5) * 2 * math.radians(12)
    scale = 1 + (torch.rand(n) - 0.5) * 0.3
    shift = (torch.rand(n, 2) - 0.5) * 0.3
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos(), -scale * angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = scale * angle.sin(), scale * angle.cos()
    theta[:, :, 2] = shift
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = functional.grid_sample(images, grid, align_corners=False)
    return moved + 0.05 * torch.randn_like(moved)


def train(name: str, x: torch.Tensor, y: torch.Tensor, epochs: int) -> nn.Sequential:
    """A network trained on images (n, 1, 8, 8) and labels (n,)."""
    torch.manual_seed(0)
    model = network(name).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.02)
    batches = math.ceil(len(x) / 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=epochs * batches)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(32):
            loss = functional.cross_entropy(model(augmented(x[rows])), y[rows], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model.eval()


def cross_validated(name: str, x: torch.Tensor, y: torch.Tensor, epochs: int) -> float:
    """Accuracy on each fold of a network trained on the other folds."""
    fold = torch.arange(len(x)) % FOLDS
    right = 0
    for held in range(FOLDS):
        model = train(name, x[fold != held], y[fold != held], epochs)
        with torch.no_grad():
            right += int((model(x[fold == held]).argmax(1) == y[fold == held]).sum())
    return right / len(x)


def to_onnx(model: nn.Sequential) -> onnx.ModelProto:
    """The network with batch normalisation folded in; the batch is symbolic."""
    nodes, weights = [], []
    x = "input"

    def constant(name: str, value: torch.Tensor) -> str:
        weights.append(numpy_helper.from_array(value.detach().numpy(), name))
        return name

    side = 8
    if isinstance(model[0], nn.Upsample):
        factors = constant("factors", torch.tensor([1.0, 1.0, 2.0, 2.0]))
        nodes.append(
            helper.make_node(
                "Resize",
                [x, "", factors],
                ["doubled"],
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        )
        x, side = "doubled", 16
    convolutions = [m for m in model if isinstance(m, nn.Conv2d)]
    norms = [m for m in model if isinstance(m, nn.BatchNorm2d)]
    for i, (conv, norm) in enumerate(zip(convolutions, norms, strict=True)):
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        inputs = [
            x,
            constant(f"kernel{i}", conv.weight * scale[:, None, None, None]),
            constant(f"bias{i}", norm.bias - norm.running_mean * scale),
        ]
        nodes.append(
            helper.make_node(
                "Conv", inputs, [f"conv{i}"], pads=[1, 1, 1, 1], strides=list(conv.stride)
            )
        )
        nodes.append(helper.make_node("Relu", [f"conv{i}"], [f"relu{i}"]))
        x = f"relu{i}"
    side //= math.prod(conv.stride[0] for conv in convolutions)
    kernel = [side // 2, side // 2]
    nodes.append(
        helper.make_node("AveragePool", [x], ["pooled"], kernel_shape=kernel, strides=kernel)
    )
    nodes.append(helper.make_node("Flatten", ["pooled"], ["flat"]))
    linear = model[-1]
    assert isinstance(linear, nn.Linear)
    inputs = ["flat", constant("weight", linear.weight), constant("bias", linear.bias)]
    nodes.append(helper.make_node("Gemm", inputs, ["scores"], transB=1))
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        weights,
    )
    exported = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(exported, full_check=True)
    return exported


def check(model: nn.Sequential, exported: onnx.ModelProto, x: torch.Tensor) -> None:
    """Raises where the exported network does not say the same."""
    session = onnxruntime.InferenceSession(exported.SerializeToString())
    with torch.no_grad():
        expected = model(x).numpy()
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], expected, atol=1e-3)


def multiply_adds(model: nn.Sequential) -> int:
    """Of one image of 8 by 8 pixels."""
    total, side = 0, 16 if isinstance(model[0], nn.Upsample) else 8
    for module in model:
        if isinstance(module, nn.Conv2d):
            side //= module.stride[0]
            total += module.weight.numel() * side * side
        if isinstance(module, nn.Linear):
            total += module.weight.numel()
    return total


def tensors(images: NDArray[np.float32], labels: NDArray[np.int64]) -> list[torch.Tensor]:
    return [torch.from_numpy(images), torch.from_numpy(labels)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    x, y = tensors(*digits("train"))
    table = README
    for name, layers in NETWORKS.items():
        accuracy = cross_validated(name, x, y, options.epochs)
        model = train(name, x, y, options.epochs)
        exported = to_onnx(model)
        check(model, exported, x)
        onnx.save(exported, options.out / f"{name}.onnx")
        shape = ", ".join(f"{channels}/{stride}" for channels, stride in layers)
        million = multiply_adds(model) / 1e6
        table += f"| {name} | {shape} | {million:.2g} | {accuracy:.3f} |\n"
        print(table.splitlines()[-1], flush=True)
    (options.out / "README.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
