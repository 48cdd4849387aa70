"""Whether the labels of a recording mean the classes that its networks score."""

from __future__ import annotations

from offramp.base.arrays import IntArray
from offramp.base.fields import Fields, arrays
from offramp.core.graph import whole
from offramp.core.meaning import FEWEST_LABELS, doubts, finding_of
from offramp.core.trace import Trace
from offramp.networks.data import NOTHING, Examples
from offramp.runtime.stages import Stages

_FIRST = 64  # examples that other outputs of the reference are asked of


def label_doubts(runtime: Stages, trace: Trace, examples: Examples) -> list[str]:
    """Why labels do not seem to mean the classes that scores are of."""
    reference = runtime.graph.reference
    unsealed = trace.take(trace.opening[: trace.unsealed])
    sentences = doubts(unsealed.scores, unsealed.labels, reference)
    if any(sentence.startswith(f"stage '{reference}'") for sentence in sentences):
        first = next(examples.batches(_FIRST), NOTHING)
        if first.labels is not None and len(first.labels) >= FEWEST_LABELS:
            sentences += _better_outputs(runtime, first.fields, first.labels)
    return sentences


def _better_outputs(runtime: Stages, fields: Fields, labels: IntArray) -> list[str]:
    """Says so where another output of the reference fits the labels."""
    reference = runtime.graph.reference
    name = whole(reference) if whole(reference) in runtime.parts else reference
    part, others = runtime.parts[name], list(runtime.parts[name].outputs)[1:]
    if any(runtime.source[name].values()) or name not in runtime.speaking or not others:
        return []
    made = arrays(fields)
    only = next(iter(made.values()))
    for output, scores in part({n: made.get(n, only) for n in part.inputs}, others).items():
        if scores.ndim != 2 or len(scores) != len(labels) or scores.shape[1] <= labels.max():
            continue
        if scores.dtype.kind == "f" and finding_of(scores, labels) is None:
            error = float((scores.argmax(axis=1) != labels).mean())
            return [
                f"another output of '{reference}', '{output}', is wrong about {error:.1%} of the "
                f"first {len(labels)} examples: make the graph again with "
                f"--output {reference}={output}."
            ]
    return []
