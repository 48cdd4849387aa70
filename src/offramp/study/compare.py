"""Every policy, every single network and the oracles, tuned and measured in the same way."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from offramp.answering.committees import Committees, with_committees
from offramp.base.arrays import FloatArray
from offramp.base.errors import InputError, TraceError
from offramp.base.progress import Progress, silent
from offramp.core.frontier import Point, frontier, uniform_points
from offramp.core.hulls import LEVELS
from offramp.core.policy import Policy
from offramp.core.tasks import DISAGREEMENT, Losses
from offramp.core.trace import Trace
from offramp.learn.teach import AUTO, Ways, teach
from offramp.policies import FAMILIES, ExactOracle, Family, SoftOracle, Static, family
from offramp.promise import split
from offramp.promise.split import FEWEST
from offramp.study.bands import (
    DRAWS,
    Band,
    Curve,
    FrontierBand,
    Measured,
    Resamples,
    judge,
    measure,
    mixed,
    one_curve,
    scales,
)

UNIFORM = "uniform"  # blind mixes of single networks: always compared, never fitted
OWN = AUTO  # the policy that others are compared with
_OURS = (OWN, "learned", "network")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A frontier in a few numbers, of the hull of its points and of the reference alone."""

    speedups: tuple[Band, ...]  # at LEVELS of net excess loss
    area: Band  # mean cost over the reference's between the ends of LEVELS; lower is better
    gap_cost: (
        Band  # share of the gap to the exact oracle closed: `offramp.core.frontier.gap_closed`
    )
    gap_loss: Band  # likewise in loss: `offramp.core.frontier.loss_gap_closed`
    lead: tuple[Band, ...] | None = None  # the default policy's speed-ups minus these, paired
    frontier: FrontierBand | None = None  # None without bands
    seconds: float | None = None  # that fitting took; None where nothing is fitted

    @property
    def gaps(self) -> tuple[Band, Band]:
        return self.gap_cost, self.gap_loss

    def to_json(self) -> dict[str, Any]:
        return {
            "speedups": _levels(self.speedups),
            "area": self.area.to_json(),
            "gap_cost": self.gap_cost.to_json(),
            "gap_loss": self.gap_loss.to_json(),
            "lead": self.lead and _levels(self.lead),
            "frontier": self.frontier and self.frontier.to_json(),
            "seconds": self.seconds,
        }


def _levels(bands: Iterable[Band]) -> list[dict[str, Any]]:
    return [{"excess_loss": e, **b.to_json()} for e, b in zip(LEVELS, bands, strict=True)]


@dataclass(frozen=True)
class Row:
    """What a table of a comparison says of a policy, of a network alone or of an oracle."""

    name: str
    kind: Literal["policy", "static", "oracle"]
    summary: Summary


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Frontiers on examples that tuned nothing."""

    examples: int
    reference: str
    reference_loss: float
    reference_cost: float
    cost_unit: str
    loss: str
    static: Mapping[str, Point]
    policies: Mapping[str, list[Point]]
    soft_oracle: Point
    exact_oracle: list[Point]
    summaries: Mapping[str, Summary]  # of every policy
    static_summaries: Mapping[str, Summary]  # of every stage alone
    oracle_summaries: Mapping[str, Summary]  # soft and exact
    left_out: tuple[str, ...] = ()  # policies that do not fit the task

    def __repr__(self) -> str:
        return (
            f"<Comparison: {len(self.policies)} policies and {len(self.static)} single networks "
            f"against {self.reference}, {self.loss} loss, on {self.examples} examples>"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "examples": self.examples,
            "reference": {
                "stage": self.reference,
                "loss": self.reference_loss,
                "cost": self.reference_cost,
            },
            "cost_unit": self.cost_unit,
            "loss": self.loss,
            "static": {stage: point.to_json() for stage, point in self.static.items()},
            "policies": {
                name: [point.to_json() for point in points]
                for name, points in self.policies.items()
            },
            "oracle": {
                "soft": self.soft_oracle.to_json(),
                "exact": [point.to_json() for point in self.exact_oracle],
            },
            "summary": {
                "policies": _json(self.summaries),
                "static": _json(self.static_summaries),
                "oracle": _json(self.oracle_summaries),
            },
            **({"left_out": list(self.left_out)} if self.left_out else {}),
        }

    @property
    def banded(self) -> bool:
        return any(row.summary.area.low is not None for row in self.rows)

    @property
    def rows(self) -> list[Row]:
        """All that was measured, those that close more of the gap in cost first."""
        statics, oracles = self.static_summaries.items(), self.oracle_summaries.items()
        found = [
            *(Row(name, "policy", summary) for name, summary in self.summaries.items()),
            *(Row(f"'{stage}' alone", "static", summary) for stage, summary in statics),
            *(Row(f"{name} oracle", "oracle", summary) for name, summary in oracles),
        ]
        return sorted(found, key=lambda row: row.summary.gap_cost.value, reverse=True)

    @property
    def rival(self) -> str | None:
        """The best of the published policies."""
        names = [row.name for row in self.rows if row.kind == "policy"]
        return next((name for name in names if name not in (*_OURS, UNIFORM)), None)


def _json(summaries: Mapping[str, Summary]) -> dict[str, Any]:
    return {name: summary.to_json() for name, summary in summaries.items()}


def compare(
    trace: Trace,
    test: Trace | None = None,
    *,
    loss: str | None = None,
    policies: Iterable[str | Family] | None = None,
    seed: int = 0,
    bands: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Every policy tuned on `trace` and measured on `test`, or on halves of `trace`.

    Only rows that are not sealed are used: what certifies is shown to nobody.

    Args:
        trace: recorded examples; without `test` a random half tunes and the other measures.
        test: other examples of the same graph.
        loss: as in `Trace.losses`.
        policies: families or their names; None: all that fit, and `auto`, as `fit` by default.
        seed: of the split, and of the draws that bands come from.
        bands: how far numbers may move with the draw of examples (`offramp.study.bands`).
        progress: called with what is done, how many steps are, and how many there are.

    Raises:
        TraceError, InputError: another graph or too few examples; an unknown policy.
    """
    learners = _learners(policies or (OWN, *_fitting(trace)))
    tuning, measuring = _two(trace, test, seed)
    draws = Resamples.of(measuring.examples, DRAWS if bands else 0, seed)
    bench = _Bench(measuring, measuring.losses(loss), draws)
    steps = _Steps(progress or silent, 2 * len(learners) + 2)
    curves, seconds = dict[str, Curve](), dict[str, float]()
    for name, learner in learners.items():
        steps.next(f"fitting {name}")
        started = time.perf_counter()
        together, policy = _fitted(learner, tuning, loss, seed)
        seconds[name] = time.perf_counter() - started
        steps.next(f"measuring {name}")
        curves[name] = bench.answering(together).measure(policy)
    return _comparison(bench, curves, seconds, steps)


def _fitting(trace: Trace) -> list[str]:
    """The policies that fit the task of a trace."""
    return [name for name, each in FAMILIES.items() if each.fits(trace.task)]


def _two(trace: Trace, test: Trace | None, seed: int) -> tuple[Trace, Trace]:
    """What tunes, and what measures: two traces as far as they may be shown, or halves of one.

    Raises TraceError where they do not belong together, or hold too few examples.
    """
    tuning = split.shown(trace, "compare")
    measuring = test and split.shown(test, "compare")
    _check_number(tuning, measuring)
    if measuring is None:
        first, second = tuning.split(0.5, seed)
        return tuning.take(first), tuning.take(second)
    if measuring.graph != tuning.graph or measuring.classes != tuning.classes:
        raise TraceError("the trace to measure on was recorded with another graph.")
    return tuning, measuring


def _fitted(
    learner: Family | None, trace: Trace, loss: str | None, seed: int
) -> tuple[Committees, Policy]:
    """A policy, and the committees that answer for it; without a learner what `fit` would do."""
    if learner is not None:
        policy, together = learner.answering(trace, loss)
        return together, policy
    taught = teach(trace, Ways(loss=loss, unlabelled=loss == DISAGREEMENT, seed=seed))
    return taught.lesson.committees, taught.policy


def _learners(policies: Iterable[str | Family]) -> dict[str, Family | None]:
    """What fits each policy, by name; None: what `fit` does by default.

    Raises InputError where a policy is unknown.
    """
    found: dict[str, Family | None] = {}
    for policy in policies:
        if policy == OWN:
            found[OWN] = None
        elif policy != UNIFORM:
            learner = family(policy)
            if found.setdefault(learner.name, learner) is not learner:
                raise InputError(f"two policies are called '{learner.name}'; rename one of them.")
    return found


def _check_number(trace: Trace, test: Trace | None) -> None:
    """Raises TraceError where there are too few examples to tune on, or to measure on."""
    fewest = FEWEST if test else 2 * FEWEST  # halves of one trace
    for part in (trace, test or trace):
        if part.examples < fewest:
            raise TraceError(
                f"there are {part.examples} examples that are not sealed; at least {FEWEST} to "
                f"tune on and {FEWEST} others to measure on are needed. Record more examples, or "
                "some with --seal 0."
            )


@dataclass
class _Steps:
    """Counts the steps of a comparison."""

    progress: Progress
    total: int
    done: int = 0

    def next(self, what: str) -> None:
        self.progress(what, self.done, self.total)
        self.done += 1


@dataclass(frozen=True)
class _Bench:
    """The examples that all are measured on, and the draws of them."""

    test: Trace
    losses: Losses
    resamples: Resamples

    def measure(self, policy: Policy) -> Curve:
        return measure(self.test, self.losses, policy, self.resamples)

    def answering(self, together: Committees) -> _Bench:
        """The same examples, as committees answer them."""
        if not together:
            return self
        test = with_committees(self.test, together)
        return _Bench(test, test.losses(self.losses.name), self.resamples)

    def singles(self) -> dict[str, Curve]:
        graph, losses = self.test.graph, self.losses.single()
        return {
            stage: measure(self.test, losses, Static.of(graph, stage), self.resamples)
            for stage in graph.order
        }

    def oracles(self) -> dict[str, Curve]:
        return {
            "soft": self.measure(SoftOracle.fit(self.test, self.losses)),
            "exact": self.measure(ExactOracle.fit(self.test, self.losses)),
        }


def _comparison(
    bench: _Bench, curves: Mapping[str, Curve], seconds: Mapping[str, float], steps: _Steps
) -> Comparison:
    test, losses = bench.test, bench.losses
    steps.next("measuring oracles")
    singles, oracles = bench.singles(), bench.oracles()
    steps.next("summing up")
    together = one_curve(singles.values())
    against = scales(together, oracles["exact"], test.reference_cost)
    statics = {stage: curve.points[0] for stage, curve in singles.items()}
    mixes = mixed(uniform_points(statics.values()), together, statics)
    judged = {name: judge(curve, against) for name, curve in curves.items()}
    judged[UNIFORM] = judge(together, against)  # on a draw other networks may be worth mixing

    def summaries(found: Mapping[str, Measured]) -> dict[str, Summary]:
        own = judged.get(OWN)
        return {name: _summary(one, own, seconds.get(name)) for name, one in found.items()}

    return Comparison(
        left_out=tuple(sorted({*FAMILIES} - {*_fitting(test)})),
        examples=test.examples,
        reference=losses.reference,
        reference_loss=float(losses.of_reference.mean()),
        reference_cost=test.reference_cost,
        cost_unit=test.costs.unit,
        loss=losses.name,
        static=statics,
        policies={name: curve.points for name, curve in curves.items()} | {UNIFORM: mixes.points},
        soft_oracle=oracles["soft"].points[0],
        exact_oracle=oracles["exact"].points,
        summaries=summaries(judged),
        static_summaries=summaries(
            {stage: judge(curve, against) for stage, curve in singles.items()}
        ),
        oracle_summaries=summaries(
            {name: judge(curve, against) for name, curve in oracles.items()}
        ),
    )


def _summary(found: Measured, own: Measured | None, seconds: float | None) -> Summary:
    lead = None if own is None else _bands(own.speedups - found.speedups)
    return Summary(
        speedups=_bands(found.speedups),
        area=Band.of(found.area),
        gap_cost=Band.of(found.gap_cost),
        gap_loss=Band.of(found.gap_loss),
        lead=lead,
        frontier=found.band,
        seconds=seconds,
    )


def _bands(found: FloatArray) -> tuple[Band, ...]:
    """One for each level of (1 + draws, levels)."""
    return tuple(Band.of(column) for column in found.T)


def oracles(trace: Trace, losses: Losses) -> tuple[Point, list[Point]]:
    """The soft oracle's point and the exact oracle's frontier."""
    soft = frontier(trace, losses, SoftOracle.fit(trace, losses))[0]
    return soft, frontier(trace, losses, ExactOracle.fit(trace, losses))
