"""Network selection as in Bolukbasi et al. 2017, section 5: three networks, three topologies.

Usage: python -m benchmarks.paper SCORES.npz --cost alexnet=1.2,googlenet=4.5,resnet50=11 --out DIR
       python -m benchmarks.paper --synthetic 20000 --out DIR

SCORES.npz holds `labels` (n,) and one array (n, classes) per network, from the cheapest to the
reference; costs are measured times, per example. Half of the examples teach, the other half is
reported. DIR gets paper.json, and for top-1 and top-5 a frontier and a share figure (SVG).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.drawing import draw_exits, draw_frontier
from benchmarks.paper import synthetic
from offramp.base.errors import InputError
from offramp.base.files import write_json
from offramp.command import parsing
from offramp.core.frontier import cost_at
from offramp.core.graph import Graph
from offramp.core.imports import import_scores
from offramp.core.trace import Trace, assemble
from offramp.report.figures import FrontierFigure, Series, exits, frontiers
from offramp.study.compare import Comparison, compare

LOSSES = ("top1", "top5")
POLICIES = ("learned", "myopic", "entropy", "thresholds")
LEVELS = (0.0, 0.01, 0.02, 0.05)  # net excess loss


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scores", type=Path, nargs="?")
    parser.add_argument("--cost", help="NAME=COST of each network, the cheapest first")
    parser.add_argument("--cost-unit", default="ms")
    parser.add_argument("--synthetic", type=int, metavar="N", help="N made-up examples instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    try:
        trace = read(options)
        found = experiment(trace, options.seed)
    except InputError as problem:
        parser.exit(2, f"{problem}\n")
    write(found, options.out)
    print(table(found))


def read(options: argparse.Namespace) -> Trace:
    """The scores that the command line names, as one chain."""
    if options.synthetic:
        costs = ",".join(f"{name}={cost}" for name, cost in synthetic.COSTS.items())
        with TemporaryDirectory() as folder:
            synthetic.save(Path(folder) / "scores.npz", options.synthetic, options.seed)
            return import_scores(Path(folder) / "scores.npz", parsing.costs(costs, "ms"))
    if not (options.scores and options.cost):
        raise InputError("give SCORES.npz and --cost, or --synthetic N.")
    return import_scores(options.scores, parsing.costs(options.cost, options.cost_unit))


def topologies(names: Sequence[str]) -> dict[str, tuple[Sequence[str], str]]:
    """The paper's three: the whole chain, the chain without the middle, the tree with the skip.

    Raises:
        InputError: not three networks.
    """
    if len(names) != 3:
        raise InputError(f"the experiment takes three networks; there are {len(names)}.")
    a, g, r = names
    return {
        f"{a} > {g} > {r}": (names, f"{a}>{g}>{r}"),
        f"{a} > {r}": ((a, r), f"{a}>{r}"),
        f"{a} > {{{g}, {r}}}, {g} > {r}": (names, f"{a}>{g}>{r},{a}>{r}"),
    }


def experiment(trace: Trace, seed: int = 0) -> dict[str, dict[str, Comparison]]:
    """For each loss and each topology every policy, learned on one half, measured on the other."""
    first, second = trace.split(0.5, seed)
    halves = [trace.take(rows) for rows in (first, second)]
    return {
        loss: {
            name: compare(
                *(restrict(half, *shape) for half in halves), loss=loss, policies=POLICIES
            )
            for name, shape in topologies(trace.graph.order).items()
        }
        for loss in LOSSES
    }


def restrict(trace: Trace, names: Sequence[str], edges: str) -> Trace:
    """The same examples in a topology of some of the networks."""
    costs = trace.costs
    body, head = ({name: part[name] for name in names} for part in (costs.body, costs.head))
    return assemble(
        Graph.build(names, edges),
        type(costs)(body, head, costs.unit, costs.source),
        {name: trace.scores[name] for name in names},
        labels=trace.labels,
        kind=trace.kinds[names[0]],
        seal=0.0,  # one half is only learned from, the other only measured on
    )


def frontier_figure(found: Mapping[str, Comparison]) -> FrontierFigure:
    """The learned policy on each topology, and the baselines on the last one."""
    series: list[Series] = []
    for name, comparison in found.items():
        whole = frontiers(comparison).series
        learned = next(s for s in whole if s.name == "learned")
        role = "learned" if name == list(found)[-1] else "policy"
        series.append(Series(f"learned, {name}", role, learned.cost, learned.excess_loss))  # type: ignore[arg-type]
    last = frontiers(list(found.values())[-1]).series
    return FrontierFigure(series=(*series, *(s for s in last if s.name != "learned")))


def write(found: Mapping[str, Mapping[str, Comparison]], out: Path) -> None:
    """paper.json and four figures."""
    out.mkdir(parents=True, exist_ok=True)
    values = {loss: {n: c.to_json() for n, c in each.items()} for loss, each in found.items()}
    write_json(out / "paper.json", values)
    for loss, each in found.items():
        tree = list(each.values())[-1]
        shares = exits(tree.policies["learned"], tree.static, tree.reference_cost)
        (out / f"frontier-{loss}.svg").write_text(draw_frontier(frontier_figure(each)))
        (out / f"share-{loss}.svg").write_text(draw_exits(shares))


def speedups(found: Comparison) -> dict[str, list[float]]:
    """At each of LEVELS, on the hull of each policy's points and the reference alone."""
    alone = found.static[found.reference]
    curves: dict[str, Any] = {**found.policies, "exact oracle": found.exact_oracle}
    return {
        name: [alone.cost / cost_at([*points, alone], level) for level in LEVELS]
        for name, points in curves.items()
    }


def table(found: Mapping[str, Mapping[str, Comparison]]) -> str:
    """Speed-up at equal net excess loss, as Markdown."""
    head = " | ".join(f"{level * 100:g} points" for level in LEVELS)
    lines = [f"| loss | topology | policy | {head} |", "|---|---|---|" + "---:|" * len(LEVELS)]
    for loss, each in found.items():
        for name, comparison in each.items():
            for policy, values in speedups(comparison).items():
                numbers = " | ".join(f"{value:.2f}" for value in values)
                lines.append(f"| {loss} | {name} | {policy} | {numbers} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
