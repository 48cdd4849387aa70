"""Drivers of plans, one per engine: the walk driven from outside, or inside a file."""

from offramp.runtime.driver import Answers, Driver, Runtime, Walker, infer
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
