"""Imports point one way: every module imports only modules above it in this list."""

from __future__ import annotations

import ast
from pathlib import Path

import offramp

ORDER = [
    *("_version", "errors", "arrays", "files", "outputs", "manifests", "records", "costs"),
    *("graph", "tasks", "meaning", "hulls", "hashing", "ledger", "trace", "split", "reprice"),
    *("committees", "refit"),
    *("policies.protocol", "policies.rules", "policies.features", "policies.posterior"),
    *("policies.thresholds", "policies.statistics", "policies.gates", "policies.routing"),
    *("policies.regression", "policies.learned", "policies.baselines", "policies.encoding"),
    *("policies", "policies.forced"),
    *("pvalues", "certify", "walk", "frontier", "bands", "teach", "pool"),
    *("latency", "preprocessing", "inputs", "weights", "networks", "plan", "job", "fit"),
    *("needs", "evaluate", "compare"),
    *("images", "folders", "data", "runtime.driver", "runtime.onnxruntime"),
    *("export.scope", "export.itinerary", "export.deciding", "export.stages", "export.seal"),
    *("export.single", "export.folder", "export"),
    *(
        "runtime.routed",
        "runtime.openvino",
        "runtime.torch",
        "runtime.single",
        "runtime",
        "independence",
        "measure",
        "record",
    ),
    *("exits.work", "exits.network", "exits.cutting", "exits.stages", "exits.pooling"),
    *("exits.heads", "exits.features", "exits.placement", "exits.attach", "exits"),
    *("exits.module", "exits.training"),
    *("report.figures", "report.sentences", "report.drawing", "report.page", "report.inputs"),
    *("report", "testing", "bench", "parsing", "answers", "demo", "tables", "cli"),
]
ROOT = Path(offramp.__file__).parent
EXTRAS = {"matplotlib", "jinja2", "datasets", "torch", "openvino"}


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path) -> set[str]:
    """The modules of this package that a file imports, and other packages by their first name."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            modules = {name for name in below if name.removeprefix("offramp.") in ORDER}
            found |= modules or {node.module}
    return found


def files() -> list[Path]:
    return [file for file in ROOT.rglob("*.py") if file != ROOT / "__init__.py"]


def test_every_module_has_its_place() -> None:
    assert sorted(map(name_of, files())) == sorted(ORDER)


def test_every_module_imports_only_modules_above_it() -> None:
    for file in files():
        name = name_of(file)
        ours = {m.removeprefix("offramp.") for m in imported(file) if m.startswith("offramp.")}
        above = set(ORDER[: ORDER.index(name)])
        assert ours <= above, f"{name} imports {sorted(ours - above)}, which come later"


def test_extras_are_imported_only_where_they_are_asked_for() -> None:
    for file in files():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {
            (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
            for node in top
            for alias in node.names
        }
        assert not {name.partition(".")[0] for name in names} & EXTRAS, file


def test_the_core_does_not_know_the_engine() -> None:
    core = {*ORDER[: ORDER.index("images")]} - {"weights"}  # which knows the format of networks
    for file in files():
        if name_of(file) in core:
            assert not {"onnx", "onnxruntime", "PIL", "typer", "rich"} & imported(file), file


def test_nothing_unpickles_or_evaluates() -> None:
    for file in files():
        text = file.read_text(encoding="utf-8")
        assert "pickle" not in text.replace("allow_pickle=False", "").replace("unpickle", ""), file
        assert not {"pickle", "joblib", "marshal", "shelve", "dill"} & imported(file), file
        calls = [_called(node) for node in ast.walk(ast.parse(text))]
        assert not {"eval", "exec", "compile"} & set(calls), file


def _called(node: ast.AST) -> str:
    plain = isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return node.func.id if plain else ""  # type: ignore[attr-defined]


def test_public_names_have_docstrings() -> None:
    for name in offramp.__all__:
        found = getattr(offramp, name)
        if callable(found):
            assert found.__doc__, name
