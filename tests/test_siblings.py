"""Cheap copies of one network: made, judged, kept or left out with a reason, and what runs them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import Ridge

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import DataError, InputError
from offramp.base.hashing import hash_rows
from offramp.core.graph import Costs, Graph
from offramp.core.tasks import answers
from offramp.core.trace import Trace, assemble
from offramp.export import write_file, write_folder
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.runtime import OnnxRuntime, Routed, SingleFile, Stages, infer
from offramp.siblings import SiblingOptions, Siblings, make, making
from offramp.siblings.choosing import choose
from offramp.siblings.examples import FEWEST_HELD_OUT
from offramp.siblings.quantising import Quantiser, Scheme
from offramp.siblings.shrinking import shrunk, sides, smaller
from tests.made import blobs, linear_network, unseen
from tests.test_exits import run

SIDE, CHANNELS, CLASSES = 16, 24, 4


def gratings(examples: int, seed: int) -> tuple[FloatArray, IntArray]:
    """Stripes (n, 1, 16, 16) of four directions, in noise, and their directions."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, examples)
    angle = labels * np.pi / CLASSES + random.normal(size=examples) * 0.12
    row, column = np.mgrid[:SIDE, :SIDE]
    phase = random.uniform(0, 2 * np.pi, examples)
    along = np.cos(angle)[:, None, None] * column + np.sin(angle)[:, None, None] * row
    stripes = np.sin(along * 1.3 + phase[:, None, None])
    noisy = stripes + random.normal(size=stripes.shape) * 1.4
    return noisy[:, None].astype(np.float32), labels


def striped_network(path: Path, *, opset: int = 17, fixed: bool = False) -> Path:
    """Random filters, pooled, and a head that is trained on `gratings`.

    With `fixed` the head reads every pixel, so that it takes images of one size alone.
    """
    random = np.random.default_rng(0)
    constants = {
        "w1": random.normal(size=(CHANNELS, 1, 5, 5)) * 0.3,
        "w2": random.normal(size=(CHANNELS, CHANNELS, 3, 3)) * 0.1,
    }
    pooling = (
        [helper.make_node("AveragePool", ["b"], ["p"], kernel_shape=[4, 4], strides=[4, 4])]
        if fixed
        else [helper.make_node("GlobalAveragePool", ["b"], ["p"])]
    )
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["c"], pads=[2, 2, 2, 2]),
        helper.make_node("Relu", ["c"], ["a"]),
        helper.make_node("Conv", ["a", "w2"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["d"], ["b"]),
        *pooling,
        helper.make_node("Flatten", ["p"], ["features"]),
    ]
    x, y = gratings(1500, 1)
    features = _saved(path, nodes, constants, "features", opset)
    head = Ridge(1e-3).fit(_scored(features, x), np.eye(CLASSES)[y] * 8)
    constants |= {"head": head.coef_.T, "bias": head.intercept_}
    last = helper.make_node("Gemm", ["features", "head", "bias"], ["scores"])
    return _saved(path, [*nodes, last], constants, "scores", opset)


def _saved(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: Mapping[str, AnyArray],
    output: str,
    opset: int,
) -> Path:
    graph = helper.make_graph(
        nodes,
        "striped",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(np.float32(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def _scored(file: Path, x: AnyArray) -> FloatArray:
    return OnnxRuntime({"s": file}).run("s", x)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained networks, and examples for them."""
    path = tmp_path_factory.mktemp("siblings")
    striped_network(path / "big.onnx")
    striped_network(path / "fixed.onnx", fixed=True)
    for name, examples, seed in (("choose", 500, 2), ("test", 700, 3)):
        x, y = gratings(examples, seed)
        np.savez(path / f"{name}.npz", x=x, y=y)
    return path


TIMES = {"int8": 0.5, "14x14": 0.8, "12x12": 0.6, "10x10": 0.4, "8x8": 0.25, "full": 1.0}


def times(name: str) -> float:
    """What a copy takes of the network's time, where tests say it: int8 halves it."""
    small, _, int8 = name.partition("-")
    return TIMES[small] * (0.5 if int8 else 1.0)


@pytest.fixture(scope="module")
def found(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Siblings:
    """Copies at costs that do not depend on the machine."""

    def given(stages: Stages, *_: Any) -> Costs:
        order = stages.graph.order
        return Costs({name: times(name) for name in order}, dict.fromkeys(order, 0.0), batch=1)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(making, "quiet_costs", given)
        return siblings(folder, tmp_path_factory.mktemp("parts"), most=2)


def siblings(folder: Path, out: Path, name: str = "big", **options: Any) -> Siblings:
    out.mkdir(exist_ok=True)
    examples = open_examples(folder / "choose.npz")
    return make(folder / f"{name}.onnx", examples, SiblingOptions(**options), out)


def test_copies_answer_like_their_network_for_less(folder: Path, found: Siblings) -> None:
    copies = {copy.name: copy for copy in found.tried}
    assert {"int8", "14x14", "14x14-int8", "12x12", "12x12-int8", "full"} <= copies.keys()
    x = np.load(folder / "test.npz")["x"]
    wanted = answers(_scored(folder / "big.onnx", x))
    changed = {n: (answers(_scored(c.file, x)) != wanted).mean() for n, c in copies.items()}
    assert changed["full"] == 0
    assert changed["int8"] < 0.05
    assert changed["14x14"] < 0.2
    for name, share in changed.items():  # as they said of the examples that chose
        assert abs(share - copies[name].changed) < 0.08, name
    assert copies["int8"].scheme is not None
    assert copies["12x12-int8"].form.size == (12, 12)


def test_each_copy_stays_or_says_why_not(found: Siblings) -> None:
    order = found.networks.graph.order
    assert 2 <= len(order) <= 3
    assert order[-1] == found.networks.graph.reference == "full"
    assert list(order) == sorted(order, key=times)
    assert {copy.name for copy in found.tried} - {*order} <= found.dropped.keys()
    assert not {*order} & found.dropped.keys()
    assert all(len(reason) > 20 for reason in found.dropped.values())
    assert 0 < found.cost < 0.7  # int8 alone would be 0.5


def test_what_chose_certifies_nothing(folder: Path, tmp_path: Path, found: Siblings) -> None:
    found.networks.write(tmp_path / "graph")
    taught = Networks.read(tmp_path / "graph").taught
    x = np.load(folder / "choose.npz")["x"]
    assert taught is not None
    assert set(taught.tolist()) == set(hash_rows(x).tolist())  # all 500 were drawn


def test_labels_are_not_needed(folder: Path, tmp_path: Path) -> None:
    x = np.load(folder / "choose.npz")["x"]
    np.savez(tmp_path / "plain.npz", x=x)
    out = tmp_path / "parts"
    out.mkdir()
    examples = open_examples(tmp_path / "plain.npz")
    found = make(folder / "big.onnx", examples, SiblingOptions(), out)
    assert len(found.networks.graph.order) > 1
    assert found.to_json()["tried"]["int8"]["error"] is None


def test_from_one_network_to_files_that_answer_alike(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["siblings", str(folder / "big.onnx"), "--data", str(folder / "choose.npz")]
    graph, trace = tmp_path / "graph", tmp_path / "trace"
    assert run(*arguments, "--batch", "64", "--json", "--out", str(graph)) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["stages"] == list(Networks.read(graph).graph.order)
    assert said["batch"] == 64
    assert said["held_out"] + said["calibrated"] == 500
    data = ["--data", str(folder / "test.npz")]
    assert run("record", str(graph), *data, "--out", str(trace)) == 0
    plan = routed(Trace.read(trace), graph)
    plan.write(tmp_path / "plan")
    x = np.load(folder / "test.npz")["x"][:100]
    expected = infer(plan, OnnxRuntime(plan.runnable(), plan.graph), x)
    write_file(plan, tmp_path / "plan.onnx")
    write_folder(plan, tmp_path / "stages")
    for driver in (SingleFile(tmp_path / "plan.onnx"), Routed(tmp_path / "stages")):
        found = driver(x)
        assert (found.answer == expected.answer).mean() >= 0.99  # rounding, near ties
        assert (found.stage == expected.stage).mean() >= 0.95
    assert run("bench", str(tmp_path / "plan"), *data, "--batch", "8", "--json") == 0


def routed(trace: Trace, graph: Path) -> Plan:
    """A plan that routes, whatever the clock said."""
    order = trace.graph.order
    costs = Costs({n: float(i + 1) for i, n in enumerate(order)}, dict.fromkeys(order, 0.0))
    priced = unseen(replace(trace, costs=costs))
    return fit(priced, 0.3, policy="margin", networks=Networks.read(graph))


def test_a_network_of_one_size_says_so(folder: Path, tmp_path: Path) -> None:
    found = siblings(folder, tmp_path, "fixed")
    assert {copy.name for copy in found.tried} == {"int8", "full"}
    for name in ("14x14", "12x12", "10x10", "8x8"):
        assert "does not take images of" in found.dropped[name]


def test_rows_of_numbers_are_no_images(tmp_path: Path) -> None:
    x, y = blobs(400)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    file = linear_network(tmp_path / "big.onnx", np.eye(6, 4) * 4, [6])
    found = make(file, open_examples(tmp_path / "data.npz"), SiblingOptions(), tmp_path)
    assert "which are no images" in found.dropped["fewer pixels"]
    assert sides((3, 8, 8)) == sides((4, 8, 8), "nchw") == (2, 3)
    assert sides((8, 8, 3)) == (1, 2)
    assert sides((8, 8)) is None


@pytest.mark.parametrize("opset", [11, 17, 18])
@pytest.mark.parametrize("share", [0.875, 0.625, 0.3])
def test_sizes_are_what_they_say(tmp_path: Path, opset: int, share: float) -> None:
    """The mean of all pixels, and how many there are, in any version of Resize."""
    nodes = [helper.make_node("Shape", ["input"], ["n"])]
    nodes += [helper.make_node("Cast", ["n"], ["scores"], to=TensorProto.FLOAT)]
    graph = helper.make_graph(
        nodes,
        "counts",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 37, 21])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [4])],
    )
    opsets = [helper.make_opsetid("", opset)]
    file = tmp_path / "counts.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), file)
    size = smaller((3, 37, 21), (2, 3), share)
    out = shrunk(file, tmp_path / "small.onnx", (3, 37, 21), (2, 3), size)
    import onnxruntime as ort

    session = ort.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": np.zeros((2, 3, 37, 21), np.float32)})
    assert found.tolist() == [2, 3, *size]
    smooth = {a.name: a.i for a in onnx.load(out).graph.node[0].attribute}.get("antialias", 0)
    assert smooth == (opset >= 18)


def test_a_quantised_network_is_not_quantised_again(folder: Path, tmp_path: Path) -> None:
    x = np.load(folder / "choose.npz")["x"][:60]
    file = Quantiser(folder / "big.onnx", tmp_path, x)(Scheme(), tmp_path / "int8.onnx")
    out = tmp_path / "parts"
    out.mkdir()
    examples = open_examples(folder / "choose.npz")
    found = make(file, examples, SiblingOptions(), out)
    assert "quantised already: DequantizeLinear, QuantizeLinear" in found.dropped["int8"]
    assert "quantised already" in found.dropped["12x12-int8"]


def test_a_network_that_int8_does_nothing_for_names_its_operators(tmp_path: Path) -> None:
    nodes = [helper.make_node("GlobalAveragePool", ["input"], ["p"])]
    nodes += [helper.make_node("Flatten", ["p"], ["f"])]
    nodes += [helper.make_node("Neg", ["f"], ["g"])]
    nodes += [helper.make_node("Concat", ["f", "g"], ["scores"], axis=1)]
    file = _saved(tmp_path / "pooled.onnx", nodes, {}, "scores", 17)
    x = np.random.default_rng(0).normal(size=(300, 1, SIDE, SIDE)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    found = make(file, open_examples(tmp_path / "data.npz"), SiblingOptions(), tmp_path)
    assert "none of its operators gains by int8" in found.dropped["int8"]
    assert "GlobalAveragePool" in found.dropped["int8"]


REFUSED: dict[str, tuple[dict[str, Any], type[InputError], str]] = {
    "too few": ({"x": gratings(120, 0)[0]}, DataError, "120 examples are too few.*200 or more"),
    "another shape": ({"x": np.zeros((300, 1, 9, 9, 2), np.float32)}, InputError, "full"),
    "another range": (
        {"x": gratings(300, 0)[0] * np.float32(1e-6)},
        DataError,
        r"all 200 examples alike.*range",
    ),
    "labels of something else": (
        {"x": gratings(300, 0)[0], "y": np.random.default_rng(9).integers(0, 4, 300)},
        DataError,
        "no better than chance",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_examples_that_say_nothing_are_refused(folder: Path, tmp_path: Path, case: str) -> None:
    arrays, error, sentence = REFUSED[case]
    np.savez(tmp_path / "data.npz", **arrays)
    examples = open_examples(tmp_path / "data.npz")
    with pytest.raises(error, match=sentence):
        make(folder / "big.onnx", examples, SiblingOptions(), tmp_path)
    arguments = ["siblings", str(folder / "big.onnx"), "--data", str(tmp_path / "data.npz")]
    assert run(*arguments, "--out", str(tmp_path / "graph")) == 2
    assert not (tmp_path / "graph").exists()


@pytest.mark.parametrize("kind", ["label first", "two inputs"])
def test_networks_that_copies_are_not_made_of_say_what_to_do(kind: str, tmp_path: Path) -> None:
    x, y = blobs(400)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    model = onnx.load(linear_network(tmp_path / "big.onnx", np.eye(6, 4) * 4, [6]))
    graph = model.graph
    if kind == "two inputs":
        graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["batch", 6]))
    else:
        graph.node.append(
            helper.make_node("ArgMax", [graph.output[0].name], ["label"], axis=1, keepdims=0)
        )
        scores = graph.output.pop()
        graph.output.append(helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]))
        graph.output.append(scores)
    onnx.save(model, tmp_path / "big.onnx")
    with pytest.raises(InputError, match="offramp graph"):
        make(
            tmp_path / "big.onnx",
            open_examples(tmp_path / "data.npz"),
            SiblingOptions(),
            tmp_path,
        )


@pytest.mark.parametrize("calibrate", [49, 501])
def test_so_many_calibrate(calibrate: int) -> None:
    with pytest.raises(InputError, match="give 50 to 500"):
        SiblingOptions(calibrate=calibrate)
    assert FEWEST_HELD_OUT == 100


@dataclass(frozen=True)
class Pretended:
    """A stage that answers as the network does but for a share, more often where that is hard."""

    time: float
    changed: float


def pretended(copies: Mapping[str, Pretended], examples: int = 1500) -> Trace:
    """A trace of copies that are sure where they are right."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, examples)
    hard = random.permutation(examples) / examples  # of each example, shared by all
    scores = {}
    for name, copy in {**copies, "full": Pretended(1.0, 0.0)}.items():
        wrong = hard < copy.changed
        said = np.where(wrong, (labels + 1) % 5, labels)
        margin = np.where(wrong, 0, hard - copy.changed) * 8 + random.random(examples)
        scores[name] = (np.eye(5)[said] * margin[:, None]).astype(np.float32)
    body = {**{name: copy.time for name, copy in copies.items()}, "full": 1.0}
    costs = Costs(body, dict.fromkeys(body, 0.0))
    return assemble(Graph.chain(body), costs, scores, labels=labels, kind="logits")


def chosen(
    copies: Mapping[str, Pretended], most: int = 4
) -> tuple[tuple[str, ...], Mapping[str, str]]:
    changed = {**{name: copy.changed for name, copy in copies.items()}, "full": 0.0}
    found = choose(pretended(copies), changed, most)
    return found.kept, found.dropped


def test_dear_and_beaten_copies_go() -> None:
    kept, dropped = chosen(
        {
            "dear": Pretended(0.95, 0.001),
            "good": Pretended(0.2, 0.05),
            "beaten": Pretended(0.3, 0.2),
            "useless": Pretended(0.19, 0.95),
        }
    )
    assert kept == ("good", "full")
    assert "95% of the network's time" in dropped["dear"]
    assert "'good' takes 67% of its time" in dropped["beaten"]
    assert "walks with it" in dropped["useless"]
    assert "more" in dropped["useless"]


def test_copies_that_pay_together_stay_together_and_no_more_than_asked() -> None:
    copies = {"first": Pretended(0.05, 0.3), "second": Pretended(0.4, 0.02)}
    assert chosen(copies)[0] == ("first", "second", "full")
    kept, dropped = chosen(copies, 1)
    assert len(kept) == 2
    assert len(dropped) == 1
    assert "less" in next(iter(dropped.values()))


def test_a_network_without_copies_stands_alone() -> None:
    kept, dropped = chosen({"dear": Pretended(2.0, 0.0)})
    assert kept == ("full",)
    assert dropped.keys() == {"dear"}
