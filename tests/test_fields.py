"""Several named inputs: from files to answers, on every runtime, with the same numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper

from offramp.base.arrays import AnyArray, IntArray
from offramp.base.errors import DataError, NetworkError
from offramp.base.hashing import hash_rows
from offramp.cli import main
from offramp.core.trace import Trace
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks
from offramp.plan.plan import Plan
from offramp.runtime import Driver, Routed, SingleFile, Stages, infer

LENGTH, WORDS, CLASSES = 9, 40, 4
Arrays = Mapping[str, AnyArray]


def encoder(path: Path, table: AnyArray, ids: str, mask: str) -> Path:
    """A network of two inputs (batch, length): the sum of what its table says of unmasked words."""
    nodes = [
        helper.make_node("Gather", ["table", ids], ["said"]),
        helper.make_node("Cast", [mask], ["weights"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last"], ["each"]),
        helper.make_node("Mul", ["said", "each"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "words"], ["logits"], keepdims=0),
    ]
    constants = {"table": table.astype(np.float32), "last": np.array([2]), "words": np.array([1])}
    graph = helper.make_graph(
        nodes,
        "encoder",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"])
            for name in (ids, mask)
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def tables(seed: int = 1) -> tuple[AnyArray, AnyArray]:
    """What a small and a large network know of words: one of both is true."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=(WORDS, CLASSES))
    return truth + random.normal(size=truth.shape) * 0.8, truth


def texts(examples: int, seed: int = 0) -> tuple[dict[str, AnyArray], IntArray]:
    random = np.random.default_rng(seed)
    ids = random.integers(1, WORDS, (examples, LENGTH))
    mask = (np.arange(LENGTH) < random.integers(2, LENGTH + 1, examples)[:, None]).astype(np.int64)
    scores = (tables()[1][ids] * mask[..., None]).sum(axis=1)
    return {"input_ids": ids * mask, "attention_mask": mask}, scores.argmax(axis=1)


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["offramp", *map(str, arguments)])
        patch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fields")
    two_encoders(path)
    return path


def two_encoders(path: Path) -> Plan:
    """Two encoders that call their inputs differently, examples, a recording and a plan."""
    small, big = tables()
    encoder(path / "small.onnx", small, "tokens", "attention_mask")
    encoder(path / "big.onnx", big, "input_ids", "attention_mask")
    fields, y = texts(900)
    given: dict[str, Any] = {"y": y, "left": np.zeros(3), **fields}
    np.savez(path / "data.npz", **given)
    names = [f"small={path / 'small.onnx'}", f"big={path / 'big.onnx'}"]
    reads = ("--reads", "small.tokens=input_ids")
    assert run("graph", *names, *reads, "--out", path / "graph") == 0
    data = ("--data", path / "data.npz")
    costs = ("--cost", "small=1,big=10")
    assert run("record", path / "graph", *data, *costs, "--out", path / "trace") == 0
    fit = ("--budget", "0.2", "--confidence", "0.8", "--policy", "margin")
    assert run("fit", path / "trace", *fit, "--out", path / "plan") == 0
    return Plan.read(path / "plan")


def test_every_runtime_answers_from_several_fields_alike(folder: Path, tmp_path: Path) -> None:
    plan = Plan.read(folder / "plan")
    assert plan.routes
    assert plan.fields == ("input_ids", "attention_mask")
    fields, _ = texts(60, seed=5)
    expected = infer(plan, Stages(plan.runnable(), plan.graph), fields)
    assert len(set(expected.stage)) == 2
    assert run("export", folder / "plan", "--out", tmp_path / "one.onnx") == 0
    assert run("export", folder / "plan", "--stages", "--out", tmp_path / "stages") == 0
    drivers: list[Driver] = [
        SingleFile(tmp_path / "one.onnx"),
        Routed(tmp_path / "stages"),
        Routed(tmp_path / "stages", "openvino"),
    ]
    backwards = dict(reversed(fields.items()))
    for driver in drivers:
        for given in (fields, backwards):
            found = driver(given)
            assert (found.stage == expected.stage).all()
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
        some = driver({name: values[7:8] for name, values in fields.items()})
        np.testing.assert_allclose(some.scores, expected.scores[7:8], atol=1e-4)
        nothing = driver({name: values[:0] for name, values in fields.items()})
        assert len(nothing.answer) == 0
        with pytest.raises(NetworkError, match="attention_mask"):
            driver({"input_ids": fields["input_ids"]})
        with pytest.raises(NetworkError, match="rows"):
            driver({**fields, "attention_mask": fields["attention_mask"][:3]})


def test_a_recording_says_what_each_field_was(folder: Path) -> None:
    said = json.loads((folder / "trace" / "trace.json").read_text())["input"]["fields"]
    assert list(said) == ["input_ids", "attention_mask"]
    assert said["attention_mask"]["dtype"] == "int64"
    assert said["input_ids"]["range"]["high"] == WORDS - 1
    assert said["attention_mask"]["range"]["high"] == 1


def test_examples_are_told_apart_by_all_fields(folder: Path) -> None:
    fields, _ = texts(900)
    hashes = Trace.read(folder / "trace").identity
    assert (hashes == hash_rows(fields["input_ids"], fields["attention_mask"])).all()


def test_what_is_no_field_is_named(folder: Path) -> None:
    networks = Networks.read(folder / "graph")
    examples = open_examples(folder / "data.npz", fields=networks.fields)
    assert examples.notes == [f"not read in {folder / 'data.npz'}: `left`"]


def test_bench_times_plans_of_several_fields(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--data", folder / "data.npz", "--batch", "8", "--json")
    assert run("bench", folder / "plan", *given) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["speedup"] > 0
    assert {"offramp, one file", "small"} <= {each["name"] for each in row["contestants"]}


def test_costs_of_requests_are_measured_with_several_fields(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "timed"
    fit = ("--budget", "0.2", "--confidence", "0.8", "--policy", "margin", "--batch", "4")
    assert run("fit", folder / "trace", *fit, "--out", out) in (0, 1)
    assert Plan.read(out).costs.batch == 4


REFUSED: list[tuple[list[str], str]] = [
    (["middle.tokens=input_ids"], "'middle'"),
    (["small.words=input_ids"], "'words'"),
    (["small.tokens"], "NETWORK.INPUT=FIELD"),
    (["small.tokens=a", "small.tokens=b"], "'a' and 'b'"),
    (["small.tokens=scores"], "'scores'"),
]


@pytest.mark.parametrize(("reads", "says"), REFUSED)
def test_reads_that_do_not_fit_are_refused(
    reads: list[str], says: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{name}={folder / name}.onnx" for name in ("small", "big")]
    given = [part for each in reads for part in ("--reads", each)]
    capsys.readouterr()
    assert run("graph", *names, *given, "--out", tmp_path / "graph") == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "graph").exists()


def test_examples_that_lack_a_field_are_refused_at_the_start(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields, y = texts(50)
    lacks = {"y": y, "input_ids": fields["input_ids"]}
    cases: list[tuple[dict[str, Any], str]] = [
        (lacks, "`attention_mask`"),
        ({**lacks, "attention_mask": fields["attention_mask"][:9]}, "9 rows"),
        ({**lacks, "attention_mask": np.array(["a"] * 50)}, "`attention_mask`"),
    ]
    for number, (arrays, says) in enumerate(cases):
        file, out = tmp_path / f"{number}.npz", tmp_path / f"t{number}"
        np.savez(file, **arrays)
        capsys.readouterr()
        assert run("record", folder / "graph", "--data", file, "--out", out) == 2
        assert says in capsys.readouterr().err
        assert not out.exists()


def test_columns_of_a_table_are_fields(folder: Path, tmp_path: Path) -> None:
    fields, y = texts(300, seed=3)
    given: dict[str, Any] = {"y": y, **fields}
    np.savez(tmp_path / "a.npz", **given)
    columns = {
        n: pa.FixedSizeListArray.from_arrays(v.reshape(-1), LENGTH) for n, v in fields.items()
    }
    pq.write_table(pa.table({**columns, "label": y, "text": ["t"] * 300}), tmp_path / "a.parquet")
    names = tuple(fields)
    one = open_examples(tmp_path / "a.npz", fields=names)
    other = open_examples(tmp_path / "a.parquet", fields=names)
    assert other.notes == [f"not read in {tmp_path / 'a.parquet'}: `text`"]
    for start in (0, 130):
        for a, b in zip(one.batches(64, start), other.batches(64, start), strict=True):
            assert (a.ids == b.ids).all()
            assert a.labels is not None
            assert b.labels is not None
            assert (a.labels == b.labels).all()
            assert (a.hashes == b.hashes).all()
            for name in names:
                assert (a.fields[name] == b.fields[name]).all()
    for name in ("a.npz", "a.parquet"):
        options = ("--data", tmp_path / name, "--out", tmp_path / f"{name}.answers.parquet")
        assert run("run", folder / "plan", *options) == 0
    answers = [pq.read_table(tmp_path / f"{n}.answers.parquet") for n in ("a.npz", "a.parquet")]
    assert answers[0].equals(answers[1])


def test_lists_of_different_lengths_are_padded_and_told_apart_by_their_own(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ids = [random.integers(1, WORDS, random.integers(1, 20)).tolist() for _ in range(50)]
    pq.write_table(pa.table({"x": ids, "label": [0, 1] * 25}), tmp_path / "a.parquet")
    examples = open_examples(tmp_path / "a.parquet")
    assert "padded with 0" in examples.notes[0]
    by_size = [[*examples.batches(size)] for size in (50, 7, 1)]
    for batches in by_size:
        rows = [row for batch in batches for row in batch.x]
        for row, own in zip(rows, ids, strict=True):
            assert row[: len(own)].tolist() == own
            assert not row[len(own) :].any()
    hashes = [np.concatenate([batch.hashes for batch in batches]) for batches in by_size]
    assert (hashes[0] == hashes[1]).all()
    assert (hashes[0] == hashes[2]).all()
    assert len(set(hashes[0].tolist())) == len(set(map(tuple, ids)))


def test_columns_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    columns: list[tuple[list[Any], str]] = [
        (["a", "b"], "tokeniser"),
        ([1, None], "without a value"),
        ([[1], None], "without a value"),
    ]
    for number, (values, says) in enumerate(columns):
        file = tmp_path / f"{number}.parquet"
        pq.write_table(pa.table({"x": values}), file)
        with pytest.raises(DataError, match=says):
            next(iter(open_examples(file).batches(2)))


def test_one_field_is_not_read_by_two_inputs(tmp_path: Path) -> None:
    network = encoder(tmp_path / "small.onnx", np.ones((5, 2)), "ids", "mask")
    rows = np.ones((3, 4), np.int64)
    stages = Stages({"small": network})
    for x in (rows, {"words": rows}):
        with pytest.raises(NetworkError, match=r"'small' reads ids, mask, and .* the one field"):
            stages.run("small", x)
    assert stages.run("small", {"ids": rows, "mask": rows}).shape == (3, 2)
