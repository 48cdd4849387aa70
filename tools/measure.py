"""The size and the shape of the source, as numbers.

Usage: python -m tools.measure [SOURCE] [--save before|now]

SOURCE is the folder of a package, `src/offramp` of this checkout unless given: an older one is
laid out by `git archive COMMIT src | tar x -C FOLDER`. `--save` keeps the numbers in
benchmarks/results/house.json, from which `python -m benchmarks.readme` makes the table in
docs/house.md.

A line of a function is any from `def` to its last one, the docstring counted. Arguments are all
of them, without `self` and `cls`.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from statistics import median, quantiles

from tools.house import SOURCE, House, imports, module_of, rooms

LONG_FUNCTION = 40  # lines; more are listed
MANY_ARGUMENTS = 8  # likewise
LONG_MODULE = 400  # lines, likewise
MANY_FIELDS = 4  # of a record; beyond, fields are given by name
ENTRIES = {  # what users import
    "import offramp": "import offramp",
    "from offramp.runtime import SingleFile": "from offramp.runtime import SingleFile",
}
EXAMPLES = {"policy": "policy.py", "engine": "engine.py"}  # that add one, in examples/


@dataclass(frozen=True)
class Function:
    """One function or method."""

    name: str  # module.Class.function
    lines: int
    arguments: int


@dataclass(frozen=True, kw_only=True)
class Measure:
    """What one source is like."""

    rooms: int  # folders, and files that lie in none
    arrows: int  # pairs of rooms of which one uses the other
    levels: int  # of modules, each above all that it imports
    modules: int  # files that are not empty
    imports: int  # pairs of modules
    lines: int
    functions: int
    function_lines: dict[str, float]  # median, 90th percentile, longest
    long_functions: dict[str, int]  # over LONG_FUNCTION lines
    many_arguments: dict[str, int]  # over MANY_ARGUMENTS
    long_modules: dict[str, int]  # over LONG_MODULE lines
    repeated_names: dict[str, list[str]]  # public ones, and the modules that define them
    positional_records: dict[str, int]  # of more than MANY_FIELDS fields that take them by place
    loaded: dict[str, dict[str, int] | None]  # by an import: modules in all, and of the package
    files_to_add: dict[str, int | None]  # a policy, an engine; None: no example adds one


class Source:
    """The modules of a package, parsed."""

    def __init__(self, folder: Path = SOURCE) -> None:
        self.folder = folder

    @cached_property
    def texts(self) -> Mapping[str, str]:
        """Module -> its text, where there is any."""
        files = {module_of(file, self.folder): file for file in self.folder.rglob("*.py")}
        texts = {name: file.read_text(encoding="utf-8") for name, file in sorted(files.items())}
        return {name: text for name, text in texts.items() if text.strip()}

    @cached_property
    def trees(self) -> Mapping[str, ast.Module]:
        return {name: ast.parse(text) for name, text in self.texts.items()}

    def functions(self) -> Iterator[Function]:
        """Every function and method, those inside others as well."""
        for module, tree in self.trees.items():
            yield from _functions(tree, module)

    def uses(self) -> dict[str, frozenset[str]]:
        """For each module those that it imports."""
        files = {module_of(file, self.folder): file for file in self.folder.rglob("*.py")}
        named = {name: imports(file, self.folder.name) for name, file in files.items()}
        return {
            name: frozenset(_longest(other, files) for other in others) - {name, ""}
            for name, others in named.items()
            if name
        }

    def repeated_names(self) -> dict[str, list[str]]:
        """Public names that two or more modules define, and those modules."""
        homes: dict[str, set[str]] = defaultdict(set)
        for module, tree in self.trees.items():
            for name in _defined(tree):
                homes[name].add(module)
        return {name: sorted(where) for name, where in sorted(homes.items()) if len(where) > 1}

    def positional_records(self) -> dict[str, int]:
        """Frozen dataclasses with many fields that may be given by their place."""
        return {
            f"{module}.{node.name}": fields
            for module, tree in self.trees.items()
            for node in ast.walk(tree)
            if isinstance(node, ast.ClassDef) and (fields := _positional(node)) > MANY_FIELDS
        }

    def measure(self) -> Measure:
        functions = list(self.functions())
        lengths = sorted(function.lines for function in functions)
        by_room, by_module = rooms(self.folder), self.uses()
        sizes = {name: len(text.splitlines()) for name, text in self.texts.items()}
        return Measure(
            rooms=len(by_room),
            arrows=sum(map(len, by_room.values())),
            levels=len(House.of(by_module).floors),
            modules=len(self.texts),
            imports=sum(map(len, by_module.values())),
            lines=sum(sizes.values()),
            functions=len(functions),
            function_lines={
                "median": median(lengths),
                "90th percentile": round(quantiles(lengths, n=10)[-1], 1),
                "longest": lengths[-1],
            },
            long_functions=_over({f.name: f.lines for f in functions}, LONG_FUNCTION),
            many_arguments=_over({f.name: f.arguments for f in functions}, MANY_ARGUMENTS),
            long_modules=_over(sizes, LONG_MODULE),
            repeated_names=self.repeated_names(),
            positional_records=self.positional_records(),
            loaded={name: loaded(code, self.folder) for name, code in ENTRIES.items()},
            files_to_add={kind: self.files_to_add(name) for kind, name in EXAMPLES.items()},
        )

    def files_to_add(self, example: str) -> int | None:
        """How many files add what an example adds: itself, and those of the source that name it."""
        file = self.folder.parents[1] / "examples" / example
        if not file.exists():
            return None
        classes = [
            node.name
            for node in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef)
        ]
        named = [text for text in self.texts.values() if any(name in text for name in classes)]
        return 1 + len(named)


def _functions(node: ast.AST, within: str) -> Iterator[Function]:
    for child in ast.iter_child_nodes(node):
        name = f"{within}.{child.name}" if isinstance(child, _NAMED) else within
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Function(name, _lines(child), _arguments(child))
        yield from _functions(child, name)


_NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _arguments(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = node.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    return sum(arg is not None and arg.arg not in ("self", "cls") for arg in every)


def _defined(tree: ast.Module) -> set[str]:
    """Public names that a module defines at its top."""
    names = set[str]()
    for node in tree.body:
        if isinstance(node, _NAMED):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def _positional(node: ast.ClassDef) -> int:
    """How many fields of a frozen dataclass may be given by their place; 0: it is none."""
    for decorator in node.decorator_list:
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "dataclass":
            given = {word.arg: getattr(word.value, "value", None) for word in decorator.keywords}
            if given.get("frozen") and not given.get("kw_only"):
                items = takewhile(lambda item: not _is_mark(item), node.body)
                return sum(_is_field(item) for item in items)
    return 0


def _is_mark(item: ast.stmt) -> bool:
    """Whether all fields that follow are given by name."""
    return isinstance(item, ast.AnnAssign) and "KW_ONLY" in ast.unparse(item.annotation)


def _is_field(item: ast.stmt) -> bool:
    if not isinstance(item, ast.AnnAssign):
        return False
    given = item.value.keywords if isinstance(item.value, ast.Call) else []
    apart = {word.arg for word in given if getattr(word.value, "value", None) is False}
    by_name = any(word.arg == "kw_only" for word in given)
    return not by_name and "init" not in apart and "ClassVar" not in ast.unparse(item.annotation)


def _longest(name: str, modules: Collection[str]) -> str:
    """The module that holds `name`: itself, or what is left of its last dots."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _over(sizes: Mapping[str, int], most: int) -> dict[str, int]:
    """Those above `most`, the largest first."""
    over = {name: size for name, size in sizes.items() if size > most}
    return dict(sorted(over.items(), key=lambda item: (-item[1], item[0])))


def loaded(code: str, folder: Path) -> dict[str, int] | None:
    """How many modules a line of Python loads: in all, and of the package; None: it fails."""
    count = (
        f"import sys; before = set(sys.modules); {code}; new = set(sys.modules) - before; "
        f"print(len(new), sum(name.partition('.')[0] == {folder.name!r} for name in new))"
    )
    path = {**os.environ, "PYTHONPATH": str(folder.parent)}
    command = [sys.executable, "-c", count]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=path)
    if done.returncode:
        return None
    every, ours = map(int, done.stdout.split())
    return {"all": every, folder.name: ours}


def commit_of(folder: Path) -> str | None:
    """The commit of a checkout; None where the folder lies in none."""
    command = ["git", "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, nargs="?", default=SOURCE)
    parser.add_argument("--commit", help="of the source, where it lies in no checkout")
    parser.add_argument("--save", choices=("before", "now"))
    options = parser.parse_args()
    start = time.perf_counter()
    source = options.source.resolve()
    values = {"commit": options.commit or commit_of(source), **asdict(Source(source).measure())}
    print(json.dumps(values, indent=2))
    if options.save:
        _save(options.save, values, time.perf_counter() - start)


def _save(when: str, values: dict[str, object], seconds: float) -> None:
    from benchmarks.results import RESULTS, load, save

    old = load("house") if (RESULTS / "house.json").exists() else {}
    both: dict[str, object] = {key: old[key] for key in ("before", "now") if key in old}
    save("house", {**both, when: values}, seconds)


if __name__ == "__main__":
    main()
