"""From a trace and a budget to a plan: learn on one part, certify on the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from offramp import tasks
from offramp.certify import Candidate, Certificate, Order, certify, check_promise, safest_first
from offramp.committees import Committees, answering
from offramp.errors import TraceError
from offramp.frontier import Recorded, excess_of, replay
from offramp.latency import Latency, Settled, settle
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
        policy: one of `offramp.policies.FAMILIES`, or `auto`: what costs least on held-out examples
            (`offramp.teach`).
        pool: the stages are candidates: `offramp.pool` finds which of them take part, in which
            order and with which skips; the edges of `trace` do not count.
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
        family(policy)  # raises where there is none
    if networks:
        _check_networks(trace, networks)
    name = tasks.DISAGREEMENT if unlabelled else loss
    ways = Ways(name, excess, unlabelled, committees, (0.0, budget / 2, budget), seed)
    parts = _parts(trace, certify_on, learn_share, seed)
    refits: Refits = {}
    recorded = parts.certifying
    if refit:
        refits, parts = parts.refitted(ways)
    if pool:
        found = search(parts.learning, ways).graph
        parts = replace(parts, learning=replace(parts.learning, graph=found))
    dropped: Mapping[str, str] = {}
    if latency:
        settled = _settled(parts.learning, ways, policy, latency)
        parts, dropped = parts.at(settled, latency), settled.dropped
    repair = None
    if refit:
        priced = replace(recorded, costs=parts.alone.costs)
        repair = Repair.of(priced, parts.alone, name, excess, budget)
    taught = teach(parts.learning, ways, policy)
    parts = parts.answering(taught.lesson.committees)
    losses = parts.certifying.losses(name, excess)
    certificate = certify(
        candidates(parts.certifying, losses, taught.policy),
        statics(parts.alone, losses),
        budget,
        reference=losses.reference,
        reference_cost=parts.certifying.reference_cost,
        confidence=confidence,
        excess=excess,
        loss=losses.name,
        binary=tasks.is_binary(losses.name) or losses.binary,
        order=_order(taught, parts.alone, budget),
        seed=seed,
    )
    return Plan(
        trace.graph,
        parts.certifying.costs,
        trace.kinds,
        trace.classes,
        taught.policy,
        certificate.tradeoff,
        certificate,
        profile(parts.certifying, taught.policy, certificate),
        taught.lesson.committees,
        networks.files if networks else {},
        networks.preprocessing if networks else None,
        {
            **_info(trace, parts, taught, seed),
            "pool": edges_of(parts.learning.graph) if pool else None,
            "latency": latency and latency.to_json(),
            "dropped": dict(dropped),
        },
        refits,
        repair,
    )


@dataclass(frozen=True)
class _Parts:
    """The examples that teach and those that certify."""

    learning: Trace
    certifying: Trace
    alone: Trace  # those that certify, at the costs of networks that run alone

    def refitted(self, ways: Ways) -> tuple[Refits, _Parts]:
        """What refits are learned, and the parts as stages then answer them."""
        refits, learning = learn_refits(
            self.learning, ways.loss, unlabelled=ways.unlabelled, seed=ways.seed
        )
        certifying = refitted(self.certifying, refits)
        return refits, _Parts(learning, certifying, certifying)

    def at(self, settled: Settled, latency: Latency) -> _Parts:
        """At the costs of requests of one size, without the stages that do not pay in them."""
        return _Parts(
            replace(self.learning, graph=settled.graph, costs=settled.costs),
            replace(self.certifying, costs=settled.costs),
            replace(self.alone, costs=latency.costs(self.alone.graph, stops=False)),
        )

    def answering(self, together: Committees) -> _Parts:
        """As committees answer those that certify; those that teach have been answered so."""
        certifying = answering(self.certifying, together)
        return replace(
            self, certifying=certifying, alone=replace(certifying, costs=self.alone.costs)
        )


def _settled(learning: Trace, ways: Ways, policy: str, latency: Latency) -> Settled:
    decides = family(QUICK if policy == AUTO else policy)
    losses = learning.losses(ways.loss, ways.excess)
    return settle(learning, losses, decides, latency, ways.levels[-1], ways.seed)


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


def _parts(trace: Trace, certify_on: Trace | None, learn_share: float | None, seed: int) -> _Parts:
    if certify_on is None:
        share = learning_share(trace.examples) if learn_share is None else learn_share
        learn, rest = trace.split(share, seed)
        learning, certifying = trace.take(learn), trace.take(rest)
    else:
        learning, certifying = trace, certify_on
        if certify_on.graph != trace.graph or certify_on.classes != trace.classes:
            raise TraceError("the trace to certify on was recorded with another graph.")
        if trace.info.get("data") and certify_on.info.get("data") == trace.info.get("data"):
            raise TraceError(
                "the trace to certify on holds the same data as the one to learn from; a promise "
                "needs examples that taught nothing. Leave --certify out, or record others."
            )
    for part, what in ((learning, "learn from"), (certifying, "certify on")):
        if part.examples < FEWEST:
            raise TraceError(
                f"there are {part.examples} examples to {what}; at least {FEWEST} are needed, and "
                "a budget of one point takes several hundred. Record more examples."
            )
    return _Parts(learning, certifying, certifying)


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


def _info(trace: Trace, parts: _Parts, taught: Taught, seed: int) -> dict[str, Any]:
    learning = parts.learning
    sampled = isinstance(taught.policy, Learned) and learning.examples > SAMPLE
    return {
        "policies_tried": dict(taught.held_out),
        "learning_examples": SAMPLE if sampled else learning.examples,
        "learning_sampled_from": learning.examples if sampled else None,
        "certification_data": parts.certifying.info.get("data"),
        "learning_data": trace.info.get("data"),
        **({"class_names": names} if (names := trace.info.get("class_names")) else {}),
        "recorded_networks": trace.info.get("networks"),
        "seed": seed,
        "versions": versions(),
    }
