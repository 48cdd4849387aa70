"""One HTML page that opens offline: everything it shows is inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offramp.base.errors import InputError, MissingExtra
from offramp.base.files import read_bytes, storage
from offramp.base.outputs import OutputKind, new_output
from offramp.core.hulls import LEVELS
from offramp.plan.evaluate import Evaluation
from offramp.plan.plan import Plan
from offramp.promise.certify import KEEP
from offramp.report import figures, sentences
from offramp.report.drawing import draw_exits, draw_frontier, draw_gaps
from offramp.study.bands import CONFIDENCE, Band
from offramp.study.compare import OWN, Comparison, Row

_MARK = b'<meta name="generator" content="offramp">'  # in the page: what --force may replace


def _is_report(path: Path) -> bool:
    try:
        return _MARK in read_bytes(path, InputError)
    except InputError:
        return False


REPORT = OutputKind("a report", _is_report)


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class ReportInput:
    """What one section of a report is about; at least a comparison or a plan."""

    name: str
    comparison: Comparison | None = None
    plan: Plan | None = None
    evaluation: Evaluation | None = None  # of the plan, on examples that it has not seen
    note: str = ""  # what a reader must know of this section
    clocks: tuple[Clock, ...] = ()  # of the plan


def write_report(path: Path, entries: Sequence[ReportInput], *, force: bool = False) -> None:
    """Writes the page, whole or not at all; the same inputs give the same bytes.

    Raises:
        InputError: `path` is taken; with `force`, by something else than a report.
        MissingExtra: the extra `report` is not installed.
        StorageError: it cannot be written.
    """
    text = _template().render(
        sections=[_section(entry) for entry in entries], assumptions=sentences.ASSUMPTIONS
    )
    with new_output(path, REPORT, force=force) as written, storage(path):
        written.write_text(text, encoding="utf-8", errors="backslashreplace")


def _template() -> Any:
    try:
        import jinja2
    except ImportError:
        raise MissingExtra("jinja2", "report") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja")


def _section(entry: ReportInput) -> dict[str, Any]:
    plan, comparison, evaluation = entry.plan, entry.comparison, entry.evaluation
    return {
        "name": entry.name,
        "note": entry.note,
        "clocks": [_clock(clock) for clock in sorted(entry.clocks, key=lambda c: c.batch)],
        "plan": plan and _plan(plan),
        "comparison": comparison and _comparison(comparison, plan),
        "evaluation": evaluation and _evaluation(evaluation),
        "stops": _stops(plan, evaluation),
    }


def _plan(plan: Plan) -> dict[str, Any]:
    found = plan.certificate
    return {
        "verdict": sentences.verdict(found),
        "promise": sentences.promise(found, plan.graph.reference),
        "saves": found.verdict != KEEP,
        "path": draw_frontier(figures.certified_path(found)),
        "facts": [
            ("test", f"{found.method}, fixed sequence, {len(found.points)} points tested"),
            ("certification examples", f"{found.examples}"),
            (found.changes, f"{found.losses} for the worse, {found.gains} for the better"),
            ("upper bound of the excess loss", f"{found.bound:.2%}"),
            ("cost", f"{found.cost:.4g} of {found.reference_cost:.4g} {plan.costs.unit}"),
            ("costs", plan.costs.source),
            *[(f"'{stage}' answers with", str(c)) for stage, c in plan.speaking.items()],
            *plan.repairs(),
            *[("note", note) for note in plan.notes()],
        ],
    }


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


def _comparison(found: Comparison, plan: Plan | None) -> dict[str, Any]:
    certificate = plan.certificate if plan else None
    learned = found.policies.get(OWN, [])
    return {
        "examples": found.examples,
        "reference": found.reference,
        "reference_loss": f"{found.reference_loss:.2%}",
        "loss": found.loss,
        "frontier": draw_frontier(figures.frontiers(found, certificate)),
        "gaps": draw_gaps(figures.gaps(found)),
        "exits": draw_exits(figures.exits(learned, found.static, found.reference_cost))
        if learned
        else None,
        "levels": [f"{level * 100:g}" for level in LEVELS],
        "confidence": f"{CONFIDENCE:.0%}" if found.banded else "",
        "rows": [(row.name, row.kind, _cells(row)) for row in found.rows],
        "statics": [
            (name, f"{point.excess_loss:+.2%}", f"{point.cost:.4g}", f"{point.speedup:.2f}")
            for name, point in found.static.items()
        ],
        "unit": found.cost_unit,
    }


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


def _stops(plan: Plan | None, evaluation: Evaluation | None) -> list[tuple[str, str, str]]:
    """Per stage: the share that stops there at certification, and on other examples."""
    if plan is None:
        return []
    later = evaluation.exits if evaluation else {}
    return [
        (
            stage,
            f"{plan.profile.exits.get(stage, 0.0):.1%}",
            f"{later[stage]:.1%}" if stage in later else "",
        )
        for stage in plan.graph.order
    ]
