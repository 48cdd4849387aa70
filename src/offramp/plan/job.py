"""What is learned for one budget, and what sealed rows then say of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from offramp.answering.committees import with_committees
from offramp.answering.refit import Refits, Repair, learn_refits, with_refits
from offramp.base.hashing import hash_rows
from offramp.core import tasks
from offramp.core.frontier import TracePolicy, excess_of, replay
from offramp.core.graph import Graph
from offramp.core.meaning import chance_loss, doubts
from offramp.core.parts import versions
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.core.walk import Outcome
from offramp.learn.latency import Latency, Settled, settle
from offramp.learn.pool import edges_of, search
from offramp.learn.teach import AUTO, QUICK, Taught, Ways, teach
from offramp.networks.networks import Networks
from offramp.plan.plan import Plan, Profile
from offramp.policies import Deployable, Policy, Static, family, policy_to_json
from offramp.policies.learned import SAMPLE, Learned
from offramp.promise.certify import (
    Candidate,
    Certificate,
    Order,
    Saving,
    Trial,
    certify,
    safest_first,
)


@dataclass(frozen=True)
class Rows:
    """The examples of a trace, as far as they may be used."""

    trace: Trace  # all of them, for what it says of itself
    learning: Trace
    certifying: Trace  # at the costs of `trace`
    source: Trace  # those that certify are rows of


@dataclass(frozen=True)
class Job:
    """A policy, how stages answer, and what is tested in which order; nothing is certified yet."""

    rows: Rows
    ways: Ways
    budget: float
    confidence: float
    taught: Taught
    certifying: Trace  # as the stages answer, and at the costs that count
    order: Order
    refits: Refits
    refit: bool  # whether refits were asked for
    pool: str | None  # the edges that were found, where the graph was searched for
    latency: Latency | None
    dropped: Mapping[str, str] = field(default_factory=dict)  # stage -> why

    def certificate(self, level: float) -> Certificate:
        """What the rows that certify say, at an error of `level`."""
        path = candidates(self.certifying, self._losses, self.taught.policy)
        return self._certify(path, statics(self.certifying, self._losses), level)

    def nothing(self) -> Certificate:
        """What can be said without looking: the reference runs."""
        return self._certify((), {}, 1 - self.confidence)

    def question(self) -> dict[str, Any]:
        """All that is tested, as JSON values, and what counts as loss.

        Losses are computed here, so that what cannot be computed is said before anything is asked.
        """
        lesson = self.taught.lesson
        said = lesson.losses.single().values if self._losses else {}
        return {
            "budget": self.budget,
            "excess": self.ways.excess,
            "loss": lesson.losses.name,
            "losses": [int(hash_rows(values).sum(dtype=np.uint64)) for values in said.values()],
            "policy": policy_to_json(self.taught.policy),
            "committees": {s: found.to_json() for s, found in lesson.committees.items()},
            "refits": {s: found.to_json() for s, found in self.refits.items()},
            "order": [self.order.start, dict(self.order.places)],
            "costs": self.certifying.costs.to_json(),
            "seed": self.ways.seed,
        }

    @cached_property
    def _losses(self) -> Losses:
        return self.certifying.losses(self.ways.loss, self.ways.excess)

    def _certify(
        self, path: Iterable[Candidate], singles: Mapping[str, Candidate], level: float
    ) -> Certificate:
        losses, learned = self._losses, self.taught.lesson.losses
        found = certify(
            path,
            singles,
            self.budget,
            reference=losses.reference,
            reference_cost=self.certifying.reference_cost,
            confidence=self.confidence,
            order=self.order,
            trial=Trial(
                excess=self.ways.excess,
                loss=losses.name,
                binary=tasks.is_binary(losses.name) or learned.binary,
                level=level,
                seed=self.ways.seed,
            ),
        )
        labels = self.certifying.labels
        if self.ways.loss == tasks.DISAGREEMENT or labels is None:
            return found
        return replace(
            found,
            reference_loss=float(losses.of_reference.mean(dtype=np.float64)),
            chance_loss=chance_loss(losses.name, labels, self.certifying.classes),
        )

    def plan(self, certificate: Certificate, networks: Networks | None) -> Plan:
        """What is deployed under a certificate."""
        trace, policy = self.rows.trace, self.taught.policy
        certificate = replace(
            certificate,
            batch=self.certifying.costs.batch,
            sizes=tuple(_savings(self.certifying, policy, certificate)),
        )
        return Plan(
            graph=trace.graph,
            costs=self.certifying.costs,
            kinds=trace.kinds,
            classes=trace.classes,
            policy=policy,
            tradeoff=certificate.tradeoff,
            certificate=certificate,
            profile=profile(self.certifying, policy, certificate),
            committees=self.taught.lesson.committees,
            networks=networks.files if networks else {},
            preprocessing=networks.preprocessing if networks else None,
            info=self._info(),
            refits=self.refits,
            repair=self._repair() if self.refit else None,
        )

    def _repair(self) -> Repair:
        """What refits do by themselves, on the examples that certify."""
        recorded = replace(self.rows.certifying, costs=self.certifying.costs)
        after = with_refits(recorded, self.refits)
        return Repair.of(recorded, after, self.ways.loss, self.ways.excess, self.budget)

    def _info(self) -> dict[str, Any]:
        trace, learning = self.rows.trace, self.rows.learning
        sampled = isinstance(self.taught.policy, Learned) and learning.examples > SAMPLE
        return {
            "policies_tried": dict(self.taught.held_out),
            "learning_examples": SAMPLE if sampled else learning.examples,
            "learning_sampled_from": learning.examples if sampled else None,
            "certification_data": self.rows.certifying.info.get("data"),
            "learning_data": trace.info.get("data"),
            "learning_rows": trace.digest,
            "certification_rows": self.rows.source.digest,
            **({"class_names": names} if (names := trace.info.get("class_names")) else {}),
            "recorded_networks": trace.info.get("networks"),
            "recorded_preprocessing": trace.info.get("preprocessing"),
            "seed": self.ways.seed,
            "versions": versions(),
            "pool": self.pool,
            "latency": self.latency and self.latency.to_json(),
            "dropped": dict(self.dropped),
            "input": trace.info.get("input"),
            "notes": [*(trace.info.get("notes") or []), *self._doubts()],
        }

    def _doubts(self) -> list[str]:
        """Whether labels mean the classes of the scores, from the examples that taught."""
        learning = self.rows.learning
        if not tasks.is_top(self._losses.name):
            return []
        return doubts(learning.scores, learning.labels, learning.graph.reference)


def prepare(
    rows: Rows,
    ways: Ways,
    budget: float,
    *,
    policy: str = AUTO,
    pool: bool = False,
    refit: bool = False,
    confidence: float = 0.95,
    latency: Latency | None = None,
) -> Job:
    """Everything that is learned for a budget, from the rows that teach alone; see `fit`."""
    learning, certifying = rows.learning, rows.certifying
    refits: Refits = {}
    if refit:
        refits, learning = learn_refits(
            learning, ways.loss, unlabelled=ways.unlabelled, seed=ways.seed
        )
        certifying = with_refits(certifying, refits)
    if pool:
        learning = replace(learning, graph=search(learning, ways).graph)
    edges = edges_of(learning.graph) if pool else None
    dropped: Mapping[str, str] = {}
    if latency:
        settled = _settled(learning, ways, policy, latency, rows.trace.graph)
        learning = replace(learning, graph=settled.graph, costs=settled.costs)
        certifying = replace(certifying, costs=settled.costs)
        dropped = settled.dropped
    taught = teach(learning, ways, policy)
    certifying = with_committees(certifying, taught.lesson.committees)
    return Job(
        rows=rows,
        ways=ways,
        budget=budget,
        confidence=confidence,
        taught=taught,
        certifying=certifying,
        order=_order(taught, certifying, budget),
        refits=refits,
        refit=refit,
        pool=edges,
        latency=latency,
        dropped=dropped,
    )


def _settled(learning: Trace, ways: Ways, policy: str, latency: Latency, every: Graph) -> Settled:
    decides = family(QUICK if policy == AUTO else policy)
    losses = learning.losses(ways.loss, ways.excess)
    return settle(learning, losses, decides, latency, ways.levels[-1], ways.seed, every)


def candidates(trace: Trace, losses: Losses, policy: Policy) -> Iterator[Candidate]:
    """Each setting of the dial on these examples, safest first, computed when asked for."""
    recorded = TracePolicy(policy, trace)
    for setting in policy.settings:
        yield _candidate(trace, losses, recorded, float(setting), float(setting))


def _order(taught: Taught, certifying: Trace, budget: float) -> Order:
    """What is tested when, from the examples that taught; of the others costs alone count."""
    learning, losses = taught.lesson.trace, taught.lesson.losses
    themselves = replace(learning, graph=certifying.graph, costs=certifying.costs)
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


def _walked(trace: Trace, policy: Policy, certificate: Certificate) -> Outcome:
    """The walks of these examples, as certified."""
    if certificate.tradeoff is None:
        return replay(trace, Static.of(trace.graph, certificate.static_choice), float("nan"))
    return replay(trace, policy, certificate.tradeoff)


def _savings(trace: Trace, policy: Policy, certificate: Certificate) -> Iterator[Saving]:
    """What the same walks save by the costs at other batch sizes."""
    for batch, costs in trace.costs.at.items():
        priced = replace(trace, costs=costs)
        cost = float(_walked(priced, policy, certificate).cost.mean())
        yield Saving(batch, cost, priced.reference_cost, priced.reference_cost / cost)


def profile(trace: Trace, policy: Deployable, certificate: Certificate) -> Profile:
    """What these examples look like to the plan."""
    exits = _walked(trace, policy, certificate).exits()
    return Profile.of(trace.scores[trace.graph.root], trace.kinds[trace.graph.root], exits)
