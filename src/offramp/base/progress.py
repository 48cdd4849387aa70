"""How long work tells what it does, how much of it is done, and how much there is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many of its steps are done, and how many there are."""


def silent(what: str, done: int, total: int) -> None:
    """Tells nobody."""
