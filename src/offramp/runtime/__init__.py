"""Drivers of the walk, one per engine."""

from offramp.runtime.driver import Answers, Runtime, infer
from offramp.runtime.onnxruntime import OnnxRuntime

__all__ = ["Answers", "OnnxRuntime", "Runtime", "infer"]
