"""Writes the README's tables and its figures from the saved results.

Usage: python -m benchmarks.readme [--check]       --check: exit 1 where the README is out of date
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.results import ROOT, load
from offramp.bench import ONE_FILE
from offramp.report.drawing import draw_frontier, draw_speedups
from offramp.report.figures import FrontierFigure, Role, Series, SpeedupsFigure

README = ROOT.parent / "README.md"
FIGURES = ROOT.parent / "docs"
SHOWN = "ResNet-20, 32, 56 with skips"  # in the figure
SHORT = {  # in the figure of the clock
    "ResNet-20 > ResNet-56": "two networks",
    "ResNet-56, frozen exits placed by offramp": "exits",
    "ResNet-20 tuned > ResNet-56 tuned, 5 frozen exits": "both",
}
MIDDLE = 8  # the batch size whose bars carry the name of their system
BLOCK = re.compile(r"(<!-- (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    before = README.read_text(encoding="utf-8")
    after = filled(before)
    if options.check:
        sys.exit(after != before)
    README.write_text(after, encoding="utf-8")
    for name, draw in {"frontier": figure, "clock": clock_figure}.items():
        drawn = '<?xml version="1.0" encoding="utf-8"?>\n' + draw()
        (FIGURES / f"{name}.svg").write_text(drawn, encoding="utf-8")


def filled(text: str) -> str:
    """`text` with every block that names a table holding that table."""
    return BLOCK.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def equal_quality() -> str:
    found = load("real_networks")
    head = ["policy", *(f"{level * 100:g} points" for level in found["levels"])]
    parts = []
    for name, graph in found["graphs"].items():
        rows = [
            [policy, *_speedups(values["mean"], graph["learned_minus"].get(policy))]
            for policy, values in graph["equal_quality"].items()
        ]
        parts.append(f"**{name}**\n\n{table(head, rows)}")
    return "\n\n".join(parts)


def _speedups(means: list[float], minus: dict[str, list[float]] | None) -> list[str]:
    """Speed-ups, and for the others in brackets the learned policy's lead and its error."""
    if minus is None:
        return [f"**{mean:.2f}**" for mean in means]
    differences = zip(means, minus["mean"], minus["se"], strict=True)
    return [f"{mean:.2f} ({lead:+.2f} ± {error:.2f})" for mean, lead, error in differences]


def tuned() -> str:
    found = load("real_networks")
    head = ["graph, policy", *(f"{level * 100:g} points" for level in found["levels"])]
    rows = []
    for name, graph in found["graphs"].items():
        for policy in ("learned", "myopic", "margin", "thresholds"):
            rows.append([f"{name}, {policy}", *_tuned(graph["tuned"][policy])])
    return table(head, rows)


def _tuned(values: dict[str, Any]) -> list[str]:
    cells = zip(
        values["speedup"]["mean"], values["excess_loss"]["mean"], values["missed"], strict=True
    )
    return [f"{s:.2f} at {e * 100:+.2f}, missed {m:.0%}" for s, e, m in cells]


def promise() -> str:
    rows = []
    for row in load("promise")["rows"]:
        if row["confidence"] == 0.95:
            certified, tuned_ = row["certified"], row["tuned"]
            rows.append(
                [
                    f"{row['population']}, {row['excess']}",
                    f"{row['examples']:,}",
                    f"{row['budget'] * 100:g}",
                    f"{certified['broken']:.1%}",
                    f"{tuned_['broken']:.1%}",
                    f"{certified['speedup']:.2f}",
                    f"{tuned_['speedup']:.2f}",
                    f"{row['best_speedup']:.2f}",
                ]
            )
    head = ["population, excess", "examples", "budget, points", "broken, certified"]
    head += ["broken, tuned", "speed-up, certified", "speed-up, tuned", "speed-up, truth known"]
    return table(head, rows)


def clock() -> str:
    """Speed-ups, each beside the share of its theory that was reached, by threads and batch."""
    head = ["system", "threads", "batch", "equal quality, 0.5 points", "certified, 0.5 points"]
    head += ["certified, 1 point", "p99, ms, over the reference's"]
    rows = []
    for name, system in load("clock")["systems"].items():
        for threads, batch in dict.fromkeys((r["threads"], r["batch"]) for r in system["rows"]):
            found = [r for r in system["rows"] if (r["threads"], r["batch"]) == (threads, batch)]
            cells = [f"{r['speedup']:.2f} ({r['realised']:.2f})" for r in found]
            one, best = (_contestant(found[-1], which) for which in (ONE_FILE, None))
            tail = f"{one['p99_ms']:.1f} / {best['p99_ms']:.1f}"
            rows.append([name, f"{threads}", f"{batch}", *cells, tail])
    return table(head, rows)


def _contestant(row: dict[str, Any], name: str | None) -> dict[str, Any]:
    """By name; None: the reference at its fastest."""
    found: dict[str, Any] = next(
        c for c in row["contestants"] if (c["best"] if name is None else c["name"] == name)
    )
    return found


def instead() -> str:
    """Everything that one would run instead, at batch 1 and 64, with one thread."""
    head = ["", "batch", "speed-up", "answers changed", "error", "load, ms"]
    rows = []
    for row in next(iter(load("clock")["systems"].values()))["rows"]:
        if row["threads"] == 1 and row["batch"] in (1, 64) and not row["certified"]:
            for c in row["contestants"]:
                cells = [f"{c['speedup']:.2f}", f"{c['changed']:.1%}", f"{c['error']:.1%}"]
                load_ms = "" if c["load_s"] is None else f"{c['load_s'] * 1e3:.0f}"
                rows.append([c["name"], f"{row['batch']}", *cells, load_ms])
    return table(head, rows)


def routing() -> str:
    head = [
        "system",
        "threads",
        "a stop, share of the reference's time",
        "deepest walk / its parts",
    ]
    head += ["deepest walk / networks", "load / networks", "load / parts", "export, s"]
    head += ["rows of 10,000 otherwise"]
    rows = []
    for name, system in load("clock")["systems"].items():
        made = system["export"]
        for found in system["routing"]:
            cells = [
                f"{found['stop_over_reference']:.1%}",
                f"{found['deepest_over_parts']:.2f}",
                f"{found['deepest_over_networks']:.2f}",
                f"{made['load_s'] / made['load_networks_s']:.1f}",
                f"{made['load_s'] / made['load_parts_s']:.1f}",
                f"{made['export_s']:.1f}",
                f"{made['otherwise']['one file']}",
            ]
            rows.append([name, f"{found['threads']}", *cells])
    return table(head, rows)


def scale() -> str:
    head = ["examples", "classes", "import, s", "import, GB", "fit, s", "fit, GB"]
    rows = [
        [
            f"{row['examples']:,}",
            f"{row['classes']:,}",
            f"{row['import']['seconds']:.1f}",
            f"{row['import']['peak_gb']:.2f}",
            f"{row['fit']['seconds']:.1f}",
            f"{row['fit']['peak_gb']:.2f}",
        ]
        for row in load("scale")["rows"]
    ]
    return table(head, rows)


def exits() -> str:
    """Equal quality of exits, beside the networks that they are an alternative to."""
    found = load("exits")
    head = ["graph", "error of each stage", *(f"{at * 100:g} points" for at in found["levels"])]
    head += ["lead over margin, mean"]
    rows = []
    for name, graph in found["graphs"].items():
        errors = ", ".join(f"{error:.1%}" for error in graph["error"].values())
        speedups = [f"{mean:.2f}" for mean in graph["equal_quality"]["learned"]["mean"]]
        lead = graph["learned_minus"]["margin"]
        rows.append([name, errors, *speedups, f"{sum(lead['mean']) / len(lead['mean']):+.2f}"])
    alone = load("real_networks")["graphs"]["ResNet-20 tuned > ResNet-56 tuned"]
    speedups = [f"{mean:.2f}" for mean in alone["equal_quality"]["learned"]["mean"]]
    lead = alone["learned_minus"]["margin"]["mean"]
    name = "ResNet-20 tuned > ResNet-56 tuned, no exits"
    rows.append([name, "", *speedups, f"{sum(lead) / len(lead):+.2f}"])
    return table(head, rows)


def refit() -> str:
    """What refits repair, and beside it what routing saves against the refitted reference."""
    found = load("refit")
    head = ["graph, learning examples, error recorded and refitted", "speed-up"]
    head += [f"{level * 100:g} points" for level in found["levels"]]
    rows = []
    for name, graph in found["graphs"].items():
        for size, values in graph["sizes"].items():
            errors = ", ".join(
                f"{error['before']['mean']:.1%} > {error['after']['mean']:.1%}"
                for error in values["error"].values()
            )
            for kind, speedup in values["speedup"].items():
                cells = zip(speedup["mean"], speedup["se"], strict=True)
                row = [f"{name}, {int(size):,}: {errors}", kind]
                rows.append([*row, *(f"{mean:.2f} ± {error:.2f}" for mean, error in cells)])
    return table(head, rows)


def structure() -> str:
    head = ["network", "exits at", "tensors carried", "largest difference from the whole"]
    rows = [
        [row["network"], ", ".join(row["at"]), f"{row['carried']}", f"{row['difference']:.0e}"]
        for row in load("structure")["rows"]
    ]
    return table(head, rows)


def exits_tuned() -> str:
    found = load("exits")
    head = ["graph", *(f"{level * 100:g} points" for level in found["levels"])]
    rows = [[name, *_tuned(graph["tuned"]["learned"])] for name, graph in found["graphs"].items()]
    return table(head, rows)


def exits_clock() -> str:
    head = ["graph", "batch", "certified at 1 point", "equal quality at 0.5 points"]
    rows = [
        [
            name,
            f"{row['batch']}",
            f"{row['certified_speedup']:.2f}",
            f"{row['equal_quality']['learned'][1]:.2f}",
        ]
        for name, graph in load("exits")["graphs"].items()
        for row in graph["clock"]
    ]
    return table(head, rows)


def machine() -> str:
    names = ("real_networks", "promise", "clock", "scale", "exits")
    about = [load(name)["about"] for name in names]
    where = {f"{a['machine']['processor']}, {a['machine']['cores']} cores" for a in about}
    versions = about[0]["versions"]
    engines = ", ".join(f"{name} {versions[name]}" for name in ("python", "numpy", "onnxruntime"))
    return f"Measured on {' and '.join(sorted(where))}; {engines}."


TABLES: dict[str, Callable[[], str]] = {
    "equal_quality": equal_quality,
    "tuned": tuned,
    "promise": promise,
    "structure": structure,
    "exits": exits,
    "exits_tuned": exits_tuned,
    "exits_clock": exits_clock,
    "clock": clock,
    "instead": instead,
    "routing": routing,
    "scale": scale,
    "machine": machine,
}


def figure() -> str:
    """Excess loss against cost of one graph, with the promise marked."""
    found = load("real_networks")["graphs"][SHOWN]
    curves: dict[str, Any] = found["figure"]
    unit = found["reference_cost"]
    kept = curves["certified"]
    series = [
        _series(name, _role(name), points, unit)
        for name, points in curves.items()
        if name not in ("static", "certified", "patience", "agreement")
    ]
    series += [_series(name, "static", [p], unit) for name, p in curves["static"].items()]
    point = [kept["excess_loss"], kept["cost"]]
    label = f"certified: {kept['budget'] * 100:g} point, {kept['confidence']:.0%}"
    series.append(_series(label, "certified", [point], unit))
    return draw_frontier(FrontierFigure(tuple(series), kept["budget"] * 100, kept["bound"] * 100))


def clock_figure() -> str:
    """Speed-ups on the clock with one thread."""
    groups, bars = [], dict[str, list[float]]()
    for name, system in load("clock")["systems"].items():
        for row in system["rows"]:
            if row["threads"] == 1:
                kind = "certified" if row["certified"] else "equal quality"
                points = f"{row['budget'] * 100:g} point" + "s" * (row["budget"] != 0.01)
                bars.setdefault(f"{kind}, {points}", []).append(row["speedup"])
                middle = f"\n{SHORT[name]}" if row["batch"] == MIDDLE else ""
                groups.append((name, f"batch {row['batch']}{middle}"))
    chosen = tuple(label for _, label in dict.fromkeys(groups))
    return draw_speedups(SpeedupsFigure(chosen, {n: tuple(v) for n, v in bars.items()}))


def _role(name: str) -> Role:
    return "oracle" if "oracle" in name else "learned" if name == "learned" else "policy"


def _series(name: str, role: Role, points: list[list[float]], unit: float) -> Series:
    costs, losses = [p[1] / unit for p in points], [p[0] * 100 for p in points]
    return Series(name, role, tuple(costs), tuple(losses))


if __name__ == "__main__":
    main()
