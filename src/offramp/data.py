"""Examples in, for those who read them themselves."""

from offramp.networks.data import Examples, open_examples
from offramp.networks.images import decode

__all__ = ["Batch", "Examples", "decode", "open_examples"]
