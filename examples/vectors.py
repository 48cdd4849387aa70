"""Early exits in a network that reads vectors, with nothing but the core of offramp.

Usage: python examples/vectors.py

A multilayer perceptron of scikit-learn, written as ONNX; exits after its layers; a plan that gives
up at most two points, and what it does on other examples.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import make_classification
from sklearn.neural_network import MLPClassifier

from offramp import Evaluation, OnnxRuntime, Trace, evaluate, fit
from offramp.exits import Settings, add_exits
from offramp.networks.data import open_examples
from offramp.recording.record import Settings as Recording
from offramp.recording.record import record

FEATURES, CLASSES, LAYERS = 40, 5, (512, 512, 512)


def main() -> None:
    with TemporaryDirectory() as folder:
        found = run(Path(folder))
    print(f"excess loss {found.excess_loss:.2%}, speed-up {found.speedup:.2f}, stops {found.exits}")


def run(folder: Path, examples: int = 3000) -> Evaluation:
    """What a plan with exits does on examples that trained nothing."""
    x, y = make_classification(
        4 * examples, FEATURES, n_informative=20, n_classes=CLASSES, class_sep=1.5, random_state=0
    )
    for part, name in enumerate(("network", "heads", "plan", "other")):
        rows = slice(part * examples, (part + 1) * examples)
        np.savez(folder / f"{name}.npz", x=x[rows].astype(np.float32), y=y[rows])
    network(folder / "network.npz", folder / "network.onnx")
    heads = open_examples(folder / "heads.npz")
    found = add_exits(folder / "network.onnx", heads, Settings(), folder / "parts")
    networks = found.networks
    runtime = OnnxRuntime(networks.files, networks.graph)

    def recorded(name: str) -> Trace:
        given = open_examples(folder / f"{name}.npz")
        return record(networks, runtime, given, folder / f"{name}-trace", Recording())

    return evaluate(fit(recorded("plan"), 0.02, networks=networks), recorded("other"))


def network(data: Path, out: Path, sizes: tuple[int, ...] = LAYERS) -> None:
    """Trains the network and writes it: (batch, features) to scores (batch, classes)."""
    with np.load(data) as given:
        trained = MLPClassifier(sizes, early_stopping=True, random_state=0)
        trained.fit(given["x"], given["y"])
    nodes, constants, last = [], [], "x"
    layers = list(zip(trained.coefs_, trained.intercepts_, strict=True))
    for number, (weights, bias) in enumerate(layers, start=1):
        constants.append(numpy_helper.from_array(np.float32(weights), f"weights{number}"))
        constants.append(numpy_helper.from_array(np.float32(bias), f"bias{number}"))
        sums = "scores" if number == len(layers) else f"sums{number}"
        nodes.append(helper.make_node("Gemm", [last, f"weights{number}", f"bias{number}"], [sums]))
        last = f"layer{number}"
        if number < len(layers):
            nodes.append(helper.make_node("Relu", [sums], [last]))
    graph = helper.make_graph(
        nodes,
        "perceptron",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", FEATURES])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
        constants,
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), out)


if __name__ == "__main__":
    main()
