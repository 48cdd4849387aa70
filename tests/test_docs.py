"""The documentation is true: what it shows runs, its links lead somewhere, it loads nothing."""

from __future__ import annotations

import doctest
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import typer.main
from markdown_it import MarkdownIt

from offramp import Plan, cli
from offramp.command import tables
from offramp.command.demo import Demo
from offramp.promise.certify import KEEP
from tools.pages import public_names

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
RUN = ("shell", "python")  # what is run; a block of another kind must say what it is
SHOWN = ("text", "json", "{toctree}", "{api}", "{commands}", "{house}", "{include}")
PACKAGES = [f"offramp{name}" for name in ("", ".runtime", ".policies", ".testing", ".errors")]
NOT_RUN = re.compile(r"<!-- not run: (.+?) -->", re.DOTALL)
EXIT_CODE = re.compile(r"# exit code (\d)")


@dataclass(frozen=True)
class Snippet:
    """One block of a page."""

    language: str
    text: str
    line: int
    reason: str | None  # why it is not run


def snippets(page: Path) -> Iterator[Snippet]:
    """The fenced blocks of a page, in order."""
    reason = None
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block") and token.map:
            yield Snippet(token.info.strip(), token.content, token.map[0] + 1, reason)
        if token.level == 0:
            found = NOT_RUN.search(token.content) if token.type == "html_block" else None
            reason = found[1] if found else None


def id_of(page: Path) -> str:
    return str(page.relative_to(ROOT).with_suffix(""))


def test_every_block_runs_or_says_why_not() -> None:
    for page in PAGES:
        for snippet in snippets(page):
            where = f"{id_of(page)}, line {snippet.line}"
            assert snippet.language.partition(" ")[0] in (*RUN, *SHOWN, "js"), (
                f"{where}: '{snippet.language}'"
            )
            if snippet.language == "js":
                assert snippet.reason, f"{where}: say why it is not run"


RUNNABLE = [
    page for page in PAGES if any(s.language in RUN and s.reason is None for s in snippets(page))
]


@pytest.mark.parametrize("page", RUNNABLE, ids=id_of)
def test_pages_run(
    page: Path,
    tmp_path: Path,
    journey: tuple[Demo, Path, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All blocks of a page, one after the other, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    for snippet in snippets(page):
        if snippet.reason is None and snippet.language == "shell":
            for line in snippet.text.replace("\\\n", " ").splitlines():
                _run_line(line, journey[1], f"{id_of(page)}, line {snippet.line}")
        if snippet.reason is None and snippet.language == "python":
            _run_python(snippet, names, page)


def _run_line(line: str, demo: Path, where: str) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] == "cp":
        for file in Path.cwd().glob(words[1]):
            shutil.copy(file, words[2])
        return
    assert words[0] == "offramp", f"{where}: only `offramp` and `cp` are run, not `{words[0]}`"
    if words[1:] == ["demo"]:  # takes long, and is the same for every page
        shutil.copytree(demo, "offramp-demo")
        return
    key = " ".join(words)
    if key in _TRAINED:
        shutil.copytree(_TRAINED[key], words[-1])
        return
    expected = EXIT_CODE.search(line)
    code = _offramp(words[1:])
    assert code == (int(expected[1]) if expected else 0), f"{where}: `{line}` ended with {code}"
    if words[1] == "exits" and words[-2] == "--out":
        _TRAINED[key] = Path(words[-1]).resolve()


# what `exits` made of the demo's files: command -> folder; it is the same on every page
_TRAINED: dict[str, Path] = {}


def _offramp(arguments: list[str]) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["offramp", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def _run_python(snippet: Snippet, names: dict[str, Any], page: Path) -> None:
    if ">>>" not in snippet.text:
        exec(compile(snippet.text, str(page), "exec"), names)
        return
    test = doctest.DocTestParser().get_doctest(
        snippet.text, names, page.name, str(page), snippet.line
    )
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    found = runner.run(test, out=said.append, clear_globs=False)
    names.update(test.globs)
    assert not found.failed, "".join(said)


class _Links(HTMLParser):
    """What a page names (`ids`), leads to (`leads`) and loads (`loads`)."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.leads: set[str] = set()
        self.loads: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.leads.add(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "search"):
            self.loads.add(given.get("href", ""))
        self.loads |= {given[name] for name in ("src", "srcset", "data") if name in given}


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `scripts/docs` does; every warning is an error."""
    pytest.importorskip("sphinx")
    folder = tmp_path_factory.mktemp("site")
    options = ["-q", "-W", "-E", "-b", "html", str(DOCS), str(folder)]
    command = [sys.executable, "-m", "sphinx", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


def _read(site: Path) -> dict[Path, _Links]:
    found = {}
    for page in sorted(site.rglob("*.html")):
        found[page] = _Links()
        found[page].feed(page.read_text(encoding="utf-8"))
    return found


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page, links in _read(site).items():
        for url in links.loads:
            assert not urlsplit(url).netloc, f"{page.name} loads {url}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(url\(|@import)\s*['\"]?(https?:)?//", text), style.name


def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    pages = _read(site)
    for page, links in pages.items():
        for url in links.leads | links.loads:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            assert target.exists(), f"{page.name} leads to {url}"
            if parts.fragment and target in pages:
                known = pages[target].ids
                assert unquote(parts.fragment) in known, f"{page.name} leads to {url}"


def test_the_site_can_be_searched(site: Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    for word in ("budget", "certificate", "threshold"):
        assert word[:7] in index


def test_every_public_name_and_command_is_documented(site: Path) -> None:
    import offramp

    api = (site / "reference/python.html").read_text(encoding="utf-8")
    public = {package: public_names(package) for package in PACKAGES}
    assert public["offramp"] == offramp.__all__
    shown = [f"{package}.{name}" for package in PACKAGES for name in public[package]]
    assert "offramp.testing.EngineLaws" in shown
    assert [name for name in shown if f'id="{name}"' not in api] == []
    commands = (site / "reference/commands.html").read_text(encoding="utf-8")
    names = {c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback}
    assert [name for name in names if f'id="offramp-{name}"' not in commands] == []


def test_the_commands_that_print_json_are_named() -> None:
    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    named = re.findall(r"`(\w+)`", text.partition("`--json`, of ")[2].partition(" prints ")[0])
    group = typer.main.get_group(cli.app)
    having = [n for n, c in group.commands.items() if any("--json" in p.opts for p in c.params)]
    assert named == having


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=id_of)
def test_links_of_pages_outside_the_site_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if not urlsplit(target).scheme:
            assert (ROOT / urlsplit(target).path).exists(), target


def test_what_a_page_quotes_is_what_fit_says(journey: tuple[Demo, Path, list[str]]) -> None:
    page = DOCS / "keep-the-reference.md"
    text = page.read_text(encoding="utf-8")
    quotes = re.findall(r"^\| \*(.+?)\* \|", text, re.MULTILINE)
    plan = Plan.read(journey[1] / "plan")
    keeping = replace(
        plan.certificate, tradeoff=None, static_choice=plan.graph.reference, verdict=KEEP
    )
    for quote, needed in zip(quotes, (1234, None, 400), strict=True):
        found = replace(keeping, examples=400, examples_needed=needed)
        row, said = tables.certificate(replace(plan, certificate=found)).lines[-1]
        assert f"the line *{row}* of the table" in text
        assert str(said).startswith(quote)
        assert str(said).endswith(f"See {page.relative_to(ROOT)}.")


def test_the_readme_stays_short() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
