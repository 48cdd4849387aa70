"""What the pages say is what was saved, and what was saved says where it comes from."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import cifar, draws
from benchmarks.readme import DOCS, FIGURES, JOURNEYS, PAGES, TABLES, filled
from benchmarks.results import RESULTS, load
from offramp.plan.asked import Asked

SAVED = sorted(RESULTS.glob("*.json"))


def test_every_result_is_there() -> None:
    names = {path.stem for path in SAVED}
    older = {"real_networks", "promise", "clock", "scale", "exits", "structure"}
    newer = {"peers", "pool", "refit", "few", "draws", "house", "lite", "text", "optimize"}
    newer |= {"blocks", "guard", "imagenet", "recorded"}
    assert names == older | newer


@pytest.mark.parametrize("path", SAVED, ids=lambda path: str(path.stem))
def test_results_name_machine_versions_and_commit(path: Path) -> None:
    about = json.loads(path.read_text(encoding="utf-8"))["about"]
    assert about.keys() == {"machine", "versions", "commit", "date", "seconds"}
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?", about["commit"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.stem))
def test_the_tables_of_pages_come_from_saved_results(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run python -m benchmarks.readme"


@pytest.mark.parametrize("name", JOURNEYS)
def test_what_ran_answered_as_replayed(name: str) -> None:
    """But for decisions so close that rounding may turn them."""
    ran = [plan["answers"] for plan in load(name)["plans"] if "answers" in plan]
    assert ran
    for answers in ran:
        assert answers["close"] <= answers["examples"] / 100
        for runtime in ("live", "one_file"):
            assert answers[f"{runtime}_stage"] <= answers["close"]
            assert answers[f"{runtime}_answer"] <= answers["close"]


def test_every_table_is_shown_once() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    shown = [name for name in re.findall(r"<!-- (\w+) -->\n", text) if name != "end"]
    assert sorted(shown) == sorted(TABLES)
    for figure in FIGURES:
        assert (DOCS / f"{figure}.svg").exists()


def test_promises_were_broken_no_more_often_than_allowed() -> None:
    found = json.loads((RESULTS / "promise.json").read_text(encoding="utf-8"))
    for row in found["rows"]:
        delta = 1 - row["confidence"]
        noise = 3 * (delta * (1 - delta) / found["draws"]) ** 0.5
        assert row["certified"]["broken"] <= delta + noise


def test_promises_of_whole_fits_were_broken_no_more_often_than_allowed() -> None:
    found = json.loads((RESULTS / "draws.json").read_text(encoding="utf-8"))
    assert [row["options"] for row in found["rows"]] == list(draws.CASES)
    for row in found["rows"]:
        assert row["broken"] <= row["allowed"], row["options"]
        assert row["certified"] > 0.5, row["options"]
        assert row["truth_error"] < min(row["budgets"]) / 8, row["options"]


def test_false_alarms_were_no_more_often_than_allowed_and_changes_were_found() -> None:
    found = load("guard")
    noise = 3 * (found["error"] * (1 - found["error"]) / found["runs"]) ** 0.5
    for row in found["rows"]:
        assert row["false_alarms"] <= found["error"] + noise
        for change in row["changes"]:
            assert change["guard"]["found"] == 1
            assert change["guard"]["median"] < 2.5 * change["cusum"]["median"]


def test_a_fit_that_certifies_everything_is_counted_as_broken() -> None:
    """Where the confidence is next to none, plans lose more than their budgets, and are found."""
    case = draws.CASES["default"]
    quick = {"policy": "margin", "committees": False}
    world = draws.World.endless(20_000)
    careless, careful = (
        draws.counted(replace(case, asked=Asked.of(0.02, confidence=sure, **quick)), world, 8)
        for sure in (0.01, 0.99)
    )
    assert careless["broken"] >= 0.25
    assert careful["broken"] == 0
    assert careless["cost"] < careful["cost"] < 1


def test_the_graphs_of_the_benchmarks_are_those_they_are_called() -> None:
    assert list(cifar.GRAPHS) == [
        "ResNet-20 > ResNet-56",
        "ResNet-20 tuned > ResNet-56 tuned",
        "ResNet-20, 32, 56 with skips",
    ]
    for names, _ in cifar.GRAPHS.values():
        assert set(names) <= set(cifar.COSTS)
