"""Every engine against the laws of engines, and engines on the command line."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from offramp.base.arrays import FloatArray
from offramp.base.errors import InputError, NetworkError
from offramp.cli import main
from offramp.core.costs import elsewhere
from offramp.core.graph import Costs
from offramp.plan.plan import Plan
from offramp.runtime import Engine, OnnxRuntime, Stages, Walker, engine_named
from offramp.runtime.openvino import MOST_ROWS, summands
from offramp.testing import EngineLaws, MemoryRuntime, synthetic
from tests.made import blob_networks, blobs


class TestEngines(EngineLaws):
    @pytest.fixture(params=["onnxruntime", "openvino"])
    def engine(self, request: pytest.FixtureRequest) -> Engine:
        return engine_named(request.param)


def test_batches_are_sums_of_sizes_that_are_compiled() -> None:
    for rows in range(1, 3 * MOST_ROWS):
        sizes = summands(rows)
        assert sum(sizes) == rows
        assert sizes == sorted(sizes, reverse=True)
        assert {size & (size - 1) for size in sizes} == {0}
        assert max(sizes) <= MOST_ROWS


def test_openvino_runs_any_number_of_rows(tmp_path: Path) -> None:
    x, _ = blobs(2 * MOST_ROWS + 3)
    files = blob_networks(tmp_path)
    name = next(iter(files))
    one, other = (Stages(files, engine=engine) for engine in ("onnxruntime", "openvino"))
    for rows in (1, 3, 8, MOST_ROWS, 2 * MOST_ROWS + 3):
        found = other.run(name, x[:rows])
        np.testing.assert_allclose(found, one.run(name, x[:rows]), atol=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph, examples, and the recordings of both engines."""
    path = tmp_path_factory.mktemp("engines")
    for seed, name in enumerate(("onnxruntime", "openvino")):
        x, y = blobs(900, seed)
        np.savez(path / f"{name}.npz", x=x, y=y)
    files = [f"{name}={file}" for name, file in blob_networks(path / "n").items()]
    assert run("graph", *files, "--engine", "openvino", "--out", path / "graph") == 0
    for engine in ("onnxruntime", "openvino"):
        assert run(*recording(path, engine), "--out", path / engine) == 0
    return path


def recording(path: Path, engine: str) -> list[object]:
    given = ["--data", path / f"{engine}.npz", "--batch", "8", "--engine", engine]
    return ["record", path / "graph", *given]


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["offramp", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def test_traces_and_plans_say_on_which_engine_costs_were_measured(folder: Path) -> None:
    for engine in ("onnxruntime", "openvino"):
        said = json.loads((folder / engine / "trace.json").read_text())
        title = engine_named(engine).title
        assert said["engine"] == said["cost_engine"] == title
        assert title in said["cost_source"]
        out = folder / f"plan-{engine}"
        assert run("fit", folder / engine, "--budget", "0.05", "--out", out) in (0, 1)
        assert Plan.read(out).costs.engine == title
    times = ("--batch", "1,4", "--engine", "openvino", "--policy", "margin")
    out = folder / "timed"
    assert run("fit", folder / "openvino", "--budget", "0.05", *times, "--out", out) in (0, 1)
    costs = Plan.read(out).costs
    assert costs.engine == costs.at[1].engine == engine_named("openvino").title


def test_costs_of_two_engines_are_not_mixed_in_silence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # copies: `compare` opens rows, which could then certify nothing any more
    here, there = (
        shutil.copytree(folder / name, tmp_path / name) for name in ("onnxruntime", "openvino")
    )
    plan, data = tmp_path / "plan", ("--data", folder / "onnxruntime.npz")
    assert run("fit", here, "--budget", "0.05", "--out", plan) in (0, 1)
    assert "costs were measured" not in said(capsys)
    for what, arguments in (
        ("this runs on", ("run", plan, *data, "--engine", "openvino")),
        ("TRACE on", ("evaluate", plan, there)),
        ("--test on", ("compare", here, "--test", there, "--policies", "margin", "--no-bands")),
        ("--certify on", ("fit", here, "--certify", there, "--budget", "0.5", "--out")),
        ("recorded on", ("fit", there, "--batch", "2", "--budget", "0.5", "--out")),
    ):
        out = [tmp_path / what.split()[0]] if arguments[-1] == "--out" else []
        assert run(*arguments, *out) in (0, 1)
        assert f"{what} " in said(capsys)
    assert run("run", plan, *data) == 0
    assert "costs were measured" not in said(capsys)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_another_version_is_no_other_engine() -> None:
    costs = Costs({"a": 1.0}, {"a": 0.0}, engine="ONNX Runtime 1.18.0")
    assert elsewhere(costs, "ONNX Runtime 1.32.0", "this runs on") == []
    assert elsewhere(costs, None, "this runs on") == []
    assert elsewhere(replace(costs, engine=None), "OpenVINO 1", "this runs on") == []
    assert "OpenVINO 1" in elsewhere(costs, "OpenVINO 1", "this runs on")[0]


def test_answers_are_the_same_on_every_engine(folder: Path, tmp_path: Path) -> None:
    assert run("fit", folder / "onnxruntime", "--budget", "0.05", "--out", tmp_path / "p") in (0, 1)
    plan, (x, _) = Plan.read(tmp_path / "p"), blobs(300, seed=8)
    one, other = (
        Walker(plan, Stages(plan.runnable(), plan.graph, engine=engine))(x)
        for engine in ("onnxruntime", "openvino")
    )
    assert (one.stage == other.stage).mean() > 0.99
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_bench_runs_the_plan_on_the_engine(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = folder / "plan-bench"
    assert run("fit", folder / "onnxruntime", "--budget", "0.05", "--out", plan) in (0, 1)
    capsys.readouterr()
    given = ("--data", folder / "onnxruntime.npz", "--batch", "4", "--engine", "openvino", "--json")
    assert run("bench", plan, *given) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["engine"] == engine_named("openvino").title
    named = {found["name"]: found for found in row["contestants"]}
    assert row["adaptive_ms"] == named["offramp, a file per stage, OpenVINO"]["ms"]
    assert {"offramp, one file", "offramp, a file per stage", "big, OpenVINO"} < named.keys()
    assert len(named) == len(row["contestants"])


def test_a_recording_goes_on_with_its_engine_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = folder / "onnxruntime" / "trace.json"
    from tests.made import rehashed

    (tmp_path / "t").mkdir()
    rehashed(tmp_path / "t" / "trace.json", started(json.loads(manifest.read_text())))
    again = [*recording(folder, "onnxruntime"), "--engine", "openvino"]
    assert run(*again, "--out", tmp_path / "t") == 2
    assert "interrupted recording with another engine" in said(capsys)


def started(value: dict[str, object]) -> dict[str, object]:
    """The manifest of a recording that was interrupted before its first part."""
    graph = ("stages", "edges", "reference")
    kept = ("graph", "graph_folder", "networks", "preprocessing", "data", "given", "batch")
    more = ("threads", "seal", "engine", "version")
    found = {key: value[key] for key in (*kept, *more, *graph) if key in value}
    return {**found, "complete": False, "kind": None, "fingerprints": {}}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--engine", "torch"), "'onnxruntime', 'openvino'"),
        (("--engine", "openvino", "--device", "cuda"), "for onnxruntime"),
    ],
)
def test_what_an_engine_cannot_is_refused(
    folder: Path, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = folder / "plan-refused"
    assert run("fit", folder / "onnxruntime", "--budget", "0.05", "--force", "--out", plan) in (
        0,
        1,
    )
    assert run("run", plan, "--data", folder / "onnxruntime.npz", *arguments) == 2
    assert says in said(capsys)


def test_an_engine_that_is_not_installed_is_said_with_its_extra(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "offramp.runtime.openvino", raising=False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert run(*recording(folder, "openvino"), "--out", folder / "none") == 2
    assert "pip install 'offramp[openvino]'" in said(capsys)
    assert not (folder / "none").exists()


# ------------------------------------------------------------------------------ the seam


def test_there_is_no_engine_of_another_name() -> None:
    with pytest.raises(InputError, match="onnxruntime or openvino"):
        engine_named("tensorrt")


def test_a_stage_needs_a_network(tmp_path: Path) -> None:
    files = blob_networks(tmp_path)
    graph = OnnxRuntime(files).graph
    with pytest.raises(NetworkError, match="'big' has no network"):
        Stages({"small": files["small"]}, graph)


def test_fields_are_read_by_name_or_the_only_one_by_position(tmp_path: Path) -> None:
    stages, (x, _) = Stages(blob_networks(tmp_path)), blobs(7)
    expected: FloatArray = stages.run("big", x)
    for fields in ({"input": x}, {"pixels": x}, {"input": x, "other": x * 0}):
        assert (stages.run("big", fields) == expected).all()
    with pytest.raises(NetworkError, match="reads 'input', which is not among the fields"):
        stages.run("big", {"one": x, "other": x})


def test_memory_reads_numbers_of_examples() -> None:
    stages = MemoryRuntime.of(synthetic(9))
    with pytest.raises(NetworkError, match=r"shape \(3, 2\)"):
        stages.run("small", np.zeros((3, 2)))


def test_passing_inputs_is_what_sessions_do(tmp_path: Path) -> None:
    """What the file says in ONNX Runtime itself is what comes out."""
    files, (x, _) = blob_networks(tmp_path), blobs(5)
    session = onnxruntime.InferenceSession(files["big"])
    assert (session.run(None, {"input": x})[0] == Stages(files).run("big", x)).all()
