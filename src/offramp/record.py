"""Networks and examples to a trace: every stage runs once on every example, and is timed.

A recording grows part by part; one that was interrupted goes on where it stopped and loses at most
the part in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from offramp.arrays import AnyArray, FloatArray
from offramp.data import Batch, Examples
from offramp.errors import InputError, ScoresError, TraceError
from offramp.files import fingerprint, remove
from offramp.graph import Costs
from offramp.manifests import PRINTS, read_manifest, write_manifest
from offramp.measure import source, stage_costs
from offramp.networks import Networks
from offramp.outputs import check_output, new_folder, only_one
from offramp.runtime.driver import Runtime
from offramp.trace import (
    TRACE,
    VERSION,
    Recording,
    Trace,
    assemble,
    part_path,
    parts,
    read_parts,
    table,
    versions,
    write_part,
)

Progress = Callable[[int, int], None]
_PART = 2048  # examples per part, about


@dataclass(frozen=True)
class Settings:
    """How a recording is made."""

    batch: int = 64  # rows per call, also where costs are measured
    threads: int = 1

    @property
    def batches_per_part(self) -> int:
        return max(1, _PART // self.batch)

    @property
    def part(self) -> int:
        """Examples per part: whole batches, so that a resumed recording cuts batches alike."""
        return self.batch * self.batches_per_part


def record(
    networks: Networks,
    runtime: Runtime,
    examples: Examples,
    out: Path,
    settings: Settings,
    *,
    graph_folder: Path | None = None,
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
        force: start again where `out` holds another recording.
        progress: called with examples done and examples in all.

    Returns:
        The trace.

    Raises:
        InputError: `out` is taken, or holds an interrupted recording of something else.
        ScoresError, DataError, NetworkError: a stage or the examples cannot be used.
        StorageError: it cannot be written; what was recorded before is kept.
    """
    if not examples.examples:
        raise TraceError("there are no examples to record; give at least a few hundred.")
    identity = _identity(networks, examples, settings, graph_folder)
    with _begun(out, identity, force) as prints:
        x = _record(networks, runtime, examples, out, settings, identity, prints, progress)
        return _finish(networks, runtime, out, identity, settings, x, prints)


def _record(
    networks: Networks,
    runtime: Runtime,
    examples: Examples,
    out: Path,
    settings: Settings,
    identity: Mapping[str, Any],
    prints: dict[str, str],
    progress: Progress,
) -> AnyArray:
    """Writes the parts that are missing, whose fingerprints it adds; gives the first inputs."""
    done = len(prints)
    first: AnyArray | None = None
    progress(min(done * settings.part, examples.examples), examples.examples)
    batches = examples.batches(settings.batch, done * settings.part)
    seen = done * settings.part
    while group := list(islice(batches, settings.batches_per_part)):
        write_part(out, done, _part(networks, runtime, group))
        part = part_path(out, done)
        prints[part.name] = fingerprint(part)
        _note(out, identity, prints)
        first = group[0].x if first is None else first
        done, seen = done + 1, min(seen + settings.part, examples.examples)
        progress(seen, examples.examples)
    if first is None or not len(first):
        first = next((b.x for b in examples.batches(settings.batch) if len(b.x)), None)
    if first is None:
        raise TraceError("none of the examples can be read, so that there is nothing to record.")
    return first


def _identity(
    networks: Networks, examples: Examples, settings: Settings, graph_folder: Path | None
) -> dict[str, Any]:
    """What an interrupted recording must share with the one that continues it."""
    return {
        "graph": networks.graph.to_json(),
        "graph_folder": None if graph_folder is None else str(graph_folder.resolve()),
        "networks": networks.fingerprints(),
        "preprocessing": networks.preprocessing and networks.preprocessing.to_json(),
        "data": examples.fingerprint,
        "given": examples.examples,
        "batch": settings.batch,
        "threads": settings.threads,
    }


@contextmanager
def _begun(out: Path, identity: Mapping[str, Any], force: bool) -> Iterator[dict[str, str]]:
    """Makes `out` ready, keeps others from it, and gives the fingerprints of the parts it holds."""
    if force or not (out / "trace.json").exists():
        with new_folder(out, TRACE, force=force) as folder:  # it is never without a manifest
            _note(folder, identity, {})
    with only_one(out):
        # read again here: whoever wrote it a moment ago may have ended since
        value = read_manifest(out, "trace", VERSION, Recording, TraceError)
        if value["complete"]:
            check_output(out, False, TRACE)  # says that it exists already
        yield _continued(out, value, identity)


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


def _part(networks: Networks, runtime: Runtime, group: list[Batch]) -> Any:
    """The rows of one part."""
    graph = networks.graph
    scores: dict[str, list[FloatArray]] = {stage: [] for stage in graph.order}
    kept = [batch for batch in group if len(batch.x)]
    for batch in kept:
        running = runtime.begin(batch.x)
        for stage in graph.order:
            running.advance(stage, None)
            found = running.answer(stage, None)
            _check_rows(stage, found, batch)
            scores[stage].append(found)
    free = Costs(dict.fromkeys(graph.order, 1.0), dict.fromkeys(graph.order, 0.0))
    labelled = all(batch.labels is not None for batch in kept)
    return table(
        assemble(
            graph,
            free,
            {stage: np.concatenate(found) for stage, found in scores.items()},
            labels=np.concatenate([b.labels for b in kept if b.labels is not None])
            if labelled
            else None,
            kind="logits",
            ids=np.concatenate([batch.ids for batch in kept]),
        )
    )


def _check_rows(stage: str, scores: FloatArray, batch: Batch) -> None:
    """Names the example whose scores are broken, which `assemble` cannot."""
    if scores.ndim != 2 or len(scores) != len(batch.x):
        raise ScoresError(
            f"stage '{stage}' gave scores of shape {scores.shape} for {len(batch.x)} examples; "
            "it must give one row of scores per example."
        )
    broken = ~np.isfinite(scores).all(axis=1)
    if broken.any():
        raise ScoresError(
            f"stage '{stage}' gave NaN or infinite scores for example {batch.ids[broken][0]}. "
            "Check its input and the network; leave the example out if it is broken."
        )


def _finish(
    networks: Networks,
    runtime: Runtime,
    out: Path,
    identity: Mapping[str, Any],
    settings: Settings,
    x: AnyArray,
    prints: Mapping[str, str],
) -> Trace:
    graph = networks.graph
    costs = stage_costs(runtime, graph, x, settings.batch, source(settings.batch, settings.threads))
    columns = read_parts(out)
    info = {key: value for key, value in identity.items() if key != "graph"}
    trace = assemble(
        graph,
        costs,
        {stage: columns[f"{stage}.scores"] for stage in graph.order},
        labels=columns.get("label"),
        ids=columns["id"],
        info={
            **info,
            "input": {"shape": list(x.shape[1:]), "dtype": str(x.dtype)},
            "versions": versions(),
            "created": _now(),
        },
    )
    write_manifest(out, "trace", trace.manifest(), prints)
    return replace(trace, ids=columns["id"])


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
