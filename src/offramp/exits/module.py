"""Exits in a PyTorch module: attached by the names of submodules, exported as stages.

Needs the extra `torch`.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from offramp.base.arrays import AnyArray
from offramp.base.errors import MissingExtra, NetworkError
from offramp.exits.depth import by_depth
from offramp.exits.modules import (
    ModuleInputs,
    answer_tensors,
    called,
    evaluated,
    exit_scores,
    named_inputs,
    scores_name,
    submodules,
    unwrapped,
)
from offramp.exits.network import Network
from offramp.exits.outputs import Exits, exits_at_outputs
from offramp.exits.passes import chosen_pass, pass_of
from offramp.networks.preprocessing import Preprocessing

try:
    import torch
    from torch import Tensor, nn
except ImportError as _problem:
    raise MissingExtra(_problem.name or "torch", "torch") from None

_PREFIX = "answer."  # of outputs in ONNX, so that they are called like nothing inside


class WithExits(nn.Module):
    """A module that answers from inside as well: it returns the scores of every exit, its own last.

    Args:
        module: any module that answers with scores (batch, classes), by themselves or in a list,
            tuple, mapping, named tuple or dataclass. DataParallel, DistributedDataParallel and
            torch.compile around it are taken off; put them around the `WithExits`.
        at: for each exit, cheapest first, the name of the submodule that it answers from. Of one
            that runs several times, `block#2` is its second pass, and `block` its last.
        x: a few inputs, to learn the shapes with: a tensor (batch, ...), a tuple of them, or a
            mapping from the names that `forward` has.
        head: makes the head for a feature of a given shape (without the batch) and a number of
            classes; `linear_head` is the paper's, `deep_head` sees more.
        answer: the name of the scores in what the module answers (`logits`, `1`, `out.logits`);
            None: the only floats (batch, classes), or those that are called scores, logits, ...

    Raises:
        NetworkError: no such submodule, or one that does not run, or not so often, or gives no
            tensor; or it does not show which are the scores.
        InputError: inputs that the module does not take.
    """

    answer: str

    def __init__(
        self,
        module: nn.Module,
        at: Mapping[str, str],
        x: ModuleInputs,
        *,
        head: Callable[[tuple[int, ...], int], nn.Module] | None = None,
        answer: str | None = None,
    ) -> None:
        super().__init__()
        self.module: nn.Module = unwrapped(module)
        self.at: dict[str, str] = dict(at)
        self._seen: dict[str, Tensor] = {}
        self._ran: dict[str, int] = {}  # how often the submodule of each exit has run
        inside = submodules(self.module)
        places = {exit_: pass_of(name, inside) for exit_, name in at.items()}
        for exit_, (name, _) in places.items():
            _check_name(exit_, name, inside)
        named_inputs(self.module, x)
        hooks = [
            inside[name].register_forward_hook(self._keep(exit_, number))
            for exit_, (name, number) in places.items()
        ]
        try:
            shapes, self.answer, classes = self._tried(x, answer, places)
        except BaseException:
            for hook in hooks:
                hook.remove()
            raise
        make = deep_head if head is None else head
        self.heads: nn.ModuleDict = nn.ModuleDict(
            {exit_: make(shapes[exit_], classes) for exit_ in at}
        )
        self.heads.to(next(iter(named_inputs(self.module, x).values())).device)

    def _tried(
        self, x: ModuleInputs, answer: str | None, places: Mapping[str, tuple[str, int | None]]
    ) -> tuple[dict[str, tuple[int, ...]], str, int]:
        """The shape of what each exit sees, the name of the scores, and the number of classes."""
        said = evaluated(self.module, x)
        for exit_, (name, number) in places.items():
            chosen_pass(name, number, range(self._ran.get(exit_, 1)))
            if exit_ not in self._seen:
                raise NetworkError(f"'{name}' does not run, or gives no tensor.")
        shapes = {exit_: tuple(self._seen[exit_].shape[1:]) for exit_ in self.at}
        self._seen.clear()
        self._ran.clear()
        scores = scores_name(said, answer)
        return shapes, scores, answer_tensors(said)[scores].shape[-1]

    def _keep(self, exit_: str, number: int | None) -> Callable[[nn.Module, Any, Any], None]:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            self._ran[exit_] = self._ran.get(exit_, 0) + 1
            tensor = next(iter(answer_tensors(output).values()), None)
            if tensor is not None and number in (None, self._ran[exit_]):
                self._seen[exit_] = tensor

        return keep

    def forward(self, *inputs: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
        """The scores (batch, classes) of each exit, and the module's own."""
        self._ran.clear()
        scores = answer_tensors(self.module(*inputs, **named))[self.answer]
        exits = [self.heads[exit_](self._seen[exit_]) for exit_ in self.at]
        self._seen.clear()
        return (*exits, scores)


def _check_name(exit_: str, name: str, inside: Mapping[str, nn.Module]) -> None:
    if name not in inside or not name:
        near = difflib.get_close_matches(name, inside, 1) or list(inside)[1:2]
        meant = f"; did you mean '{near[0]}'?" if near else ", nor any other."
        raise NetworkError(f"there is no submodule '{name}' for {exit_}{meant}")


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


class _Answers(nn.Module):
    """A module that gives a tuple of some of the tensors in its answer."""

    def __init__(self, module: nn.Module, names: Sequence[str], keys: Sequence[str] | None) -> None:
        super().__init__()
        self.module, self.names, self.keys = module, names, keys

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        given: ModuleInputs = inputs
        if self.keys is not None:
            given = dict(zip(self.keys, inputs, strict=True))
        found = answer_tensors(called(self.module, given))
        return tuple(found[name] for name in self.names)


def export(
    model: nn.Module,
    x: ModuleInputs,
    folder: Path,
    *,
    answer: str | None = None,
    preprocessing: Preprocessing | None = None,
    taught: AnyArray | None = None,
) -> Exits:
    """A module that returns the scores of its exits and its own, as a graph of stages.

    Args:
        model: a `WithExits`, or any module that returns several scores (batch, classes), in a list,
            tuple, mapping, named tuple or dataclass; wrapped or not.
        x: a few inputs, at least two rows: a tensor, a tuple of them, or a mapping from the names
            that `forward` has. The stages read them by these names.
        folder: where the parts are written; `networks.write` makes a graph of them.
        answer: the name of the module's own scores in what it answers; None: the deepest ones,
            whatever their place, and the last of a `WithExits`.
        preprocessing: of the graph.
        taught: `offramp.base.hashing.hash_rows` of what trained it, which certifies nothing.

    Raises:
        NetworkError: torch.export cannot follow it, it has a single answer, or cannot be cut.
    """
    bare = unwrapped(model)
    inputs = named_inputs(bare.module if isinstance(bare, WithExits) else bare, x)
    names = exit_scores(evaluated(bare, x), answer)
    answers = _Answers(bare, names, list(inputs) if isinstance(x, Mapping) else None)
    fields = {name: tensor.cpu().numpy() for name, tensor in inputs.items()}
    with TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.onnx"
        _to_onnx(answers, inputs, path)
        network = Network.of(onnx.load(str(path)), fields)
        if isinstance(bare, WithExits) and answer is None:
            ordered = list(network.outputs)
        else:
            ordered = by_depth(network, answer and _PREFIX + answer, _shown)
        made = exits_at_outputs(network, ordered, fields, folder, preprocessing)
        return replace(made, networks=replace(made.networks, taught=taught))


def _shown(output: str) -> str:
    return output.removeprefix(_PREFIX)


def _to_onnx(model: _Answers, inputs: Mapping[str, Tensor], path: Path) -> None:
    """Exports a module with a symbolic batch, by torch.export. Raises NetworkError."""
    rows, tensors = {0: torch.export.Dim("batch", min=1)}, tuple(inputs.values())
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(
                model.eval(), tensors, dynamic_shapes=((rows,) * len(tensors),), strict=False
            )
            torch.onnx.export(
                program,
                tensors,
                str(path),
                input_names=list(inputs),
                output_names=[_PREFIX + name for name in model.names],
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except Exception as problem:  # torch.export raises dozens of kinds
            first = str(problem).strip().splitlines()[0]
            raise NetworkError(
                f"torch.export cannot follow this module ({first}). Python control flow that "
                "depends on the data, or on the batch, must go: use torch.where or torch.cond."
            ) from None
