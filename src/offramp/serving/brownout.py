"""What may be answered under load: a ladder of plans and settings that are certified together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from offramp.base.errors import PlanError
from offramp.base.files import fingerprint
from offramp.plan.plan import Plan
from offramp.promise.certify import KEEP

LOW, HIGH = 0.25, 0.75  # shares of the room in use between which the dial turns
HOLD_S = 0.5  # before it turns back by one
_CHEAPER = 0.98  # a step that saves less is not worth a level


@dataclass(frozen=True, eq=False)
class Rung:
    """One way to answer, and what is promised of it."""

    plan: Plan
    budget: float  # excess loss, at the confidence of all plans together
    cost: float  # mean, on the examples that certified

    @classmethod
    def of(cls, plan: Plan) -> Rung:
        return cls(plan, plan.certificate.budget, plan.certificate.cost)


def ladder(plans: Sequence[Plan], brown_out: float | None) -> tuple[Rung, ...]:
    """The levels of a server, dearest and safest first: the smallest budget, then cheaper ones.

    The first is what runs without load. Others are settings of a larger budget's path that passed
    its tests: the first failure ends a path, so that all that passed before it hold together, and
    paths of several budgets share the error (`offramp.plan.fit.fit_each`).

    Args:
        plans: of one `fit --budget SMALL,LARGE`.
        brown_out: the largest budget that load may use; None: none but the smallest.

    Raises:
        PlanError: there is no larger budget within `brown_out`, or plans that were not certified
            together or run other networks.
    """
    base, *others = sorted(plans, key=lambda plan: plan.certificate.budget)
    found = [Rung.of(base)]
    if brown_out is None:
        return (found[0],)
    allowed = [plan for plan in others if plan.certificate.budget <= brown_out + 1e-12]
    if not allowed:
        raise PlanError(
            f"no plan here has a budget above {base.certificate.budget:g} and within the "
            f"{brown_out:g} of --brown-out. Fit both together: offramp fit TRACE --budget "
            f"{base.certificate.budget:g},{brown_out:g}, and serve the folder that this makes."
        )
    for plan in allowed:
        check_together(base, plan)
        found += _passed(plan)
    return _falling(found)


def _passed(plan: Plan) -> list[Rung]:
    """The settings of a plan's path that passed, and what it chose."""
    own = plan.certificate
    if not plan.routes:
        return [Rung.of(plan)]
    passed = [
        Rung(plan.turned(point.tradeoff), own.budget, point.cost)
        for point in own.points
        if point.p_value <= own.level and point.tradeoff is not None
    ]
    return [*passed, Rung.of(plan)]


def _falling(levels: Sequence[Rung]) -> tuple[Rung, ...]:
    """Those that cost clearly less than all before them."""
    kept = [levels[0]]
    kept += [
        level
        for number, level in enumerate(levels)
        if number and level.cost < _CHEAPER * min(other.cost for other in levels[:number])
    ]
    return tuple(kept)


def check_together(one: Plan, other: Plan) -> None:
    """Raises PlanError where promises of two plans do not hold together, or networks differ."""
    kinds = ("certification_rows", "learning_rows")
    looked = [(p.certificate.look, *(p.info.get(kind) for kind in kinds)) for p in (one, other)]
    if looked[0] != looked[1]:
        raise PlanError(
            "these plans were certified apart, so that their promises need not hold together. Fit "
            "them at once: offramp fit TRACE --budget "
            f"{one.certificate.budget:g},{other.certificate.budget:g}."
        )
    prints = [{part: fingerprint(file) for part, file in p.networks.items()} for p in (one, other)]
    if one.graph != other.graph or prints[0] != prints[1]:
        raise PlanError("these plans run other networks; serve those of one `fit` together.")


def safer(rung: Rung) -> Rung | None:
    """What is safer than a setting: the safest of its path that passed, then the reference alone.

    Returns:
        None: it is the reference already.
    """
    plan, own = rung.plan, rung.plan.certificate
    passed = [p for p in own.points if p.p_value <= own.level and p.tradeoff is not None]
    if plan.routes and passed and passed[0].tradeoff != plan.tradeoff:
        return Rung(plan.turned(passed[0].tradeoff), rung.budget, passed[0].cost)
    return reference_alone(rung)


def reference_alone(rung: Rung) -> Rung | None:
    """The reference of a plan, which loses nothing; None: it runs already."""
    plan, reference = rung.plan, rung.plan.graph.reference
    if not plan.routes and plan.certificate.static_choice == reference:
        return None
    kept = replace(plan.certificate, tradeoff=None, static_choice=reference, verdict=KEEP)
    return Rung(replace(plan, tradeoff=None, certificate=kept), 0.0, kept.reference_cost)


class BrownOut:
    """A dial that turns to cheaper levels as room runs out, and back one by one after that."""

    def __init__(self, levels: Sequence[Rung]) -> None:
        self.levels: Sequence[Rung] = levels
        self.position: int = 0
        self.held: Rung | None = None  # what an alarm holds it at, whatever the load
        self.most: int = len(levels) - 1  # the last level that load may use
        self._turned_s: float = -math.inf

    def turn(self, load: float, now_s: float) -> Rung:
        """The level for a request that comes now.

        Args:
            load: share of the room that is in use, in [0, 1].
            now_s: of any steady clock.
        """
        if self.held is not None:
            return self.held
        last = self.most
        wanted = min(last, max(0, math.ceil((load - LOW) / (HIGH - LOW) * last)))
        if wanted > self.position:
            self.position, self._turned_s = wanted, now_s
        elif wanted < self.position and now_s - self._turned_s >= HOLD_S:
            self.position, self._turned_s = self.position - 1, now_s
        return self.levels[self.position]
