"""From folders to the sections of a report: traces are compared, plans judged on other examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from offramp.answering.refit import with_refits
from offramp.base.errors import InputError
from offramp.base.schema import record_of
from offramp.core import tasks
from offramp.core.trace import Trace
from offramp.plan.evaluate import evaluate, priced
from offramp.plan.plan import Plan
from offramp.report.dial import dial
from offramp.report.page import Clock, ReportInput
from offramp.study.compare import Comparison, compare


def report_inputs(paths: Sequence[Path], data: str | None = None) -> list[ReportInput]:
    """One section per plan, with the traces of its graph, and one per other trace.

    A trace is compared on halves. A plan is evaluated only on a trace that it was not fitted on.
    What `bench --json` said, saved to a file, is of the plan that is named before it. With `data`,
    the examples that the first such trace was recorded on, some are shown as pictures.

    Raises:
        InputError: neither a trace nor a plan, nor measured of one.
    """
    plans, traces, clocks = _read(paths)
    sections, used = [], set()
    for name, plan in plans.items():
        found = {n: t for n, t in traces.items() if _fits(plan, t)}
        used |= set(found)
        sections += [_section(name, plan, found, tuple(clocks.get(name, ())), data)]
    if data and not any(section.dial for section in sections):
        raise InputError(
            f"{data} is for pictures of examples that a plan stops early or late; name a plan and "
            "the trace that was recorded on them, or leave --data out."
        )
    return sections + [
        ReportInput(name=name, comparison=compare(trace, loss=_loss(trace, None)))
        for name, trace in traces.items()
        if name not in used
    ]


def _read(
    paths: Sequence[Path],
) -> tuple[dict[str, Plan], dict[str, Trace], dict[str, list[Clock]]]:
    """Plans, traces, and what was measured of plans, by the names of folders."""
    plans: dict[str, Plan] = {}
    traces: dict[str, Trace] = {}
    clocks: dict[str, list[Clock]] = {}
    for path in paths:
        name = path.name or str(path)
        if (path / "plan.json").exists():
            plans[name] = Plan.read(path)
        elif (path / "trace.json").exists():
            traces[name] = Trace.read(path)
        elif path.is_file():
            if not plans:
                raise InputError(f"{path} is measured of a plan; name the plan before it.")
            measured = next(reversed(plans))
            clocks.setdefault(measured, []).extend(_clocks(path, plans[measured]))
        else:
            raise InputError(
                f"{path} is neither a trace nor a plan, nor a file of `bench --json`; give folders "
                "of `offramp`."
            )
    return plans, traces, clocks


def _fits(plan: Plan, trace: Trace) -> bool:
    return plan.graph == trace.graph and plan.classes == trace.classes


def _clocks(path: Path, plan: Plan) -> list[Clock]:
    """What `bench --json` measured of a plan. Raises InputError where it is of none or another."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        kept = [{key: row[key] for key in Clock.__dataclass_fields__} for row in rows]
        found = [record_of(Clock, row) for row in kept]
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise InputError(
            f"{path} is not what `offramp bench --json` prints ({problem}); measure again, and "
            "save what it prints."
        ) from None
    for clock in found:
        if set(clock.exits) != set(plan.graph.order):
            raise InputError(
                f"{path} was measured of a plan with stages {', '.join(clock.exits)}, not "
                f"{', '.join(plan.graph.order)}. Name it after its own plan."
            )
    return found


def _section(
    name: str,
    plan: Plan,
    traces: dict[str, Trace],
    clocks: tuple[Clock, ...],
    data: str | None,
) -> ReportInput:
    """A plan with frontiers, its dial and an evaluation, on the first unseen trace if there is one.

    All are at the plan's costs, as is its certificate. Policies learn on the trace that taught it,
    or else on half of the other.
    """
    own = tasks.is_own(plan.certificate.loss)
    notes = [f"The loss {plan.certificate.loss} is code, which no report runs."] if own else []
    if plan.refits:
        notes.append("All that is compared is refitted as in the plan, the reference too.")
    taught = [t for t in traces.values() if t.info.get("data") in plan.fitted_on]
    unseen = [t for t in traces.values() if t.info.get("data") not in plan.fitted_on]
    shown = [*unseen[:1], *taught][:1]
    return ReportInput(
        name=name,
        comparison=_compared(plan, [*taught, *unseen][:1], unseen) if shown else None,
        plan=plan,
        evaluation=evaluate(plan, unseen[0]) if unseen and not own else None,
        note=" ".join(notes),
        clocks=clocks,
        dial=dial(plan, shown[0], data) if shown and not own else None,
    )


def _compared(plan: Plan, tuned: Sequence[Trace], unseen: Sequence[Trace]) -> Comparison:
    """Policies learned on one trace and measured on another, or on halves of the only one."""
    test = next((trace for trace in unseen if trace is not tuned[0]), None)
    ready = [trace and with_refits(priced(plan, trace), plan.refits) for trace in (tuned[0], test)]
    first, second = ready
    assert first is not None
    return compare(first, second, loss=_loss(test or tuned[0], plan))


def _loss(trace: Trace, plan: Plan | None) -> str | None:
    """The plan's loss where the trace can give it, else the trace's own, else disagreement."""
    name = plan.certificate.loss if plan else None
    if name == tasks.DISAGREEMENT or (trace.labels is None and not trace.loss):
        return tasks.DISAGREEMENT
    return None if name is None or tasks.is_own(name) else name
