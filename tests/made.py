"""Small things that several tests need: networks as ONNX, images, arbitrary graphs and policies."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from sklearn.neural_network import MLPClassifier

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.manifests import HASH, content_hash
from offramp.core.graph import Graph
from offramp.core.ledger import Ledger
from offramp.core.trace import Trace, assemble
from offramp.policies import Seen
from offramp.testing import synthetic


def rehashed(manifest: Path, value: Mapping[str, Any]) -> None:
    """Writes a manifest that was changed on purpose, with the hash of what it now says."""
    said = {key: item for key, item in value.items() if key != HASH}
    try:
        said[HASH] = content_hash(said)
    except ValueError:  # NaN has no hash: JSON has no NaN
        said[HASH] = ""
    manifest.write_text(json.dumps(said))


def linear_network(
    path: Path,
    weights: FloatArray,
    shape: Sequence[int | str],
    *,
    batch: int | str = "batch",
    opset: int = 17,
) -> Path:
    """An ONNX file: inputs (batch, *shape), flattened, times weights (features, classes)."""
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights")],
    )
    opsets = [helper.make_opsetid("", opset)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def blobs(examples: int, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Four classes of points (n, 6) around four corners, and their labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, examples)
    x = np.eye(4, 6)[labels] * 2 + random.normal(size=(examples, 6)) * 0.7
    return x.astype(np.float32), labels


def blob_networks(folder: Path) -> dict[str, Path]:
    """Two linear networks for `blobs`: a poor one and the best one."""
    random = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    best = np.eye(6, 4) * 4
    poor = best * 0.7 + random.normal(size=best.shape) * 0.7
    return {
        "small": linear_network(folder / "small.onnx", poor, [6]),
        "big": linear_network(folder / "big.onnx", best, [6]),
    }


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (8, 8)) -> bytes:
    """A PNG of one colour, (width, height)."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format="PNG")
    return file.getvalue()


def prices(trace: Trace, stage: str) -> dict[str, float]:
    """What must run for a stage to answer, each with its cost, found in an obvious way."""
    found: dict[str, float] = {}
    passed: str | None = stage
    while passed is not None:
        found[f"body of {passed}"] = trace.costs.body[passed]
        passed = trace.graph.stage(passed).after
    for heard in trace.graph.stage(stage).hears:
        found |= prices(trace, heard)
    return {**found, f"head of {stage}": trace.costs.head[stage]}


@dataclass(frozen=True)
class Scramble:
    """A policy with no sense at all: a fixed action for every first score, stage and setting."""

    graph: Graph
    settings: FloatArray
    seed: int

    def evidence(self, seen: Seen) -> FloatArray:
        # every stage that may be seen takes part, so that a wrong row would change the action
        total = sum(seen.scores(stage)[:, 0].astype(np.float64) for stage in self._stages(seen))
        return np.asarray(total)[:, None]

    def _stages(self, seen: Seen) -> tuple[str, ...]:
        return self.graph.observed[seen.stage]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        mixed = np.floor(evidence[:, 0] * 1009 + setting * 31 + self.seed).astype(np.int64)
        actions: AnyArray = (mixed * 2654435761 >> 7) % (len(self.graph.successors[stage]) + 1)
        return actions.astype(np.int64)


@dataclass(frozen=True)
class Stopping:
    """Stops everyone at once, whatever it sees."""

    graph: Graph
    settings: FloatArray

    def evidence(self, seen: Seen) -> FloatArray:
        return np.empty((len(seen.rows), 0))

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return np.zeros(len(evidence), dtype=np.int64)


def hard_blobs(examples: int, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Four classes of points (n, 8) that no straight line tells apart, and their labels."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(examples, 8)).astype(np.float32)
    turned = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    return x, turned * 2 + (x[:, 2] * x[:, 3] > 0)


def deep_network(path: Path, layers: int = 3) -> Path:
    """A network trained on `hard_blobs`: layers of 48 after one another, then scores."""
    x, y = hard_blobs(6000)
    hidden = [48] * layers
    trained = MLPClassifier(hidden, random_state=0, early_stopping=True, max_iter=100).fit(x, y)
    nodes, constants, name = [], [], "input"
    for number, (weights, bias) in enumerate(
        zip(trained.coefs_, trained.intercepts_, strict=True), start=1
    ):
        for kind, value in (("weights", weights), ("bias", bias)):
            constants.append(numpy_helper.from_array(np.float32(value), f"{kind}{number}"))
        last = number > layers
        out = "scores" if last else f"sum{number}"
        given = [name, f"weights{number}", f"bias{number}"]
        nodes.append(helper.make_node("Gemm", given, [out]))
        name = f"hidden{number}"
        if not last:
            nodes.append(helper.make_node("Relu", [out], [name]))
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 4])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def unseen(trace: Trace) -> Trace:
    """The same trace, as if nobody had opened a row of it."""
    return replace(trace, ledger=Ledger())


def shown(trace: Trace) -> Trace:
    """The same trace with nothing sealed."""
    return replace(trace, seal=0.0, ledger=Ledger())


def different(examples: int = 3000, edges: str | None = None) -> Trace:
    """Three stages that err apart from each other: together they know more than the best."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, examples)
    truth = 2.0 * (labels[:, None] == np.arange(5))
    names = ("a", "b", "c")
    scores = {s: truth + random.normal(size=truth.shape) * 1.1 for s in names}
    costs = synthetic(20, names).costs
    return assemble(Graph.build(names, edges), costs, scores, labels=labels, kind="logits")
