"""All of a server together: versions, ports, and what is seen from outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from offramp.serving.address import Address, Door
from offramp.serving.brownout import Rung
from offramp.serving.listening import Listener
from offramp.serving.models import ServedPlan
from offramp.serving.opening import Opening
from offramp.serving.shelf import Shelf
from offramp.serving.telemetry import Telemetry
from offramp.serving.versions import Canary, Versions, is_plan

_EVERY_S = 2.0  # between looks at a folder of versions


class Server:
    """A plan behind an address, and newer versions of it as they come.

    Args:
        folder: of a plan, of the plans of several budgets, or of versions of either.
        opening: how they are opened.
        address: where it listens.
        door: what may come in.
        canary: how a new version is tried.

    Raises:
        PlanError: no plan, or a damaged one.
        NetworkError: a network that does not load.
    """

    def __init__(
        self,
        folder: Path,
        opening: Opening,
        *,
        address: Address,
        door: Door | None = None,
        canary: Canary | None = None,
    ) -> None:
        self.opening, self.single = opening, is_plan(folder)
        self.shelf = Shelf(opening.name)
        self.telemetry = Telemetry(self.shelf)
        self.versions = Versions(folder, self.shelf, self._open, canary)
        self.listener = Listener(self.shelf, address, door, self.telemetry)

    def _open(self, folder: Path, version: str) -> ServedPlan:
        opening, auditing = self.opening, self.opening.auditing
        if auditing is not None and auditing.folder is not None and not self.single:
            own = replace(auditing, folder=auditing.folder / version)  # each may be another system
            opening = replace(opening, auditing=own)
        return opening.open(folder, version, self.telemetry)

    def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Serves until it is asked to end, and answers what is inside.

        Args:
            started: called once it listens.

        Raises:
            StorageError: a port that cannot be had.
        """
        self.versions.follow(_EVERY_S)
        try:
            self.listener.run(started)
        finally:
            self.versions.close()

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
