"""Which policy decides: the one that costs least at some levels, on held-out examples.

The linear policy decides unless one shared threshold, or a small network, saves more on examples
that neither has seen. A user need not choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from offramp.answering.committees import Committees, learn_committees
from offramp.answering.posterior import expected_excess
from offramp.base.arrays import FloatArray, IntArray
from offramp.base.progress import Progress, silent
from offramp.core.frontier import LEVELS, Point, TracePolicy, cost_at, replay
from offramp.core.policy import Learner, Policy
from offramp.core.tasks import Excess, Losses
from offramp.core.trace import Trace
from offramp.policies import Deployable, Family, family

AUTO = "auto"
QUICK, NETWORK = "learned", "network"
TRIED_RULES = ("margin", "myopic", "entropy")  # hard to beat with few examples
FEW = 100  # examples below which nothing is learned
_FOLDS, _MANY = 5, 1000  # folds; examples from which two are enough, and a network worth trying
_SAMPLE = 3000  # examples to choose on, at most
_WORTH = 0.01  # of the reference's cost that others must save over the linear policy
_STEPS = 61  # settings of each dial


@dataclass(frozen=True)
class Lesson:
    """Examples to learn from, as the stages answer them, and what stopping costs."""

    trace: Trace
    losses: Losses
    committees: Committees

    @cached_property
    def folds(self) -> IntArray:
        """(examples,) numbers."""
        n = self.trace.examples
        return np.random.default_rng(n).permutation(n) % (_FOLDS if n < _MANY else 2)

    @cached_property
    def excess(self) -> Mapping[str, FloatArray]:
        """Expected excess loss of each stage, (examples,) each: less noise to choose by."""
        return expected_excess(self.trace, self.losses, self.folds)

    def take(self, rows: IntArray) -> Lesson:
        return Lesson(self.trace.take(rows), self.losses.take(rows), self.committees)

    def taught(self, policy: str | Family, held_out: Mapping[str, float] | None = None) -> Taught:
        """What is learned from all of them; `held_out` is what was tried before."""
        decides = family(policy)
        return Taught(decides(self.trace, self.losses), decides, self, held_out or {})

    def held_out(self, learns: Learner[Policy], levels: Sequence[float]) -> float:
        """Mean cost at the levels, over the reference's; each example met by a policy of others."""
        totals = np.zeros((2, _STEPS))
        for fold in np.unique(self.folds):
            held = self.folds == fold
            policy = learns(self.trace.take(~held), self.losses.take(~held))
            excess = {stage: values[held] for stage, values in self.excess.items()}
            totals += _totals(policy, self.trace.take(held), excess)
        unit = self.trace.reference_cost
        lost, cost = totals / self.trace.examples
        points = [
            Point(tradeoff=None, excess_loss=a, induced_loss=a, cost=c, speedup=unit / c, exits={})
            for a, c in zip(lost, cost, strict=True)
        ]
        points.append(
            Point(
                tradeoff=None, excess_loss=0.0, induced_loss=0.0, cost=unit, speedup=1.0, exits={}
            )
        )  # the reference alone
        return float(np.mean([cost_at(points, level) for level in levels])) / unit


def _totals(policy: Policy, trace: Trace, excess: Mapping[str, FloatArray]) -> FloatArray:
    """Excess loss and cost of all examples, (2, settings), at as many steps along any dial."""
    recorded = TracePolicy(policy, trace)
    order = policy.graph.order
    steps = np.linspace(0, len(policy.settings) - 1, _STEPS).round().astype(int)
    found: dict[int, tuple[float, float]] = {}
    for step in np.unique(steps):
        outcome = replay(trace, recorded, float(policy.settings[step]))
        lost = sum(float(excess[s][outcome.stage == i].sum()) for i, s in enumerate(order))
        found[int(step)] = (lost, float(outcome.cost.sum()))
    return np.array([found[int(step)] for step in steps]).T


@dataclass(frozen=True, kw_only=True)
class Ways:
    """What counts as loss, and how stages may answer."""

    loss: str | None = None  # see `Trace.losses`
    excess: Excess = "net"
    unlabelled: bool = False  # whether committees learn the reference's answers
    committees: bool = True  # whether stages may answer together
    levels: Sequence[float] = LEVELS  # of mean excess loss, at which costs are compared
    seed: int = 0  # of committees, and of samples

    def lesson(self, trace: Trace) -> Lesson:
        """The examples as stages answer them, together where that loses less."""
        found: Committees = {}
        if self.committees:
            found, trace = learn_committees(
                trace, self.loss, unlabelled=self.unlabelled, seed=self.seed
            )
        return Lesson(trace, trace.losses(self.loss, self.excess), found)


DEFAULT = Ways()


@dataclass(frozen=True)
class Taught:
    """A policy, how stages answer, and what else was tried."""

    policy: Deployable
    family: Family
    lesson: Lesson  # what it was learned from
    held_out: Mapping[str, float]  # tried -> mean cost at the levels, over the reference's

    @property
    def name(self) -> str:
        return self.family.name


def teach(
    trace: Trace,
    ways: Ways = DEFAULT,
    policy: str | Family = AUTO,
    progress: Progress | None = None,
) -> Taught:
    """The policy that costs least at some levels of excess loss, on held-out examples.

    Args:
        trace: examples to learn from and choose on; whatever is chosen learns from all of them.
        ways: what counts, and whether stages may answer together.
        policy: a family or its name, or `auto` to choose one: with few examples a rule.
        progress: called with what is learned or tried, how much of it, and how much there is.

    Raises:
        InputError: an unknown policy.
        TraceError, LossError: as `Trace.losses`.
    """
    names = _tried(trace, policy)
    steps = len(names) + 2 if len(names) > 1 else 2
    tell = progress or silent
    tell("how stages answer", 0, steps)
    lesson = ways.lesson(trace)
    tried: dict[str, float] = {}
    if len(names) > 1:
        sample = lesson.take(trace.sample(_SAMPLE, ways.seed))
        for number, name in enumerate(names, start=1):
            tell(f"trying {name}", number, steps)
            tried[name] = sample.held_out(family(name), ways.levels)
    best = min(names, key=lambda name: tried.get(name, 0.0) + (_WORTH if name != QUICK else 0.0))
    tell(f"learning {best}", steps - 1, steps)
    return lesson.taught(best if policy == AUTO else policy, tried)


def _tried(trace: Trace, policy: str | Family) -> tuple[str, ...]:
    """The names of the families to choose from."""
    if policy != AUTO:
        return (family(policy).name,)
    if trace.examples < FEW:
        return TRIED_RULES[:1]
    return (QUICK, *TRIED_RULES, *((NETWORK,) if trace.examples >= _MANY else ()))
