"""Records from JSON: whether every value is of the type that its field says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Record = TypeVar("Record")


def record_of(kind: type[Record], value: Any) -> Record:
    """The record whose fields a JSON object holds, each a number, a name, or a list or map of such.

    Lists become tuples, also those of records. Fields with a default may be missing.

    Raises:
        ValueError: a field is missing, unknown, or of another type than the record's.
    """
    name = kind.__name__.lower()
    if not isinstance(value, dict):
        raise ValueError(f"the {name} is {value!r}")
    hints = get_type_hints(kind)
    if unknown := sorted(set(value) - {field.name for field in fields(kind)}):  # type: ignore[arg-type]
        raise ValueError(f"the {name} holds an unknown {unknown[0]}")
    try:
        return kind(
            **{key: _as(hints[key], item, f"{name}'s {key}") for key, item in value.items()}
        )
    except TypeError:
        raise ValueError(f"the {name} lacks something") from None


def _as(hint: Any, value: Any, what: str) -> Any:
    """A value as the field of a record holds it."""
    if value is not None and (listed := _listed(hint)):
        hint = listed
    if get_origin(hint) is not tuple:
        if not fits(hint, value):
            raise ValueError(f"the {what} is {value!r}")
        return value
    if not isinstance(value, list | tuple):
        raise ValueError(f"the {what} is {value!r}")
    inside = get_args(hint)[0]
    if hasattr(inside, "__dataclass_fields__"):
        return tuple(record_of(inside, item) for item in value)
    return tuple(_as(inside, item, what) for item in value)


def _listed(hint: Any) -> Any:
    """The type of a list that may also be missing; None: it is no such type."""
    inside = [one for one in get_args(hint) if one is not NoneType]
    missing = NoneType in get_args(hint)
    return next((one for one in inside if missing and get_origin(one) is tuple), None)


def fits(hint: Any, value: Any) -> bool:
    """Whether a JSON value is what a type says; a float may be a whole number, and is finite."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inside
    if origin is Mapping:
        return isinstance(value, dict) and all(fits(inside[1], item) for item in value.values())
    if inside:  # one of several types
        return any(fits(one, value) for one in inside)
    if hint is float:
        return fits(int, value) or (isinstance(value, float) and math.isfinite(value))
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, NoneType if hint is None else hint)
