"""Figures as numbers: what a drawing shows, and nothing about how."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from offramp.core.frontier import Point, hull
from offramp.core.hulls import LEVELS
from offramp.promise.certify import Certificate
from offramp.study.compare import OWN, Comparison, Row

Role = Literal["learned", "rival", "peer", "policy", "static", "oracle", "certified", "tested"]
OWN_CURVE = "this plan"  # the name of its own curve
_SHOWN = 100 * 1.5 * LEVELS[-1]  # percentage points; beyond, nobody chooses


@dataclass(frozen=True)
class Series:
    """Some points under one name."""

    name: str
    role: Role
    cost: tuple[float, ...]  # share of the reference's
    excess_loss: tuple[float, ...]  # percentage points


@dataclass(frozen=True, kw_only=True)
class Ribbon:
    """A confidence band around a curve."""

    name: str
    role: Role
    cost: tuple[float, ...]  # share of the reference's, rising
    low: tuple[float, ...]  # percentage points
    high: tuple[float, ...]  # percentage points


@dataclass(frozen=True, kw_only=True)
class FrontierFigure:
    """Excess loss against cost."""

    series: tuple[Series, ...]
    budget: float | None = None  # percentage points
    bound: float | None = None  # upper confidence bound at the certified point, percentage points
    ribbons: tuple[Ribbon, ...] = ()
    highest: float | None = None  # excess loss shown, percentage points; None: all but oracles


@dataclass(frozen=True)
class ExitsFigure:
    """Where inputs stop as the dial turns."""

    cost: tuple[float, ...]  # share of the reference's, rising
    shares: dict[str, tuple[float, ...]]  # stage -> share of the inputs that stop there


@dataclass(frozen=True, kw_only=True)
class Share:
    """How much of the gap to the exact oracle something closes."""

    name: str
    role: Role
    value: float  # percent
    low: float | None  # percent
    high: float | None  # percent


@dataclass(frozen=True)
class GapFigure:
    """Shares of the gap in cost, the largest first."""

    shares: tuple[Share, ...]


def frontiers(
    found: Comparison, certificate: Certificate | None = None, own: Sequence[Point] = ()
) -> FrontierFigure:
    """Every policy, every single network, the oracles and the certified point.

    A plan's `own` points stand out, or else the default policy, and so does the best other one,
    with their bands where there are any.
    """
    unit = found.reference_cost
    roles = {name: _role(name, found, own) for name in found.policies}
    mine = (_series(OWN_CURVE, "learned", hull(own), unit),) if own else ()
    curves = [
        _series(name, roles[name], hull(points), unit) for name, points in found.policies.items()
    ]
    statics = [_series(name, "static", [point], unit) for name, point in found.static.items()]
    oracles = [
        _series("exact oracle", "oracle", hull(found.exact_oracle), unit),
        _series("soft oracle", "oracle", [found.soft_oracle], unit),
    ]
    ribbons = (*_own_ribbon(own, unit), *_ribbons(found, roles))
    series = (*mine, *curves, *statics, *oracles)
    if certificate is None:
        return FrontierFigure(series=series, ribbons=ribbons, highest=_SHOWN)
    budget, bound = certificate.budget * 100, certificate.bound * 100
    return FrontierFigure(
        series=(*series, _certified(certificate)),
        budget=budget,
        bound=bound,
        ribbons=ribbons,
        highest=max(_SHOWN, 2 * budget),
    )


def gaps(found: Comparison) -> GapFigure:
    """Every policy and every network alone; the oracle closes all of it by definition."""
    rows = [row for row in found.rows if row.kind != "oracle"]
    return GapFigure(tuple(_gap(row, found) for row in rows))


def _gap(row: Row, found: Comparison) -> Share:
    gap = row.summary.gap_cost.times(100)
    role = _role(row.name, found) if row.kind == "policy" else "static"
    return Share(name=row.name, role=role, value=gap.value, low=gap.low, high=gap.high)


def _role(policy: str, found: Comparison, own: Sequence[Point] = ()) -> Role:
    if policy == OWN:
        return "peer" if own else "learned"
    return "rival" if policy == found.rival else "peer"


def _ribbons(found: Comparison, roles: Mapping[str, Role]) -> Iterator[Ribbon]:
    for name in found.summaries:
        band, role = found.summaries[name].frontier, roles[name]
        if band and role != "peer":
            low, high = (tuple((100 * end).tolist()) for end in (band.low, band.high))
            cost = tuple((band.cost / found.reference_cost).tolist())
            yield Ribbon(name=name, role=role, cost=cost, low=low, high=high)


def _own_ribbon(own: Sequence[Point], unit: float) -> Iterator[Ribbon]:
    """The intervals of the corners of the plan's curve, from the cheapest on."""
    corners = [(p.cost / unit, p.interval) for p in reversed(hull(own))] if own else []
    ends = [(cost, *interval) for cost, interval in corners if interval]
    if len(ends) > 1:
        cost, low, high = zip(*ends, strict=True)
        yield Ribbon(
            name=OWN_CURVE,
            role="learned",
            cost=cost,
            low=tuple(100 * end for end in low),
            high=tuple(100 * e for e in high),
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
        series=(tested, _certified(certificate)),
        budget=certificate.budget * 100,
        bound=certificate.bound * 100,
    )


def exits(points: Sequence[Point], stages: Iterable[str], reference_cost: float) -> ExitsFigure:
    """The shares of inputs that stop at each stage, by the cost of the setting."""
    ordered = sorted(points, key=lambda point: point.cost)
    return ExitsFigure(
        tuple(point.cost / reference_cost for point in ordered),
        {stage: tuple(point.exits[stage] for point in ordered) for stage in stages},
    )


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
