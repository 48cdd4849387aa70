"""What the terminal shows: nothing is cut, colours mean stages, help is whole."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.color import Color
from rich.console import Console, RenderableType

from offramp import cli
from offramp.base import palette
from offramp.base.progress import Progress
from offramp.command import tables, terminal
from offramp.command.sheets import Facts, Sheet, painted
from offramp.core.trace import Trace
from offramp.exits.cutting import ExitPoint
from offramp.learn.teach import teach
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.needs import needs
from offramp.study.bench import Bench, Timing
from offramp.study.compare import compare
from offramp.testing import synthetic

LONG = (
    "a_network_whose_name_says_all_that_one_would_like_to_know-v2",
    "b",
    "resnet-152_pretrained_on_everything_there_is_and_then_some-more-than-eighty-characters",
)
TENSOR = "/backbone/layers.11/attention/self/query/[einsum]/MatMul_output_0"


def shown(found: RenderableType, width: int, **settings: Any) -> str:
    options = {"force_terminal": True, "color_system": None, "highlight": False} | settings
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(found, crop=False)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def trace() -> Trace:
    return synthetic(900, LONG)


def clock() -> Bench:
    names = [*LONG, f"{LONG[2]}, all optimisations", "offramp, a file per stage, OpenVINO"]
    ms = 123456.789
    timings = [
        Timing(
            name=n,
            batch=64,
            threads=1,
            ms=ms,
            p50_ms=ms,
            p95_ms=ms,
            p99_ms=ms,
            throughput=98765.4,
            speedup=12.34,
            changed=0.5,
            error=0.25,
            load_s=1234.567,
            memory_mb=54321.0,
            best=i == 3,
        )
        for i, n in enumerate(names)
    ]
    return Bench(
        batch=64,
        threads=1,
        engine="onnxruntime",
        reference=names[3],
        reference_ms=1.0,
        adaptive_ms=1.0,
        speedup=1.0,
        reduced=None,
        over_reduced=None,
        theoretical_speedup=1.0,
        realised=1.0,
        exits=dict.fromkeys(LONG, 0.1),
        part_ms={},
        contestants=timings,
        missing={"OpenVINO": "pip install 'offramp[openvino]'"},
    )


def points() -> list[ExitPoint]:
    return [
        ExitPoint(
            name=f"{TENSOR}.{i}",
            cost=10 ** (8 + i),
            carry=(),
            carry_bytes=2**40 + i,
            path=f"backbone.{i}" * 6,
            shape=(384, 7),
        )
        for i in range(4)
    ]


@pytest.fixture(scope="module")
def every() -> dict[str, Sheet | Facts]:
    """Every table of every command."""
    learning = trace()
    plan = fit(learning, 0.1, policy="margin", committees=True)
    alone = fit(learning, 1e-4, policy="margin", committees=False)
    return {
        "certificate": tables.certificate(plan),
        "another certificate": tables.certificate(alone),
        "evaluation": tables.evaluation(evaluate(plan, synthetic(500, LONG, seed=3))),
        "needs": tables.needs(needs(learning, 0.1), learning.graph.order),
        "comparison": tables.comparison(compare(learning, policies=["auto", "margin"])),
        "bench": tables.clock(clock()),
        "points": tables.points(points()),
    }


def words(found: Sheet | Facts) -> list[str]:
    """Everything that must be there whole: names, numbers and words."""
    if isinstance(found, Facts):
        cells = [cell for line in found.lines for cell in line]
    else:
        cells = [*found.columns[1:], *(cell for row in found.rows for cell in row), found.caption]
    return [word for cell in [found.title, *cells] for word in str(cell).split()]


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_no_table_is_cut(every: dict[str, Sheet | Facts], width: int) -> None:
    for name, found in every.items():
        for to_terminal in (True, False):
            text = shown(found, width, force_terminal=to_terminal)
            assert "…" not in text, name
            missing = set(words(found)) - set(re.split(r"[\s│┃]+", text))
            assert not missing, f"{name}, {width} columns: {missing}"


def test_sentences_are_broken_between_words() -> None:
    caption = "a sentence of which every word that fits stands whole " * 5
    for to_terminal in (True, False):
        found = Sheet(columns=("a",), rows=[], title=LONG[2], caption=caption)
        text = shown(found, 30, force_terminal=to_terminal)
        lines = [line.rstrip() for line in text.splitlines()]
        assert lines[0] == LONG[2]
        assert max(map(len, lines[1:])) <= 30
        assert caption.split() == " ".join(lines).split()[-len(caption.split()) :]


def test_rows_become_blocks_only_where_they_do_not_fit() -> None:
    sheet = Sheet(
        columns=("name", "share", "cost"), rows=[("small", "50%", "1.25"), ("large", "", "9")]
    )
    beside = shown(sheet, 40).splitlines()
    assert any(re.search(r"small.*50%.*1\.25", line) for line in beside)
    assert shown(sheet, 18).splitlines() == [
        "small",
        "  share 50%",
        "  cost 1.25",
        "large",
        "  cost 9",
    ]
    piped = shown(sheet, 18, force_terminal=False).splitlines()
    assert piped == beside  # a file has no edge


def test_a_stage_has_one_colour(every: dict[str, Sheet | Facts]) -> None:
    expected = {s: palette.colour(i) for i, s in enumerate(LONG)}
    for name in ("evaluation", "comparison", "needs", "bench"):
        text = shown(every[name], 400, color_system="truecolor")
        for stage, colour in expected.items():
            if stage in shown(every[name], 400):
                red, green, blue = Color.parse(colour).get_truecolor()
                assert re.search(rf"\x1b\[[0-9;]*38;2;{red};{green};{blue}m'?{stage}", text), name


def test_no_colour_where_it_is_not_wanted(
    every: dict[str, Sheet | Facts], monkeypatch: pytest.MonkeyPatch
) -> None:
    for found in every.values():
        assert "\x1b" not in shown(found, 80, force_terminal=False, color_system="auto")
    monkeypatch.setenv("NO_COLOR", "1")
    for found in every.values():
        text = shown(found, 80, color_system="truecolor")
        assert not re.search(r"\x1b\[[0-9;]*[34]8;", text)


def test_names_inside_other_words_are_not_painted() -> None:
    found = painted("small 50%, smaller 1%, x-small 2%", ["small"])
    assert [(span.start, span.end) for span in found.spans] == [(0, 5)]


def _luminance(colour: str) -> float:
    parts = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True)))


def test_colours_can_be_read_on_black_and_on_white() -> None:
    for colour in palette.STAGE_COLOURS:
        light = _luminance(colour)
        assert min((light + 0.05) / 0.05, 1.05 / (light + 0.05)) >= 3.5, colour
    assert len(set(palette.STAGE_COLOURS)) == len(palette.STAGE_COLOURS)


COMMANDS: Any = typer.main.get_command(cli.app)  # of typer or click, as the version has it


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("name", ["", *COMMANDS.commands])
def test_help_is_whole(
    name: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    code, text = ran(monkeypatch, capsys, *([name] if name else []), "--help")
    assert code == 0
    assert max(map(len, text.splitlines())) <= width
    command = COMMANDS.commands[name] if name else COMMANDS
    sentences = [command.help, command.epilog or "", *(p.help or "" for p in command.params)]
    if not name:
        sentences += [each.help for each in COMMANDS.commands.values()]
    for sentence in sentences:
        assert " ".join(sentence.split()) in " ".join(text.split())


def ran(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """The exit code, and what is printed."""
    monkeypatch.setattr(sys, "argv", ["offramp", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("_OFFRAMP_COMPLETE", f"source_{shell}")
        code, script = ran(patch, capsys)
    assert code == 0
    assert "_OFFRAMP_COMPLETE" in script
    # whether the shell that runs the tests is known or not: never "keep the reference"
    assert ran(monkeypatch, capsys, "--show-completion")[0] in (0, 2)
    assert "completion" not in ran(monkeypatch, capsys, "fit", "--help")[1]


def completed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str
) -> list[str]:
    """What bash is given for the last word."""
    monkeypatch.setenv("_OFFRAMP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["offramp", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    code, out = ran(monkeypatch, capsys)
    assert code == 0
    return out.split()


def test_names_of_policies_and_stages_are_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic(100).write(tmp_path / "t")

    def said(*words: str) -> list[str]:
        return completed(monkeypatch, capsys, *words)

    trace = str(tmp_path / "t")
    assert said("comp") == ["compare"]
    assert said("needs", trace, "--policy", "mar") == ["margin"]
    assert said("compare", trace, "--policies", "margin,ent") == ["margin,entropy"]
    assert "margin,margin" not in said("compare", trace, "--policies", "margin,")
    assert said("fit", trace, "--excess", "i") == ["induced"]
    assert said("reprice", trace, "--cost", "") == ["small=", "medium=", "large="]
    assert said("reprice", trace, "--cost", "small=1,l") == ["small=1,large="]
    given = ("graph", "a1=a.onnx", "b1=b.onnx", "--reference")
    assert said(*given, "") == ["a1", "b1"]
    assert said("reprice", str(tmp_path / "none"), "--cost", "") == []


def bars(monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int, int]], **to: Any) -> str:
    file = io.StringIO()
    console = Console(file=file, color_system=None, legacy_windows=False, **to)
    monkeypatch.setattr(terminal, "messages", console)
    with terminal.progress() as step:
        for what, done, total in steps:
            step(what, done, total)
    return file.getvalue()


def test_progress_says_what_is_done_of_how_much_and_how_long_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    steps = [("learning margin", 1, 4), ("measuring batches of 64 [sic]", 2, 3)]
    said = bars(monkeypatch, steps, force_terminal=True, width=80)
    assert "2/3" in said
    assert "still" in said
    assert "measuring batches of 64 [sic]" in said
    assert "…" not in bars(monkeypatch, steps, force_terminal=True, width=60)


def test_progress_is_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bars(monkeypatch, [("learning", 1, 4)], force_terminal=False) == ""


def test_everything_that_takes_long_tells_its_progress() -> None:
    """Each call goes up to its total, and names what it does."""
    learning = trace()
    calls: dict[str, Callable[[Progress], object]] = {
        "needs": lambda told: needs(learning, 0.1, progress=told),
        "compare": lambda told: compare(learning, policies=["margin"], bands=False, progress=told),
        "teach": lambda told: teach(learning, progress=told),
    }
    for name, call in calls.items():
        told: list[tuple[str, int, int]] = []
        call(lambda *step, told=told: told.append(step))
        assert len(told) > 2, name
        assert all(what and 0 <= done <= total for what, done, total in told), name


def test_progress_has_one_type() -> None:
    defined = [
        path.name
        for path in Path(terminal.__file__).parents[1].rglob("*.py")
        if re.search(r"^Progress = ", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert defined == ["progress.py"]
