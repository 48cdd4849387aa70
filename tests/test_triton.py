"""Model repositories of Triton are as its own schema has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from offramp.base.errors import InputError
from offramp.export import write_triton
from offramp.runtime import SingleFile, Stages, infer
from tests.made import blobs
from tests.served import blob_plans
from tests.test_watch import run

ROOT = Path(__file__).resolve().parent.parent


def test_the_configuration_is_read_by_its_schema_and_fits_the_file(tmp_path: Path) -> None:
    plan = blob_plans(tmp_path / "made", 0.02)[0]
    write_triton(plan, tmp_path / "repository", "blobs")
    text = (tmp_path / "repository" / "blobs" / "config.pbtxt").read_text()
    found = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (found.name, found.backend, found.max_batch_size) == ("blobs", "onnxruntime", 64)
    assert found.HasField("dynamic_batching")
    file = tmp_path / "repository" / "blobs" / "1" / "model.onnx"
    model = onnx.load(file)
    for said, there in ((found.input, model.graph.input), (found.output, model.graph.output)):
        assert [one.name for one in said] == [one.name for one in there]
        for one, tensor in zip(said, there, strict=True):
            shape = tensor.type.tensor_type.shape.dim[1:]
            row = list(one.reshape.shape if one.HasField("reshape") else one.dims)
            assert row == [d.dim_value if d.HasField("dim_value") else -1 for d in shape]
    assert model_config_pb2.DataType.Name(found.input[0].data_type) == "TYPE_FP32"
    x, _ = blobs(50)
    alone = infer(plan, Stages(plan.networks, plan.graph), x)
    assert np.array_equal(SingleFile(file)(x).answer, alone.answer)
    with pytest.raises(InputError, match="exists"):
        write_triton(plan, tmp_path / "repository", "blobs")
    write_triton(plan, tmp_path / "repository", "other", force=True)
    assert not (tmp_path / "repository" / "blobs").exists()


def test_the_command_writes_a_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blob_plans(tmp_path / "made", 0.02)[0].write(tmp_path / "plan")
    command = ("export", tmp_path / "plan", "--out", tmp_path / "repository", "--triton")
    assert run(capsys, *command, "a/b")[0] == 2
    assert run(capsys, *command, "blobs", "--dial")[0] == 2
    assert run(capsys, *command, "blobs")[0] == 0
    assert (tmp_path / "repository" / "blobs" / "1" / "model.onnx").exists()


def test_the_container_copies_what_is_there_and_is_not_root() -> None:
    lines = (ROOT / "Containerfile").read_text().splitlines()
    copied = [name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    assert next(line for line in lines if line.startswith("USER")) == "USER 10001"
    assert "[serve]" in "".join(lines)
