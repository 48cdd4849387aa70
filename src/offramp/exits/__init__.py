"""Early exits in an existing network: where to cut, heads, placement."""

from offramp.exits.attach import Exits, Settings, add_exits, candidates
from offramp.exits.cutting import Cut, Point

__all__ = ["Cut", "Exits", "Point", "Settings", "add_exits", "candidates"]
