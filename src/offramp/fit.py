"""From a trace and a budget to a plan: learn on one part, certify on the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from offramp import tasks
from offramp.certify import Candidate, Certificate, Order, certify, check_promise, safest_first
from offramp.committees import answering
from offramp.errors import TraceError
from offramp.frontier import Recorded, excess_of, replay
from offramp.latency import Latency, settle
from offramp.networks import Networks
from offramp.plan import Plan, Profile
from offramp.policies import Deployable, Policy, Static, family
from offramp.policies.learned import SAMPLE, Learned
from offramp.pool import edges_of, search
from offramp.refit import Refits, Repair, refitted
from offramp.refit import learn as learn_refits
from offramp.tasks import Excess, Losses
from offramp.teach import AUTO, QUICK, Taught, Ways, teach
from offramp.trace import Trace, versions

FEWEST = 20  # examples to learn from, and to certify on; below, nothing is worth an answer
LEARN_SHARE = 1 / 3  # of the examples, to learn from
LEARN_MOST = 2500  # examples, likewise


def fit(
    trace: Trace,
    budget: float,
    *,
    confidence: float = 0.95,
    excess: Excess = "net",
    loss: str | None = None,
    unlabelled: bool = False,
    policy: str = AUTO,
    pool: bool = False,
    committees: bool = True,
    refit: bool = False,
    learn_share: float | None = None,
    seed: int = 0,
    certify_on: Trace | None = None,
    networks: Networks | None = None,
    latency: Latency | None = None,
) -> Plan:
    """The plan that keeps the promise with just enough network, or with one network alone.

    Args:
        trace: recorded examples that trained none of the networks.
        budget: excess loss given up, a fraction in [0, 1]; 0.01 is one percentage point.
        confidence: chance, over the draw of the examples, that the promise holds.
        excess: `net`, or `induced`, which lets no gain make up for a loss.
        loss: top1, top5, module:function; None takes the trace's own, else top1.
        unlabelled: loss is disagreement with the reference; labels are not looked at.
        policy: one of `offramp.policies.FAMILIES`.
        committees: stages may answer with all the scores their walks have paid for, where that
            loses less.
        refit: stages answer with refitted scores, where that loses less; the reference as well, and
            the promise is then against the refitted one.
        learn_share: part of `trace` that is learned from, the rest certifies; None: as much as
            learning is worth (`learning_share`).
        seed: of the split, the folds and the order of the betting test.
        certify_on: certify on these examples instead, and learn from all of `trace`.
        networks: the ONNX files, where the plan is to run.
        latency: costs are the time of requests of its size, with the rows that are expected to come
            to each stage, and stages that save nothing in it are left out; None: costs as recorded.

    Returns:
        A plan, always; its certificate says whether it routes.

    Raises:
        BudgetError: budget, confidence or share out of range.
        TraceError: too few examples, no labels, or `certify_on` of another graph.
    """
    check_promise(budget, confidence)
    if policy != AUTO:
        family(policy)
    if networks:
        _check_networks(trace, networks)
    learning, certifying = _parts(trace, certify_on, learn_share, seed)
    name = tasks.DISAGREEMENT if unlabelled else loss
    recorded = certifying
    refits: Refits = {}
    if refit:
        refits, learning = learn_refits(learning, name, unlabelled=unlabelled, seed=seed)
        certifying = refitted(certifying, refits)
    ways = Ways(name, excess, unlabelled, committees, (0.0, budget / 2, budget), seed)
    if pool:
        learning = replace(learning, graph=search(learning, ways).graph)
    alone, dropped = certifying, dict[str, str]()
    if latency:
        losses = learning.losses(name, excess)
        decides = family(QUICK if policy == AUTO else policy)
        settled = settle(learning, losses, decides, latency, budget, seed)
        learning = replace(learning, graph=settled.graph, costs=settled.costs)
        certifying = replace(certifying, costs=settled.costs)
        alone = replace(certifying, costs=latency.costs(trace.graph, stops=False))
        dropped = dict(settled.dropped)
    repair = None
    if refit:
        repair = Repair.of(replace(recorded, costs=alone.costs), alone, name, excess, budget)
    taught = teach(learning, ways, policy)
    together, learned = taught.lesson.committees, taught.policy
    certifying, alone = answering(certifying, together), answering(alone, together)
    losses = certifying.losses(name, excess)
    order = _order(taught, alone, budget)
    certificate = certify(
        candidates(certifying, losses, learned),
        statics(alone, losses),
        budget,
        reference=losses.reference,
        reference_cost=certifying.reference_cost,
        confidence=confidence,
        excess=excess,
        loss=losses.name,
        binary=tasks.is_binary(losses.name) or losses.binary,
        order=order,
        seed=seed,
    )
    return Plan(
        trace.graph,
        certifying.costs,
        trace.kinds,
        trace.classes,
        learned,
        certificate.tradeoff,
        certificate,
        profile(certifying, learned, certificate),
        together,
        networks.files if networks else {},
        networks.preprocessing if networks else None,
        {
            **_info(trace, learning, certifying, taught, seed),
            "pool": edges_of(learning.graph) if pool else None,
            "latency": latency and latency.to_json(),
            "dropped": dropped,
        },
        refits,
        repair,
    )


def candidates(trace: Trace, losses: Losses, policy: Policy) -> Iterator[Candidate]:
    """Each setting of the dial on these examples, safest first, computed when asked for."""
    recorded = Recorded(policy, trace)
    for setting in policy.settings:
        yield _candidate(trace, losses, recorded, float(setting), float(setting))


def _order(taught: Taught, alone: Trace, budget: float) -> Order:
    """What is tested when, from the examples that taught; of `alone` only costs are looked at."""
    learning, losses = taught.lesson.trace, taught.lesson.losses
    themselves = replace(learning, graph=alone.graph, costs=alone.costs)
    path = list(candidates(learning, losses, taught.policy))
    return safest_first(path, statics(themselves, losses), budget, learning.reference_cost)


def statics(trace: Trace, losses: Losses) -> dict[str, Candidate]:
    """Every single network but the reference."""
    names = [stage for stage in trace.graph.order if stage != losses.reference]
    return {stage: _static(trace, losses, stage) for stage in names}


def _static(trace: Trace, losses: Losses, stage: str) -> Candidate:
    return _candidate(trace, losses.single(), Static.of(trace.graph, stage), float("nan"), None)


def _candidate(
    trace: Trace, losses: Losses, policy: Policy, setting: float, tradeoff: float | None
) -> Candidate:
    outcome = replay(trace, policy, setting)
    return Candidate(tradeoff, float(outcome.cost.mean()), excess_of(outcome, losses))


def profile(trace: Trace, policy: Deployable, certificate: Certificate) -> Profile:
    """What these examples look like to the plan."""
    static = Static.of(trace.graph, certificate.static_choice)
    runs: Policy = static if certificate.tradeoff is None else policy
    setting = float("nan") if certificate.tradeoff is None else certificate.tradeoff
    exits = replay(trace, runs, setting).exits()
    return Profile.of(trace.scores[trace.graph.root], trace.kinds[trace.graph.root], exits)


def _parts(
    trace: Trace, certify_on: Trace | None, learn_share: float | None, seed: int
) -> tuple[Trace, Trace]:
    if certify_on is None:
        share = learning_share(trace.examples) if learn_share is None else learn_share
        learn, rest = trace.split(share, seed)
        learning, certifying = trace.take(learn), trace.take(rest)
    else:
        learning, certifying = trace, certify_on
        if certify_on.graph != trace.graph or certify_on.classes != trace.classes:
            raise TraceError("the trace to certify on was recorded with another graph.")
    for part, what in ((learning, "learn from"), (certifying, "certify on")):
        if part.examples < FEWEST:
            raise TraceError(
                f"there are {part.examples} examples to {what}; at least {FEWEST} are needed, and "
                "a budget of one point takes several hundred. Record more examples."
            )
    return learning, certifying


def learning_share(examples: int) -> float:
    """The part to learn from: policies soon learn no more, and certificates always gain."""
    return min(LEARN_SHARE, LEARN_MOST / max(1, examples))


def _check_networks(trace: Trace, networks: Networks) -> None:
    recorded = trace.info.get("networks")
    if networks.graph != trace.graph:
        raise TraceError("the trace was recorded with another graph than the one given.")
    if recorded is not None and recorded != networks.fingerprints():
        raise TraceError(
            "the trace was recorded with other networks than those of the graph given: their "
            "fingerprints differ. Record again with these networks."
        )


def _info(
    trace: Trace, learning: Trace, certifying: Trace, taught: Taught, seed: int
) -> dict[str, Any]:
    sampled = isinstance(taught.policy, Learned) and learning.examples > SAMPLE
    return {
        "policies_tried": dict(taught.held_out),
        "learning_examples": SAMPLE if sampled else learning.examples,
        "learning_sampled_from": learning.examples if sampled else None,
        "certification_data": certifying.info.get("data"),
        "learning_data": trace.info.get("data"),
        "recorded_networks": trace.info.get("networks"),
        "seed": seed,
        "versions": versions(),
    }
