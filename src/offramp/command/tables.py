"""Results as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.text import Text

from offramp.command.sheets import Cell, Facts, Sheet, painted
from offramp.core.hulls import LEVELS
from offramp.exits import ExitPoint, Exits
from offramp.exits.placement import WORTH
from offramp.plan.evaluate import Evaluation
from offramp.plan.needs import Need, Needs
from offramp.plan.notes import repairs
from offramp.plan.plan import Plan
from offramp.promise.certify import KEEP, ROUTE, Certificate
from offramp.report.sentences import advice, spread
from offramp.serving.sizing import Simulated, StageTimes
from offramp.siblings import Copy, Siblings
from offramp.study.bands import CONFIDENCE, Band
from offramp.study.bench import Bench, Timing
from offramp.study.compare import Comparison, Row


def certificate(plan: Plan) -> Facts:
    """The certificate, line by line."""
    found, stages = plan.certificate, plan.graph.order
    return Facts(
        found.verdict,
        [
            ("promise", f"{found.excess} excess loss ({found.loss}) of at most {found.budget:.2%}"),
            ("confidence", f"{found.confidence:.1%}, {found.method} test"),
            ("certified on", f"{found.examples} examples"),
            *_looks(found),
            *_reference(found),
            (found.changes, f"{found.losses} for the worse, {found.gains} for the better"),
            ("runs", _runs(found, stages)),
            ("upper bound of its excess loss", f"{found.bound:.2%} at {1 - found.level:.4g}"),
            ("cost", f"{found.cost:.4g} of {found.reference_cost:.4g} {plan.costs.unit}"),
            ("speed-up", f"{found.speedup:.2f} by these costs{_at(found.batch)}"),
            *spread(found),
            *[(f"speed-up{_at(s.batch)}", f"{s.speedup:.2f} by costs there") for s in found.sizes],
            *[
                (painted(f"'{s}' answers with", stages), painted(str(c), stages))
                for s, c in plan.speaking.items()
            ],
            *repairs(plan),
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


def _runs(found: Certificate, stages: Sequence[str]) -> Cell:
    if found.verdict == ROUTE:
        return f"the policy at tradeoff {found.tradeoff:.4g}"
    return painted(f"'{found.static_choice}' alone", stages)


def needs(found: Needs, stages: Sequence[str]) -> Sheet:
    """How many examples each setting takes, by the excess loss it may turn out to have."""
    title = f"examples to label for {found.excess} excess loss of at most {found.budget:.2%}"
    caption = (
        f"at a true excess loss of so much; {found.confidence:.1%} confidence, reached with a "
        f"chance of {found.power:.0%}; changed answers counted on {found.examples} examples; "
        "examples to learn from come on top"
    )
    labelled = any(need.excess_loss is not None for need in found.settings)
    measured = ("measured",) if labelled else ()
    return Sheet(
        title=title,
        columns=("runs", "speed-up", "changed", *(f"at {e:.2%}" for e in found.assumed), *measured),
        rows=[_need(need, stages) for need in found.settings],
        caption=caption,
    )


def _need(need: Need, stages: Sequence[str]) -> list[Cell]:
    alone = need.stage and painted(f"'{need.stage}' alone", stages)
    runs = alone or f"tradeoff {need.tradeoff:.4g}"
    numbers = [_number(n) for n in need.examples_needed]
    if need.excess_loss is not None:
        numbers.append(f"{_number(need.examples_measured)} ({need.excess_loss:.2%})")
    return [runs, f"{need.speedup:.2f}", f"{need.changed:.1%}", *numbers]


def _number(examples: int | None) -> str:
    return "none do" if examples is None else f"{examples:,}"


def evaluation(found: Evaluation) -> Facts:
    """What a plan does on other examples, line by line."""
    lines: list[tuple[Cell, Cell]] = [("examples", f"{found.examples}")]
    stops = ", ".join(f"{stage} {share:.1%}" for stage, share in found.exits.items())
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
        *spread(found),
        ("stops", painted(stops, list(found.exits))),
        ("like the certified ones", "yes" if found.shift.alike else "no"),
    ]
    return Facts("evaluation", lines)


def _reference_loss(found: Evaluation) -> str:
    if found.reference_loss == found.unrefitted_reference_loss:
        return f"{found.reference_loss:.2%}"
    recorded = f"{found.unrefitted_reference_loss:.2%} as recorded"
    return f"{found.reference_loss:.2%} refitted, {recorded}"


def comparison(found: Comparison) -> Sheet:
    """Every policy, network alone and oracle, the most of the gap in cost closed first."""
    stages = list(found.static)
    levels = [f"{level * 100:g} points" for level in LEVELS]
    return Sheet(
        title=f"speed-up at equal net excess loss ({found.loss}), {found.examples} examples",
        columns=("policy", *levels, "area", "cost gap", "loss gap"),
        rows=[_compared(row, stages) for row in found.rows],
        caption=_measures(found),
        framed=False,
    )


def _compared(row: Row, stages: Sequence[str]) -> list[Cell]:
    name = painted(row.name, stages) if row.kind == "static" else Text(row.name)
    cells = [name, *_measured(row)]
    if row.kind == "policy":
        return list(cells)
    return [Text(style="dim").append_text(cell) for cell in cells]


def _measured(row: Row) -> list[Text]:
    found, ends = row.summary, row.kind == "policy"  # bands of all would fill two screens
    return [
        *(_banded(b, "{:.2f}", "{:.2f}-{:.2f}" if ends else "") for b in found.speedups),
        Text(f"{found.area.value:.3f}"),
        *(
            _banded(b.times(100), "{:z.0f}%", "{:z.0f}..{:z.0f}" if ends else "")
            for b in found.gaps
        ),
    ]


def _banded(band: Band, form: str, form_of_ends: str) -> Text:
    """The number, and in a second line the ends of its band."""
    number = form.format(band.value)
    if not form_of_ends or band.low is None:
        return Text(number)
    return Text.assemble(number, "\n", (form_of_ends.format(band.low, band.high), "dim"))


def _measures(found: Comparison) -> str:
    ends = f" {CONFIDENCE:.0%} bands are over draws of these examples." if found.banded else ""
    return (
        f"On the hull of each frontier and '{found.reference}' alone. Area: mean cost from "
        f"{LEVELS[0] * 100:g} to {LEVELS[-1] * 100:g} points, as a share of the reference's. Gap "
        f"closed: from single networks to the exact oracle, in cost at these points and in loss at "
        f"equal cost.{ends}"
    )


def watched(guards: Sequence[Mapping[str, Any]]) -> Sheet:
    """What guards have seen, a row for each."""
    return Sheet(
        title="the promise on live examples",
        columns=("", "examples", "mean", "surely between", "promised", "wealth", "alarm"),
        rows=[
            [
                one["guard"],
                str(one["examples"]),
                f"{one['mean']:.2%}",
                f"{one['interval'][0]:.2%} and {one['interval'][1]:.2%}",
                f"{one['promised']:.2%}",
                f"{one['wealth']:.3g}",
                f"after {one['alarm_id']}, since {one['since_id']}" if one["alarm"] else "no",
            ]
            for one in guards
        ],
        caption=f"Alarm where the wealth reaches {guards[0]['needed']:.3g}.",
    )


def size(found: Simulated, measured: StageTimes) -> Facts:
    """What a rate of requests takes, line by line."""
    stages = list(measured.stages)
    many = f"{found.servers} servers of {found.cores} cores each, behind a balancer"
    return Facts(
        "size",
        [
            ("cores", many if found.servers > 1 else str(found.cores)),
            ("workers", painted(", ".join(f"{s} {n}" for s, n in found.workers.items()), stages)),
            ("p50", f"{found.p50_ms:.3g} ms"),
            ("p99", f"{found.p99_ms:.3g} ms"),
            ("busy", painted(", ".join(f"{s} {b:.0%}" for s, b in found.busy.items()), stages)),
            (
                "rows in a run",
                painted(", ".join(f"{s} {r:.1f}" for s, r in found.rows.items()), stages),
            ),
            ("a request besides its stages", f"{measured.door_s * 1e3:.3g} ms"),
        ],
    )


def bench(rows: Sequence[Bench]) -> Group:
    """Wall clock, a table per batch size: everything that ran, the reference's best marked."""
    return Group(*(part for row in rows for part in (clock(row), "")))


def clock(row: Bench) -> Sheet:
    clock = ("speed-up", "ms", "p50", "p95", "p99", "examples/s", "changed", "error")
    return Sheet(
        title=f"batch {row.batch}, {row.threads} thread(s)",
        columns=("", *clock, "load, s", "memory, MB"),
        rows=[[_contestant(found, list(row.exits)), *_timing(found)] for found in row.contestants],
        caption=_realised(row),
    )


def _contestant(found: Timing, stages: Sequence[str]) -> Text:
    """Its name, which begins with that of a stage where it runs one network alone."""
    stage, comma, how = found.name.partition(",")
    name = painted(stage, stages) if stage in stages else Text(stage)
    return name.append(f"{comma}{how}{' *' if found.best else ''}")


def _timing(found: Timing) -> list[str]:
    times = [f"{ms:.3f}" for ms in (found.ms, found.p50_ms, found.p95_ms, found.p99_ms)]
    memory = "" if found.memory_mb is None else f"{found.memory_mb:.0f}"
    error = "" if found.error is None else f"{found.error:.1%}"
    load = "" if found.load_s is None else f"{found.load_s:.3f}"
    rest = [f"{found.throughput:.0f}", f"{found.changed:.1%}", error, load, memory]
    return [f"{found.speedup:.2f}", *times, *rest]


def _realised(row: Bench) -> str:
    missing = "".join(f"; no {name}: {why}" for name, why in row.missing.items())
    return (
        f"* the reference at its fastest, which speed-ups are against. One file is "
        f"{row.speedup:.2f} times as fast, {row.realised:.0%} of the {row.theoretical_speedup:.2f} "
        f"that the times of its parts allow{_over(row)}{missing}"
    )


def _over(row: Bench) -> str:
    if row.over_reduced is None:
        return ""
    return f", and {row.over_reduced:.2f} times as fast as '{row.reduced}', which keeps the budget"


def points(found: Sequence[ExitPoint]) -> Sheet:
    """The candidate points of a network."""
    return Sheet(
        title=f"{len(found)} points to exit from",
        columns=("tensor", "module", "work so far", "carry, kB", "shape"),
        rows=[_point(point) for point in found],
        texts=2,
    )


def _point(point: ExitPoint) -> list[Cell]:
    work, carry = f"{point.cost / 1e6:,.1f} M", f"{point.carry_bytes / 1024:,.1f}"
    return [point.name, point.path, work, carry, "x".join(map(str, point.shape))]


def exits(found: Exits) -> Sheet:
    """The exits that stay, what they answer, and why others went."""
    order = found.networks.graph.order
    return Sheet(
        title="exits",
        columns=("stage", "at", "work so far", "head", "error, held out"),
        texts=2,
        rows=[[painted(stage, order), *_exit(found, stage)] for stage in order],
        caption=_saving(found),
    )


def _exit(found: Exits, stage: str) -> list[str]:
    error = f"{found.loss[stage]:.2%}" if stage in found.loss else ""
    if stage == found.networks.graph.reference:
        return ["the network itself", "", "", error]
    if stage not in found.points:
        work = f"{_so_far(found, stage):,.1f} M"
        return ["an output", work, f"{found.costs.head[stage]:,.3f} M", error]
    head = found.heads[stage]
    kind = f"{head.pooling.style}, {head.multiply_adds / 1e6:,.3f} M"
    return [found.points[stage].path, f"{found.points[stage].cost / 1e6:,.1f} M", kind, error]


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


def siblings(found: Siblings) -> Sheet:
    """The copies that could be made, which stay, and why others went."""
    order = found.networks.graph.order
    error = ("error, held out",) if found.error else ()
    return Sheet(
        title=f"copies, at batch {found.costs.batch}",
        columns=("stage", "", "made by", "times as fast", "answers changed", *error),
        texts=3,
        rows=[[painted(copy.name, order), *_sibling(found, copy)] for copy in found.tried],
        caption=_worth(found),
    )


def _sibling(found: Siblings, copy: Copy) -> list[str]:
    name, order = copy.name, found.networks.graph.order
    error = [f"{found.error[name]:.2%}"] if found.error else []
    if copy.file == found.tried[-1].file:
        return ["reference", "the network itself", "1.00", "", *error]
    form = copy.form
    pixels = [f"{form.size[0]} x {form.size[1]} pixels"] if form.size else []
    blocks = [f"{form.blocks[0]} of {form.blocks[1]} blocks"] if form.blocks else []
    taught = ["training"] if form.trained else []
    int8 = [f"int8 ({copy.scheme})"] if copy.scheme else []
    kept = "kept" if name in order else "left out"
    made = " and ".join([*blocks, *pixels, *taught, *int8]) or "a network as it was given"
    return [kept, made, f"{found.speedup(name):.2f}", f"{copy.changed:.2%}", *error]


def _worth(found: Siblings) -> str:
    lines = [f"left out: {name}: {why}" for name, why in found.dropped.items()]
    if len(found.networks.graph.order) == 1:
        lines.append("no copy stays: the graph holds the network alone")
    elif found.cost >= 1:
        lines.append("no copy pays on the held-out examples; the best is kept for you to see")
    else:
        lines.append(
            f"on held-out examples they save {1 - found.cost:.0%} of the cost, the mean at 0, 0.5, "
            "1 and 2 points of excess loss, by one threshold"
        )
    return "\n".join(lines)
