"""A plan as a model repository of Triton Inference Server: one file on its ONNX Runtime backend.

The file skips what rows do not need, as everywhere; Triton batches requests before it.
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
from onnx import TensorProto

from offramp.base.manifests import kind_of_folder, write_manifest
from offramp.base.outputs import new_folder
from offramp.export.seal import write_sealed
from offramp.export.single import one_file
from offramp.networks.resizing import Size
from offramp.plan.plan import Plan

TRITON = kind_of_folder("repository")
_BATCH = 64  # rows that Triton puts together, at most
_TYPES = {
    TensorProto.BOOL: "BOOL",
    TensorProto.FLOAT16: "FP16",
    TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64",
    **{getattr(TensorProto, f"INT{n}"): f"INT{n}" for n in (8, 16, 32, 64)},
    **{getattr(TensorProto, f"UINT{n}"): f"UINT{n}" for n in (8, 16, 32, 64)},
    TensorProto.STRING: "STRING",
}


def write_triton(
    plan: Plan,
    path: str | Path,
    name: str,
    *,
    images: bool = False,
    image_size: Size | None = None,
    force: bool = False,
) -> None:
    """Writes a folder that `tritonserver --model-repository` serves.

    Args:
        plan: with networks.
        path: of the folder; what is served lies in it under `name`, as version 1.
        name: that clients ask for.
        images: it reads uint8 images (batch, height, width, channels).
        image_size: height and width of these; None: what networks read.
        force: replaces a folder of offramp's.

    Raises:
        PlanError, NetworkError, InputError: as `one_file`; `path` is taken.
        StorageError: it cannot be written.

    Source: github.com/triton-inference-server/common, protobuf/model_config.proto.
    """
    model = one_file(plan, images=images, image_size=image_size)
    with new_folder(Path(path), TRITON, force=force) as folder:
        version = folder / name / "1"
        version.mkdir(parents=True)
        write_sealed(model, version / "model.onnx", version / "model.onnx")
        (folder / name / "config.pbtxt").write_text(configuration(name, model), encoding="utf-8")
        write_manifest(folder, "repository", {"version": 1, "model": name})


def configuration(name: str, model: onnx.ModelProto) -> str:
    """What Triton is told of a file: config.pbtxt, in the text format of protobuf."""
    lines = [
        f"name: {json.dumps(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {_BATCH}",
        "dynamic_batching { }",  # what waits goes together; nobody waits for a batch to fill
    ]
    for what, values in (("input", model.graph.input), ("output", model.graph.output)):
        lines += [f"{what} [", ",\n".join(map(_tensor, values)), "]"]
    return "\n".join([*lines, ""])


def _tensor(value: onnx.ValueInfoProto) -> str:
    """A tensor without its rows, which Triton counts by itself."""
    found = value.type.tensor_type
    sizes = [one.dim_value if one.HasField("dim_value") else -1 for one in found.shape.dim[1:]]
    dims = ", ".join(map(str, sizes or [1]))
    reshape = "" if sizes else " reshape { shape: [ ] }"
    kind = _TYPES[found.elem_type]
    return (
        f"  {{ name: {json.dumps(value.name)} data_type: TYPE_{kind} dims: [ {dims} ]{reshape} }}"
    )
