"""Networks whose weights lie in files beside them, as today's exporters write them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest

from offramp.base.errors import NetworkError, PlanError
from offramp.base.files import data_of
from offramp.exits import candidate_points
from offramp.export import write_file, write_folder
from offramp.networks import weights
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks, combine
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime, infer
from offramp.runtime.routed import Routed
from offramp.runtime.single import SingleFile
from tests.made import blob_networks, blobs, deep_network


def apart(file: Path, target: Path, location: str = "", several: bool = False) -> Path:
    """A network with its weights beside it, in one file or in one each."""
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(
        onnx.load(file),
        target,
        save_as_external_data=True,
        all_tensors_to_one_file=not several,
        location=location or f"{target.name}.data",
        size_threshold=0,
    )
    return target


def moved(file: Path, target: Path, location: str) -> Path:
    """A network that says of its weights that they are somewhere else."""
    model = onnx.load(file, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = location if entry.key == "location" else entry.value
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(model.SerializeToString())
    return target


@pytest.fixture
def networks(tmp_path: Path) -> dict[str, Path]:
    flat = blob_networks(tmp_path / "flat")
    return {name: apart(file, tmp_path / "in" / file.name) for name, file in flat.items()}


def journey(tmp_path: Path, networks: Mapping[str, Path]) -> Plan:
    """Graph, record, fit; the originals are gone after the first."""
    x, y = blobs(600)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    combine(networks).write(tmp_path / "graph")
    shutil.rmtree(tmp_path / "in")
    read = Networks.read(tmp_path / "graph")
    runtime = OnnxRuntime(read.files, read.graph)
    examples = open_examples(tmp_path / "data.npz")
    trace = record(read, runtime, examples, tmp_path / "trace", RecordOptions())
    fit(trace, 0.5, policy="margin", networks=read).write(tmp_path / "plan")
    shutil.rmtree(tmp_path / "graph")
    return Plan.read(tmp_path / "plan")


def check_everywhere(plan: Plan, tmp_path: Path) -> None:
    """The plan answers alike in its folder, in one file and in a file per stage."""
    x, _ = blobs(50, seed=1)
    expected = infer(plan, OnnxRuntime(plan.runnable(), plan.graph), x).answer
    write_file(plan, tmp_path / "model.onnx")
    write_folder(plan, tmp_path / "stages")
    assert (SingleFile(tmp_path / "model.onnx")(x).answer == expected).all()
    assert (Routed(tmp_path / "stages")(x).answer == expected).all()


def test_weights_travel_with_the_graph_and_with_the_plan(
    tmp_path: Path, networks: dict[str, Path]
) -> None:
    plan = journey(tmp_path, networks)
    check_everywhere(plan, tmp_path)
    assert {file.name for file in (tmp_path / "plan" / "stages").iterdir()} == {
        "small.onnx",
        "big.onnx",
    }


def test_networks_too_large_for_one_file_keep_a_second_one(
    tmp_path: Path, networks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "LARGEST", 200)
    monkeypatch.setattr(weights, "_SMALL", 90)
    plan = journey(tmp_path, networks)
    check_everywhere(plan, tmp_path)
    big = tmp_path / "plan" / "stages" / "big.onnx"
    assert data_of(big).stat().st_size == 96
    assert weights.network_fingerprint(big) == weights.fingerprint_of_copy(big)
    data = data_of(tmp_path / "model.onnx")
    content = data.read_bytes()
    for wrong in (None, bytes(len(content))):
        data.unlink() if wrong is None else data.write_bytes(wrong)
        with pytest.raises(NetworkError, match=r"model\.onnx"):
            SingleFile(tmp_path / "model.onnx")
    data_of(big).write_bytes(bytes(96))
    with pytest.raises(PlanError, match="does not match its fingerprint"):
        Plan.read(tmp_path / "plan")


def test_weights_in_several_files_and_in_folders(tmp_path: Path) -> None:
    flat = deep_network(tmp_path / "deep.onnx")
    several = apart(flat, tmp_path / "several" / "deep.onnx", several=True)
    (tmp_path / "below" / "sub").mkdir(parents=True)
    below = apart(flat, tmp_path / "below" / "deep.onnx", location="sub/weights.bin")
    expected = onnx.load(flat)
    assert len(weights.beside(several)) == 8
    assert weights.beside(below) == (tmp_path / "below" / "sub" / "weights.bin",)
    for file in (several, below):
        found = weights.load(file)
        assert [t.raw_data for t in found.graph.initializer] == [
            t.raw_data for t in expected.graph.initializer
        ]
        assert candidate_points(file) == candidate_points(flat)


def test_networks_behind_links_and_relative_paths(
    tmp_path: Path, networks: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "elsewhere.onnx"
    link.symlink_to(networks["big"])
    cache = tmp_path / "cache"  # where both files are links to others that are called otherwise
    cache.mkdir()
    for number, file in enumerate((networks["big"], data_of(networks["big"]))):
        shutil.copy(file, tmp_path / str(number))
        (cache / file.name).symlink_to(tmp_path / str(number))
    monkeypatch.chdir(tmp_path)
    x, _ = blobs(5)
    expected = OnnxRuntime({"big": networks["big"]}).run("big", x)
    for file in (link, cache / "big.onnx", Path("in/big.onnx"), Path("elsewhere.onnx")):
        read = combine({"big": file})
        assert (OnnxRuntime(read.files).run("big", x) == expected).all()
        read.write(tmp_path / "graph", force=True)
        assert Networks.read(tmp_path / "graph").fingerprints().keys() == {"big"}


@pytest.mark.parametrize(
    "location", ["/etc/hostname", "../flat/big.onnx", "a/../../b", "C:\\w", "..\\w"]
)
def test_weights_outside_the_folder_are_refused(
    tmp_path: Path, networks: dict[str, Path], location: str
) -> None:
    file = moved(networks["big"], tmp_path / "moved" / "big.onnx", location)
    for look in (weights.beside, weights.load, candidate_points, lambda f: combine({"big": f})):
        with pytest.raises(NetworkError, match="outside its folder"):
            look(file)


def test_missing_and_short_weights_are_named(tmp_path: Path, networks: dict[str, Path]) -> None:
    data = data_of(networks["big"])
    data.write_bytes(data.read_bytes()[:40])
    for look in (weights.load, lambda file: OnnxRuntime({"big": file})):
        with pytest.raises(NetworkError, match=r"big\.onnx\.data is too short"):
            look(networks["big"])
    data.unlink()
    for looked in (weights.load, candidate_points, lambda file: combine({"big": file})):
        with pytest.raises(NetworkError, match=r"in 'big\.onnx\.data', which is not beside it"):
            looked(networks["big"])


def test_weights_inside_branches_and_constants_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = onnx.numpy_helper.from_array(np.arange(6, dtype=np.float32), "value")
    inner = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["made"], value=value)],
        "inner",
        [],
        [onnx.helper.make_tensor_value_info("made", onnx.TensorProto.FLOAT, [6])],
    )
    branch = onnx.helper.make_node("If", ["yes"], ["out"], then_branch=inner, else_branch=inner)
    graph = onnx.helper.make_graph([branch], "g", [], [])
    model = onnx.helper.make_model(graph)
    expected = model.SerializeToString()
    monkeypatch.setattr(weights, "_SMALL", 1)
    weights.put_beside(model, tmp_path / "w", "w")
    assert (tmp_path / "w").stat().st_size == 48  # of both branches
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert weights.load(tmp_path / "m.onnx").SerializeToString() == expected
