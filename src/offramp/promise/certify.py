"""The promise: from excess losses on examples that trained nothing to a tradeoff and a certificate.

A finite path of tradeoffs and the single networks stand in one sequence, fixed on other examples,
the safest first; the first that does not pass its test stops (fixed-sequence testing: Angelopoulos
et al. 2021, Learn then Test, section 2.1). The error is spent once, however many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Any, Protocol, TypeVar

import numpy as np

from offramp.base.arrays import FloatArray
from offramp.base.errors import BudgetError
from offramp.base.notebook import table_html
from offramp.base.schema import record_of
from offramp.core.tasks import Excess
from offramp.promise.order import Candidate, Order
from offramp.promise.pvalues import Method, examples_needed, method_for, p_value, upper_bound

SUREST = 1 - 1e-9  # confidence; see `pvalues._NEGLIGIBLE`
ROUTE, ONE_NETWORK, KEEP = "route", "one network", "keep the reference"
VERDICTS = (ROUTE, ONE_NETWORK, KEEP)
_DO_NOT_ROUTE = "do not route"  # what certificates of earlier versions say for the last two


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What a test said of a point of the path, or of a single network."""

    tradeoff: float | None
    excess_loss: float
    cost: float
    p_value: float
    stage: str | None = None  # the single network; None: a point of the path


@dataclass(frozen=True)
class Saving:
    """What a plan saves at a batch size that it was not optimised for."""

    batch: int  # examples per call
    cost: float  # of what the plan runs, per example
    reference_cost: float
    speedup: float


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The evidence that a plan keeps its promise, or that none can be given."""

    excess: Excess
    loss: str  # top1, disagreement, ...
    budget: float  # excess loss accepted, a fraction
    confidence: float  # chance over the draw of the examples that the promise holds
    method: Method
    examples: int
    losses: int  # examples with positive excess loss, of what runs; see `changes`
    gains: int  # examples with negative excess loss, likewise
    # upper confidence bound of the excess loss of what runs, had it been the only point looked at:
    # what holds with the confidence, however the point was chosen, is the budget
    bound: float
    tradeoff: float | None  # None: no point passed
    cost: float  # of what the plan runs, in the unit of the trace
    reference_cost: float
    speedup: float
    static_choice: str  # the cheapest single network that passes and saves, else the reference
    static_cost: float
    examples_needed: int | None  # for the safest point at the same rates; None: no number would do
    verdict: str  # one of VERDICTS
    points: tuple[Tested, ...] = field(default=())  # of the path, as far as it was tested
    statics: tuple[Tested, ...] = field(default=())  # single networks, likewise
    level: float = 0.05  # error that its tests were made at: a share of what is allowed, or all
    look: int = 1  # how many questions its examples have answered, this one included
    looks: int = 1  # that the error allowed was shared by beforehand
    joint_confidence: float | None = None  # that the promises of all looks so far hold together
    reference_loss: float | None = None  # its own, on the same examples; None: without labels
    chance_loss: float | None = None  # of always the commonest label; None: or of another loss
    batch: int | None = None  # examples per call that costs were measured at; None: not a time
    sizes: tuple[Saving, ...] = field(default=())  # the same plan at other batch sizes
    # at 95 %, normal approximation, where costs differ from example to example; None: they do not
    cost_interval: tuple[float, float] | None = None
    speedup_interval: tuple[float, float] | None = None

    def __repr__(self) -> str:
        return (
            f"<Certificate: {self.verdict}, {self.speedup:.2f} times less cost; at most "
            f"{self.budget:.4g} {self.excess} excess {self.loss} loss at {self.confidence:.4g} "
            f"confidence, on {self.examples} examples>"
        )

    def lines(self) -> list[tuple[str, str]]:
        """What it says, by name."""
        return [
            ("verdict", self.verdict),
            ("budget", f"{self.budget:.4g} {self.excess} excess {self.loss} loss"),
            ("confidence", f"{self.confidence:.4g}"),
            ("upper bound", f"{self.bound:.4g}"),
            ("examples", f"{self.examples}, {self.losses} for the worse, {self.gains} better"),
            ("method", self.method),
            ("cost", f"{self.cost:.4g} of {self.reference_cost:.4g}"),
            ("times less cost", f"{self.speedup:.2f}"),
            ("tradeoff", "none" if self.tradeoff is None else f"{self.tradeoff:.4g}"),
            ("cheapest single network", self.static_choice),
        ]

    def _repr_html_(self) -> str:
        return table_html("Certificate", self.lines())

    @property
    def exhausted(self) -> bool:
        """Whether everything was tested and passed, so that others may have this one's error."""
        return all(tested.p_value <= self.level for tested in (*self.points, *self.statics))

    @property
    def changes(self) -> str:
        """What `losses` and `gains` count: the reference, run alone, changes no answer."""
        kept = self.verdict == KEEP
        return "answers changed at the safest tested" if kept else "answers changed"

    def to_json(self) -> dict[str, Any]:
        value = asdict(self)
        for listed in ("points", "statics", "sizes"):
            value[listed] = [asdict(one) for one in getattr(self, listed)]
        for ends in ("cost_interval", "speedup_interval"):
            value[ends] = value[ends] and list(value[ends])
        return value

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Certificate:
        """The inverse of `to_json`. Raises ValueError where a value is missing or none of it."""
        found = record_of(cls, value)
        if found.verdict == _DO_NOT_ROUTE:
            saves = found.cost < found.reference_cost
            found = replace(found, verdict=ONE_NETWORK if saves else KEEP)
        if not (0 <= found.budget <= 1 and 0 < found.confidence < 1):
            raise ValueError(f"the promise is {found.budget!r} at {found.confidence!r}")
        if found.verdict not in VERDICTS:
            raise ValueError(f"the certificate's verdict is {found.verdict!r}")
        if not (0 < found.level < 1 and found.look >= 1 and found.looks >= 1):
            raise ValueError(f"the certificate is of look {found.look!r} at {found.level!r}")
        if min(found.examples, found.losses, found.gains) < 0:
            raise ValueError("the certificate counts fewer than no examples")
        if min(found.cost, found.reference_cost, found.static_cost, found.speedup) <= 0:
            raise ValueError("the certificate holds a cost of nothing")
        return found


@dataclass(frozen=True, kw_only=True)
class Trial:
    """How candidates are tested."""

    excess: Excess = "net"  # the kind that the candidates hold
    loss: str = "top1"  # its name, for the record
    binary: bool = True  # whether every loss is 0 or 1
    method: Method | None = None  # the test; None: the sharpest valid one (`method_for`)
    level: float | None = None  # error of the tests, at most 1 - confidence; None: all of that
    seed: int = 0  # fixes the order in which the betting test reads the examples

    def at(self, confidence: float) -> _Trial:
        """The test that is made for a confidence."""
        most = 1 - confidence
        return _Trial(
            excess=self.excess,
            loss=self.loss,
            method=self.method or method_for(self.excess, self.binary),
            level=most if self.level is None else min(self.level, most),
            seed=self.seed,
        )


@dataclass(frozen=True, kw_only=True)
class _Trial:
    """A test at a level of error."""

    excess: Excess
    loss: str
    method: Method
    level: float
    seed: int

    def p_value(self, excess: FloatArray, budget: float) -> float:
        return p_value(excess, budget, self.method, level=self.level, seed=self.seed)

    def bound(self, excess: FloatArray, budget: float) -> float:
        """The upper bound of what passed at `budget`, whatever the last digits of it."""
        return min(budget, upper_bound(excess, self.level, self.method, seed=self.seed))

    def needed(self, excess: FloatArray, budget: float) -> int | None:
        return examples_needed(excess, budget, self.level, self.method)


def check_promise(budget: float, confidence: float) -> None:
    """Raises BudgetError where the budget lies outside [0, 1] or the confidence outside (0, 1)."""
    if not (isinstance(budget, int | float) and 0 <= budget <= 1):
        raise BudgetError(
            f"the budget is {budget}; it is the accuracy given up, a fraction between 0 and 1 "
            "(0.01 is one percentage point)."
        )
    if not (isinstance(confidence, int | float) and 0 < confidence < 1):
        raise BudgetError(f"the confidence is {confidence}; it must lie between 0 and 1.")
    if confidence > SUREST:
        raise BudgetError(
            f"the confidence is {confidence}; it may be {SUREST} at most: the tests leave out what "
            "is less likely than that, and would never pass."
        )


def certify(
    path: Iterable[Candidate],
    statics: Mapping[str, Candidate],
    budget: float,
    *,
    reference: str,
    reference_cost: float,
    confidence: float = 0.95,
    order: Order | None = None,
    trial: Trial | None = None,
) -> Certificate:
    """The certificate of the cheapest tradeoff whose excess loss stays within `budget`.

    Path and single networks are one sequence; the first that does not pass ends it, and the path
    is consumed only that far. The tradeoff is None where no point passes.

    Args:
        path: candidates in an order fixed before looking at these examples, safest first.
        statics: every single network but the reference, by name.
        budget: excess loss given up, a fraction in [0, 1]; 0.01 is one percentage point.
        reference: the name of the full network, which needs no test.
        reference_cost: the cost of running it alone.
        confidence: chance in (0, 1), over the draw of the examples, that the promise holds.
        order: what is tested when, fixed before looking at these examples (`safest_first`); None:
            all of the path, then the single networks from the dearest down.
        trial: how it is tested; None: net top-1 loss at all of the error.

    Raises:
        BudgetError: `budget` or `confidence` lies outside its range.
    """
    check_promise(budget, confidence)
    promise = _Promise(budget, confidence, reference, reference_cost)
    test = (trial or Trial()).at(confidence)
    walked = _walk(in_order(path, statics, order or Order()), budget, test)
    return _certificate(walked, statics, promise, test)


@dataclass(frozen=True)
class _Promise:
    """What is promised, against which network."""

    budget: float
    confidence: float
    reference: str
    reference_cost: float


def _certificate(
    walked: _Walked, statics: Mapping[str, Candidate], promise: _Promise, trial: _Trial
) -> Certificate:
    """What a walked sequence says of the promise."""
    chosen, first, reference_cost = walked.point, walked.first, promise.reference_cost
    static = walked.static
    if static is not None and statics[static].cost >= reference_cost:
        static = None
    static_cost = statics[static].cost if static else reference_cost
    routed = chosen is not None and chosen.cost < static_cost
    running = chosen if routed else statics[static] if static else None
    shown = running or first  # the reference changes no answer: then of the safest point tested
    cost = running.cost if running else reference_cost
    return Certificate(
        excess=trial.excess,
        loss=trial.loss,
        budget=promise.budget,
        confidence=promise.confidence,
        method=trial.method,
        examples=len(shown.excess) if shown else 0,
        losses=int((shown.excess > 0).sum()) if shown else 0,
        gains=int((shown.excess < 0).sum()) if shown else 0,
        bound=trial.bound(running.excess, promise.budget) if running else 0.0,
        tradeoff=chosen.tradeoff if chosen and routed else None,
        cost=cost,
        reference_cost=reference_cost,
        speedup=reference_cost / cost,
        static_choice=static or promise.reference,
        static_cost=static_cost,
        examples_needed=trial.needed(first.excess, promise.budget) if first else None,
        verdict=ROUTE if routed else ONE_NETWORK if static else KEEP,
        points=tuple(tested for tested in walked.tested if tested.stage is None),
        statics=tuple(tested for tested in walked.tested if tested.stage is not None),
        level=trial.level,
    )


Named = tuple[str | None, Candidate]  # the single network, or None: a point of the path


class Priced(Protocol):
    """Anything with a cost."""

    @property
    def cost(self) -> float:
        """Mean, in any unit."""


_P = TypeVar("_P", bound=Priced)


def in_order(
    path: Iterable[_P], statics: Mapping[str, _P], order: Order
) -> Iterator[tuple[str | None, _P]]:
    """Everything to test, in order; single networks at the same place from the dearest down."""
    waiting = sorted(
        statics, key=lambda name: (order.places.get(name, math.inf), -statics[name].cost)
    )
    for passed, point in enumerate(islice(path, order.start, None)):
        while waiting and order.places.get(waiting[0], math.inf) <= passed:
            yield waiting[0], statics[waiting.pop(0)]
        yield None, point
    yield from ((name, statics[name]) for name in waiting)


@dataclass(frozen=True)
class _Walked:
    """A sequence, as far as it was tested."""

    tested: list[Tested]
    point: Candidate | None  # the cheapest point of the path that passed
    static: str | None  # the cheapest single network that passed
    first: Candidate | None  # the first point of the path that was tested; else what failed


def _walk(sequence: Iterable[Named], budget: float, trial: _Trial) -> _Walked:
    """Tests up to the first failure."""
    tested: list[Tested] = []
    passed: dict[str | None, Candidate] = {}
    point = first = candidate = None
    # no correction for many tests: their order is fixed and the first failure stops
    for name, candidate in sequence:
        first = first or (candidate if name is None else None)
        p = trial.p_value(candidate.excess, budget)
        mean = float(candidate.excess.mean(dtype=np.float64))
        tested.append(
            Tested(
                tradeoff=candidate.tradeoff,
                excess_loss=mean,
                cost=candidate.cost,
                p_value=p,
                stage=name,
            )
        )
        if p > trial.level:
            break
        if name is not None:
            passed[name] = candidate
        elif point is None or candidate.cost < point.cost:
            point = candidate
    static = min(passed, key=lambda name: passed[name].cost, default=None)
    return _Walked(tested, point, static, first or candidate)
