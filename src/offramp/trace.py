"""Recorded scores, for those who make traces themselves."""

from offramp.core.imports import import_scores
from offramp.core.rows import RowFacts
from offramp.core.trace import Trace, assemble

__all__ = ["RowFacts", "Trace", "assemble", "import_scores"]
