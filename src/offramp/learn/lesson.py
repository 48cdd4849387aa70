"""What is learned from, and what a policy does on examples that taught it nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np

from offramp.answering.committees import Committees, Known, learn_committees
from offramp.answering.posterior import expected_excess
from offramp.base.arrays import FloatArray, IntArray
from offramp.core.frontier import LEVELS, TracePolicy, excess_of, needed, replay
from offramp.core.graph import Costs, Graph
from offramp.core.policy import Policy
from offramp.core.prices import Prices
from offramp.core.tasks import Excess, Losses
from offramp.core.trace import Trace
from offramp.policies import Family
from offramp.promise.forecast import Forecast, Rehearsal, Stake, draws, forecast
from offramp.promise.pvalues import method_for

_FOLDS, _MANY = 5, 1000  # folds; examples from which two are enough
_SAMPLE = 3000  # examples to choose on, at most
_SCORES = 1_500_000  # scores of all classes to choose on, at most
_STEPS = 61  # settings of each dial
_ROUNDS = 2  # of learning at the costs that the last round's survivors make


Together = Literal["none", "others", "all"]
"""Which stages may answer together: none, all but the reference, or the reference as well."""


@dataclass(frozen=True, kw_only=True)
class Ways:
    """What counts as loss, how stages may answer, and what will be certified."""

    loss: str | None = None  # see `Trace.losses`
    excess: Excess = "net"
    unlabelled: bool = False  # whether committees learn the reference's answers
    committees: bool = True  # whether stages may answer together
    keep_stages: bool = False  # whether all stages take part, along all edges
    pool: bool = False  # whether any stage may follow any cheaper one, whatever the edges
    prices: Prices | None = None  # None: costs as recorded
    budgets: tuple[float, ...] = LEVELS  # excess losses at which costs are compared
    error: float = 0.5  # of the tests at each budget; 0.5: nothing is certified, guesses count
    certifying: int | None = None  # examples that certify; None: as many as teach
    seed: int = 0  # of committees, of samples and of forecasts

    def lesson(
        self, trace: Trace, together: Together | None = None, known: Known | None = None
    ) -> Lesson:
        """The examples as stages answer them, together where that loses less.

        Args:
            trace: with the graph that is walked.
            together: which of them may; None: all or none, as `committees` says.
            known: committees that were learned of the same examples, to which others are added.
        """
        together = together or ("all" if self.committees else "none")
        found: Committees = {}
        if together != "none":
            found, trace = learn_committees(
                trace,
                self.loss,
                unlabelled=self.unlabelled,
                seed=self.seed,
                reference=together == "all",
                known=known,
            )
        return Lesson(trace, trace.losses(self.loss, self.excess), found)

    def stake(self, trace: Trace, binary: bool) -> Stake:
        """What is at stake where all examples of a trace teach."""
        return Stake(
            budgets=self.budgets,
            error=self.error,
            learning=trace.examples,
            certifying=self.certifying or trace.examples,
            betting=method_for(self.excess, binary) == "betting" and self.error < 0.5,
        )


DEFAULT = Ways()


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


Key = tuple[Graph, Together, str]


@dataclass(frozen=True)
class Setup:
    """What may be chosen: who takes part, how they answer, and what decides."""

    graph: Graph
    together: Together
    family: Family

    @property
    def key(self) -> Key:
        return self.graph, self.together, self.family.name


@dataclass(frozen=True)
class Scored:
    """A setup, what it will probably cost, and at which costs that was found out."""

    setup: Setup
    forecast: Forecast
    costs: Costs | None = None  # None: as recorded

    @property
    def cost(self) -> float:
        return self.forecast.cost


@dataclass(frozen=True)
class Findings:
    """What was found out about some examples, for other budgets."""

    rehearsals: MutableMapping[Key, Rehearsal] = field(default_factory=dict)
    committees: Known = field(default_factory=dict)


class Rehearsals:
    """What setups will probably cost, tried on examples that teach; each is tried once."""

    trace: Trace
    ways: Ways
    found: Findings
    plain: Lesson
    stake: Stake
    draws: FloatArray

    def __init__(self, trace: Trace, ways: Ways, found: Findings | None = None) -> None:
        most = max(1, min(_SAMPLE, _SCORES // max(1, trace.classes)))
        self.trace = trace.take(trace.sample(most, ways.seed))
        self.ways, self.found = ways, found or Findings()
        if ways.prices is not None:
            self.trace = self.trace.at_costs(ways.prices.costs(trace.graph))
        self.plain = ways.lesson(self.trace, together="none")
        binary = trace.task.is_binary(self.plain.losses.name) or self.plain.losses.binary
        self.stake = ways.stake(trace, binary)
        self.draws = draws(self.trace.examples, ways.seed)
        self.known: dict[Key, Scored] = {}

    def score(self, setup: Setup) -> Scored:
        """The forecast of a setup; with prices at the costs of those who come to each stage."""
        if setup.key not in self.known:
            prices = self.ways.prices
            self.known[setup.key] = (
                Scored(setup, forecast(self._rehearsal(setup), self.stake))
                if prices is None
                else self._priced(setup, prices)
            )
        return self.known[setup.key]

    def _rehearsal(self, setup: Setup) -> Rehearsal:
        kept = self.found.rehearsals
        if setup.key not in kept:
            kept[setup.key] = _Run(self, setup).rehearsal
        return kept[setup.key]

    def _priced(self, setup: Setup, prices: Prices) -> Scored:
        shares: dict[str, float] = {}
        for _ in range(_ROUNDS):
            costs = over(prices.costs(self.trace.graph), prices.costs(setup.graph, shares))
            run = _Run(self, setup, costs)
            found = forecast(run.rehearsal, self.stake)
            shares = run.shares(found.likeliest)
        costs = over(prices.costs(self.trace.graph), prices.costs(setup.graph, shares))
        return Scored(setup, found, costs)

    def lesson(self, setup: Setup) -> Lesson:
        trace = replace(self.trace, graph=setup.graph)
        return self.ways.lesson(trace, setup.together, self.found.committees)

    def singles(self, trace: Trace) -> tuple[tuple[str, ...], FloatArray]:
        """The single networks but for the reference, and what each costs over the reference's."""
        graph = self.trace.graph
        names = tuple(stage for stage in graph.order if stage != graph.reference)
        if trace.example_costs is None:
            costs = [graph.alone(trace.costs, name) for name in names]
        else:
            costs = [float(np.mean(trace.step_cost(graph, name))) for name in names]
        return names, np.array(costs) / graph.reference_cost(trace.costs)


class _Run:
    """One setup on held-out examples: each is met by a policy of others."""

    def __init__(self, room: Rehearsals, setup: Setup, costs: Costs | None = None) -> None:
        self.room, lesson = room, room.lesson(setup)
        trace = lesson.trace if costs is None else lesson.trace.at_costs(costs)
        self.lesson = Lesson(trace, lesson.losses, lesson.committees)
        self.parts = list(self._parts(setup.family))

    def _parts(self, family: Family) -> Iterator[tuple[FloatArray, Trace, Policy]]:
        lesson = self.lesson
        for fold in np.unique(lesson.folds):
            held = lesson.folds == fold
            policy = family(lesson.trace.take(~held), lesson.losses.take(~held))
            yield held, lesson.trace.take(held), policy

    @cached_property
    def rehearsal(self) -> Rehearsal:
        room, lesson = self.room, self.lesson
        n, unit = lesson.trace.examples, lesson.trace.reference_cost
        names, single_costs = room.singles(lesson.trace)
        real = np.empty((n, _STEPS + len(names)), np.float32)
        lost, cost = np.zeros(_STEPS), np.zeros(_STEPS)
        for held, trace, policy in self.parts:
            real[held, :_STEPS], told, paid = self._walks(held, trace, policy)
            lost, cost = lost + told, cost + paid
        plain = room.plain
        for column, name in enumerate(names, start=_STEPS):
            real[:, column] = plain.losses.excess(name)
        mean = real.mean(axis=0, dtype=np.float64)
        square = np.square(real).mean(axis=0, dtype=np.float64)
        lost = lost / n
        if lesson.trace.graph.reference in lesson.committees:
            # this gain was chosen on the same examples, for being more than a standard error
            error = np.sqrt(np.maximum(square - mean**2, 0.0) / n)[:_STEPS]
            lost = np.where(lost < 0, np.minimum(lost + error, 0.0), lost)
        noise = room.draws.astype(np.float32) @ (real - mean.astype(np.float32)) / np.sqrt(n)
        return Rehearsal(
            cost=np.concatenate([cost / (n * unit), single_costs]),
            expected=np.concatenate([lost, [plain.excess[s].mean() for s in names]]),
            mean=mean,
            square=square,
            noise=noise.astype(np.float64),
            singles=names,
            examples=n,
        )

    def _walks(
        self, held: FloatArray, trace: Trace, policy: Policy
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Real excess (rows, steps), and sums of expected excess and cost, at each step."""
        losses = self.lesson.losses.take(held)
        excess = {stage: values[held] for stage, values in self.lesson.excess.items()}
        recorded = TracePolicy(policy, trace)
        real = np.empty((trace.examples, _STEPS), np.float32)
        lost, cost = np.zeros(_STEPS), np.zeros(_STEPS)
        steps = _steps(policy)
        for at, step in enumerate(steps):
            if at and step == steps[at - 1]:  # a short dial
                real[:, at], lost[at], cost[at] = real[:, at - 1], lost[at - 1], cost[at - 1]
                continue
            outcome = replay(trace, recorded, float(policy.settings[step]))
            real[:, at] = excess_of(outcome, losses)
            lost[at] = sum(
                float(excess[s][outcome.stage == i].sum()) for i, s in enumerate(outcome.order)
            )
            cost[at] = outcome.cost.sum()
        return real, lost, cost

    def shares(self, step: int | None) -> dict[str, float]:
        """The share of held-out examples that needs each part at a step of the dial."""
        totals: dict[str, float] = {}
        for _, trace, policy in self.parts:
            setting = float(policy.settings[_steps(policy)[step or 0]])
            for part, n in needed(trace, policy, setting).items():
                totals[part] = totals.get(part, 0.0) + float(n.sum())
        return {part: total / self.lesson.trace.examples for part, total in totals.items()}


def _steps(policy: Policy) -> IntArray:
    """As many positions along any dial, (steps,)."""
    return np.linspace(0, len(policy.settings) - 1, _STEPS).round().astype(int)


def over(every: Costs, costs: Costs) -> Costs:
    """The costs of walks, beside those of stages that no walk comes to."""
    return replace(
        costs,
        body={**every.body, **costs.body},
        head={**every.head, **costs.head},
        whole=every.whole,
        at={batch: over(every.at[batch], there) for batch, there in costs.at.items()},
    )
