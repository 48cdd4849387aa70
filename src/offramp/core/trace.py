"""What every stage said of every example, and what everything costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray, ArrowTable, FloatArray, IntArray
from offramp.base.checked import checked
from offramp.base.errors import BudgetError, InputError, ScoresError, TraceError
from offramp.base.manifests import check_schema, read_manifest, write_manifest
from offramp.base.outputs import new_folder
from offramp.core import tasks
from offramp.core.example_costs import (
    fixed_costs,
    mean_costs,
    priced_by,
)
from offramp.core.frames import Frame, FrameOptions, framed
from offramp.core.graph import Costs, Graph
from offramp.core.ledger import Ledger, carry
from offramp.core.parts import (
    PART_NUMBERS,
    TRACE,
    TRACE_KEYS,
    TRACE_VERSION,
    Recording,
    TraceManifest,
    read_listed,
    write_part,
)
from offramp.core.rows import (
    NO_FACTS,
    RowFacts,
    array_of,
    check_shapes,
    checked_seal,
)
from offramp.core.scored import ScoredRows as ScoredRows
from offramp.core.tables import table_of
from offramp.core.task import SINGLE, Task, task_named
from offramp.core.task.recorded import RecordedAnswers
from offramp.core.tasks import Excess, Kind, Losses


@dataclass(frozen=True, kw_only=True, repr=False)
class Trace(ScoredRows):
    """Recorded scores of every stage on the same examples, as a folder that is read and written."""

    @checked
    def split(self, share: float, seed: int) -> tuple[IntArray, IntArray]:
        """Rows of a random `share` of the examples, and the other rows, both ascending.

        Raises:
            BudgetError: `share` lies outside (0, 1).
            TraceError: either part would be empty.
        """
        if not 0 < share < 1:
            raise BudgetError(f"the learning share is {share}; it must lie between 0 and 1.")
        order = np.random.default_rng(seed).permutation(self.examples)
        first = round(share * self.examples)
        if not 0 < first < self.examples:
            raise TraceError(
                f"{self.examples} examples cannot be split into learning and certifying; "
                "record more examples."
            )
        return np.sort(order[:first]), np.sort(order[first:])

    @checked
    def losses(self, name: str | None = None, kind: Excess = "net") -> Losses:
        """The losses of every stage under loss `name`.

        Args:
            name: top1, top5, another one of the task, module:function; `disagreement` needs no
                labels; None means the trace's own loss where it has one, else the task's first.
            kind: net or induced excess.

        Raises:
            TraceError: the examples have no labels.
            LossError: no such loss, or values outside [0, 1].
        """
        name = name or (tasks.RECORDED if self.loss else self.task.default_loss)
        values = self._loss_values(name, self.outputs)
        own = self._loss_values(name, self.alone) if self.alone else {}
        return Losses(name, values, self.graph.reference, kind, alone={**values, **own})

    @checked
    def write(self, path: str | Path, *, force: bool = False) -> None:
        """Writes the trace as a folder, whole or not at all.

        Raises:
            InputError: `path` is taken.
            StorageError: it cannot be written.
        """
        path = Path(path)
        with new_folder(path, TRACE, force=force) as folder:
            if force and (path / "trace.json").exists() and self._is_at(path):
                carry(path, folder)  # the same rows stay opened, and looked at
            numbers = sum(values.shape[1] for values in self.scores.values())
            step = max(1, PART_NUMBERS // max(1, numbers))
            for part, start in enumerate(range(0, self.examples, step)):
                rows = slice(start, start + step)
                write_part(folder, part, self.take(rows).columns(start))
            write_manifest(folder, "trace", self.manifest())

    def _is_at(self, path: Path) -> bool:
        """Whether a folder holds these examples already."""
        try:
            return Trace.read(path).digest == self.digest
        except InputError:
            return False

    def columns(self, start: int = 0) -> dict[str, AnyArray]:
        """What parts hold: id (from `start` on), label, hash; per stage scores, loss and cost."""
        columns = {"id": np.arange(start, start + self.examples) if self.ids is None else self.ids}
        if self.labels is not None:
            columns["label"] = self.labels
        for stage in self.graph.order:
            if self.scores[stage].shape[1]:  # recorded answers may come with nothing else
                columns[f"{stage}.scores"] = self.scores[stage]
            if self.loss:
                columns[f"{stage}.loss"] = self.loss[stage]
            if self.answers:
                columns[f"{stage}.answer"] = self.answers[stage]
        for stage, cost in (self.example_costs or {}).items():
            columns[f"{stage}.cost"] = cost
        columns["hash"] = self.identity
        return columns if self.taught is None else {**columns, "taught": self.taught}

    def manifest(self) -> dict[str, Any]:
        """What trace.json holds."""
        return {
            "version": TRACE_VERSION,
            "complete": True,
            "examples": self.examples,
            "classes": self.classes,
            "labelled": self.labels is not None,
            "task": str(self.task),
            "graph": self.graph.to_json(),
            **self.costs.to_json(),
            "scores": dict(self.kinds),
            "seal": self.seal,
            "hash_of": self.hash_of,
            **self.info,
        }

    @classmethod
    @checked
    def of(
        cls,
        scores: Mapping[str, AnyArray] | ArrowTable,
        labels: AnyArray | Sequence[int] | None = None,
        *,
        costs: Mapping[str, float | AnyArray] | None = None,
        stages: Sequence[str] | None = None,
        edges: str | None = None,
        reference: str | None = None,
        seal: float | None = None,
        task: str | Task = SINGLE,
    ) -> Trace:
        """A trace from arrays or a table: what each network said of the same examples.

        Args:
            scores: network -> (examples, classes), logits or probabilities, the cheapest first; or
                a table of pandas, polars or Arrow with columns as in `offramp.core.frames`.
            labels: (examples,) class numbers; None: there are none. A table has them in `label`.
            costs: network -> cost per example, each by itself: a number, or (examples,) where it
                differs. Of a table: of networks without a column `<stage>.cost`.
            stages: networks of a table, the cheapest first; None: all, by their mean costs.
            edges: "a>b,a>c"; None: each may be followed by the next.
            reference: the full network; None: the last.
            seal: as in `assemble`.
            task: what scores and labels mean: `single`, `labels`, `regression/SCALE`, ...

        Raises:
            InputError: a kind of it for what does not fit or is missing, or for no such task.
        """
        if not isinstance(scores, Mapping):
            given = None if costs is None else fixed_costs(costs, "unit")
            options = FrameOptions(stages=stages, costs=given, edges=edges, reference=reference)
            return of_frame(framed(table_of(scores), options), seal=seal)
        graph = Graph.build(scores, edges, reference)
        arrays = {name: np.asarray(values) for name, values in scores.items()}
        priced, each = priced_by(costs, len(arrays[graph.root]), "unit")
        known = None if labels is None else np.asarray(labels)
        facts = RowFacts(costs=each, task=task_named(task))
        return assemble(graph, priced, arrays, labels=known, facts=facts, seal=seal)

    @classmethod
    @checked
    def read(cls, path: str | Path) -> Trace:
        """The trace in folder `path`.

        Raises:
            TraceError: no trace, an unfinished one, a newer version, a part that cannot be read.
        """
        path = Path(path)
        manifest = read_manifest(path, "trace", TRACE_VERSION, Recording, TraceError)
        if not manifest["complete"]:
            raise TraceError(
                f"recording {path} was interrupted. Run the same `offramp record` again: "
                "it goes on where it stopped."
            )
        check_schema(path / "trace.json", manifest, TraceManifest, TraceError)
        columns = read_listed(path, manifest)
        try:
            graph = Graph.from_json(manifest["graph"])
            return replace(_assemble(graph, manifest, columns), ledger=Ledger.read(path))
        except (KeyError, TypeError, AttributeError, ValueError) as problem:
            raise TraceError(f"{path} lacks {problem}; record or import it again.") from None


def assemble(
    graph: Graph,
    costs: Costs,
    scores: Mapping[str, AnyArray],
    *,
    labels: AnyArray | None = None,
    kind: Kind | None = None,
    facts: RowFacts = NO_FACTS,
    info: Mapping[str, Any] | None = None,
    seal: float | None = None,
) -> Trace:
    """A trace from arrays, with everything checked.

    Args:
        graph: the stages and edges.
        costs: one cost per stage.
        scores: stage -> (examples, classes), of any kind.
        labels: (examples,) class numbers, or None.
        kind: what all scores are; None finds out, stage by stage.
        facts: what else is known of the examples.
        info: what else trace.json says.
        seal: share of the examples that only certificates may see, in [0, 1); 0: the trace
            certifies nothing of its own; None: all but a third and at most 2,500 examples.

    Raises:
        BudgetError: a seal out of range.
        ScoresError: a stage without scores, wrong rows or classes, NaN, others than `kind`.
        DataError, CostError, LossError: labels, costs or losses that do not fit.
        TraceError: no examples, or two of the same name.
    """
    costs = graph.check_costs(costs)
    task = facts.task
    checked = _checked(graph, scores, kind, task)
    examples, classes = checked[graph.root].shape
    facts.check_ids(examples)
    known = None if labels is None else task.check_labels(labels, examples, classes)
    kinds = {stage: kind or task.kind_of(values, stage) for stage, values in checked.items()}
    trace = Trace(graph=graph, costs=costs, scores=checked, kinds=kinds, task=task)
    return _with_facts(replace(trace, labels=known, info={**(info or {})}, seal=seal), facts)


def of_frame(
    frame: Frame,
    *,
    kind: Kind | None = None,
    info: Mapping[str, Any] | None = None,
    seal: float | None = None,
) -> Trace:
    """The trace of a table; arguments and errors as in `assemble`."""
    return assemble(
        frame.graph,
        frame.costs,
        frame.scores,
        labels=frame.labels,
        kind=kind,
        facts=frame.facts,
        info={**(info or {}), **frame.info},
        seal=seal,
    )


def _checked(
    graph: Graph, scores: Mapping[str, AnyArray], kind: Kind | None, task: Task
) -> dict[str, FloatArray]:
    """The scores of every stage, known to fit each other, `kind` and the task."""
    if kind not in (None, *task.kinds):
        raise ScoresError(
            f"scores of the task '{task}' are {' or '.join(task.kinds)}, not {kind}; leave "
            "--scores out, or say one of them."
        )
    checked = {s: task.check_outputs(array_of(scores, s), s) for s in graph.order}
    check_shapes(checked, alike=task.alike)
    if kind is not None:
        for stage, values in checked.items():
            tasks.check_kind(values, kind, stage)
    return checked


def _with_facts(trace: Trace, facts: RowFacts) -> Trace:
    """The trace with what is known of its rows, and a seal that is a share."""
    each = facts.checked_costs([stage.name for stage in trace.graph.stages], trace.examples)
    known = replace(
        trace,
        costs=mean_costs(each, trace.costs.unit) if each else trace.costs,
        example_costs=each,
        ids=facts.ids,
        loss=facts.checked_loss(trace.graph.order, trace.examples),
        answers=facts.checked_answers(trace.graph.order, trace.examples),
        hash_of=facts.hash_of,
        taught=facts.taught,
        seal=checked_seal(trace.seal),
    )
    return replace(known, hashes=known.identity if facts.hashes is None else facts.hashes)


def _assemble(graph: Graph, manifest: Mapping[str, Any], columns: Mapping[str, AnyArray]) -> Trace:
    kinds, costs = manifest["scores"], Costs.from_json(manifest)
    each = {s.name: f"{s.name}.cost" for s in graph.stages if costs.examples}
    task = task_named(manifest.get("task", SINGLE.name))
    loss, answers, scores = (
        {n: columns[f"{n}.{what}"] for n in graph.order if f"{n}.{what}" in columns}
        for what in ("loss", "answer", "scores")
    )
    if isinstance(task, RecordedAnswers):
        nothing = np.empty((len(columns["id"]), 0), np.float32)
        scores = {name: scores.get(name, nothing) for name in graph.order}
    trace = assemble(
        graph,
        costs,
        scores,
        labels=columns.get("label"),
        kind=task.kinds[0],
        facts=RowFacts(
            ids=columns.get("id"),
            loss=loss,
            hashes=columns.get("hash"),
            taught=columns.get("taught"),
            task=task,
            answers=answers,
            costs={stage: columns[name] for stage, name in each.items() if name in columns},
        ),
        info={key: value for key, value in manifest.items() if key not in TRACE_KEYS},
        seal=manifest.get("seal"),
    )
    return replace(
        trace,
        kinds={name: kinds[name] for name in graph.order},
        hash_of=manifest.get("hash_of", "scores"),
    )
