"""What is learned for one budget, and what sealed rows then say of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from offramp.answering.committees import with_committees
from offramp.answering.refit import Refits, Repair, learn_refits, with_refits
from offramp.base.errors import InputError
from offramp.base.fields import X
from offramp.base.hashing import hash_rows
from offramp.base.progress import Progress, silent
from offramp.core import tasks
from offramp.core.example_costs import mean_interval, ratio_interval
from offramp.core.frontier import TracePolicy, excess_of, loss_of, replay
from offramp.core.meaning import chance_loss, doubts
from offramp.core.parts import versions
from offramp.core.policy import seen_by_all
from offramp.core.task import RecordedAnswers
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.core.walk import Outcome
from offramp.learn.lesson import Findings, Ways
from offramp.learn.pool import edges_of
from offramp.learn.teach import Taught, teach
from offramp.networks.networks import Networks
from offramp.plan.asked import Asked
from offramp.plan.plan import Plan
from offramp.plan.profile import Profile
from offramp.policies import Deployable, Policy, Static, policy_to_json
from offramp.promise.certify import Certificate, Saving, Trial, certify
from offramp.promise.order import Candidate, Order, safest_first


@dataclass(frozen=True)
class Rows:
    """The examples of a trace, as far as they may be used."""

    trace: Trace  # all of them, for what it says of itself
    learning: Trace
    certifying: Trace  # at the costs of `trace`
    source: Trace  # those that certify are rows of


@dataclass(frozen=True, kw_only=True)
class Material:
    """What is learned from and certified on, as the steps before teaching leave it."""

    learning: Trace
    certifying: Trace
    refits: Refits = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A policy, how stages answer, and what is tested in which order; nothing is certified yet."""

    rows: Rows
    asked: Asked
    budget: float
    material: Material
    taught: Taught
    certifying: Trace  # as the stages answer, and at the costs that count
    order: Order

    def certificate(self, level: float) -> Certificate:
        """What the rows that certify say, at an error of `level`."""
        path = candidates(self.certifying, self._losses, self.taught.policy)
        return self._certify(path, statics(self.certifying, self._losses), level)

    def nothing(self) -> Certificate:
        """What can be said without looking: the reference runs."""
        return self._certify((), {}, 1 - self.asked.promise.confidence)

    def question(self) -> dict[str, Any]:
        """All that is tested, as JSON values, and what counts as loss.

        Losses are computed here, so that what cannot be computed is said before anything is asked.
        """
        lesson = self.taught.lesson
        said = lesson.losses.single().values if self._losses else {}
        return {
            "budget": self.budget,
            "excess": self.asked.promise.excess,
            "loss": lesson.losses.name,
            "losses": [int(hash_rows(values).sum(dtype=np.uint64)) for values in said.values()],
            "policy": policy_to_json(self.taught.policy),
            "committees": {s: found.to_json() for s, found in lesson.committees.items()},
            "refits": {s: found.to_json() for s, found in self.material.refits.items()},
            "order": [self.order.start, dict(self.order.places)],
            "costs": self.certifying.costs.to_json(),
            "seed": self.asked.split.seed,
        }

    @cached_property
    def _losses(self) -> Losses:
        return self.certifying.losses(self.asked.promise.loss_name, self.asked.promise.excess)

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
            confidence=self.asked.promise.confidence,
            order=self.order,
            trial=Trial(
                excess=self.asked.promise.excess,
                loss=losses.name,
                binary=self.certifying.task.is_binary(losses.name) or learned.binary,
                level=level,
                seed=self.asked.split.seed,
            ),
        )
        labels = self.certifying.labels
        known = labels is not None or isinstance(self.certifying.task, RecordedAnswers)
        if self.asked.promise.loss_name == tasks.DISAGREEMENT or not known:
            return found
        classes = self.certifying.classes
        chance = None if labels is None else chance_loss(losses.name, labels, classes)
        return replace(
            found,
            reference_loss=float(losses.of_reference.mean(dtype=np.float64)),
            chance_loss=chance,
        )

    def plan(self, certificate: Certificate, networks: Networks | None) -> Plan:
        """What is deployed under a certificate."""
        trace, policy = self.rows.trace, self.taught.policy
        certificate = replace(
            certificate,
            batch=self.certifying.costs.batch,
            sizes=tuple(_savings(self.certifying, policy, certificate)),
        )
        certificate = _with_intervals(certificate, self.certifying, policy)
        return Plan(
            graph=trace.graph,
            costs=self.certifying.costs,
            kinds=trace.kinds,
            classes=trace.classes,
            task=trace.task,
            policy=policy,
            tradeoff=certificate.tradeoff,
            certificate=certificate,
            profile=profile(self.certifying, policy, certificate),
            committees=self.taught.lesson.committees,
            networks=networks.files if networks else {},
            preprocessing=networks.preprocessing if networks else None,
            fields=networks.fields if networks else (X,),
            info=self._info(),
            refits=self.material.refits,
            repair=self._repair() if self.asked.choices.refit else None,
        )

    def _repair(self) -> Repair:
        """What refits do by themselves, on the examples that certify."""
        recorded = self.rows.certifying.at_costs(self.certifying.costs)
        after = with_refits(recorded, self.material.refits)
        promise = self.asked.promise
        return Repair.of(recorded, after, promise.loss_name, promise.excess, self.budget)

    def _info(self) -> dict[str, Any]:
        trace, learning, prices = self.rows.trace, self.rows.learning, self.asked.choices.prices
        most = self.taught.family.most or learning.examples
        sampled = learning.examples > most
        return {
            "policies_tried": dict(self.taught.held_out),
            "learning_examples": min(most, learning.examples),
            "learning_sampled_from": learning.examples if sampled else None,
            "certification_data": self.rows.certifying.info.get("data"),
            "learning_data": trace.info.get("data"),
            "learning_rows": trace.digest,
            "certification_rows": self.rows.source.digest,
            **({"class_names": names} if (names := trace.info.get("class_names")) else {}),
            "recorded_networks": trace.info.get("networks"),
            "recorded_preprocessing": trace.info.get("preprocessing"),
            "seed": self.asked.split.seed,
            "versions": versions(),
            "predicted_cost": self.taught.cost,
            "pool": edges_of(self.taught.policy.graph) if self.asked.choices.pool else None,
            "latency": prices and prices.to_json(),
            "dropped": dict(self.taught.dropped),
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
    asked: Asked,
    budget: float,
    progress: Progress | None = None,
    findings: Findings | None = None,
) -> Job:
    """Everything that is learned for a budget, from the rows that teach alone; see `fit`.

    Of those that certify it knows the number. Jobs of the same rows may share findings.
    """
    ways = asked.ways(budget, rows.certifying.examples)
    material = Material(learning=rows.learning, certifying=rows.certifying)
    material = _with_refits(material, asked, ways, progress or silent)
    learning, certifying = material.learning, material.certifying
    if ways.prices is not None:
        learning = learning.at_costs(replace(learning.costs, examples=None))
    taught = teach(learning, ways, asked.choices.policy, progress, findings)
    if taught.costs is not None:
        certifying = certifying.at_costs(taught.costs)
    certifying = with_committees(certifying, taught.lesson.committees)
    return Job(
        rows=rows,
        asked=asked,
        budget=budget,
        material=material,
        taught=taught,
        certifying=certifying,
        order=_order(taught, certifying, budget),
    )


def _with_refits(material: Material, asked: Asked, ways: Ways, tell: Progress) -> Material:
    """Scores mended on labels, where that was asked for."""
    if not asked.choices.refit:
        return material
    if not (task := material.learning.task).combines:
        raise InputError(
            f"refits mend scores of classes, of which one is right, and the task '{task}' has "
            "none; leave --refit out."
        )
    tell("mending scores", 0, 1)
    refits, learning = learn_refits(
        material.learning, ways.loss, unlabelled=ways.unlabelled, seed=ways.seed
    )
    certifying = with_refits(material.certifying, refits)
    return replace(material, learning=learning, certifying=certifying, refits=refits)


def candidates(trace: Trace, losses: Losses, policy: Policy) -> Iterator[Candidate]:
    """Each setting of the dial on these examples, safest first, computed when asked for."""
    recorded = TracePolicy(policy, trace)
    for setting in policy.settings:
        yield _candidate(trace, losses, recorded, float(setting), float(setting))


def _order(taught: Taught, certifying: Trace, budget: float) -> Order:
    """What is tested when, from the examples that taught; of the others costs alone count."""
    learning, losses = taught.lesson.trace, taught.lesson.losses
    themselves = replace(learning.at_costs(certifying.costs), graph=certifying.graph)
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
        priced = trace.at_costs(costs)
        cost = float(_walked(priced, policy, certificate).cost.mean())
        yield Saving(batch, cost, priced.reference_cost, priced.reference_cost / cost)


def _with_intervals(certificate: Certificate, trace: Trace, policy: Policy) -> Certificate:
    """The certificate with intervals of its costs, where they differ from example to example."""
    if trace.example_costs is None:
        return certificate
    cost = _walked(trace, policy, certificate).cost
    return replace(
        certificate,
        cost_interval=mean_interval(cost),
        speedup_interval=ratio_interval(trace.reference_costs, cost),
    )


def profile(trace: Trace, policy: Deployable, certificate: Certificate) -> Profile:
    """What these examples look like to the plan."""
    outcome = _walked(trace, policy, certificate)
    sure = seen_by_all(trace, trace.graph.root).sure()
    return Profile.of(sure, outcome.exits(), _changed(trace, outcome, certificate))


def _changed(trace: Trace, outcome: Outcome, certificate: Certificate) -> float | None:
    """The share of answers that are not the reference's; None: the trace holds no answers."""
    if isinstance(trace.task, RecordedAnswers) and not trace.answers:
        return None
    losses = trace.losses(tasks.DISAGREEMENT, "induced")
    losses = losses.single() if certificate.tradeoff is None else losses
    return float((loss_of(outcome, losses) > 0).mean())
