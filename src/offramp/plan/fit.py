"""From a trace and budgets to plans: learn on one part, certify on rows that nobody has opened."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace

from offramp._version import __version__
from offramp.base.errors import TraceError
from offramp.base.progress import Progress, silent
from offramp.core.ledger import Look
from offramp.core.prices import Prices
from offramp.core.tasks import Excess
from offramp.core.trace import Trace
from offramp.learn.lesson import Findings
from offramp.learn.teach import AUTO
from offramp.networks.networks import Networks
from offramp.plan.asked import Asked, Promise, Split
from offramp.plan.job import Job, Rows, prepare
from offramp.plan.plan import Plan
from offramp.policies import Family
from offramp.promise import split
from offramp.promise.certify import Certificate
from offramp.promise.split import FEWEST, Repeats


def fit(
    trace: Trace,
    budget: float,
    *,
    confidence: float = 0.95,
    excess: Excess = "net",
    loss: str | None = None,
    unlabelled: bool = False,
    policy: str | Family = AUTO,
    keep_stages: bool = False,
    pool: bool = False,
    committees: bool = True,
    refit: bool = False,
    learn_share: float | None = None,
    repeats: Repeats | None = None,
    looks: int = 1,
    seed: int = 0,
    certify_on: Trace | None = None,
    networks: Networks | None = None,
    prices: Prices | None = None,
    progress: Progress | None = None,
) -> Plan:
    """The plan that keeps the promise with just enough network, or with one network alone.

    Args:
        trace: recorded examples that trained none of the networks.
        budget: excess loss given up, a fraction in [0, 1]; 0.01 is one percentage point.
        confidence: chance, over the draw of the examples, that the promise holds.
        excess: `net`, or `induced`, which lets no gain make up for a loss.
        loss: top1, top5, module:function; None takes the trace's own, else top1.
        unlabelled: loss is disagreement with the reference; labels are not looked at.
        policy: a family or its name, one of `offramp.policies.FAMILIES`; or `auto`: what costs
            least on held-out examples (`offramp.learn.teach`).
        keep_stages: all stages take part, along all edges. Else those do that lower the predicted
            certified cost (`offramp.learn.teach`), along edges that those of `trace` allow.
        pool: any stage may follow any cheaper one; the edges of `trace` do not count.
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
        prices: costs are by these, at the number of rows that are expected to come to each stage;
            None: costs as recorded. The time of
            requests is `offramp.learn.latency.Latency`, any other `offramp.core.prices.Fixed`.
        progress: called with what is learned or tried, how much of it, and how much there is.

    Returns:
        A plan, always; its certificate says whether it routes.

    Raises:
        BudgetError: budget, confidence or share out of range.
        TraceError: too few examples, no labels, many that repeat others, or `certify_on` of another
            system or with the same examples.
        LossError: losses that the test, chosen on what teaches, cannot count.
        StorageError: the trace's ledger cannot be written.
    """
    asked = Asked.of(
        budget,
        confidence=confidence,
        excess=excess,
        loss=loss,
        unlabelled=unlabelled,
        policy=policy,
        keep_stages=keep_stages,
        pool=pool,
        committees=committees,
        refit=refit,
        learn_share=learn_share,
        repeats=repeats,
        looks=looks,
        seed=seed,
        certify_on=certify_on,
        prices=prices,
    )
    return fit_each(trace, asked, networks, progress)[0]


def fit_each(
    trace: Trace,
    asked: Asked,
    networks: Networks | None = None,
    progress: Progress | None = None,
) -> list[Plan]:
    """A plan for each budget, all promises of which hold together at the confidence.

    It is one look at the rows that certify. Each budget's sequence of tests has an equal share of
    the error; one that passes to its end hands its share on to the others. What keeps a smaller
    budget keeps a larger one too, so that no plan costs more than one of a smaller budget.

    Args:
        trace: as in `fit`.
        asked: what is promised, what may run, and which rows teach.
        networks: as in `fit`.
        progress: as in `fit`.

    Raises:
        As `fit`.

    Source: the error moves on as in Holm 1979 and Bretz et al. 2009, A graphical approach to
        sequentially rejective multiple test procedures, section 2.
    """
    if networks:
        _check_networks(trace, networks)
    rows = _rows(trace, asked.split)
    findings = Findings()
    jobs = [prepare(rows, asked, budget, progress, findings) for budget in asked.promise.budgets]
    (progress or silent)("certifying", 0, 1)
    # everything that is tested is fixed from here on; now the sealed rows are looked at
    number, together = _looked(jobs, asked.promise)
    plans = []
    for job, certificate in zip(jobs, _certificates(jobs, asked.promise.error), strict=True):
        looks = asked.promise.looks
        seen = replace(certificate, look=number, looks=looks, joint_confidence=together)
        plans.append(job.plan(seen, networks))
    return _cheapest(plans)


def draft(trace: Trace, asked: Asked, networks: Networks | None = None) -> Plan:
    """A plan that decides as one of `fit_each` would, for which nothing is certified.

    It runs the reference alone, and is there to be timed: no sealed row is looked at.
    """
    whole = split.distinct(trace, asked.split.repeats)
    count = split.asked(whole, asked.split.learn_share)
    _check_number(count, "learn from")
    split.opened(whole, "fit", count)
    learning = split.front(whole, count)
    rows = Rows(trace=trace, learning=learning, certifying=learning, source=trace)
    job = prepare(rows, asked, asked.promise.budgets[0])
    return job.plan(job.nothing(), networks)


def _rows(trace: Trace, wanted: Split) -> Rows:
    """The rows that teach and those that certify, none of them in both."""
    certify_on = wanted.certify_on
    whole = split.distinct(trace, wanted.repeats)
    if certify_on is None:
        if trace.seal == 0:
            raise TraceError(
                "nothing of this trace is sealed, so that it certifies nothing of its own. Certify "
                "on other examples with --certify TRACE, or make it again with another --seal."
            )
        count = split.asked(whole, wanted.learn_share)
        certifying = split.sealed(whole, count)
    else:
        split.check_alike(trace, certify_on, "the trace to certify on")
        others = split.unshared(whole, split.distinct(certify_on, wanted.repeats), wanted.repeats)
        count, certifying = whole.examples, split.sealed(others)
    certifying = split.fresh(certifying).at_costs(trace.costs)
    certifying.graph.check_costs(certifying.costs)  # means of few examples may be nothing
    _check_number(count, "learn from")
    _check_number(certifying.examples, "certify on")
    split.opened(whole, "fit", count)  # now that nothing can be refused any more
    source = trace if certify_on is None else certify_on
    learning = split.front(whole, count)
    return Rows(trace=trace, learning=learning, certifying=certifying, source=source)


def _check_number(examples: int, what: str) -> None:
    if examples < FEWEST:
        raise TraceError(
            f"there are {examples} examples to {what}; at least {FEWEST} are needed, and "
            "a budget of one point takes several hundred. Record more examples."
        )


def _looked(jobs: Sequence[Job], promise: Promise) -> tuple[int, float]:
    """The number of this look in the ledger, and how surely all promises so far hold together."""
    ledger = jobs[0].rows.source.ledger
    number = ledger.look(Look("fit", _question(jobs, promise), promise.error))
    return number, ledger.together(number)


def _question(jobs: Sequence[Job], promise: Promise) -> str:
    """What sealed rows are asked, as a hash: all that is tested on them, and on which."""
    rows = jobs[0].rows
    question = {
        "jobs": [job.question() for job in jobs],
        "rows": [rows.learning.digest, rows.certifying.digest],
        "confidence": promise.confidence,
        "version": __version__,
    }
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]


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
