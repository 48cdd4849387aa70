"""Which policy decides, and who answers: what costs least at some levels, on held-out examples.

What is learned has to be better than one shared threshold on examples that it has not seen, or the
threshold decides; committees have to save something, or every stage answers by itself. A user need
not choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from offramp.arrays import FloatArray, IntArray
from offramp.committees import Committees, learn
from offramp.frontier import LEVELS, Point, Recorded, cost_at, replay
from offramp.policies import Deployable, family
from offramp.policies.posterior import expected_excess
from offramp.policies.protocol import Family, Policy
from offramp.tasks import Excess, Losses
from offramp.trace import Trace

AUTO = "auto"
QUICK = "learned"  # what is learned in no time
RULES = ("margin", "myopic", "entropy")  # cheap to run, and hard to beat with few examples
FEW = 100  # examples below which nothing is learned
_NETWORK = 1000  # examples from which a small network is worth trying
_FOLDS, _MANY = 5, 1000  # folds, and examples from which two are enough
_SAMPLE = 4000  # examples to choose on, at most
_WORTH = 0.005  # of the reference's cost that a small network must save: it takes time as well
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

    def held_out(self, learns: Family[Policy], levels: Sequence[float]) -> float:
        """Mean cost at the levels, over the reference's; each example met by a policy of others."""
        totals = np.zeros((2, _STEPS))
        for fold in np.unique(self.folds):
            held = self.folds == fold
            policy = learns(self.trace.take(~held), self.losses.take(~held))
            excess = {stage: values[held] for stage, values in self.excess.items()}
            totals += _totals(policy, self.trace.take(held), excess)
        unit = self.trace.reference_cost
        lost, cost = totals / self.trace.examples
        points = [Point(None, a, a, c, unit / c, {}) for a, c in zip(lost, cost, strict=True)]
        points.append(Point(None, 0.0, 0.0, unit, 1.0, {}))  # the reference alone
        return float(np.mean([cost_at(points, level) for level in levels])) / unit


def _totals(policy: Policy, trace: Trace, excess: Mapping[str, FloatArray]) -> FloatArray:
    """Excess loss and cost of all examples, (2, settings), at as many steps along any dial."""
    recorded = Recorded(policy, trace)
    order = policy.graph.order
    steps = np.linspace(0, len(policy.settings) - 1, _STEPS).round().astype(int)
    found: dict[int, tuple[float, float]] = {}
    for step in np.unique(steps):
        outcome = replay(trace, recorded, float(policy.settings[step]))
        lost = sum(float(excess[s][outcome.stage == i].sum()) for i, s in enumerate(order))
        found[int(step)] = (lost, float(outcome.cost.sum()))
    return np.array([found[int(step)] for step in steps]).T


@dataclass(frozen=True)
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
            found, trace = learn(trace, self.loss, unlabelled=self.unlabelled, seed=self.seed)
        return Lesson(trace, trace.losses(self.loss, self.excess), found)


DEFAULT = Ways()


@dataclass(frozen=True)
class Taught:
    """A policy, how stages answer, and what else was tried."""

    policy: Deployable
    name: str  # of its family
    lesson: Lesson  # what it was learned from
    held_out: Mapping[str, float]  # tried -> mean cost at the levels, over the reference's


def teach(trace: Trace, ways: Ways = DEFAULT, policy: str = AUTO) -> Taught:
    """The policy and the committees that cost least at some levels of excess loss, held out.

    Args:
        trace: examples to learn from and choose on; whatever is chosen learns from all of them.
        ways: what counts, and whether stages may answer together.
        policy: the name of a family, or `auto` to choose one.

    Raises:
        InputError: an unknown policy.
        TraceError, LossError: as `Trace.losses`.
    """
    if policy != AUTO:
        family(policy)  # raises where there is none
    lessons = {"": replace(ways, committees=False).lesson(trace)}
    if ways.committees and (together := ways.lesson(trace)).committees:
        lessons["committees"] = together
    choice = _Choice(lessons, ways)
    if policy != AUTO:
        return choice.best((policy,))
    if trace.examples < FEW:
        return choice.best(RULES[:1])
    return choice.best((*RULES, QUICK), also=("network",) * (trace.examples >= _NETWORK))


class _Choice:
    """Tries families of policies on lessons, and learns the best of them."""

    def __init__(self, lessons: Mapping[str, Lesson], ways: Ways) -> None:
        self.lessons, self.levels = lessons, ways.levels
        self.tried: dict[tuple[str, str], float] = {}
        n = next(iter(lessons.values())).trace.examples
        rows = np.arange(n)
        if n > _SAMPLE:
            rows = np.sort(np.random.default_rng(ways.seed).choice(n, _SAMPLE, replace=False))
        self.samples = {name: lesson.take(rows) for name, lesson in lessons.items()}

    def best(self, names: Sequence[str], *, also: Sequence[str] = ()) -> Taught:
        """Of every family with every lesson, then of some more families with the best lesson."""
        ways = [(name, lesson) for lesson in self.lessons for name in names]
        if len(ways) + len(also) > 1:
            for way in ways:
                self._try(way)
            answering = self._least()[1]
            for name in also:
                self._try((name, answering), _WORTH)
        name, which = self._least() if self.tried else ways[0]
        lesson = self.lessons[which]
        learned = family(name)(lesson.trace, lesson.losses)
        held_out = {_label(*way): cost for way, cost in self.tried.items()}
        return Taught(learned, name, lesson, held_out)

    def _try(self, way: tuple[str, str], worth: float = 0.0) -> None:
        name, lesson = way
        self.tried[way] = self.samples[lesson].held_out(family(name), self.levels) + worth

    def _least(self) -> tuple[str, str]:
        return min(self.tried, key=self.tried.__getitem__)


def _label(name: str, lesson: str) -> str:
    return f"{name}, {lesson}" if lesson else name
