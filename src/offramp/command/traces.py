"""Commands that make and change traces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from offramp.base.outputs import check_output
from offramp.command import completing, parsing
from offramp.command.options import (
    Data,
    Edges,
    EngineOption,
    Force,
    Json,
    Out,
    Reference,
    SkipBroken,
    TaskName,
    Threads,
)
from offramp.command.terminal import examples_of, given, messages, progress
from offramp.core.costs import Costs
from offramp.core.frames import UNIT
from offramp.core.imports import import_scores
from offramp.core.parts import TRACE
from offramp.core.task import SINGLE, task_named
from offramp.core.tasks import Kind
from offramp.core.trace import Trace
from offramp.networks.folders import listed
from offramp.networks.networks import Networks
from offramp.recording.record import RecordOptions
from offramp.recording.record import record as record_trace
from offramp.recording.reprice import have_example_costs
from offramp.recording.reprice import reprice as reprice_trace
from offramp.runtime import Stages

ScoresFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="SCORES.npz: labels (n,), and (n, classes) per stage; or .parquet, .csv: columns "
        "<stage>.scores, .loss or .quality, .cost, .answer, label, id.",
    ),
]
PRICES = (
    "small=41,big=126, each by itself; e1=40+2,e2=41 are exits: body + head; "
    "e2.whole=80 is their network uncut."
)
StageCosts = Annotated[str, typer.Option(help=PRICES, autocompletion=completing.cost)]
ImportedCosts = Annotated[
    str | None,
    typer.Option(
        help=f"{PRICES} Default: columns <stage>.cost of a table.", autocompletion=completing.cost
    ),
]
ImportedStages = Annotated[
    str | None,
    typer.Option(help="small,big: stages of a table, cheapest first. Default: all, by mean cost."),
]
RecordedCosts = Annotated[
    str | None,
    typer.Option(help=f"{PRICES} Default: measured seconds.", autocompletion=completing.cost),
]
ScoresKind = Annotated[
    Kind | None,
    typer.Option("--scores", help="What the scores of all stages are. Default: finds out."),
]
Seal = Annotated[
    float | None,
    typer.Option(
        help="Share that only certificates may see; 0: none. Default: all but a third, or 2,500."
    ),
]


def record(
    graph: Annotated[Path, typer.Argument(help="Folder made by `offramp graph`.")],
    data: Data,
    out: Out,
    batch: Annotated[
        str,
        typer.Option(
            help="Examples per call; costs are measured at each, rows run in the largest."
        ),
    ] = "1,64",
    threads: Threads = 1,
    engine: EngineOption = "onnxruntime",
    seal: Seal = None,
    cost: RecordedCosts = None,
    cost_unit: Annotated[str, typer.Option(help="Of --cost: USD, J, ...")] = "unit",
    scores_kind: ScoresKind = None,
    task: TaskName = None,
    skip_broken: SkipBroken = False,
    json_: Json = False,
    force: Force = False,
) -> None:
    """Run every stage once on every example and measure costs; goes on after an interruption."""
    sizes = parsing.batches(batch)
    if force:
        check_output(out, force, TRACE, given(graph, data))
    networks = Networks.read(graph)
    meant = networks.task_for(None if task is None else task_named(task))
    examples = examples_of(
        data, networks.preprocessing, skip_broken, fields=networks.fields, task=meant
    )
    if examples.classes:
        messages.print(f"classes: {listed(examples.classes)}", markup=False)
    runtime = Stages(networks.files, networks.graph, engine=engine, threads=threads)
    with progress() as step:
        trace = record_trace(
            networks,
            runtime,
            examples,
            out,
            RecordOptions(
                batch=max(sizes),
                threads=threads,
                sizes=tuple(sizes),
                seal=seal,
                kind=scores_kind,
                task=meant,
                graph_folder=graph,
            ),
            costs=parsing.costs(cost, cost_unit) if cost else None,
            force=force,
            progress=step,
        )
    skipped = examples.examples - trace.examples
    if skipped:
        messages.print(f"left out {skipped} images that do not decode")
    doubts = [] if scores_kind else trace.doubts(networks.kinds)
    said = [*examples.remarks, *doubts, *trace.other_classes()]
    for sentence in said:
        messages.print(sentence, markup=False)
    messages.print(f"{out}: {trace.examples} examples, {trace.costs.source}")
    _say(trace, json_)


def import_(
    scores: ScoresFile,
    out: Out,
    cost: ImportedCosts = None,
    cost_unit: Annotated[
        str | None, typer.Option(help="s, tokens, USD, ... Default: MFLOP; of columns unit.")
    ] = None,
    stages: ImportedStages = None,
    edges: Edges = None,
    reference: Reference = None,
    scores_kind: ScoresKind = None,
    task: TaskName = None,
    seal: Seal = None,
    json_: Json = False,
    force: Force = False,
) -> None:
    """Make a trace of scores or answers that were recorded elsewhere."""
    check_output(out, force, TRACE, [scores])
    costs = Costs({}, {}, cost_unit or UNIT)
    if cost is not None:
        costs = parsing.costs(cost, cost_unit or "MFLOP")
    with progress() as step:
        step("reading scores", 0, 2)
        trace = import_scores(
            scores,
            costs,
            stages=parsing.chosen(stages, cost),
            edges=edges,
            reference=reference,
            kind=scores_kind,
            seal=seal,
            task=task or SINGLE,
        )
        step("writing the trace", 1, 2)
        trace.write(out, force=force)
    for sentence in [*trace.info["left_aside"], *([] if scores_kind else trace.doubts())]:
        messages.print(sentence, markup=False)
    messages.print(f"{out}: {trace.examples} examples, {' '.join(trace.graph.order)}")
    _say(trace, json_)


def _say(trace: Trace, as_json: bool) -> None:
    """What was recorded, where it is asked for."""
    if not as_json:
        return
    value = {
        "examples": trace.examples,
        "classes": trace.classes,
        "task": str(trace.task),
        "stages": list(trace.graph.order),
        "reference": trace.graph.reference,
        "scores": dict(trace.kinds),
        **trace.costs.to_json(),
    }
    print(json.dumps(value, allow_nan=False))


def reprice(
    trace: Annotated[Path, typer.Argument(help="Folder made by `record` or `import`.")],
    cost: StageCosts,
    out: Out,
    cost_unit: Annotated[str, typer.Option(help="USD, J, s of another machine, ...")] = "unit",
    force: Force = False,
) -> None:
    """Give a trace costs of another kind; everything else in it stays as it is."""
    check_output(out, force, TRACE, given(trace))
    differed = have_example_costs(trace)
    costs = reprice_trace(trace, parsing.costs(cost, cost_unit), out, force=force)
    messages.print(f"{out}: the costs of {' '.join(costs.body)} in {costs.unit}, {costs.source}")
    if differed:
        messages.print("costs per example are replaced: every example costs the same now")
