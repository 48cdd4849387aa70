"""The report: one page that opens offline and says what was found."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from offramp.base.errors import MissingExtra
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.report import ReportInput, charts, report_inputs, write_report
from offramp.report.drawing import embedded
from offramp.report.figures import certified_path, exits, frontiers, gaps
from offramp.report.sentences import kept, promise, verdict
from offramp.study.compare import compare
from offramp.testing import synthetic

LEARN, FRESH = synthetic(1200, seed=1), synthetic(900, seed=2)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return fit(LEARN, 0.05)


@pytest.fixture(scope="module")
def entry(plan: Plan) -> ReportInput:
    return ReportInput(
        name="cats & <dogs>",
        comparison=compare(LEARN, FRESH),
        plan=plan,
        evaluation=evaluate(plan, FRESH),
    )


class Page(HTMLParser):
    """Tags that must be closed, what is linked, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "input", "img"):
            self.open.append(tag)
        self.links += [v or "" for n, v in attrs if n in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_holds_everything_and_links_to_nothing(entry: ReportInput, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, [entry])
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == []
    assert all(link.startswith(("#", "data:image/png;")) for link in page.links)
    own = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)  # the library's is Vega's
    assert "default-src 'none'" in own  # nor may anything that the scripts might try
    assert "@import" not in own
    assert not re.search(r"url\((?!#)", own)
    assert "cats & <dogs>" in page.text  # escaped in the source
    assert "<dogs>" not in text
    assert entry.plan is not None
    for says in (
        promise(entry.plan.certificate, "large"),
        verdict(entry.plan.certificate),
        "What a promise assumes",
        "Where inputs stop",
        "exact oracle",
        "myopic",
        "cost gap closed",
        "loss gap closed",
        "95% band",
    ):
        assert says in page.text


def test_numbers_for_scripts_cannot_end_them() -> None:
    names = {"</script><!--": ["<script>", "&lt;"]}
    text = embedded(names)
    assert not set("<>&") & set(text)
    assert json.loads(text) == names


def test_the_same_inputs_give_the_same_bytes(entry: ReportInput, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, [entry])
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_figures_are_numbers_that_can_be_checked(entry: ReportInput) -> None:
    assert entry.comparison is not None
    assert entry.plan is not None
    figure = frontiers(entry.comparison, entry.plan.certificate)
    series = {s.name: s for s in figure.series}
    assert series["large"].cost == (1.0,)
    assert series["large"].excess_loss == (0.0,)
    found = entry.plan.certificate
    assert series["certified"].cost == (found.cost / found.reference_cost,)
    assert figure.budget == pytest.approx(5.0)
    assert figure.bound == pytest.approx(found.bound * 100)
    points = entry.comparison.policies["learned"]
    stops = exits(points, LEARN.graph.order, entry.comparison.reference_cost)
    for i in range(len(stops.cost)):
        assert sum(shares[i] for shares in stops.shares.values()) == pytest.approx(1)
    assert len(certified_path(found).series[0].cost) == len(found.points)


def test_only_the_default_policy_and_its_best_peer_stand_out(entry: ReportInput) -> None:
    assert entry.comparison is not None
    figure = frontiers(entry.comparison)
    loud = {s.name for s in figure.series if s.role in ("learned", "rival")}
    assert loud == {"auto", entry.comparison.rival} == {r.name for r in figure.ribbons}
    for ribbon in figure.ribbons:
        assert all(low <= high for low, high in zip(ribbon.low, ribbon.high, strict=True))
    peers = {s.name for s in figure.series if s.role == "peer"}
    assert peers == set(entry.comparison.policies) - loud
    first = {s.name for s in figure.series if charts.shown_first(s)}
    assert first == {*loud, *LEARN.graph.order, "exact oracle"}
    assert set(charts.looks(figure)) == {s.name for s in figure.series}
    shares = gaps(entry.comparison).shares
    assert [s.value for s in shares] == sorted((s.value for s in shares), reverse=True)


def test_the_promise_reads_like_a_promise(plan: Plan) -> None:
    assert "at most 50 in 1,000 above that of 'large' alone" in promise(plan.certificate, "large")
    assert "probability of at least 0.95" in promise(plan.certificate, "large")
    tight = fit(LEARN, 0.0001).certificate
    assert tight.verdict == "keep the reference"
    assert verdict(tight).startswith("Keep the reference 'large': no saving is certified.")
    assert "No saving could be certified" in promise(tight, "large")
    loose = fit(LEARN, 0.9).certificate
    assert loose.verdict == "one network"
    assert verdict(loose).startswith("Run one network, 'small', alone:")
    assert "Running 'small' alone keeps the promise" in promise(loose, "large")
    induced = fit(LEARN, 0.1, excess="induced").certificate
    assert "answers are worse than" in promise(induced, "large")
    unlabelled = fit(LEARN, 0.2, unlabelled=True).certificate
    assert "answers differ from" in promise(unlabelled, "large")


def test_other_examples_keep_it_or_not(plan: Plan) -> None:
    assert kept(evaluate(plan, FRESH)).split(":")[0] in ("Kept", "Unknown")
    assert "cannot tell" in kept(evaluate(plan, synthetic(300, seed=5, labelled=False)))


def test_folders_become_sections(plan: Plan, tmp_path: Path) -> None:
    LEARN.write(tmp_path / "learned-on")
    FRESH.write(tmp_path / "fresh")
    synthetic(400, ("a", "b")).write(tmp_path / "other")
    plan.write(tmp_path / "plan")
    names = ["plan", "learned-on", "fresh", "other"]
    found = report_inputs([tmp_path / name for name in names])
    assert [entry.name for entry in found] == ["plan", "other"]
    assert found[0].plan is not None
    assert found[0].comparison is not None
    assert found[1].plan is None
    write_report(tmp_path / "report.html", found)


def test_a_plan_alone_is_enough(plan: Plan, tmp_path: Path) -> None:
    write_report(tmp_path / "report.html", [ReportInput(name="plan", plan=plan)])
    assert "The evidence" in Page((tmp_path / "report.html").read_text()).text


@pytest.mark.parametrize("module", ["vl_convert", "jinja2"])
def test_a_missing_extra_names_its_install_line(
    entry: ReportInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"offramp\[report\]"):
        write_report(tmp_path / "report.html", [entry])
    assert not list(tmp_path.iterdir())
