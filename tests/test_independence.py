"""Rows that depend on each other are refused before anything is certified; noise is not."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import offramp
from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import NetworkError
from offramp.core.graph import Graph
from offramp.core.trace import Trace
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks
from offramp.recording.independence import (
    RowsDepend,
    Traits,
    check_made_up,
    dependence,
    difference,
    made_up_rows,
    runs,
)
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime
from tests.made import blobs, linear_network

BEST = (np.eye(6, 4) * 4).astype(np.float32)
SHIPPED = Path(offramp.__file__).parent / "demo_networks"


def node(kind: str, given: str, made: str, **settings: object) -> onnx.NodeProto:
    return helper.make_node(kind, given.split(), made.split(), **settings)


def network(
    path: Path, nodes: Sequence[onnx.NodeProto], constants: dict[str, Any], opset: int = 17
) -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


LAST = node("MatMul", "n w", "scores")
SIX = {name: np.full(6, value, np.float32) for name, value in (("one", 1), ("zero", 0))}
NORMALISED = node("BatchNormalization", "input one zero zero one", "n m v", training_mode=1)
KINDS: dict[str, tuple[list[onnx.NodeProto], dict[str, Any], str | None]] = {
    "batch normalisation": ([NORMALISED, LAST], SIX, "batch normalisation in training mode"),
    "softmax": ([node("Softmax", "input", "n", axis=0), LAST], {}, "Softmax over the rows"),
    "sums": (
        [node("CumSum", "input first", "n"), LAST],
        {"first": np.int64(0)},
        "CumSum over the rows",
    ),
    "scaled by the batch": (
        [node("ReduceMax", "input", "most", keepdims=0), node("Div", "input most", "n"), LAST],
        {},
        "ReduceMax over the rows",
    ),
    "pooled over rows": (
        [
            node("ReduceMean", "input", "mean", axes=[0], keepdims=1),
            node("Sub", "input mean", "n"),
            LAST,
        ],
        {},
        "ReduceMean over the rows",
    ),
    "attention across rows": (
        [
            node("Transpose", "input", "turned", perm=[1, 0]),
            node("MatMul", "input turned", "alike"),
            node("Softmax", "alike", "share", axis=1),
            node("MatMul", "share input", "n"),
            LAST,
        ],
        {},
        None,
    ),
    "scaled by how many come": (
        [
            node("Shape", "input", "shape"),
            node("Gather", "shape zeroth", "rows"),
            node("Cast", "rows", "count", to=TensorProto.FLOAT),
            node("Mul", "input count", "n"),
            LAST,
        ],
        {"zeroth": np.int64(0)},
        None,
    ),
    "dropout": (
        [node("Dropout", "input half yes", "n"), LAST],
        {"half": np.float32(0.5), "yes": np.bool_(True)},
        "dropout in training mode",
    ),
}


def made(path: Path, kind: str) -> Path:
    nodes, constants, _ = KINDS[kind]
    return network(path / "big.onnx", nodes, {**constants, "w": BEST})


def recorded(folder: Path, file: Path, x: AnyArray, batch: int = 64) -> Trace:
    np.savez(folder / "data.npz", x=x, y=np.arange(len(x)) % 4)
    networks = Networks(Graph.chain(["big"]), {"big": file})
    examples = open_examples(folder / "data.npz")
    return record(
        networks,
        OnnxRuntime(networks.files),
        examples,
        folder / "trace",
        RecordOptions(batch=batch),
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 64])
def test_a_recording_refuses_rows_that_depend_on_each_other(
    tmp_path: Path, kind: str, batch: int
) -> None:
    with pytest.raises(NetworkError, match=r"'big'.*rows depend on each other") as refused:
        recorded(tmp_path, made(tmp_path, kind), blobs(100)[0], batch)
    reason = KINDS[kind][2]
    assert (reason or "each other. Scores") in str(refused.value)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_refuses_them_without_any_data(tmp_path: Path, kind: str) -> None:
    networks = Networks(Graph.chain(["big"]), {"big": made(tmp_path, kind)})
    with pytest.raises(NetworkError, match="rows depend on each other"):
        check_made_up(networks, OnnxRuntime(networks.files))


def quantised(path: Path) -> Path:
    wide = np.float32(4 / 127)
    nodes = [
        node("DynamicQuantizeLinear", "input", "q s z"),
        node("MatMulInteger", "q w z", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "s wide", "scale"),
        node("Mul", "f scale", "scores"),
    ]
    return network(path, nodes, {"w": np.rint(BEST / wide).astype(np.int8), "wide": wide})


def test_dynamic_quantisation_is_refused_where_answers_change(tmp_path: Path) -> None:
    x = blobs(400)[0]
    x[::100, 5] = 300  # the scale of the batch follows outliers
    with pytest.raises(NetworkError, match=r"dynamic quantisation.*quantize_static"):
        recorded(tmp_path, quantised(tmp_path / "q.onnx"), x)


def test_dynamic_quantisation_is_said_where_none_does(tmp_path: Path) -> None:
    x = np.eye(6, dtype=np.float32)[np.arange(300) % 4] + np.float32(0.01) * blobs(300)[0]
    with pytest.warns(RowsDepend, match=r"dynamic quantisation.*no answer of those compared"):
        trace = recorded(tmp_path, quantised(tmp_path / "q.onnx"), x)
    assert len(trace.info["notes"]) == 1


def test_rows_that_only_depend_later_are_found_in_their_part(tmp_path: Path) -> None:
    """The first examples are all alike, so whatever they share is the same for all."""
    nodes = [
        node("ReduceMean", "input", "mean", axes=[0], keepdims=1),
        node("Sub", "input mean", "apart"),
        node("Add", "apart apart", "twice"),
        node("Add", "input twice", "n"),
        LAST,
    ]
    x = np.repeat(blobs(1)[0], 4096, axis=0)
    x[2048:] = blobs(2048)[0]
    with pytest.raises(NetworkError, match="rows depend on each other"):
        recorded(tmp_path, network(tmp_path / "big.onnx", nodes, {"w": BEST}), x)


def halved(file: Path, path: Path) -> Path:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(file), keep_io_types=True), path)
    return path


def stepped(path: Path) -> Path:
    """A linear network whose inputs are rounded to fixed steps."""
    nodes = [
        node("QuantizeLinear", "input step middle", "q"),
        node("DequantizeLinear", "q step middle", "n"),
        LAST,
    ]
    return network(path, nodes, {"w": BEST, "step": np.float32(0.05), "middle": np.uint8(128)})


def test_networks_of_any_precision_whose_rows_stand_alone_pass(tmp_path: Path) -> None:
    large = SHIPPED / "large.onnx"
    linear = linear_network(tmp_path / "linear.onnx", BEST, [6])
    files = (linear, stepped(tmp_path / "s.onnx"), large, halved(large, tmp_path / "half.onnx"))
    for file in files:
        value = onnx.load(file).graph.input[0]
        x = made_up_rows(value, 40)
        assert x is not None
        tolerance = Traits.of([file]).tolerance
        run = runs(OnnxRuntime({"s": file}), Graph.chain(["s"]))
        found = dependence(run, x, {"s": tolerance})["s"]
        assert found.scores < tolerance / 5
        assert found.answers == 0


def test_noise_of_less_than_the_precision_changes_no_answer() -> None:
    scores = np.array([[1.0, 1.0 + 1e-7, -3.0], [0.0, 2.0, 1.0]], np.float32)
    noisy = scores + np.array([[2e-6, 0, 0], [0, 0, 0]], np.float32)
    assert (noisy.argmax(1) != scores.argmax(1)).any()
    found = difference(scores, noisy, 1e-3)
    assert found.answers == 0
    assert found.scores < 1e-5
    assert difference(scores, np.roll(scores, 1, axis=1), 1e-3).answers == 2
    undecided = np.full((1, 2), 0.5, np.float32)
    assert difference(undecided, undecided + np.array([[0, 1e-7]], np.float32), 1e-3).scores < 1e-5
    assert difference(scores, scores * np.nan, 1e-3).scores == np.inf


@given(st.integers(0, 2**16), st.integers(2, 30), st.sampled_from([1e-3, 1.0, 1e3]))
def test_a_law_of_functions_of_rows(seed: int, rows: int, size: float) -> None:
    """What is a function of each row is never found; what adds another row's always is."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, 3))

    def by_itself(x: AnyArray) -> dict[str, FloatArray]:
        return {"s": (np.sin(x) * size).astype(np.float32)}

    def with_the_first(x: AnyArray) -> dict[str, FloatArray]:
        return {"s": ((np.sin(x) + 0.1 * x[:1] * np.arange(3)) * size).astype(np.float32)}

    assert dependence(by_itself, x, {"s": 1e-6})["s"].scores == 0
    assert dependence(with_the_first, x, {"s": 1e-3})["s"].scores > 1e-3


def test_a_network_that_cannot_read_what_is_made_up_is_left_to_the_recording(
    tmp_path: Path,
) -> None:
    nodes = [
        node("Cast", "input", "index", to=TensorProto.INT64),
        node("Sub", "index far", "index2"),
        node("Gather", "w index2", "rows"),
        node("ReduceSum", "rows axes", "scores", keepdims=0),
    ]
    constants: dict[str, Any] = {"w": BEST, "far": np.int64(99), "axes": np.array([1])}
    networks = Networks(
        Graph.chain(["big"]), {"big": network(tmp_path / "big.onnx", nodes, constants)}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_made_up(networks, OnnxRuntime(networks.files))
