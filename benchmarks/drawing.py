"""Figures of documents as SVG, the same bytes for the same numbers, without scripts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from offramp.report.figures import ExitsFigure, FrontierFigure, Series

_SETTINGS: Any = {
    "svg.hashsalt": "offramp",  # element names must not change from run to run
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": "cycler('color', ['#4477aa','#66ccee','#228833','#ccbb44','#ee8866',"
    "'#aa3377','#77aadd','#bbbbbb'])",
}
_STYLES: dict[str, dict[str, Any]] = {
    "learned": {"color": "#cc3311", "linewidth": 2.4, "zorder": 5},
    "rival": {"color": "#4477aa", "linewidth": 1.8, "zorder": 4},
    "peer": {"color": "#9aa5b1", "linewidth": 0.9, "zorder": 2},
    "policy": {"linewidth": 1.2, "alpha": 0.9},
    "static": {"color": "#555555", "marker": "s", "linestyle": "none"},
    "oracle": {"color": "#888888", "linestyle": ":", "linewidth": 1.2},
    "certified": {
        "color": "#cc3311",
        "marker": "*",
        "markersize": 15,
        "markeredgecolor": "white",
        "linestyle": "none",
        "zorder": 9,
    },
    "tested": {"color": "#4477aa", "marker": "o", "markersize": 4, "linewidth": 1},
}

_MUTED = "#66707a"  # of names that stand beside muted lines: dark enough to be read
_LEADER = {
    "arrowstyle": "-",
    "color": "#c5ccd3",
    "linewidth": 0.6,
    "shrinkA": 1,
    "shrinkB": 0,
    "relpos": (0.5, 0),  # from the foot of the name, not through it
}


@dataclass(frozen=True)
class SpeedupsFigure:
    """How much faster plans are on the clock, in groups of bars."""

    groups: tuple[str, ...]
    bars: dict[str, tuple[float, ...]]  # name -> a speed-up for each group


def draw_frontier(figure: FrontierFigure) -> str:
    """Excess loss against cost as an SVG element."""
    with matplotlib.rc_context(_SETTINGS):
        drawing, axes = _axes()
        low, high = _limits(figure)
        for ribbon in figure.ribbons:
            colour = _STYLES[ribbon.role]["color"]
            axes.fill_between(ribbon.cost, ribbon.low, ribbon.high, color=colour, alpha=0.15, lw=0)
        for series in figure.series:
            _draw(axes, series, high)
        _label_peers(axes, figure, high)
        if figure.budget is not None:
            axes.axhline(figure.budget, color="#cc3311", linewidth=0.8, linestyle="--")
            axes.annotate(
                "budget",
                (1, figure.budget),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
            )
        _draw_bound(axes, figure)
        axes.axhline(0, color="#dddddd", linewidth=0.8, zorder=0)
        axes.set_ylim(low, high)
        axes.set_xlim(0, _dearest(figure))
        axes.set_xlabel("cost, as a share of the reference's")
        axes.set_ylabel("net excess loss, percentage points")
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(drawing, "Excess loss against cost")


def draw_exits(figure: ExitsFigure) -> str:
    """Where inputs stop, by cost, as an SVG element."""
    with matplotlib.rc_context(_SETTINGS):
        drawing, axes = _axes()
        axes.stackplot(
            figure.cost, *figure.shares.values(), labels=list(figure.shares), linewidth=0
        )
        axes.set_ylim(0, 1)
        axes.set_xlabel("cost of the learned policy, as a share of the reference's")
        axes.set_ylabel("share of inputs that stop there")
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(drawing, "Where inputs stop, by cost")


def draw_speedups(figure: SpeedupsFigure) -> str:
    """Speed-ups on the clock as an SVG element."""
    with matplotlib.rc_context(_SETTINGS):
        drawing, axes = _axes()
        width = 0.8 / len(figure.bars)
        for number, (name, values) in enumerate(figure.bars.items()):
            left = [
                group + (number - (len(figure.bars) - 1) / 2) * width
                for group in range(len(values))
            ]
            drawn = axes.bar(left, values, width * 0.92, label=name)
            axes.bar_label(drawn, [f"{value:.2f}" for value in values], fontsize=6, padding=1)
        axes.axhline(1, color="#555555", linewidth=0.8, linestyle="--", zorder=0)
        axes.set_xticks(range(len(figure.groups)), figure.groups, fontsize=8)
        axes.set_ylabel("speed-up over the reference at its fastest")
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(drawing, "Speed-ups on the clock")


def _draw(axes: Axes, series: Series, high: float) -> None:
    if series.role == "static":
        _draw_static(axes, series, high)
        return
    style = dict(_STYLES[series.role])
    if len(series.cost) == 1 and series.role != "certified":
        style |= {"marker": style.get("marker", "o"), "markersize": 4, "linestyle": "none"}
    name = None if series.role == "peer" else series.name
    axes.plot(series.cost, series.excess_loss, label=name, **style)


def _draw_static(axes: Axes, series: Series, high: float) -> None:
    """Named at its point; one that loses more than is shown points out of the figure."""
    (cost,), (excess,) = series.cost, series.excess_loss
    beyond = excess > high
    style = _STYLES["static"] | ({"marker": "^"} if beyond else {})
    axes.plot(cost, min(excess, high), clip_on=False, **style)
    axes.annotate(
        f"{series.name}, {excess:+.1f}" if beyond else series.name,
        (cost, min(excess, high)),
        xytext=(5, -9 if beyond else 4),
        textcoords="offset points",
        fontsize=8,
        color="#555555",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
        zorder=7,
    )


def _label_peers(axes: Axes, figure: FrontierFigure, high: float) -> None:
    """The names of muted curves above the figure, in the order in which they leave it."""
    found = sorted(
        (_leaves(series, high), series.name) for series in figure.series if series.role == "peer"
    )
    width = _dearest(figure)
    places = _spread([cost for (cost, _), _ in found], 0.034 * width, width)
    for ((cost, excess), name), place in zip(found, places, strict=True):
        axes.annotate(
            name,
            (cost, excess),
            xytext=(place, 1.14),
            xycoords="data",
            textcoords=("data", "axes fraction"),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            color=_MUTED,
            arrowprops=_LEADER,
        )


def _leaves(series: Series, high: float) -> tuple[float, float]:
    """Where a hull, from the dearest corner to the cheapest, passes `high`, or where it ends."""
    if series.excess_loss[0] >= high or series.excess_loss[-1] <= high:
        end = 0 if series.excess_loss[0] >= high else -1
        return series.cost[end], min(series.excess_loss[end], high)
    return float(np.interp(high, series.excess_loss, series.cost)), high


def _spread(places: Sequence[float], apart: float, width: float) -> list[float]:
    """The places, rising, moved as little as keeps them `apart` and within the width."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, moved[-1] + apart) if moved else max(place, apart))
    for i in reversed(range(len(moved))):
        last = moved[i + 1] - apart if i + 1 < len(moved) else width
        moved[i] = min(moved[i], last)
    return moved


def _draw_bound(axes: Axes, figure: FrontierFigure) -> None:
    """A line from the certified point up to its confidence bound."""
    certified = [series for series in figure.series if series.role == "certified"]
    if certified and figure.bound is not None:
        cost, found = certified[0].cost[0], certified[0].excess_loss[0]
        axes.plot([cost, cost], [found, figure.bound], color="#cc3311", linewidth=1, zorder=8)


def _limits(figure: FrontierFigure) -> tuple[float, float]:
    """The range in which users choose; what lies far outside would hide it."""
    values = [y for series in figure.series if series.role != "oracle" for y in series.excess_loss]
    statics = [y for series in figure.series if series.role == "static" for y in series.excess_loss]
    highest = max([*statics, *([] if figure.budget is None else [2 * figure.budget]), 1.0])
    low = min([*values, *(y for ribbon in figure.ribbons for y in ribbon.low), 0.0])
    if figure.highest is not None and figure.highest < highest:
        return low - 0.1 * (figure.highest - low), figure.highest
    return low - 0.1 * (highest - low), highest + 0.1 * (highest - low)


def _dearest(figure: FrontierFigure) -> float:
    """A little more than the reference costs, and than what the plan runs does."""
    shown = ("learned", "rival", "static", "certified", "tested", "policy")
    return 1.05 * max([1.0, *(c for s in figure.series if s.role in shown for c in s.cost)])


def _axes(height: float = 4.2) -> tuple[Figure, Axes]:
    drawing = Figure(figsize=(7.4, height), layout="constrained")
    return drawing, drawing.subplots()


def _svg(drawing: Figure, says: str) -> str:
    text = io.StringIO()
    drawing.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    start = svg.index("<svg") + len("<svg")  # without the XML declaration, which HTML refuses
    return f'<svg role="img" aria-label="{says}"{svg[start:]}'
