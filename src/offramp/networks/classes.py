"""Names of classes, and the order in which networks score them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from offramp.base.errors import GraphError

_LISTED = 5  # names that a sentence lists
Names = tuple[str, ...]
LACKED = -1  # in an order: a class that a network does not score


def read_class_names(path: Path) -> Names:
    """The names in a file: one per line, a JSON list, or a JSON object from position to name.

    Raises:
        GraphError: it cannot be read, holds no names, or one twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise GraphError(
            f"--classes: {path} cannot be read ({problem}). Give a text file with one name per "
            "line, or a JSON list."
        ) from None
    try:
        return class_names(_listed(text))
    except ValueError as problem:
        raise GraphError(
            f"--classes: {path} {problem}. Give one name per line, or a JSON list, in the order "
            "in which the network scores the classes."
        ) from None


def class_names(names: Sequence[object]) -> Names:
    """Names as text. Raises ValueError, without who: there are none, or one stands there twice."""
    if not names or not all(isinstance(name, str | int) and str(name).strip() for name in names):
        raise ValueError("does not hold a name for every class")
    found = tuple(str(name).strip() for name in names)
    if twice := next((name for name in found if found.count(name) > 1), None):
        raise ValueError(f"names the class '{twice}' twice")
    return found


def _listed(text: str) -> list[object]:
    if not text.lstrip().startswith(("[", "{")):
        return list(text.strip().splitlines())
    try:
        value = json.loads(text)
    except ValueError:
        raise ValueError("is no JSON") from None
    if isinstance(value, dict):  # as Hugging Face's id2label
        if sorted(value) != sorted(map(str, range(len(value)))):
            raise ValueError("does not number its classes 0, 1, 2, ...")
        value = [value[str(position)] for position in range(len(value))]
    return list(value)


@dataclass(frozen=True)
class ClassOrder:
    """Where a network scores the classes of the reference."""

    take: tuple[int, ...]  # for each of the reference's classes its position, or LACKED
    dropped: Names  # classes of the network that the reference lacks
    lacked: Names  # classes of the reference that the network lacks

    @classmethod
    def by_name(cls, own: Names, wanted: Names) -> ClassOrder:
        """The order that brings the classes `own` into those of the reference."""
        at = {name: position for position, name in enumerate(own)}
        known = set(wanted)
        return cls(
            tuple(at.get(name, LACKED) for name in wanted),
            tuple(name for name in own if name not in known),
            tuple(name for name in wanted if name not in at),
        )

    @property
    def changes(self) -> bool:
        """Whether the classes are others, or in another order."""
        return bool(self.dropped) or self.take != tuple(range(len(self.take)))

    @property
    def shared(self) -> int:
        """How many classes both have."""
        return len(self.take) - len(self.lacked)

    def notes(self, reference: str) -> list[str]:
        """What is to be said of it."""
        if not self.changes:
            return []
        said = [f"its classes are brought into the order of '{reference}', by name"]
        if self.dropped:
            said.append(f"those that '{reference}' lacks are dropped: {shortened(self.dropped)}")
        if self.lacked:
            said.append(f"those that it lacks get the lowest score: {shortened(self.lacked)}")
        return said


def shortened(names: Sequence[str]) -> str:
    """Names, and how many more there are."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
