"""From a folder to a model that answers: plans are read, networks opened, and run once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.plan.plan import read_plans
from offramp.runtime.engine import Engine
from offramp.serving.auditing import Auditing, Auditor
from offramp.serving.models import ServedPlan
from offramp.serving.service import Limits, Service

if TYPE_CHECKING:
    from offramp.serving.telemetry import Telemetry


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How plans are opened, whichever version it is."""

    name: str  # that clients ask for
    brown_out: float | None = None  # the largest budget that load may use
    engine: Engine | str = "onnxruntime"
    threads: int = 1  # of each network
    limits: Limits = field(default_factory=Limits)
    auditing: Auditing | None = None  # None: nothing is audited

    def open(self, folder: Path, version: str, telemetry: Telemetry | None = None) -> ServedPlan:
        """A model from a folder that `offramp fit` wrote, once it has answered a blank row.

        Args:
            folder: of a plan, or of the plans of several budgets.
            version: that clients may ask for.
            telemetry: told what happens.

        Raises:
            PlanError: no plan, a damaged one, or plans that do not belong together.
            NetworkError: a network that does not load, or fails.
            InputError: audits cannot be kept where they should be.
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
            if self.auditing is not None:
                count = telemetry.audits.inc if telemetry else lambda rows: None
                model.auditor = Auditor(service, self.auditing, count)
        except BaseException:
            service.close(0.0)
            raise
        if telemetry is not None:
            service.observer = telemetry.observer(model)
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
