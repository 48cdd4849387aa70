"""Copies of a network that learn to answer as it does, from its scores: no label is needed.

Needs the extra `torch`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import onnx

from offramp.base.errors import MissingExtra, NetworkError
from offramp.base.progress import Progress, silent
from offramp.core.tasks import Kind
from offramp.exits.descent import Training, descend
from offramp.networks import weights
from offramp.runtime.session import Session
from offramp.siblings.module import FromOnnx, inlined
from offramp.siblings.teaching import Lessons

try:
    import torch
    from torch import Tensor, nn
except ImportError as _problem:
    raise MissingExtra(_problem.name or "torch", "torch") from None

RATE = 2e-3  # of learning, at its highest
_DECAY = 1e-3
_SIZE = 128  # examples of a step
_SETTLING = 8  # batches that normalisation takes its first statistics from
_NEAR = 1e-2  # of the largest score: how far a module may answer from its file
_SMALLEST = 1e-30  # probability
_Placed = TypeVar("_Placed", Tensor, nn.Module, FromOnnx)


def distilled(
    file: Path,
    out: Path,
    lessons: Lessons,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Path:
    """Writes a network that has learned to answer as another one does.

    The same file with other weights. A run that is killed goes on from its last epoch.

    Args:
        file: the network that learns; one input (n, ...), its scores (n, classes) first.
        out: where to; a checkpoint lies beside it while it learns.
        lessons: what it learns.
        seed: of the order of the examples.
        progress: called with the mean loss, in words, epochs done, and epochs in all.

    Raises:
        NetworkError: an operator cannot be computed in PyTorch, or gives something else there.

    Source: Hinton et al. 2015, with the inputs of the teacher and the student alike as in Beyer
        et al. 2022, Knowledge distillation: a good teacher is patient and consistent.
    """
    torch.manual_seed(seed)
    model, batches = inlined(weights.load(file)), _batches(lessons, seed)
    first = [x for (x, _), _ in zip(batches(0), range(_SETTLING), strict=False)]
    module = _module(model, file, first)
    step = _quicker(module, first[0])
    distance = _Distance(module, lessons.kind, step.half)
    epochs = _epochs(lessons, step.seconds)
    settings = Training(epochs=epochs, learning_rate=RATE, weight_decay=_DECAY, seed=seed)
    saved = out.with_suffix(f".{epochs}.safetensors")
    descend(module, distance, batches, settings, checkpoint=saved, progress=progress or silent)
    module.cpu().write(model)
    weights.write(model, out)
    saved.unlink(missing_ok=True)
    return out


def _module(model: onnx.ModelProto, file: Path, batches: Sequence[Tensor]) -> FromOnnx:
    """A module of a network that answers as its file does, ready to learn."""
    module = _placed(FromOnnx(model))
    _compare(file, module, batches[0])
    module.settle([_placed(x) for x in batches])
    module.train()
    return module


def _batches(lessons: Lessons, seed: int) -> Callable[[int], Iterator[tuple[Tensor, Tensor]]]:
    """Inputs and log-probabilities in another order each epoch, each in one view at random."""
    total = len(lessons.x)
    size = min(_SIZE, total)

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        random = np.random.default_rng((seed, number))
        order = random.permutation(total)
        views = random.integers(len(lessons.scores), size=total)
        for start in range(0, total - size + 1, size):
            rows, seen = order[start : start + size], views[start : start + size]
            x = lessons.x[rows]
            if lessons.mirrored is not None:
                x[seen == 1] = np.flip(x[seen == 1], lessons.mirrored)
            yield torch.from_numpy(x), torch.from_numpy(lessons.scores[seen, rows])

    return epoch


def _placed(what: _Placed) -> _Placed:
    """On the accelerator, where there is one; images channels last, which is quicker."""
    images = not isinstance(what, Tensor) or what.dim() == 4
    layout = torch.channels_last if images else torch.contiguous_format
    placed = what.to(_device(), memory_format=layout)
    return cast(_Placed, placed)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _compare(file: Path, module: FromOnnx, x: Tensor) -> None:
    """Raises NetworkError where the module does not answer as its file does."""
    module.eval()
    session = Session(file, threads=1)
    wanted = session.run({module.read: x.numpy()}, [module.made])[module.made]
    try:
        with torch.no_grad():
            found = module(_placed(x)).cpu().numpy()
    except (RuntimeError, NotImplementedError, ValueError, IndexError, TypeError) as problem:
        raise NetworkError(f"it cannot be trained: {str(problem).splitlines()[0]}.") from None
    if found.shape != wanted.shape or np.abs(found - wanted).max() > _NEAR * np.abs(wanted).max():
        raise NetworkError("it cannot be trained: PyTorch computes other scores than its file.")


@dataclass(frozen=True)
class _Distance:
    """How far the scores of a module are from what it learns: the cross-entropy of the two."""

    module: FromOnnx
    kind: Kind
    half: bool  # in bfloat16

    def __call__(self, x: object, wanted: Tensor) -> Tensor:
        assert isinstance(x, Tensor)
        device = _device()
        with torch.autocast(device.type, torch.bfloat16, enabled=self.half):
            scores = self.module(_placed(x))
        scores = scores.float()
        if self.kind == "logits":
            found = scores.log_softmax(1)
        else:
            found = scores.clamp_min(_SMALLEST).log()
        return -(wanted.to(device).exp() * found).sum(1).mean()


@dataclass(frozen=True)
class _Step:
    """How a step of learning is taken."""

    half: bool  # in bfloat16
    seconds: float


def _quicker(module: FromOnnx, x: Tensor) -> _Step:
    """In bfloat16 where that takes less time, as on accelerators and some processors."""
    spent = {}
    for half in (False, True, False, True):  # the first of each warms up
        distance = _Distance(module, "logits", half)
        begin = time.perf_counter()
        with torch.no_grad():
            module.eval()
            scores = module(_placed(x))
        distance(x, scores.log_softmax(1)).backward()
        spent[half] = time.perf_counter() - begin
    module.zero_grad(set_to_none=True)
    module.train()
    half = spent[True] < spent[False]
    return _Step(half, spent[half])


def _epochs(lessons: Lessons, seconds: float) -> int:
    """As many as were asked for, or as end in time. Raises NetworkError where none does."""
    whole = seconds * max(1, len(lessons.x) // _SIZE)
    fitting = (lessons.until - time.monotonic()) / whole
    if fitting < 1:
        raise NetworkError(
            f"there is no time left to teach it: once through the examples takes {whole:.0f} s"
        )
    return int(min(lessons.epochs, fitting))
