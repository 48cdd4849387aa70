"""Routing on an accelerator: stages captured as CUDA graphs, survivors compacted on the device.

Usage: python -m benchmarks.accelerator [--minutes 8] [--tiny]

The paper's three networks (AlexNet > GoogLeNet > ResNet-50), and ResNet-18 > ResNet-152, at 224
pixels in bfloat16, batches of 1, 64, 256 and 1,024. Weights are random, and exit shares are forced:
what is measured is how much of the theoretical speed-up is reached, not what routing may save.
Theoretical: each network's own time at that batch, times the share of the images that come to it.
The reference is captured, and compiled and captured, in the same way; the faster one counts. Rounds
are interleaved. Energy where the driver counts it. --tiny runs small networks without graphs on a
CPU, to see that it works; nothing is saved. Needs the extra `torch`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from benchmarks.captured import Captured, Decide, Piece
from benchmarks.results import command
from benchmarks.shapes import PAPER, Blocks, resnet

SIDE, CLASSES = 224, 1000
BATCHES = (1, 64, 256, 1024)
EIGHTHS = 8  # of a batch, at which stages are captured: survivors run in the next larger one
ROUNDS, MOST = 30, 3.0  # of each measurement, and seconds that it may take
STEPS = 20  # batches in a row of one round at batch 1
SHARES = (0.25, 0.5)  # of the images that go on after each stage
SYSTEMS: Mapping[str, Mapping[str, Callable[..., Blocks]]] = {
    "AlexNet > GoogLeNet > ResNet-50": PAPER,
    "ResNet-18 > ResNet-152": {
        "resnet18": lambda *size: resnet(18, *size),
        "resnet152": lambda *size: resnet(152, *size),
    },
}


@dataclass(frozen=True)
class Size:
    """What runs where."""

    device: torch.device
    dtype: torch.dtype
    side: int
    width: float
    batches: tuple[int, ...]
    rounds: int


def everything(
    minutes: Annotated[float, typer.Option(help="What has not begun by then is left out.")] = 8.0,
    tiny: Annotated[bool, typer.Option(help="Small, on a CPU; nothing is saved.")] = False,
) -> dict[str, Any] | None:
    if not (tiny or torch.cuda.is_available()):
        raise typer.BadParameter("there is no accelerator here; --tiny runs it small on a CPU.")
    size = Size(torch.device("cpu"), torch.float32, 32, 0.1, (1, 8), 2)
    if not tiny:
        torch.backends.cudnn.benchmark = True
        size = Size(torch.device("cuda"), torch.bfloat16, SIDE, 1.0, BATCHES, ROUNDS)
    rows, until = measured(size, minutes)
    found = {
        "device": "cpu" if tiny else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "dtype": str(size.dtype).removeprefix("torch."),
        "pixels": size.side,
        "weights": "random",
        "exits": "forced",
        "complete": until,
        "rows": rows,
    }
    if tiny:
        print(found)
        return None
    return found


def measured(size: Size, minutes: float) -> tuple[list[dict[str, Any]], bool]:
    """A row for each system, batch and share, and whether there was time for all of them."""
    end, rows = time.monotonic() + 60 * minutes, list[dict[str, Any]]()
    for batch in size.batches:  # the smaller first, of all systems
        for name, networks in SYSTEMS.items():
            modules = [build(make, size) for make in networks.values()]
            if time.monotonic() > end:
                return rows, False
            for row in routed(modules, size, batch):
                rows.append({"system": name, "networks": [*networks], **row})
                print(rows[-1], flush=True)
    return rows, True


def build(make: Callable[..., Blocks], size: Size) -> nn.Module:
    """A network as it answers, its weights random."""
    torch.manual_seed(0)
    network = make(size.side, CLASSES, size.width).eval().to(size.device, size.dtype)
    return network.to(memory_format=torch.channels_last)


def forced(batch: int, share: float, stages: int) -> Decide:
    """The first rows go on, a share of them at each stage, whatever the scores.

    The share is met exactly, and which rows go on is a mask on the device as any policy makes it.
    """
    left = [batch]
    for _ in range(stages - 1):
        left.append(max(1, round(left[-1] * share)) if batch > 1 else left[-1])

    def decide(number: int, scores: Tensor) -> Tensor:
        places = torch.arange(len(scores), device=scores.device)
        spread = places * left[number + 1] % len(scores)  # not the first rows: they must be moved
        return spread < left[number + 1] if len(scores) > 1 else scores[:, 0] == scores[:, 0]

    return decide


def routed(modules: Sequence[nn.Module], size: Size, batch: int) -> list[dict[str, Any]]:
    """One batch size: the reference alone in two ways, then routing at each share."""
    x = torch.randn(batch, 3, size.side, size.side, device=size.device, dtype=size.dtype)
    x = x.contiguous(memory_format=torch.channels_last)
    pieces = [Piece(module) for module in modules]
    single = [Captured([piece], x, [batch]) for piece in pieces]
    runs: dict[str, Callable[[], Any]] = {
        f"network {n}": _alone(each, x) for n, each in enumerate(single)
    }
    if size.device.type == "cuda":
        compiled = torch.compile(modules[-1], mode="max-autotune-no-cudagraphs")
        runs["compiled"] = _alone(Captured([Piece(compiled)], x, [batch]), x)
    sizes = sorted({max(1, round(batch * k / EIGHTHS)) for k in range(1, EIGHTHS + 1)})
    shares = SHARES if batch > 1 else (0.0, 1.0)
    for share in shares:
        sure = [share**n * 0.9 for n in range(len(pieces))]
        chain = Captured(pieces, x, sizes, sure)
        decide = stopping if share == 0 else forced(batch, share, len(pieces))
        runs[f"share {share:g}"] = _routed(chain, x, decide)
    steps = STEPS if batch == 1 else 1
    times = interleaved(runs, size.rounds, steps, size.device)
    return [_row(batch, share, times, len(pieces), runs, size.device) for share in shares]


def stopping(number: int, scores: Tensor) -> Tensor:
    """No row goes on."""
    return torch.zeros(len(scores), dtype=torch.bool, device=scores.device)


def _alone(captured: Captured, x: Tensor) -> Callable[[], Any]:
    return lambda: captured(x, stopping)


def _routed(captured: Captured, x: Tensor, decide: Decide) -> Callable[[], Any]:
    return lambda: captured(x, decide)


def _row(
    batch: int,
    share: float,
    times: Mapping[str, float],
    stages: int,
    runs: Mapping[str, Callable[[], Any]],
    device: torch.device,
) -> dict[str, Any]:
    """Speed-ups on the clock and in theory, images per second and joules for one image."""
    name = f"share {share:g}"
    own = [times[f"network {n}"] for n in range(stages)]
    reference = min(own[-1], times.get("compiled", own[-1]))
    came = [share**n if batch > 1 else float(share > 0 or n == 0) for n in range(stages)]
    theory = own[-1] / sum(part * seconds for part, seconds in zip(came, own, strict=True))
    return {
        "batch": batch,
        "share": share,
        "ms": times[name] * 1e3,
        "reference_ms": own[-1] * 1e3,
        "compiled_ms": times["compiled"] * 1e3 if "compiled" in times else None,
        "networks_ms": [seconds * 1e3 for seconds in own],
        "images_per_second": batch / times[name],
        "speedup": own[-1] / times[name],
        "speedup_over_fastest": reference / times[name],
        "theoretical_speedup": theory,
        "realised": own[-1] / times[name] / theory,
        "joules": joules(runs[name], batch, device),
        "reference_joules": joules(runs[f"network {stages - 1}"], batch, device),
    }


def interleaved(
    runs: Mapping[str, Callable[[], Any]], rounds: int, steps: int, device: torch.device
) -> dict[str, float]:
    """Median seconds of one call of each, in turns, as far as there is time."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    begun = time.monotonic()
    for number in range(rounds):
        if number > 2 and time.monotonic() - begun > MOST * len(runs):
            break
        for name, run in runs.items():
            times[name].append(_seconds(run, steps, device))
    return {name: float(np.median(found)) for name, found in times.items()}


def _seconds(run: Callable[[], Any], steps: int, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        run()
    _wait(device)
    return (time.perf_counter() - start) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def joules(run: Callable[[], Any], images: int, device: torch.device) -> float | None:
    """For one image, of the driver's counter over a second; None: there is none, or no package."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(torch.cuda.current_device())
        before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # no package, no driver, or a device that counts nothing: unknown, not 0
        return None
    times, begun = 0, time.monotonic()
    while time.monotonic() - begun < 1.0:
        _seconds(run, 1, device)
        times += 1
    spent = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before
    return float(spent / 1e3 / (times * max(1, images)))


if __name__ == "__main__":
    command("accelerator", everything)
