"""Cheap copies of networks as stages before the last: int8, fewer pixels, shorter, taught."""

from offramp.siblings.copies import Copy
from offramp.siblings.making import SiblingOptions, Siblings, make

__all__ = ["Copy", "SiblingOptions", "Siblings", "make"]
