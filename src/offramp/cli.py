"""The command line: it parses, calls the library, prints, and sets the exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Annotated, Any, Literal

import typer
from rich.console import Console, Group
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from offramp._version import __version__
from offramp.base.errors import InputError, OfframpError, OfframpWarning, reason
from offramp.base.outputs import check_output
from offramp.command import parsing, tables
from offramp.command.answers import ANSWERS, AnswerFile, stream
from offramp.core.imports import import_scores
from offramp.core.tasks import Excess, Kind, is_own
from offramp.core.trace import TRACE, Trace
from offramp.exits import Settings as ExitSettings
from offramp.exits import add_exits, candidates
from offramp.export import write_file, write_folder
from offramp.export.folder import EXPORTED as EXPORTED_FOLDER
from offramp.export.seal import EXPORTED
from offramp.learn.teach import AUTO
from offramp.networks.data import NOTHING, Examples, open_examples
from offramp.networks.folders import listed
from offramp.networks.networks import GRAPH, Networks, combine, recorded_networks
from offramp.networks.preprocessing import Preprocessing
from offramp.plan.evaluate import evaluate as evaluate_plan
from offramp.plan.fit import Choices, draft, fit_each
from offramp.plan.needs import needs as examples_needs
from offramp.plan.plan import PLAN, Plan, write_plans
from offramp.promise.certify import KEEP
from offramp.promise.pvalues import POWER
from offramp.promise.split import Repeats
from offramp.recording.independence import check_made_up
from offramp.recording.measure import latency as measure_latency
from offramp.recording.record import Settings, blank
from offramp.recording.record import record as record_trace
from offramp.recording.reprice import reprice as reprice_trace
from offramp.runtime import OnnxRuntime
from offramp.runtime.session import Device
from offramp.study.bench import EXAMPLES, REQUESTS
from offramp.study.bench import bench as bench_plan
from offramp.study.compare import compare as compare_policies

app = typer.Typer(
    name="offramp",
    help="Run just enough network for each input, and keep the accuracy you promised.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
messages = Console(stderr=True, highlight=False, markup=False)
output = Console(highlight=False)

# what typer raises for a wrong option, whichever command-line library it brings along
_UsageError: type[Exception] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)


Out = Annotated[Path, typer.Option("--out", help="Where to write.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing output of offramp.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")]
Data = Annotated[
    str, typer.Option("--data", help=".npz, Parquet, a folder of images, or hf:NAME[:SPLIT].")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each network.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Examples per call.")]
SkipBroken = Annotated[
    bool, typer.Option("--skip-broken", help="Leave out images that do not decode, and count them.")
]
Edges = Annotated[str | None, typer.Option(help='"a>b,a>c,b>c". Default: a chain.')]
Reference = Annotated[str | None, typer.Option(help="The full network. Default: the last one.")]
Size = Annotated[str | None, typer.Option(help="Of images: 32, or 240x320 (height x width).")]
Mean = Annotated[str | None, typer.Option(help="Of pixel / 255, per channel. Default: 0.")]
Std = Annotated[str | None, typer.Option(help="Of pixel / 255, per channel. Default: 1.")]
ScoresFile = Annotated[
    Path, typer.Argument(metavar="SCORES.npz", help="labels (n,), and (n, classes) per stage.")
]
PRICES = (
    "small=41,big=126, each by itself; e1=40+2,e2=41 are exits: body + head; "
    "e2.whole=80 is their network uncut."
)
StageCosts = Annotated[str, typer.Option(help=PRICES)]
ScoresKind = Annotated[
    Kind | None,
    typer.Option("--scores", help="What the scores of all stages are. Default: finds out."),
]
ExcessKind = Annotated[Excess, typer.Option(help="net: gains make up for losses.")]
Unlabelled = Annotated[
    bool, typer.Option("--unlabelled", help="Loss is disagreement with the reference.")
]
AnswersOut = Annotated[
    Path | None, typer.Option("--out", help="A Parquet file. Default: CSV on standard output.")
]
Seal = Annotated[
    float | None,
    typer.Option(
        help="Share that only certificates may see; 0: none. Default: all but a third, or 2,500."
    ),
]
RepeatsKind = Annotated[
    Repeats | None, typer.Option(help="What rows are that repeat others, where many do.")
]
HeadStyle = Literal["auto", "linear", "deep"]
Loss = Annotated[
    str | None, typer.Option(help="top1, top5 (any k) or module:function. Default: top1.")
]


def _version(asked: bool) -> None:
    if asked:
        print(f"offramp {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which this is.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Run just enough network for each input, and keep the accuracy you promised."""


@app.command(epilog="Example: offramp demo --out offramp-demo")
def demo(
    out: Out = Path("offramp-demo"),
    force: Force = False,
) -> None:
    """The whole journey on handwritten digits, with networks that come along."""
    from offramp.command import demo as journey

    with _progress() as step:
        result = journey.run(out, force=force, progress=step)
    output.print(tables.certificate(result.plan))
    output.print(tables.evaluation(result.evaluation))
    output.print(tables.comparison(result.comparison))
    output.print(tables.bench(result.benches))
    report = f"report: {result.report}" if result.report else f"no report: {result.missing}"
    output.print(report, markup=False)


@app.command(epilog="Example: offramp graph small=a.onnx big=b.onnx --size 32 --out graph")
def graph(
    networks: Annotated[
        list[str], typer.Argument(help="NAME=FILE.onnx, or NAME=GRAPH with exits, cheapest first.")
    ],
    out: Out,
    edges: Edges = None,
    reference: Reference = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    layout: Annotated[str, typer.Option(help="nchw or nhwc.")] = "nchw",
    force: Force = False,
) -> None:
    """Put trained networks into a graph: which may follow which, and what they read."""
    files = parsing.files(networks)
    check_output(out, force, GRAPH, files.values())
    pixels = parsing.preprocessing(size, mean, std, layout)
    described = combine(files, edges, reference, pixels)
    runtime = OnnxRuntime(described.files, described.graph)  # finds out here whether they load
    check_made_up(described, runtime)
    described.write(out, force=force)
    messages.print(
        f"{out}: {' '.join(described.graph.order)}, reference {described.graph.reference}"
    )


@app.command(epilog="Example: offramp exits big.onnx --data train/ --size 32 --out graph")
def exits(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A trained network.")],
    data: Annotated[str | None, typer.Option(help="Labelled examples to train heads on.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write.")] = None,
    at: Annotated[
        str, typer.Option(help="auto; outputs (those it has); or tensors or modules: a,b.")
    ] = "auto",
    list_: Annotated[bool, typer.Option("--list", help="Show the candidate points.")] = False,
    head: Annotated[HeadStyle, typer.Option(help="auto takes the better one.")] = "auto",
    hears: Annotated[bool, typer.Option("--hears", help="Heads read earlier scores.")] = False,
    padding: Annotated[int | None, typer.Option(help="The token that is no token.")] = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    layout: Annotated[str, typer.Option(help="nchw or nhwc.")] = "nchw",
    seed: Annotated[int, typer.Option(min=0, help="Of heads and held-out examples.")] = 0,
    skip_broken: SkipBroken = False,
    force: Force = False,
) -> None:
    """Put early exits into one trained network: where to cut, heads, and which of them pay."""
    pixels = parsing.preprocessing(size, mean, std, layout)
    examples = _examples(data, pixels, skip_broken) if data else None
    if list_:
        output.print(tables.points(candidates(model, examples)))
        return
    if out is None:
        raise InputError("say where to write the graph: --out GRAPH; or look first: --list.")
    check_output(out, force, GRAPH, _given(model, data))
    settings = ExitSettings(
        parsing.points(at), None if head == "auto" else head, hears, padding, seed
    )
    with TemporaryDirectory() as folder, _progress() as step:
        found = add_exits(
            model, examples, settings, Path(folder), preprocessing=pixels, progress=step
        )
        found.networks.write(out, force=force)
    output.print(tables.exits(found))


@app.command(epilog="Example: offramp record graph --data images/ --out trace")
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
    seal: Seal = None,
    cost: Annotated[str | None, typer.Option(help=f"{PRICES} Default: measured seconds.")] = None,
    cost_unit: Annotated[str, typer.Option(help="Of --cost: USD, J, ...")] = "unit",
    scores_kind: ScoresKind = None,
    skip_broken: SkipBroken = False,
    force: Force = False,
) -> None:
    """Run every stage once on every example and measure costs; goes on after an interruption."""
    sizes = parsing.batches(batch)
    if force:
        check_output(out, force, TRACE, _given(graph, data))
    networks = Networks.read(graph)
    examples = _examples(data, networks.preprocessing, skip_broken)
    if examples.classes:
        messages.print(f"classes: {listed(examples.classes)}", markup=False)
    runtime = OnnxRuntime(networks.files, networks.graph, threads=threads)
    with _progress() as step:
        trace = record_trace(
            networks,
            runtime,
            examples,
            out,
            Settings(max(sizes), threads, tuple(sizes), seal, scores_kind),
            graph_folder=graph,
            costs=parsing.costs(cost, cost_unit) if cost else None,
            force=force,
            progress=lambda done, total: step("recording", done, total),
        )
    skipped = examples.examples - trace.examples
    if skipped:
        messages.print(f"left out {skipped} images that do not decode")
    said = [*examples.remarks, *([] if scores_kind else trace.doubts()), *trace.other_classes()]
    for sentence in said:
        messages.print(sentence, markup=False)
    messages.print(f"{out}: {trace.examples} examples, {trace.costs.source}")


@app.command(
    "import", epilog="Example: offramp import scores.npz --cost small=41,big=126 --out trace"
)
def import_(
    scores: ScoresFile,
    cost: StageCosts,
    out: Out,
    cost_unit: Annotated[str, typer.Option(help="MFLOP, s, J, ...")] = "MFLOP",
    edges: Edges = None,
    reference: Reference = None,
    scores_kind: ScoresKind = None,
    seal: Seal = None,
    force: Force = False,
) -> None:
    """Make a trace of scores that were recorded elsewhere."""
    check_output(out, force, TRACE, [scores])
    costs = parsing.costs(cost, cost_unit)
    trace = import_scores(
        scores,
        costs,
        stages=parsing.stages(cost),
        edges=edges,
        reference=reference,
        kind=scores_kind,
        seal=seal,
    )
    trace.write(out, force=force)
    for sentence in [*trace.info["left_aside"], *([] if scores_kind else trace.doubts())]:
        messages.print(sentence, markup=False)
    messages.print(f"{out}: {trace.examples} examples, {' '.join(trace.graph.order)}")


@app.command(epilog="Example: offramp reprice trace --cost small=1,big=4 --out priced")
def reprice(
    trace: Annotated[Path, typer.Argument(help="Folder made by `record` or `import`.")],
    cost: StageCosts,
    out: Out,
    cost_unit: Annotated[str, typer.Option(help="USD, J, s of another machine, ...")] = "unit",
    force: Force = False,
) -> None:
    """Give a trace costs of another kind; everything else in it stays as it is."""
    check_output(out, force, TRACE, _given(trace))
    costs = reprice_trace(trace, parsing.costs(cost, cost_unit), out, force=force)
    messages.print(f"{out}: the costs of {' '.join(costs.body)} in {costs.unit}, {costs.source}")


@app.command(epilog="Example: offramp fit trace --budget 0.005 --out plan")
def fit(
    trace: Annotated[Path, typer.Argument(help="Folder made by `record` or `import`.")],
    budget: Annotated[
        str, typer.Option(help="Accuracy given up; 0.005 is half a point. Several: 0.005,0.01.")
    ],
    out: Out,
    confidence: Annotated[float, typer.Option(help="Chance that the promise holds.")] = 0.95,
    excess: ExcessKind = "net",
    loss: Loss = None,
    unlabelled: Unlabelled = False,
    policy: Annotated[str, typer.Option(help="What decides; auto chooses.")] = AUTO,
    pool: Annotated[
        bool, typer.Option("--pool", help="Find who takes part, in which order; edges don't count.")
    ] = False,
    committees: Annotated[
        bool, typer.Option(help="Stages may answer with all scores paid for, where it helps.")
    ] = True,
    refit: Annotated[
        bool, typer.Option("--refit", help="Mend scores on labels; the reference's as well.")
    ] = False,
    learn_share: Annotated[
        float | None, typer.Option(help="Part of TRACE to learn from. Default: what is not sealed.")
    ] = None,
    repeats: RepeatsKind = None,
    looks: Annotated[
        int, typer.Option(min=1, help="Looks at the sealed rows that share the error.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
    certify: Annotated[
        Path | None, typer.Option(help="Certify on this trace; learn from all of TRACE.")
    ] = None,
    graph: Annotated[Path | None, typer.Option(help="Networks, for imported scores.")] = None,
    batch: Annotated[
        str | None,
        typer.Option(help="Cost is the time of requests of so many examples: 64 or 1,64."),
    ] = None,
    threads: Threads = 1,
    json_: Json = False,
    force: Force = False,
) -> None:
    """Learn a policy, certify the budget, and write the plan. Exit code 1: keep the reference."""
    check_output(out, force, PLAN, _given(trace, certify, graph))
    sizes = parsing.batches(batch) if batch else []
    read = Trace.read(trace)
    networks = Networks.read(graph) if graph else recorded_networks(read.info)
    choices = Choices(
        confidence=confidence,
        excess=excess,
        loss=_loss(loss, unlabelled),
        unlabelled=unlabelled,
        policy=policy,
        pool=pool,
        committees=committees,
        refit=refit,
        learn_share=learn_share,
        repeats=repeats,
        looks=looks,
        seed=seed,
    )
    budgets = parsing.budgets(budget)
    latency = None
    if sizes:
        drafted, request = draft(read, budgets[0], choices, networks), blank(read, max(sizes))
        latency = measure_latency(drafted, request, threads, sizes)
    certify_on = Trace.read(certify) if certify else None
    if certify_on:
        _say_classes(certify_on, read.info)
    plans = fit_each(read, budgets, choices, certify_on, networks, latency)
    write_plans(plans, out, force=force)
    for note in plans[0].notes():
        messages.print(note)
    found = [_certificate(plan) for plan in plans]
    shown = found if len(plans) > 1 else found[0]
    _print(json_, shown, lambda: Group(*map(tables.certificate, plans)))
    if all(plan.certificate.verdict == KEEP for plan in plans):
        raise typer.Exit(1)


def _certificate(plan: Plan) -> dict[str, Any]:
    found = plan.certificate.to_json()
    return found | ({"repair": plan.repair.to_json()} if plan.repair else {})


@app.command(epilog="Example: offramp needs trace --budget 0.01")
def needs(
    trace: Annotated[Path, typer.Argument(help="Recorded examples; they need no labels.")],
    budget: Annotated[float, typer.Option(help="Accuracy given up; 0.005 is half a point.")],
    confidence: Annotated[float, typer.Option(help="Chance that the promise holds.")] = 0.95,
    excess: ExcessKind = "net",
    policy: Annotated[str, typer.Option(help="What decides.")] = "learned",
    power: Annotated[float, typer.Option(help="Chance that the number certifies.")] = POWER,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    json_: Json = False,
) -> None:
    """How many labelled examples a promise takes, before any is labelled."""
    found = examples_needs(
        Trace.read(trace),
        budget,
        confidence=confidence,
        excess=excess,
        policy=policy,
        power=power,
        seed=seed,
    )
    _print(json_, found.to_json(), lambda: tables.needs(found))


@app.command(epilog="Example: offramp evaluate plan other-trace --json")
def evaluate(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    trace: Annotated[Path, typer.Argument(help="Other recorded examples.")],
    loss: Loss = None,
    repeats: RepeatsKind = None,
    json_: Json = False,
) -> None:
    """What the plan does on other recorded examples, and whether the promise is kept there."""
    read, examples = Plan.read(plan), Trace.read(trace)
    _say_classes(examples, read.info)
    found = evaluate_plan(read, examples, loss=_loss(loss), repeats=repeats)
    if {examples.info.get("data"), examples.digest} & read.fitted_on:
        messages.print("these examples taught or certified this plan: they say little about others")
    _print(json_, found.to_json(), lambda: tables.evaluation(found))


@app.command(epilog="Example: offramp compare trace --test other-trace")
def compare(
    trace: Annotated[Path, typer.Argument(help="Recorded examples to tune on.")],
    test: Annotated[Path | None, typer.Option(help="Measure here. Default: half of TRACE.")] = None,
    loss: Loss = None,
    unlabelled: Unlabelled = False,
    policies: Annotated[str | None, typer.Option(help="Only these: a,b. Default: all.")] = None,
    bands: Annotated[bool, typer.Option(help="How far numbers move with the examples.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the split and the bands.")] = 0,
    json_: Json = False,
) -> None:
    """Every policy, single network and oracle, side by side."""
    read, others = Trace.read(trace), Trace.read(test) if test else None
    if others:
        _say_classes(others, read.info)
    with _progress() as step:
        found = compare_policies(
            read,
            others,
            loss=_loss(loss, unlabelled),
            policies=parsing.policies(policies),
            seed=seed,
            bands=bands,
            progress=step,
        )
    _print(json_, found.to_json(), lambda: tables.comparison(found))


@app.command(epilog="Example: offramp run plan --data photos/ --out answers.parquet")
def run(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    data: Data,
    scores: Annotated[bool, typer.Option("--scores", help="Write the scores as well.")] = False,
    out: AnswersOut = None,
    batch: BatchSize = 64,
    threads: Threads = 1,
    device: Annotated[Device, typer.Option(help="cuda needs onnxruntime-gpu.")] = "cpu",
    skip_broken: SkipBroken = False,
    force: Force = False,
) -> None:
    """Answer examples with just enough network: id, answer, stage, cost (and scores)."""
    if out:
        check_output(out, force, ANSWERS, _given(plan, data))
    read = Plan.read(plan)
    examples = _examples(data, read.preprocessing, skip_broken)
    runtime = OnnxRuntime(read.runnable(), read.graph, threads=threads, device=device)
    with _progress() as step, AnswerFile.open(out, scores=scores, force=force) as file:
        for done, answers in stream(read, runtime, examples, batch):
            file.write(answers)
            step("answering", done, examples.examples)
    for sentence in examples.remarks:
        messages.print(sentence, markup=False)
    messages.print(file.summary(read))


@app.command(epilog="Example: offramp bench plan --data test.npz --batch 1,64")
def bench(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    data: Data,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8,64",
    threads: Threads = 1,
    json_: Json = False,
) -> None:
    """Wall clock of the plan against its reference at its fastest, and all else, interleaved."""
    read = Plan.read(plan)
    read.runnable()
    sizes = parsing.batches(batch)
    examples = _examples(data, read.preprocessing)
    found = next(examples.batches(max(EXAMPLES, REQUESTS * max(sizes))), NOTHING)
    with _progress() as step:
        rows = [
            bench_plan(read, found.x, found.labels, batch=size, threads=threads, progress=step)
            for size in sizes
        ]
    _print(json_, [row.to_json() for row in rows], lambda: tables.bench(rows))


@app.command(epilog="Example: offramp export plan --out model.onnx")
def export(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    out: Out,
    dial: Annotated[
        bool, typer.Option("--dial", help="An input `tradeoff`; NaN is the certified one.")
    ] = False,
    images: Annotated[
        bool, typer.Option("--images", help="Read uint8 images; preprocess inside.")
    ] = False,
    stages: Annotated[
        bool, typer.Option("--stages", help="A folder with a file per stage.")
    ] = False,
    force: Force = False,
) -> None:
    """Write the plan as one ONNX file, or as a file per stage: networks, exits and policy."""
    check_output(out, force, EXPORTED_FOLDER if stages else EXPORTED, [plan])
    read = Plan.read(plan)
    if stages:
        write_folder(read, out, dial=dial, images=images, force=force)
    else:
        write_file(read, out, dial=dial, images=images, force=force)
    messages.print(f"{out}: scores, answer, stage and cost of {' '.join(read.running.graph.order)}")


@app.command(epilog="Example: offramp report trace plan --out report.html")
def report(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE_OR_PLAN...", help="Or a file of `bench --json`, after its plan."
        ),
    ],
    out: Out,
    force: Force = False,
) -> None:
    """One page that opens offline: the clock, frontiers, the certificate, where inputs stop."""
    from offramp.report import report_inputs, write_report
    from offramp.report.page import REPORT

    check_output(out, force, REPORT, inputs)
    write_report(out, report_inputs(inputs), force=force)
    messages.print(f"{out}: open it in a browser")


def _examples(data: str, pixels: Preprocessing | None, skip_broken: bool = False) -> Examples:
    """The examples that --data names; what lies there and is not read is said."""
    examples = open_examples(data, pixels, skip_broken=skip_broken)
    for sentence in examples.notes:
        messages.print(sentence, markup=False)
    return examples


def _say_classes(trace: Trace, other: Mapping[str, Any]) -> None:
    """Says where the classes of a trace have other names than another recording's."""
    for sentence in trace.other_classes(other.get("class_names", ())):
        messages.print(sentence, markup=False)


def _given(*inputs: str | Path | None) -> list[Path]:
    """The files and folders that a command reads, to keep its output from them."""
    return [Path(given) for given in inputs if given and not str(given).startswith("hf:")]


def _loss(name: str | None, unlabelled: bool = False) -> str | None:
    """The loss that the options name; one of the user's own may lie in the current folder."""
    if name and is_own(name):
        sys.path.insert(0, str(Path.cwd()))
    return parsing.loss(name, unlabelled)


def _print(as_json: bool, value: Any, table: Callable[[], Any]) -> None:
    if as_json:
        print(json.dumps(value, allow_nan=False))
    else:
        output.print(table())


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar on standard error: call it with what, done and total."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=messages, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )


@contextmanager
def _spoken_warnings() -> Iterator[None]:
    """Says our own warnings on standard error, each once, and leaves others as they are."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", OfframpWarning)
        others = warnings.showwarning

        def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, OfframpWarning):
                others(message, category, *where, **more)
            elif str(message) not in said:
                said.add(str(message))
                _say(str(message))

        warnings.showwarning = show
        yield


class _Stopped(BaseException):
    """Another program asked this one to end."""


def _stop(signal_: int, _: FrameType | None) -> None:
    raise _Stopped(signal_)


def main() -> None:
    """Runs the command line.

    Exit codes: 0 done, 1 `fit` says keep the reference, 2 bad input, 3 an error of offramp's own;
    as shells count them, 130 interrupted, 143 asked to end, 141 nobody reads the output any more.
    """
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    ours = threading.current_thread() is threading.main_thread()  # others handle no signals
    before = {number: signal.signal(number, _stop) for number in _ENDING if ours}
    try:
        code = _run(arguments or ["--help"], debug)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    sys.exit(code)


# without these, a command that is asked to end could not tidy up
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _run(arguments: list[str], debug: bool) -> int:
    """The exit code, after what went wrong was said; this is where every exception ends."""
    try:
        with _reading(), _spoken_warnings():
            code = app(args=arguments, prog_name="offramp", standalone_mode=False)
            sys.stdout.flush()
        if code == _INTERRUPTED:  # as the command-line library says it
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        _silence()
        return 128 + 13
    except (OfframpError, OSError) as error:
        if debug:
            raise
        return _say(str(error) if isinstance(error, OfframpError) else reason(error))
    except _UsageError as error:
        return _say(error.format_message())  # type: ignore[attr-defined]
    except (typer.Abort, KeyboardInterrupt):
        return _say("interrupted; " + _TIDY, _INTERRUPTED)
    except _Stopped as stopped:
        return _say("asked to end; " + _TIDY, 128 + int(stopped.args[0]))
    except (Exception, SystemExit) as error:  # Python would exit with 1: "keep the reference"
        if debug:
            raise
        return _say(f"unexpected {reason(error)}; run with --debug and report it", 3)


_INTERRUPTED = 130
_TIDY = "nothing is half-written, and `record` goes on where it stopped when it is run again."


@contextmanager
def _reading() -> Iterator[None]:
    """Tells a pipe that nobody reads any more, which the command-line library ends with exit 1."""
    try:
        yield
    except SystemExit as ended:
        if isinstance(ended.__context__, OSError) and ended.__context__.errno == errno.EPIPE:
            raise BrokenPipeError from None
        raise


def _silence() -> None:
    """Python writes what is left at its end, and would complain that nobody reads it."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(sentence: str, code: int = 2) -> int:
    line = " ".join(sentence.split()).encode("utf-8", "backslashreplace").decode()
    messages.print(f"offramp: {line}", markup=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    main()
