"""Engines, and what drives plans on them: the walk driven from outside, or inside a file.

Each is loaded when it is asked for, so that what runs an exported file loads nothing else.
"""

from typing import TYPE_CHECKING

from offramp.base.lazy import from_homes

if TYPE_CHECKING:
    from offramp.runtime.calls import Calls, PerRow
    from offramp.runtime.driver import Driver, Walker, infer
    from offramp.runtime.engine import Engine, Program, Value, engine_named
    from offramp.runtime.format import Answers
    from offramp.runtime.routed import Routed
    from offramp.runtime.single import SingleFile
    from offramp.runtime.stages import OnnxRuntime, Stages

__all__ = [
    "Answers",
    "Calls",
    "Driver",
    "Engine",
    "OnnxRuntime",
    "PerRow",
    "Program",
    "Routed",
    "SingleFile",
    "Stages",
    "Value",
    "Walker",
    "engine_named",
    "infer",
]

_MODULES = {
    "calls": "Calls PerRow",
    "driver": "Driver Walker infer",
    "engine": "Engine Program Value engine_named",
    "format": "Answers",
    "routed": "Routed",
    "single": "SingleFile",
    "stages": "OnnxRuntime Stages",
}
__getattr__ = from_homes(
    "offramp.runtime",
    {n: f"offramp.runtime.{module}" for module, names in _MODULES.items() for n in names.split()},
)
