"""Every policy on every trace, at three numbers of examples to learn from.

Usage: python -m benchmarks.peers DATA [--others DIR] [--cache DIR] [--splits 20] [--jobs 2]

For each trace, number and split: speed-ups at equal quality on the hull of each policy's frontier
and the reference, the shares of both gaps closed between the single networks and the exact oracle,
and the time that learning took. Policies learn on examples that they are not measured on. Every
policy is measured twice: `alone`, where stages answer by themselves, or as the policy's source has
it, and `together`, where all policies have the committees that `fit` would give them. DIR holds
`language`, with scores that others recorded: their traces are compared as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from joblib import Parallel, delayed

from benchmarks import cifar, exits, recorded
from benchmarks.known import WORLDS, World
from benchmarks.results import CACHE, Data, command, standard_error
from offramp.answering.committees import Committees, learn_committees, with_committees
from offramp.command.demo import STAGES, digits
from offramp.core.frontier import (
    LEVELS,
    Point,
    area,
    cost_at,
    frontier,
    gap_closed,
    loss_gap_closed,
    static_points,
    uniform_points,
)
from offramp.core.graph import Costs, Graph
from offramp.core.trace import Trace, assemble
from offramp.learn.teach import Ways, teach
from offramp.policies import FAMILIES, Family, Policy
from offramp.runtime import OnnxRuntime
from offramp.study.compare import oracles

SIZES = (500, 2000, 5000)
FIRST = 100  # seed of the first split: what was chosen by hand was chosen on others
TESTED = 20_000  # made-up examples
DEFAULT = "offramp"  # what fit does by default
FORMS = ("alone", "together")  # how stages answer: by themselves, or as committees
EXITS = {
    "ResNet-56, 5 frozen exits": "ResNet-56, 5 frozen exits",
    "ResNet-56 tuned, 2 exits trained jointly": "ResNet-56 tuned, 2 exits trained jointly",
    "ResNet-20 tuned > ResNet-56 tuned, 5 frozen exits": "networks and exits in one graph",
}
LANGUAGE = ("MMLU, two", "MMLU, three", "arXiv", "BoolQ")
DIGITS_COSTS = {"small": 14.0, "medium": 14.0, "large": 940.0}  # microseconds, one at a time
DIGITS = "digits, three networks with skips"
Pair = tuple[Trace, Trace]  # to learn from, to measure on
Draw = Callable[[int, int], Pair | None]  # a size and a seed; None: there are too few examples
Lesson = Callable[[Family], tuple[Policy, Committees]]  # what a family learns on one split
Split = Mapping[str, Mapping[str, Any]]  # what every policy reached on one split, in one form


def measured(
    data: Data,
    cache: Path = CACHE,
    splits: int = 20,
    jobs: int = 2,
    others: Annotated[
        Path | None, typer.Option(help="Folder with `language`, scores recorded by others.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="The trace of this name; nothing is saved.")
    ] = None,
) -> dict[str, Any] | None:
    start = time.perf_counter()
    draws = everything(data, cache) | ({} if others is None else language(others))
    names = [name for name in draws if only in (None, name)]
    rows: dict[str, dict[str, Any]] = {}
    run, seeds = Parallel(jobs), range(FIRST, FIRST + splits)
    for name in names:
        for n in SIZES:
            found = run(delayed(one)(draws[name], n, seed) for seed in seeds)
            if kept := [split for split in found if split is not None]:
                forms = {form: summary([split[form] for split in kept]) for form in FORMS}
                rows.setdefault(name, {})[str(n)] = forms
                print(
                    f"{time.perf_counter() - start:.0f} s: {name}, {n}: {told(forms)}", flush=True
                )
    if only is not None:
        return None
    return {"levels": LEVELS, "splits": splits, "traces": rows}


def told(forms: Mapping[str, Mapping[str, Any]]) -> str:
    """The gap in cost that offramp closes, and the best other policy, in each form."""
    found = []
    for form, each in forms.items():
        shares = [f"{who} {each[who]['gap_cost']:.3f}" for who in (DEFAULT, best(each))]
        found.append(f"{form} {', '.join(shares)}")
    return "; ".join(found)


def everything(data: Path, cache: Path) -> dict[str, Draw]:
    """What to draw from, by the name of the trace."""
    made = exits.Made(data, cache)
    real = cifar.traces(data, cache)
    for name, shown in EXITS.items():
        networks, costs = made.graphs()[name]()
        real[shown] = replace(made.recorded(name, networks), costs=costs)
    real[DIGITS] = handwritten()
    draws: dict[str, Draw] = {name: Halving(trace) for name, trace in real.items()}
    return draws | {f"made up: {name}": Drawn(world) for name, world in WORLDS.items()}


def language(folder: Path) -> dict[str, Draw]:
    """Language models, whose scores others recorded; chains alone, as the graph is one."""
    found = recorded.traces(folder)
    return {name: Halving(found[name]) for name in LANGUAGE}


def handwritten() -> Trace:
    """The networks of the demo on the digits that did not train them."""
    parts = [digits(part) for part in ("fit", "measure")]
    x, labels = (np.concatenate([part[i] for part in parts]) for i in range(2))
    with as_file(files("offramp") / "demo_networks") as shipped:
        runtime = OnnxRuntime({stage: shipped / f"{stage}.onnx" for stage in STAGES})
        scores = {stage: runtime.run(stage, x) for stage in STAGES}
    costs = Costs(DIGITS_COSTS, dict.fromkeys(STAGES, 0.0), "us")
    graph = Graph.build(STAGES, "small>medium>large,small>large")
    return assemble(graph, costs, scores, labels=labels)


class Halving:
    """Some examples of a trace to learn from, all others to measure on."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def __call__(self, size: int, seed: int) -> Pair | None:
        if size > self.trace.examples // 2:
            return None
        order = np.random.default_rng(seed).permutation(self.trace.examples)
        learn, rest = np.sort(order[:size]), np.sort(order[size:])
        return self.trace.take(learn), self.trace.take(rest)


class Drawn:
    """Fresh examples of a world, and fresh ones to measure on."""

    def __init__(self, world: World) -> None:
        self.world = world

    def __call__(self, size: int, seed: int) -> Pair:
        return self.world.draw(size, seed), self.world.draw(TESTED, seed, test=True)


class Measured:
    """Puts frontiers on the examples of one split into numbers."""

    def __init__(self, test: Trace) -> None:
        self.test, self.losses = test, test.losses("top1")
        self.statics = static_points(test, self.losses)
        self.reference = self.statics[test.graph.reference]
        self.oracle = oracles(test, self.losses)[1]

    def of(self, policy: Policy) -> dict[str, Any]:
        """What a policy reaches where every stage answers by itself."""
        return self.numbers(frontier(self.test, self.losses, policy))

    def learned(self, learn: Callable[[], tuple[Any, ...]]) -> dict[str, Any]:
        """What a policy reaches with its committees, and how long both take to learn."""
        start = time.perf_counter()
        policy, committees, *name = learn()
        seconds = time.perf_counter() - start
        test = with_committees(self.test, committees) if committees else self.test
        points = frontier(test, test.losses("top1"), policy)
        return {**self.numbers(points), "seconds": seconds, **({"policy": name[0]} if name else {})}

    def yardsticks(self, draw: Draw) -> dict[str, dict[str, Any]]:
        """Blind mixes of networks, and what no policy can see."""
        found = {"uniform": self.numbers(uniform_points(self.statics.values()))}
        if isinstance(draw, Drawn):
            found["optimum"] = self.of(draw.world.best(self.test))
        return {**found, "exact oracle": self.numbers(self.oracle)}

    def numbers(self, points: list[Point]) -> dict[str, Any]:
        unit, name = self.reference.cost, self.test.graph.reference
        reached = [*points, self.reference]
        against = (self.statics, self.oracle, name)
        return {
            "speedups": [unit / cost_at(reached, level) for level in LEVELS],
            "gap_cost": gap_closed(points, *against),
            "gap_loss": loss_gap_closed(points, *against),
            "area": area(reached, unit),
        }


def one(draw: Draw, size: int, seed: int) -> dict[str, Split] | None:
    """What every policy reaches on one split in each form, and how long it took to learn."""
    pair = draw(size, seed)
    if pair is None:
        return None
    learning, test = pair
    measured = Measured(test)
    committees, crossed = learn_committees(learning, "top1")
    lessons: Mapping[str, Lesson] = {
        "alone": lambda family: family.answering(learning, "top1"),
        "together": lambda family: (family(crossed, crossed.losses("top1")), committees),
    }
    found: dict[str, Split] = {}
    for form, lesson in lessons.items():
        own = partial(_own, learning, form == "together")
        learned = {DEFAULT: measured.learned(own)}
        for name, family in FAMILIES.items():
            learned[name] = measured.learned(partial(lesson, family))
        found[form] = learned | measured.yardsticks(draw)
    return found


def _own(learning: Trace, committees: bool) -> tuple[Policy, Committees, str]:
    """What `fit` learns by default, or without committees, and what decides there."""
    taught = teach(learning, Ways(loss="top1", committees=committees))
    return taught.policy, taught.lesson.committees, taught.name


OURS = (DEFAULT, "learned", "network")
UNREACHED = ("optimum", "exact oracle")


def best(found: Mapping[str, Any]) -> str:
    """The published policy that closes most of the gap in cost."""
    return max((n for n in found if n not in OURS + UNREACHED), key=lambda n: found[n]["gap_cost"])


def summary(splits: list[Split]) -> dict[str, Any]:
    """Means over the splits, and the default policy's paired leads with their standard errors."""
    found = leads(splits, DEFAULT)
    for name, row in found.items():
        for told in ("seconds", "policy"):
            if told in splits[0][name]:
                row[told] = [split[name][told] for split in splits]
        if "seconds" in row:
            row["seconds"] = float(np.mean(row["seconds"]))
        if "policy" in row:
            row["policy"] = {p: row["policy"].count(p) for p in sorted({*row["policy"]})}
    return found


def leads(splits: list[Split], own: str) -> dict[str, Any]:
    """Means over the splits, and by how much `own` is ahead in each number, paired."""
    found: dict[str, Any] = {}
    for name in splits[0]:
        row: dict[str, Any] = {"splits": len(splits)}
        for number in ("speedups", "gap_cost", "gap_loss", "area"):
            values = np.array([split[name][number] for split in splits])
            ahead = np.array([split[own][number] for split in splits]) - values
            row[number] = values.mean(axis=0).tolist()
            row[f"{number}_lead"] = ahead.mean(axis=0).tolist()
            row[f"{number}_lead_se"] = standard_error(ahead).tolist()
        found[name] = row
    return found


if __name__ == "__main__":
    command("peers", measured)
