"""What the user of a plan should know besides its certificate, in sentences."""

from __future__ import annotations

from offramp.answering.refit import Repair
from offramp.plan.plan import Plan

_WORTH_A_CALL = 2.0  # times what a call and a decision take: below, they dominate


def notes(plan: Plan) -> list[str]:
    """What its user should know besides the certificate."""
    found = []
    if sampled := plan.info.get("learning_sampled_from"):
        found.append(
            f"learned from a sample of {plan.info['learning_examples']} of {sampled} examples; "
            f"certified on all {plan.certificate.examples}"
        )
    if pool := plan.info.get("pool"):
        found.append(f"of the pool takes part: {pool}")
    for stage, why in plan.info.get("dropped", {}).items():
        found.append(f"without stage '{stage}': {why}")
    if plan.repair:
        found += _repair_notes(plan, plan.repair)
    found += plan.info.get("notes") or []
    found += _too_small(plan)
    if not plan.networks:
        found.append("the plan has no networks and cannot run; add --graph GRAPH for that")
    return found


def _too_small(plan: Plan) -> list[str]:
    """Stages that take hardly longer than calling them and deciding after them."""
    costs = plan.costs.smallest()
    if not plan.routes or not costs.overhead:
        return []
    least = _WORTH_A_CALL * costs.overhead
    small = [stage for stage in plan.policy.graph.order if costs.body[stage] < least]
    if not small:
        return []
    names = ", ".join(f"'{stage}' ({costs.body[stage] * 1e6:.0f} us)" for stage in small)
    return [
        f"at batch {costs.batch} calling a network and deciding take "
        f"{costs.overhead * 1e6:.0f} us, as long as stages themselves: {names}. Networks this "
        "small save less on the clock than by their costs; see `offramp bench`"
    ]


def repairs(plan: Plan) -> list[tuple[str, str]]:
    """What refits do by themselves, line by line; nothing where nobody asked for them.

    Losses are those of the certification examples, which no refit was learned on.
    """
    found = plan.repair
    if found is None:
        return []
    lines = []
    for stage in plan.graph.order:
        how = f"refitted {plan.refits[stage]}" if stage in plan.refits else "not refitted"
        before, after = found.before[stage], found.after[stage]
        lines.append((f"loss of '{stage}' alone", f"{before:.2%}, then {after:.2%}: {how}"))
    return [
        *lines,
        ("single network as recorded", f"{found.without:.2f}, the cheapest within the budget"),
        ("by repair", f"{found.gained:.2f} times as much, '{found.choice}' alone"),
        ("by routing", _by_routing(plan)),
    ]


def _by_routing(plan: Plan) -> str:
    certificate = plan.certificate
    if not plan.routes:
        return "none: the plan does not route"
    ahead = certificate.static_cost / certificate.cost
    return (
        f"{ahead:.2f} times as fast as '{certificate.static_choice}', the cheapest single "
        "network that is certified"
    )


def _repair_notes(plan: Plan, repair: Repair) -> list[str]:
    if not plan.refits:
        return ["no stage is refitted: none loses less by it on held-out examples"]
    names = ", ".join(f"'{stage}'" for stage in plan.refits)
    reference = plan.graph.reference
    against = (
        f"Excess loss is against '{reference}' refitted, whose loss on the certification "
        f"examples went from {repair.before[reference]:.2%} to {repair.after[reference]:.2%}"
        if reference in plan.refits
        else f"Excess loss is against '{reference}' as it is"
    )
    return [
        f"refitted: {names}. {against}",
        f"by repair the cheapest single network within the budget is {repair.gained:.2f} times "
        f"as fast on the certification examples; by routing: {_by_routing(plan)}. What "
        "repairing a network saves is no adaptive inference",
    ]
