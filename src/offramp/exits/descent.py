"""Gradient descent that goes on where it was killed, and ends with the same weights.

Needs the extra `torch`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

from offramp.base.errors import InputError, MissingExtra
from offramp.base.files import replacing, storage
from offramp.base.progress import Progress, silent
from offramp.exits.modules import ModuleInputs

try:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
    from torch import Tensor, nn
except ImportError as _problem:
    raise MissingExtra(_problem.name or "torch", "torch") from None

Mode = Literal["heads", "joint", "distill"]
Schedule = Literal["cosine", "linear", "constant"]
Epoch = Callable[[int], Iterable[tuple[ModuleInputs, Tensor]]]
Loss = Callable[[ModuleInputs, Tensor], Tensor]
_WARMUP = 0.05  # of all steps: the learning rate rises from 0


@dataclass(frozen=True)
class Training:
    """How exits are trained."""

    mode: Mode = "joint"  # heads alone; everything; everything, with the last answer as a teacher
    _: KW_ONLY
    epochs: int = 10
    learning_rate: float = 1e-3  # at its highest
    schedule: Schedule = "cosine"  # of the learning rate, after a short rise
    weight_decay: float = 1e-2
    temperature: float = 2.0  # of the teacher's probabilities
    seed: int = 0
    mixed: bool = True  # bfloat16 on an accelerator; a CPU computes in float32


def descend(
    model: nn.Module,
    loss: Loss,
    batches: Epoch,
    settings: Training,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Trains those parameters of a module that ask for gradients, by AdamW.

    Args:
        model: in training mode.
        loss: of a batch: from its inputs and targets to a mean (1,).
        batches: given the number of an epoch, its batches of inputs and targets.
        settings: epochs, learning rate and so on.
        checkpoint: a .safetensors file, written after every epoch; where it exists already,
            training goes on from it.
        progress: called with the mean loss, in words, epochs done, and epochs in all.

    Raises:
        InputError: the checkpoint is of another model or training.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        learned, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    begin = _resume(model, optimizer, settings, checkpoint)
    for epoch in range(begin, settings.epochs):
        mean = _epoch(loss, optimizer, batches, epoch, settings)
        if checkpoint is not None:
            _save(model, optimizer, settings, checkpoint, epoch + 1)
        (progress or silent)(f"training, mean loss {mean:.6g}", epoch + 1, settings.epochs)


def _epoch(
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    batches: Epoch,
    epoch: int,
    settings: Training,
) -> float:
    torch.manual_seed(settings.seed + epoch)  # of dropout: a resumed epoch is the same epoch
    steps = list(batches(epoch))
    total = 0.0
    for number, (x, targets) in enumerate(steps):
        share = (epoch + number / len(steps)) / settings.epochs
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate_of(settings.schedule, share)
        optimizer.zero_grad(set_to_none=True)
        mean = loss(x, targets)
        mean.backward()
        optimizer.step()
        total += float(mean.detach())
    return total / max(1, len(steps))


def precision(device: torch.device, settings: Training) -> Any:
    """The context in which scores are computed."""
    if device.type == "cpu" or not settings.mixed:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def rate_of(schedule: Schedule, share: float) -> float:
    """Of the highest learning rate, in [0, 1], after a share of training in [0, 1)."""
    if share < _WARMUP:
        return share / _WARMUP
    left = 1 - (share - _WARMUP) / (1 - _WARMUP)
    rates = {"cosine": 0.5 * (1 - math.cos(math.pi * left)), "linear": left, "constant": 1.0}
    return rates[schedule]


def _save(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Training,
    path: Path,
    epochs: int,
) -> None:
    """Weights and the optimizer's state, whole or not at all; nothing that could run code."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    whole = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    about = {"epochs": str(epochs), "training": json.dumps(vars(settings), sort_keys=True)}
    with replacing(path) as temporary, storage(path):
        save_file(whole, str(temporary), about)


def _resume(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Training,
    path: Path | None,
) -> int:
    """Loads a checkpoint, where there is one; returns the epochs that it has seen."""
    if path is None or not path.exists():
        return 0
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise InputError(f"{path} cannot be read as a checkpoint: {problem}.") from None
    if about.get("training") != json.dumps(vars(settings), sort_keys=True):
        raise InputError(
            f"{path} is of another training: {about.get('training')}. Choose another checkpoint, "
            "or remove it to start again."
        )
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as problem:
        raise InputError(f"{path} is of another model: {str(problem).splitlines()[0]}") from None
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimizer":
            number, _, key = rest.partition(".")
            state.setdefault(int(number), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(about["epochs"])
