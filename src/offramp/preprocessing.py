"""How images become what networks read."""

from offramp.networks.preprocessing import Preprocessing

__all__ = ["Preprocessing"]
