"""The promise in words: for the person who must decide, not for the one who computed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from offramp.core.hulls import LEVELS
from offramp.core.tasks import DISAGREEMENT
from offramp.plan.evaluate import Evaluation
from offramp.plan.plan import Plan
from offramp.promise.certify import KEEP, ROUTE, Certificate
from offramp.study.compare import OWN, Comparison

_PAGE = "docs/keep-the-reference.md"  # on what to do where nothing is saved


@dataclass(frozen=True)
class Number:
    """One of the large numbers."""

    name: str
    value: str
    means: str  # how it was found


class ClockRow(Protocol):
    """What was measured on the clock."""

    @property
    def batch(self) -> int: ...

    @property
    def reference(self) -> str: ...

    @property
    def speedup(self) -> float: ...


def promise(found: Certificate, reference: str) -> str:
    """The certificate in one sentence."""
    chance = f"with a probability of at least {found.confidence:.4g}"
    budget = f"{found.budget * 1000:.4g} in 1,000"
    if found.loss == DISAGREEMENT:
        what = f"at most {budget} answers differ from those of '{reference}'"
    elif found.excess == "induced":
        what = f"at most {budget} answers are worse than those of '{reference}' alone"
    else:
        name = f"the {found.loss} error rate" if found.loss.startswith("top") else "the mean loss"
        what = f"{name} is at most {budget} above that of '{reference}' alone"
    if found.verdict == ROUTE:
        return (
            f"On inputs drawn like the {found.examples} certification examples, {what}, {chance}, "
            f"at {found.cost / found.reference_cost:.0%} of its cost."
        )
    if found.verdict == KEEP:
        return (
            f"No saving could be certified: on {found.examples} examples nothing cheaper than "
            f"'{reference}' was shown to stay within {budget}, so the plan runs '{reference}'."
        )
    return (
        f"Running '{found.static_choice}' alone keeps the promise: on inputs drawn like the "
        f"{found.examples} certification examples, {what}, {chance}, at "
        f"{found.cost / found.reference_cost:.0%} of its cost; no routing was shown to be cheaper."
    )


def verdict(found: Certificate) -> str:
    """What to do, and where nothing is saved what to try next."""
    if found.verdict == ROUTE:
        return f"Route: {found.speedup:.2f} times less cost than the reference{sizes(found)}."
    name = found.static_choice
    if found.verdict == KEEP:
        return f"Keep the reference '{name}': no saving is certified. {advice(found)}"
    return (
        f"Run one network, '{name}', alone: {found.speedup:.2f} times less cost than the "
        f"reference{sizes(found)}; no routing was shown to be cheaper."
    )


def lead(plan: Plan | None, comparison: Comparison | None, clocks: Sequence[ClockRow] = ()) -> str:
    """What a reader should remember, in one sentence."""
    if plan is None:
        if comparison is None:
            return "Nothing was compared."
        at, speedup = _offered(comparison)
        return (
            f"On {comparison.examples} examples offramp's default policy costs {1 / speedup:.0%} "
            f"of '{comparison.reference}' at {at:.4g} points of excess loss; nothing is certified."
        )
    found, reference = plan.certificate, plan.graph.reference
    if found.verdict == KEEP:
        return f"Keep '{reference}': no saving is certified."
    share, of = _saved(found, clocks)
    saves = f"saves {share:.0%} of {of}" if share >= 0 else f"takes {-share:.0%} more of {of}"
    who = "This plan" if found.verdict == ROUTE else f"'{found.static_choice}' alone"
    return (
        f"{who} {saves} that '{reference}' takes, and loses at most {found.budget * 100:.4g} "
        f"points{_of(found)}, with {100 * found.confidence:.4g}% confidence."
    )


def headline(
    plan: Plan | None, comparison: Comparison | None, clocks: Sequence[ClockRow] = ()
) -> list[Number]:
    """What is saved, what is lost, and how sure that is."""
    if plan is None:
        return _compared(comparison) if comparison else []
    found, reference = plan.certificate, plan.graph.reference
    share, of = _saved(found, clocks)
    quickest = _first(clocks)
    how = (
        f"measured at batch {quickest.batch} against {quickest.reference}: {quickest.speedup:.2f} "
        "times as fast"
        if quickest
        else f"by costs, not on the clock; `offramp bench` measures that. '{reference}' costs "
        f"{found.reference_cost:.4g} {plan.costs.unit}, what runs {found.cost:.4g}"
    )
    seen = observed(found)
    return [
        Number(f"of {of} saved" if share >= 0 else f"more of {of}", f"{abs(share):.0%}", how),
        Number(
            "excess loss" if found.loss != DISAGREEMENT else "disagreement",
            "0 points" if seen is None else f"{seen * 100:+.2f} points",
            f"promised: at most {found.budget * 100:.4g} points; upper bound on "
            f"{found.examples} examples {found.bound * 100:.2f} points"
            if found.verdict != KEEP
            else f"the reference runs; nothing cheaper was shown to stay within "
            f"{found.budget * 100:.4g} points",
        ),
        Number(
            "confidence",
            f"{100 * found.confidence:.4g}%",
            "over the draw of the certification examples"
            if found.verdict != KEEP
            else "was asked for; running the reference needs none",
        ),
    ]


def observed(found: Certificate) -> float | None:
    """The excess loss of what runs on the certification examples; None: of the reference itself."""
    if found.verdict == KEEP:
        return None
    if found.tradeoff is not None:
        return next(p.excess_loss for p in found.points if p.tradeoff == found.tradeoff)
    alone = [tested for tested in found.statics if tested.stage == found.static_choice]
    return alone[0].excess_loss if alone else found.bound


def dial(examples: int, *, other: bool = False) -> str:
    """What turning the dial shows, and on which examples."""
    what = (
        "the same kind of policy, learned on half of the open examples and measured on the other"
        if other
        else "the policy"
    )
    return (
        f"One number, the tradeoff, steers {what}: what it costs and loses at each setting, on "
        f"{examples} examples. Nothing is promised but at the certified setting; whoever chooses "
        "another one here needs new examples to certify it."
    )


def excerpts(examples: int, taught: bool) -> str:
    """Which examples those are that are shown."""
    whose = "that taught the policy" if taught else "that it has not seen"
    return f"Of {examples} open examples {whose}; sealed ones are not shown."


def _saved(found: Certificate, clocks: Sequence[ClockRow]) -> tuple[float, str]:
    """The share that is saved, and of what: of the time where it was measured."""
    quickest = _first(clocks)
    if quickest:
        return 1 - 1 / quickest.speedup, "the time"
    return 1 - found.cost / found.reference_cost, "the cost"


def _first(clocks: Sequence[ClockRow]) -> ClockRow | None:
    """The measurement at the smallest batch."""
    return min(clocks, key=lambda clock: clock.batch) if clocks else None


def _of(found: Certificate) -> str:
    """What points are points of."""
    if found.loss == DISAGREEMENT:
        return " of agreement"
    return " of accuracy" if found.loss == "top1" else ""


def _compared(found: Comparison) -> list[Number]:
    at, speedup = _offered(found)
    return [
        Number(
            "of the cost saved",
            f"{1 - 1 / speedup:.0%}",
            f"by costs, not on the clock: offramp's default policy against '{found.reference}'",
        ),
        Number(
            "excess loss",
            f"{at:.4g} points",
            f"as measured on {found.examples} other examples; no bound without a certificate",
        ),
        Number("confidence", "none", "nothing is certified; `offramp fit` makes a plan"),
    ]


def _offered(found: Comparison) -> tuple[float, float]:
    """A middle level of excess loss, in points, and the default policy's speed-up there."""
    level = len(LEVELS) // 2
    best = found.summaries.get(OWN) or next(iter(found.summaries.values()))
    return LEVELS[level] * 100, best.speedups[level].value


def clock(speedup: float, reference: str, batch: int) -> str:
    """What was measured, in one sentence."""
    times = f"{speedup:.2f} times as fast as '{reference}'"
    slower = f"{1 / speedup:.2f} times as slow as '{reference}'"
    return f"On the clock, at batch {batch}: {times if speedup >= 1 else slower}."


def sizes(found: Certificate) -> str:
    """The batch size that a saving is at, and what is saved at others."""
    if found.batch is None:
        return ""
    others = ", ".join(f"{saving.speedup:.2f} at batch {saving.batch}" for saving in found.sizes)
    return f" at batch {found.batch}" + (f" ({others})" if others else "")


def spread(found: Certificate | Evaluation) -> list[tuple[str, str]]:
    """Where mean costs lie, by name, where costs differ from example to example."""
    intervals = [
        ("95 % interval of the mean cost", found.cost_interval),
        ("95 % interval of the speed-up", found.speedup_interval),
    ]
    each = [(name, ends) for name, ends in intervals if ends is not None]
    return [(name, f"{low:.4g} to {high:.4g} (normal)") for name, (low, high) in each]


def advice(found: Certificate) -> str:
    """What may bring a saving where none is certified, and the page that says more."""
    needed, more = found.examples_needed, f"a larger budget, more or cheaper stages. See {_PAGE}."
    if needed is None:
        return (
            "No number of examples would certify this budget at these rates of changed answers. "
            f"What may help: {more}"
        )
    if needed > found.examples:
        return (
            f"What may help: more examples, about {needed} to certify the safest point at these "
            f"rates in place of {found.examples}, in a new trace (`fit --certify`); {more}"
        )
    return f"What is safe enough saves nothing. What may help: {more}"


def kept(found: Evaluation) -> str:
    """What other examples say of the promise."""
    if found.interval is None:
        return f"{found.examples} other examples have no labels, so they cannot tell."
    low, high = found.interval
    seen = (
        f"on {found.examples} other examples the excess loss lies between {low:.2%} and {high:.2%} "
        f"at {found.confidence:.4g} confidence"
    )
    if found.kept == "yes":
        return f"Kept: {seen}."
    if found.kept == "no":
        return f"Broken: {seen}, above the budget."
    return f"Unknown: {seen}, which leaves both open."


ASSUMPTIONS = (
    "Inputs are drawn like the certification examples. Where cameras, users or seasons change, "
    "the promise lapses; `offramp evaluate` on recent examples shows whether they look alike.",
    "The certification examples trained nothing: neither the networks nor the policy.",
    "The certificate covers this one fit. Fitting again after seeing it, or choosing among several "
    "plans by it, needs new examples.",
    "The probability is over the draw of the certification examples: of all plans made this way, "
    "at most the stated share break their budget.",
    "Labels are taken as the truth.",
    "Costs are those that the trace states; what the clock says is measured by `offramp bench`.",
)
