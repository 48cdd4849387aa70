"""What commands share of the terminal: results, remarks, progress, and what they read."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.table import Column

from offramp.base.errors import OfframpWarning
from offramp.base.fields import X
from offramp.base.progress import Progress
from offramp.command import parsing
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import is_own
from offramp.core.trace import Trace
from offramp.networks.data import Examples, open_examples
from offramp.networks.preprocessing import AnyPreprocessing

messages = Console(stderr=True, highlight=False, markup=False)
output = Console(highlight=False)


def examples_of(
    data: str,
    pixels: AnyPreprocessing | None,
    skip_broken: bool = False,
    *,
    fields: Sequence[str] = (X,),
    task: Task = SINGLE,
) -> Examples:
    """The examples that --data names; what lies there and is not read is said."""
    examples = open_examples(data, pixels, fields=fields, skip_broken=skip_broken, task=task)
    for sentence in examples.notes:
        messages.print(sentence, markup=False)
    return examples


def remark(sentences: Iterable[str]) -> None:
    for sentence in sentences:
        messages.print(sentence, markup=False)


def say_classes(trace: Trace, other: Mapping[str, Any]) -> None:
    """Says where the classes of a trace have other names than another recording's."""
    for sentence in trace.other_classes(other.get("class_names", ())):
        messages.print(sentence, markup=False)


def given(*inputs: str | Path | None) -> list[Path]:
    """The files and folders that a command reads, to keep its output from them."""
    return [Path(given) for given in inputs if given and not str(given).startswith("hf:")]


def loss_named(name: str | None, unlabelled: bool = False) -> str | None:
    """The loss that the options name; one of the user's own may lie in the current folder."""
    if name and is_own(name):
        sys.path.insert(0, str(Path.cwd()))
    return parsing.loss(name, unlabelled)


def show(as_json: bool, value: Any, table: Callable[[], Any]) -> None:
    if as_json:
        print(json.dumps(value, allow_nan=False))
    else:
        output.print(table(), crop=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """What is done, of how much, since when and how long still: on standard error, if a terminal.

    Nothing is left of it, and a file or a pipe is told nothing.
    """
    bar = Bar(*_columns(), console=messages, transient=True, disable=not messages.is_terminal)
    with bar:
        task = bar.add_task("", total=None, visible=False)

        def step(what: str, done: int, total: int) -> None:
            shown = bar.tasks[0]
            if total != shown.total or done < shown.completed:  # other work, of another speed
                bar.reset(task, total=total)
            bar.update(task, description=what, completed=done, total=total, visible=True)

        yield step


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        SpinnerColumn(),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("still"),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
    )


@contextmanager
def spoken_warnings() -> Iterator[None]:
    """Says our own warnings on standard error, each once, and leaves others as they are."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", OfframpWarning)
        others = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, OfframpWarning):
                others(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                say(str(message))

        warnings.showwarning = show
        yield


def say(sentence: str, code: int = 2) -> int:
    line = " ".join(sentence.split()).encode("utf-8", "backslashreplace").decode()
    messages.print(f"offramp: {line}", markup=False, soft_wrap=True)
    return code
