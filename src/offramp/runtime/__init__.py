"""Drivers of plans, one per engine: the walk driven from outside, or inside a file.

Each is loaded when it is asked for, so that what runs an exported file loads nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offramp.runtime.driver import Driver, Runtime, Walker, infer
    from offramp.runtime.format import Answers
    from offramp.runtime.onnxruntime import OnnxRuntime
    from offramp.runtime.routed import Routed
    from offramp.runtime.single import SingleFile

__all__ = [
    "Answers",
    "Driver",
    "OnnxRuntime",
    "Routed",
    "Runtime",
    "SingleFile",
    "Walker",
    "infer",
]

_HOMES = {
    "driver": "Driver Runtime Walker infer",
    "format": "Answers",
    "onnxruntime": "OnnxRuntime",
    "routed": "Routed",
    "single": "SingleFile",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'offramp.runtime' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"offramp.runtime.{_HOME[name]}"), name)
    return found
