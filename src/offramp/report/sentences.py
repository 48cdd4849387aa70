"""The promise in words: for the person who must decide, not for the one who computed it."""

from __future__ import annotations

from offramp.core.tasks import DISAGREEMENT
from offramp.plan.evaluate import Evaluation
from offramp.promise.certify import KEEP, ROUTE, Certificate


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


def advice(found: Certificate) -> str:
    """What may bring a saving where none is certified."""
    needed, more = found.examples_needed, "a larger budget, more or cheaper stages"
    if needed is None:
        return (
            "No number of examples would certify this budget at these rates of changed answers. "
            f"What may help: {more}."
        )
    if needed > found.examples:
        return (
            f"What may help: more examples, about {needed} to certify the safest point at these "
            f"rates in place of {found.examples}; {more}."
        )
    return f"What is safe enough saves nothing. What may help: {more}."


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
