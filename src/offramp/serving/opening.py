"""From a folder to a model that answers: plans are read, networks opened, and run once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.plan.plan import read_plans
from offramp.runtime.engine import Engine
from offramp.serving.models import ServedPlan
from offramp.serving.service import Limits, Observer, Service


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How plans are opened, whichever version it is."""

    name: str  # that clients ask for
    brown_out: float | None = None  # the largest budget that load may use
    engine: Engine | str = "onnxruntime"
    threads: int = 1  # of each network
    limits: Limits = field(default_factory=Limits)

    def open(self, folder: Path, version: str, observer: Observer | None = None) -> ServedPlan:
        """A model from a folder that `offramp fit` wrote, once it has answered a blank row.

        Raises:
            PlanError: no plan, a damaged one, or plans that do not belong together.
            NetworkError: a network that does not load, or fails.
        """
        service = Service(
            read_plans(folder),
            brown_out=self.brown_out,
            engine=self.engine,
            threads=self.threads,
            limits=self.limits,
        )
        try:
            model = ServedPlan(self.name, version, service)
            _try(model)
        except BaseException:
            service.close(0.0)
            raise
        service.observer = observer or service.observer
        return model


def _try(model: ServedPlan) -> None:
    """Runs every stage on a row of zeros, where networks say what they read."""
    blank: dict[str, AnyArray] = {}
    for name in model.sources:
        value = model.reads[name]
        sizes = (value.shape or ("",))[1:]
        if not all(isinstance(size, int) for size in sizes) or isinstance(value.dtype, str | None):
            return
        blank[name] = np.zeros((1, *(size for size in sizes if isinstance(size, int))), value.dtype)
    recorded = model.service.record(blank)
    if recorded is not None:
        recorded.result()


def model_name(folder: Path) -> str:
    """What a folder's plan is called where nobody says: as the folder."""
    return folder.resolve().name
