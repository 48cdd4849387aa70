"""All of a server together: versions, ports, and what is seen from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from offramp.serving.address import Address, Door
from offramp.serving.brownout import Rung
from offramp.serving.listening import Listener
from offramp.serving.opening import Opening
from offramp.serving.shelf import Shelf
from offramp.serving.telemetry import Telemetry


class Server:
    """A plan behind an address.

    Args:
        folder: of a plan, or of the plans of several budgets.
        opening: how it is opened.
        address: where it listens.
        door: what may come in.

    Raises:
        PlanError: no plan, or a damaged one.
        NetworkError: a network that does not load.
    """

    def __init__(
        self, folder: Path, opening: Opening, *, address: Address, door: Door | None = None
    ) -> None:
        self.shelf = Shelf(opening.name)
        self.telemetry = Telemetry(self.shelf)
        self.shelf.put(opening.open(folder, "1", self.telemetry.observer()))
        self.listener = Listener(self.shelf, address, door, self.telemetry)

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serves until it is asked to end, and answers what is inside.

        Args:
            started: called once it listens.

        Raises:
            StorageError: a port that cannot be had.
        """
        self.listener.run(started)

    def lines(self) -> list[str]:
        """Where it listens and with what, once it does."""
        own, current = self.listener, self.shelf.current
        scheme = "http" if own.address.certificate is None else "https"
        at = f"{scheme}://{own.address.host}:{own.port}"
        said = [f"{at}: '{self.shelf.name}' by /v2/models/{self.shelf.name}/infer; live page at /"]
        if own.grpc_port is not None:
            said.append(f"{own.address.host}:{own.grpc_port}: the same over gRPC")
        if current is not None:
            said.append(current.service.threads())
            said += _levels(current.service.levels)
        return said


def _levels(levels: Sequence[Rung]) -> list[str]:
    if len(levels) == 1:
        return []
    saved = levels[0].cost / levels[-1].cost
    return [
        f"brown-out: {len(levels)} levels, at most {levels[-1].budget:g} excess loss; the last "
        f"costs {saved:.2f} times less than the first"
    ]
