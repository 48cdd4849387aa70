"""Commands that make plans, and say what plans and policies do on recorded examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group

from offramp.base.outputs import check_output
from offramp.command import parsing, tables
from offramp.command.options import Engine, Force, Json, Out, Threads
from offramp.command.terminal import (
    given,
    loss_named,
    messages,
    progress,
    remark,
    say_classes,
    show,
)
from offramp.core.costs import elsewhere
from offramp.core.tasks import Excess
from offramp.core.trace import Trace
from offramp.learn.teach import AUTO
from offramp.networks.networks import Networks, recorded_networks
from offramp.plan.evaluate import evaluate as evaluate_plan
from offramp.plan.fit import Choices, draft, fit_each
from offramp.plan.needs import needs as examples_needs
from offramp.plan.plan import PLAN, Plan, write_plans
from offramp.promise.certify import KEEP
from offramp.promise.pvalues import POWER
from offramp.promise.split import Repeats
from offramp.recording.measure import latency as measure_latency
from offramp.recording.record import blank
from offramp.study.compare import compare as compare_policies

ExcessKind = Annotated[Excess, typer.Option(help="net: gains make up for losses.")]
Unlabelled = Annotated[
    bool, typer.Option("--unlabelled", help="Loss is disagreement with the reference.")
]
RepeatsKind = Annotated[
    Repeats | None, typer.Option(help="What rows are that repeat others, where many do.")
]
Loss = Annotated[
    str | None, typer.Option(help="top1, top5 (any k) or module:function. Default: top1.")
]


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
    engine: Engine = "onnxruntime",
    json_: Json = False,
    force: Force = False,
) -> None:
    """Learn a policy, certify the budget, and write the plan. Exit code 1: keep the reference."""
    check_output(out, force, PLAN, given(trace, certify, graph))
    sizes = parsing.batches(batch) if batch else []
    read = Trace.read(trace)
    networks = Networks.read(graph) if graph else recorded_networks(read.info)
    choices = Choices(
        confidence=confidence,
        excess=excess,
        loss=loss_named(loss, unlabelled),
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
        latency = measure_latency(drafted, request, threads, sizes, engine=engine)
        remark(
            elsewhere(latency.costs(read.graph), read.info.get("engine"), "scores were recorded on")
        )
    certify_on = Trace.read(certify) if certify else None
    if certify_on:
        say_classes(certify_on, read.info)
        remark(elsewhere(read.costs, certify_on.costs.engine, "those of --certify on"))
    plans = fit_each(read, budgets, choices, certify_on, networks, latency)
    write_plans(plans, out, force=force)
    for note in plans[0].notes():
        messages.print(note)
    found = [_certificate(plan) for plan in plans]
    shown = found if len(plans) > 1 else found[0]
    show(json_, shown, lambda: Group(*map(tables.certificate, plans)))
    if all(plan.certificate.verdict == KEEP for plan in plans):
        raise typer.Exit(1)


def _certificate(plan: Plan) -> dict[str, Any]:
    found = plan.certificate.to_json()
    return found | ({"repair": plan.repair.to_json()} if plan.repair else {})


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
    show(json_, found.to_json(), lambda: tables.needs(found))


def evaluate(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    trace: Annotated[Path, typer.Argument(help="Other recorded examples.")],
    loss: Loss = None,
    repeats: RepeatsKind = None,
    json_: Json = False,
) -> None:
    """What the plan does on other recorded examples, and whether the promise is kept there."""
    read, examples = Plan.read(plan), Trace.read(trace)
    say_classes(examples, read.info)
    remark(elsewhere(read.costs, examples.costs.engine, "those of TRACE on"))
    found = evaluate_plan(read, examples, loss=loss_named(loss), repeats=repeats)
    if {examples.info.get("data"), examples.digest} & read.fitted_on:
        messages.print("these examples taught or certified this plan: they say little about others")
    show(json_, found.to_json(), lambda: tables.evaluation(found))


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
        say_classes(others, read.info)
        remark(elsewhere(read.costs, others.costs.engine, "those of --test on"))
    with progress() as step:
        found = compare_policies(
            read,
            others,
            loss=loss_named(loss, unlabelled),
            policies=parsing.policies(policies),
            seed=seed,
            bands=bands,
            progress=step,
        )
    show(json_, found.to_json(), lambda: tables.comparison(found))
