"""What came of optimising: the static networks, the plan beside them, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from offramp.plan.plan import Plan
from offramp.promise.certify import KEEP
from offramp.study.bench import Bench, Timing
from offramp.study.contestants import ONE_FILE, STAGE_FILES


@dataclass(frozen=True, kw_only=True)
class Fastest:
    """One way to answer, at one batch size."""

    what: str  # reference, int8, bfloat16 or plan
    name: str  # of what ran, and on which engine
    batch: int  # examples of a request
    ms: float  # per request
    speedup: float  # over the reference in fp32 on its fastest engine
    changed: float  # share of answers that are not the reference's
    error: float | None  # share of wrong answers; None: there are no labels


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """The whole of what `optimize` found.

    Attributes:
        folder: that holds `plan`, `model.onnx`, `report.html`, and what they were made of.
        siblings: what `Siblings.to_json` said of the copies.
        certificate: what `Certificate.to_json` said.
        plan: whose policy decides, or which keeps the reference.
        rows: at each batch size the reference, int8 and bfloat16 of it, and the plan: the fastest
            of each kind.
        notes: sentences on what was left out of the way.
        seconds: that each step took.
    """

    folder: Path
    siblings: Mapping[str, Any]
    certificate: Mapping[str, Any]
    plan: Plan
    rows: Sequence[Fastest]
    notes: Sequence[str]
    seconds: Mapping[str, float]

    @property
    def keeps(self) -> bool:
        """Whether the reference stays: nothing cheaper could be certified."""
        return self.plan.certificate.verdict == KEEP

    def speedup(self, batch: int, what: str = "plan") -> float:
        """Over the fastest fp32 runtime of the reference, on the clock."""
        return next(r.speedup for r in self.rows if (r.what, r.batch) == (what, batch))

    def to_json(self) -> dict[str, Any]:
        return {
            "certificate": dict(self.certificate),
            "siblings": dict(self.siblings),
            "clock": [asdict(row) for row in self.rows],
            "notes": list(self.notes),
            "seconds": dict(self.seconds),
        }


def fastest_of_each(found: Bench) -> list[Fastest]:
    """The reference, in fewer bits, and the plan: the fastest of each kind, at one batch size."""
    groups = {
        "reference": [timing for timing in found.contestants if timing.best],
        "int8": [t for t in found.contestants if t.reduced and ", int8" in t.name],
        "bfloat16": [t for t in found.contestants if t.reduced and "bfloat16" in t.name],
        "plan": [
            timing
            for timing in found.contestants
            if timing.name.startswith((ONE_FILE, STAGE_FILES))
        ],
    }
    return [
        _as(what, max(group, key=lambda timing: timing.speedup), found.batch)
        for what, group in groups.items()
        if group
    ]


def _as(what: str, timing: Timing, batch: int) -> Fastest:
    return Fastest(
        what=what,
        name=timing.name,
        batch=batch,
        ms=timing.ms,
        speedup=timing.speedup,
        changed=timing.changed,
        error=timing.error,
    )
