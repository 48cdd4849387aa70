"""Commands that put plans behind an address, and watch whether they keep their promise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from offramp.base.errors import InputError, MissingExtra
from offramp.base.files import read_bytes
from offramp.command import parsing
from offramp.command.options import EngineOption, Given, Threads, with_options
from offramp.command.terminal import remark
from offramp.serving.address import Address, Door
from offramp.serving.opening import Opening, model_name
from offramp.serving.service import Limits
from offramp.serving.tracing import log_to

LogLevel = Literal["debug", "info", "warning", "error"]


@with_options(address=Address, limits=Limits, door=Door)
def serve(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    address: Given,
    limits: Given,
    door: Given,
    name: Annotated[
        str | None, typer.Option(help="That clients ask for. Default: the folder's.")
    ] = None,
    brown_out: Annotated[
        float | None,
        typer.Option(help="Under load answer within this budget, certified in PLAN as well."),
    ] = None,
    api_key: Annotated[
        Path | None, typer.Option(help="File that holds the key which clients must send.")
    ] = None,
    workers: Annotated[
        list[str] | None, typer.Option(help="STAGE=N: batches of a stage that run at once.")
    ] = None,
    threads: Threads = 1,
    engine: EngineOption = "onnxruntime",
    log: Annotated[LogLevel, typer.Option(help="What is logged, as JSON lines.")] = "info",
) -> None:
    """Answer over HTTP and gRPC, by the Open Inference Protocol: /v2, /metrics, a live page."""
    try:
        from offramp.serving.server import Server
    except ImportError as problem:
        raise MissingExtra(problem.name or "starlette", "serve") from None
    opening = Opening(
        name=name or model_name(plan),
        brown_out=brown_out,
        engine=engine,
        threads=threads,
        limits=Limits(**limits, workers=_workers(workers)),
    )
    entrance = Door(**door, api_key=_key(api_key))
    log_to(sys.stderr, log)
    server = Server(plan, opening, address=Address(**address), door=entrance)
    server.run(lambda: remark(server.lines()))


def _key(file: Path | None) -> str | None:
    """The key that a file holds, which no list of processes shows."""
    if file is None:
        return None
    try:
        return read_bytes(file, InputError).decode("ascii").strip()
    except UnicodeDecodeError:
        raise InputError(f"{file} holds no key: a key is of letters, digits and signs.") from None


def _workers(given: Sequence[str] | None) -> dict[str, int]:
    """ "big=2" as how many batches of a stage run at once."""
    found = parsing.by_name(given, "--workers")
    try:
        return {stage: parsing.whole_number(number) for stage, number in found.items()}
    except ValueError:
        raise InputError("--workers is STAGE=N, such as big=2; N is a whole number.") from None
