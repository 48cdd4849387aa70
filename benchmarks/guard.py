"""How often the guard of a promise raises false alarms, and how soon it finds a change.

The truth is known: excess losses are drawn with rates that are given. Beside the guard stands
CUSUM, which knows these rates before and after the change, with a threshold that raises as many
false alarms. LANGUAGE, a folder with recorded streams of language models, adds streams that nobody
made up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.results import command
from offramp.base.arrays import AnyArray, BoolArray, FloatArray, IntArray
from offramp.core.trace import Trace
from offramp.plan.fit import fit
from offramp.plan.watch import LOSS, Watching
from offramp.promise.guard import Bettor

ERROR = 0.05
LONGEST = 30_000  # audits after a change; who has not seen it by then is counted as that late
_BLOCK = 500
_FITTED = 5000  # first rows of a stream, which learn and certify
BUDGETS = (0.01, 0.02, 0.05)  # of streams


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is watched, with the mean at the very edge of the promise."""

    losses: float  # share of audits that lose
    gains: float
    low: float  # the least value

    @property
    def promised(self) -> float:
        return self.losses - self.gains


CASES = {
    "excess loss, 1 point promised, 5 % of the answers matter": Case(
        losses=0.03, gains=0.02, low=-1.0
    ),
    "excess loss, 1 point promised, 1 % of the answers matter": Case(
        losses=0.01, gains=0.0, low=0.0
    ),
    "disagreement, 5 % among those that certified": Case(losses=0.05, gains=0.0, low=0.0),
}


def study(
    language: Annotated[
        Path | None, typer.Argument(help="Folder with stream_arxiv.npz and stream_boolq.npz.")
    ] = None,
    audits: Annotated[int, typer.Option(help="Of each run without a change.")] = 100_000,
    runs: Annotated[int, typer.Option(help="Without a change; a third as many with one.")] = 1000,
) -> dict[str, Any]:
    rows = []
    for number, (name, case) in enumerate(CASES.items()):
        random = np.random.default_rng(number)
        rises = (0.01, 0.02)
        alarms, thresholds = _without_change(case, rises, audits, runs, random)
        changes = [
            _change(case, rise, at, thresholds[rise], runs // 3, random)
            for rise in rises
            for at in (0, 1000, 20_000)
        ]
        rows.append({"case": name, "false_alarms": alarms, "changes": changes})
        print(name, alarms)
    found: dict[str, Any] = {"error": ERROR, "audits": audits, "runs": runs, "rows": rows}
    return found | {"streams": [] if language is None else _streams(language)}


def _draws(case: Case, rise: float, runs: int, random: np.random.Generator) -> FloatArray:
    """Excess losses of a block of audits, (audits, runs)."""
    at = random.random((_BLOCK, runs))
    lost = at < case.losses + rise
    return np.where(lost, 1.0, np.where(at > 1 - case.gains, -1.0, 0.0))


class Cusum:
    """The likelihood ratio test of a change from known rates to known rates, at any time.

    Source: Page 1954, Continuous inspection schemes; optimal in the sense of Lorden 1971.
    """

    def __init__(self, case: Case, rise: float, runs: int) -> None:
        lost = case.losses + rise
        unmoved = 1 - case.losses - case.gains
        self.ratios = np.log([1.0, (unmoved - rise) / unmoved, lost / case.losses])
        self.climb = np.zeros(runs)

    def see(self, values: FloatArray) -> FloatArray:
        ratio = self.ratios[values.astype(int) + 1]
        self.climb = np.maximum(self.climb, 0.0) + ratio
        return self.climb


def _without_change(
    case: Case, rises: tuple[float, ...], audits: int, runs: int, random: np.random.Generator
) -> tuple[float, dict[float, float]]:
    """The share of false alarms, and thresholds with which CUSUM has as many as are allowed."""
    bettor, alarmed = Bettor(case.promised, case.low, runs), np.zeros(runs, bool)
    others = {rise: Cusum(case, rise, runs) for rise in rises}
    highest = {rise: np.zeros(runs) for rise in rises}
    for _ in range(audits // _BLOCK):
        for values in _draws(case, 0.0, runs, random):
            bettor.see(values)
            alarmed |= bettor.wealth >= 1 / ERROR
            for rise, other in others.items():
                highest[rise] = np.maximum(highest[rise], other.see(values))
    return float(alarmed.mean()), {
        rise: float(np.quantile(values, 1 - ERROR)) for rise, values in highest.items()
    }


def _change(
    case: Case, rise: float, at: int, threshold: float, runs: int, random: np.random.Generator
) -> dict[str, Any]:
    """How many audits pass between a change and the alarm."""
    bettor, other = Bettor(case.promised, case.low, runs), Cusum(case, rise, runs)
    delays = {name: np.full(runs, LONGEST) for name in ("guard", "cusum")}
    early = dict.fromkeys(delays, np.zeros(runs, bool))
    for number, values in enumerate(_values(case, rise, at, runs, random)):
        bettor.see(values)
        raised = {"guard": bettor.wealth >= 1 / ERROR, "cusum": other.see(values) >= threshold}
        if number < at:
            early = {name: early[name] | found for name, found in raised.items()}
            continue
        delay = number - at + 1
        delays = {
            n: np.where(f, np.minimum(delays[n], delay), delays[n]) for n, f in raised.items()
        }
        if all((found < LONGEST).all() for found in delays.values()):
            break
    summed = {name: _delay(found, early[name]) for name, found in delays.items()}
    return {"rise": rise, "at": at, **summed}


def _values(
    case: Case, rise: float, at: int, runs: int, random: np.random.Generator
) -> Iterator[FloatArray]:
    for _ in range(at // _BLOCK):
        yield from _draws(case, 0.0, runs, random)
    for _ in range(LONGEST // _BLOCK):
        yield from _draws(case, rise, runs, random)


def _delay(delays: IntArray, early: BoolArray) -> dict[str, Any]:
    """Of the runs that raised no alarm before the change."""
    late = delays[~early]
    return {
        "median": float(np.median(late)),
        "p90": float(np.quantile(late, 0.9)),
        "found": float((late < LONGEST).mean()),
        "early": float(early.mean()),
    }


def _streams(folder: Path) -> list[dict[str, Any]]:
    """Recorded streams: the first rows certify without labels, the others come in their order."""
    rows = []
    for name in ("arxiv", "boolq"):
        with np.load(folder / f"stream_{name}.npz") as file:
            scores = {stage: file[stage] for stage in ("llama31_8b", "llama33_70b")}
        for budget in BUDGETS:
            rows.append({"stream": name, **_stream(scores, budget)})
            print(rows[-1])
    return rows


def _stream(scores: dict[str, AnyArray], budget: float) -> dict[str, Any]:
    costs = {"llama31_8b": 8.0, "llama33_70b": 70.0}
    first = {stage: values[:_FITTED] for stage, values in scores.items()}
    rest = {stage: values[_FITTED:] for stage, values in scores.items()}
    plan = fit(
        Trace.of(first, costs=costs), budget, unlabelled=True, policy="margin", repeats="real"
    )
    watching = Watching(plan, error=ERROR)
    raised = watching.see(Trace.of(rest, costs=costs))
    guard = watching.guards[LOSS]
    low, high = guard.live.interval(ERROR)
    return {
        "budget": budget,
        "verdict": plan.certificate.verdict,
        "speedup": plan.certificate.speedup,
        "watched": guard.examples,
        "mean": guard.live.mean,
        "interval": [low, high],
        "alarm": raised[0].example if raised else None,
        "since": raised[0].since if raised else None,
    }


if __name__ == "__main__":
    command("guard", study)
