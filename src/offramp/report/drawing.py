"""Figures as SVG, the same bytes for the same numbers."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from offramp.errors import MissingExtra
from offramp.report.figures import ExitsFigure, FrontierFigure, Series, SpeedupsFigure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def draw_frontier(figure: FrontierFigure) -> str:
    """Excess loss against cost as an SVG element."""
    with _settings():
        drawing, axes = _axes()
        for series in figure.series:
            _draw(axes, series)
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
        axes.set_ylim(*_limits(figure))
        axes.set_xlim(left=0)
        axes.set_xlabel("cost, as a share of the reference's")
        axes.set_ylabel("net excess loss, percentage points")
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(drawing)


def draw_exits(figure: ExitsFigure) -> str:
    """Where inputs stop, by cost, as an SVG element."""
    with _settings():
        drawing, axes = _axes()
        axes.stackplot(
            figure.cost, *figure.shares.values(), labels=list(figure.shares), linewidth=0
        )
        axes.set_ylim(0, 1)
        axes.set_xlabel("cost of the learned policy, as a share of the reference's")
        axes.set_ylabel("share of inputs that stop there")
        axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        return _svg(drawing)


def draw_speedups(figure: SpeedupsFigure) -> str:
    """Speed-ups on the clock as an SVG element."""
    with _settings():
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
        return _svg(drawing)


def _draw(axes: Axes, series: Series) -> None:
    style = dict(_STYLES[series.role])
    if len(series.cost) == 1 and series.role != "certified":
        style |= {"marker": style.get("marker", "o"), "linestyle": "none"}
    name = None if series.role == "static" else series.name
    axes.plot(series.cost, series.excess_loss, label=name, **style)
    if series.role == "static":
        axes.annotate(
            series.name,
            (series.cost[0], series.excess_loss[0]),
            xytext=(5, 4),
            textcoords="offset points",
            fontsize=8,
            color="#555555",
        )


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
    low = min([*values, 0.0])
    return low - 0.1 * (highest - low), highest + 0.1 * (highest - low)


def _settings() -> Any:
    try:
        import matplotlib
    except ImportError:
        raise MissingExtra("matplotlib", "report") from None
    return matplotlib.rc_context(_SETTINGS)


def _axes() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7.4, 4.2), layout="constrained")
    return drawing, drawing.subplots()


def _svg(drawing: Figure) -> str:
    text = io.StringIO()
    drawing.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]  # without the XML declaration, which HTML does not take
