"""Whether live examples keep what a plan promises: guards on audits, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import LossError
from offramp.core import tasks
from offramp.core.frontier import excess_of, replay
from offramp.core.trace import Trace
from offramp.plan.evaluate import check_system, priced
from offramp.plan.plan import Plan
from offramp.promise.guard import Guard, most_disagreement

DISAGREEMENT, LOSS = "disagreement", "excess loss"


@dataclass(frozen=True)
class Raised:
    """An alarm, and the examples that it is about."""

    guard: str
    example: Any  # the id of the example after which it was raised
    since: Any  # the id of the first example after the likeliest time of the change


class Watching:
    """Compares audited examples with a plan's promise, as they come.

    An example is audited where every stage has scored it. Without labels the share of answers that
    are not the reference's is watched: it may be no larger than among the examples that certified,
    as far as these can tell. Excess loss is watched on examples whose labels are known; of a plan
    that promises disagreement, on all. Guards share the error equally.

    Args:
        plan: whose promise is watched.
        error: chance in (0, 1) of a false alarm ever, of all guards together.

    Raises:
        LossError: the plan's loss is one of the user's own, which a plan must not run.
    """

    def __init__(self, plan: Plan, *, error: float = 0.05) -> None:
        promise = plan.certificate
        if tasks.is_own(promise.loss):
            raise LossError(
                f"the loss of this plan, '{promise.loss}', is code of your own, which a plan does "
                "not run: its promise cannot be watched."
            )
        self.plan = plan
        self.error = error
        self._by_labels = promise.loss != tasks.DISAGREEMENT
        low = 0.0 if promise.excess == "induced" or not self._by_labels else -1.0
        share = error / 2 if self._by_labels and plan.profile.changed is not None else error
        self.guards: dict[str, Guard] = {
            LOSS: Guard(LOSS, promise.budget, error=share, low=low),
        }
        if self._by_labels and plan.profile.changed is not None:
            most = most_disagreement(plan.profile.changed, plan.profile.examples, share / 2)
            self.guards[DISAGREEMENT] = Guard(DISAGREEMENT, most, error=share / 2, low=0.0)
        self._ids: dict[str, list[Any]] = {name: [] for name in self.guards}
        self._raised: dict[str, Raised] = {}

    @property
    def alarms(self) -> Sequence[Raised]:
        """Those that were raised so far."""
        return tuple(self._raised.values())

    def see(self, trace: Trace) -> list[Raised]:
        """Looks at examples that were audited, in their order; the alarms that they raise.

        Args:
            trace: of the plan's graph; labels are not looked at.

        Raises:
            TraceError, CostError: it is of another system.
        """
        name = DISAGREEMENT if self._by_labels else LOSS
        if name not in self.guards:
            return []
        values = _excess(self.plan, trace, tasks.DISAGREEMENT)
        return self._look(name, values if name == LOSS else values > 0, trace.ids)

    def see_labels(self, trace: Trace) -> list[Raised]:
        """Looks at the excess loss of examples whose labels are known, in the order they became so.

        Raises:
            As `see`.
        """
        if not self._by_labels:
            return []
        values = _excess(self.plan, trace, self.plan.certificate.loss)
        return self._look(LOSS, values, trace.ids)

    def _look(self, name: str, values: AnyArray, ids: AnyArray | None) -> list[Raised]:
        known = self._ids[name]
        names = ids if ids is not None else np.arange(len(known), len(known) + len(values))
        if self.guards[name].alarm is None:
            known.extend(np.asarray(names).tolist())
        alarm = self.guards[name].see(values.astype(np.float64).tolist())
        if alarm is None:
            return []
        self._raised[name] = Raised(name, known[alarm.example - 1], known[alarm.since - 1])
        return [self._raised[name]]

    def to_json(self) -> list[dict[str, Any]]:
        """What each guard has seen, and when it raised the alarm."""
        said = []
        for name, guard in self.guards.items():
            raised = self._raised.get(name)
            about = {"alarm_id": raised and raised.example, "since_id": raised and raised.since}
            said.append({**guard.to_json(), **about})
        return said


def _excess(plan: Plan, trace: Trace, loss: str) -> FloatArray:
    """The excess loss of each example as the plan answers it, (examples,)."""
    check_system(plan, trace)
    answered = plan.answering(priced(plan, trace))
    outcome = replay(answered, plan.running, plan.setting)
    return excess_of(outcome, answered.losses(loss, plan.certificate.excess))
