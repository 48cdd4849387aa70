"""The model card of a plan, and what records say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from offramp.base.errors import InputError
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.report import card, write_card
from offramp.report.sentences import ASSUMPTIONS, promise
from offramp.study.compare import compare
from offramp.testing import synthetic

LEARN, FRESH = synthetic(1200, seed=1), synthetic(900, seed=2)
HOSTILE = "</table><script>window.hacked = 1</script>|`*_[x](y)\n# heading"


@pytest.fixture(scope="module")
def plan() -> Plan:
    return fit(LEARN, 0.05)


class Text(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(markdown: str) -> Text:
    """As a site shows a card; HTML in it is HTML."""
    return Text(MarkdownIt("commonmark").enable("table").render(markdown))


def test_a_card_says_what_users_of_a_plan_must_know(plan: Plan) -> None:
    found, said = plan.certificate, shown(card(plan, "my plan"))
    for words in (
        promise(found, "large"),
        f"{found.budget:.4g} of net excess loss (top1)",
        f"{found.losses} for the worse, {found.gains} for the better",
        f"{found.bound:.2%}",
        plan.costs.source,
        f"{found.cost:.4g} MFLOP per example",
        f"{plan.profile.exits['small']:.1%}",
        "offramp evaluate 'my plan' trace",
        str(plan.info["certification_rows"]),
    ):
        assert words in said.text
    for line in ASSUMPTIONS:
        assert line.replace("`", "") in said.text
    assert "offramp bench 'my plan'" not in said.text  # it has no networks


def test_a_card_tells_what_runs_where_nothing_is_routed(plan: Plan) -> None:
    kept = fit(LEARN, 0.0001)
    assert "Keep 'large': no saving is certified." in shown(card(kept)).text
    assert "One network, 'large', answers everything." in shown(card(kept)).text
    unlabelled = fit(LEARN, 0.2, unlabelled=True)
    assert "No labels were used" in shown(card(unlabelled)).text


def test_names_cannot_write_into_a_card(plan: Plan) -> None:
    hostile = replace(plan, costs=replace(plan.costs, source=HOSTILE, unit=HOSTILE))
    said = shown(card(hostile, HOSTILE))
    assert said.tags == shown(card(plan)).tags
    assert " ".join(HOSTILE.split()) in said.text


def test_a_card_replaces_cards_alone(plan: Plan, tmp_path: Path) -> None:
    write_card(plan, tmp_path / "card.md")
    with pytest.raises(InputError, match="card"):
        write_card(plan, tmp_path / "card.md")
    write_card(plan, tmp_path / "card.md", "another", force=True)
    assert "# another" in (tmp_path / "card.md").read_text(encoding="utf-8")
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(InputError, match="a model card"):
        write_card(plan, tmp_path / "notes.md", force=True)
    assert (tmp_path / "notes.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (lambda plan: plan, ("<Plan: route", "times less cost than large", "0.05")),
        (lambda plan: plan.certificate, ("<Certificate: route", "at 0.95 confidence")),
        (lambda plan: plan.graph, ("<Graph: small>medium", "reference large")),
        (lambda plan: plan.costs, ("<Costs in MFLOP", "small 1", "large 9")),
        (lambda _: LEARN, ("<Trace: 1200 labelled examples", "small, medium, large")),
        (lambda plan: evaluate(plan, FRESH), ("<Evaluation: kept: ", "on 900 examples")),
        (lambda _: compare(LEARN, bands=False), ("<Comparison: ", "against large, top1 loss")),
    ],
)
def test_a_record_says_in_one_line_what_it_is(
    plan: Plan, record: Callable[[Plan], object], says: tuple[str, ...]
) -> None:
    line = repr(record(plan))
    assert "\n" not in line
    assert len(line) < 160
    for words in says:
        assert words in line


def test_notebooks_show_tables_of_escaped_text(plan: Plan) -> None:
    hostile = replace(
        plan,
        costs=replace(plan.costs, source=HOSTILE),
        certificate=replace(plan.certificate, loss=HOSTILE),
    )
    for record in (hostile, hostile.certificate):
        page = Text(record._repr_html_())
        assert page.tags == {"table", "caption", "tbody", "tr", "th", "td"}
        assert HOSTILE in page.text
        assert f"{plan.certificate.bound:.4g}" in page.text
