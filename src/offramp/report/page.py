"""One HTML page that opens offline: everything it shows is inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from offramp.base.errors import InputError, MissingExtra
from offramp.base.files import read_bytes, storage
from offramp.base.outputs import OutputKind, new_output
from offramp.core.frontier import Point
from offramp.core.hulls import LEVELS
from offramp.plan.evaluate import Evaluation
from offramp.plan.notes import notes, repairs
from offramp.plan.plan import Plan
from offramp.promise.certify import KEEP
from offramp.report import charts, figures, sentences
from offramp.report.dial import DialView, Excerpt, position
from offramp.report.drawing import Vega, compiled, embedded, runtime
from offramp.study.bands import CONFIDENCE, Band
from offramp.study.bench import Bench
from offramp.study.compare import OWN, Comparison, Row

_MARK = b'<meta name="generator" content="offramp">'  # in the page: what --force may replace


def _is_report(path: Path) -> bool:
    try:
        return _MARK in read_bytes(path, InputError)
    except InputError:
        return False


REPORT = OutputKind("a report", _is_report)


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What `bench` measured of a plan at one batch size and number of threads."""

    batch: int
    threads: int
    reference: str  # the fastest static runtime of the reference
    reference_ms: float  # per request
    adaptive_ms: float  # likewise
    speedup: float
    theoretical_speedup: float
    exits: Mapping[str, float]  # share of examples that stop at each stage

    @classmethod
    def of(cls, found: Bench) -> Clock:
        return cls(**{name: getattr(found, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True)
class ReportInput:
    """What one section of a report is about; at least a comparison or a plan."""

    name: str
    comparison: Comparison | None = None
    plan: Plan | None = None
    evaluation: Evaluation | None = None  # of the plan, on examples that it has not seen
    note: str = ""  # what a reader must know of this section
    clocks: tuple[Clock, ...] = ()  # of the plan
    dial: DialView | None = None  # of the plan


Table = dict[str, Sequence[Any]]  # head: names of columns, perhaps none; rows: their cells


@dataclass
class _Moving:
    """What the scripts of a page work on."""

    charts: dict[str, Vega]
    dials: dict[str, Any]


def write_report(path: Path, entries: Sequence[ReportInput], *, force: bool = False) -> None:
    """Writes the page, whole or not at all; the same inputs give the same bytes.

    Raises:
        InputError: `path` is taken; with `force`, by something else than a report.
        MissingExtra: the extra `report` is not installed.
        StorageError: it cannot be written.
    """
    text = page(entries)
    with new_output(path, REPORT, force=force) as written, storage(path):
        written.write_text(text, encoding="utf-8", errors="backslashreplace")


def page(entries: Sequence[ReportInput]) -> str:
    """The page itself, with the library that draws its charts.

    Raises:
        MissingExtra: the extra `report` is not installed.
    """
    moving = _Moving({}, {})
    template = templates().get_template("page.html.jinja")
    sections = [_section(entry, f"s{number}", moving) for number, entry in enumerate(entries)]
    text: str = template.render(
        sections=sections,
        assumptions=sentences.ASSUMPTIONS,
        style=_beside("page.css"),
        script=_beside("page.js"),
        library=runtime(),
        charts=embedded(moving.charts),
        dials=embedded(moving.dials),
    )
    return text


def templates() -> Any:
    """Where templates come from; all that they are given is escaped.

    Raises:
        MissingExtra: the extra `report` is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("jinja2", "report") from None
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _section(entry: ReportInput, name: str, moving: _Moving) -> dict[str, Any]:
    plan, comparison, evaluation = entry.plan, entry.comparison, entry.evaluation
    return {
        "id": name,
        "name": entry.name,
        "lead": sentences.lead(plan, comparison, entry.clocks),
        "numbers": sentences.headline(plan, comparison, entry.clocks),
        "note": entry.note,
        "clocks": [_clock(clock) for clock in sorted(entry.clocks, key=lambda c: c.batch)],
        "plan": plan and _plan(plan, name, moving),
        "comparison": comparison and _comparison(entry, comparison, name, moving),
        "dial": _dial(entry, name, moving),
        "examples": entry.dial and _examples(entry.dial),
        "evaluation": evaluation and _evaluation(evaluation),
        "stops": _stops(plan, evaluation),
    }


def _plan(plan: Plan, name: str, moving: _Moving) -> dict[str, Any]:
    found = plan.certificate
    path = charts.frontier(figures.certified_path(found))
    moving.charts[f"{name}-path"] = compiled(path)
    tested = [
        (
            number,
            f"{p.cost / found.reference_cost:.1%}",
            f"{p.excess_loss:+.2%}",
            f"{p.p_value:.2g}",
        )
        for number, p in (
            ("" if p.tradeoff is None else f"{p.tradeoff:.4g}", p) for p in found.points
        )
    ]
    return {
        "verdict": sentences.verdict(found),
        "promise": sentences.promise(found, plan.graph.reference),
        "saves": found.verdict != KEEP,
        "tested": {"head": ("tradeoff", "cost", "excess loss", "p-value"), "rows": tested},
        "facts": {"head": (), "rows": plan_facts(plan)},
    }


def plan_facts(plan: Plan) -> list[tuple[str, str]]:
    """What a certificate rests on, line by line."""
    found = plan.certificate
    return [
        ("test", f"{found.method}, fixed sequence, {len(found.points)} points tested"),
        ("certification examples", f"{found.examples}"),
        (found.changes, f"{found.losses} for the worse, {found.gains} for the better"),
        ("upper bound of the excess loss", f"{found.bound:.2%}"),
        ("cost", f"{found.cost:.4g} of {found.reference_cost:.4g} {plan.costs.unit}"),
        ("costs", plan.costs.source),
        *[(f"'{stage}' answers with", str(c)) for stage, c in plan.speaking.items()],
        *repairs(plan),
        *[("note", note) for note in notes(plan)],
    ]


def _clock(found: Clock) -> dict[str, Any]:
    return {
        "says": sentences.clock(found.speedup, found.reference, found.batch),
        "batch": found.batch,
        "threads": found.threads,
        "reference": found.reference,
        "ms": (f"{found.reference_ms:.3f}", f"{found.adaptive_ms:.3f}"),
        "speedup": f"{found.speedup:.2f}",
        "theory": f"{found.theoretical_speedup:.2f}",
    }


def _comparison(
    entry: ReportInput, found: Comparison, name: str, moving: _Moving
) -> dict[str, Any]:
    certificate = entry.plan.certificate if entry.plan else None
    own = entry.dial.points if entry.dial and not entry.dial.taught else ()
    figure = figures.frontiers(found, certificate, own)
    legend = _legend(figure)
    moving.charts[f"{name}-frontier"] = compiled(charts.frontier(figure))
    moving.charts[f"{name}-gaps"] = compiled(charts.gaps(figures.gaps(found)))
    return {
        "examples": found.examples,
        "reference": found.reference,
        "reference_loss": f"{found.reference_loss:.2%}",
        "loss": found.loss,
        "rival": found.rival,
        "legend": legend,
        "more": sum(not toggle["first"] for toggle in legend),
        "table": _corners(figure),
        "levels": [f"{level * 100:g}" for level in LEVELS],
        "confidence": f"{CONFIDENCE:.0%}" if found.banded else "",
        "rows": [(row.name, row.kind, _cells(row)) for row in found.rows],
        "statics": _statics(found),
    }


def _legend(figure: figures.FrontierFigure) -> list[dict[str, Any]]:
    """A toggle for every series of the picture."""
    seen = charts.looks(figure)
    return [
        {
            "name": series.name,
            "first": charts.shown_first(series),
            "colour": seen[series.name].colour,
            "point": len(series.cost) == 1,
            "dash": " ".join(map(str, seen[series.name].dash)),
        }
        for series in figure.series
    ]


def _corners(figure: figures.FrontierFigure) -> Table:
    rows = [
        (series.name, f"{cost:.1%}", f"{excess:+.2f}")
        for series in figure.series
        for cost, excess in zip(series.cost, series.excess_loss, strict=True)
    ]
    return {"head": ("", "cost, of the reference's", "excess loss, points"), "rows": rows}


def _statics(found: Comparison) -> Table:
    head = ("network alone", "excess loss", f"cost, {found.cost_unit}", "speed-up")
    rows = [
        (name, f"{point.excess_loss:+.2%}", f"{point.cost:.4g}", f"{point.speedup:.2f}")
        for name, point in found.static.items()
    ]
    return {"head": head, "rows": rows}


def _dial(entry: ReportInput, name: str, moving: _Moving) -> dict[str, Any] | None:
    """The dial of the plan, or of the default policy where the plan met no examples."""
    plan, comparison = entry.plan, entry.comparison
    points: Sequence[Point] = ()
    if entry.dial and not entry.dial.taught:
        points, says = entry.dial.points, sentences.dial(entry.dial.examples)
    elif comparison and OWN in comparison.policies:
        points = comparison.policies[OWN]
        says = sentences.dial(comparison.examples, other=plan is not None)
    points = [point for point in points if point.tradeoff is not None]
    if not points:
        return None
    unit = comparison.reference_cost if comparison else points[0].cost * points[0].speedup
    stages = list(points[0].exits)
    figure = figures.exits(points, stages, unit)
    moving.charts[f"{name}-exits"] = compiled(charts.exits(figure))
    settings = [_setting(point, unit) for point in reversed(points)]
    drawn = [f"{name}-frontier", f"{name}-exits"] if comparison else [f"{name}-exits"]
    moving.dials[f"{name}-dial"] = {"settings": settings, "charts": drawn}
    start = len(points) - 1 - position(points, plan.tradeoff if plan else None)
    return {
        "says": says,
        "stages": stages,
        "start": start,
        "now": settings[start],
        "table": _settings(settings, stages),
    }


def _setting(point: Point, unit: float) -> dict[str, Any]:
    return {
        "tradeoff": f"{point.tradeoff:.4g}",
        "cost": point.cost / unit,
        "loss": point.excess_loss,
        "band": point.interval and list(point.interval),
        "exits": dict(point.exits),
    }


def _settings(settings: Sequence[Mapping[str, Any]], stages: Sequence[str]) -> Table:
    rows = [
        (
            setting["tradeoff"],
            f"{setting['cost']:.1%}",
            f"{setting['loss']:+.2%}",
            *(f"{setting['exits'][stage]:.1%}" for stage in stages),
        )
        for setting in settings
    ]
    return {"head": ("tradeoff", "cost", "excess loss", *stages), "rows": rows}


_KINDS = {
    "early": "Stopped early: the surest of those that stop first",
    "late": "Stopped late: the dearest walks",
    "wrong": "Wrong: first those that the reference answers better",
}


def _examples(found: DialView) -> dict[str, Any] | None:
    if not found.excerpts:
        return None
    kinds = [
        {"title": title, "some": [_example(one) for one in found.excerpts.get(kind, ())]}
        for kind, title in _KINDS.items()
    ]
    return {"says": sentences.excerpts(found.examples, found.taught), "kinds": kinds}


def _example(found: Excerpt) -> dict[str, Any]:
    return {**asdict(found), "cost": f"{found.cost:.0%}"}


def _cells(row: Row) -> list[tuple[str, str]]:
    """Every number, and the ends of its band."""
    found = row.summary
    return [
        *(_cell(band, ".2f") for band in (*found.speedups, found.area)),
        *(_cell(band.times(100), "z.0f") for band in found.gaps),
    ]


def _cell(band: Band, form: str) -> tuple[str, str]:
    ends = "" if band.low is None else f"{band.low:{form}} to {band.high:{form}}"
    return f"{band.value:{form}}", ends


def _evaluation(found: Evaluation) -> dict[str, Any]:
    return {
        "kept": sentences.kept(found),
        "state": found.kept,
        "speedup": f"{found.speedup:.2f}",
        "alike": found.shift.alike,
        "p_value": f"{found.shift.p_value:.3g}",
    }


def _stops(plan: Plan | None, evaluation: Evaluation | None) -> Table | None:
    """Per stage: the share that stops there at certification, and on other examples."""
    if plan is None:
        return None
    before, later = plan.profile.exits, evaluation.exits if evaluation else {}
    rows = [
        (stage, f"{before.get(stage, 0.0):.1%}", *([f"{later[stage]:.1%}"] if later else []))
        for stage in plan.graph.order
    ]
    return {
        "head": ("stage", "at certification", *(["on other examples"] if later else [])),
        "rows": rows,
    }
