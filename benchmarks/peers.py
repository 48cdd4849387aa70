"""Every policy on every trace, at three numbers of examples to learn from.

Usage: python -m benchmarks.peers DATA [--cache DIR] [--splits 20] [--jobs 2] [--only NAME]

For each trace, number and split: speed-ups at equal quality on the hull of each policy's frontier
and the reference, the shares of both gaps closed between the single networks and the exact oracle,
and the time that learning took. Policies learn on examples that they are not measured on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from joblib import Parallel, delayed

from benchmarks import cifar, exits
from benchmarks.known import WORLDS, World
from benchmarks.results import CACHE, Data, command, standard_error
from offramp.answering.committees import with_committees
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
from offramp.policies import FAMILIES, Policy
from offramp.policies.features import BLOCKS
from offramp.policies.learned import Learned
from offramp.runtime import OnnxRuntime
from offramp.study.compare import oracles

SIZES = (500, 2000, 5000)
FIRST = 100  # seed of the first split: what was chosen by hand was chosen on others
TESTED = 20_000  # made-up examples
DEFAULT = "offramp"  # what fit does by default; its linear policy without committees is "learned"
LEFT_OUT = 2000  # examples to learn from where blocks of features are left out
EXITS = {
    "ResNet-56, 5 frozen exits": "ResNet-56, 5 frozen exits",
    "ResNet-56 tuned, 2 exits trained jointly": "ResNet-56 tuned, 2 exits trained jointly",
    "ResNet-20 tuned > ResNet-56 tuned, 5 frozen exits": "networks and exits in one graph",
}
DIGITS_COSTS = {"small": 14.0, "medium": 14.0, "large": 940.0}  # microseconds, one at a time
DIGITS = "digits, three networks with skips"
Pair = tuple[Trace, Trace]  # to learn from, to measure on
Draw = Callable[[int, int], Pair | None]  # a size and a seed; None: there are too few examples
Split = Mapping[str, Mapping[str, Any]]  # what every policy reached on one split


def measured(
    data: Data,
    cache: Path = CACHE,
    splits: int = 20,
    jobs: int = 2,
    only: Annotated[
        str | None, typer.Option(help="The trace of this name; nothing is saved.")
    ] = None,
) -> dict[str, Any] | None:
    start = time.perf_counter()
    draws = everything(data, cache)
    names = [name for name in draws if only in (None, name)]
    rows: dict[str, dict[str, Any]] = {}
    worth: dict[str, Any] = {}
    run, seeds = Parallel(jobs), range(FIRST, FIRST + splits)
    for name in names:
        for n in SIZES:
            found = run(delayed(one)(draws[name], n, seed) for seed in seeds)
            if kept := [split for split in found if split is not None]:
                rows.setdefault(name, {})[str(n)] = total = summary(kept)
                told = {who: round(total[who]["gap_cost"], 3) for who in (DEFAULT, best(total))}
                print(f"{time.perf_counter() - start:.0f} s: {name}, {n}: {told}", flush=True)
        less = run(delayed(without)(draws[name], seed) for seed in seeds[::2])
        if kept := [split for split in less if split is not None]:
            worth[name] = leads(kept, "all blocks")
    if only is not None:
        return None
    return {"levels": LEVELS, "splits": splits, "traces": rows, "blocks": worth}


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


def one(draw: Draw, size: int, seed: int) -> Split | None:
    """What every policy reaches on one split, and how long it took to learn."""
    pair = draw(size, seed)
    if pair is None:
        return None
    learning, test = pair
    losses, measured = learning.losses("top1"), Measured(test)
    found: dict[str, dict[str, Any]] = {}
    start = time.perf_counter()
    taught = teach(learning, Ways(loss="top1"))
    seconds = time.perf_counter() - start
    together = with_committees(test, taught.lesson.committees)
    points = frontier(together, together.losses("top1"), taught.policy)
    found[DEFAULT] = measured.numbers(points) | {"seconds": seconds, "policy": taught.name}
    for name, learn in FAMILIES.items():
        start = time.perf_counter()
        policy: Policy = learn(learning, losses)
        seconds = time.perf_counter() - start
        found[name] = measured.of(policy) | {"seconds": seconds}
    found["uniform"] = measured.numbers(uniform_points(measured.statics.values()))
    if isinstance(draw, Drawn):
        found["optimum"] = measured.of(draw.world.best(test))
    found["exact oracle"] = measured.numbers(measured.oracle)
    return found


def without(draw: Draw, seed: int) -> Split | None:
    """The learned policy without one block of features, and with all of them."""
    pair = draw(LEFT_OUT, seed)
    if pair is None:
        return None
    learning, test = pair
    losses, measured = learning.losses("top1"), Measured(test)
    kept: dict[str, tuple[str, ...]] = {"all blocks": BLOCKS}
    kept |= {f"without {name}": tuple(b for b in BLOCKS if b != name) for name in BLOCKS[1:]}
    return {
        name: measured.of(Learned.fit(learning, losses, blocks=blocks))
        for name, blocks in kept.items()
    }


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
