"""Packages whose names are imported when somebody asks for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import FunctionType
from typing import Any


def from_homes(
    package: str, homes: Mapping[str, str], door: Callable[[Any], Any] = lambda found: found
) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562).

    Args:
        package: its name.
        homes: name -> the module that it is imported from.
        door: what functions go through on their way out.
    """

    def found(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        named = getattr(import_module(homes[name]), name)
        return door(named) if isinstance(named, FunctionType) else named

    return found
