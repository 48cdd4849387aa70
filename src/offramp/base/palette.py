"""Colours of stages: the same for a stage wherever it is shown, in tables and in pictures."""

from __future__ import annotations

STAGE_COLOURS = (
    "#4477aa",  # blue: the root
    "#2a8a3c",
    "#b0467f",
    "#b35f1e",
    "#1a8796",
    "#7d64cf",
    "#87791c",
    "#c1514a",
)
"""By position in the graph, over again where there are more stages; each has a contrast of at
least 3.5 both to black and to white, so that it can be read on any terminal and on paper."""


def colour(position: int) -> str:
    """The colour of the stage at a position of `Graph.order`, the root's being 0."""
    return STAGE_COLOURS[position % len(STAGE_COLOURS)]
