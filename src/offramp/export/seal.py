"""What an exported file says of itself, and the fingerprint that finds out altered ones."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import Any

import onnx
from onnx import helper

from offramp.errors import NetworkError
from offramp.export.stages import Stages
from offramp.files import fingerprint

ABOUT, FINGERPRINT = "offramp", "fingerprint"


def facts(stages: Stages) -> dict[str, Any]:
    """What holds for a whole plan in a file, as JSON values."""
    plan = stages.plan
    policy = plan.policy
    return {
        "version": version("offramp"),
        "stages": list(plan.running.graph.order),
        "reference": plan.graph.reference,
        "classes": plan.classes,
        "cost_unit": plan.costs.unit,
        "reference_cost": plan.graph.reference_cost(plan.costs),
        "policy": policy.kind if plan.routes else "static",
        "tradeoff": plan.tradeoff,
        "tradeoffs": [float(policy.settings.min()), float(policy.settings.max())],
        "certificate": plan.certificate.to_json(),
        "networks": {part: fingerprint(file) for part, file in stages.files.items()},
    }


def sealed(model: onnx.ModelProto, about: dict[str, Any]) -> onnx.ModelProto:
    """The model, with what it says of itself and its fingerprint as metadata."""
    helper.set_model_props(model, {ABOUT: json.dumps(about, allow_nan=False)})
    helper.set_model_props(model, {**_props(model), FINGERPRINT: _fingerprint(model)})
    return model


def opened(model: onnx.ModelProto, name: str) -> dict[str, Any]:
    """What a model says of itself. Raises NetworkError: not of offramp, or altered since."""
    props = _props(model)
    if ABOUT not in props or FINGERPRINT not in props:
        raise NetworkError(f"{name} was not made by `offramp export`.")
    if _fingerprint(model) != props[FINGERPRINT]:
        raise NetworkError(
            f"{name} does not match its fingerprint: it was altered, and a certificate holds for "
            "the original alone. Export it again."
        )
    found: dict[str, Any] = json.loads(props[ABOUT])
    return found


def _props(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


def _fingerprint(model: onnx.ModelProto) -> str:
    """Of everything but the fingerprint itself."""
    props = _props(model)
    props.pop(FINGERPRINT, None)
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    helper.set_model_props(bare, props)
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()
