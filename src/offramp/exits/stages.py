"""A network with several answers as a graph of stages whose parts can run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx

from offramp.arrays import AnyArray
from offramp.errors import NetworkError
from offramp.exits.cutting import Cut, extract
from offramp.exits.network import Network
from offramp.graph import Costs, Graph, Stage, whole
from offramp.networks import Networks
from offramp.preprocessing import Preprocessing
from offramp.runtime import OnnxRuntime

_TOLERANCE = 1e-4  # of scores, relative: cut against uncut
_STEPS = 16  # the same, in steps of the coarsest numbers that the network computes with
_PRECISIONS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "int8": 2.0**-8, "uint8": 2.0**-8}
_DEPEND = (
    "the network answers differently when it is cut and rows are dropped: its rows depend on each "
    "other. Choose other points, or export it in evaluation mode."
)


def cut_into_stages(
    network: Network,
    outputs: Mapping[str, str],
    folder: Path,
    x: AnyArray,
    preprocessing: Preprocessing | None = None,
    original: Network | None = None,
) -> tuple[Networks, Costs]:
    """A network with several answers as a graph of stages, its parts written to `folder`.

    The costs are millions of multiply-adds.

    Args:
        network: with all the answers.
        outputs: for each stage the tensor that holds its scores, cheapest first.
        folder: exists, or is made.
        x: a few examples, to check the parts with.
        preprocessing: of the graph.
        original: the network as it came, which runs where nothing is routed.

    Raises:
        NetworkError: it cannot be cut there, or the parts do not say what the whole says.
    """
    cut = Cut(network, tuple(outputs.items()))
    folder.mkdir(parents=True, exist_ok=True)
    files = {}
    for part in cut.parts():
        files[part.name] = folder / f"{part.name}.onnx"
        onnx.save(part.model, files[part.name])
    last = list(outputs)[-1]
    files[whole(last)] = folder / f"{whole(last)}.onnx"
    alone = extract(network, network.ancestors(outputs[last]), [outputs[last]])
    onnx.save(alone if original is None else original.model, files[whole(last)])
    names = list(outputs)
    stages = tuple(
        Stage(name, names[i - 1] if i else None, cut.hears(name)) for i, name in enumerate(names)
    )
    edges = tuple(pairwise(names))
    networks = Networks(Graph(stages, edges, last), files, preprocessing)
    check_parts(networks, x, tolerance(network))
    return networks, cut.costs()


def tolerance(network: Network) -> float:
    """How far scores may be off, relative, for being computed in other batches and pieces."""
    made = [network.tensors[name] for name in network.producer if name in network.tensors]
    steps = [_PRECISIONS.get(tensor.dtype.name, 0.0) for tensor in made if tensor.axis is not None]
    return max(_TOLERANCE, _STEPS * max(steps, default=0.0))


def check_parts(networks: Networks, x: AnyArray, near: float = _TOLERANCE) -> None:
    """Raises NetworkError unless the stages composed, with rows dropped, answer as the whole.

    Args:
        networks: the stages, and the whole.
        x: a few examples, (n, ...).
        near: how far scores may be off, relative.
    """
    runtime = OnnxRuntime(networks.files, networks.graph)
    reference = networks.graph.reference
    x = np.resize(x, (5, *x.shape[1:])).astype(x.dtype)
    expected = runtime.run(reference, x)
    size = max(1.0, float(np.abs(expected).max()))
    # rounding is the same in batches of one size, so however coarse it is, no other row may matter
    alike = runtime.run(reference, np.repeat(x[:1], len(x), axis=0))
    if np.abs(alike[0] - expected[0]).max() > _TOLERANCE * size:
        raise NetworkError(_DEPEND)
    for rows in (None, np.array([0, 2, 3]), np.array([4])):
        batch = runtime.begin(x)
        for stage in networks.graph.order:
            batch.advance(stage, rows if stage != networks.graph.root else None)
        found = batch.answer(reference, rows)
        wanted = expected if rows is None else expected[rows]
        if found.shape != wanted.shape or np.abs(found - wanted).max() > near * size:
            raise NetworkError(_DEPEND)
