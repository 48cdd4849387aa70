"""From a network and examples to one certified file: the whole way, step by step."""

from offramp.optimizing.outcome import Fastest, Optimized
from offramp.optimizing.steps import optimize

__all__ = ["Fastest", "Optimized", "optimize"]
