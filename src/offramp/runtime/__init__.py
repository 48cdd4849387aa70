"""Drivers of plans, one per engine: the walk driven from outside, or inside a file.

Each is loaded when it is asked for, so that what runs an exported file loads nothing else.
"""

from typing import TYPE_CHECKING

from offramp.base.lazy import from_homes

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

_MODULES = {
    "driver": "Driver Runtime Walker infer",
    "format": "Answers",
    "onnxruntime": "OnnxRuntime",
    "routed": "Routed",
    "single": "SingleFile",
}
__getattr__ = from_homes(
    "offramp.runtime",
    {n: f"offramp.runtime.{module}" for module, names in _MODULES.items() for n in names.split()},
)
