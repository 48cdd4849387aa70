"""Networks and examples to a trace: every stage runs once on every example, and is timed.

A recording grows part by part; one that was interrupted goes on where it stopped and loses at most
the part in hand.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from offramp.base.errors import TraceError
from offramp.base.fields import Fields, X
from offramp.base.files import fingerprint
from offramp.base.manifests import write_manifest
from offramp.base.progress import Progress, silent
from offramp.core.graph import Costs
from offramp.core.ledger import Ledger
from offramp.core.meaning import DoubtfulLabels
from offramp.core.parts import part_path, read_parts, versions, write_part
from offramp.core.rows import RowFacts, check_order, checked_seal
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import Kind
from offramp.core.trace import Trace, assemble
from offramp.networks.data import Examples
from offramp.networks.inputs import Inputs, inputs_from_json, inputs_to_json
from offramp.networks.networks import Networks
from offramp.recording.independence import Judge, RowsDepend
from offramp.recording.labels import label_doubts
from offramp.recording.measure import recorded_costs
from offramp.recording.resume import begun, note
from offramp.recording.running import Recorder, recorded_inputs, shown_kinds
from offramp.runtime.stages import Stages

_PART = 2048  # examples per part, about


@dataclass(frozen=True, kw_only=True)
class RecordOptions:
    """How a recording is made."""

    batch: int = 64  # rows per call, also where costs are measured
    threads: int = 1
    sizes: tuple[int, ...] = ()  # further rows per call to measure costs at
    seal: float | None = None  # share of the rows that only certificates may see; see `assemble`
    kind: Kind | None = None  # what all scores are; None finds out once all are there
    task: Task | None = None  # what scores and labels mean; None: as the graph says
    graph_folder: Path | None = None  # where networks were read from, for `fit` to find them again

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
    options: RecordOptions,
    *,
    costs: Costs | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Trace:
    """Runs every stage once on every example, measures costs, and writes the trace.

    Args:
        networks: what to run.
        runtime: that runs them.
        examples: in a fixed order.
        out: folder of the trace; an interrupted recording of the same that it holds is continued.
        options: batch size, threads and so on.
        costs: what every stage costs, in any unit; None: they are measured.
        force: start again.
        progress: called with what is done, how much of it, and how much there is.

    Raises:
        InputError: `out` is taken, or holds another recording; the graph is for another task.
        ScoresError, DataError, NetworkError: a stage or the examples cannot be used.
        StorageError: it cannot be written; what was recorded before is kept.
    """
    recording = _Recording(
        networks=networks,
        runtime=runtime,
        examples=examples,
        options=options,
        tell=progress or silent,
    )
    trace = recording.run(out, costs, force)
    for sentence in label_doubts(runtime, trace, examples) if trace.task == SINGLE else ():
        warnings.warn(sentence, DoubtfulLabels, stacklevel=2)
    return trace


@dataclass(frozen=True, kw_only=True)
class _Recording:
    """What is run on which examples."""

    networks: Networks
    runtime: Stages
    examples: Examples
    options: RecordOptions
    tell: Progress

    @property
    def task(self) -> Task:
        return self.networks.task_for(self.options.task)

    def run(self, out: Path, costs: Costs | None, force: bool) -> Trace:
        if not self.examples.examples:
            raise TraceError("there are no examples to record; give at least a few hundred.")
        costs = costs and self.networks.graph.check_costs(costs)
        check_order(self.examples.classes, self.networks.class_names)
        self.tell("comparing rows together and alone", 0, 1)
        judge = Judge.of(self.networks)
        recorder = Recorder(self.networks, self.runtime, judge, self.options.kind, task=self.task)
        notes = recorder.compared(self.examples, self.options.batch)
        _warn(notes)
        identity = self._identity()
        with begun(out, identity, force) as prints:
            differing = self._write(recorder, out, identity, prints)
            if not notes:
                _warn(differing)
            noted = {**identity, "notes": notes or differing}
            return self._finish(out, noted, costs, prints)

    def _write(
        self, recorder: Recorder, out: Path, identity: Mapping[str, Any], prints: dict[str, str]
    ) -> list[str]:
        """Writes the parts that are missing, whose fingerprints it adds to `prints`.

        Returns what to say of stages whose rows depend on each other.
        """
        options, total, done = self.options, self.examples.examples, len(prints)
        notes: list[str] = []
        seen = done * options.part
        self.tell("recording", min(seen, total), total)
        batches = self.examples.batches(options.batch, seen)
        for first in batches:
            part = recorder.part(chain([first], islice(batches, options.batches_per_part - 1)))
            write_part(out, done, part.columns, part.metadata)
            notes = notes or part.notes
            path = part_path(out, done)
            prints[path.name] = fingerprint(path)
            note(out, identity, prints)
            done, seen = done + 1, min(seen + options.part, total)
            self.tell("recording", seen, total)
        return notes

    def _identity(self) -> dict[str, Any]:
        """What an interrupted recording must share with the one that continues it."""
        networks, examples, options = self.networks, self.examples, self.options
        folder, names = options.graph_folder, examples.classes or networks.class_names
        return {
            "graph": networks.graph.to_json(),
            "graph_folder": None if folder is None else str(folder.resolve()),
            "networks": networks.fingerprints(),
            "preprocessing": networks.preprocessing and networks.preprocessing.to_json(),
            "data": examples.fingerprint,
            **({"class_names": list(names)} if names else {}),
            "given": examples.examples,
            "engine": self.runtime.engine.title,
            "batch": options.batch,
            "threads": options.threads,
            "seal": checked_seal(options.seal),
            "kind": options.kind,
            "task": str(self.task),
        }

    def _first(self) -> Fields:
        """The inputs of the first batch that can be read."""
        batches = self.examples.batches(self.options.batch)
        first = next((batch for batch in batches if len(batch)), None)
        if first is None:
            raise TraceError("none of the examples can be read: there is nothing to record.")
        return first.whole().fields

    def _costs(self, x: Fields, classes: int) -> Costs:
        """What every stage costs, measured on some inputs."""
        options = self.options
        sizes = (options.batch, *options.sizes)
        graph = self.networks.graph
        return recorded_costs(self.runtime, graph, x, classes, sizes, options.threads, self.tell)

    def _finish(
        self, out: Path, identity: Mapping[str, Any], costs: Costs | None, prints: Mapping[str, str]
    ) -> Trace:
        """The whole trace, whose manifest it writes."""
        graph, x, columns = self.networks.graph, self._first(), read_parts(out)
        classes = columns[f"{graph.root}.scores"].shape[1]
        kept = {key: value for key, value in identity.items() if key not in _APART}
        inputs = inputs_to_json(recorded_inputs(out, x))
        trace = assemble(
            graph,
            self._costs(x, classes) if costs is None else costs,
            {stage: columns[f"{stage}.scores"] for stage in graph.order},
            labels=columns.get("label"),
            kind=self.options.kind,
            facts=RowFacts(
                ids=columns["id"],
                hashes=columns["hash"],
                taught=columns.get("taught"),
                task=self.task,
            ),
            info={**kept, "input": inputs, "versions": versions(), "created": _now()},
            seal=self.options.seal,
        )
        if self.options.kind is None:
            trace = replace(trace, kinds={**trace.kinds, **shown_kinds(self.networks, trace)})
        write_manifest(out, "trace", trace.manifest(), prints)
        return replace(trace, ledger=Ledger.read(out))


_APART = ("graph", "seal", "kind", "task")  # what a trace says in its own words


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        warnings.warn(sentence, RowsDepend, stacklevel=4)


def _now() -> str:
    return datetime.now(UTC).isoformat("T", "seconds")


def blank(trace: Trace, batch: int) -> Fields:
    """Zeros like a request of so many recorded examples, by field: time depends on no values.

    Raises:
        TraceError: the scores were imported, or recorded before inputs were described.
    """
    if "input" not in trace.info:
        raise TraceError(
            "the trace does not say what its networks read, so requests cannot be timed. "
            "Make it with `offramp record`."
        )
    found = inputs_from_json(trace.info["input"])
    each = {X: found} if isinstance(found, Inputs) else found
    return {name: np.zeros((batch, *own.shape), own.dtype) for name, own in each.items()}
