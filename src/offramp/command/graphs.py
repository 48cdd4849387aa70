"""Commands that put networks and exits into graphs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer

from offramp.base.errors import InputError
from offramp.base.outputs import check_output
from offramp.command import parsing, tables
from offramp.command.options import (
    Edges,
    EngineOption,
    Force,
    Given,
    Json,
    Out,
    Reference,
    SkipBroken,
    with_options,
)
from offramp.command.terminal import examples_of, given, messages, progress, show
from offramp.exits import ExitOptions, add_exits, candidate_points
from offramp.networks.networks import GRAPH, combine
from offramp.recording.independence import check_made_up
from offramp.runtime import Stages
from offramp.siblings import SiblingOptions, make

Size = Annotated[str | None, typer.Option(help="Of images: 32, or 240x320 (height x width).")]
Mean = Annotated[str | None, typer.Option(help="Of pixel / 255, per channel. Default: 0.")]
Std = Annotated[str | None, typer.Option(help="Of pixel / 255, per channel. Default: 1.")]
HeadStyle = Literal["auto", "linear", "deep"]


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
    engine: EngineOption = "onnxruntime",
    force: Force = False,
) -> None:
    """Put trained networks into a graph: which may follow which, and what they read."""
    files = parsing.files(networks)
    check_output(out, force, GRAPH, files.values())
    pixels = parsing.preprocessing(size, mean, std, layout)
    described = combine(files, edges, reference, pixels)
    with progress() as step:
        step("loading networks", 0, 1)
        # finds out here whether they load
        runtime = Stages(described.files, described.graph, engine=engine)
        check_made_up(described, runtime, step)
        step("copying networks", 0, 1)
        described.write(out, force=force)
    messages.print(
        f"{out}: {' '.join(described.graph.order)}, reference {described.graph.reference}"
    )


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
    json_: Json = False,
    force: Force = False,
) -> None:
    """Put early exits into one trained network: where to cut, heads, and which of them pay."""
    pixels = parsing.preprocessing(size, mean, std, layout)
    examples = examples_of(data, pixels, skip_broken) if data else None
    if list_:
        places = candidate_points(model, examples)
        show(json_, [place.to_json() for place in places], lambda: tables.points(places))
        return
    if out is None:
        raise InputError("say where to write the graph: --out GRAPH; or look first: --list.")
    check_output(out, force, GRAPH, given(model, data))
    settings = ExitOptions(
        at=parsing.exit_names(at),
        style=None if head == "auto" else head,
        hears=hears,
        padding=padding,
        seed=seed,
    )
    with TemporaryDirectory() as folder, progress() as step:
        found = add_exits(
            model, examples, settings, Path(folder), preprocessing=pixels, progress=step
        )
        found.networks.write(out, force=force)
    show(json_, found.to_json(), lambda: tables.exits(found))


@with_options(options=SiblingOptions)
def siblings(
    network: Annotated[Path, typer.Argument(metavar="NETWORK.onnx", help="A trained network.")],
    data: Annotated[
        str, typer.Option(help="Examples, some hundreds or more; labels may be there.")
    ],
    out: Out,
    options: Given,
    size: Size = None,
    mean: Mean = None,
    std: Std = None,
    layout: Annotated[str, typer.Option(help="nchw or nhwc.")] = "nchw",
    skip_broken: SkipBroken = False,
    json_: Json = False,
    force: Force = False,
) -> None:
    """Put cheap copies of one network before it: int8, fewer pixels, and which of them pay."""
    settings = SiblingOptions(**options)
    pixels = parsing.preprocessing(size, mean, std, layout)
    check_output(out, force, GRAPH, given(network, data))
    examples = examples_of(data, pixels, skip_broken)
    with TemporaryDirectory() as folder, progress() as step:
        found = make(network, examples, settings, Path(folder), step, preprocessing=pixels)
        found.networks.write(out, force=force)
    show(json_, found.to_json(), lambda: tables.siblings(found))
