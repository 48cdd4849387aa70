"""How many labelled examples a promise takes, from examples that need no labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from offramp.base.errors import BudgetError, TraceError
from offramp.core import tasks
from offramp.core.frontier import TracePolicy, excess_of, replay
from offramp.core.policy import Policy
from offramp.core.tasks import Excess
from offramp.core.trace import Trace
from offramp.policies import Static, family
from offramp.promise import split
from offramp.promise.certify import check_promise
from offramp.promise.pvalues import POWER, examples_expected
from offramp.promise.split import FEWEST

ASSUMED = (0.0, 0.25, 0.5)  # mean excess loss, as shares of the budget
_SETTINGS = 10  # of the dial, to show
_LEARN_SHARE = 0.5  # of the examples; the others are looked at


@dataclass(frozen=True)
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


@dataclass(frozen=True)
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
    policy: str = "learned",
    power: float = POWER,
    seed: int = 0,
) -> Needs:
    """How many labelled examples would certify `budget`, along the path of a policy.

    Those that teach come on top: see `offramp.core.rows.learning_share`.

    Only rows of `trace` that are not sealed are looked at. The policy learns on one half of them
    (from labels, or else from agreement with the reference); how often its answers change is seen
    on the other half.

    Args:
        trace: recorded examples; labels are used where there are any.
        budget: excess loss given up, a fraction in [0, 1].
        confidence: chance, over the draw of the examples, that the promise holds.
        excess: net or induced, of losses that are 0 or 1.
        policy: one of `offramp.policies.FAMILIES`.
        power: chance that the number of examples certifies, in (0, 1).
        seed: of the split.

    Raises:
        BudgetError: budget, confidence or power out of range.
        TraceError: too few examples that are not sealed.
    """
    check_promise(budget, confidence)
    if not 0 < power < 1:
        raise BudgetError(f"the power is {power}; it must lie between 0 and 1.")
    everything, trace = trace.examples, split.shown(trace, "needs")
    if trace.examples < 2 * FEWEST:
        raise TraceError(
            f"{trace.examples} of {everything} examples may be looked at; at least {2 * FEWEST} "
            "are needed. Record more, without labels if need be, or make the trace again with a "
            "smaller --seal."
        )
    first, second = trace.split(_LEARN_SHARE, seed)
    learning, seen = trace.take(first), trace.take(second)
    loss = "top1" if trace.labels is not None else tasks.DISAGREEMENT
    learned = family(policy)(learning, learning.losses(loss, excess))
    counted = _Counted(seen, budget, confidence, excess, power)
    alone = [stage for stage in trace.graph.order if stage != trace.graph.reference]
    return Needs(
        seen.examples,
        budget,
        confidence,
        excess,
        power,
        tuple(budget * share for share in ASSUMED),
        (*counted.path(learned), *(counted.alone(stage) for stage in alone)),
    )


@dataclass(frozen=True)
class _Counted:
    """Settings on the examples that are looked at."""

    trace: Trace
    budget: float
    confidence: float
    excess: Excess
    power: float

    def path(self, policy: Policy) -> Iterator[Need]:
        """Some settings of the dial, evenly along it."""
        recorded = TracePolicy(policy, self.trace)
        shown = np.linspace(0, len(policy.settings) - 1, _SETTINGS).round().astype(int)
        needed = (self._need(recorded, float(s), None) for s in policy.settings[np.unique(shown)])
        yield from (need for need in needed if need.speedup > 1)  # others save nothing

    def alone(self, stage: str) -> Need:
        return self._need(Static.of(self.trace.graph, stage), float("nan"), stage)

    def _need(self, policy: Policy, setting: float, stage: str | None) -> Need:
        outcome = replay(self.trace, policy, setting)
        other = excess_of(outcome, self.trace.losses(tasks.DISAGREEMENT, "induced"))
        changed, cost = float(other.mean(dtype=np.float64)), float(outcome.cost.mean())
        measured = None
        if self.trace.labels is not None:
            losses = excess_of(outcome, self.trace.losses("top1", self.excess))
            measured = float(losses.mean(dtype=np.float64))
        return Need(
            None if stage else setting,
            stage,
            cost,
            self.trace.reference_cost / cost,
            changed,
            tuple(self._expected(changed, self.budget * share) for share in ASSUMED),
            measured,
            None if measured is None else self._expected(changed, measured),
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
