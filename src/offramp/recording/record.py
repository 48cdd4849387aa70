"""Networks and examples to a trace: every stage runs once on every example, and is timed.

A recording grows part by part; one that was interrupted goes on where it stopped and loses at most
the part in hand.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import InputError, ScoresError, TraceError
from offramp.base.files import fingerprint, remove
from offramp.base.hashing import hash_rows
from offramp.base.manifests import PRINTS, read_manifest, write_manifest
from offramp.base.outputs import check_output, new_folder, only_one
from offramp.base.schema import record as record_of
from offramp.core.graph import Costs, Graph, whole
from offramp.core.ledger import Ledger, carry
from offramp.core.meaning import FEWEST, DoubtfulLabels, doubts, judge
from offramp.core.parts import part_path, parts, read_parts, versions, write_part
from offramp.core.tasks import Kind, no_scores
from offramp.core.trace import TRACE, VERSION, Recording, Trace, assemble, check_seal, table
from offramp.networks.data import NOTHING, Batch, Examples
from offramp.networks.inputs import Inputs, Range
from offramp.networks.networks import Networks
from offramp.recording.independence import Difference, Judge, RowsDepend, Run, apart, compare, runs
from offramp.recording.measure import recorded_costs
from offramp.runtime.stages import Stages

Progress = Callable[[int, int], None]
_RANGE = b"offramp.range"  # in the metadata of a part: what its inputs were like
_PART = 2048  # examples per part, about
_TOGETHER = 64  # examples, at least, that are compared with the same run alone
_COUNTED = 256  # likewise, where scores are found to differ
_NONE = Difference(0.0, 0, 0)
_AGAIN = 8  # examples of each part that run once more, together and alone


@dataclass(frozen=True)
class Settings:
    """How a recording is made."""

    batch: int = 64  # rows per call, also where costs are measured
    threads: int = 1
    sizes: tuple[int, ...] = ()  # further rows per call to measure costs at
    seal: float | None = None  # share of the rows that only certificates may see; see `assemble`
    kind: Kind | None = None  # what all scores are; None finds out once all are there

    @property
    def batches_per_part(self) -> int:
        return max(1, _PART // self.batch)

    @property
    def part(self) -> int:
        """Examples per part: whole batches, so that a resumed recording cuts batches alike."""
        return self.batch * self.batches_per_part


def record(
    networks: Networks,
    runtime: Stages,
    examples: Examples,
    out: Path,
    settings: Settings,
    *,
    graph_folder: Path | None = None,
    costs: Costs | None = None,
    force: bool = False,
    progress: Progress = lambda done, total: None,
) -> Trace:
    """Runs every stage once on every example, measures costs, and writes the trace.

    Args:
        networks: what to run.
        runtime: that runs them.
        examples: in a fixed order.
        out: folder of the trace; one that holds an interrupted recording of the same networks and
            examples is continued.
        settings: batch size and threads.
        graph_folder: where the networks were read from, for `fit` to find them again.
        costs: what every stage costs, in any unit; None: they are measured.
        force: start again where `out` holds another recording.
        progress: called with examples done and examples in all.

    Returns:
        The trace.

    Raises:
        InputError: `out` is taken, or holds an interrupted recording of something else.
        ScoresError, DataError, NetworkError: a stage or the examples cannot be used; or rows of a
            stage depend on each other.
        StorageError: it cannot be written; what was recorded before is kept.

    Warns:
        RowsDepend: scores hardly depend on the other rows of a batch.
        DoubtfulLabels: labels seem to mean other classes than the scores, or the reference is no
            better than chance.
    """
    if not examples.examples:
        raise TraceError("there are no examples to record; give at least a few hundred.")
    judge = Judge.of(networks)
    notes = _compared(judge, networks, runtime, examples, settings)
    identity = _identity(networks, runtime.engine.title, examples, settings, graph_folder)
    if costs is not None:
        costs = networks.graph.check_costs(costs)
    with _begun(out, identity, force) as prints:
        recording = _Recording(networks, runtime, examples, settings, judge)
        first, differing = recording.write(out, identity, prints, progress)

        def priced(classes: int) -> Costs:
            sizes = (settings.batch, *settings.sizes)
            given = (networks.graph, first, classes, sizes, settings.threads)
            return recorded_costs(runtime, *given) if costs is None else costs

        noted = {**identity, "notes": notes or differing}
        trace = _finish(networks.graph, out, noted, first, priced, prints)
    for sentence in _doubts(runtime, trace, examples):
        warnings.warn(sentence, DoubtfulLabels, stacklevel=2)
    return trace


@dataclass(frozen=True)
class _Recording:
    """What is run on which examples."""

    networks: Networks
    runtime: Stages
    examples: Examples
    settings: Settings
    judge: Judge

    def write(
        self, out: Path, identity: Mapping[str, Any], prints: dict[str, str], progress: Progress
    ) -> tuple[AnyArray, list[str]]:
        """Writes the parts that are missing, whose fingerprints it adds.

        Returns the first inputs, and what to say of stages whose rows depend on each other.
        """
        settings, total, done = self.settings, self.examples.examples, len(prints)
        first: AnyArray | None = None
        notes: list[str] = []
        seen = done * settings.part
        progress(min(seen, total), total)
        batches = self.examples.batches(settings.batch, seen)
        while group := list(islice(batches, settings.batches_per_part)):
            rows, differing = _part(self.networks, self.runtime, group, self.judge, settings.kind)
            write_part(out, done, rows)
            notes = notes or _warned(differing)
            part = part_path(out, done)
            prints[part.name] = fingerprint(part)
            _note(out, identity, prints)
            first = group[0].x if first is None else first
            done, seen = done + 1, min(seen + settings.part, total)
            progress(seen, total)
        if first is None or not len(first):
            every = self.examples.batches(settings.batch)
            first = next((batch.x for batch in every if len(batch.x)), None)
        if first is None:
            raise TraceError("none of the examples can be read: there is nothing to record.")
        return first, notes


def _compared(
    judge: Judge, networks: Networks, runtime: Stages, examples: Examples, settings: Settings
) -> list[str]:
    """What to say of stages whose rows hardly depend on each other, on the first examples."""
    size = max(settings.batch, _TOGETHER)
    found: dict[str, Difference] = {}
    for batch in islice(examples.batches(size), max(1, _COUNTED // size)):
        more = compare(runs(runtime, networks.graph), batch.x, judge.tolerances)
        found = {stage: found.get(stage, _NONE) + change for stage, change in more.items()}
        if not judge.depends(found):
            break
    return _warned(judge(found))


def _warned(sentences: list[str]) -> list[str]:
    for sentence in sentences:
        warnings.warn(sentence, RowsDepend, stacklevel=4)
    return sentences


def _identity(
    networks: Networks,
    engine: str,
    examples: Examples,
    settings: Settings,
    graph_folder: Path | None,
) -> dict[str, Any]:
    """What an interrupted recording must share with the one that continues it."""
    return {
        "graph": networks.graph.to_json(),
        "graph_folder": None if graph_folder is None else str(graph_folder.resolve()),
        "networks": networks.fingerprints(),
        "preprocessing": networks.preprocessing and networks.preprocessing.to_json(),
        "data": examples.fingerprint,
        **({"class_names": list(examples.classes)} if examples.classes else {}),
        "given": examples.examples,
        "engine": engine,
        "batch": settings.batch,
        "threads": settings.threads,
        "seal": check_seal(settings.seal),
        "kind": settings.kind,
    }


@contextmanager
def _begun(out: Path, identity: Mapping[str, Any], force: bool) -> Iterator[dict[str, str]]:
    """Makes `out` ready, keeps others from it, and gives the fingerprints of the parts it holds."""
    if force or not (out / "trace.json").exists():
        with new_folder(out, TRACE, force=force) as folder:  # it is never without a manifest
            _note(folder, identity, {})
            if force and _same_data(out, identity):
                carry(out, folder)  # the same rows stay opened, and looked at
    with only_one(out):
        # read again here: whoever wrote it a moment ago may have ended since
        value = read_manifest(out, "trace", VERSION, Recording, TraceError)
        if value["complete"]:
            check_output(out, False, TRACE)  # says that it exists already
        yield _continued(out, value, identity)


def _same_data(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder holds a recording of the same examples."""
    try:
        found = read_manifest(out, "trace", VERSION, Recording, TraceError)
    except TraceError:
        return False
    return bool(found.get("data") == identity["data"])


def _note(out: Path, identity: Mapping[str, Any], prints: Mapping[str, str]) -> None:
    """Writes trace.json of a recording that goes on; it lists the parts that are done."""
    value = {"version": VERSION, "complete": False, **identity}
    write_manifest(out, "trace", value, prints)


def _continued(out: Path, found: Mapping[str, Any], identity: Mapping[str, Any]) -> dict[str, str]:
    for name, value in identity.items():
        if found.get(name) != value:
            raise InputError(
                f"{out} holds an interrupted recording with another {name}. Choose another --out, "
                "or start again with --force."
            )
    for left in out.glob(".*.part"):  # what was being written when it stopped
        remove(left)
    prints: dict[str, str] = dict(found[PRINTS])
    if list(prints) != [part_path(out, part).name for part in range(len(prints))]:
        raise TraceError(f"{out} does not list its parts in order; start again with --force.")
    for part in parts(out):  # written, but not yet listed
        if part.name not in prints:
            remove(part)
    return prints


def _part(
    networks: Networks, runtime: Stages, group: list[Batch], judge: Judge, kind: Kind | None
) -> tuple[Any, list[str]]:
    """The rows of one part, and what to say of stages whose rows depend on each other."""
    graph = networks.graph
    scores: dict[str, list[FloatArray]] = {stage: [] for stage in graph.order}
    kept = [batch for batch in group if len(batch.x)]
    free = Costs(dict.fromkeys(graph.order, 1.0), dict.fromkeys(graph.order, 0.0))
    for batch in kept:
        running = runtime.begin(batch.x)
        for stage in graph.order:
            running.advance(stage, None)
            found = running.answer(stage, None)
            _check_rows(stage, found, batch)
            scores[stage].append(found)
        said = {stage: found[-1] for stage, found in scores.items()}
        assemble(graph, free, said, labels=batch.labels, kind=kind)  # refuses what does not fit
    if not kept:  # every image of this part was left out
        return pa.table({}), []
    said = {stage: np.concatenate(found) for stage, found in scores.items()}
    differing = _again(judge, runs(runtime, graph), kept, said)
    labelled = all(batch.labels is not None for batch in kept)
    hashes = np.concatenate([hash_rows(batch.x) for batch in kept])
    part = assemble(
        graph,
        free,
        said,
        labels=np.concatenate([b.labels for b in kept if b.labels is not None])
        if labelled
        else None,
        kind=kind or "logits",
        ids=np.concatenate([batch.ids for batch in kept]),
        hashes=hashes,
    )
    if networks.taught is not None:
        part = replace(part, taught=np.isin(hashes, networks.taught))
    rows = table(part)
    seen = Range.together(Range.of(batch.x) for batch in kept)
    return rows.replace_schema_metadata({_RANGE: json.dumps(seen and asdict(seen))}), differing


def _range(out: Path) -> Range | None:
    """What the inputs of all parts were like, those recorded before an interruption as well."""
    metadata = [pq.read_schema(part).metadata or {} for part in parts(out)]
    found = [json.loads(entry.get(_RANGE, b"null")) for entry in metadata]
    return Range.together(value and record_of(Range, value) for value in found)


def _again(judge: Judge, run: Run, kept: list[Batch], said: Mapping[str, FloatArray]) -> list[str]:
    """Compares the last rows of some batches with the same rows together, and alone.

    Returns sentences for stages whose scores hardly depend on other rows; raises as `Judge`.
    """
    ends = np.cumsum([len(batch.x) for batch in kept]) - 1
    chosen = np.unique(np.linspace(0, len(kept) - 1, _AGAIN).astype(np.int64))
    x = np.concatenate([kept[i].x[-1:] for i in chosen])
    expected = {stage: scores[ends[chosen]] for stage, scores in said.items()}
    groups = [np.arange(len(x)), np.array([0]), np.array([len(x) - 1])]
    return judge(apart(run, x, expected, groups, judge.tolerances))


def _check_rows(stage: str, scores: FloatArray, batch: Batch) -> None:
    """Names the example whose scores are broken, which `assemble` cannot."""
    if scores.ndim != 2 or len(scores) != len(batch.x):
        raise ScoresError(
            f"stage '{stage}' gave scores of shape {scores.shape} for {len(batch.x)} examples; "
            "it must give one row of scores per example."
        )
    broken = no_scores(scores)
    if broken.any():
        raise ScoresError(
            f"stage '{stage}' gave NaN or infinite scores for example {batch.ids[broken][0]}. "
            "Check its input and the network; leave the example out if it is broken."
        )


def _finish(
    graph: Graph,
    out: Path,
    identity: Mapping[str, Any],
    x: AnyArray,
    priced: Callable[[int], Costs],
    prints: Mapping[str, str],
) -> Trace:
    columns = read_parts(out)
    costs = priced(columns[f"{graph.root}.scores"].shape[1])
    info = {key: value for key, value in identity.items() if key not in ("graph", "seal", "kind")}
    trace = assemble(
        graph,
        costs,
        {stage: columns[f"{stage}.scores"] for stage in graph.order},
        labels=columns.get("label"),
        kind=identity["kind"],
        ids=columns["id"],
        info={
            **info,
            "input": Inputs(x.shape[1:], str(x.dtype), _range(out)).to_json(),
            "versions": versions(),
            "created": _now(),
        },
        hashes=columns["hash"],
        seal=identity["seal"],
    )
    trace = replace(trace, taught=columns.get("taught"))
    write_manifest(out, "trace", trace.manifest(), prints)
    return replace(trace, ledger=Ledger.read(out))


def _doubts(runtime: Stages, trace: Trace, examples: Examples) -> list[str]:
    """Why labels do not seem to mean the classes that scores are of."""
    reference = runtime.graph.reference
    unsealed = trace.take(trace.opening[: trace.unsealed])
    found = doubts(unsealed.scores, unsealed.labels, reference)
    if any(sentence.startswith(f"stage '{reference}'") for sentence in found):
        first = next(examples.batches(_TOGETHER), NOTHING)
        if first.labels is not None and len(first.labels) >= FEWEST:
            found += _better_outputs(runtime, first.x, first.labels)
    return found


def _better_outputs(runtime: Stages, x: AnyArray, labels: IntArray) -> list[str]:
    """Says so where another output of the reference fits the labels."""
    reference = runtime.graph.reference
    name = whole(reference) if whole(reference) in runtime.parts else reference
    part, others = runtime.parts[name], list(runtime.parts[name].outputs)[1:]
    if len(part.inputs) != 1 or name not in runtime.speaking or not others:
        return []
    for name, scores in part(dict.fromkeys(part.inputs, x), others).items():
        if scores.ndim != 2 or len(scores) != len(labels) or scores.shape[1] <= labels.max():
            continue
        if scores.dtype.kind == "f" and judge(scores, labels) is None:
            error = float((scores.argmax(axis=1) != labels).mean())
            return [
                f"another output of '{reference}', '{name}', is wrong about {error:.1%} of the "
                f"first {len(labels)} examples: export the network with its scores as first output."
            ]
    return []


def _now() -> str:
    return datetime.now(UTC).isoformat("T", "seconds")


def blank(trace: Trace, batch: int) -> AnyArray:
    """Zeros like a request of so many recorded examples, (batch, ...): time depends on no values.

    Raises:
        TraceError: the scores were imported, or recorded before inputs were described.
    """
    if "input" not in trace.info:
        raise TraceError(
            "the trace does not say what its networks read, so requests cannot be timed. "
            "Make it with `offramp record`."
        )
    found = trace.info["input"]
    return np.zeros((batch, *found["shape"]), dtype=found["dtype"])
