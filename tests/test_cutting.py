"""One cutting rule for every architecture: the stages composed are the network they came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import NetworkError
from offramp.core.graph import whole
from offramp.exits.cutting import Cut, exit_point, exit_points
from offramp.exits.heads import Head
from offramp.exits.network import Network
from offramp.exits.outputs import FINAL
from offramp.exits.pooling import Pooling
from offramp.exits.stages import cut_into_stages
from offramp.networks.networks import Networks
from offramp.runtime import OnnxRuntime
from tests import architectures


@dataclass(frozen=True)
class Exported:
    path: Path
    x: AnyArray
    at: list[str]
    expected: FloatArray  # what the module says in its own framework


@pytest.fixture(scope="module", params=architectures.ALL)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    module, x, at = architectures.ALL[request.param]()
    path = tmp_path_factory.mktemp("networks") / f"{request.param}.onnx"
    architectures.export(module, x, path)
    return Exported(path, x, at, architectures.answers(module, x))


def with_heads(
    network: Network, at: list[str], hears: bool = False
) -> tuple[Network, dict[str, str]]:
    """The network with a head of random weights at some points."""
    random = np.random.default_rng(0)
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    outputs: dict[str, str] = {}
    for number, name in enumerate(at, start=1):
        pooling = Pooling(exit_point(network, name), "deep")
        earlier = tuple(outputs) if hears else ()
        inputs = width(network, pooling) + len(earlier) * architectures.CLASSES
        weights = random.normal(size=(inputs, architectures.CLASSES))
        head = Head(pooling, ((weights, np.zeros(architectures.CLASSES)),), earlier)
        outputs[f"exit{number}"] = head.attach(model, f"exit{number}", outputs)
    return Network.of(model, made(network)), {**outputs, FINAL: network.outputs[0]}


def made(network: Network) -> AnyArray:
    tensor = network.tensors[network.inputs[0]]
    return np.zeros((3, *tensor.shape[1:]), tensor.dtype)


def width(network: Network, pooling: Pooling) -> int:
    nodes, constants, features = pooling.nodes("probe")
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    return Network.of(model, made(network)).tensors[features].shape[1]


def cut(exported: Exported, folder: Path, hears: bool = False) -> tuple[Networks, Network]:
    network = Network.read(exported.path, exported.x)
    wide, outputs = with_heads(network, exported.at, hears)
    networks, _ = cut_into_stages(wide, outputs, folder, exported.x, original=network)
    return networks, wide


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_stages_composed_are_the_network(exported: Exported, tmp_path: Path, batch: int) -> None:
    networks, _ = cut(exported, tmp_path)
    runtime, x = OnnxRuntime(networks.files, networks.graph), exported.x[:batch]
    running = runtime.begin(x)
    for stage in networks.graph.order:
        running.advance(stage, None)
    np.testing.assert_allclose(
        running.answer(FINAL, None), exported.expected[:batch], atol=1e-5, rtol=1e-5
    )
    np.testing.assert_allclose(
        runtime.run(FINAL, x), exported.expected[:batch], atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("dropped", range(3))
def test_rows_may_be_dropped_at_every_cut(exported: Exported, tmp_path: Path, dropped: int) -> None:
    networks, wide = cut(exported, tmp_path, hears=True)
    expected = dict(zip(wide.outputs, outputs_of(wide, exported.x), strict=True))
    runtime = OnnxRuntime(networks.files, networks.graph)
    running, rows = runtime.begin(exported.x), np.arange(len(exported.x))
    for number, stage in enumerate(networks.graph.order):
        if number == dropped % len(networks.graph.order):
            rows = rows[[0, 3, 4]]
        running.advance(stage, rows)
        name = wide.outputs[0] if stage == FINAL else f"{stage}.scores"
        np.testing.assert_allclose(
            running.answer(stage, rows), expected[name][rows], atol=1e-5, rtol=1e-5
        )


def test_stages_may_be_skipped_and_met_by_some_rows_only(
    exported: Exported, tmp_path: Path
) -> None:
    networks, _ = cut(exported, tmp_path)
    runtime = OnnxRuntime(networks.files, networks.graph)
    running, first = runtime.begin(exported.x), networks.graph.order[-2]
    some, more = np.array([1, 4]), np.array([0, 1, 2, 4])
    running.advance(first, some)
    running.advance(FINAL, more)  # rows 0 and 2 have not met the stage before
    np.testing.assert_allclose(
        running.answer(FINAL, more), exported.expected[more], atol=1e-5, rtol=1e-5
    )


def outputs_of(network: Network, x: AnyArray) -> list[FloatArray]:
    from offramp.exits.network import open_session

    found: list[FloatArray] = open_session(network.model).run(None, {network.inputs[0]: x})
    return found


def test_parts_share_no_node_but_shapes(exported: Exported) -> None:
    network = Network.read(exported.path, exported.x)
    wide, outputs = with_heads(network, exported.at)
    found = Cut(wide, tuple(outputs.items()))
    parts = [*found.bodies.values(), *found.heads.values()]
    together = frozenset[int]().union(*parts)
    assert len(together) == sum(map(len, parts))
    needed = [wide.ancestors(name) for name in outputs.values()]
    assert together == frozenset[int]().union(*needed) - wide.shaping


def test_points_are_listed_by_work(exported: Exported) -> None:
    network = Network.read(exported.path, exported.x)
    found = exit_points(network)
    assert found
    assert [p.cost for p in found] == sorted({p.cost for p in found})
    assert all(0 < p.cost < network.work(network.outputs[0]) for p in found)
    for p in found:
        assert exit_point(network, p.name) == p


def test_multiply_adds_are_those_of_the_layers(tmp_path: Path) -> None:
    module, x, _ = architectures.vectors()
    network = Network.read(architectures.export(module, x, tmp_path / "m.onnx"), x)
    assert network.work(network.outputs[0]) == 10 * 16 + 16 * 16 + 16 * architectures.CLASSES
    module, x, _ = architectures.inception()
    network = Network.read(architectures.export(module, x, tmp_path / "i.onnx"), x)
    pixels = 8 * 8
    branches = pixels * (8 * 6 + 6 * 6 * 9 + 8 * 6 * 25 + 12 * 10 * 9)
    assert network.work(network.outputs[0]) == pixels * 3 * 8 * 9 + branches + 40


def simple(nodes: list[onnx.NodeProto], shape: list[int | str]) -> Network:
    """A network of a few nodes from `x` to `scores`."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 4], np.eye(4).ravel())
    graph = helper.make_graph(
        nodes,
        "simple",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 4])],
        [weights],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    return Network.of(model, np.ones((3, 4), np.float32))


STEPS = [
    helper.make_node("MatMul", ["x", "w"], ["one"]),
    helper.make_node("Relu", ["one"], ["two"]),
    helper.make_node("MatMul", ["two", "w"], ["scores"]),
    helper.make_node("Neg", ["scores"], ["late"]),
    helper.make_node("Reshape", ["two", "flat"], ["folded"]),
]


def test_points_that_are_none_are_refused() -> None:
    network = simple(STEPS[:4], ["n", 4])
    with pytest.raises(NetworkError, match="there is no point 'three'"):
        exit_point(network, "three")
    with pytest.raises(NetworkError, match="the network's own answer"):
        exit_point(network, "scores")
    with pytest.raises(NetworkError, match="comes after the answer"):
        exit_point(network, "late")
    assert exit_point(network, "two").cost == 16


def test_a_batch_folded_into_another_dimension_is_refused() -> None:
    fold = [
        helper.make_node("MatMul", ["x", "w"], ["one"]),
        helper.make_node("Constant", [], ["flat"], value_ints=[-1]),
        helper.make_node("Constant", [], ["rows"], value_ints=[-1, 4]),
        helper.make_node("Reshape", ["one", "flat"], ["folded"]),
        helper.make_node("Relu", ["folded"], ["still"]),
        helper.make_node("Reshape", ["still", "rows"], ["two"]),
        helper.make_node("MatMul", ["two", "w"], ["scores"]),
    ]
    network = simple(fold, ["n", 4])
    assert network.tensors["folded"].folded
    with pytest.raises(NetworkError, match="does not hold one row"):
        exit_point(network, "folded")
    assert [p.name for p in exit_points(network)] == ["two"]
    twice = [
        *fold[:4],
        helper.make_node("Reshape", ["folded", "rows"], ["two"]),
        helper.make_node("Relu", ["folded"], ["still"]),
        helper.make_node("Reshape", ["still", "rows"], ["three"]),
        helper.make_node("Add", ["two", "three"], ["sum"]),
        helper.make_node("MatMul", ["sum", "w"], ["scores"]),
    ]
    with pytest.raises(NetworkError, match="cutting at 'two' would carry 'folded'"):
        exit_point(simple(twice, ["n", 4]), "two")


def test_a_network_whose_rows_depend_on_each_other_is_refused(tmp_path: Path) -> None:
    mixing = [
        helper.make_node("MatMul", ["x", "w"], ["one"]),
        helper.make_node("ReduceMean", ["one"], ["mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", ["one", "mean"], ["two"]),
        helper.make_node("MatMul", ["two", "w"], ["scores"]),
    ]
    network = simple(mixing, ["n", 4])
    wide, outputs = with_heads(network, ["one"])
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    with pytest.raises(NetworkError, match="rows depend on each other"):
        cut_into_stages(wide, outputs, tmp_path, x, original=network)


def test_a_fixed_batch_is_refused_with_the_way_to_export_it() -> None:
    with pytest.raises(NetworkError, match="fixed batch size"):
        simple(STEPS[:3], [3, 4])


def test_the_uncut_network_is_kept(exported: Exported, tmp_path: Path) -> None:
    networks, _ = cut(exported, tmp_path)
    kept = onnx.load(str(networks.files[whole(FINAL)]))
    assert len(kept.graph.output) == 1
    assert len(kept.graph.node) == len(onnx.load(str(exported.path)).graph.node)


def test_modules_are_known_by_what_either_exporter_recorded() -> None:
    older = helper.make_node("Relu", ["one"], ["two"], name="/blocks/blocks.0/act/Relu")
    newer = helper.make_node("Relu", ["one"], ["two"], name="node_relu")
    entry = newer.metadata_props.add()
    entry.key = "namespace"
    entry.value = (
        ": tests.Net/blocks: Sequential/blocks.0: Block/blocks.0.act: ReLU/relu: aten.relu"
    )
    plain = helper.make_node("Relu", ["one"], ["two"], name="relu")
    for node, expected in ((older, "blocks.0.act"), (newer, "blocks.0.act"), (plain, "two")):
        assert simple([STEPS[0], node, STEPS[2]], ["n", 4]).scope("two") == expected


def layered(path: Path, numbers: int, layers: int = 12, dependent: bool = False) -> Path:
    """Layers of 128 computed in a type of numbers, with scores half-way and at the end.

    Where rows depend, the mean over the batch is taken off after the first scores.
    """
    random, dtype = np.random.default_rng(3), helper.tensor_dtype_to_np_dtype(numbers)
    nodes = [helper.make_node("Cast", ["input"], ["hidden0"], to=numbers)]
    constants, width = [], 8
    for i in range(1, layers + 1):
        weights = random.normal(size=(width, 128)) * 1.5 / np.sqrt(width)
        constants.append(numpy_helper.from_array(weights.astype(dtype), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [f"hidden{i - 1}", f"w{i}"], [f"sum{i}"]))
        if dependent and i == layers:
            nodes.append(helper.make_node("ReduceMean", [f"sum{i}"], ["mean"], axes=[0]))
            nodes.append(helper.make_node("Sub", [f"sum{i}", "mean"], [f"centred{i}"]))
        last = f"centred{i}" if dependent and i == layers else f"sum{i}"
        nodes.append(helper.make_node("Relu", [last], [f"hidden{i}"]))
        width = 128
    constants.append(numpy_helper.from_array(random.normal(size=(128, 4)).astype(dtype), "o"))
    outputs = []
    for i in (layers // 2, layers):
        nodes.append(helper.make_node("MatMul", [f"hidden{i}", "o"], [f"scores{i}"]))
        outputs.append(helper.make_tensor_value_info(f"scores{i}", numbers, ["batch", 4]))
    read = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 8])
    graph = helper.make_graph(nodes, "layered", [read], outputs, constants)
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize("numbers", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_a_cut_is_judged_by_the_precision_of_the_network(tmp_path: Path, numbers: int) -> None:
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    network = Network.read(layered(tmp_path / "a.onnx", numbers), x)
    outputs = {"exit1": "scores6", FINAL: "scores12"}
    cut_into_stages(network, outputs, tmp_path / "parts", x)
    network = Network.read(layered(tmp_path / "b.onnx", numbers, dependent=True), x)
    with pytest.raises(NetworkError, match="rows depend on each other"):
        cut_into_stages(network, outputs, tmp_path / "others", x)
