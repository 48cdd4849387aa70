"""From a trace and budgets to plans: learn on one part, certify on rows that nobody has opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from offramp._version import __version__
from offramp.base.errors import BudgetError, InputError, TraceError
from offramp.core import tasks
from offramp.core.ledger import Look
from offramp.core.tasks import Excess
from offramp.core.trace import Trace
from offramp.learn.latency import Latency
from offramp.learn.teach import AUTO, Ways
from offramp.networks.networks import Networks
from offramp.plan.job import Job, Rows, prepare
from offramp.plan.plan import Plan
from offramp.policies import family
from offramp.promise import split
from offramp.promise.certify import Certificate, check_promise
from offramp.promise.split import FEWEST, Repeats


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What `fit` is asked for, besides budgets and examples; see there."""

    confidence: float = 0.95
    excess: Excess = "net"
    loss: str | None = None
    unlabelled: bool = False
    policy: str = AUTO
    pool: bool = False
    committees: bool = True
    refit: bool = False
    learn_share: float | None = None
    repeats: Repeats | None = None
    looks: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        check_promise(0.0, self.confidence)
        if self.policy != AUTO:
            family(self.policy)  # raises where there is none
        if not isinstance(self.looks, int) or self.looks < 1:
            raise BudgetError(f"the number of looks is {self.looks}; it must be at least 1.")

    @property
    def loss_name(self) -> str | None:
        return tasks.DISAGREEMENT if self.unlabelled else self.loss

    @property
    def error(self) -> float:
        """Chance that the promises of one look fail together, in (0, 1)."""
        return (1 - self.confidence) / self.looks

    def ways(self, budget: float) -> Ways:
        levels = (0.0, budget / 2, budget)
        return Ways(
            self.loss_name, self.excess, self.unlabelled, self.committees, levels, self.seed
        )


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
    repeats: Repeats | None = None,
    looks: int = 1,
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
            (`offramp.learn.teach`).
        pool: the stages are candidates: `offramp.learn.pool` finds which of them take part, in
            which order and with which skips; the edges of `trace` do not count.
        committees: stages may answer with all the scores their walks have paid for, where that
            loses less.
        refit: stages answer with refitted scores, where that loses less; the reference as well, and
            the promise is then against the refitted one.
        learn_share: part of `trace` that is learned from; None: all that is not sealed. Rows that
            nobody has opened certify.
        repeats: what rows that repeat others are, where many do: `copies` of examples, each of
            which counts once, or `real` draws (`offramp.promise.split.distinct`).
        looks: how many times these rows may be asked with the `confidence` for all answers
            together; each then has its share of the error.
        seed: of the folds and the order of the betting test.
        certify_on: certify on these examples instead, and learn from all of `trace`.
        networks: the ONNX files, where the plan is to run.
        latency: costs are the time of requests of its size, with the rows that are expected to come
            to each stage, and stages that save nothing in it are left out; None: costs as recorded.

    Returns:
        A plan, always; its certificate says whether it routes.

    Raises:
        BudgetError: budget, confidence or share out of range.
        TraceError: too few examples, no labels, many that repeat others, or `certify_on` of another
            system or with the same examples.
        LossError: losses that the test, chosen on what teaches, cannot count.
        StorageError: the trace's ledger cannot be written.
    """
    choices = Choices(
        confidence=confidence,
        excess=excess,
        loss=loss,
        unlabelled=unlabelled,
        policy=policy,
        pool=pool,
        committees=committees,
        refit=refit,
        learn_share=learn_share,
        repeats=repeats,
        looks=looks,
        seed=seed,
    )
    return fit_each(trace, [budget], choices, certify_on, networks, latency)[0]


def fit_each(
    trace: Trace,
    budgets: Sequence[float],
    choices: Choices,
    certify_on: Trace | None = None,
    networks: Networks | None = None,
    latency: Latency | None = None,
) -> list[Plan]:
    """A plan for each budget, all promises of which hold together at the confidence.

    It is one look at the rows that certify. Each budget's sequence of tests has an equal share of
    the error; one that passes to its end hands its share on to the others. What keeps a smaller
    budget keeps a larger one too, so that no plan costs more than one of a smaller budget.

    Args:
        trace: as in `fit`.
        budgets: excess losses given up, fractions in [0, 1], at least one.
        choices: all other options of `fit`.
        certify_on: as in `fit`.
        networks: as in `fit`.
        latency: as in `fit`.

    Raises:
        As `fit`; InputError: no budgets.

    Source: the error moves on as in Holm 1979 and Bretz et al. 2009, A graphical approach to
        sequentially rejective multiple test procedures, section 2.
    """
    if not budgets:
        raise InputError("there is no budget; give one, or several: 0.005,0.01.")
    if len(set(budgets)) < len(budgets):
        raise InputError("a budget is given twice; give each once.")
    for budget in budgets:
        check_promise(budget, choices.confidence)
    if networks:
        _check_networks(trace, networks)
    rows = _rows(trace, certify_on, choices)
    jobs = [_prepared(rows, budget, choices, latency) for budget in budgets]
    # everything that is tested is fixed from here on; now the sealed rows are looked at
    asked = Look("fit", _question(jobs, choices), choices.error)
    number = rows.source.ledger.look(asked)
    together = rows.source.ledger.together(number)
    plans = []
    for job, certificate in zip(jobs, _certificates(jobs, choices.error), strict=True):
        seen = replace(certificate, look=number, looks=choices.looks, joint_confidence=together)
        plans.append(job.plan(seen, networks))
    return _cheapest(plans)


def draft(trace: Trace, budget: float, choices: Choices, networks: Networks | None = None) -> Plan:
    """A plan that decides as one of `fit` would, for which nothing is certified.

    It runs the reference alone, and is there to be timed: no sealed row is looked at.
    """
    whole = split.distinct(trace, choices.repeats)
    count = split.asked(whole, choices.learn_share)
    _check_number(count, "learn from")
    split.opened(whole, "fit", count)
    learning = split.front(whole, count)
    job = _prepared(Rows(trace, learning, learning, trace), budget, choices, None)
    return job.plan(job.nothing(), networks)


def _rows(trace: Trace, certify_on: Trace | None, choices: Choices) -> Rows:
    """The rows that teach and those that certify, none of them in both."""
    whole = split.distinct(trace, choices.repeats)
    if certify_on is None:
        if trace.seal == 0:
            raise TraceError(
                "nothing of this trace is sealed, so that it certifies nothing of its own. Certify "
                "on other examples with --certify TRACE, or make it again with another --seal."
            )
        count = split.asked(whole, choices.learn_share)
        certifying = split.sealed(whole, count)
    else:
        split.check_alike(trace, certify_on, "the trace to certify on")
        others = split.unshared(whole, split.distinct(certify_on, choices.repeats), choices.repeats)
        count, certifying = whole.examples, split.sealed(others)
    certifying = replace(split.fresh(certifying), costs=trace.costs)
    _check_number(count, "learn from")
    _check_number(certifying.examples, "certify on")
    split.opened(whole, "fit", count)  # now that nothing can be refused any more
    source = trace if certify_on is None else certify_on
    return Rows(trace, split.front(whole, count), certifying, source)


def _check_number(examples: int, what: str) -> None:
    if examples < FEWEST:
        raise TraceError(
            f"there are {examples} examples to {what}; at least {FEWEST} are needed, and "
            "a budget of one point takes several hundred. Record more examples."
        )


def _prepared(rows: Rows, budget: float, choices: Choices, latency: Latency | None) -> Job:
    return prepare(
        rows, choices.ways(budget), budget, policy=choices.policy, pool=choices.pool,
        refit=choices.refit, confidence=choices.confidence, latency=latency,
    )  # fmt: skip


def _question(jobs: Sequence[Job], choices: Choices) -> str:
    """What sealed rows are asked, as a hash: all that is tested on them, and on which."""
    rows = jobs[0].rows
    asked = {
        "jobs": [job.question() for job in jobs],
        "rows": [rows.learning.digest, rows.certifying.digest],
        "confidence": choices.confidence,
        "version": __version__,
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _certificates(jobs: Sequence[Job], error: float) -> list[Certificate]:
    """One for each job, all of which hold but with chance `error`."""
    found: dict[int, Certificate] = {}
    level = error / len(jobs)
    while len(found) < len(jobs):
        left = [number for number in range(len(jobs)) if number not in found]
        tested = {number: jobs[number].certificate(level) for number in left}
        ended = {number: made for number, made in tested.items() if made.exhausted}
        found |= ended or tested
        # those that passed to their end need their share no more
        level = error / max(1, len(left) - len(ended))
    return [found[number] for number in range(len(jobs))]


def _cheapest(plans: Sequence[Plan]) -> list[Plan]:
    """For each plan the cheapest one of a budget that is no larger, under its own budget."""
    chosen = []
    for plan in plans:
        promise = plan.certificate
        safer = [other for other in plans if other.certificate.budget <= promise.budget]
        best = min(safer, key=lambda other: (-other.certificate.speedup, other is not plan))
        chosen.append(replace(best, certificate=replace(best.certificate, budget=promise.budget)))
    return chosen


def _check_networks(trace: Trace, networks: Networks) -> None:
    recorded = trace.info.get("networks")
    if networks.graph != trace.graph:
        raise TraceError("the trace was recorded with another graph than the one given.")
    if recorded is not None and recorded != networks.fingerprints():
        raise TraceError(
            "the trace was recorded with other networks than those of the graph given: their "
            "fingerprints differ. Record again with these networks."
        )
