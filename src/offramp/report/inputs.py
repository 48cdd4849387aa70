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
from offramp.report.page import Clock, ReportInput
from offramp.study.compare import compare


def report_inputs(paths: Sequence[Path]) -> list[ReportInput]:
    """One section per plan, with the traces of its graph, and one per other trace.

    A trace is compared on halves. A plan is evaluated only on a trace that it was not fitted on.
    What `bench --json` said, saved to a file, is of the plan that is named before it.

    Raises:
        InputError: neither a trace nor a plan, nor measured of one.
    """
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
    sections, used = [], set()
    for name, plan in plans.items():
        found = {n: t for n, t in traces.items() if _fits(plan, t)}
        used |= set(found)
        sections += [_section(name, plan, found, tuple(clocks.get(name, ())))]
    return sections + [
        ReportInput(name, compare(trace, loss=_loss(trace, None)))
        for name, trace in traces.items()
        if name not in used
    ]


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
    name: str, plan: Plan, traces: dict[str, Trace], clocks: tuple[Clock, ...]
) -> ReportInput:
    """A plan with the frontier of the first trace and an evaluation on the first unseen one.

    Both are at the plan's costs, as is its certificate.
    """
    own = tasks.is_own(plan.certificate.loss)
    notes = [f"The loss {plan.certificate.loss} is code, which no report runs."] if own else []
    if plan.refits:
        notes.append("All that is compared is refitted as in the plan, the reference too.")
    fitted = plan.fitted_on
    unseen = [trace for trace in traces.values() if trace.info.get("data") not in fitted]
    shown = [*(t for t in traces.values() if t.info.get("data") in fitted), *unseen][:1]
    return ReportInput(
        name,
        compare(with_refits(priced(plan, shown[0]), plan.refits), loss=_loss(shown[0], plan))
        if shown
        else None,
        plan,
        evaluate(plan, unseen[0]) if unseen and not own else None,
        " ".join(notes),
        clocks,
    )


def _loss(trace: Trace, plan: Plan | None) -> str | None:
    """The plan's loss where the trace can give it, else the trace's own, else disagreement."""
    name = plan.certificate.loss if plan else None
    if name == tasks.DISAGREEMENT or (trace.labels is None and not trace.loss):
        return tasks.DISAGREEMENT
    return None if name is None or tasks.is_own(name) else name
