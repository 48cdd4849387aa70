"""Commands that make plans, and say what plans and policies do on recorded examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group

from offramp.base.outputs import check_output
from offramp.command import completing, parsing, tables
from offramp.command.options import (
    EngineOption,
    Force,
    Given,
    Json,
    Out,
    PolicyName,
    Threads,
    option,
    with_options,
)
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
from offramp.networks.networks import Networks, recorded_networks
from offramp.plan.asked import Asked, Choices, Promise, Split
from offramp.plan.evaluate import evaluate as evaluate_plan
from offramp.plan.fit import fit_each
from offramp.plan.needs import needs as examples_needs
from offramp.plan.notes import notes
from offramp.plan.plan import PLAN, PLANS, Plan, write_plans
from offramp.promise.certify import KEEP
from offramp.promise.pvalues import POWER
from offramp.promise.split import Repeats
from offramp.recording.pricing import Requests, at_request_times
from offramp.study.compare import compare as compare_policies

Loss = Annotated[
    str | None, typer.Option(help="top1, top5 (any k) or module:function. Default: top1.")
]

Policies = Annotated[
    str | None,
    typer.Option(help="Only these: a,b. Default: all.", autocompletion=completing.policy),
]


@with_options(promise=Promise, choices=Choices, split=Split)
def fit(
    trace: Annotated[Path, typer.Argument(help="Folder made by `record` or `import`.")],
    budget: Annotated[
        str, typer.Option(help="Accuracy given up; 0.005 is half a point. Several: 0.005,0.01.")
    ],
    out: Out,
    promise: Given,
    choices: Given,
    split: Given,
    loss: Loss = None,
    certify: Annotated[
        Path | None, typer.Option(help="Certify on this trace; learn from all of TRACE.")
    ] = None,
    graph: Annotated[Path | None, typer.Option(help="Networks, for imported scores.")] = None,
    batch: Annotated[
        str | None,
        typer.Option(help="Cost is the time of requests of so many examples: 64 or 1,64."),
    ] = None,
    threads: Threads = 1,
    engine: EngineOption = "onnxruntime",
    json_: Json = False,
    force: Force = False,
) -> None:
    """Learn a policy, certify the budget, and write the plan. Exit code 1: keep the reference."""
    budgets = parsing.budgets(budget)
    kind = PLAN if len(budgets) == 1 else PLANS
    check_output(out, force, kind, given(trace, certify, graph))
    sizes = parsing.batches(batch) if batch else []
    read = Trace.read(trace)
    networks = Networks.read(graph) if graph else recorded_networks(read.info)
    named = loss_named(loss, promise["unlabelled"])
    asked = Asked(
        promise=Promise(budgets=budgets, loss=named, **promise),
        choices=Choices(**choices),
        split=Split(certify_on=_certifying(certify, read), **split),
    )
    with progress() as step:
        if sizes:
            asked = at_request_times(read, asked, networks, Requests(sizes, threads, engine))
            prices = asked.choices.prices
            costs = None if prices is None else prices.costs(read.graph)
            remark(elsewhere(costs, read.info.get("engine"), "scores were recorded on"))
        plans = fit_each(read, asked, networks, step)
    write_plans(plans, out, force=force)
    for note in _notes(plans):
        messages.print(note)
    found = [_certificate(plan) for plan in plans]
    shown = found if len(plans) > 1 else found[0]
    show(json_, shown, lambda: Group(*map(tables.certificate, plans)))
    if all(plan.certificate.verdict == KEEP for plan in plans):
        raise typer.Exit(1)


def _notes(plans: Sequence[Plan]) -> list[str]:
    """What users should know; what is true of some budgets alone is said of those."""
    each = {plan.certificate.budget: notes(plan) for plan in plans}
    common = [note for note in notes(plans[0]) if all(note in said for said in each.values())]
    own = [
        f"budget {budget:.4g}: {note}"
        for budget, said in each.items()
        for note in said
        if note not in common
    ]
    return common + own


def _certifying(path: Path | None, trace: Trace) -> Trace | None:
    """The trace that certifies, where it is another one; classes of other names are said."""
    if path is None:
        return None
    certifying = Trace.read(path)
    say_classes(certifying, trace.info)
    remark(elsewhere(trace.costs, certifying.costs.engine, "those of --certify on"))
    return certifying


def _certificate(plan: Plan) -> dict[str, Any]:
    found = plan.certificate.to_json() | {"dropped": plan.info["dropped"]}
    return found | ({"repair": plan.repair.to_json()} if plan.repair else {})


def needs(
    trace: Annotated[Path, typer.Argument(help="Recorded examples; they need no labels.")],
    budget: Annotated[float, typer.Option(help="Accuracy given up; 0.005 is half a point.")],
    confidence: Annotated[float, option(Promise, "confidence")] = 0.95,
    excess: Annotated[Excess, option(Promise, "excess")] = "net",
    policy: PolicyName = "learned",
    power: Annotated[float, typer.Option(help="Chance that the number certifies.")] = POWER,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    json_: Json = False,
) -> None:
    """How many labelled examples a promise takes, before any is labelled."""
    read = Trace.read(trace)
    stages = read.graph.order
    with progress() as step:
        found = examples_needs(
            read,
            budget,
            confidence=confidence,
            excess=excess,
            policy=policy,
            power=power,
            seed=seed,
            progress=step,
        )
    show(json_, found.to_json(), lambda: tables.needs(found, stages))


def evaluate(
    plan: Annotated[Path, typer.Argument(help="Folder made by `fit`.")],
    trace: Annotated[Path, typer.Argument(help="Other recorded examples.")],
    loss: Loss = None,
    repeats: Annotated[Repeats | None, option(Split, "repeats")] = None,
    json_: Json = False,
) -> None:
    """What the plan does on other recorded examples, and whether the promise is kept there."""
    read, examples = Plan.read(plan), Trace.read(trace)
    say_classes(examples, read.info)
    named = loss_named(loss)
    remark(elsewhere(read.costs, examples.costs.engine, "those of TRACE on"))
    with progress() as step:
        found = evaluate_plan(read, examples, loss=named, repeats=repeats, progress=step)
    if {examples.info.get("data"), examples.digest} & read.fitted_on:
        messages.print("these examples taught or certified this plan: they say little about others")
    show(json_, found.to_json(), lambda: tables.evaluation(found))


def compare(
    trace: Annotated[Path, typer.Argument(help="Recorded examples to tune on.")],
    test: Annotated[Path | None, typer.Option(help="Measure here. Default: half of TRACE.")] = None,
    loss: Loss = None,
    unlabelled: Annotated[bool, option(Promise, "unlabelled")] = False,
    policies: Policies = None,
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
    if found.left_out:
        remark([f"not for the task '{read.task}': {', '.join(found.left_out)}"])
    show(json_, found.to_json(), lambda: tables.comparison(found))
