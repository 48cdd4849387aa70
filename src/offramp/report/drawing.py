"""Charts as Vega draws them in a page that brings the library along: nothing is fetched."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from offramp.base.errors import MissingExtra
from offramp.report.charts import Chart

Vega = dict[str, Any]
_GRAMMAR = "6.4"  # of Vega-Lite
# above, beside and below, then further away: the first place that is free
_ANCHORS = [
    "top-right",
    "right",
    "bottom-right",
    "top",
    "bottom",
    "top-left",
    "bottom-left",
    "left",
]
_OFFSETS = (3, 14)  # pixels


def compiled(chart: Chart) -> Vega:
    """A chart as Vega runs it. Vega-Lite has no names that keep out of each other's way; Vega has.

    Raises:
        MissingExtra: the extra `report` is not installed.
    """
    made: Vega = _library().vegalite_to_vega(chart.spec, vl_version=_GRAMMAR)
    if chart.named:
        made["marks"].append(_names())
    return made


@cache
def runtime() -> str:
    """The JavaScript that draws charts in a page: Vega, as `vegaEmbed` of the window."""
    bundle: str = _library().javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", r"<\/script")


def embedded(value: Any) -> str:
    """JSON that no HTML around it can be ended or changed by, whatever names it holds."""
    text = json.dumps(value, allow_nan=False, sort_keys=True)
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _names() -> Vega:
    """Names beside the anchors, where they cross neither each other nor a point."""
    text = {"field": "datum.says"}
    place = {
        "type": "label",
        "anchor": _ANCHORS * len(_OFFSETS),
        "offset": [offset for offset in _OFFSETS for _ in _ANCHORS],
        "avoidBaseMark": True,
        "avoidMarks": ["curves_pathgroup"],
        "size": {"signal": "[width, height]"},
    }
    return {
        "name": "names",
        "type": "text",
        "from": {"data": "anchors_marks"},
        "encode": {
            "enter": {"fontSize": {"value": 12}, "fontWeight": {"value": 600}},
            "update": {"text": text, "fill": {"field": "datum.colour"}},
        },
        "transform": [place],
    }


def _library() -> Any:
    try:
        import vl_convert
    except ImportError:
        raise MissingExtra("vl-convert-python", "report") from None
    return vl_convert
