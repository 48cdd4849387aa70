"""The drawing of the house: every room above what it uses, and no line that others imply."""

from __future__ import annotations

from graphlib import CycleError

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.house import SOURCE, House, drawing, holdings, rooms

NAMES = "abcdefg"


@st.composite
def uses(draw: st.DrawFn) -> dict[str, frozenset[str]]:
    """Rooms that use earlier ones."""
    return {
        room: frozenset(draw(st.sets(st.sampled_from(NAMES[:at])))) if at else frozenset()
        for at, room in enumerate(NAMES)
    }


def below(found: House | dict[str, frozenset[str]], room: str) -> set[str]:
    """All that a room uses, through others as well, found in an obvious way."""
    direct = found.uses[room] if isinstance(found, House) else found[room]
    return set(direct).union(*(below(found, other) for other in direct))


@given(uses())
def test_rooms_stand_above_what_they_use(given_: dict[str, frozenset[str]]) -> None:
    house = House.of(given_)
    floor = {room: level for level, names in enumerate(house.floors) for room in names}
    assert set(floor) == set(NAMES)
    for room, used in given_.items():
        assert all(floor[other] < floor[room] for other in used)


@given(uses())
def test_lines_say_all_and_nothing_twice(given_: dict[str, frozenset[str]]) -> None:
    house = House.of(given_)
    for room in NAMES:
        assert below(house, room) == below(given_, room)
        for other in house.uses[room]:
            ways = (below(house, third) for third in house.uses[room] - {other})
            assert not any(other in way for way in ways)


def test_a_circle_is_no_house() -> None:
    with pytest.raises(CycleError):
        House.of({"a": frozenset("b"), "b": frozenset("a")})


def test_every_folder_says_what_it_holds_above_what_it_uses() -> None:
    found, uses = holdings(), rooms()
    assert set(found) == {room for room in uses if (SOURCE / room).is_dir()}
    assert [room for room, what in found.items() if not what.endswith(".")] == []
    place = {room: number for number, room in enumerate(found)}
    for room in found:
        assert all(place[other] < place[room] for other in uses[room] if other in found)


def test_every_room_of_the_source_is_drawn() -> None:
    svg = drawing(House.of(rooms()))
    assert len(rooms()) > 10
    assert [room for room in rooms() if f">{room}</text>" not in svg] == []
