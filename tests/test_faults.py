"""Whatever was damaged or given: one sentence or the same answers, and never a fault of ours."""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offramp.base.errors import OfframpError, OfframpWarning
from offramp.runtime import Routed, SingleFile
from offramp.testing import synthetic
from tests.made import blob_networks, blobs, picture, rehashed
from tests.mutations import Said, mutated, replaced, said

Answer = Callable[[], Said]
FEW = 100
MANY = 1000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of everything that offramp writes."""
    folder = tmp_path_factory.mktemp("faults")
    networks = [f"{s}={f}" for s, f in blob_networks(folder / "onnx").items()]
    x, y = blobs(1500)
    np.savez(folder / "data.npz", x=x, y=y)
    np.savez(folder / "few.npz", x=x[:40])
    for command in (
        ["graph", *networks, "--out", folder / "graph"],
        ["record", folder / "graph", "--data", folder / "data.npz", "--out", folder / "trace"],
    ):
        assert said(*command)[0] == 0, command
    manifest = folder / "trace" / "trace.json"
    costs = {"small": {"body": 1.0, "head": 0.0}, "big": {"body": 4.0, "head": 0.0}}
    timed = {"cost_whole", "cost_batch", "cost_overhead", "cost_at"}  # by the clock
    recorded = {k: v for k, v in json.loads(manifest.read_text()).items() if k not in timed}
    rehashed(manifest, recorded | {"cost": costs})
    fit = ["fit", folder / "trace", "--budget", 0.02, "--policy", "margin"]
    assert said(*fit, "--out", folder / "plan")[0] == 0
    assert said("export", folder / "plan", "--out", folder / "one.onnx")[0] == 0
    assert said("export", folder / "plan", "--stages", "--out", folder / "routed")[0] == 0
    return folder


def written(made: Path) -> list[tuple[Path, Answer]]:
    """Every file that offramp wrote, with a command whose answer depends on it."""
    x = np.load(made / "few.npz")["x"]

    def driven(open_: Callable[[], Any]) -> Said:
        with warnings.catch_warnings():  # another range of inputs is said, and no fault
            warnings.simplefilter("ignore", OfframpWarning)
            try:
                found = open_()(x)
            except OfframpError:
                return 2, ""
        return 0, str([found.answer.tolist(), found.stage.tolist(), found.cost.tolist()])

    def folder(name: str, answer: Answer) -> Iterator[tuple[Path, Answer]]:
        for file in sorted((made / name).rglob("*")):
            if file.is_file():
                yield file, answer

    def recorded() -> Said:
        shutil.rmtree(made / "again", ignore_errors=True)
        code, _ = said(
            "record", made / "graph", "--data", made / "few.npz", "--out", made / "again"
        )
        if code:
            return code, ""
        return 0, str(pq.read_table(made / "again" / "part-000000.parquet").to_pydict())

    return [
        *folder("plan", lambda: said("run", made / "plan", "--data", made / "few.npz")),
        *folder("trace", lambda: said("evaluate", made / "plan", made / "trace", "--json")),
        *folder("graph", recorded),
        *folder("routed", lambda: driven(lambda: Routed(made / "routed"))),
        (made / "one.onnx", lambda: driven(lambda: SingleFile(made / "one.onnx"))),
    ]


def test_damaged_files_are_refused_or_answer_as_before(made: Path) -> None:
    _damage(made, FEW)


@pytest.mark.slow
def test_damaged_files_are_refused_or_answer_as_before_a_thousand_times(made: Path) -> None:
    _damage(made, MANY)


def _damage(made: Path, times: int) -> None:
    chance, files = random.Random(0), written(made)
    expected = {file: answer() for file, answer in files}
    assert {code for code, _ in expected.values()} == {0}
    refused = 0
    for number in range(times):
        file, answer = files[number % len(files)]
        with replaced(file, mutated(file.read_bytes(), chance)):
            found = answer()
        assert found[0] in (0, 1, 2), (number, file, found)
        assert found[0] == 2 or found == expected[file], (number, file)
        refused += found[0] == 2
    assert refused > times * 0.8


# ------------------------------------------------------------------- what is of another type

ODD: list[object] = [None, True, -1, 0, 1.5, 10**400, 1e308, "x", "../x", "", [], {}, [[[]]]]
ODD += [{"x": None}, ["x"], [None], {"stages": []}, "\udcff"]


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inside:
        if isinstance(item, dict | list):
            yield from _places(item, (*path, key))
        else:
            yield (*path, key)


def _changed(value: Any, path: tuple[Any, ...], new: object) -> Any:
    if not path:
        return new
    found = value.copy()
    if len(path) == 1 and new is ...:
        del found[path[0]]
    else:
        found[path[0]] = _changed(value[path[0]], path[1:], new)
    return found


def test_other_types_at_every_place_of_every_manifest_are_no_fault(made: Path) -> None:
    _types(made, 150)


@pytest.mark.slow
def test_other_types_at_every_place_of_every_manifest_a_thousand_times(made: Path) -> None:
    _types(made, MANY)


def _types(made: Path, times: int) -> None:
    """With their hash, so that what is behind it has to stand by itself."""
    chance = random.Random(1)
    manifests = [(f, a) for f, a in written(made) if f.suffix == ".json"]
    for number in range(times):
        manifest, answer = manifests[number % len(manifests)]
        value = json.loads(manifest.read_text())
        path = chance.choice([p for p in _places(value) if p and p[0] not in ("hash",)])
        new = chance.choice([*ODD, ...])
        content = manifest.read_bytes()
        with replaced(manifest, content):
            rehashed(manifest, _changed(value, path, new))
            found = answer()
        assert found[0] in (0, 1, 2), (number, manifest, path, new)


DEEP = "[" * 100_000
SHAPES = {
    "deep": '{"version": 1, "x": ' + DEEP,
    "numbers": '{"version": 1, "x": 1e999, "hash": "x"}',
    "digits": '{"version": 1, "x": ' + "9" * 5000 + "}",
    "bytes": '{"version": 1, "x": "\udcff"}',
    "nan": '{"version": 1, "x": NaN}',
    "version": '{"version": [1]}',
}


@pytest.mark.parametrize("shape", SHAPES)
def test_json_that_nobody_writes_is_refused(made: Path, shape: str) -> None:
    content = SHAPES[shape].encode("utf-8", "surrogateescape")
    for file, answer in written(made):
        if file.suffix == ".json":
            with replaced(file, content):
                assert answer()[0] == 2, file


# ------------------------------------------------------------------------- what users give


def _value(chance: random.Random) -> Any:
    """An array of any type, shape and values."""
    shape = chance.choice([(), (0,), (3,), (30, 6), (30, 1), (30, 4), (0, 6), (30, 6, 2), (40, 6)])
    kind = chance.choice(["f2", "f4", "f8", "i1", "i8", "u8", "?", "U3", "S2", "c8", "M8[s]", "V4"])
    with np.errstate(all="ignore"):
        array = np.random.default_rng(chance.randrange(99)).integers(0, 4, shape)
        found = np.asarray(array.astype(np.int64).astype(kind if kind != "V4" else "i4"))
        if kind[0] == "f" and found.size and chance.random() < 0.4:
            found.reshape(-1)[0] = chance.choice([np.nan, np.inf, -np.inf, 6e4])
    return found.view("V4") if kind == "V4" and found.ndim else found


def _archive(path: Path, chance: random.Random) -> Path:
    names = chance.sample(["x", "y", "labels", "small", "big", "small.loss", "ids"], 4)
    np.savez(path, **{name: _value(chance) for name in names})
    if chance.random() < 0.3:
        path.write_bytes(mutated(path.read_bytes(), chance))
    return path


def _table(path: Path, chance: random.Random) -> Path:
    images: list[Any] = [picture((9, 9, 9), (4, 4))] * 3
    columns = {
        "image": chance.choice(
            [
                *(images, ["x", "y", "z"], [1, 2, 3], [None, *images[1:]], [[1.5], [], None]),
                *([{"bytes": i} for i in images], [{"path": "x"}] * 3, [True, False, None]),
                *([mutated(i, chance) for i in images], [{"bytes": None}] * 3),
            ]
        ),
        "label": chance.choice([[0, 1, 2], [0, None, 1], ["a", "b", "c"], [0.5, 1, 2], [-1] * 3]),
    }
    pq.write_table(pa.table({k: v for k, v in columns.items() if chance.random() < 0.9}), path)
    if chance.random() < 0.2:
        path.write_bytes(mutated(path.read_bytes(), chance))
    return path


NUMBERS = ["0", "-1", "nan", "inf", "1e308", "1e-320", "9" * 30, "0.5", "1", "x", "", "\udcff"]


def _command(made: Path, folder: Path, chance: random.Random) -> list[object]:
    """A command with inputs and options that make some sense, or none."""
    number, out = chance.choice(NUMBERS), folder / "out"
    data = chance.choice(
        [
            *(_archive(folder / "d.npz", chance), _table(folder / "d.parquet", chance)),
            *(made / "few.npz", made / "onnx", made / "none", made / "onnx" / "small.onnx"),
        ]
    )
    fit = ["fit", made / "trace", "--out", out, "--policy", "margin"]
    costs = chance.choice([f"small={number},big=2", "small=1,big=4", f"big={number}", number])
    return chance.choice(
        [
            ["run", made / "plan", "--data", data],
            ["run", made / "plan", "--data", data, "--out", out],
            ["run", made / "pixels", "--data", data],
            ["record", made / "pixels-graph", "--data", data, "--out", out],
            ["record", made / "graph", "--data", data, "--out", out],
            ["run", made / "plan", "--data", made / "few.npz", "--batch", number],
            ["import", data, "--cost", costs, "--out", out],
            ["import", made / "scores.npz", "--cost", costs, "--out", out],
            ["evaluate", made / "plan", data],
            [*fit, "--budget", number],
            [*fit, "--budget", "0.1", "--confidence", number],
            [*fit, "--budget", "0.1", "--learn-share", number],
            [*fit, "--budget", "0.1", "--seed", number],
            [*fit, "--budget", "0.1", "--loss", chance.choice(["top1", "top" + number, number])],
            ["needs", made / "trace", "--budget", number],
            ["needs", made / "trace", "--budget", "0.1", "--power", number],
            ["graph", f"small={data}", "--out", out],
            ["graph", f"a={made}/onnx/big.onnx", "--size", number, "--std", number, "--out", out],
            ["export", data, "--out", out],
            ["report", data, "--out", out],
        ]
    )


def test_random_inputs_are_done_or_refused(made: Path, tmp_path: Path) -> None:
    _give(made, tmp_path, FEW)


@pytest.mark.slow
def test_random_inputs_are_done_or_refused_a_thousand_times(made: Path, tmp_path: Path) -> None:
    _give(made, tmp_path, MANY)


def _give(made: Path, folder: Path, times: int) -> None:
    _pixels(made)
    chance = random.Random(2)
    for number in range(times):
        command = _command(made, folder, chance)
        code, _ = said(*command)
        assert code in (0, 1, 2), (number, command)
        assert not list(folder.glob(".*")), command
        out = folder / "out"
        shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)


def _pixels(made: Path) -> None:
    """A graph and a plan that read images, and scores to import."""
    if (made / "pixels").exists():
        return
    from tests.made import linear_network

    big = linear_network(made / "onnx" / "pixels.onnx", np.eye(48, 3), [3, 4, 4])
    graph = ["graph", f"a={big}", f"b={big}", "--size", 4, "--out", made / "pixels-graph"]
    assert said(*graph)[0] == 0
    table = {"image": [picture((i, i, i), (4, 4)) for i in range(60)], "label": [0] * 60}
    pq.write_table(pa.table(table), made / "pixels.parquet")
    record = ["record", made / "pixels-graph", "--data", made / "pixels.parquet"]
    assert said(*record, "--out", made / "pixels-trace")[0] == 0
    fit = ["fit", made / "pixels-trace", "--budget", 0.9, "--out", made / "pixels"]
    code, text = said(*fit)
    assert code == ("keep the reference" in text)  # as the clock says
    trace = synthetic(60, ("small", "big"))
    arrays: dict[str, Any] = {"labels": trace.labels, **trace.scores}
    np.savez(made / "scores.npz", **arrays)
