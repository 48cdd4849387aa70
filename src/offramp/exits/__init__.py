"""Early exits in an existing network: where to cut, heads, placement."""

from offramp.exits.attach import ExitOptions, add_exits, candidate_points
from offramp.exits.cutting import Cut, ExitPoint
from offramp.exits.outputs import Exits

__all__ = ["Cut", "ExitOptions", "ExitPoint", "Exits", "add_exits", "candidate_points"]
