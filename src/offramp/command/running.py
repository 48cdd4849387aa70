"""Commands that run plans, time them, and hand them on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from offramp.base.errors import InputError
from offramp.base.outputs import check_output
from offramp.command import parsing, photographs, tables
from offramp.command.answers import ANSWERS, AnswerFile, stream
from offramp.command.options import Data, EngineOption, Force, Json, Out, SkipBroken, Threads
from offramp.command.sheets import painted
from offramp.command.terminal import examples_of, given, messages, output, progress, remark, show
from offramp.core.costs import elsewhere
from offramp.export import write_file, write_folder, write_triton
from offramp.export.folder import EXPORTED_FOLDER
from offramp.export.seal import EXPORTED
from offramp.export.triton import TRITON
from offramp.networks.data import NOTHING
from offramp.plan.plan import Plan
from offramp.runtime import Engine as Runner
from offramp.runtime import Stages, engine_named, onnxruntime
from offramp.runtime.session import Device
from offramp.study.bench import EXAMPLES, REQUESTS
from offramp.study.bench import bench as bench_plan

_NAME = re.compile(r"[A-Za-z0-9_-]+")
BatchSize = Annotated[int, typer.Option(min=1, help="Examples per call.")]
AnswersOut = Annotated[
    Path | None, typer.Option("--out", help="A Parquet file. Default: CSV on standard output.")
]


def demo(
    out: Out = Path("offramp-demo"),
    details: Annotated[
        bool, typer.Option("--details", help="All tables; the page has them as well.")
    ] = False,
    force: Force = False,
) -> None:
    """The whole journey on handwritten digits, with networks that come along."""
    from offramp.command.demo import journey

    with progress() as step:
        result = journey(out, force=force, progress=step)
    if details:
        output.print(tables.certificate(result.plan), crop=False)
        output.print(tables.evaluation(result.evaluation), crop=False)
        output.print(tables.comparison(result.comparison), crop=False)
        output.print(tables.bench(result.benches), crop=False)
    for name, sentence in result.summary():
        said = painted(f"{name:8} {sentence}", result.plan.graph.order if name == "ran" else ())
        output.print(said, soft_wrap=True)


def run(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    data: Data,
    scores: Annotated[bool, typer.Option("--scores", help="Write the scores as well.")] = False,
    out: AnswersOut = None,
    batch: BatchSize = 64,
    threads: Threads = 1,
    engine: EngineOption = "onnxruntime",
    device: Annotated[
        Device, typer.Option(help="cuda needs the GPU build of ONNX Runtime.")
    ] = "cpu",
    skip_broken: SkipBroken = False,
    force: Force = False,
) -> None:
    """Answer examples with just enough network: id, answer, stage, cost (and scores)."""
    if out:
        check_output(out, force, ANSWERS, given(plan, data))
    read = Plan.read(plan)
    examples = examples_of(
        data, read.preprocessing, skip_broken, task=read.task, fields=read.fields
    )
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
    engine: EngineOption = "onnxruntime",
    json_: Json = False,
) -> None:
    """Wall clock of the plan against its reference at its fastest, and all else, interleaved."""
    read = Plan.read(plan)
    read.runnable()
    sizes = parsing.batches(batch)
    examples = examples_of(data, read.preprocessing, task=read.task, fields=read.fields)
    found = next(examples.batches(max(EXAMPLES, REQUESTS * max(sizes))), NOTHING)
    with progress() as step:
        rows = [
            bench_plan(
                read,
                found.fields,
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
    image_size: Annotated[
        str | None,
        typer.Option(help="Of these images: 480x640 (height x width). Default: the networks' own."),
    ] = None,
    stages: Annotated[
        bool, typer.Option("--stages", help="A folder with a file per stage.")
    ] = False,
    triton: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A model repository of Triton, with a model NAME."),
    ] = None,
    force: Force = False,
) -> None:
    """Write the plan as one ONNX file, or as a file per stage: networks, exits and policy."""
    if triton is not None and (dial or stages or not _NAME.fullmatch(triton)):
        raise InputError(
            "--triton NAME is one file, without --dial and --stages; NAME is of letters, digits, "
            "- and _."
        )
    kind = TRITON if triton else EXPORTED_FOLDER if stages else EXPORTED
    check_output(out, force, kind, [plan])
    if image_size and not images:
        raise InputError("--image-size is of the images that --images reads; give --images too.")
    size = photographs.height_and_width(image_size, "--image-size") if image_size else None
    with progress() as step:
        step("reading the plan", 0, 1)
        read = Plan.read(plan)
        if triton:
            write_triton(read, out, triton, images=images, image_size=size, force=force)
        elif stages:
            write_folder(
                read, out, dial=dial, images=images, image_size=size, force=force, progress=step
            )
        else:
            step("putting all into one file", 0, 1)
            write_file(read, out, dial=dial, images=images, image_size=size, force=force)
    messages.print(f"{out}: scores, answer, stage and cost of {' '.join(read.running.graph.order)}")


def report(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="TRACE_OR_PLAN...", help="Or a file of `bench --json`, after its plan."
        ),
    ],
    out: Out,
    data: Annotated[
        str | None,
        typer.Option("--data", help="What the traces were recorded on: shows some as pictures."),
    ] = None,
    force: Force = False,
) -> None:
    """One page that opens offline: what is saved, lost and sure, frontiers, the dial, examples."""
    from offramp.report import report_inputs, write_report
    from offramp.report.page import REPORT

    check_output(out, force, REPORT, [*inputs, *given(data)])
    write_report(out, report_inputs(inputs, data), force=force)
    messages.print(f"{out}: open it in a browser")


def card(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="A Markdown file. Default: standard output.")
    ] = None,
    force: Force = False,
) -> None:
    """A model card in Markdown: what runs, what is promised, what it costs, how to check it."""
    from offramp.report import card as text_of
    from offramp.report import write_card
    from offramp.report.card import CARD

    if out:
        check_output(out, force, CARD, [plan])
    read, name = Plan.read(plan), plan.resolve().name
    if out is None:
        print(text_of(read, name), end="")
        return
    write_card(read, out, name, force=force)
    messages.print(f"{out}: the card of {plan}", markup=False)
