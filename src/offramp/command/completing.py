"""What a shell may complete: names of policies, and of stages where a folder says which there are.

Completion looks at nothing but names: it runs no network, and a folder that is damaged or missing
completes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import typer

from offramp.learn.teach import AUTO
from offramp.policies import FAMILIES


def policy(incomplete: str) -> list[str]:
    """The policies that `fit` and `compare` know by a name that begins so."""
    return _last(incomplete, (AUTO, *FAMILIES))


def stage(context: typer.Context, incomplete: str) -> list[str]:
    """The stages of what was named before, in a list or alone."""
    return _last(incomplete, _stages(context))


def cost(context: typer.Context, incomplete: str) -> list[str]:
    """The stages, each to be followed by what it costs."""
    return _last(incomplete, [f"{name}=" for name in _stages(context)])


def _last(incomplete: str, names: Iterable[str]) -> list[str]:
    """The text with the last name of its list completed."""
    before, comma, begun = incomplete.rpartition(",")
    given = {part.partition("=")[0] for part in before.split(",")}
    left = (name for name in names if name.removesuffix("=") not in given)
    return [f"{before}{comma}{name}" for name in left if name.startswith(begun)]


def _stages(context: typer.Context) -> list[str]:
    """From NAME=FILE or STAGE=COST as given so far, or else from the folder of a graph or trace."""
    words = list(_words(context))
    pairs = (part.partition("=") for word in words for part in word.split(","))
    if names := [name.strip() for name, _, value in pairs if value]:
        return names
    manifests = [Path(word) / file for word in words for file in ("graph.json", "trace.json")]
    return [name for manifest in manifests for name in _recorded(manifest)]


def _words(context: typer.Context) -> Iterator[str]:
    """What was given of networks, costs and folders; `args` holds them before a bare option."""
    for name in ("networks", "cost", "graph", "trace"):
        value = context.params.get(name)
        yield from map(str, value if isinstance(value, list | tuple) else [value] if value else [])
    yield from context.args


def _recorded(manifest: Path) -> list[str]:
    try:
        value = json.loads(manifest.read_text(encoding="utf-8"))
        return [str(found["name"]) for found in value.get("graph", value)["stages"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
