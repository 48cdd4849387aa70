"""Blocks that run several times: their passes, counted from 1, are told apart as `block#2`."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from onnx import numpy_helper

from offramp.base.errors import NetworkError, OfframpWarning
from offramp.exits.network import Network

_Made = TypeVar("_Made")
_REPEATED = re.compile(
    r"_\d+(?=\.|$)"
)  # what the older exporter appends to a name that comes again


def pass_of(name: str, known: Collection[str]) -> tuple[str, int | None]:
    """A name that may ask for a pass (`block#2`) as the name and the pass; None: none is asked for.

    Args:
        name: as it was given.
        known: the names there are; one that holds a `#` itself is left whole.
    """
    block, mark, number = name.rpartition("#")
    if name in known or not mark or not number.isdigit():
        return name, None
    return block, int(number)


def bare_scope(scope: str) -> str:
    """A module's path without the numbers that the older exporter appends where it runs again."""
    return _REPEATED.sub("", scope)


def chosen_pass(block: str, number: int | None, runs: Sequence[_Made]) -> _Made:
    """What a block made on the pass that is asked for, counted from 1; None: on its last.

    Args:
        block: its name.
        number: of the pass. Where none is asked for and there are several, a warning says so.
        runs: what it made on each pass, at least one.

    Raises:
        NetworkError: it does not run so often.
    """
    times = len(runs)
    if number is None:
        if times > 1:
            warnings.warn(
                f"'{block}' runs {times} times: its exit answers after the last pass. {block}#1 is "
                "the first.",
                OfframpWarning,
                stacklevel=3,
            )
        return runs[-1]
    if not 1 <= number <= times:
        often = f"{times} times; choose {block}#1 to {block}#{times}" if times > 1 else "once"
        raise NetworkError(f"there is no pass {number} of '{block}': it runs {often}.")
    return runs[number - 1]


def module_names(network: Network, tensors: Iterable[str]) -> dict[str, str]:
    """The module that made each tensor, as `block#2` where it ran several times.

    Args:
        network: that holds them.
        tensors: all that may be asked for, in the order in which they are made.
    """
    made: dict[str, list[str]] = defaultdict(list)
    for tensor in tensors:
        made[network.scope(tensor)].append(tensor)
    names: dict[str, str] = {}
    for module, inside in made.items():
        runs = passes(network, inside)
        for number, run in enumerate(runs, start=1):
            names |= dict.fromkeys(run, f"{module}#{number}" if len(runs) > 1 else module)
    return names


def passes(network: Network, tensors: Sequence[str]) -> list[list[str]]:
    """What a module made, apart for each time that it ran: the most parts that are alike.

    Parts are alike where the same operators of the same submodules read the same weights.

    Args:
        network: that holds it.
        tensors: what the module made, in order.
    """
    steps = [_step(network, tensor) for tensor in tensors]
    for times in range(len(steps), 1, -1):
        size, rest = divmod(len(steps), times)
        if not rest and steps == steps[:size] * times:
            return [list(tensors[start : start + size]) for start in range(0, len(steps), size)]
    return [list(tensors)]


def _step(network: Network, tensor: str) -> tuple[str, str, tuple[str, ...]]:
    """What tells one step of a module from another: whose it is, its operator, its weights."""
    position = network.producer[tensor]
    weights = [network.initializers.get(name) for name in network.reads[position]]
    digests = [
        hashlib.blake2b(numpy_helper.to_array(constant).tobytes(), digest_size=8).hexdigest()
        for constant in weights
        if constant is not None
    ]
    scope = network.scope(tensor)
    module = "" if scope == tensor else bare_scope(scope)
    return module, network.nodes[position].op_type, tuple(digests)
