"""Commands that put networks and exits into graphs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from offramp.base.errors import InputError
from offramp.base.fields import X
from offramp.base.outputs import check_output, put_aside
from offramp.command import parsing, photographs, tables, trials
from offramp.command.options import (
    Edges,
    EngineOption,
    Force,
    Given,
    Json,
    Out,
    Reference,
    SkipBroken,
    TaskName,
    with_options,
)
from offramp.command.terminal import examples_of, given, messages, progress, show
from offramp.core.tasks import Kind
from offramp.exits import ExitOptions, add_exits, candidate_points
from offramp.networks.data import Examples
from offramp.networks.networks import GRAPH, combine
from offramp.networks.preprocessing import Preprocessing
from offramp.networks.reading import fields_read, with_fields
from offramp.optimizing import optimize as optimize_networks
from offramp.optimizing.journal import OPTIMIZED
from offramp.plan.asked import Promise
from offramp.recording.independence import check_made_up
from offramp.runtime import Stages
from offramp.siblings import SiblingOptions, make

SIZE = "Of images: 32, or 240x320 (height x width)."
MEAN, STD = (f"Of pixel / 255, per channel. Default: {number}." for number in (0, 1))
RESIZE = "256 (shorter side), squash or letterbox; bilinear or bicubic; aliased: 256,bicubic."
CROP = "The size that is cut from the centre, or its share of the shorter side: 224, 0.875."
Size = Annotated[str | None, typer.Option(help=SIZE)]
Mean = Annotated[str | None, typer.Option(help=MEAN)]
Std = Annotated[str | None, typer.Option(help=STD)]
Sizes = Annotated[list[str] | None, typer.Option(help=f"{SIZE} Or NAME=32 for one network.")]
Means = Annotated[list[str] | None, typer.Option(help=f"{MEAN} Or NAME=MEAN.")]
Stds = Annotated[list[str] | None, typer.Option(help=f"{STD} Or NAME=STD.")]
Layouts = Annotated[list[str] | None, typer.Option(help="nchw (default) or nhwc; or NAME=nhwc.")]
Resizes = Annotated[list[str] | None, typer.Option(help=f"{RESIZE} Or NAME=256.")]
Crops = Annotated[list[str] | None, typer.Option(help=f"{CROP} Or NAME=224.")]
Reads = Annotated[
    list[str] | None,
    typer.Option(help="NETWORK.INPUT=FIELD,...: small.pixels=image. Default: by name."),
]
NetworkOutput = Annotated[
    list[str] | None,
    typer.Option("--output", help="big=probabilities: which output of a network is its scores."),
]
NetworkKind = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", help="big=sigmoid: what its scores are: logits, probabilities, sigmoid."
    ),
]
NetworkClasses = Annotated[
    list[str] | None,
    typer.Option(
        "--classes", help="big=labels.txt: names of what it scores, one per line or a JSON list."
    ),
]
HeadStyle = Literal["auto", "linear", "deep"]


def graph(
    networks: Annotated[
        list[str], typer.Argument(help="NAME=FILE.onnx, or NAME=GRAPH with exits, cheapest first.")
    ],
    out: Out,
    edges: Edges = None,
    reference: Reference = None,
    size: Sizes = None,
    mean: Means = None,
    std: Stds = None,
    layout: Layouts = None,
    resize: Resizes = None,
    crop: Crops = None,
    reads: Reads = None,
    output: NetworkOutput = None,
    kind: NetworkKind = None,
    classes: NetworkClasses = None,
    task: TaskName = None,
    engine: EngineOption = "onnxruntime",
    force: Force = False,
) -> None:
    """Put trained networks into a graph: which may follow which, and what they read."""
    files = parsing.files(networks)
    check_output(out, force, GRAPH, files.values())
    pixels = photographs.Pixels(
        size=size, mean=mean, std=std, layout=layout, resize=resize, crop=crop
    ).of(files)
    asked = parsing.outputs(output or [], kind or [], classes or [])
    with TemporaryDirectory() as folder, progress() as step:
        step("looking at networks", 0, 1)
        step("loading networks", 0, 1)
        described = with_fields(
            combine(files, edges, reference, pixels, asked, task=task),
            parsing.reads(reads),
            Path(folder),
        )
        # finds out here whether they load
        runtime = Stages(described.files, described.graph, engine=engine)
        check_made_up(described, runtime, step)
        step("copying networks", 0, 1)
        described.write(out, force=force)
    for sentence in described.notes:
        messages.print(sentence, markup=False)
    several = "" if described.fields == (X,) else f", reads {', '.join(described.fields)}"
    messages.print(
        f"{out}: {' '.join(described.graph.order)}, reference {described.graph.reference}{several}"
    )


def exits(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="A trained network.")],
    data: Annotated[str | None, typer.Option(help="Labelled examples to train heads on.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write.")] = None,
    at: Annotated[
        str, typer.Option(help="auto; outputs (those it has); tensors or modules: a,b or a#2.")
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
    output: Annotated[
        str | None, typer.Option("--output", help="Which of its outputs is its scores.")
    ] = None,
    kind: Annotated[
        Kind | None, typer.Option("--kind", help="What its scores are. Default: finds out.")
    ] = None,
    skip_broken: SkipBroken = False,
    json_: Json = False,
    force: Force = False,
) -> None:
    """Put early exits into one trained network: where to cut, heads, and which of them pay."""
    pixels = photographs.preprocessing(size, mean, std, layout)
    fields = fields_read(model) if data else (X,)
    examples = examples_of(data, pixels, skip_broken, fields=fields) if data else None
    settings = ExitOptions(
        at=parsing.exit_names(at),
        style=None if head == "auto" else head,
        hears=hears,
        padding=padding,
        seed=seed,
        output=output,
        kind=kind,
    )
    if list_:
        places = candidate_points(model, examples, settings)
        show(json_, [place.to_json() for place in places], lambda: tables.points(places))
        return
    if out is None:
        raise InputError("say where to write the graph: --out GRAPH; or look first: --list.")
    check_output(out, force, GRAPH, given(model, data))
    with TemporaryDirectory() as folder, progress() as step:
        found = add_exits(
            model, examples, settings, Path(folder), preprocessing=pixels, progress=step
        )
        found.networks.write(out, force=force)
    for sentence in found.networks.notes:
        messages.print(sentence, markup=False)
    show(json_, found.to_json(), lambda: tables.exits(found))


NetworkFiles = Annotated[
    list[str],
    typer.Argument(
        metavar="NETWORK.onnx", help="A trained network; or several, NAME=FILE, cheapest first."
    ),
]
Train = Annotated[
    str | None,
    typer.Option(help="Further examples that copies learn from. Default: some of --data."),
]


def _inputs(files: Path | Mapping[str, Path], *others: str | None) -> list[Path]:
    """All that a command reads."""
    return given(*(files.values() if isinstance(files, Mapping) else [files]), *others)


def _further(train: str | None, pixels: Preprocessing | None, skip_broken: bool) -> Examples | None:
    return examples_of(train, pixels, skip_broken) if train else None


@with_options(options=SiblingOptions)
def siblings(
    networks: NetworkFiles,
    data: Annotated[
        str, typer.Option(help="Examples, some hundreds or more; labels may be there.")
    ],
    out: Out,
    options: Given,
    train: Train = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    layout: Annotated[str, typer.Option(help="nchw or nhwc.")] = "nchw",
    skip_broken: SkipBroken = False,
    json_: Json = False,
    force: Force = False,
) -> None:
    """Put cheap copies of networks before the last: int8, fewer pixels, shorter, trained ones."""
    settings = SiblingOptions(**options)
    pixels = photographs.preprocessing(size, mean, std, layout)
    files = parsing.one_or_more(networks)
    check_output(out, force, GRAPH, _inputs(files, data, train))
    examples = examples_of(data, pixels, skip_broken)
    further = _further(train, pixels, skip_broken)
    with TemporaryDirectory() as folder, progress() as step:
        found = make(
            files,
            examples,
            settings,
            Path(folder),
            step,
            further=further,
            preprocessing=pixels,
        )
        found.networks.write(out, force=force)
    show(json_, found.to_json(), lambda: tables.siblings(found))


@with_options(promise=Promise, options=SiblingOptions)
def optimize(
    networks: NetworkFiles,
    data: Annotated[
        str, typer.Option(help="Labelled examples, some thousands; or --unlabelled ones.")
    ],
    budget: Annotated[float, typer.Option(help="Accuracy given up; 0.005 is half a point.")],
    out: Out,
    promise: Given,
    options: Given,
    train: Train = None,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    layout: Annotated[str, typer.Option(help="nchw or nhwc.")] = "nchw",
    skip_broken: SkipBroken = False,
    json_: Json = False,
    force: Force = False,
) -> None:
    """The whole way: copies, policy, certificate, clock, one file. Exit code 1: keep the network.

    A run that was ended goes on where it was.
    """
    pixels = photographs.preprocessing(size, mean, std, layout)
    files = parsing.one_or_more(networks)
    asked = Promise(budgets=(budget,), **promise)
    settings = SiblingOptions(**options)
    examples = examples_of(data, pixels, skip_broken)
    further = _further(train, pixels, skip_broken)
    if force:
        check_output(out, force, OPTIMIZED, _inputs(files, data, train))
    with put_aside(out, force=force), progress() as step:
        found = optimize_networks(
            files,
            examples,
            asked,
            out,
            settings,
            further=further,
            preprocessing=pixels,
            progress=step,
        )
    for sentence in [*examples.remarks, *found.notes]:
        messages.print(sentence, markup=False)
    show(json_, found.to_json(), lambda: trials.optimized(found))
    if found.keeps:
        raise typer.Exit(1)
