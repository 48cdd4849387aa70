"""A plan behind an address: queues, protocols, the guard, versions, and what is seen from outside.

Each is loaded when it is asked for, so that an engine without a network loads no server.
"""

from typing import TYPE_CHECKING

from offramp.base.lazy import from_homes

if TYPE_CHECKING:
    from offramp.serving.address import Address, Door
    from offramp.serving.app import asgi
    from offramp.serving.listening import Listener
    from offramp.serving.models import ServedPlan
    from offramp.serving.service import Limits, Served, Service
    from offramp.serving.shelf import Shelf
    from offramp.serving.telemetry import Telemetry

__all__ = [
    "Address",
    "Door",
    "Limits",
    "Listener",
    "Served",
    "ServedPlan",
    "Service",
    "Shelf",
    "Telemetry",
    "asgi",
]

_MODULES = {
    "address": "Address Door",
    "app": "asgi",
    "listening": "Listener",
    "models": "ServedPlan",
    "service": "Limits Served Service",
    "shelf": "Shelf",
    "telemetry": "Telemetry",
}
__getattr__ = from_homes(
    "offramp.serving",
    {n: f"offramp.serving.{module}" for module, names in _MODULES.items() for n in names.split()},
)
