"""Options that several commands share, each with its one sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer

from offramp.command import completing
from offramp.plan.asked import AtLeast
from offramp.runtime.engine import EngineName

Given = Mapping[str, Any]  # the options of one record, by field

Out = Annotated[Path, typer.Option("--out", help="Where to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output of offramp.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Data = Annotated[
    str, typer.Option("--data", help=".npz, Parquet, a folder of images, or hf:NAME[:SPLIT].")
]
EngineOption = Annotated[EngineName, typer.Option("--engine", help="What runs the networks.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each network.")]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out images that do not decode, and count them.")
]
Edges = Annotated[str | None, typer.Option(help='"a>b,a>c,b>c". Default: a chain.')]
Reference = Annotated[
    str | None,
    typer.Option(help="The full network. Default: the last one.", autocompletion=completing.stage),
]
TaskName = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="single (default), labels, regression/2.5, sequences/9, ... or one of your own.",
    ),
]
_COMPLETED = {"policy": completing.policy}  # options of records, by field
PolicyName = Annotated[str, typer.Option(help="What decides.", autocompletion=completing.policy)]


def option(record: type, name: str) -> Any:
    """The option of a record's field: its sentence, and the smallest value that it takes."""
    _, sentence, *limits = get_args(get_type_hints(record, include_extras=True)[name])
    least = next((limit.value for limit in limits if isinstance(limit, AtLeast)), None)
    flag = [f"--{name.replace('_', '-')}"] if record.__dict__.get(name) is False else []
    return typer.Option(*flag, help=sentence, min=least, autocompletion=_COMPLETED.get(name))


def options(record: type) -> dict[str, inspect.Parameter]:
    """A parameter for each field of a record that is annotated with a sentence."""
    hints = get_type_hints(record, include_extras=True)
    return {
        name: inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=record.__dict__[name],
            annotation=Annotated[_typed(get_args(hint)[0]), option(record, name)],
        )
        for name, hint in hints.items()
        if len(get_args(hint)) > 1 and isinstance(get_args(hint)[1], str)
    }


def _typed(hint: Any) -> Any:
    """The type of an option: where Python takes an object or its name, a name."""
    return str if str in get_args(hint) else hint


def with_options(**records: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command the options of records, which it takes as one mapping for each record.

    Args:
        records: by the name of the command's parameter that takes the options.
    """

    def given_to(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        plain = [p for p in signature.parameters.values() if p.name not in records]
        of = {name: options(record) for name, record in records.items()}
        every = [*plain, *(parameter for found in of.values() for parameter in found.values())]

        @wraps(command)
        def called(**values: Any) -> None:
            for name, found in of.items():
                values[name] = {field: values.pop(field) for field in found}
            command(**values)

        keywords = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in every]
        called.__signature__ = signature.replace(parameters=keywords)  # type: ignore[attr-defined]
        called.__annotations__ = {p.name: p.annotation for p in keywords}
        return called

    return given_to
