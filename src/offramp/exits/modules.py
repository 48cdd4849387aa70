"""PyTorch modules as people write them: wrapped, with several inputs, with answers of many kinds.

Needs the extra `torch`.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from offramp.base.errors import InputError, MissingExtra, NetworkError

try:
    import torch
    from torch import Tensor, nn
except ImportError as _problem:
    raise MissingExtra(_problem.name or "torch", "torch") from None

ModuleInputs: TypeAlias = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""A tensor (batch, ...), several by their place, or several by the names that `forward` gives."""
_SCORES = ("logits", "scores", "out", "output", "outputs", "prediction", "predictions")
_COMPILED = "_orig_mod"  # where torch.compile keeps the module that it wraps


def unwrapped(module: nn.Module) -> nn.Module:
    """The module itself, without DataParallel, DistributedDataParallel and torch.compile."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        inner = module.module if isinstance(module, parallel) else getattr(module, _COMPILED, None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def submodules(module: nn.Module) -> dict[str, nn.Module]:
    """The submodules by name, those that are wrapped under the names that they would have bare."""
    found: dict[str, nn.Module] = {}
    waiting = [("", module)]
    while waiting:
        name, outer = waiting.pop()
        found[name] = inner = unwrapped(outer)
        children = [(f"{name}.{part}".strip("."), child) for part, child in inner.named_children()]
        waiting += reversed(children)
    return found


def arguments(inputs: ModuleInputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Inputs as a call takes them: by place, and by name.

    Raises:
        InputError: they are no tensors, or there are none.
    """
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    several = list(inputs.values() if isinstance(inputs, Mapping) else inputs)
    wrong = next((value for value in several if not isinstance(value, Tensor)), None)
    if wrong is not None or not several:
        came = "no tensor" if wrong is None else type(wrong).__name__
        raise InputError(
            f"inputs of a module are tensors (batch, ...), not {came}: give one, a tuple of them, "
            "or a mapping from the names that its forward has."
        )
    return ((), dict(inputs)) if isinstance(inputs, Mapping) else (tuple(several), {})


def called(module: nn.Module, inputs: ModuleInputs) -> Any:
    """What a module answers."""
    by_place, by_name = arguments(inputs)
    return module(*by_place, **by_name)


def named_inputs(module: nn.Module, inputs: ModuleInputs) -> dict[str, Tensor]:
    """The inputs by the names that `forward` gives them.

    Raises:
        InputError: it does not take these.
    """
    by_place, by_name = arguments(inputs)
    signature = inspect.signature(module.forward)
    try:
        bound = signature.bind(*by_place, **by_name).arguments
    except TypeError as problem:
        raise InputError(
            f"{type(module).__name__}.forward{signature} does not take these inputs: {problem}."
        ) from None
    found: dict[str, Tensor] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found |= {f"{name}{place}": tensor for place, tensor in enumerate(value)}
        elif kind is inspect.Parameter.VAR_KEYWORD:
            found |= value
        else:
            found[name] = value
    return found


def answer_tensors(answer: object) -> dict[str, Tensor]:
    """The tensors in an answer by name; those one level further inside as `out.logits`.

    A tensor by itself has the name "". Lists and tuples count from 0; mappings, named tuples and
    dataclasses have names of their own, so that `ModelOutput` of transformers needs no import.
    """
    if isinstance(answer, Tensor):
        return {"": answer}
    found: dict[str, Tensor] = {}
    for name, value in _members(answer):
        inside = [("", value)] if isinstance(value, Tensor) else _members(value)
        for below, tensor in inside:
            if isinstance(tensor, Tensor):
                found[f"{name}.{below}".strip(".")] = tensor
    return found


def _members(answer: object) -> Iterator[tuple[str, object]]:
    if isinstance(answer, Mapping):
        yield from ((str(name), value) for name, value in answer.items())
    elif isinstance(answer, tuple) and hasattr(answer, "_fields"):
        yield from zip(answer._fields, answer, strict=True)
    elif isinstance(answer, list | tuple):
        yield from ((str(place), value) for place, value in enumerate(answer))
    elif dataclasses.is_dataclass(answer):
        yield from ((f.name, getattr(answer, f.name)) for f in dataclasses.fields(answer))


def score_candidates(answer: object) -> dict[str, Tensor]:
    """What may be scores in an answer, by name: floats (batch, classes)."""
    return {
        n: t for n, t in answer_tensors(answer).items() if t.dim() == 2 and t.is_floating_point()
    }


def scores_name(answer: object, asked: str | None) -> str:
    """The name of the scores (batch, classes) in an answer.

    They are what was asked for, or else the only two-dimensional floats, or else the only ones that
    are called so (logits, scores, out, output, ...).

    Raises:
        NetworkError: none or several may be meant, or what was asked for is not there.
    """
    fitting = score_candidates(answer)
    if asked is not None:
        return _asked(answer, asked)
    called_so = [name for name in fitting if name.rpartition(".")[2] in _SCORES]
    chosen = list(fitting) if len(fitting) == 1 else called_so
    if len(chosen) != 1:
        inside = described_answer(answer)
        raise NetworkError(
            f"the module answers {inside}, and it does not show which are its scores "
            f'(batch, classes). Name them: answer="{next(iter(fitting), "logits")}".'
        )
    return chosen[0]


def _asked(answer: object, asked: str) -> str:
    fitting = score_candidates(answer)
    if asked in fitting:
        return asked
    near = difflib.get_close_matches(asked, fitting, 1) or list(fitting)[:1]
    meant = f" Did you mean '{near[0]}'?" if near else ""
    raise NetworkError(
        f"the module's answer holds no scores (batch, classes) called '{asked}'; it holds "
        f"{described_answer(answer)}.{meant}"
    )


def exit_scores(answer: object, own: str | None) -> list[str]:
    """The names of the scores of exits in an answer, the module's own among them.

    Args:
        answer: of a module with exits.
        own: the name of its own scores; None where all score the same number of classes.

    Raises:
        NetworkError: there are no scores of this name, one alone, or some of other numbers of
            classes.
    """
    fitting = score_candidates(answer)
    classes = {tensor.shape[-1] for tensor in fitting.values()}
    if own is not None:
        classes = {fitting[_asked(answer, own)].shape[-1]}
    if len(classes) > 1:
        raise NetworkError(
            f"the module answers {described_answer(answer)}, which score different numbers of "
            "classes. Name its own, and those like it are its exits: "
            f'answer="{next(iter(fitting))}".'
        )
    names = [name for name, tensor in fitting.items() if tensor.shape[-1] in classes]
    if len(names) < 2:
        raise NetworkError(
            f"the module answers {described_answer(answer)}: exits need several scores "
            "(batch, classes). Attach some with WithExits, or return those that it has, in "
            "evaluation mode as well."
        )
    return names


def described_answer(answer: object) -> str:
    """The kind of an answer, and what lies in it."""
    inside = [
        f"{name or 'scores'} {tuple(tensor.shape)}"
        for name, tensor in answer_tensors(answer).items()
    ]
    return f"{type(answer).__name__} ({', '.join(inside) or 'no tensors'})"


def evaluated(module: nn.Module, inputs: ModuleInputs) -> Any:
    """What a module answers in evaluation mode, which it leaves as it was; nothing is compiled."""
    modes = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            return called(module.eval(), inputs)
    finally:
        for part, training in modes.items():
            part.training = training
