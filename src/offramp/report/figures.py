"""Figures as numbers: what a drawing shows, and nothing about how."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from offramp.certify import Certificate
from offramp.compare import Comparison
from offramp.frontier import Point, hull

Role = Literal["learned", "policy", "static", "oracle", "certified", "tested"]


@dataclass(frozen=True)
class Series:
    """Some points under one name."""

    name: str
    role: Role
    cost: tuple[float, ...]  # share of the reference's
    excess_loss: tuple[float, ...]  # percentage points


@dataclass(frozen=True)
class FrontierFigure:
    """Excess loss against cost."""

    series: tuple[Series, ...]
    budget: float | None = None  # percentage points
    bound: float | None = None  # upper confidence bound at the certified point, percentage points


@dataclass(frozen=True)
class ExitsFigure:
    """Where inputs stop as the dial turns."""

    cost: tuple[float, ...]  # share of the reference's, rising
    shares: dict[str, tuple[float, ...]]  # stage -> share of the inputs that stop there


@dataclass(frozen=True)
class SpeedupsFigure:
    """How much faster plans are on the clock, in groups of bars."""

    groups: tuple[str, ...]
    bars: dict[str, tuple[float, ...]]  # name -> a speed-up for each group


def frontiers(found: Comparison, certificate: Certificate | None = None) -> FrontierFigure:
    """Every policy, every single network, the oracles and the certified point."""
    unit = found.reference_cost
    series = [_curve(name, points, unit) for name, points in found.policies.items()]
    statics = [_series(name, "static", [point], unit) for name, point in found.static.items()]
    oracles = [
        _series("exact oracle", "oracle", hull(found.exact_oracle), unit),
        _series("soft oracle", "oracle", [found.soft_oracle], unit),
    ]
    if certificate is None:
        return FrontierFigure((*series, *statics, *oracles))
    certified = _certified(certificate)
    return FrontierFigure(
        (*series, *statics, *oracles, certified), certificate.budget * 100, certificate.bound * 100
    )


def certified_path(certificate: Certificate) -> FrontierFigure:
    """The points that were tested, on the certification examples."""
    unit = certificate.reference_cost
    tested = Series(
        "tested",
        "tested",
        tuple(point.cost / unit for point in certificate.points),
        tuple(point.excess_loss * 100 for point in certificate.points),
    )
    return FrontierFigure(
        (tested, _certified(certificate)), certificate.budget * 100, certificate.bound * 100
    )


def exits(points: Sequence[Point], stages: Iterable[str], reference_cost: float) -> ExitsFigure:
    """The shares of inputs that stop at each stage, by the cost of the setting."""
    ordered = sorted(points, key=lambda point: point.cost)
    return ExitsFigure(
        tuple(point.cost / reference_cost for point in ordered),
        {stage: tuple(point.exits[stage] for point in ordered) for stage in stages},
    )


def _curve(name: str, points: Sequence[Point], unit: float) -> Series:
    return _series(name, "learned" if name == "learned" else "policy", hull(points), unit)


def _series(name: str, role: Role, points: Sequence[Point], unit: float) -> Series:
    return Series(
        name,
        role,
        tuple(point.cost / unit for point in points),
        tuple(point.excess_loss * 100 for point in points),
    )


def _certified(certificate: Certificate) -> Series:
    """What the plan runs; of a single network only the bound is on record."""
    observed = certificate.bound
    if certificate.tradeoff is not None:
        chosen = [p for p in certificate.points if p.tradeoff == certificate.tradeoff]
        observed = chosen[0].excess_loss
    share = certificate.cost / certificate.reference_cost
    return Series("certified", "certified", (share,), (observed * 100,))
