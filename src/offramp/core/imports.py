"""Traces of scores that were recorded elsewhere."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from offramp.base.arrays import AnyArray
from offramp.base.errors import CostError, InputError, ScoresError
from offramp.base.files import fingerprint
from offramp.core import tasks
from offramp.core.frames import FrameOptions, framed
from offramp.core.graph import Costs, Graph, Stage
from offramp.core.meaning import DoubtfulLabels, doubts
from offramp.core.parts import read_npz, unread, versions
from offramp.core.rows import RowFacts, checked_seal
from offramp.core.tables import ENDINGS, read_table
from offramp.core.task import SINGLE, Task, task_named
from offramp.core.tasks import Kind
from offramp.core.trace import Trace, assemble, of_frame


def import_scores(
    path: str | Path,
    costs: Costs | None = None,
    *,
    stages: Iterable[Stage] | None = None,
    edges: str | None = None,
    reference: str | None = None,
    kind: Kind | None = None,
    seal: float | None = None,
    task: str | Task = SINGLE,
) -> Trace:
    """The trace of scores that were recorded elsewhere.

    Args:
        path: a .parquet or .csv with columns as in `offramp.core.frames`; or an .npz with `labels`
            (n,), an array (n, classes) per stage, and perhaps `<stage>.loss` (n,).
        costs: what each stage costs by itself, never cumulative. A table may have columns of them,
            in the unit of these.
        stages: which of them, and which continues which; None: all, each a network of its own.
        edges: "a>b,b>c"; None makes a chain.
        reference: None takes the last stage.
        kind: what all scores are; None finds out, stage by stage.
        seal: as in `assemble`.
        task: what scores and labels mean.

    Raises:
        InputError: a kind of it for what cannot be read, does not fit or is missing.

    Warns:
        DoubtfulLabels: labels seem to mean other classes; the reference is no better than chance.
    """
    path = Path(path)
    meant = task_named(task)
    wanted = FrameOptions(stages=stages, costs=costs, edges=edges, reference=reference, task=meant)
    read = _tabled if path.suffix in ENDINGS else _archived
    trace = read(path, wanted, kind, checked_seal(seal))
    for sentence in [] if trace.loss else _doubts(trace):
        warnings.warn(sentence, DoubtfulLabels, stacklevel=2)
    return trace


def _tabled(path: Path, options: FrameOptions, kind: Kind | None, seal: float | None) -> Trace:
    """The trace of a table in a file."""
    info = {"data": fingerprint(path), "versions": versions()}
    return of_frame(framed(read_table(path), options), kind=kind, info=info, seal=seal)


def _archived(path: Path, options: FrameOptions, kind: Kind | None, seal: float | None) -> Trace:
    """The trace of an archive of arrays."""
    costs = options.costs
    if costs is None or not costs.body:
        raise CostError("give a cost for each stage of the archive: --cost small=1,big=4.")
    arrays = read_npz(path)
    label = _check_stages(arrays, costs, path.name)
    graph = Graph.build(options.stages or costs.body, options.edges, options.reference)
    made = _assembled(path, arrays, label, costs, graph, kind, options.task)
    return replace(made, seal=seal)


def _assembled(
    path: Path,
    arrays: Mapping[str, AnyArray],
    label: str | None,
    costs: Costs,
    graph: Graph,
    kind: Kind | None,
    task: Task,
) -> Trace:
    labels = None if label is None else arrays[label]
    if labels is not None and task == SINGLE:
        labels = tasks.whole_labels(labels, path.name)
    losses = {f"{stage}.loss": stage for stage in costs.body}
    return assemble(
        graph,
        costs,
        arrays,
        labels=labels,
        kind=kind,
        facts=RowFacts(loss={losses[n]: a for n, a in arrays.items() if n in losses}, task=task),
        info=_about(path, arrays, [label, *costs.body], losses),
    )


def _about(
    path: Path,
    arrays: Mapping[str, AnyArray],
    read: Sequence[str | None],
    losses: Mapping[str, str],
) -> dict[str, Any]:
    """What the trace says of the archive, and of what nothing in it reads."""
    used = [*read, *losses]
    left = [*unread(arrays, used, path.name), *_meant(set(arrays) - {*used}, losses)]
    return {"data": fingerprint(path), "versions": versions(), "left_aside": left}


def _check_stages(arrays: Mapping[str, AnyArray], costs: Costs, name: str) -> str | None:
    """The array of labels. Raises where what has a cost and what has scores are not the same."""
    label = next((n for n in tasks.LABELS if n in arrays and n not in costs.body), None)
    scored = [key for key, array in arrays.items() if array.ndim >= 2 and key != label]
    for stage in costs.body:
        if stage not in arrays:  # before other complaints: its name may be misspelt
            raise ScoresError(
                f"stage '{stage}' has no array in {name}; its stages are {', '.join(scored)}. "
                "Mend the name in --cost, or leave the stage out."
            )
    if missing := sorted(set(scored) - set(costs.body)):
        raise InputError(
            f"stage '{missing[0]}' in {name} has no cost. Add it to --cost, for example "
            f"--cost {','.join(f'{stage}=1' for stage in [*costs.body, *missing])}."
        )
    return label


def _doubts(trace: Trace) -> list[str]:
    """Why labels seem to mean other classes than scores, on rows that are not sealed."""
    if trace.task != SINGLE:
        return []
    shown = trace.take(trace.opening[: trace.unsealed])
    return doubts(shown.scores, shown.labels, trace.graph.reference)


def _meant(left: Iterable[str], losses: Mapping[str, str]) -> list[str]:
    """Sentences on arrays that nothing reads but whose names come close to what is read."""
    found = []
    for name in sorted(left):
        stages = [s for s in losses.values() if re.match(rf"{re.escape(s)}[._:/ -]", name)]
        near = difflib.get_close_matches(name, ["labels", *losses], n=1, cutoff=0.8)
        if stages or near:
            meant = f"{max(stages, key=len)}.loss" if stages else near[0]
            what = "the labels are" if meant == "labels" else "a loss of your own is"
            found.append(f"if `{name}` was meant to be read: {what} called `{meant}`")
    return found
