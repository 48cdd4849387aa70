"""The rooms of the source and which room uses which, as one drawing.

A room is a folder of `src/offramp`, or a file that lies in none.

Usage: python -m tools.house > house.svg
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent / "src" / "offramp"
BOX, ROW, GAP = 104, 62, 12  # width of a box, height of a floor, space between boxes, in pixels
_HEIGHT = 26  # of a box
_SWEEPS = 8  # over the floors, to bring boxes near those they use


@dataclass(frozen=True)
class House:
    """Rooms by floor, the ground first, and the uses that no other use implies."""

    floors: tuple[tuple[str, ...], ...]
    uses: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, uses: Mapping[str, frozenset[str]]) -> House:
        """The house in which every room stands above all that it uses.

        Raises:
            graphlib.CycleError: rooms use each other in a circle.
        """
        below: dict[str, frozenset[str]] = {}
        direct: dict[str, frozenset[str]] = {}
        floor: dict[str, int] = {}
        for room in TopologicalSorter(uses).static_order():
            used = uses.get(room, frozenset())
            implied = frozenset[str]().union(*(below[other] for other in used))
            below[room], direct[room] = implied | used, used - implied
            floor[room] = 1 + max((floor[other] for other in used), default=-1)
        rooms = [
            tuple(sorted(room for room, at in floor.items() if at == level))
            for level in range(1 + max(floor.values()))
        ]
        return cls(_near(rooms, direct), direct)


def rooms(source: Path = SOURCE) -> dict[str, frozenset[str]]:
    """For each room the others that its files import."""
    found: dict[str, set[str]] = {}
    for file in source.rglob("*.py"):
        parts = file.relative_to(source).with_suffix("").parts
        if parts[0].startswith("_"):  # hands on names, holds the version
            continue
        imported = {_room(name) for name in imports(file, source.name)}
        found.setdefault(parts[0], set()).update(imported - {parts[0]})
    return {room: frozenset(used & found.keys()) for room, used in found.items()}


def holdings(source: Path = SOURCE) -> dict[str, str]:
    """What each folder holds, by the first line of its own file; the ground floor first."""
    floors = House.of(rooms(source)).floors
    found = {}
    for room in (room for floor in floors for room in floor):
        file = source / room / "__init__.py"
        if file.exists():
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            found[room] = text.partition("\n")[0]
    return found


def module_of(file: Path, source: Path = SOURCE) -> str:
    """The name of a module without that of the package; "" is the package itself."""
    parts = file.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, package: str) -> set[str]:
    """The modules of this package that a file names, without its own name in front."""
    names = set[str]()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.removeprefix(f"{package}.") for name in names if name.startswith(f"{package}.")}


def _room(module: str) -> str:
    return module.partition(".")[0]


def _near(
    floors: list[tuple[str, ...]], uses: Mapping[str, frozenset[str]]
) -> tuple[tuple[str, ...], ...]:
    """Every floor in an order that keeps arrows short: rooms at the mean place of their own."""
    users = {room: {other for other in uses if room in uses[other]} for room in uses}
    found = list(floors)
    for _ in range(_SWEEPS):
        place = _places(found)
        for level, floor in enumerate(found):
            middle = {
                room: sum(place[other] for other in near) / len(near) if near else place[room]
                for room in floor
                for near in [uses[room] | users[room]]
            }
            found[level] = tuple(sorted(floor, key=lambda room: (middle[room], room)))
    return tuple(found)


def _places(floors: list[tuple[str, ...]]) -> dict[str, float]:
    """The middle of every room, 0 being the middle of the house."""
    return {
        room: (number - (len(floor) - 1) / 2) * (BOX + GAP)
        for floor in floors
        for number, room in enumerate(floor)
    }


def drawing(house: House) -> str:
    """The house as SVG, in the colour of the text around it."""
    place = _places(list(house.floors))
    width = max(len(floor) for floor in house.floors) * (BOX + GAP) + GAP
    height = len(house.floors) * ROW
    middle = {
        room: (width / 2 + place[room], height - (level + 0.5) * ROW)
        for level, floor in enumerate(house.floors)
        for room in floor
    }
    lines = [
        _line(middle[room], middle[other])
        for room in sorted(house.uses)
        for other in sorted(house.uses[room])
    ]
    boxes = [_box(room, *middle[room]) for room in sorted(middle)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    title = "<title>Which part of offramp uses which</title>"
    return "\n".join([head, title, *lines, *boxes, "</svg>", ""])


def _line(upper: tuple[float, float], lower: tuple[float, float]) -> str:
    (x1, y1), (x2, y2), half = upper, lower, _HEIGHT / 2
    return (
        f'<path d="M{x1:.0f} {y1 + half:.0f} L{x2:.0f} {y2 - half:.0f}" '
        'stroke="currentColor" stroke-opacity="0.45" fill="none"/>'
    )


def _box(room: str, x: float, y: float) -> str:
    left, top = x - BOX / 2, y - _HEIGHT / 2
    return (
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{BOX}" height="{_HEIGHT}" rx="4" '
        'class="room" stroke="currentColor"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle" font-size="12" '
        f'fill="currentColor">{escape(room)}</text>'
    )


if __name__ == "__main__":
    print(drawing(House.of(rooms())), end="")
