"""Outputs as networks give them: graphs bring them into one form, and no file of a user changes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from offramp import OnnxRuntime, fit, infer, open_examples, record
from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import DataError, GraphError, InputError, NetworkError
from offramp.base.files import fingerprint
from offramp.core import tasks
from offramp.core.costs import Costs
from offramp.export import write_file
from offramp.networks.classes import ClassOrder, read_class_names
from offramp.networks.forms import Outputs
from offramp.networks.networks import Networks, combine
from offramp.plan.plan import Plan
from offramp.recording.record import RecordOptions
from offramp.runtime import Routed, SingleFile, Stages
from offramp.study.bench import Contest, bench
from tests.made import blob_networks, blobs, linear_network
from tests.test_cli import Offramp, offramp

__all__ = ["offramp"]  # a fixture
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
BEST = (np.eye(6, 4) * 4).astype(np.float32)


def value(name: str, dtype: int, shape: Sequence[int | str] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def network(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    *,
    weights: FloatArray = BEST,
    opset: int = 17,
    constants: Mapping[str, AnyArray] | None = None,
) -> Path:
    """A network that reads (batch, 6): `sums` is that times weights, and `nodes` follow it."""
    kept = {"weights": weights.astype(np.float32), **(constants or {})}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weights"], ["sums"]), *nodes],
        "network",
        [value("input", FLOAT, ["batch", 6])],
        list(outputs),
        [numpy_helper.from_array(array, name) for name, array in kept.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def classifier(
    path: Path,
    *,
    zipmap: bool = False,
    names: Sequence[str] = (),
    numbers: Sequence[int] = (0, 1, 2, 3),
) -> Path:
    """As converters of scikit-learn write one: the label, then the probabilities."""
    labels = {"classlabels_strings": names} if names else {"classlabels_ints": numbers}
    keys = {"classlabels_strings": names} if names else {"classlabels_int64s": numbers}
    kind = TensorProto.STRING if names else INT64
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["input"],
            ["label", "raw"],
            domain="ai.onnx.ml",
            coefficients=BEST.T[: len(numbers)].reshape(-1).tolist(),
            intercepts=[0.0] * len(numbers),
            multi_class=1,
            post_transform="SOFTMAX",
            **labels,
        )
    ]
    if zipmap:
        nodes.append(
            helper.make_node("ZipMap", ["raw"], ["probabilities"], domain="ai.onnx.ml", **keys)
        )
        entry = helper.make_tensor_type_proto(FLOAT, [])
        pairs = helper.make_map_type_proto(kind, entry)
        given = helper.make_value_info("probabilities", helper.make_sequence_type_proto(pairs))
    else:
        nodes.append(helper.make_node("Identity", ["raw"], ["probabilities"]))
        given = value("probabilities", FLOAT, ["batch", len(numbers)])
    return network(path, nodes, [value("label", kind, ["batch"]), given])


def forest(path: Path) -> Path:
    """A tree for each of four classes, as converters of boosted trees write them."""
    count, trees = 4, range(4)
    nodes = [
        helper.make_node(
            "TreeEnsembleClassifier",
            ["input"],
            ["label", "probabilities"],
            domain="ai.onnx.ml",
            nodes_treeids=[t for t in trees for _ in range(3)],
            nodes_nodeids=[0, 1, 2] * count,
            nodes_featureids=[t for t in trees for _ in range(3)],
            nodes_values=[1.0, 0.0, 0.0] * count,
            nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * count,
            nodes_truenodeids=[1, 0, 0] * count,
            nodes_falsenodeids=[2, 0, 0] * count,
            class_treeids=[t for t in trees for _ in range(2)],
            class_nodeids=[1, 2] * count,
            class_ids=[t for t in trees for _ in range(2)],
            class_weights=[-1.0, 1.0] * count,
            classlabels_int64s=[0, 1, 2, 3],
            post_transform="SOFTMAX",
        )
    ]
    described = [value("label", INT64, ["batch"]), value("probabilities", FLOAT, None)]
    return network(path, nodes, described)


def scores_of(file: Path, x: FloatArray) -> AnyArray:
    """The first output of a network, run by itself."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    first = session.get_outputs()[0]
    assert first.shape[1:] == [session.run([first.name], {"input": x})[0].shape[1]]
    return np.asarray(session.run([first.name], {"input": x})[0])


def softmax(logits: FloatArray) -> FloatArray:
    return np.asarray(tasks.probabilities(logits.astype(np.float32), "logits"))


X = blobs(50)[0]
SUMS = X @ BEST


def test_a_network_in_one_form_is_taken_as_it_is(tmp_path: Path) -> None:
    files = blob_networks(tmp_path)
    networks = combine(files)
    assert networks.files == files
    assert networks.notes == []
    assert networks.scratch is None
    networks.write(tmp_path / "graph")
    said = json.loads((tmp_path / "graph" / "graph.json").read_text())["outputs"]
    assert said["big"] == {"tensor": "scores", "kind": None, "notes": [], "original": None}


@pytest.mark.parametrize("zipmap", [False, True])
@pytest.mark.parametrize("names", [(), ("a", "b", "c", "d")])
def test_labels_before_probabilities(tmp_path: Path, zipmap: bool, names: tuple[str, ...]) -> None:
    file = classifier(tmp_path / "a.onnx", zipmap=zipmap, names=names)
    before = fingerprint(file)
    networks = combine({"a": file})
    np.testing.assert_allclose(scores_of(networks.files["a"], X), softmax(SUMS), atol=1e-5)
    assert "taken from output probabilities" in networks.notes[0]
    assert any("ZipMap is left out" in note for note in networks.notes) == zipmap
    assert networks.class_names == names
    assert networks.outputs["a"].original == before == fingerprint(file)


def test_copies_go_when_nobody_needs_them(tmp_path: Path) -> None:
    networks = combine({"a": classifier(tmp_path / "a.onnx")})
    copy = networks.files["a"]
    assert copy.is_file()
    networks.write(tmp_path / "graph")
    del networks
    assert not copy.parent.exists()
    read = Networks.read(tmp_path / "graph")
    assert read.outputs["a"].tensor == "probabilities"
    np.testing.assert_allclose(scores_of(read.files["a"], X), softmax(SUMS), atol=1e-5)


def test_an_input_of_any_length_is_tried_with_some(tmp_path: Path) -> None:
    """As encoders of text are exported: ids (batch, length), and no shape of what they give."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["numbers"], to=FLOAT),
        helper.make_node("ReduceMean", ["numbers"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["mean", "weights"], ["sums"]),
        helper.make_node("Reshape", ["sums", "to"], ["scores"]),
    ]
    arrays = {"weights": np.ones((1, 4), np.float32), "to": np.array([0, 1, 4])}
    graph = helper.make_graph(
        nodes,
        "text",
        [value("ids", INT64, ["batch", "length"])],
        [value("scores", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "a.onnx")
    networks = combine({"a": tmp_path / "a.onnx"})
    ids = np.array([[1, 2], [3, 4], [5, 6]])
    found = Stages(networks.files).run("a", ids)
    np.testing.assert_allclose(found, np.repeat(ids.mean(axis=1)[:, None], 4, axis=1))


SHAPES: dict[str, tuple[list[onnx.NodeProto], list[int | str] | None, list[int]]] = {
    "n1c": ([helper.make_node("Reshape", ["sums", "to"], ["out"])], ["batch", 1, 4], [0, 1, 4]),
    "nc1": ([helper.make_node("Reshape", ["sums", "to"], ["out"])], ["batch", 4, 1], [0, 4, 1]),
    "nc11": (
        [helper.make_node("Reshape", ["sums", "to"], ["out"])],
        ["batch", 4, 1, 1],
        [0, 4, 1, 1],
    ),
    "rank": ([helper.make_node("Reshape", ["sums", "to"], ["out"])], None, [0, 4]),
    "undeclared": ([helper.make_node("Reshape", ["sums", "to"], ["out"])], None, [0, 4, 1]),
    "named": (
        [helper.make_node("Reshape", ["sums", "to"], ["out"])],
        ["batch", "k", "classes"],
        [0, 1, 4],
    ),
}


@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_shapes(tmp_path: Path, case: str, dtype: int) -> None:
    nodes, shape, to = SHAPES[case]
    cast = helper.make_node("Cast", ["out"], ["scores"], to=dtype)
    described = [value("scores", dtype, shape)]
    file = network(tmp_path / "a.onnx", [*nodes, cast], described, constants={"to": np.array(to)})
    networks = combine({"a": file})
    found = Stages(networks.files).run("a", X)
    np.testing.assert_allclose(found, SUMS, rtol=1e-2 if dtype == TensorProto.FLOAT16 else 1e-5)
    empty = scores_of(networks.files["a"], X[:0])
    assert empty.shape == (0, 4)
    assert networks.notes


def test_what_has_several_dimensions_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["sums", "to"], ["out"])]
    for name, shape in (("said", ["batch", 2, 2]), ("unsaid", None)):
        described = [value("out", FLOAT, shape)]  # type: ignore[arg-type]
        file = network(
            tmp_path / f"{name}.onnx", nodes, described, constants={"to": np.array([0, 2, 2])}
        )
        with pytest.raises(NetworkError, match=r"2, 2\).*scores|scores .*2, 2\)"):
            combine({"a": file})


COLUMN = np.eye(6, 1).astype(np.float32) * 2


@pytest.mark.parametrize("shape", [["batch", 1], ["batch"], None, ["batch", 1, 1]])
@pytest.mark.parametrize("last", ["Sigmoid", "Identity"])
def test_one_column_of_a_binary_network(
    tmp_path: Path, shape: list[int | str] | None, last: str
) -> None:
    to = np.array(
        [-1] if shape == ["batch"] else [0, 1, 1] if shape and len(shape) == 3 else [0, 1]
    )
    nodes = [
        helper.make_node("Reshape", ["sums", "to"], ["flat"]),
        helper.make_node(last, ["flat"], ["out"]),
    ]
    described = [value("out", FLOAT, shape)]
    file = network(tmp_path / "a.onnx", nodes, described, weights=COLUMN, constants={"to": to})
    networks = combine({"a": file})
    chance = 1 / (1 + np.exp(-(X @ COLUMN)))
    expected = np.concatenate([1 - chance, chance], axis=1)
    scores = Stages(networks.files).run("a", X)
    kind = networks.kinds["a"]
    assert kind == ("probabilities" if last == "Sigmoid" else "logits")
    np.testing.assert_allclose(tasks.probabilities(scores, kind), expected, atol=1e-5)
    assert f"--kind a={'logits' if last == 'Sigmoid' else 'sigmoid'}" in networks.notes[-1]


def column(path: Path, low: float, high: float, shape: Sequence[int | str] = ("batch", 1)) -> Path:
    """One column whose last operator says nothing of it: clipped to a range."""
    nodes = [helper.make_node("Clip", ["sums", "low", "high"], ["out"])]
    bounds = {"low": np.float32(low), "high": np.float32(high)}
    arrays = {name: np.array(bound, np.float32) for name, bound in bounds.items()}
    return network(path, nodes, [value("out", FLOAT, shape)], weights=COLUMN, constants=arrays)


def test_a_column_that_does_not_show_what_it_is_is_run(tmp_path: Path) -> None:
    chances = combine({"a": column(tmp_path / "a.onnx", 0, 1)})
    assert chances.kinds == {"a": "probabilities"}
    sums = combine({"a": column(tmp_path / "b.onnx", -9, 9)})
    assert sums.kinds == {"a": "logits"}
    said = combine({"a": column(tmp_path / "c.onnx", 0, 1)}, outputs=Outputs(kind={"a": "logits"}))
    assert said.kinds == {"a": "logits"}


def test_a_binary_network_goes_the_whole_way(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 6)).astype(np.float32)
    y = (x[:, 0] + random.normal(size=2000) * 0.3 > 0).astype(np.int64)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    poor = COLUMN + random.normal(size=(6, 1)).astype(np.float32) * 0.7
    sigmoid = [helper.make_node("Sigmoid", ["sums"], ["out"])]
    described = [value("out", FLOAT, ["batch", 1])]
    small = network(tmp_path / "small.onnx", sigmoid, described, weights=poor)
    big = network(
        tmp_path / "big.onnx", [], [value("sums", FLOAT, ["batch", 1])], weights=COLUMN * 2
    )
    combine({"small": small, "big": big}).write(tmp_path / "graph")
    networks = Networks.read(tmp_path / "graph")
    trace = record(
        networks,
        OnnxRuntime(networks.files, networks.graph),
        open_examples(tmp_path / "data.npz"),
        tmp_path / "trace",
        RecordOptions(),
        costs=Costs({"small": 1.0, "big": 9.0}, {"small": 0.0, "big": 0.0}, "unit"),
    )
    assert dict(trace.kinds) == {"small": "probabilities", "big": "logits"}
    errors = trace.losses().values
    assert errors["big"].mean() < errors["small"].mean() < 0.5
    plan = fit(trace, 0.1, policy="margin", networks=networks)
    assert plan.routes
    plan.write(tmp_path / "plan")
    read = Plan.read(tmp_path / "plan")
    write_file(read, tmp_path / "model.onnx")
    live = OnnxRuntime(read.networks, read.graph)

    answers = infer(read, live, x[:300])
    single = SingleFile(tmp_path / "model.onnx")(x[:300])
    np.testing.assert_array_equal(answers.answer, single.answer)
    np.testing.assert_array_equal(answers.stage, single.stage)


KINDS = {
    "Softmax": "probabilities",
    "Sigmoid": "sigmoid",
    "LogSoftmax": "logits",
    "Relu": "logits",
    "Identity": None,
}


@pytest.mark.parametrize("last", KINDS)
def test_the_last_operator_says_what_scores_are(tmp_path: Path, last: str) -> None:
    nodes = [
        helper.make_node(last, ["sums"], ["last"]),
        helper.make_node("Reshape", ["last", "to"], ["turned"]),
        helper.make_node("Identity", ["turned"], ["scores"]),
    ]
    described = [value("scores", FLOAT, ["batch", 4])]
    file = network(tmp_path / "a.onnx", nodes, described, constants={"to": np.array([0, 4])})
    networks = combine({"a": file})
    assert networks.outputs["a"].kind == KINDS[last]
    assert networks.files["a"] == file
    assert any("ReLU" in note and "tie" in note for note in networks.notes) == (last == "Relu")


def test_sigmoids_that_happen_to_sum_to_one_are_sigmoids(tmp_path: Path) -> None:
    """As far as a network is sure, its sigmoids look like probabilities."""
    nodes = [
        helper.make_node("Sub", ["sums", "half"], ["moved"]),
        helper.make_node("Sigmoid", ["moved"], ["scores"]),
    ]
    described = [value("scores", FLOAT, ["batch", 4])]
    half = np.array(40, np.float32)
    file = network(
        tmp_path / "a.onnx", nodes, described, weights=BEST * 10, constants={"half": half}
    )
    x = np.eye(4, 6, dtype=np.float32)[np.arange(200) % 4] * 2
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(200) % 4)
    networks = combine({"a": file})
    said = record(
        networks,
        OnnxRuntime(networks.files),
        open_examples(tmp_path / "data.npz"),
        tmp_path / "trace",
        RecordOptions(),
    )
    assert tasks.kind_of(said.scores["a"], "a") == "probabilities"
    assert dict(said.kinds) == {"a": "sigmoid"}
    assert said.doubts(networks.kinds) == []


def several(path: Path) -> Path:
    nodes = [helper.make_node("MatMul", ["sums", "more"], ["embedding"])]
    described = [value("embedding", FLOAT, ["batch", 9]), value("sums", FLOAT, ["batch", 4])]
    return network(path, nodes, described, constants={"more": np.ones((4, 9), np.float32)})


def test_scores_that_are_not_what_the_network_shows_are_named(tmp_path: Path) -> None:
    networks = combine(blob_networks(tmp_path), outputs=Outputs(kind={"big": "probabilities"}))
    x, y = blobs(100)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    trace = record(
        networks,
        OnnxRuntime(networks.files, networks.graph),
        open_examples(tmp_path / "data.npz"),
        tmp_path / "trace",
        RecordOptions(),
    )
    assert trace.kinds["big"] == "logits"
    assert "'big' shows scores of kind probabilities" in trace.doubts(networks.kinds)[0]


def test_any_output_can_be_named(tmp_path: Path) -> None:
    file = several(tmp_path / "a.onnx")
    first = combine({"a": file})
    assert first.files["a"] == file
    assert "--output a=NAME" in first.notes[0]
    assert "sums (float (n, 4))" in first.notes[0]
    named = combine({"a": file}, outputs=Outputs(output={"a": "sums"}))
    np.testing.assert_allclose(scores_of(named.files["a"], X), SUMS, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--output", "a=nothing"], "outputs of .* are label, probabilities"),
        (["--output", "b=label"], "--output names 'b', which is no network; the networks are a"),
        (["--output", "a=label"], r"label \(int64 \(n,\)\) cannot be scores"),
        (["--output", "label"], "is not of the form NAME=VALUE"),
        (["--output", "a=label", "--output", "a=probabilities"], "given twice"),
        (["--kind", "a=wrong"], "one of logits, probabilities, sigmoid"),
        (["--kind", "b=logits"], "--kind names 'b'"),
        (["--classes", "a=nowhere.txt"], "nowhere.txt cannot be read"),
        (["--classes", "b=few.txt"], "--classes names 'b'"),
        (["--classes", "a=few.txt"], "has 3 names, but it scores 4"),
        (["--classes", "a=twice.txt"], "names the class 'x' twice"),
        (["--classes", "a=broken.json"], "is no JSON"),
    ],
)
def test_what_names_nothing_is_refused(
    tmp_path: Path, offramp: Offramp, options: list[str], words: str
) -> None:
    classifier(tmp_path / "a.onnx")
    (tmp_path / "few.txt").write_text("x\ny\nz\n")
    (tmp_path / "twice.txt").write_text("x\ny\nx\nz\n")
    (tmp_path / "broken.json").write_text("[1, ")
    given = [re.sub(r"(\w+\.(txt|json))", str(tmp_path) + r"/\1", option) for option in options]
    said = offramp("graph", f"a={tmp_path / 'a.onnx'}", *given, "--out", tmp_path / "graph")
    assert said.code == 2
    assert re.search(words, " ".join(said.err.split()))
    assert not (tmp_path / "graph").exists()


def test_a_network_without_scores_is_refused(tmp_path: Path, offramp: Offramp) -> None:
    nodes = [helper.make_node("ArgMax", ["sums"], ["label"], axis=1, keepdims=0)]
    file = network(tmp_path / "a.onnx", nodes, [value("label", INT64, ["batch"])])
    said = offramp("graph", f"a={file}", "--out", tmp_path / "graph")
    assert said.code == 2
    assert "no output of stage 'a' can be scores" in said.err
    assert "label (int64 (n,))" in " ".join(said.err.split())


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_an_order_by_name_is_what_a_dictionary_does(data: st.DataObject) -> None:
    names = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
    own, wanted = data.draw(names), data.draw(names)
    order = ClassOrder.by_name(tuple(own), tuple(wanted))
    scored = dict(zip(own, range(10, 20), strict=False))
    extended = [*scored.values(), None]
    assert [extended[position] for position in order.take] == [scored.get(n) for n in wanted]
    assert set(order.dropped) == set(own) - set(wanted)
    assert set(order.lacked) == set(wanted) - set(own)


LAST: dict[str, Callable[[FloatArray], FloatArray]] = {
    "Softmax": softmax,
    "Sigmoid": lambda sums: 1 / (1 + np.exp(-sums)),
    "Identity": lambda sums: sums,
}


@pytest.mark.parametrize("last", LAST)
@pytest.mark.parametrize("opset", [12, 17, 18])
def test_classes_by_name(tmp_path: Path, last: str, opset: int) -> None:
    """The small network lacks d, and knows e, of which the reference has never heard."""
    nodes = [helper.make_node(last, ["sums"], ["out"])]
    described = [value("out", FLOAT, ["batch", 4])]
    small = network(tmp_path / "s.onnx", nodes, described, opset=opset)
    big = linear_network(tmp_path / "b.onnx", BEST, [6])
    names = {"small": ("c", "e", "a", "b"), "big": ("a", "b", "c", "d")}
    networks = combine({"small": small, "big": big}, outputs=Outputs(classes=names))
    assert networks.class_names == names["big"]
    assert networks.files["big"] == big
    raw, scores = LAST[last](SUMS), scores_of(networks.files["small"], X)
    wanted = raw[:, [2, 3, 0]]
    if last == "Softmax":
        wanted = wanted / wanted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores[:, :3], wanted, rtol=1e-4, atol=1e-5)
    assert (scores[:, 3] <= scores.min(axis=1)).all()
    chances = tasks.probabilities(scores, tasks.kind_of(scores, "small"))
    if last != "Sigmoid":  # which are chances of each class by itself
        assert chances[:, 3].max() < 1e-9
    said = " ".join(networks.notes)
    assert "dropped: e" in said
    assert "lowest score: d" in said


def test_counts_that_differ_are_refused_with_what_to_write(
    tmp_path: Path, offramp: Offramp
) -> None:
    small = linear_network(tmp_path / "s.onnx", BEST[:, :3], [6])
    big = linear_network(tmp_path / "b.onnx", BEST, [6])
    networks = [f"small={small}", f"big={big}"]
    said = offramp("graph", *networks, "--out", tmp_path / "graph")
    assert said.code == 2
    text = " ".join(said.err.split())
    assert "'small' scores 3 classes and the reference 'big' 4" in text
    assert "--classes small=labels.txt --classes big=labels.txt" in text
    (tmp_path / "small.txt").write_text("d\nc\nb\n")
    (tmp_path / "big.json").write_text('{"0": "a", "1": "b", "2": "c", "3": "d"}')
    few = ["--classes", f"small={tmp_path / 'small.txt'}"]
    assert "Write --classes big=labels.txt as well" in " ".join(
        offramp("graph", *networks, *few, "--out", tmp_path / "graph").err.split()
    )
    both = [*few, "--classes", f"big={tmp_path / 'big.json'}"]
    assert offramp("graph", *networks, *both, "--out", tmp_path / "graph").code == 0
    assert Networks.read(tmp_path / "graph").class_names == ("a", "b", "c", "d")


def test_names_of_one_network_alone_are_said(tmp_path: Path) -> None:
    files = blob_networks(tmp_path)
    networks = combine(files, outputs=Outputs(classes={"big": tuple("abcd")}))
    assert networks.class_names == tuple("abcd")
    assert "in the same order" in networks.notes[0]
    assert "--classes small=labels.txt" in networks.notes[0]
    assert networks.files == files


def test_classes_that_a_file_numbers(tmp_path: Path) -> None:
    """A classical model that never met class 2 of four, and one that counts from 1."""
    big = linear_network(tmp_path / "b.onnx", BEST, [6])
    few = classifier(tmp_path / "few.onnx", numbers=(0, 1, 3))
    networks = combine({"few": few, "big": big})
    expected = softmax(X @ BEST[:, :3])
    scores = scores_of(networks.files["few"], X)
    np.testing.assert_allclose(scores[:, [0, 1, 3]], expected, atol=1e-5)
    assert (scores[:, 2] == 0).all()
    assert "lowest score: 2" in " ".join(networks.notes)
    from_one = combine({"a": classifier(tmp_path / "one.onnx", numbers=(1, 2, 3, 4)), "big": big})
    np.testing.assert_allclose(scores_of(from_one.files["a"], X), softmax(SUMS), atol=1e-5)
    assert "numbers its classes 1, 2, 3, 4" in " ".join(from_one.notes)


def test_networks_that_share_no_class_are_refused(tmp_path: Path) -> None:
    files = blob_networks(tmp_path)
    names = {"small": ("a", "b", "c", "d"), "big": ("e", "f", "g", "h")}
    with pytest.raises(GraphError, match="they share 0 of the names"):
        combine(files, outputs=Outputs(classes=names))


def test_names_come_from_lines_and_lists(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("\ufeffa b\r\nc\n\n", encoding="utf-8")
    (tmp_path / "list").write_text(' ["a b", "c"]')
    assert read_class_names(tmp_path / "lines") == read_class_names(tmp_path / "list")
    (tmp_path / "none").write_text("\n")
    with pytest.raises(InputError, match="does not hold a name for every class"):
        read_class_names(tmp_path / "none")


def test_labels_of_another_order_are_refused(tmp_path: Path) -> None:
    files = blob_networks(tmp_path / "onnx")
    names = {"small": tuple("abcd"), "big": tuple("abcd")}
    networks = combine(files, outputs=Outputs(classes=names))
    x, y = blobs(100)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    examples = open_examples(tmp_path / "data.npz")
    runtime = OnnxRuntime(networks.files, networks.graph)
    turned = type(examples)(**{**vars(examples), "classes": tuple("abdc")})
    with pytest.raises(DataError, match="'d' is label 2 of the examples, but class 3"):
        record(networks, runtime, turned, tmp_path / "trace", RecordOptions())
    trace = record(networks, runtime, examples, tmp_path / "trace", RecordOptions())
    assert trace.info["class_names"] == list("abcd")


def test_weights_beside_a_network_travel(tmp_path: Path) -> None:
    inside = several(tmp_path / "a.onnx")
    (tmp_path / "beside").mkdir()
    file = tmp_path / "beside" / "a.onnx"
    onnx.save(
        onnx.load(inside),
        file,
        save_as_external_data=True,
        location="a.onnx.data",
        size_threshold=0,
    )
    combine({"a": file}, outputs=Outputs(output={"a": "sums"})).write(tmp_path / "graph")
    for gone in (file, file.with_name("a.onnx.data"), inside):
        gone.unlink()
    read = Networks.read(tmp_path / "graph")
    np.testing.assert_allclose(scores_of(read.files["a"], X), SUMS, rtol=1e-5)


def test_trees_before_a_network_go_the_whole_way(tmp_path: Path, offramp: Offramp) -> None:
    x, y = blobs(1500)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    nodes = [helper.make_node("Softmax", ["sums"], ["out"])]
    big = network(tmp_path / "b.onnx", nodes, [value("out", FLOAT, ["batch", 4])], opset=18)
    trees = forest(tmp_path / "t.onnx")
    assert offramp("graph", f"t={trees}", f"big={big}", "--out", tmp_path / "graph").code == 0
    costs = ["--cost", "t=1,big=9", "--data", tmp_path / "data.npz"]
    assert offramp("record", tmp_path / "graph", *costs, "--out", tmp_path / "trace").code == 0
    limits = ["--budget", "0.05", "--policy", "margin"]
    assert offramp("fit", tmp_path / "trace", *limits, "--out", tmp_path / "plan").code == 0
    assert offramp("export", tmp_path / "plan", "--out", tmp_path / "model.onnx").code == 0
    export = ["export", tmp_path / "plan", "--stages", "--out", tmp_path / "stages"]
    assert offramp(*export).code == 0
    plan = Plan.read(tmp_path / "plan")
    assert plan.routes
    one = SingleFile(tmp_path / "model.onnx")(x[:200])
    each = Routed(tmp_path / "stages")(x[:200])
    assert len(set(one.stage)) == 2
    np.testing.assert_array_equal(one.answer, each.answer)
    np.testing.assert_array_equal(one.stage, each.stage)


def test_openvino_says_what_it_lacks(tmp_path: Path, offramp: Offramp) -> None:
    classifier(tmp_path / "a.onnx")
    given = [f"a={tmp_path / 'a.onnx'}", "--engine", "openvino", "--out", tmp_path / "graph"]
    said = offramp("graph", *given)
    assert said.code == 2
    text = " ".join(said.err.split())
    assert "LinearClassifier of ai.onnx.ml, which OpenVINO does not have" in text
    assert "--engine onnxruntime" in text
    assert not (tmp_path / "graph").exists()


def test_bench_goes_on_where_an_engine_lacks_operators(tmp_path: Path) -> None:
    x, y = blobs(800)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    small = linear_network(tmp_path / "s.onnx", BEST * 0.1, [6])
    networks = combine({"small": small, "big": classifier(tmp_path / "b.onnx")})
    trace = record(
        networks,
        OnnxRuntime(networks.files, networks.graph),
        open_examples(tmp_path / "data.npz"),
        tmp_path / "trace",
        RecordOptions(),
        costs=Costs({"small": 1.0, "big": 9.0}, {"small": 0.0, "big": 0.0}, "unit"),
    )
    plan = fit(trace, 0.05, policy="margin", networks=networks)
    chosen = replace(plan, tradeoff=float(plan.policy.settings[50]))
    found = bench(chosen, x[:50], y[:50], batch=8, contest=Contest(1))
    assert "LinearClassifier of ai.onnx.ml" in found.missing["OpenVINO"]
    names = {timing.name for timing in found.contestants}
    assert "big, all" in names
    assert "big, OpenVINO" not in names


def deep(path: Path) -> Path:
    """A network of several layers that gives its label first."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Relu", ["sums"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["deep"]),
        helper.make_node("MatMul", ["deep", "third"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    described = [value("label", INT64, ["batch"]), value("logits", FLOAT, ["batch", 4])]
    second, third = rng.normal(size=(4, 16)), np.eye(16, 4)
    return network(
        path,
        nodes,
        described,
        constants={
            "second": np.concatenate([np.eye(4), second[:, 4:]], axis=1).astype(np.float32),
            "third": third.astype(np.float32),
        },
    )


def test_exits_find_the_scores_behind_a_label(tmp_path: Path, offramp: Offramp) -> None:
    x, y = blobs(2000)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    file, given = deep(tmp_path / "a.onnx"), ["--data", tmp_path / "data.npz"]
    said = offramp("exits", file, *given, "--out", tmp_path / "exits")
    assert said.code == 0
    assert "taken from output logits" in " ".join(said.err.split())
    listed = offramp("exits", file, "--list", "--json", "--output", "logits")
    assert listed.code == 0
    networks = Networks.read(tmp_path / "exits")
    assert {p.partition(".")[0] for p in networks.outputs} == {"final"}
    found = OnnxRuntime(networks.files, networks.graph).run("final", x[:50])
    np.testing.assert_allclose(found, onnx_logits(file, x[:50]), rtol=1e-4, atol=1e-4)
    names = {"deep": ("a", "b", "c", "d"), "big": ("d", "c", "b", "a")}
    big = linear_network(tmp_path / "b.onnx", BEST[:, ::-1].copy(), [6])
    both = combine({"deep": tmp_path / "exits", "big": big}, outputs=Outputs(classes=names))
    turned = OnnxRuntime(both.files, both.graph)
    np.testing.assert_allclose(turned.run("deep", x[:50]), found[:, ::-1], rtol=1e-4, atol=1e-4)
    assert both.class_names == names["big"]


def test_heads_that_hear_others_hear_them_in_their_own_order(
    tmp_path: Path, offramp: Offramp
) -> None:
    x, y = blobs(2000)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    given = ["--data", tmp_path / "data.npz", "--hears", "--at", "sums,wide"]
    made = offramp("exits", deep(tmp_path / "a.onnx"), *given, "--out", tmp_path / "exits")
    assert made.code == 0
    plain = combine({"deep": tmp_path / "exits"})
    assert any(stage.hears for stage in plain.graph.stages)
    big = linear_network(tmp_path / "b.onnx", BEST[:, ::-1].copy(), [6])
    names = {"deep": ("a", "b", "c", "d"), "big": ("d", "c", "b", "a")}
    both = combine({"deep": tmp_path / "exits", "big": big}, outputs=Outputs(classes=names))
    before = OnnxRuntime(plain.files, plain.graph).begin(x[:20])
    after = OnnxRuntime(both.files, both.graph).begin(x[:20])
    for stage in plain.graph.order:
        before.advance(stage, None)
        after.advance(stage, None)
        turned = after.answer(stage, None)[:, ::-1]
        np.testing.assert_allclose(turned, before.answer(stage, None), rtol=1e-4, atol=1e-4)


def onnx_logits(file: Path, x: FloatArray) -> AnyArray:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"input": x})[0])


def test_exits_in_trees_are_refused_in_a_sentence(tmp_path: Path, offramp: Offramp) -> None:
    x, y = blobs(500)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    nodes = onnx.load(forest(tmp_path / "t.onnx"))
    assert nodes.graph.node[1].op_type == "TreeEnsembleClassifier"
    given = ["--data", tmp_path / "data.npz", "--out", tmp_path / "exits"]
    said = offramp("exits", tmp_path / "t.onnx", *given)
    assert said.code == 2
    assert "no point to exit from" in said.err
