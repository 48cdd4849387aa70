"""Recorded scores, for those who make traces themselves."""

from offramp.core.imports import import_scores
from offramp.core.trace import Trace, assemble

__all__ = ["Trace", "assemble", "import_scores"]
