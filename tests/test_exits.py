"""Exits on a frozen network, from the command line to a plan that runs; and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from offramp.base.errors import DataError, GraphError, InputError, NetworkError
from offramp.cli import main
from offramp.core.graph import Costs, Graph, Stage, whole
from offramp.core.trace import Trace, assemble
from offramp.exits import ExitOptions, add_exits, candidate_points
from offramp.exits.cutting import ExitPoint
from offramp.exits.heads import fit_head
from offramp.exits.outputs import FINAL
from offramp.exits.placement import WORTH, mean_cost, place, propose
from offramp.exits.pooling import Pooling
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks, combine
from offramp.networks.preprocessing import Preprocessing
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.recording.measure import stage_costs
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime, infer
from offramp.testing import RuntimeLaws, synthetic
from tests import architectures
from tests.made import deep_network, hard_blobs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained network of four layers, and examples for it."""
    path = tmp_path_factory.mktemp("exits")
    deep_network(path / "deep.onnx")
    for name, examples, seed in (("train", 1500, 1), ("test", 1200, 2)):
        x, y = hard_blobs(examples, seed)
        np.savez(path / f"{name}.npz", x=x, y=y)
    return path


def made(folder: Path, out: Path, *options: str) -> Networks:
    arguments = ["exits", str(folder / "deep.onnx"), "--data", str(folder / "train.npz")]
    assert run(*arguments, *options, "--out", str(out)) == 0
    return Networks.read(out)


def run(*arguments: str) -> int:
    """The exit code of the command line."""
    before, sys.argv = sys.argv, ["offramp", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    raise AssertionError("the command line ends with an exit code")


def traced(networks: Networks, folder: Path, out: Path) -> Trace:
    runtime = OnnxRuntime(networks.files, networks.graph)
    return record(
        networks, runtime, open_examples(folder / "test.npz"), out, RecordOptions(batch=50)
    )


def test_the_points_of_a_network_are_listed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("exits", str(folder / "deep.onnx"), "--list") == 0
    said = capsys.readouterr().out
    assert [p.name for p in candidate_points(folder / "deep.onnx")] == [
        "hidden1",
        "hidden2",
        "hidden3",
    ]
    for text in ("hidden1", "hidden2", "hidden3", "work so far", "carry"):
        assert text in said
    assert run("exits", str(folder / "deep.onnx"), "--list", "--json") == 0
    points = json.loads(capsys.readouterr().out)
    assert [point["tensor"] for point in points] == ["hidden1", "hidden2", "hidden3"]
    keys = {"tensor", "module", "multiply_adds", "carry", "carry_bytes", "shape"}
    assert all(point.keys() == keys for point in points)


def test_from_a_trained_network_to_a_plan_that_runs(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(folder, tmp_path / "graph", "--at", "hidden1,hidden2")
    data = ["--data", str(folder / "test.npz")]
    assert run("record", str(tmp_path / "graph"), *data, "--out", str(tmp_path / "trace")) == 0
    fitted = run("fit", str(tmp_path / "trace"), "--budget", "0.1", "--out", str(tmp_path / "plan"))
    # networks this small may not be worth routing: the clock says
    keeps = Plan.read(tmp_path / "plan").certificate.verdict == "keep the reference"
    assert fitted == keeps
    assert run("run", str(tmp_path / "plan"), *data, "--out", str(tmp_path / "a.parquet")) == 0
    capsys.readouterr()
    assert run("bench", str(tmp_path / "plan"), *data, "--batch", "1,32", "--json") == 0
    assert [row["batch"] for row in json.loads(capsys.readouterr().out)] == [1, 32]


def test_heads_learn_and_later_exits_are_better(folder: Path, tmp_path: Path) -> None:
    networks = made(folder, tmp_path / "graph", "--at", "hidden1,hidden3")
    error = {
        stage: loss.mean()
        for stage, loss in traced(networks, folder, tmp_path / "t").losses().values.items()
    }
    assert error["exit1"] < 0.6  # of 0.75 by chance
    assert error["exit2"] < error["exit1"]


def test_the_reference_answers_as_before(folder: Path, tmp_path: Path) -> None:
    networks = made(folder, tmp_path / "graph", "--at", "hidden1,hidden2,hidden3")
    trace = traced(networks, folder, tmp_path / "t")
    alone = OnnxRuntime({"deep": folder / "deep.onnx"})
    x = np.load(folder / "test.npz")["x"]
    np.testing.assert_allclose(trace.scores[FINAL], alone.run("deep", x), atol=1e-5)
    cut = OnnxRuntime(networks.files, networks.graph)
    np.testing.assert_array_equal(cut.run(FINAL, x), alone.run("deep", x))
    assert networks.fingerprints()[whole(FINAL)]


def test_alone_the_uncut_network_runs(folder: Path, tmp_path: Path) -> None:
    """It is what a speed-up is measured against, and what runs where nothing is routed."""
    networks = made(folder, tmp_path / "graph", "--at", "hidden1")
    other = deep_network(tmp_path / "other.onnx", layers=1)
    runtime = OnnxRuntime({**networks.files, whole(FINAL): other}, networks.graph)
    x = np.load(folder / "test.npz")["x"][:5]
    expected = OnnxRuntime({"other": other}).run("other", x)
    np.testing.assert_array_equal(runtime.run(FINAL, x), expected)
    costs = stage_costs(runtime, networks.graph, x, 5, rounds=5)
    assert networks.graph.reference_cost(costs) == costs.whole[FINAL]


def test_the_core_alone_makes_exits(folder: Path, tmp_path: Path) -> None:
    """Where PyTorch is not installed; what needs it says how to install it."""
    code = f"""
import sys
class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "onnxscript", "safetensors", "matplotlib", "jinja2"):
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
sys.argv = ["offramp", "exits", {str(folder / "deep.onnx")!r}, "--at", "hidden1"]
sys.argv += ["--data", {str(folder / "train.npz")!r}, "--out", {str(tmp_path / "graph")!r}]
from offramp.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
try:
    import offramp.exits.training
except Exception as problem:
    print(problem)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert Networks.read(tmp_path / "graph").graph.order == ("exit1", FINAL)
    assert "pip install 'offramp[torch]'" in said.stdout


def test_outputs_of_a_network_are_taken_as_exits(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(str(folder / "deep.onnx"))
    for name in ("hidden2", "hidden1"):  # in any order, the network's own the last
        flat = f"{name}.scores"
        model.graph.node.append(
            onnx.helper.make_node("Gemm", [name, "weights4", "bias4"], [flat], name=flat)
        )
        value = onnx.helper.make_tensor_value_info(flat, onnx.TensorProto.FLOAT, ["batch", 4])
        model.graph.output.insert(0, value)
    onnx.save(model, tmp_path / "several.onnx")
    arguments = ["exits", str(tmp_path / "several.onnx"), "--at", "outputs"]
    assert run(*arguments, "--out", str(tmp_path / "graph")) == 0
    assert capsys.readouterr().out.count("an output") == 2
    networks = Networks.read(tmp_path / "graph")
    assert networks.graph.order == ("exit1", "exit2", FINAL)
    runtime = OnnxRuntime(networks.files, networks.graph)
    x = np.load(folder / "test.npz")["x"][:5]
    alone = OnnxRuntime({"deep": folder / "deep.onnx"})
    np.testing.assert_array_equal(runtime.run(FINAL, x), alone.run("deep", x))
    assert not np.array_equal(runtime.run("exit1", x), runtime.run("exit2", x))


def test_a_network_that_gives_no_scores_is_refused(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(str(folder / "deep.onnx"))
    model.graph.node.append(onnx.helper.make_node("Reshape", ["scores", "shape"], ["wide"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 2, 2]), "shape"))
    model.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("wide", onnx.TensorProto.FLOAT, ["batch", 2, 2])
    )
    onnx.save(model, tmp_path / "wide.onnx")
    examples = open_examples(folder / "train.npz")
    with pytest.raises(NetworkError, match="can be scores"):
        add_exits(tmp_path / "wide.onnx", examples, ExitOptions(at=["hidden1"]), tmp_path / "parts")


def test_heads_may_hear_earlier_ones(folder: Path, tmp_path: Path) -> None:
    networks = made(folder, tmp_path / "graph", "--at", "hidden1,hidden2", "--hears")
    assert networks.graph.stage("exit2").hears == ("exit1",)
    assert networks.graph.parts("exit2") == (
        *("exit1", "exit1.head"),
        *("exit2", "exit2.head"),
    )


def test_placement_keeps_what_pays_and_says_why_others_went(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = made(folder, tmp_path / "graph")
    said = " ".join(capsys.readouterr().out.split())
    stays = len(networks.graph.order) - 1
    assert 1 <= stays <= 3
    assert said.count("left out") == 3 - stays


def test_an_exit_that_saves_nothing_goes() -> None:
    trace = synthetic(1500, ("e1", "e2", "big"), seed=3)
    useless = trace.scores["e1"]  # the second exit says what the first did, and costs something
    stages = (Stage("e1"), Stage("e2", "e1"), Stage("big", "e2"))
    graph = Graph(stages, (("e1", "e2"), ("e2", "big")), "big")
    costs = Costs({"e1": 1.0, "e2": 1.0, "big": 8.0}, {"e1": 0.01, "e2": 2.0, "big": 0.0})
    scores = {**trace.scores, "e2": useless}
    found = place(assemble(graph, costs, scores, labels=trace.labels, kind="logits"))
    assert found.kept == ("e1", "big")
    assert "costs" in found.dropped["e2"]
    assert found.saving > WORTH


def test_exits_are_kept_when_they_pay() -> None:
    trace = synthetic(1500, ("e1", "e2", "big"), seed=3)
    stages = (Stage("e1"), Stage("e2", "e1"), Stage("big", "e2"))
    graph = Graph(stages, (("e1", "e2"), ("e2", "big")), "big")
    costs = Costs({"e1": 1.0, "e2": 10.0, "big": 4.0}, {"e1": 0.01, "e2": 0.01, "big": 0.0})
    whole_trace = assemble(graph, costs, trace.scores, labels=trace.labels, kind="logits")
    found = place(whole_trace)
    assert found.kept == ("e1", "e2", "big")
    assert found.dropped == {}
    present = mean_cost(whole_trace, ["e1", "e2", "big"])
    assert found.saving == pytest.approx(1 - present / 15.0)


def test_points_are_proposed_evenly_by_work() -> None:
    assert propose([10, 20, 30, 40, 50, 60, 70, 80, 90], 100, 3) == [1, 4, 6]
    assert propose([1, 99], 100, 8) == [0, 1]


@pytest.fixture(scope="module")
def both(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, OnnxRuntime]:
    """A plan over exits that hear each other, with a skip past one of them."""
    path = tmp_path_factory.mktemp("laws")
    networks = made(folder, path / "graph", "--at", "hidden2,hidden3", "--hears")
    trace = traced(networks, folder, path / "trace")
    costs = Costs({"exit1": 1.0, "exit2": 1.0, FINAL: 2.0}, dict.fromkeys(trace.graph.order, 0.1))
    skips = Graph(trace.graph.stages, (*trace.graph.edges, ("exit1", FINAL)), FINAL)
    skipping = assemble(skips, costs, trace.scores, labels=trace.labels, kind="logits")
    plan = replace(
        fit(skipping, 0.2, policy="learned", keep_stages=True), tradeoff=20.0
    )  # wherever that is: some stop at every exit
    return plan, OnnxRuntime(networks.files, skips)


class TestExitsInOnnxRuntime(RuntimeLaws):
    @pytest.fixture
    def runtime(self, both: tuple[Plan, OnnxRuntime]) -> OnnxRuntime:
        return both[1]

    @pytest.fixture
    def plan(self, both: tuple[Plan, OnnxRuntime]) -> Plan:
        return both[0]

    @pytest.fixture
    def x(self, folder: Path) -> np.ndarray:
        found: np.ndarray = np.load(folder / "test.npz")["x"][:200]
        return found

    def test_the_plan_routes(self, plan: Plan, runtime: OnnxRuntime, x: np.ndarray) -> None:
        assert plan.routes
        assert set(infer(plan, runtime, x).stage) == {"exit1", "exit2", FINAL}


def test_networks_and_exits_make_one_graph(folder: Path, tmp_path: Path) -> None:
    made(folder, tmp_path / "exits", "--at", "hidden1,hidden2", "--hears")
    small = deep_network(tmp_path / "small.onnx", layers=1)
    given = [f"small={small}", f"big={tmp_path / 'exits'}"]
    assert run("graph", *given, "--out", str(tmp_path / "graph")) == 0
    networks = Networks.read(tmp_path / "graph")
    assert networks.graph.order == ("small", "big-exit1", "big-exit2", "big")
    assert ("small", "big") in networks.graph.edges
    assert networks.graph.stage("big").after == "big-exit2"
    assert networks.graph.stage("big-exit2").hears == ("big-exit1",)
    runtime = OnnxRuntime(networks.files, networks.graph)
    x = np.load(folder / "test.npz")["x"][:7]
    alone = OnnxRuntime({"deep": folder / "deep.onnx"})
    running = runtime.begin(x)
    running.advance("small", None)
    running.advance("big", None)
    np.testing.assert_allclose(running.answer("big", None), alone.run("deep", x), atol=1e-5)


def test_imported_exits_are_charged_along_edges(tmp_path: Path) -> None:
    trace = synthetic(60, ("small", "e1", "e2", "big"))
    labels = np.asarray(trace.labels)
    np.savez(tmp_path / "s.npz", labels=labels, allow_pickle=False, **dict(trace.scores))
    cost = "small=10,e1=40+2,e2=41+1,big=42"
    edges = "small>e1>e2>big,e1>big,small>big"
    arguments = ["import", str(tmp_path / "s.npz"), "--cost", cost, "--edges", edges]
    assert run(*arguments, "--out", str(tmp_path / "t")) == 0
    found = Trace.read(tmp_path / "t")
    assert found.reference_cost == 40 + 41 + 42
    assert found.graph.stage("e1").after is None
    passed = found.graph.ran("e1")
    assert found.graph.step_cost(found.costs, "big", passed) == 41 + 42
    assert found.graph.step_cost(found.costs, "e2", passed) == 41 + 1
    assert found.graph.step_cost(found.costs, "big", found.graph.ran("small")) == 40 + 41 + 42


def test_graphs_that_read_differently_do_not_combine(folder: Path, tmp_path: Path) -> None:
    networks = made(folder, tmp_path / "exits", "--at", "hidden1")
    pixels = Preprocessing((4, 4), (0.5,), (0.5,))
    Networks(networks.graph, networks.files, pixels).write(tmp_path / "pixels")
    with pytest.raises(GraphError, match="reads its examples in another way"):
        combine({"a": tmp_path / "pixels"}, preprocessing=Preprocessing((4, 4), (0.0,), (1.0,)))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run(*arguments) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in said
    return said


def test_bad_input_is_refused_in_a_sentence(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "graph"
    model, data = str(folder / "deep.onnx"), str(folder / "train.npz")
    end = ("--out", str(out))
    assert "there is no point 'nowhere'" in refused(
        capsys, "exits", model, "--data", data, "--at", "nowhere", *end
    )
    assert "the network's own answer" in refused(
        capsys, "exits", model, "--data", data, "--at", "scores", *end
    )
    assert "given twice" in refused(
        capsys, "exits", model, "--data", data, "--at", "hidden1,hidden1", *end
    )
    assert "heads are trained on labelled examples" in refused(capsys, "exits", model, *end)
    assert "has a single output" in refused(capsys, "exits", model, "--at", "outputs", *end)
    assert "say where to write" in refused(capsys, "exits", model, "--data", data)
    assert "does not exist" in refused(capsys, "exits", "none.onnx", "--data", data, *end)
    x, y = hard_blobs(300, 1)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    unlabelled = str(tmp_path / "unlabelled.npz")
    assert "no labels" in refused(capsys, "exits", model, "--data", unlabelled, *end)
    np.savez(tmp_path / "high.npz", x=x, y=y + 9)
    assert "outside 0..3" in refused(
        capsys, "exits", model, "--data", str(tmp_path / "high.npz"), *end
    )
    x[7] = np.nan
    np.savez(tmp_path / "nan.npz", x=x, y=y)
    assert "sees NaN or infinite numbers" in refused(
        capsys, "exits", model, "--data", str(tmp_path / "nan.npz"), *end
    )
    fixed = onnx.load(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(fixed, tmp_path / "fixed.onnx")
    said = refused(capsys, "exits", str(tmp_path / "fixed.onnx"), "--data", data, *end)
    assert "fixed batch size" in said
    assert "dynamic_shapes" in said
    assert not out.exists()


def test_a_class_absent_from_the_data_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = hard_blobs(600, 1)
    np.savez(tmp_path / "three.npz", x=x[y != 2], y=y[y != 2])
    model, data = str(folder / "deep.onnx"), str(tmp_path / "three.npz")
    said = refused(capsys, "exits", model, "--data", data, "--out", str(tmp_path / "out"))
    assert "no example is of class 2" in said


def test_a_class_that_only_held_out_examples_have_is_never_answered() -> None:
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(300, 3)), random.integers(0, 3, 300)
    place = ExitPoint(name="p", cost=1, carry=("p",), carry_bytes=1, path="p", shape=(3,))
    for style in ("linear", "deep"):
        head = fit_head(Pooling(place, style), features, np.where(labels == 1, 3, labels), 4)
        scores = head(features)
        assert scores.shape == (300, 4)
        assert np.isfinite(scores).all()
        assert not (scores.argmax(axis=1) == 1).any()


def test_labels_of_a_single_class_teach_nothing() -> None:
    place = ExitPoint(name="p", cost=1, carry=("p",), carry_bytes=1, path="p", shape=(3,))
    with pytest.raises(DataError, match="a single class"):
        fit_head(Pooling(place, "linear"), np.ones((5, 3)), np.zeros(5, np.int64), 2)


def test_empty_names_of_points_are_refused() -> None:
    from offramp.command import parsing

    assert parsing.exit_names("auto") is None
    assert parsing.exit_names("a, b") == ["a", "b"]
    with pytest.raises(InputError, match="empty name"):
        parsing.exit_names("a,,b")


@pytest.mark.parametrize("style", ["linear", "deep"])
@pytest.mark.parametrize("name", ["bert", "lstm", "vit", "resnet", "vectors"])
def test_pooling_in_onnx_is_pooling_of_every_layout(name: str, style: str, tmp_path: Path) -> None:
    """Against numpy, on what the network shows at the point."""
    from offramp.exits.cutting import exit_point
    from offramp.exits.network import Network, open_session
    from offramp.exits.pooling import pooled

    module, x, at = architectures.ALL[name]()
    network = Network.read(architectures.export(module, x, tmp_path / "m.onnx"), x)
    place = exit_point(network, at[0])
    padding = (network.inputs[0], 0) if name in ("bert", "lstm") else None
    session = open_session(pooled(network, {"p": Pooling(place, style, True, padding)}))  # type: ignore[arg-type]
    found = session.run(None, {network.inputs[0]: x})[0]
    raw = onnx.ModelProto()
    raw.CopyFrom(network.model)
    raw.graph.output.append(onnx.ValueInfoProto(name=place.name))
    values = open_session(raw).run([place.name], {network.inputs[0]: x})[0]
    values = np.moveaxis(values, place.axis, 0)
    np.testing.assert_allclose(found, by_hand(values, style, x, padding), atol=1e-5)


def by_hand(
    values: np.ndarray, style: str, x: np.ndarray, padding: tuple[str, int] | None
) -> np.ndarray:
    if values.ndim == 2:
        return values
    if values.ndim == 4:
        n, channels, height, width = values.shape
        parts = [values.mean((2, 3)), values.max((2, 3))]
        cells = next((c for c in (4, 3, 2) if min(height, width) >= 2 * c), 0)
        h, w = height // cells, width // cells
        grid = values[:, :, : cells * h, : cells * w].reshape(n, channels, cells, h, cells, w)
        parts.append(grid.mean((3, 5)).reshape(n, -1))
    else:
        keep = np.ones(values.shape[:2], bool) if padding is None else x != padding[1]
        rows = [row[some] for row, some in zip(values, keep, strict=True)]
        parts = [np.stack([row.mean(0) for row in rows]), np.stack([row.max(0) for row in rows])]
        parts.append(values[:, 0])
    return parts[0] if style == "linear" else np.concatenate(parts, axis=1)


def test_heads_of_two_classes_have_two_scores() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(1500, 3)) * [50, 1, 0.02] + [7, 0, 3]  # of any scale
    labels = (features[:, 0] > 50 * features[:, 1] + 7).astype(np.int64)
    place = ExitPoint(name="p", cost=1, carry=("p",), carry_bytes=1, path="p", shape=(3,))
    for style in ("linear", "deep"):
        head = fit_head(Pooling(place, style), features, labels, 2)
        assert (head(features).argmax(axis=1) == labels).mean() > 0.9


def test_few_examples_of_a_class_are_enough() -> None:
    random = np.random.default_rng(0)
    features, labels = random.normal(size=(40, 3)), np.r_[np.arange(5), np.zeros(35, np.int64)]
    place = ExitPoint(name="p", cost=1, carry=("p",), carry_bytes=1, path="p", shape=(3,))
    head = fit_head(Pooling(place, "deep"), features, labels, 5)
    assert head(features).shape == (40, 5)
