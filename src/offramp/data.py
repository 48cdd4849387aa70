"""Examples in, for those who read them themselves."""

from offramp.networks.data import ExampleBatch, Examples, open_examples
from offramp.networks.images import decode

__all__ = ["ExampleBatch", "Examples", "decode", "open_examples"]
