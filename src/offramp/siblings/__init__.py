"""Cheap copies of one network as stages before it: in int8, on fewer pixels, and both."""

from offramp.siblings.copies import Copy
from offramp.siblings.making import SiblingOptions, Siblings, make

__all__ = ["Copy", "SiblingOptions", "Siblings", "make"]
