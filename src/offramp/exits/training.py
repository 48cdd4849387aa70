"""Training a PyTorch module with exits: heads alone, everything jointly, or taught by the end.

A killed run goes on from its last epoch and ends with the same weights. Needs the extra `torch`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import InputError, MissingExtra, NetworkError
from offramp.base.progress import Progress
from offramp.exits.descent import Epoch, Training, descend, precision
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
    from torch import Tensor, nn
except ImportError as _problem:
    raise MissingExtra(_problem.name or "torch", "torch") from None

ArrayInputs = AnyArray | Sequence[AnyArray] | Mapping[str, AnyArray]


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
    _prepare(bare, settings)
    lesson = _Lesson(model, answer, settings)
    descend(bare, lesson.loss, batches, settings, checkpoint=checkpoint, progress=progress)
    return model.eval()


def _prepare(model: nn.Module, settings: Training) -> None:
    """Lets those parameters ask for gradients that are to be trained."""
    for parameter in model.parameters():
        parameter.requires_grad_(settings.mode != "heads")
    if settings.mode == "heads":
        if not isinstance(model, WithExits):
            raise InputError("heads alone are trained in a WithExits; wrap the module in it.")
        model.module.eval()  # its running statistics stay as they are
        model.heads.requires_grad_(True)


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
        with precision(device, self.settings):
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
