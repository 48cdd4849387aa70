"""The house stays small: what is measured counts rightly, and stands within its limits.

The lists of what is still over a limit are to become empty: nothing may be added to them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.measure import Measure, Source

# the options of users are the arguments of `fit`, and of the commands
OPTIONS = (
    {"plan.fit.fit"}
    | {
        f"command.{name}"
        for name in (
            "plans.fit",
            "graphs.exits",
            "graphs.graph",
            "graphs.optimize",
            "graphs.siblings",
            "traces.record",
            "traces.import_",
            "serving.serve",
        )
    }
    | {"command.running.run", "command.running.export"}
)
# names of views (tables, charts, sentences, commands) are those of what they show or do
VIEWS = ("command.", "report.", "cli")
# one idea in several places: what makes an engine's record, the program of a module
SAME_IDEA = {"engine", "main"}

LONG_FUNCTIONS: set[str] = set()
MANY_ARGUMENTS: set[str] = set()
LONG_MODULES: set[str] = set()
POSITIONAL_RECORDS: set[str] = set()
REPEATED_NAMES: set[str] = set()


@pytest.fixture(scope="module")
def measured() -> Measure:
    return Source().measure()


def test_functions_are_short(measured: Measure) -> None:
    assert {*measured.long_functions} - OPTIONS == LONG_FUNCTIONS


def test_functions_have_few_arguments(measured: Measure) -> None:
    assert {*measured.many_arguments} - OPTIONS == MANY_ARGUMENTS


def test_modules_are_short(measured: Measure) -> None:
    assert {*measured.long_modules} == LONG_MODULES


def test_large_records_take_their_fields_by_name(measured: Measure) -> None:
    assert {*measured.positional_records} == POSITIONAL_RECORDS


def test_a_public_name_means_one_thing(measured: Measure) -> None:
    repeated = {
        name
        for name, modules in measured.repeated_names.items()
        if name not in SAME_IDEA
        and len([module for module in modules if not module.startswith(VIEWS)]) > 1
    }
    assert repeated == REPEATED_NAMES


MODULE = '''"""Two lines
of text."""
from dataclasses import dataclass, field
from offramp.low import thing
LIMIT = 1
_HIDDEN = 2

@dataclass(frozen=True)
class Wide:
    a: int
    b: int
    c: int
    d: int
    e: int = 5

    def of(self, x: int, *, y: int) -> int:
        """Says.

        More.
        """
        def inner() -> int:
            return x

        return inner()

@dataclass(frozen=True, kw_only=True)
class Named:
    a: int
    b: int
    c: int
    d: int
    e: int
'''


def test_what_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "offramp"
    (folder / "high").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "high" / "module.py").write_text(MODULE, encoding="utf-8")
    (folder / "low.py").write_text("LIMIT = 3\ndef thing(): pass\n", encoding="utf-8")
    source = Source(folder)
    functions = {f.name: (f.lines, f.arguments) for f in source.functions()}
    assert functions == {
        "high.module.Wide.of": (9, 2),
        "high.module.Wide.of.inner": (2, 0),
        "low.thing": (1, 0),
    }
    assert source.repeated_names() == {"LIMIT": ["high.module", "low"]}
    assert source.positional_records() == {"high.module.Wide": 5}
    assert source.uses()["high.module"] == {"low"}
    found = source.measure()
    assert (found.rooms, found.arrows, found.modules, found.levels) == (2, 1, 2, 2)
    assert found.lines == len(MODULE.splitlines()) + 2
    assert found.function_lines["longest"] == 9
    assert found.files_to_add == {"policy": None, "engine": None}
    assert found.loaded["import offramp"] == {"all": 1, "offramp": 1}
    assert found.loaded["from offramp.runtime import SingleFile"] is None


def test_an_example_is_one_file_and_those_that_name_it(tmp_path: Path) -> None:
    folder = tmp_path / "src" / "offramp"
    folder.mkdir(parents=True)
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "policy.py").write_text("class Mine: ...\n", encoding="utf-8")
    (folder / "one.py").write_text("x = 1\n", encoding="utf-8")
    assert Source(folder).files_to_add("policy.py") == 1
    (folder / "two.py").write_text("known = 'Mine'\n", encoding="utf-8")
    assert Source(folder).files_to_add("policy.py") == 2
