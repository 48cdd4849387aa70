"""Exits in a PyTorch module: attached by the names of submodules, trained, exported as stages.

Training is of the heads alone, of everything jointly, or with the last answer as a teacher for the
exits. A killed run goes on from its last epoch and ends with the same weights. Needs the extra
`torch`.
"""

from __future__ import annotations

import difflib
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import onnx

from offramp.arrays import AnyArray
from offramp.errors import InputError, MissingExtra, NetworkError
from offramp.exits.attach import Exits, Settings, add_exits
from offramp.exits.network import Network
from offramp.files import replacing, storage
from offramp.preprocessing import Preprocessing

try:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file
    from torch import Tensor, nn
except ImportError as problem:
    raise MissingExtra(problem.name or "torch", "torch") from None

Mode = Literal["heads", "joint", "distill"]
Epoch = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
Progress = Callable[[int, int, float], None]
_WARMUP = 0.05  # of all steps: the learning rate rises from 0


class WithExits(nn.Module):
    """A module that answers from inside as well: it returns the scores of every exit, its own last.

    Args:
        module: any module with one input (batch, ...) and scores (batch, classes).
        at: for each exit, cheapest first, the name of the submodule that it answers from.
        x: a few inputs, to learn the shapes with.
        head: makes the head for a feature of a given shape (without the batch) and a number of
            classes; `linear_head` is the paper's, `deep_head` sees more.

    Raises:
        NetworkError: no such submodule, or one that does not run or gives no tensor.
    """

    def __init__(
        self,
        module: nn.Module,
        at: Mapping[str, str],
        x: Tensor,
        *,
        head: Callable[[tuple[int, ...], int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.module, self.at = module, dict(at)
        self._seen: dict[str, Tensor] = {}
        inside = dict(module.named_modules())
        for exit_, name in at.items():
            if name not in inside or not name:
                near = difflib.get_close_matches(name, inside, 1) or list(inside)[1:2]
                raise NetworkError(
                    f"there is no submodule '{name}' for {exit_}; did you mean '{near[0]}'?"
                )
            inside[name].register_forward_hook(self._keep(exit_))
        training = module.training
        with torch.no_grad():
            scores = module.eval()(x)
        module.train(training)
        missing = [exit_ for exit_ in at if exit_ not in self._seen]
        if missing:
            raise NetworkError(f"'{at[missing[0]]}' does not run, or gives no tensor.")
        make = deep_head if head is None else head
        classes = scores.shape[-1]
        self.heads = nn.ModuleDict(
            {exit_: make(tuple(self._seen[exit_].shape[1:]), classes) for exit_ in at}
        ).to(x.device)
        self._seen.clear()

    def _keep(self, exit_: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            found = output[0] if isinstance(output, tuple) else output
            if isinstance(found, Tensor):
                self._seen[exit_] = found

        return keep

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The scores (batch, classes) of each exit, and the module's own."""
        scores = self.module(x)
        found = [self.heads[exit_](self._seen[exit_]) for exit_ in self.at]
        self._seen.clear()
        return (*found, scores)


class _Pooled(nn.Module):
    """Averages (and more) over all but the channels, to vectors."""

    def __init__(self, shape: tuple[int, ...], deep: bool) -> None:
        super().__init__()
        self.rank, self.deep = len(shape), deep
        if self.rank not in (1, 2, 3):
            raise NetworkError(
                f"a head reads vectors, (tokens, width) or (channels, height, width), not {shape}."
            )
        wide = self.deep and self.rank > 1
        self.width = (shape[-1] if self.rank == 2 else shape[0]) * (2 if wide else 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.rank == 1:
            return x
        axes = (1,) if self.rank == 2 else (2, 3)
        mean = x.mean(axes)
        return torch.cat([mean, x.amax(axes)], 1) if self.deep else mean


def linear_head(shape: tuple[int, ...], classes: int) -> nn.Module:
    """Average pooling and one linear layer (Bolukbasi et al. 2017, section 4)."""
    pooled = _Pooled(shape, deep=False)
    return nn.Sequential(pooled, nn.Linear(pooled.width, classes))


def deep_head(shape: tuple[int, ...], classes: int, width: int = 64) -> nn.Module:
    """For images two strided convolutions first; otherwise one hidden layer."""
    if len(shape) == 3:
        convolutions: list[nn.Module] = []
        channels = shape[0]
        for _ in range(2):
            convolutions += [
                nn.Conv2d(channels, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        pooled = _Pooled((width, 1, 1), deep=False)
        return nn.Sequential(*convolutions, pooled, nn.Linear(width, classes))
    pooled = _Pooled(shape, deep=True)
    return nn.Sequential(
        pooled, nn.Linear(pooled.width, width), nn.ReLU(), nn.Linear(width, classes)
    )


@dataclass(frozen=True)
class Training:
    """How exits are trained."""

    mode: Mode = "joint"  # heads alone; everything; everything, with the last answer as a teacher
    epochs: int = 10
    learning_rate: float = 1e-3  # at its highest
    weight_decay: float = 1e-2
    temperature: float = 2.0  # of the teacher's probabilities
    seed: int = 0
    mixed: bool = True  # bfloat16 on an accelerator; a CPU computes in float32


def train(
    model: nn.Module,
    batches: Epoch,
    training: Training | None = None,
    *,
    checkpoint: Path | None = None,
    progress: Progress = lambda epoch, epochs, loss: None,
) -> nn.Module:
    """Trains a module that returns a list of scores, cheapest exit first.

    Args:
        model: a `WithExits`, or any module that returns the scores of its exits, its own last.
        batches: given the number of an epoch, its batches of inputs and labels; `shuffled` makes
            one of arrays.
        training: how.
        checkpoint: a .safetensors file, written after every epoch; where it exists already,
            training goes on from it.
        progress: called with epochs done, epochs in all and the mean loss of the last one.

    Returns:
        The model, in evaluation mode.

    Raises:
        InputError: the checkpoint is of another model or training.

    Source: joint training as in BranchyNet (Teerapittayanon et al. 2016); distillation from the
        last exit as in Phuong and Lampert 2019.
    """
    settings = training or Training()
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad_(settings.mode != "heads")
    if settings.mode == "heads":
        if not isinstance(model, WithExits):
            raise InputError("heads alone are trained in a WithExits; wrap the module in it.")
        model.module.eval()  # its running statistics stay as they are
        model.heads.requires_grad_(True)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        learned, lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    begin = _resume(model, optimizer, settings, checkpoint)
    for epoch in range(begin, settings.epochs):
        loss = _epoch(model, optimizer, batches, settings, epoch)
        if checkpoint is not None:
            _save(model, optimizer, settings, checkpoint, epoch + 1)
        progress(epoch + 1, settings.epochs, loss)
    return model.eval()


def _epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Epoch,
    settings: Training,
    epoch: int,
) -> float:
    torch.manual_seed(settings.seed + epoch)  # of dropout: a resumed epoch is the same epoch
    device = next(model.parameters()).device
    steps = list(batches(epoch))
    total = 0.0
    for number, (x, labels) in enumerate(steps):
        share = (epoch + number / len(steps)) / settings.epochs
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _schedule(share)
        optimizer.zero_grad(set_to_none=True)
        with _precision(device, settings):
            scores = model(x.to(device))
            loss = loss_of(scores, labels.to(device), settings)
        loss.backward()
        optimizer.step()
        total += float(loss.detach())
    return total / max(1, len(steps))


def _precision(device: torch.device, settings: Training) -> Any:
    if device.type == "cpu" or not settings.mixed:
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def _schedule(share: float) -> float:
    """Of the learning rate, for a share of training in [0, 1]: a rise, then half a cosine."""
    if share < _WARMUP:
        return share / _WARMUP
    return 0.5 * (1 + math.cos(math.pi * (share - _WARMUP) / (1 - _WARMUP)))


def loss_of(scores: Iterable[Tensor], labels: Tensor, settings: Training) -> Tensor:
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


def shuffled(x: AnyArray, labels: AnyArray, size: int = 128, seed: int = 0) -> Epoch:
    """Batches of arrays, in another order each epoch."""

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(seed + number)
        order = torch.randperm(len(x), generator=generator).numpy()
        for start in range(0, len(x), size):
            rows = order[start : start + size]
            yield torch.from_numpy(x[rows]), torch.from_numpy(labels[rows]).long()

    return epoch


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


def export(
    model: nn.Module,
    x: Tensor,
    folder: Path,
    *,
    preprocessing: Preprocessing | None = None,
) -> Exits:
    """A module that returns the scores of its exits, its own last, as a graph of stages.

    Args:
        model: a `WithExits`, or any module that returns a list of scores.
        x: a few inputs, at least two.
        folder: where the parts are written; `networks.write` makes a graph of them.
        preprocessing: of the graph.

    Raises:
        NetworkError: torch.export cannot follow it (Python control flow that depends on data), it
            has a single answer, or it cannot be cut.
    """
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.onnx"
        to_onnx(model, x, path)
        return add_exits(path, _Some(x), Settings(["outputs"]), folder, preprocessing=preprocessing)


def to_onnx(model: nn.Module, x: Tensor, path: Path) -> None:
    """Exports a module with a symbolic batch, by torch.export. Raises NetworkError."""
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                model.eval(), (x,), dynamic_shapes=({0: batch},), strict=False
            )
            torch.onnx.export(
                program, (x,), str(path), dynamo=True, external_data=False, verbose=False
            )
        except Exception as problem:  # torch.export raises dozens of kinds
            first = str(problem).strip().splitlines()[0]
            raise NetworkError(
                f"torch.export cannot follow this module ({first}). Python control flow that "
                "depends on the data, or on the batch, must go: use torch.where or torch.cond."
            ) from None
    Network.of(onnx.load(str(path)), x.cpu().numpy(), path)


@dataclass(frozen=True)
class _Some:
    """A few inputs as examples without labels."""

    x: Tensor

    @property
    def examples(self) -> int:
        return len(self.x)

    @property
    def fingerprint(self) -> str:
        return "inputs of the export"

    def batches(self, size: int, start: int = 0) -> Iterator[Any]:
        from offramp.data import Batch

        values = self.x.cpu().numpy()[start : start + size]
        yield Batch(values[:, :0], values, None)
