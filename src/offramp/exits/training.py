"""Training a PyTorch module with exits: heads alone, everything jointly, or taught by the end.

A killed run goes on from its last epoch and ends with the same weights. Needs the extra `torch`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import InputError, MissingExtra, NetworkError
from offramp.base.files import replacing, storage
from offramp.base.progress import Progress, silent
from offramp.exits.module import WithExits
from offramp.exits.modules import (
    ModuleInputs,
    answer_tensors,
    arguments,
    called,
    exit_scores,
    unwrapped,
)

try:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
    from torch import Tensor, nn
except ImportError as problem:
    raise MissingExtra(problem.name or "torch", "torch") from None

Mode = Literal["heads", "joint", "distill"]
Schedule = Literal["cosine", "linear", "constant"]
Epoch = Callable[[int], Iterable[tuple[ModuleInputs, Tensor]]]
ArrayInputs = AnyArray | Sequence[AnyArray] | Mapping[str, AnyArray]
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


def train(
    model: nn.Module,
    batches: Epoch,
    training: Training | None = None,
    *,
    answer: str | None = None,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Trains a module that returns the scores of several exits; gives it in evaluation mode.

    Args:
        model: a `WithExits`, or any module that returns the scores of its exits, in a list, tuple,
            mapping, named tuple or dataclass; wrapped or not.
        batches: given the number of an epoch, its batches of inputs (a tensor, a tuple of them, or
            a mapping from the names that `forward` has) and labels; `shuffled` makes one of arrays.
        training: how.
        answer: the name of its own scores, which teach the others; None: the last of a list.
        checkpoint: a .safetensors file, written after every epoch; where it exists already,
            training goes on from it.
        progress: called with the mean loss, in words, epochs done, and epochs in all.

    Raises:
        InputError: the checkpoint is of another model or training.
        NetworkError: the module gives no scores of exits, or it does not show which ones teach.

    Source: BranchyNet (Teerapittayanon et al. 2016); distillation: Phuong and Lampert 2019.
    """
    settings = training or Training()
    bare = unwrapped(model.train())
    optimizer = torch.optim.AdamW(
        _learned(bare, settings), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    begin = _resume(bare, optimizer, settings, checkpoint)
    for epoch in range(begin, settings.epochs):
        loss = _epoch(_Lesson(model, answer, settings), optimizer, batches, epoch)
        if checkpoint is not None:
            _save(bare, optimizer, settings, checkpoint, epoch + 1)
        (progress or silent)(f"training, mean loss {loss:.6g}", epoch + 1, settings.epochs)
    return model.eval()


def _learned(model: nn.Module, settings: Training) -> list[nn.Parameter]:
    """The parameters that are trained, in a module that is made ready for it."""
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(settings.mode != "heads")
    if settings.mode == "heads":
        if not isinstance(model, WithExits):
            raise InputError("heads alone are trained in a WithExits; wrap the module in it.")
        model.module.eval()  # its running statistics stay as they are
        model.heads.requires_grad_(True)
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@dataclass(frozen=True)
class _Lesson:
    """Who learns, and how."""

    model: nn.Module
    answer: str | None  # the name of its own scores
    settings: Training

    def loss(self, x: ModuleInputs, labels: Tensor) -> Tensor:
        device = next(self.model.parameters()).device
        by_place, by_name = arguments(x)
        given: ModuleInputs = {name: tensor.to(device) for name, tensor in by_name.items()}
        given = given or tuple(tensor.to(device) for tensor in by_place)
        with _precision(device, self.settings):
            scores = self._scores(called(self.model, given))
            return training_loss(scores, labels.to(device), self.settings)

    def _scores(self, answer: Any) -> list[Tensor]:
        """Of every exit, the module's own last."""
        if isinstance(unwrapped(self.model), WithExits):
            return list(answer)
        names = exit_scores(answer, self.answer)
        places = type(answer) in (list, tuple)
        if self.settings.mode == "distill" and self.answer is None and not places:
            raise NetworkError(
                f"which of {', '.join(names)} is the module's own answer, which teaches the "
                f'others, does not show. Name it: train(..., answer="{names[-1]}").'
            )
        found = answer_tensors(answer)
        return [found[name] for name in sorted(names, key=lambda name: name == self.answer)]


def _epoch(lesson: _Lesson, optimizer: torch.optim.Optimizer, batches: Epoch, epoch: int) -> float:
    settings = lesson.settings
    torch.manual_seed(settings.seed + epoch)  # of dropout: a resumed epoch is the same epoch
    steps = list(batches(epoch))
    total = 0.0
    for number, (x, labels) in enumerate(steps):
        share = (epoch + number / len(steps)) / settings.epochs
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate_of(settings.schedule, share)
        optimizer.zero_grad(set_to_none=True)
        loss = lesson.loss(x, labels)
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
    return total / max(1, len(steps))


def _precision(device: torch.device, settings: Training) -> Any:
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


def training_loss(scores: Iterable[Tensor], labels: Tensor, settings: Training) -> Tensor:
    """The sum over exits of the cross-entropy, and of the divergence from the last one's answer."""
    every = [s.float() for s in scores]
    taught = every[:-1] if settings.mode == "heads" else every
    loss = torch.stack([nn.functional.cross_entropy(s, labels) for s in taught]).sum()
    if settings.mode != "distill":
        return loss
    t = settings.temperature
    teacher = (every[-1].detach() / t).softmax(1)
    return loss + sum(
        t * t * nn.functional.kl_div((s / t).log_softmax(1), teacher, reduction="batchmean")
        for s in every[:-1]
    )


def shuffled(
    x: ArrayInputs,
    labels: AnyArray,
    size: int = 128,
    seed: int = 0,
) -> Epoch:
    """Batches of arrays, in another order each epoch.

    Args:
        x: inputs (n, ...): one array, a tuple of them, or a mapping from the names that the
            module's `forward` has; batches are of the same kind.
        labels: (n,).
        size: of a batch.
        seed: of the orders.

    Raises:
        InputError: inputs and labels are not of the same length.
    """
    _check_lengths(x, labels)

    def epoch(number: int) -> Iterator[tuple[ModuleInputs, Tensor]]:
        generator = torch.Generator().manual_seed(seed + number)
        order = torch.randperm(len(labels), generator=generator).numpy()
        for start in range(0, len(labels), size):
            rows = order[start : start + size]
            yield _taken(x, rows), torch.from_numpy(labels[rows]).long()

    return epoch


def _check_lengths(x: ArrayInputs, labels: AnyArray) -> None:
    several = {"x": x} if isinstance(x, np.ndarray) else x
    fields = several if isinstance(several, Mapping) else dict(enumerate(several))
    for name, values in fields.items():
        if len(values) != len(labels):
            raise InputError(
                f"input {name} has {len(values)} rows, and there are {len(labels)} labels; give a "
                "row and a label for each example."
            )


def _taken(x: ArrayInputs, rows: AnyArray) -> ModuleInputs:
    if isinstance(x, np.ndarray):
        return torch.from_numpy(x[rows])
    if isinstance(x, Mapping):
        return {name: torch.from_numpy(values[rows]) for name, values in x.items()}
    return tuple(torch.from_numpy(values[rows]) for values in x)


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
