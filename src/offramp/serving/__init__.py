"""A plan behind an address: queues, protocols, the guard, versions, and what is seen from outside.

Each is loaded when it is asked for, so that an engine without a network loads no server.
"""

from typing import TYPE_CHECKING

from offramp.base.lazy import from_homes

if TYPE_CHECKING:
    from offramp.serving.app import Door, asgi
    from offramp.serving.models import Model
    from offramp.serving.service import Limits, Served, Service

__all__ = ["Door", "Limits", "Model", "Served", "Service", "asgi"]

_MODULES = {"app": "Door asgi", "models": "Model", "service": "Limits Served Service"}
__getattr__ = from_homes(
    "offramp.serving",
    {n: f"offramp.serving.{module}" for module, names in _MODULES.items() for n in names.split()},
)
