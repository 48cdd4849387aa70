"""Policies as JSON and back: numbers and names only, so that loading one runs no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from offramp.base.arrays import FloatArray
from offramp.base.errors import InputError, PlanError
from offramp.core.graph import Graph
from offramp.policies.features import BLOCKS, Features
from offramp.policies.gates import Gates
from offramp.policies.learned import Learned, Model
from offramp.policies.regression import Hidden
from offramp.policies.routing import Routing
from offramp.policies.rules import SURENESS, Alike, Threshold
from offramp.policies.thresholds import THRESHOLDS, Thresholds

Deployable = Learned | Threshold | Thresholds | Alike | Gates | Routing


def policy_to_json(policy: Deployable) -> dict[str, Any]:
    """The policy as JSON values."""
    value: dict[str, Any] = {
        "kind": policy.kind,
        "graph": policy.graph.to_json(),
        "settings": policy.settings.tolist(),
    }
    if isinstance(policy, Learned):
        value["models"] = {stage: _model_to_json(model) for stage, model in policy.models.items()}
    if isinstance(policy, Thresholds):
        value["cuts"] = {stage: _finite(cuts) for stage, cuts in policy.cuts.items()}
    if isinstance(policy, Gates):
        value["weights"] = {stage: found.tolist() for stage, found in policy.weights.items()}
        value["cuts"] = {stage: _finite(cuts[:, None]) for stage, cuts in policy.cuts.items()}
    if isinstance(policy, Routing):
        for name in ("weights", "actions", "costs"):
            value[name] = {s: found.tolist() for s, found in getattr(policy, name).items()}
    return value


def policy_from_json(value: Mapping[str, Any]) -> Deployable:
    """The inverse of `policy_to_json`.

    Raises:
        PlanError: the kind is unknown, a stage lacks what it needs, or the value is damaged.
        GraphError: the graph is none.
    """
    try:
        return _decoded(value)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        raise PlanError(f"the policy is damaged ({problem!r}); fit again.") from None


def _decoded(value: Mapping[str, Any]) -> Deployable:
    kind, graph = value["kind"], Graph.from_json(value["graph"])
    settings = _numbers(value["settings"])
    _check(settings.ndim == 1 and settings.size > 0, graph.root, "settings")
    if kind in ("learned", "network"):
        return _learned_from_json(value, kind, graph, settings)
    if kind in THRESHOLDS:
        cuts = {s: _floats(c).reshape(len(settings), -1) for s, c in value["cuts"].items()}
        _check_stages(graph, cuts)
        for stage, after in graph.successors.items():
            many = (len(after), len(after) + 1)
            _check(not after or cuts[stage].shape[1] in many, stage, "cuts")
        return Thresholds(graph, settings, cuts, kind)
    if kind in ("eenet", "jei-dnn"):
        return _gates_from_json(value, kind, graph, settings)
    if kind == "cascade-routing":
        return _routing_from_json(value, graph, settings)
    if kind in SURENESS:
        return Threshold(graph, settings, kind)
    if kind in ("patience", "agreement"):
        return Alike(graph, settings, kind)
    raise PlanError(f"policy kind '{kind}' is unknown; upgrade offramp, or fit again.")


def _learned_from_json(
    value: Mapping[str, Any], kind: str, graph: Graph, settings: FloatArray
) -> Learned:
    _check(float(settings.min()) > 0, graph.root, "settings")  # their logarithm is taken
    models = {stage: _model_from_json(model) for stage, model in value["models"].items()}
    _check_stages(graph, models)
    for stage, model in models.items():
        _check_model(model, graph, stage)
        _check((model.hidden is not None) == (kind == "network"), stage, "hidden units")
    return Learned(graph, settings, models, kind)


def _check_model(model: Model, graph: Graph, stage: str) -> None:
    features, after = model.features, len(graph.successors[stage])
    _check(features.stages == graph.observed[stage], stage, "stages")
    width = sum(features.blocks.values())
    _check(features.mean.shape == features.scale.shape == (width,), stage, "features")
    _check(float(features.scale.min()) > 0, stage, "features")
    for found in (model.loss, model.cost):
        _check(found.shape == (after, 2, 1 + width), stage, "weights")
    if model.hidden is not None:
        units, hidden = len(model.hidden.bias), model.hidden
        _check(hidden.weights.shape == (width, units), stage, "hidden units")
        _check(hidden.bias.shape == (units,), stage, "hidden units")
        _check(hidden.out.shape == (units, 4 * after), stage, "hidden units")


def _gates_from_json(
    value: Mapping[str, Any], kind: str, graph: Graph, settings: FloatArray
) -> Gates:
    weights = {s: _numbers(found) for s, found in value["weights"].items()}
    cuts = {s: _floats(found) for s, found in value["cuts"].items()}
    _check_stages(graph, weights)
    _check_stages(graph, cuts)
    gates = 1 if kind == "eenet" else len(settings)
    for stage, found in weights.items():
        before = len(graph.observed[stage]) - 1 if kind == "eenet" else 0
        first = weights[graph.root].shape[1]
        _check(found.shape == (gates, first + before), stage, "weights")
        _check(cuts[stage].shape == (len(settings), 1), stage, "cuts")
    return Gates(graph, settings, weights, {s: c[:, 0] for s, c in cuts.items()}, kind)


def _routing_from_json(value: Mapping[str, Any], graph: Graph, settings: FloatArray) -> Routing:
    weights, actions, costs = (
        {s: _numbers(v) for s, v in value[n].items()} for n in ("weights", "actions", "costs")
    )
    for found in (weights, actions, costs):
        _check_stages(graph, found)
    for stage, after in graph.successors.items():
        if not after:
            continue
        rows, columns = weights[stage].shape
        seen = len(graph.observed[stage])
        # the numbers of every stage seen, whether each earlier one agrees, and a constant
        width = seen * (weights[graph.root].shape[1] - 1) + seen
        _check(columns == width, stage, "weights")
        _check(costs[stage].shape == (rows,) and min(costs[stage]) >= 0, stage, "costs")
        _check(actions[stage].shape == (rows,), stage, "actions")
        _check(set(actions[stage]) <= set(range(len(after) + 1)), stage, "actions")
        _check(0 in actions[stage] and 1 in actions[stage], stage, "actions")
    steps = {s: found.astype(np.int64) for s, found in actions.items()}
    return Routing(graph, settings, weights, steps, costs)


def _check(fits: bool, stage: str, what: str) -> None:
    if not fits:
        raise PlanError(f"the policy's {what} at stage '{stage}' are damaged; fit again.")


def _check_stages(graph: Graph, learned: Mapping[str, Any]) -> None:
    missing = [s for s in graph.order if graph.successors[s] and s not in learned]
    if missing:
        raise PlanError(f"the policy has learned nothing for stage '{missing[0]}'; fit again.")


def _model_to_json(model: Model) -> dict[str, Any]:
    features, hidden = model.features, model.hidden
    value = {
        "features": {
            "stages": list(features.stages),
            "classes": features.classes,
            "blocks": list(features.names),
            "knots": features.knots.tolist(),
            "mean": features.mean.tolist(),
            "scale": features.scale.tolist(),
        },
        "loss": model.loss.tolist(),
        "cost": model.cost.tolist(),
    }
    if hidden is not None:
        parts = {"weights": hidden.weights, "bias": hidden.bias, "out": hidden.out}
        value["hidden"] = {name: found.tolist() for name, found in parts.items()}
    return value


def _model_from_json(value: Mapping[str, Any]) -> Model:
    hidden = value.get("hidden")
    return Model(
        _features_from_json(value["features"]),
        _numbers(value["loss"]),
        _numbers(value["cost"]),
        hidden and Hidden(*(_numbers(hidden[name]) for name in ("weights", "bias", "out"))),
    )


def _features_from_json(value: Mapping[str, Any]) -> Features:
    knots, mean, scale = (_numbers(value[name]) for name in ("knots", "mean", "scale"))
    blocks, classes = value["blocks"], value["classes"]
    if not isinstance(classes, int) or classes < 2:
        raise ValueError(f"{classes!r} classes")
    names = tuple(name for name in BLOCKS if name in blocks)
    if list(names) != blocks or BLOCKS[0] not in names:  # written in their order, the first always
        raise ValueError(f"blocks {blocks!r}")
    if knots.ndim != 1:
        raise ValueError(f"knots of shape {knots.shape}")
    return Features(tuple(value["stages"]), classes, knots, mean, scale, names)


def _finite(cuts: FloatArray) -> list[list[float | None]]:
    """JSON has no infinity: None stands for a cut that no confidence reaches."""
    return [[float(cut) if np.isfinite(cut) else None for cut in row] for row in cuts]


def _floats(values: Any) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(array), np.inf, array)


def _numbers(values: Any) -> FloatArray:
    """An array of finite numbers; here a None stands for nothing. Raises ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a number is missing or infinite")
    return array
