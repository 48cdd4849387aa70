"""Commands that put plans behind an address, and watch whether they keep their promise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from offramp.base.errors import DataError, InputError, MissingExtra
from offramp.base.fields import arrays
from offramp.base.files import read_bytes
from offramp.base.outputs import check_output
from offramp.command import parsing, tables
from offramp.command.options import Data, EngineOption, Force, Given, Json, Threads, with_options
from offramp.command.terminal import examples_of, messages, show
from offramp.core.parts import TRACE
from offramp.core.trace import Trace
from offramp.networks.data import NOTHING
from offramp.plan.plan import Plan
from offramp.plan.watch import Watching
from offramp.recording.audits import add_labels, labelled, read_labels
from offramp.serving.address import Address, Door
from offramp.serving.auditing import Auditing, OnAlarm
from offramp.serving.models import ServedPlan
from offramp.serving.opening import Opening, model_name
from offramp.serving.service import Limits, Service
from offramp.serving.sizing import measure_stages
from offramp.serving.sizing import size as sized
from offramp.serving.tracing import log_to
from offramp.serving.versions import Canary

ErrorOption = Annotated[
    float, typer.Option(help="Chance of a false alarm ever, of all guards together.")
]
SIZED = 512  # examples whose walks are looked at
LogLevel = Literal["debug", "info", "warning", "error"]


@with_options(address=Address, limits=Limits, door=Door)
def serve(
    plan: Annotated[
        Path, typer.Argument(help="Folder made by `fit`, or one of versions: plans by number.")
    ],
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
    audit: Annotated[
        float | None,
        typer.Option(help="Share of rows that every stage scores afterwards, to be watched."),
    ] = None,
    audits: Annotated[
        Path | None, typer.Option(help="Folder where audits are kept, as a trace.")
    ] = None,
    on_alarm: Annotated[
        OnAlarm, typer.Option(help="Turn to the safe side, run the reference alone, or say so.")
    ] = "safer",
    error: ErrorOption = 0.05,
    canary: Annotated[
        float, typer.Option(help="Share of requests that a new version meets first.")
    ] = 0.0,
    canary_requests: Annotated[
        int, typer.Option(help="Requests that it must answer well before it meets all.")
    ] = 1000,
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
    own = _server()
    opening = Opening(
        name=name or model_name(plan),
        brown_out=brown_out,
        engine=engine,
        threads=threads,
        limits=Limits(**limits, workers=_workers(workers)),
        auditing=_auditing(audit, audits, on_alarm, error),
    )
    entrance = Door(**door, api_key=_key(api_key))
    log_to(sys.stderr, log)
    server = own.Server(
        plan,
        opening,
        address=Address(**address),
        door=entrance,
        canary=Canary(share=canary, requests=canary_requests),
    )

    def say_where() -> None:
        for line in server.lines():
            messages.print(line, soft_wrap=True)

    server.run(say_where)


def _auditing(
    share: float | None, folder: Path | None, on_alarm: OnAlarm, error: float
) -> Auditing | None:
    if share is None:
        if folder is not None:
            raise InputError("--audits is where audits are kept; say how many: --audit 0.01.")
        return None
    return Auditing(share=share, folder=folder, on_alarm=on_alarm, error=error)


def label(
    audits: Annotated[Path, typer.Argument(help="Folder of `serve --audits`.")],
    labels: Annotated[Path, typer.Argument(help="Parquet or CSV: columns id and label.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write the labelled audits as a trace, for `fit`.")
    ] = None,
    force: Force = False,
) -> None:
    """Say what audited examples are; `watch`, `fit` and a server that runs take it into account."""
    if out:
        check_output(out, force, TRACE, [audits, labels])
    trace = Trace.read(audits)
    known, others = add_labels(audits, labels, trace)
    said = f"; {others} of {labels} are of no audited example" if others else ""
    messages.print(f"{known} of {trace.examples} audited examples have labels{said}")
    if out:
        found = labelled(trace, read_labels(audits))
        if found is None:
            raise DataError(f"no audited example has a label; {out} would be empty.")
        found.write(out, force=force)


def watch(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    audits: Annotated[Path, typer.Argument(help="Folder of `serve --audits`, or any trace.")],
    error: ErrorOption = 0.05,
    json_: Json = False,
) -> None:
    """Whether audited examples, in their order, keep what the plan promises. Exit code 1: alarm."""
    read, trace = Plan.read(plan), Trace.read(audits)
    watching = Watching(read, error=error)
    watching.see(trace)
    known = trace if trace.labels is not None else labelled(trace, read_labels(audits))
    if known is not None:
        watching.see_labels(known)
    show(json_, watching.to_json(), lambda: tables.watched(watching.to_json()))
    if watching.alarms:
        raise typer.Exit(1)


def size(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    data: Data,
    rate: Annotated[float, typer.Option(help="Requests a second.")],
    p99: Annotated[str, typer.Option(help="That 99 % of them must be answered within: 50ms.")],
    rows: Annotated[int, typer.Option(min=1, help="Rows of each request.")] = 1,
    batch: Annotated[
        int, typer.Option(min=1, help="Rows that a stage runs together, at most.")
    ] = 64,
    engine: EngineOption = "onnxruntime",
    json_: Json = False,
) -> None:
    """How many cores a rate takes: queues simulated with stage times measured here."""
    door_seconds = _server().door_seconds
    seconds, read = parsing.seconds(p99, "--p99"), Plan.read(plan)
    examples = examples_of(data, read.preprocessing, task=read.task, fields=read.fields)
    x = arrays(next(examples.batches(SIZED), NOTHING).fields)
    with Service(read, engine=engine) as service:
        door_s = door_seconds(ServedPlan(model_name(plan), "1", service), x)
        measured = measure_stages(read, service.runtime, x, batch=batch, door_s=door_s)
    found = sized(measured, rate, seconds, rows=rows, batch=batch)
    show(json_, found.to_json(), lambda: tables.size(found, measured))


def _server() -> Any:
    """The module that needs the extra `serve`."""
    try:
        from offramp.serving import server
    except ImportError as problem:
        raise MissingExtra(problem.name or "starlette", "serve") from None
    return server


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
