"""A network with several answers as a graph of stages whose parts can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx

from offramp.base.arrays import AnyArray
from offramp.base.errors import NetworkError
from offramp.core.graph import Costs, Graph, Stage, whole
from offramp.exits.cutting import Cut, extract
from offramp.exits.network import Network, repeated
from offramp.networks import weights
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing
from offramp.networks.reading import with_fields
from offramp.recording.independence import Traits, difference
from offramp.runtime import OnnxRuntime
from offramp.runtime.engine import Fields, fields_of


def cut_into_stages(
    network: Network,
    outputs: Mapping[str, str],
    folder: Path,
    x: AnyArray | Fields,
    preprocessing: Preprocessing | None = None,
    original: Network | None = None,
) -> tuple[Networks, Costs]:
    """A network with several answers as a graph of stages, its parts written to `folder`.

    The costs are millions of multiply-adds.

    Args:
        network: with all the answers.
        outputs: for each stage the tensor that holds its scores, cheapest first.
        folder: exists, or is made.
        x: a few examples, by field where there are several, to check the parts with.
        preprocessing: of the graph.
        original: the network as it came, which runs where nothing is routed.

    Raises:
        NetworkError: it cannot be cut there, or the parts do not say what the whole says.
    """
    cut, names = Cut(network, tuple(outputs.items())), list(outputs)
    answer = outputs[names[-1]]
    alone = extract(network, network.ancestors(answer), [answer])
    models = {part.name: part.model for part in cut.parts()}
    models[whole(names[-1])] = alone if original is None else original.model
    files = _written(models, folder)
    stages = tuple(
        Stage(name, names[i - 1] if i else None, cut.hears(name)) for i, name in enumerate(names)
    )
    graph = Graph(stages, tuple(pairwise(names)), names[-1])
    networks = Networks(graph, files, preprocessing)
    check_parts(networks, x)
    if len(network.inputs) > 1:
        networks = replace(with_fields(networks, {}, folder), fields=network.inputs)
    return networks, cut.costs()


def _written(models: Mapping[str, onnx.ModelProto], folder: Path) -> dict[str, Path]:
    """Writes every part of a network to `folder`, which exists or is made; its files by part."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.onnx" for name in models}
    for name, model in models.items():
        weights.write(model, files[name])
    return files


def check_parts(networks: Networks, x: AnyArray | Fields) -> None:
    """Raises NetworkError unless the stages composed, with rows dropped, answer as the whole.

    Args:
        networks: the stages, and the whole.
        x: a few examples, (n, ...), by field where there are several.
    """
    runtime = OnnxRuntime(networks.files, networks.graph)
    reference = networks.graph.reference
    fields = {name: repeated(rows, 5) for name, rows in fields_of(x).items()}
    expected = runtime.run(reference, fields)
    traits = Traits.of(networks.files.values())
    for rows in (None, np.array([0, 2, 3]), np.array([4])):
        batch = runtime.begin(fields)
        for stage in networks.graph.order:
            batch.advance(stage, rows if stage != networks.graph.root else None)
        found = batch.answer(reference, rows)
        wanted = expected if rows is None else expected[rows]
        if difference(wanted, found, traits.tolerance).scores > traits.tolerance:
            why = f" ({traits.reason})" if traits.reason else ""
            raise NetworkError(
                "the network answers differently when it is cut and rows are dropped: its rows "
                f"depend on each other{why}. {traits.advice}, or choose other points."
            )
