"""How many labelled examples a promise takes, from examples that need no labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from offramp.base.errors import BudgetError, TraceError
from offramp.base.progress import Progress, silent
from offramp.core import tasks
from offramp.core.frontier import TracePolicy, excess_of, replay
from offramp.core.policy import Policy
from offramp.core.task import RecordedAnswers
from offramp.core.tasks import Excess
from offramp.core.trace import Trace
from offramp.policies import Family, Static, family
from offramp.promise import split
from offramp.promise.certify import check_promise
from offramp.promise.pvalues import POWER, examples_expected
from offramp.promise.split import FEWEST

ASSUMED = (0.0, 0.25, 0.5)  # mean excess loss, as shares of the budget
_SETTINGS = 10  # of the dial, to show
_LEARN_SHARE = 0.5  # of the examples; the others are looked at


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one setting of the dial, or a single network, takes."""

    tradeoff: float | None  # None: a single network
    stage: str | None  # the single network; None: a setting of the dial
    cost: float  # mean, in the unit of the trace
    speedup: float
    changed: float  # share of answers that are not the reference's
    examples_needed: tuple[int | None, ...]  # for each of ASSUMED; None: no number would do
    excess_loss: float | None  # as measured; None: no labels
    examples_measured: int | None  # likewise, for that excess loss


@dataclass(frozen=True, kw_only=True)
class Needs:
    """How many examples must be labelled to certify each setting, tested by itself."""

    examples: int  # looked at
    budget: float
    confidence: float
    excess: Excess
    power: float  # chance that the number certifies
    assumed: tuple[float, ...]  # mean excess loss, a fraction
    settings: tuple[Need, ...]  # safest first, then single networks

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "settings": [asdict(need) for need in self.settings]}


def needs(
    trace: Trace,
    budget: float,
    *,
    confidence: float = 0.95,
    excess: Excess = "net",
    policy: str | Family = "learned",
    power: float = POWER,
    seed: int = 0,
    progress: Progress | None = None,
) -> Needs:
    """How many labelled examples would certify `budget`, along the path of a policy.

    Those that teach come on top: see `offramp.core.rows.learning_share`.

    Only rows that are not sealed are looked at. The policy learns on one half of them, from labels
    or else from agreement with the reference; the other half shows how often its answers change.

    Args:
        trace: recorded examples; labels are used where there are any.
        budget: excess loss given up, a fraction in [0, 1].
        confidence: chance, over the draw of the examples, that the promise holds.
        excess: net or induced, of losses that are 0 or 1.
        policy: a family or its name, one of `offramp.policies.FAMILIES`.
        power: chance that the number of examples certifies, in (0, 1).
        seed: of the split.
        progress: called with what is done, how much of it, and how much there is.

    Raises:
        BudgetError: budget, confidence or power out of range.
        TraceError: too few examples that are not sealed.
    """
    _check(trace, budget, confidence, power)
    tell = progress or silent
    tell(f"learning {family(policy).name}", 0, 1)
    learned, seen = _learned(_shown(trace), excess, policy, seed)
    counted = _Counted(
        trace=seen, budget=budget, confidence=confidence, excess=excess, power=power, tell=tell
    )
    return counted.needs(learned)


def _check(trace: Trace, budget: float, confidence: float, power: float) -> None:
    if not trace.task.is_binary(tasks.DISAGREEMENT):
        raise TraceError(
            f"answers of the task '{trace.task}' differ by degrees, and `needs` counts answers "
            "that change. Label some hundred examples, and fit: the certificate says what it takes."
        )
    check_promise(budget, confidence)
    if not 0 < power < 1:
        raise BudgetError(f"the power is {power}; it must lie between 0 and 1.")


def _shown(trace: Trace) -> Trace:
    """The examples that may be looked at. Raises TraceError where there are too few."""
    shown = split.shown(trace, "needs")
    if shown.examples < 2 * FEWEST:
        raise TraceError(
            f"{shown.examples} of {trace.examples} examples may be looked at; at least "
            f"{2 * FEWEST} are needed. Record more, without labels if need be, or make the trace "
            "again with a smaller --seal."
        )
    return shown


def _learned(trace: Trace, excess: Excess, policy: str | Family, seed: int) -> tuple[Policy, Trace]:
    """A policy that was learned on one part of a trace, and the other part."""
    first, second = trace.split(_LEARN_SHARE, seed)
    learning = trace.take(first)
    loss = _judged(trace) or tasks.DISAGREEMENT
    return family(policy)(learning, learning.losses(loss, excess)), trace.take(second)


def _judged(trace: Trace) -> str | None:
    """The loss that says what answers cost; None: nobody knows."""
    if isinstance(trace.task, RecordedAnswers):
        return tasks.RECORDED
    return None if trace.labels is None else trace.task.default_loss


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """Settings on the examples that are looked at."""

    trace: Trace
    budget: float
    confidence: float
    excess: Excess
    power: float
    tell: Progress

    def needs(self, policy: Policy) -> Needs:
        """What settings of a policy's dial take, and what single networks take."""
        graph = self.trace.graph
        alone = (self.alone(stage) for stage in graph.order if stage != graph.reference)
        return Needs(
            examples=self.trace.examples,
            budget=self.budget,
            confidence=self.confidence,
            excess=self.excess,
            power=self.power,
            assumed=tuple(self.budget * share for share in ASSUMED),
            settings=(*self.path(policy), *alone),
        )

    def path(self, policy: Policy) -> Iterator[Need]:
        """Some settings of the dial, evenly along it."""
        recorded = TracePolicy(policy, self.trace)
        at = np.linspace(0, len(policy.settings) - 1, _SETTINGS).round().astype(int)
        shown = policy.settings[np.unique(at)]
        for number, setting in enumerate(shown):
            self.tell("counting changed answers", number, len(shown))
            need = self._need(recorded, float(setting), None)
            if need.speedup > 1:  # others save nothing
                yield need

    def alone(self, stage: str) -> Need:
        return self._need(Static.of(self.trace.graph, stage), float("nan"), stage)

    def _need(self, policy: Policy, setting: float, stage: str | None) -> Need:
        outcome = replay(self.trace, policy, setting)
        other = excess_of(outcome, self.trace.losses(tasks.DISAGREEMENT, "induced"))
        changed, cost = float(other.mean(dtype=np.float64)), float(outcome.cost.mean())
        measured = None
        if loss := _judged(self.trace):
            losses = excess_of(outcome, self.trace.losses(loss, self.excess))
            measured = float(losses.mean(dtype=np.float64))
        return Need(
            tradeoff=None if stage else setting,
            stage=stage,
            cost=cost,
            speedup=self.trace.reference_cost / cost,
            changed=changed,
            examples_needed=tuple(
                self._expected(changed, self.budget * share) for share in ASSUMED
            ),
            excess_loss=measured,
            examples_measured=None if measured is None else self._expected(changed, measured),
        )

    def _expected(self, changed: float, excess_loss: float) -> int | None:
        return examples_expected(
            changed,
            excess_loss,
            self.budget,
            confidence=self.confidence,
            excess=self.excess,
            power=self.power,
        )
