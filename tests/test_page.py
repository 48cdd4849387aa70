"""The report in a real browser: what it says, what it does, and that it asks nobody."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from offramp.core.frontier import Point
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.report import Clock, DialView, ReportInput, dial, write_report
from offramp.study.compare import compare
from offramp.testing import synthetic
from tests.test_elsewhere import JS, package, program, run

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked=2'>"
LEARN = synthetic(1200, seed=1)
READABLE = 4.5  # the least contrast of text: WCAG 2, AA


def named(examples: int) -> Any:
    """Other examples, with pictures and names that try to be code."""
    trace = synthetic(examples, seed=2)
    ids = np.array([f"{number}{HOSTILE}" for number in range(examples)], dtype=object)
    names = [f"{HOSTILE}{label}" for label in range(trace.classes)]
    return replace(trace, ids=ids, info={**trace.info, "class_names": names})


def clock(speedup: float) -> Clock:
    exits = {"small": 1.0, "medium": 0.0, "large": 0.0}
    return Clock(
        batch=1,
        threads=1,
        reference=f"large{HOSTILE}",
        reference_ms=4.0,
        adaptive_ms=4.0 / speedup,
        speedup=speedup,
        theoretical_speedup=3.0,
        exits=exits,
    )


@pytest.fixture(scope="module")
def plan() -> Plan:
    found = fit(LEARN, 0.05)
    return replace(found, costs=replace(found.costs, source=HOSTILE))


@pytest.fixture(scope="module")
def turned(plan: Plan) -> DialView:
    trace = replace(named(900), costs=plan.costs)
    return dial(plan, trace)


@pytest.fixture(scope="module")
def seen(plan: Plan, turned: DialView, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the page says and does."""
    node, browser = program("node"), program("chromium", "chromium-browser", "google-chrome")
    package("playwright-core")
    path = tmp_path_factory.mktemp("page") / "report.html"
    fresh = synthetic(900, seed=2)
    entry = ReportInput(
        name=HOSTILE,
        comparison=compare(LEARN, fresh),
        plan=plan,
        evaluation=evaluate(plan, fresh),
        note=HOSTILE,
        clocks=(clock(2.5),),
        dial=turned,
    )
    write_report(path, [entry])
    return json.loads(run(node, str(JS / "report.mjs"), browser, str(path)))


def reading(point: Point, plan: Plan) -> dict[str, Any]:
    """What the dial must say at a setting."""
    unit = plan.certificate.reference_cost
    lost = 100 * point.excess_loss
    return {
        "tradeoff": f"{point.tradeoff:.4g}",
        "cost": f"{100 * point.cost / unit:.1f}%",
        "loss": f"{'−' if lost < 0 else '+'}{abs(lost):.2f} points",  # noqa: RUF001
        "stops": {stage: f"{100 * share:.1f}%" for stage, share in point.exits.items()},
    }


def test_it_asks_nobody_and_complains_of_nothing(seen: Any) -> None:
    (asked,) = seen["heard"]["requests"]
    assert asked.startswith("file:")
    assert seen["heard"]["complaints"] == []


def test_three_numbers_come_first(seen: Any, plan: Plan) -> None:
    saved, lost, sure = seen["numbers"]
    assert saved == ["of the time saved", "60%"]
    found = plan.certificate
    tested = next(p for p in found.points if p.tradeoff == found.tradeoff)
    assert lost == ["excess loss", f"{100 * tested.excess_loss:+.2f} points"]
    assert sure == ["confidence", "95%"]


def test_the_slider_shows_every_setting_of_the_dial(
    seen: Any, plan: Plan, turned: DialView
) -> None:
    cheap, next_, safe = turned.points[-1], turned.points[-2], turned.points[0]
    at = seen["dial"]
    now = next(p for p in turned.points if p.tradeoff == plan.tradeoff)
    for what, point in (("start", now), ("Home", cheap), ("ArrowRight", next_), ("End", safe)):
        assert reading(point, plan).items() <= at[what].items()
        assert at[what]["row"][0] == at[what]["tradeoff"]  # marked in the table
        assert at[what]["cost"] in at[what]["says"]  # for those who hear it
    assert at["Home"]["mark"] != at["End"]["mark"]  # the picture follows
    assert at["Home"]["cost"] != at["End"]["cost"]


def test_other_policies_come_when_asked_for(seen: Any) -> None:
    legend = seen["legend"]
    assert legend["first"] == 3  # the plan, its best peer and the oracle
    assert legend["all"] > 10
    assert legend["without"] == legend["all"] - 1
    assert legend["pressed"] == "true"


def test_names_do_not_cross(seen: Any) -> None:
    for where in (seen["legend"]["names"], seen["legend"]["crowded"], seen["narrow"]):
        assert where["crossing"] == []
    assert {"this plan", "large", "certified", "budget"} <= set(seen["legend"]["names"]["names"])


def test_everything_is_reached_by_keyboard_and_seen_where_it_is(seen: Any) -> None:
    tags = [tag for tag, _ in seen["tabbed"]]
    assert {"input", "button", "summary"} <= set(tags)
    assert all(outlined for _, outlined in seen["tabbed"])
    assert seen["unnamed"] == []


def test_text_is_readable_by_day_and_by_night(seen: Any) -> None:
    for scheme in ("light", "dark"):
        ratio, text = seen[scheme]
        assert ratio >= READABLE, f"{text!r} in {scheme}"
    red, green, blue = map(int, seen["paper"].removeprefix("rgb(").rstrip(")").split(","))
    assert max(red, green, blue) < 64


def test_it_fits_a_telephone(seen: Any) -> None:
    assert seen["wide"] <= 360


def test_paper_shows_tables_instead_of_a_slider(seen: Any) -> None:
    assert seen["print"] == {"tables": 0, "settings": True, "slider": False}


def test_names_that_are_code_stay_names(seen: Any) -> None:
    assert seen["hacked"] is None
