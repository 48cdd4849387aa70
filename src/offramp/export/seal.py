"""What an exported file says of itself, and the fingerprint that finds out altered ones."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from onnx import helper

from offramp.base.errors import InputError, NetworkError
from offramp.base.files import data_of, fingerprint, read_bytes, replacing
from offramp.base.outputs import OutputKind
from offramp.export.stages import StageWriter
from offramp.networks import weights
from offramp.networks.weights import network_fingerprint
from offramp.runtime.format import ABOUT, WEIGHTS, check_seal, seal_of


def facts(stages: StageWriter) -> dict[str, Any]:
    """What holds for a whole plan in a file, as JSON values."""
    plan = stages.plan
    policy = plan.policy
    return {
        "version": version("offramp"),
        "stages": list(plan.running.graph.order),
        "reference": plan.graph.reference,
        "classes": plan.classes,
        "task": str(plan.task),
        "scores": {stage: plan.answered[stage] for stage in stages.graph.order},
        "cost_unit": plan.costs.unit,
        "reference_cost": plan.graph.reference_cost(plan.costs),
        "policy": policy.kind if plan.routes else "static",
        "tradeoff": plan.tradeoff,
        "tradeoffs": [float(policy.settings.min()), float(policy.settings.max())],
        "certificate": plan.certificate.to_json(),
        "input": plan.info.get("input"),
        "networks": {part: network_fingerprint(file) for part, file in stages.files.items()},
    }


def described(model: onnx.ModelProto, about: dict[str, Any]) -> onnx.ModelProto:
    """The model, with what it says of itself as metadata."""
    helper.set_model_props(model, {ABOUT: json.dumps(about, allow_nan=False)})
    return model


def sealed_bytes(model: onnx.ModelProto) -> bytes:
    """The file of a model: its fingerprint, of all bytes before, is metadata at the end."""
    content: bytes = model.SerializeToString()
    return content + seal_of(content)


def write_sealed(model: onnx.ModelProto, file: Path, called: Path) -> None:
    """Writes a model, checked, to a file that will be `called` otherwise, with its seal.

    The weights of one that is too large for one file lie beside it.
    """
    if model.ByteSize() <= weights.LARGEST:
        onnx.checker.check_model(model, full_check=True)
        file.write_bytes(sealed_bytes(model))
        return
    data = data_of(called)
    with replacing(data) as temporary:
        weights.put_beside(model, temporary, data.name)
        entry = model.metadata_props.add()
        entry.key, entry.value = WEIGHTS, fingerprint(temporary)
    file.write_bytes(sealed_bytes(model))
    onnx.checker.check_model(str(file), full_check=True)


def _is_exported(path: Path) -> bool:
    try:
        check_seal(read_bytes(path, NetworkError), str(path))
    except InputError:
        return False
    return True


EXPORTED = OutputKind("an exported file", _is_exported)
