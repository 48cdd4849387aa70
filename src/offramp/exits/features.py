"""What a frozen network shows at its points, of every example: one pass, nothing runs twice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnxruntime as ort

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import DataError, NetworkError
from offramp.base.progress import Progress
from offramp.core.tasks import check_labels
from offramp.exits.network import Network, open_session
from offramp.exits.pooling import Pooling, pooled
from offramp.networks.data import Examples
from offramp.runtime.engine import Fields

MOST_EXAMPLES = 50_000  # that heads are trained on
FEATURE_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class HeadFeatures:
    """What the network shows at each point, pooled, of every example."""

    x: dict[str, FloatArray]  # stage -> (n, features)
    scores: FloatArray  # (n, classes) of the network itself
    labels: IntArray  # (n,)
    some: Fields  # a few examples, as the network reads them
    hashes: AnyArray  # (n,) uint64 of the examples: they must not certify what they taught

    @property
    def each(self) -> IntArray:
        """The numbers of the examples, (n,)."""
        return np.arange(len(self.labels))

    def take(self, rows: AnyArray) -> HeadFeatures:
        x = {stage: values[rows] for stage, values in self.x.items()}
        hashes = self.hashes[rows]
        return HeadFeatures(
            x=x, scores=self.scores[rows], labels=self.labels[rows], some=self.some, hashes=hashes
        )

    def renamed(self, names: Mapping[str, str]) -> HeadFeatures:
        """With some of the stages, under new names."""
        return replace(self, x={new: self.x[old] for old, new in names.items()})


def head_features(
    network: Network, poolings: Mapping[str, Pooling], examples: Examples, progress: Progress
) -> HeadFeatures:
    """One pass of all examples through the network, which runs once on each."""
    model = pooled(network, poolings)
    session = open_session(model, network.path)
    names = [output.name for output in session.get_outputs()]
    total = min(examples.examples, MOST_EXAMPLES)
    found: list[list[FloatArray]] = []
    labels: list[IntArray] = []
    hashes: list[AnyArray] = []
    some: Fields | None = None
    for batch in examples.batches(FEATURE_BATCH):
        if batch.labels is None:
            raise DataError("these examples have no labels; heads learn from labelled ones.")
        if len(batch.labels):
            given = network.given(batch.fields)
            found.append(_run(session, names, network, given))
            labels.append(batch.labels)
            hashes.append(batch.hashes)
            some = given if some is None else some
        progress("features", min(len(found) * FEATURE_BATCH, total), total)
        if len(found) * FEATURE_BATCH >= total:
            break
    if some is None:
        raise DataError("there are no examples to train heads on; give some hundreds.")
    *features, scores = (np.concatenate(values) for values in zip(*found, strict=True))
    checked = check_labels(np.concatenate(labels), len(scores), scores.shape[1])
    absent = np.setdiff1d(np.arange(scores.shape[1]), checked)
    if absent.size:
        raise DataError(
            f"no example is of class {absent[0]}, so heads cannot learn it; the network scores "
            f"{scores.shape[1]} classes. Give examples of every class."
        )
    x = dict(zip(poolings, features, strict=True))
    return HeadFeatures(
        x=x, scores=scores, labels=checked, some=some, hashes=np.concatenate(hashes)
    )


def _run(
    session: ort.InferenceSession, names: list[str], network: Network, given: Fields
) -> list[FloatArray]:
    try:
        values: list[FloatArray] = session.run(names, dict(given))
    except Exception as problem:  # ONNX Runtime's errors share no public base class
        shapes = ", ".join(f"{name} {x.shape[1:]}" for name, x in given.items())
        raise NetworkError(
            f"{network.path} cannot run on examples of shape {shapes}: "
            f"{str(problem).strip().splitlines()[0]}"
        ) from None
    return values
