"""Commands that run plans, time them, and hand them on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from offramp.base.errors import InputError
from offramp.base.outputs import check_output
from offramp.command import parsing, tables
from offramp.command.answers import ANSWERS, AnswerFile, stream
from offramp.command.options import Data, Engine, Force, Json, Out, SkipBroken, Threads
from offramp.command.terminal import examples_of, given, messages, output, progress, remark, show
from offramp.core.costs import elsewhere
from offramp.export import write_file, write_folder
from offramp.export.folder import EXPORTED as EXPORTED_FOLDER
from offramp.export.seal import EXPORTED
from offramp.networks.data import NOTHING
from offramp.plan.plan import Plan
from offramp.runtime import Engine as Runner
from offramp.runtime import Stages, engine_named, onnxruntime
from offramp.runtime.session import Device
from offramp.study.bench import EXAMPLES, REQUESTS
from offramp.study.bench import bench as bench_plan

BatchSize = Annotated[int, typer.Option(min=1, help="Examples per call.")]
AnswersOut = Annotated[
    Path | None, typer.Option("--out", help="A Parquet file. Default: CSV on standard output.")
]


def demo(
    out: Out = Path("offramp-demo"),
    force: Force = False,
) -> None:
    """The whole journey on handwritten digits, with networks that come along."""
    from offramp.command import demo as journey

    with progress() as step:
        result = journey.run(out, force=force, progress=step)
    output.print(tables.certificate(result.plan))
    output.print(tables.evaluation(result.evaluation))
    output.print(tables.comparison(result.comparison))
    output.print(tables.bench(result.benches))
    report = f"report: {result.report}" if result.report else f"no report: {result.missing}"
    output.print(report, markup=False)


def run(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    data: Data,
    scores: Annotated[bool, typer.Option("--scores", help="Write the scores as well.")] = False,
    out: AnswersOut = None,
    batch: BatchSize = 64,
    threads: Threads = 1,
    engine: Engine = "onnxruntime",
    device: Annotated[Device, typer.Option(help="cuda needs onnxruntime-gpu.")] = "cpu",
    skip_broken: SkipBroken = False,
    force: Force = False,
) -> None:
    """Answer examples with just enough network: id, answer, stage, cost (and scores)."""
    if out:
        check_output(out, force, ANSWERS, given(plan, data))
    read = Plan.read(plan)
    examples = examples_of(data, read.preprocessing, skip_broken)
    runs = _on_device(engine, device)
    runtime = Stages(read.runnable(), read.graph, engine=runs, threads=threads)
    remark(elsewhere(read.costs, runs.title, "this runs on"))
    with progress() as step, AnswerFile.open(out, scores=scores, force=force) as file:
        for done, answers in stream(read, runtime, examples, batch):
            file.write(answers)
            step("answering", done, examples.examples)
    for sentence in examples.remarks:
        messages.print(sentence, markup=False)
    messages.print(file.summary(read))


def _on_device(name: str, device: Device) -> Runner:
    """An engine on a device. Raises InputError where it has none of that kind."""
    if device == "cpu":
        return engine_named(name)
    if name != "onnxruntime":
        raise InputError(f"--device {device} is for onnxruntime; {name} runs on the CPU here.")
    return onnxruntime.engine(device)


def bench(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    data: Data,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,8,64",
    threads: Threads = 1,
    engine: Engine = "onnxruntime",
    json_: Json = False,
) -> None:
    """Wall clock of the plan against its reference at its fastest, and all else, interleaved."""
    read = Plan.read(plan)
    read.runnable()
    sizes = parsing.batches(batch)
    examples = examples_of(data, read.preprocessing)
    found = next(examples.batches(max(EXAMPLES, REQUESTS * max(sizes))), NOTHING)
    with progress() as step:
        rows = [
            bench_plan(
                read,
                found.x,
                found.labels,
                batch=size,
                threads=threads,
                engine=engine,
                progress=step,
            )
            for size in sizes
        ]
    show(json_, [row.to_json() for row in rows], lambda: tables.bench(rows))


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
