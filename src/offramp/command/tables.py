"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from offramp.core.hulls import LEVELS
from offramp.exits import ExitPoint, Exits
from offramp.exits.placement import WORTH
from offramp.plan.evaluate import Evaluation
from offramp.plan.needs import Needs
from offramp.plan.plan import Plan
from offramp.promise.certify import KEEP, ROUTE, Certificate
from offramp.report.sentences import advice
from offramp.study.bands import CONFIDENCE, Band
from offramp.study.bench import Bench, Timing
from offramp.study.compare import Comparison, Row


def certificate(plan: Plan) -> Table:
    """The certificate, line by line."""
    found = plan.certificate
    return _lines(
        found.verdict,
        [
            ("promise", f"{found.excess} excess loss ({found.loss}) of at most {found.budget:.2%}"),
            ("confidence", f"{found.confidence:.1%}, {found.method} test"),
            ("certified on", f"{found.examples} examples"),
            *_looks(found),
            *_reference(found),
            (found.changes, f"{found.losses} for the worse, {found.gains} for the better"),
            ("runs", _runs(found)),
            ("upper bound of its excess loss", f"{found.bound:.2%} at {1 - found.level:.4g}"),
            ("cost", f"{found.cost:.4g} of {found.reference_cost:.4g} {plan.costs.unit}"),
            ("speed-up", f"{found.speedup:.2f} by these costs{_at(found.batch)}"),
            *[(f"speed-up{_at(s.batch)}", f"{s.speedup:.2f} by costs there") for s in found.sizes],
            *[(f"'{s}' answers with", str(c)) for s, c in plan.speaking.items()],
            *plan.repairs(),
            *([("what next", advice(found))] if found.verdict == KEEP else []),
        ],
    )


def _reference(found: Certificate) -> list[tuple[str, str]]:
    """The reference's own loss beside chance, where there are labels."""
    if found.reference_loss is None:
        return []
    chance = "" if found.chance_loss is None else f"; by chance {found.chance_loss:.2%}"
    return [("loss of the reference itself", f"{found.reference_loss:.2%}{chance}")]


def _looks(found: Certificate) -> list[tuple[str, str]]:
    """Which look at the sealed rows it was, where there was more than one."""
    if found.look == 1 or found.joint_confidence is None:
        return []
    together = f"all promises on these rows so far hold together at {found.joint_confidence:.1%}"
    return [("look", f"{found.look}; {together}")]


def _at(batch: int | None) -> str:
    return "" if batch is None else f" at batch {batch}"


def _runs(found: Certificate) -> str:
    if found.verdict == ROUTE:
        return f"the policy at tradeoff {found.tradeoff:.4g}"
    return f"'{found.static_choice}' alone"


def needs(found: Needs) -> Table:
    """How many examples each setting takes, by the excess loss it may turn out to have."""
    title = f"examples to label for {found.excess} excess loss of at most {found.budget:.2%}"
    caption = (
        f"at a true excess loss of so much; {found.confidence:.1%} confidence, reached with a "
        f"chance of {found.power:.0%}; changed answers counted on {found.examples} examples; "
        "examples to learn from come on top"
    )
    table = Table(title=title, caption=caption, caption_justify="left")
    labelled = any(need.excess_loss is not None for need in found.settings)
    table.add_column("runs")
    for name in ("speed-up", "changed", *(f"at {e:.2%}" for e in found.assumed)):
        table.add_column(name, justify="right")
    if labelled:
        table.add_column("measured", justify="right")
    for need in found.settings:
        runs = f"'{need.stage}' alone" if need.stage else f"tradeoff {need.tradeoff:.4g}"
        numbers = [_number(n) for n in need.examples_needed]
        if need.excess_loss is not None:
            numbers.append(f"{_number(need.examples_measured)} ({need.excess_loss:.2%})")
        table.add_row(runs, f"{need.speedup:.2f}", f"{need.changed:.1%}", *numbers)
    return table


def _number(examples: int | None) -> str:
    return "none do" if examples is None else f"{examples:,}"


def evaluation(found: Evaluation) -> Table:
    """What a plan does on other examples, line by line."""
    lines = [("examples", f"{found.examples}")]
    if found.interval is not None and found.excess_loss is not None:
        low, high = found.interval
        lines += [
            ("loss", f"{found.loss:.2%}, reference {_reference_loss(found)}"),
            ("excess loss", f"{found.excess_loss:.2%} net, {found.induced_loss:.2%} induced"),
            ("interval", f"{low:.2%} to {high:.2%} at {found.confidence:.0%} confidence"),
            ("promise kept", f"{found.kept} (budget {found.budget:.2%})"),
        ]
    lines += [
        ("cost", f"{found.cost:.4g} of {found.reference_cost:.4g} {found.cost_unit}"),
        ("costs", f"the plan's, {found.cost_source}"),
        ("speed-up", f"{found.speedup:.2f} by these costs"),
        ("stops", ", ".join(f"{stage} {share:.1%}" for stage, share in found.exits.items())),
        ("like the certified ones", "yes" if found.shift.alike else "no"),
    ]
    return _lines("evaluation", lines)


def _reference_loss(found: Evaluation) -> str:
    if found.reference_loss == found.unrefitted_reference_loss:
        return f"{found.reference_loss:.2%}"
    recorded = f"{found.unrefitted_reference_loss:.2%} as recorded"
    return f"{found.reference_loss:.2%} refitted, {recorded}"


def comparison(found: Comparison) -> Table:
    """Every policy, network alone and oracle, the most of the gap in cost closed first."""
    table = Table(
        title=f"speed-up at equal net excess loss ({found.loss}), {found.examples} examples",
        caption=_measures(found),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    table.add_column("policy", overflow="fold")
    for level in LEVELS:
        table.add_column(f"{level * 100:g} points", justify="right")
    for name in ("area", "cost gap", "loss gap"):
        table.add_column(name, justify="right")
    for row in found.rows:
        style = None if row.kind == "policy" else "dim"
        table.add_row(row.name, *_measured(row), style=style)
    return table


def _measured(row: Row) -> list[str]:
    found, ends = row.summary, row.kind == "policy"  # bands of all would fill two screens
    return [
        *(_banded(b, "{:.2f}", "{:.2f}-{:.2f}" if ends else "") for b in found.speedups),
        f"{found.area.value:.3f}",
        *(
            _banded(b.times(100), "{:z.0f}%", "{:z.0f}..{:z.0f}" if ends else "")
            for b in found.gaps
        ),
    ]


def _banded(band: Band, form: str, form_of_ends: str) -> str:
    """The number, and in a second line the ends of its band."""
    number = form.format(band.value)
    if not form_of_ends or band.low is None:
        return number
    return f"{number}\n[dim]{form_of_ends.format(band.low, band.high)}[/dim]"


def _measures(found: Comparison) -> str:
    ends = f" {CONFIDENCE:.0%} bands are over draws of these examples." if found.banded else ""
    return (
        f"On the hull of each frontier and '{found.reference}' alone. Area: mean cost from "
        f"{LEVELS[0] * 100:g} to {LEVELS[-1] * 100:g} points, as a share of the reference's. Gap "
        f"closed: from single networks to the exact oracle, in cost at these points and in loss at "
        f"equal cost.{ends}"
    )


def bench(rows: Sequence[Bench]) -> Group:
    """Wall clock, a table per batch size: everything that ran, the reference's best marked."""
    tables: list[RenderableType] = []
    for row in rows:
        table = Table(title=f"batch {row.batch}, {row.threads} thread(s)", title_justify="left")
        table.add_column("")
        for name in ("speed-up", "ms", "p50", "p95", "p99", "examples/s", "changed", "error"):
            table.add_column(name, justify="right")
        for name in ("load, s", "memory, MB"):
            table.add_column(name, justify="right")
        for found in row.contestants:
            marked = f"{found.name} *" if found.best else found.name
            table.add_row(marked, *_timing(found))
        tables += [table, _realised(row), ""]
    return Group(*tables)


def _timing(found: Timing) -> list[str]:
    times = [f"{ms:.3f}" for ms in (found.ms, found.p50_ms, found.p95_ms, found.p99_ms)]
    memory = "" if found.memory_mb is None else f"{found.memory_mb:.0f}"
    error = "" if found.error is None else f"{found.error:.1%}"
    load = "" if found.load_s is None else f"{found.load_s:.3f}"
    rest = [f"{found.throughput:.0f}", f"{found.changed:.1%}", error, load, memory]
    return [f"{found.speedup:.2f}", *times, *rest]


def _realised(row: Bench) -> str:
    missing = "".join(f"; no {name}: {escape(why)}" for name, why in row.missing.items())
    return (
        f"* the reference at its fastest, which speed-ups are against. One file is "
        f"{row.speedup:.2f} times as fast, {row.realised:.0%} of the {row.theoretical_speedup:.2f} "
        f"that the times of its parts allow{missing}"
    )


def points(found: Sequence[ExitPoint]) -> Table:
    """The candidate points of a network."""
    table = Table(title=f"{len(found)} points to exit from")
    table.add_column("tensor")
    table.add_column("module")
    for name in ("work so far", "carry, kB", "shape"):
        table.add_column(name, justify="right")
    for p in found:
        work = f"{p.cost / 1e6:,.1f} M"
        shape = "x".join(map(str, p.shape))
        table.add_row(p.name, p.path, work, f"{p.carry_bytes / 1024:,.1f}", shape)
    return table


def exits(found: Exits) -> Table:
    """The exits that stay, what they answer, and why others went."""
    table = Table(title="exits", caption=_saving(found), caption_justify="left")
    table.add_column("stage")
    table.add_column("at")
    for name in ("work so far", "head", "error, held out"):
        table.add_column(name, justify="right")
    for stage, point in found.points.items():
        head = found.heads[stage]
        work, own = f"{point.cost / 1e6:,.1f} M", f"{head.multiply_adds / 1e6:,.3f} M"
        kind = f"{head.pooling.style}, {own}"
        table.add_row(stage, point.path, work, kind, f"{found.loss[stage]:.2%}")
    graph = found.networks.graph
    for stage in graph.order[:-1] if not found.points else ():
        own = f"{found.costs.head[stage]:,.3f} M"
        table.add_row(stage, "an output", f"{_so_far(found, stage):,.1f} M", own, "")
    error = f"{found.loss[graph.reference]:.2%}" if found.loss else ""
    table.add_row(graph.reference, "the network itself", "", "", error)
    return table


def _so_far(found: Exits, stage: str) -> float:
    return sum(found.costs.body[body] for body in found.networks.graph.bodies(stage))


def _saving(found: Exits) -> str:
    lines = [f"left out: {place} {why}" for place, why in found.dropped.items()]
    if found.saving is not None and found.saving < WORTH:
        lines.append("no exit pays on the held-out examples; the best one is kept for you to see")
    elif found.saving is not None:
        lines.append(
            f"on held-out examples they save {found.saving:.0%} of the cost, "
            "the mean at 0, 0.5, 1 and 2 points of excess loss"
        )
    return "\n".join(lines)


def _lines(title: str, lines: Sequence[tuple[str, str]]) -> Table:
    table = Table(title=title, show_header=False)
    for name, value in lines:
        table.add_row(name, value)
    return table
