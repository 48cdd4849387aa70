"""Exits in a PyTorch module: attached by the names of submodules, exported as stages.

Needs the extra `torch`.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from offramp.base.arrays import AnyArray
from offramp.base.errors import MissingExtra, NetworkError
from offramp.exits.attach import ExitOptions, Exits, add_exits
from offramp.exits.network import Network
from offramp.networks.data import Arrays
from offramp.networks.preprocessing import Preprocessing

try:
    import torch
    from torch import Tensor, nn
except ImportError as problem:
    raise MissingExtra(problem.name or "torch", "torch") from None


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
        self.module: nn.Module = module
        self.at: dict[str, str] = dict(at)
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
        self.heads: nn.ModuleDict = nn.ModuleDict(
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


def export(
    model: nn.Module,
    x: Tensor,
    folder: Path,
    *,
    preprocessing: Preprocessing | None = None,
    taught: AnyArray | None = None,
) -> Exits:
    """A module that returns the scores of its exits, its own last, as a graph of stages.

    Args:
        model: a `WithExits`, or any module that returns a list of scores.
        x: a few inputs, at least two.
        folder: where the parts are written; `networks.write` makes a graph of them.
        preprocessing: of the graph.
        taught: `offramp.base.hashing.hash_rows` of the inputs that trained its exits, so that no
            plan is certified on them; None: nobody says.

    Raises:
        NetworkError: torch.export cannot follow it (Python control flow that depends on data), it
            has a single answer, or it cannot be cut.
    """
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.onnx"
        to_onnx(model, x, path)
        some = Arrays(
            x=x.cpu().numpy(), y=None, fingerprint="inputs of the export", preprocessing=None
        )
        found = add_exits(
            path, some, ExitOptions(at=["outputs"]), folder, preprocessing=preprocessing
        )
        return replace(found, networks=replace(found.networks, taught=taught))


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
