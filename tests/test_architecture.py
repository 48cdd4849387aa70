"""Imports point one way: every module imports only modules above it in this list."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import offramp

HOUSE = [  # folder, and its files in the order in which they build on each other; "" is the folder
    ("", "_version"),
    ("base", "lazy errors checked palette notebook progress arrays fields hashing files outputs"),
    ("base", "manifests schema"),
    ("core", "costs graph example_costs prices tasks operators"),
    ("core.task", "task single labels regression sequences recorded"),
    ("core", "task hulls ledger meaning rows parts tables frames scored trace imports"),
    ("core", "policy walk frontier"),
    ("promise", "pvalues order certify forecast split guard"),
    ("answering", "committees refit posterior"),
    ("networks", "preprocessing resizing inputs weights classes trial nodes endings copies forms"),
    ("networks", "networks reading batches npz images folders columns data"),
    ("policies", "statistics logistic operators families baselines"),
    ("policies", "regression features observed learned rules thresholds tuners alike gates"),
    ("policies", "cascade_routing"),
    ("", "policies"),
    ("learn", "pool lesson teach latency"),
    ("plan", "asked profile plan notes job fit needs evaluate watch"),
    # what runs parts of a plan
    ("runtime", "format engine rows session onnxruntime stages together driver"),
    ("export", "scope itinerary deciding stages photographs seal single folder triton"),
    ("", "export"),
    ("runtime", "waiting calls"),  # functions as stages
    ("runtime", "ends routed openvino torch single"),  # what runs exported files
    ("", "runtime"),
    ("recording", "independence measure labels resume running record reprice audits pricing"),
    ("exits", "work network passes cutting depth stages pooling heads features placement"),
    ("exits", "outputs attach"),
    ("", "exits"),
    ("exits", "modules module descent training"),
    ("siblings", "shrinking shortening quantising forms examples scoring teaching"),
    ("siblings", "operators module tuning"),  # with PyTorch
    ("siblings", "copies timing choosing making"),
    ("", "siblings"),
    ("study", "bands compare memory contestants bench"),
    ("report", "figures sentences charts drawing dial page inputs card"),
    ("", "report"),
    ("serving", "queueing room brownout service address tracing auditing protocol models shelf"),
    ("serving", "telemetry app messages rpc listening opening versions server sizing"),
    ("", "serving"),
    ("optimizing", "journal outcome steps"),
    ("", "optimizing"),
    ("testing", "closeness policies tasks engines"),
    ("", "testing sklearn torch"),
    ("command", "completing parsing photographs answers sheets tables trials options terminal"),
    ("command", "demo graphs traces plans running serving"),
    ("", "cli"),
    ("", "errors data preprocessing trace tasks"),  # addresses for users; nothing here imports them
]
ORDER = [f"{folder}.{name}".strip(".") for folder, names in HOUSE for name in names.split()]
PLAIN = {"base", "core", "promise", "answering", "networks", "learn", "plan", "recording", "study"}
PLAIN |= {"command"}  # folders whose own file holds a line on what is in them, and nothing else
ROOT = Path(offramp.__file__).parent
EXTRAS = {"vl_convert", "jinja2", "datasets", "torch", "openvino"}


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
    hollow = {ROOT / "__init__.py", *(ROOT / folder / "__init__.py" for folder in PLAIN)}
    return [file for file in ROOT.rglob("*.py") if file not in hollow]


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


_FORMATS = "weights trial nodes endings copies reading resizing batches npz images folders data"


def test_the_core_does_not_know_the_engine() -> None:
    # which know the formats of networks and images
    outside = {f"networks.{name}" for name in _FORMATS.split()}
    core = {*ORDER[: ORDER.index("runtime.format")]} - outside
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


def test_every_public_name_has_a_home() -> None:
    assert {*offramp._HOME, "__version__"} == {*offramp.__all__}
    shown = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    typed = {
        (node.module, alias.name)
        for branch in ast.walk(shown)
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == {(module, name) for name, module in offramp._HOME.items()}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        offramp.nothing  # noqa: B018 - asking is the test


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = "numpy scipy sklearn pyarrow onnx onnxruntime PIL typer rich"
    code = f"import sys, offramp; print([m for m in {heavy.split()!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_what_runs_an_exported_file_loads_numpy_and_its_engine_alone() -> None:
    heavy = "scipy sklearn pyarrow onnx PIL typer rich"
    code = (
        "import sys; from offramp.runtime import SingleFile; "
        f"print([m for m in {heavy.split()!r} if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
