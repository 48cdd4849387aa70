"""What a plan does on other recorded examples: is the promise kept, do they look alike?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from offramp.base.arrays import FloatArray
from offramp.base.errors import CostError, LossError, TraceError
from offramp.base.progress import Progress, silent
from offramp.core import tasks
from offramp.core.example_costs import mean_interval, ratio_interval
from offramp.core.frontier import excess_of, loss_of, point, replay
from offramp.core.ledger import Look
from offramp.core.policy import seen_by_all
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.core.walk import Outcome
from offramp.plan.plan import Plan
from offramp.plan.profile import Profile
from offramp.policies import policy_to_json
from offramp.promise import split
from offramp.promise.pvalues import Method, interval, method_for
from offramp.promise.split import Repeats

_ALIKE = 0.01  # below this p-value examples do not look like the certified ones


@dataclass(frozen=True)
class Shift:
    """Whether examples look like the certified ones, to the plan."""

    exits: Mapping[str, tuple[float, float]]  # share at certification, share now
    confidence: tuple[tuple[float, float], ...]  # the same for bins of the root's confidence
    p_value: float  # that both were drawn alike
    alike: bool


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a plan does on recorded examples; losses are None where they have no labels."""

    examples: int
    loss: float | None
    reference_loss: float | None  # refitted, where the plan refits it
    unrefitted_reference_loss: float | None  # of the reference as recorded
    excess_loss: float | None  # net
    induced_loss: float | None
    cost: float
    reference_cost: float
    cost_unit: str
    cost_source: str  # how and where the plan's costs were measured; they are what counts here
    speedup: float
    # at 95 %, normal approximation, where costs differ from example to example; None: they do not
    cost_interval: tuple[float, float] | None
    speedup_interval: tuple[float, float] | None
    exits: Mapping[str, float]
    budget: float
    confidence: float
    tradeoff: float | None
    kept: Literal["yes", "no", "unknown"]
    interval: tuple[float, float] | None  # of the excess loss that the promise is about
    shift: Shift

    def __repr__(self) -> str:
        lost = "no labels" if self.excess_loss is None else f"excess loss {self.excess_loss:.4g}"
        return (
            f"<Evaluation: kept: {self.kept}, {lost}, {self.speedup:.2f} times less cost, on "
            f"{self.examples} examples>"
        )

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        for name in ("interval", "cost_interval", "speedup_interval"):
            value[name] = None if value[name] is None else list(value[name])
        return value


def evaluate(
    plan: Plan,
    trace: Trace,
    *,
    loss: str | None = None,
    repeats: Repeats | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """What `plan` does on the examples of `trace`.

    Args:
        plan: of the same graph as the trace.
        trace: examples that neither trained nor certified the plan.
        loss: None takes the plan's; a loss of the user's own must be named again, because a plan
            must not run code. Of another one than the plan's nothing was promised.
        repeats: as in `fit`: what rows are that repeat others, where many do.
        progress: called with what is done, how much of it, and how much there is.

    The ledger of the trace counts it as a look at all of its rows, the sealed ones included.

    Raises:
        TraceError: the trace is of another graph, of other networks or preprocessing, or of
            examples that trained heads of its exits; or many rows repeat others.
        CostError: the trace's costs are of another unit than the plan's, which count here.
        LossError: the plan's loss is the user's own and `loss` does not name it.
        StorageError: the trace's ledger cannot be written.
    """
    tell = progress or silent
    check_system(plan, trace)
    recorded = priced(plan, split.distinct(trace, repeats))
    tell("answering as the plan does", 1, 3)
    answered = plan.answering(recorded)
    outcome = replay(answered, plan.running, plan.setting)
    tell("judging the promise", 2, 3)
    losses, unrefitted = (_losses(plan, each, loss) for each in (answered, recorded))
    evaluation = _evaluation(plan, answered, outcome, losses, unrefitted)
    if losses:  # now that nothing can be refused any more
        asked = Look("evaluate", _question(plan, losses.name), 1 - plan.certificate.confidence)
        trace.ledger.look(asked)
    return evaluation


def _evaluation(
    plan: Plan, trace: Trace, outcome: Outcome, losses: Losses | None, unrefitted: Losses | None
) -> Evaluation:
    cost, promise = float(outcome.cost.mean()), plan.certificate
    labelled = _Labelled.of(plan, outcome, losses, trace) if losses else _Labelled()
    promised = losses is not None and losses.name == promise.loss
    differs = trace.example_costs is not None
    return Evaluation(
        examples=trace.examples,
        loss=labelled.loss,
        reference_loss=labelled.reference_loss,
        unrefitted_reference_loss=_mean(unrefitted.of_reference) if unrefitted else None,
        excess_loss=labelled.excess_loss,
        induced_loss=labelled.induced_loss,
        cost=cost,
        reference_cost=trace.reference_cost,
        cost_unit=trace.costs.unit,
        cost_source=trace.costs.source,
        speedup=trace.reference_cost / cost,
        cost_interval=mean_interval(outcome.cost) if differs else None,
        speedup_interval=ratio_interval(trace.reference_costs, outcome.cost) if differs else None,
        exits={**dict.fromkeys(trace.graph.order, 0.0), **outcome.exits()},
        budget=promise.budget,
        confidence=promise.confidence,
        tradeoff=plan.tradeoff,
        kept=labelled.kept(promise.budget) if promised else "unknown",
        interval=labelled.interval,
        shift=_shift(plan, trace, outcome),
    )


def _mean(values: FloatArray) -> float:
    return float(values.mean(dtype=np.float64))


def priced(plan: Plan, trace: Trace) -> Trace:
    """A trace at the costs of a plan, which are those that the plan states wherever it runs.

    Where the plan's are means of costs that differ by example, each example keeps its own.

    Raises:
        CostError: the trace's costs are of another unit.
    """
    if trace.costs.unit != plan.costs.unit:
        raise CostError(
            f"the plan's costs are in {plan.costs.unit}, the trace's in {trace.costs.unit}, and "
            "they do not compare. Give the trace costs of the plan's unit with `offramp reprice`."
        )
    return trace.at_costs(plan.costs)


@dataclass(frozen=True, kw_only=True)
class _Labelled:
    """The part of an evaluation that needs labels."""

    loss: float | None = None
    reference_loss: float | None = None
    excess_loss: float | None = None
    induced_loss: float | None = None
    interval: tuple[float, float] | None = None

    @classmethod
    def of(cls, plan: Plan, outcome: Outcome, losses: Losses, trace: Trace) -> _Labelled:
        promised = excess_of(outcome, losses)
        at = point(trace, losses, outcome, plan.setting)
        return cls(
            loss=_mean(loss_of(outcome, losses)),
            reference_loss=_mean(losses.of_reference),
            excess_loss=at.excess_loss,
            induced_loss=at.induced_loss,
            interval=interval(promised, plan.certificate.confidence, _method(plan, losses.name)),
        )

    def kept(self, budget: float) -> Literal["yes", "no", "unknown"]:
        if self.interval is None:
            return "unknown"
        low, high = self.interval
        return "yes" if high <= budget else "no" if low > budget else "unknown"


def _method(plan: Plan, loss: str) -> Method:
    """The test that fits a loss, whatever the examples that are evaluated say."""
    promise = plan.certificate
    binary = plan.task.is_binary(loss)
    return promise.method if loss == promise.loss else method_for(promise.excess, binary)


def check_system(plan: Plan, trace: Trace) -> None:
    """Raises TraceError where the trace is of another system, or of examples that taught it."""
    what = "this trace"
    if trace.task != plan.task:
        raise TraceError(
            f"this trace is of the task '{trace.task}', the plan of '{plan.task}'. Give a trace of "
            "the plan's task."
        )
    if trace.graph != plan.graph or trace.classes != plan.classes:
        raise TraceError("this trace was recorded with another graph than the plan's.")
    known = {name: plan.info.get(f"recorded_{name}") for name in split.SYSTEM}
    split.check_same(known, split.system(trace), what)
    split.fresh(trace)


def _question(plan: Plan, loss: str) -> str:
    """What a plan asks of rows, as a hash: the same plan and loss ask the same."""
    asked = [policy_to_json(plan.policy), plan.tradeoff, plan.certificate.to_json(), loss]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _losses(plan: Plan, trace: Trace, loss: str | None) -> Losses | None:
    name = loss or plan.certificate.loss
    if loss is None and tasks.is_own(name):
        raise LossError(
            f"this plan was fitted with the loss '{name}'. A plan runs no code of its own accord: "
            f"name it again with --loss {name}."
        )
    if name not in (tasks.DISAGREEMENT, tasks.RECORDED) and trace.labels is None:
        return None
    return trace.losses(name, plan.certificate.excess)


def _shift(plan: Plan, trace: Trace, outcome: Outcome) -> Shift:
    root, then = trace.graph.root, plan.profile
    now = then.like(seen_by_all(trace, root).sure(), outcome.exits())
    stages = [stage for stage in plan.graph.order if stage in then.exits]
    before = np.array([then.exits[stage] for stage in stages])
    after = np.array([now.exits[stage] for stage in stages])
    both = (
        _same(before, after, then, now),
        _same(np.array(then.shares), np.array(now.shares), then, now),
    )
    p = min(1.0, 2 * min(both))  # two looks at the data: Bonferroni
    return Shift(
        {s: (float(b), float(a)) for s, b, a in zip(stages, before, after, strict=True)},
        tuple(zip(then.shares, now.shares, strict=True)),
        p,
        p >= _ALIKE,
    )


def _same(before: FloatArray, after: FloatArray, then: Profile, now: Profile) -> float:
    """The p-value of a chi-square test that two histograms come from the same source."""
    counts = np.stack([before * then.examples, after * now.examples])
    counts = counts[:, counts.sum(axis=0) > 0]
    if counts.shape[1] < 2:
        return 1.0
    return float(stats.chi2_contingency(counts, correction=False).pvalue)
