"""Figures as charts in Vega-Lite's grammar: what stands where, in which colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp.report.figures import (
    ExitsFigure,
    FrontierFigure,
    GapFigure,
    Role,
    Series,
)

Spec = dict[str, Any]
HUES = tuple(f"hue{number}" for number in range(8))
# the page's style says which: one set of colours by day, one by night
PALETTE = {
    name: f"var(--{name})" for name in ("ink", "muted", "faint", "plan", "rival", "oracle", *HUES)
}

_COLOURS: Mapping[Role, str] = {
    "learned": "plan",
    "certified": "plan",
    "rival": "rival",
    "tested": "rival",
    "static": "ink",
    "oracle": "oracle",
}
_WIDTHS: Mapping[Role, float] = {"learned": 2.6, "rival": 2.0, "peer": 1.3}
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])
_SHAPES: Mapping[Role, str] = {"static": "square", "oracle": "diamond", "certified": "circle"}
_PLAIN = ("learned", "rival", "static", "certified", "tested", "policy")  # shown from the start
SOFT = "soft oracle"
_WIDE = 5.0  # beyond this ratio of costs an axis is logarithmic
_COST = "cost, as a share of the reference's"


@dataclass(frozen=True)
class Chart:
    """A picture, and the points beside which names stand that must not cross."""

    spec: Spec  # Vega-Lite
    named: bool = False  # its layer `anchors` holds what is named


@dataclass(frozen=True)
class CurveStyle:
    """How a series is drawn, the same in its picture and in its legend."""

    colour: str
    dash: Sequence[int]
    width: float


def shown_first(series: Series) -> bool:
    """Whether a reader sees it before asking for more."""
    return series.role in _PLAIN or (series.role == "oracle" and series.name != SOFT)


def looks(figure: FrontierFigure) -> dict[str, CurveStyle]:
    """How each series is drawn: what stands out in its own colour, all else in turn."""
    found, turn = dict[str, CurveStyle](), 0
    for series in figure.series:
        width = _WIDTHS.get(series.role, 1.6)
        if series.role in _COLOURS:
            dash = [2, 3] if series.role == "oracle" else [1, 0]
            found[series.name] = CurveStyle(PALETTE[_COLOURS[series.role]], dash, width)
        else:
            hue = PALETTE[HUES[turn % len(HUES)]]
            found[series.name] = CurveStyle(hue, _DASHES[turn // len(HUES) % len(_DASHES)], width)
            turn += 1
    return found


def frontier(figure: FrontierFigure) -> Chart:
    """Excess loss against cost; signal `shown` lists names, data `now` is where a dial stands."""
    seen = looks(figure)
    low, high = limits(figure)
    layers = [
        _ribbons(figure),
        *_rules(figure),
        _lines(figure, seen),
        *_points(figure, seen, high),
        _now(),
    ]
    first = [s.name for s in figure.series if shown_first(s)]
    spec = {
        "description": "Excess loss against cost",
        "params": [{"name": "shown", "value": first}],
        "layer": layers,
        "encoding": {
            "x": _costs(figure),
            "y": _axis("excess", "excess loss, percentage points", (low, high)),
        },
    }
    return Chart(_framed(spec, 360), named=True)


def exits(figure: ExitsFigure) -> Chart:
    """Where inputs stop, by cost; data `now` is where a dial stands."""
    settings = {cost: number for number, cost in enumerate(figure.cost)}  # stacked once at a cost
    rows = [
        {"cost": cost, "share": shares[number], "stage": stage, "place": place}
        for place, (stage, shares) in enumerate(figure.shares.items())
        for cost, number in settings.items()
    ]
    spec = {
        "description": "Where inputs stop, by cost",
        "layer": [
            {
                "data": {"values": rows},
                "mark": {"type": "area", "interpolate": "linear", "clip": True},
                "encoding": {
                    "y": _share(),
                    "order": {"field": "place"},
                    "color": _hues("stage", list(figure.shares)),
                },
            },
            {
                "data": {"name": "now", "values": []},
                "mark": {"type": "rule", "color": PALETTE["ink"], "strokeWidth": 2},
            },
        ],
        "encoding": {
            "x": {**_axis("cost", _COST, (min(figure.cost), max(figure.cost)), ".0%")},
        },
    }
    return Chart(_framed(spec, 260))


def gaps(figure: GapFigure) -> Chart:
    """Shares of the gap to the exact oracle, with their bands."""
    lowest = max(min([share.value for share in figure.shares] + [0.0]), -100.0)
    domain = (lowest - 5, 100)
    rows = [
        {
            "name": share.name,
            "value": max(share.value, domain[0]),
            "low": None if share.low is None else max(share.low, domain[0]),
            "high": None if share.high is None else max(share.high, domain[0]),
            "colour": PALETTE[_COLOURS.get(share.role, "muted")],
        }
        for share in figure.shares
    ]
    names = [share.name for share in figure.shares]
    colour = {"field": "colour", "type": "nominal", "scale": None}
    title = "share of the gap in cost closed, %"
    spec = {
        "description": "Shares of the gap closed",
        "data": {"values": rows},
        "layer": [
            {
                "mark": {"type": "rule", "strokeWidth": 2},
                "encoding": {"x": _axis("low", title, domain), "x2": {"field": "high"}},
            },
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {"x": _axis("value", title, domain)},
            },
        ],
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": names, "title": None},
            "color": colour,
        },
    }
    return Chart(_framed(spec, {"step": 20}))


def limits(figure: FrontierFigure) -> tuple[float, float]:
    """The range in which users choose; what lies far outside would hide it."""
    values = [y for series in figure.series if series.role != "oracle" for y in series.excess_loss]
    statics = [y for series in figure.series if series.role == "static" for y in series.excess_loss]
    highest = max([*statics, *([] if figure.budget is None else [2 * figure.budget]), 1.0])
    low = min([*values, *(y for ribbon in figure.ribbons for y in ribbon.low), 0.0])
    if figure.highest is not None and figure.highest < highest:
        return low - 0.1 * (figure.highest - low), figure.highest
    return low - 0.1 * (highest - low), highest + 0.1 * (highest - low)


def _costs(figure: FrontierFigure) -> Spec:
    """The axis of costs: by factors where the cheapest would crowd at the left end."""
    costs = [c for s in figure.series if s.role in _PLAIN for c in s.cost if c > 0]
    most, least = dearest(figure), min(costs, default=1.0)
    if least > most / _WIDE:
        return _axis("cost", _COST, (0, most), ".0%")
    found = _axis("cost", _COST + ", logarithmic", (least / 1.3, most * 1.1), "~p")
    found["scale"]["type"] = "log"
    return found


def dearest(figure: FrontierFigure) -> float:
    """A little more than the reference costs, and than what is shown at first does."""
    costs = [c for s in figure.series if s.role in _PLAIN for c in s.cost]
    return 1.05 * max([1.0, *costs])


def _ribbons(figure: FrontierFigure) -> Spec:
    rows = [
        {"name": r.name, "cost": c, "low": low, "high": high, "colour": PALETTE[_COLOURS[r.role]]}
        for r in figure.ribbons
        for c, low, high in zip(r.cost, r.low, r.high, strict=True)
    ]
    return {
        "data": {"values": rows},
        "transform": [_IS_SHOWN],
        "mark": {"type": "area", "opacity": 0.15, "clip": True},
        "encoding": {
            "y": {"field": "low", "type": "quantitative"},
            "y2": {"field": "high"},
            "detail": {"field": "name"},
            "color": _COLOUR,
        },
    }


def _rules(figure: FrontierFigure) -> list[Spec]:
    """The line of no loss, the budget, and from the certified point up to its bound."""
    grey = {"type": "rule", "color": PALETTE["muted"], "strokeWidth": 0.8}
    rules: list[Spec] = [_level(0.0, grey)]
    if figure.budget is not None:
        rules.append(
            _level(figure.budget, {**grey, "color": PALETTE["plan"], "strokeDash": [6, 4]})
        )
    for series in figure.series:
        if series.role == "certified" and figure.bound is not None:
            row = {"cost": series.cost[0], "excess": series.excess_loss[0], "end": figure.bound}
            mark = {"type": "rule", "color": PALETTE["plan"], "strokeWidth": 1.5, "clip": True}
            encoding = {"y2": {"field": "end"}}
            rules.append({"data": {"values": [row]}, "mark": mark, "encoding": encoding})
    return rules


def _level(excess: float, mark: Spec) -> Spec:
    across = {"x": {"value": 0}, "x2": {"value": "width"}}
    return {"data": {"values": [{"excess": excess}]}, "mark": mark, "encoding": across}


def _lines(figure: FrontierFigure, seen: Mapping[str, CurveStyle]) -> Spec:
    rows = [
        {"name": s.name, "cost": c, "excess": e, "order": number, **_drawn(seen[s.name])}
        for s in figure.series
        if len(s.cost) > 1
        for number, (c, e) in enumerate(zip(s.cost, s.excess_loss, strict=True))
    ]
    return {
        "name": "curves",
        "data": {"values": rows},
        "transform": [_IS_SHOWN],
        "mark": {"type": "line", "clip": True},
        "encoding": {
            "detail": {"field": "name"},
            "order": {"field": "order"},
            "color": _COLOUR,
            "strokeDash": {"field": "dash", "type": "nominal", "scale": None},
            "strokeWidth": {"field": "width", "type": "quantitative", "scale": None},
        },
    }


def _points(figure: FrontierFigure, seen: Mapping[str, CurveStyle], high: float) -> list[Spec]:
    """Single points; one that loses more than is shown points out of the figure."""
    rows = []
    for series in figure.series:
        if len(series.cost) == 1:
            beyond = series.excess_loss[0] > high
            shape = "triangle-up" if beyond else _SHAPES.get(series.role, "circle")
            says = f"{series.name}, {series.excess_loss[0]:+.1f}" if beyond else series.name
            place = {"cost": series.cost[0], "excess": min(series.excess_loss[0], high)}
            size = 150 if series.role == "certified" else 60
            look = {"shape": shape, "size": size, **_drawn(seen[series.name])}
            rows.append({"name": series.name, "says": says, **place, **look})
    ends = [_end(s, high) | _drawn(seen[s.name]) for s in figure.series if _has_end(s)]
    if figure.budget is not None:
        at = {"cost": dearest(figure) / 1.05, "excess": figure.budget, "colour": PALETTE["plan"]}
        ends.append({"name": _ALWAYS, "says": "budget", **at})
    marks: Spec = {"type": "point", "filled": True, "opacity": 1}
    sized = {"field": "size", "type": "quantitative", "scale": None}
    encoding = {
        "color": _COLOUR,
        "shape": {"field": "shape", "type": "nominal", "scale": None},
        "size": sized,
    }
    drawn = {"data": {"values": rows}, "transform": [_IS_SHOWN], "mark": marks}
    hidden = {"type": "point", "opacity": 0, "size": 60, "aria": False}
    anchors = {"data": {"values": [*rows, *ends]}, "transform": [_IS_SHOWN], "mark": hidden}
    return [{**drawn, "encoding": encoding}, {"name": "anchors", **anchors}]


def _has_end(series: Series) -> bool:
    return len(series.cost) > 1 and series.role in ("learned", "rival", "oracle", "policy")


def _end(series: Series, high: float) -> Spec:
    """Where a curve is named: half way up what is shown of it."""
    inside = [e for e in series.excess_loss if e <= high] or [series.excess_loss[0]]
    middle = (min(inside) + max(inside)) / 2
    cost = float(np.interp(middle, series.excess_loss, series.cost))
    return {"name": series.name, "says": series.name, "cost": cost, "excess": middle}


def _now() -> Spec:
    mark = {"type": "point", "size": 220, "stroke": PALETTE["ink"], "strokeWidth": 2.5}
    return {"data": {"name": "now", "values": []}, "mark": {**mark, "clip": True, "opacity": 1}}


_ALWAYS = ""  # the name of what no legend takes away
_IS_SHOWN = {"filter": f"datum.name === '{_ALWAYS}' || indexof(shown, datum.name) >= 0"}
_COLOUR = {"field": "colour", "type": "nominal", "scale": None}


def _drawn(look: CurveStyle) -> Spec:
    return {"colour": look.colour, "dash": list(look.dash), "width": look.width}


def _axis(field: str, title: str, domain: tuple[float, float] | None, form: str = "") -> Spec:
    scale = {} if domain is None else {"scale": {"domain": list(domain), "nice": False}}
    axis = {"axis": {"format": form}} if form else {}
    return {"field": field, "type": "quantitative", "title": title, **scale, **axis}


def _share() -> Spec:
    axis = _axis("share", "share of inputs that stop there", (0, 1), ".0%")
    return {**axis, "stack": "zero"}


def _hues(field: str, names: Sequence[str]) -> Spec:
    hues = [PALETTE[HUES[number % len(HUES)]] for number in range(len(names))]
    legend = {"orient": "bottom", "columns": 3, "title": None, "symbolOpacity": 1}
    scale = {"domain": list(names), "range": hues}
    return {"field": field, "type": "nominal", "scale": scale, "legend": legend}


def _framed(spec: Spec, height: int | Spec) -> Spec:
    ink, faint = PALETTE["ink"], PALETTE["faint"]
    colours = {"labelColor": ink, "titleColor": ink}
    axis = {**colours, "gridColor": faint, "domainColor": faint, "tickColor": faint}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": "container",
        "height": height,
        "background": None,
        **spec,
        "config": {
            "font": "system-ui, sans-serif",
            "view": {"stroke": None},
            "axis": {**axis, "titleFontWeight": "normal", "gridOpacity": 0.6},
            "legend": {**colours, "labelLimit": 140},
        },
    }
