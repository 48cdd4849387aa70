"""Writes the tables of the results pages, the README's numbers and the figures from saved results.

Usage: python -m benchmarks.readme [--check]       --check: exit 1 where a page is out of date
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from benchmarks.drawing import SpeedupsFigure, draw_frontier, draw_speedups
from benchmarks.results import ROOT, load
from offramp.report.figures import FrontierFigure, Role, Series
from offramp.study.contestants import ONE_FILE
from tools.house import holdings

DOCS = ROOT.parent / "docs"
PAGES = (
    *sorted((DOCS / "results").glob("*.md")),
    *(DOCS / n for n in ("house.md", "serving.md")),
    DOCS / "paper.md",
    ROOT.parent / "README.md",
)
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
    if options.check:
        sys.exit(any(filled(text) != text for text in map(_read, PAGES)))
    for page in PAGES:
        page.write_text(filled(_read(page)), encoding="utf-8")
    for name, draw in FIGURES.items():
        drawn = '<?xml version="1.0" encoding="utf-8"?>\n' + draw()
        (DOCS / f"{name}.svg").write_text(drawn, encoding="utf-8")


def _read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def filled(text: str) -> str:
    """`text` with every block that names a table holding that table."""
    return BLOCK.sub(lambda m: f"{m[1]}{TABLES[m[2]]()}\n{m[3]}", text)


def table(head: list[str], rows: list[list[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


COLUMNS = {  # of the comparison, by the name of a trace
    "ResNet-20 > ResNet-56": "20 > 56",
    "ResNet-20 tuned > ResNet-56 tuned": "20 > 56 tuned",
    "ResNet-20, 32, 56 with skips": "20, 32, 56",
    "ResNet-56, 5 frozen exits": "frozen exits",
    "ResNet-56 tuned, 2 exits trained jointly": "joint exits",
    "networks and exits in one graph": "both",
    "digits, three networks with skips": "digits",
    "made up: confidence tells all": "sure",
    "made up: specialists": "specialists",
    "made up: label noise": "label noise",
    "made up: shifted test": "shifted",
    "MMLU, two": "MMLU, two",
    "MMLU, three": "MMLU, three",
    "arXiv": "arXiv",
    "BoolQ": "BoolQ",
}
FORMS = {"alone": "as its source has it", "together": "with committees"}
DEFAULT = "offramp"
OWN = (DEFAULT, "learned", "network")
KNOWING = ("optimum", "exact oracle")  # what no policy can see


def peers(number: str, form: str) -> str:
    """The share of a gap that every policy closes on every trace, at the middle size, in percent.

    A size that a trace has too few examples for is replaced by the largest it has.
    """
    traces = load("peers")["traces"]
    columns = {name: short for name, short in COLUMNS.items() if name in traces}
    rows = []
    for policy in _ranked(number, form):
        shares = [_sized(traces[name], 2000)[form][policy][number] for name in columns]
        marks = ("**", "**") if policy == DEFAULT else ("", "")
        cells = [f"{share * 100:.1f}" for share in shares]
        mean = f"{_mean(policy, number, form) * 100:.1f}"
        rows.append([f"{marks[0]}{policy}{marks[1]}", mean, *cells])
    return table(["policy", "mean of all", *columns.values()], rows)


def _sized(trace: dict[str, Any], size: int) -> dict[str, Any]:
    found: dict[str, Any] = trace.get(str(size)) or trace[max(trace, key=int)]
    return found


def _policies(form: str) -> list[str]:
    found = _sized(next(iter(load("peers")["traces"].values())), 2000)[form]
    return [name for name in found if name not in KNOWING]


def _mean(policy: str, number: str, form: str) -> float:
    """Over all traces and sizes."""
    traces = load("peers")["traces"].values()
    values: list[float] = [
        found[form][policy][number] for trace in traces for found in trace.values()
    ]
    return sum(values) / len(values)


def _ranked(number: str, form: str) -> list[str]:
    return sorted(_policies(form), key=lambda policy: -_mean(policy, number, form))


def levels(form: str) -> str:
    """The default policy against the best published one at each level, at every trace and size."""
    found = load("peers")
    head = ["trace", "examples", *(f"{level * 100:g} points" for level in found["levels"])]
    rows = []
    for name, short in COLUMNS.items():
        for size, forms in found["traces"].get(name, {}).items():
            cells = [_level(forms[form], i) for i in range(len(found["levels"]))]
            rows.append([short, f"{int(size):,}", *cells])
    return table(head, rows)


def _level(policies: dict[str, Any], i: int) -> str:
    """Our speed-up, and our lead over the best peer; a cross where that is beyond the noise."""
    best, lead, error = _lead(policies, i)
    behind = " \u2717" if _behind(lead, error) else ""
    own = policies[DEFAULT]["speedups"][i]
    return f"{own:.2f} ({lead:+.2f} ± {error:.2f} {best}){behind}"


def _lead(policies: dict[str, Any], i: int) -> tuple[str, float, float]:
    """The best published policy at a level, our lead over it, and that lead's standard error."""
    best = max(_published(policies), key=lambda name: policies[name]["speedups"][i])
    lead, error = (policies[best][f"speedups_{part}"][i] for part in ("lead", "lead_se"))
    return best, lead, error


def _behind(lead: float, error: float) -> bool:
    return lead < -2 * error and lead < -0.0005


def standing() -> str:
    """At how many traces the default is ahead of the best other, about as good, or behind."""
    found = load("peers")
    head = ["", *(f"{level * 100:g} points" for level in found["levels"])]
    rows = []
    for form, told in FORMS.items():
        each = [sizes[form] for trace in found["traces"].values() for sizes in [*trace.values()]]
        counts = []
        for i in range(len(found["levels"])):
            leads = [_lead(policies, i)[1:] for policies in each]
            behind = sum(_behind(lead, error) for lead, error in leads)
            ahead = sum(_behind(-lead, error) for lead, error in leads)
            counts.append((ahead, len(leads) - ahead - behind, behind))
        for n, name in enumerate(("ahead", "within two standard errors", "behind")):
            rows.append([f"{told}: {name}", *(str(count[n]) for count in counts)])
    return table(head, rows)


def _published(policies: dict[str, Any]) -> list[str]:
    return [name for name in policies if name not in OWN + KNOWING]


def blocks() -> str:
    """What each block of observations is worth: the gap closed with all, and less without it."""
    found = load("blocks")["blocks"]
    names = [name for name in next(iter(found.values())) if name != "all blocks"]
    rows = []
    for name, short in COLUMNS.items():
        if name in found:
            whole = f"{found[name]['all blocks']['gap_cost'] * 100:.1f}"
            less = [found[name][block] for block in names]
            cells = [
                f"{b['gap_cost_lead'] * 100:+.1f} ± {b['gap_cost_lead_se'] * 100:.1f}" for b in less
            ]
            rows.append([short, whole, *cells])
    return table(["trace", "all blocks", *names], rows)


def pool() -> str:
    """What the search finds, how long it takes, and speed-ups beside those without it."""
    found = load("pool")
    head = ["pool, examples", "search, s", "found most often", "with"]
    head += [f"{level * 100:g} points" for level in found["levels"]]
    rows = []
    for row in found["rows"]:
        edges, times = row["edges"][0]
        often = f"`{edges}` ({times} of {found['splits']})"
        name = f"{row['pool']}, {row['examples']:,}"
        for which in ("found", "all", "best pair"):
            told = [name, f"{row['seconds']:.1f}", often] if which == "found" else ["", "", ""]
            rows.append([*told, which, *(f"{speedup:.2f}" for speedup in row[which])])
    return table(head, rows)


def few() -> str:
    """Certificates against the best test that knows the true rates."""
    head = ["population", "budget, points", "examples", "broken", "broken, tuned"]
    head += ["cost / best valid test's", "cost / former rule's"]
    return table(head, [_few(row) for row in load("few")["rows"]])


def _few(row: dict[str, Any]) -> list[str]:
    cells = [f"{row['budget'] * 100:g}", f"{row['examples']:,}"]
    cells += [f"{row[rule]['broken']:.1%}" for rule in ("certified", "tuned")]
    former = row["certified"]["cost"] / row["former"]["cost"]
    return [row["population"], *cells, f"{row['ratio']:.3f}", f"{former:.2f}"]


def totals() -> str:
    """The cost that both rules reach with as many examples, learning included."""
    head = ["population", "budget, points", "examples", "cost", "cost, split in half before"]
    rows = [
        [
            row["population"],
            f"{row['budget'] * 100:g}",
            f"{row['examples']:,}",
            f"{row['certified']:.3f}",
            f"{row['former']:.3f}",
        ]
        for row in load("few")["totals"]
    ]
    return table(head, rows)


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


REPAIRS = ("as recorded", "routing, refitted", "repair")  # of the speed-ups that are shown


def refit() -> str:
    """What refits repair, and beside it what routing saves against the refitted reference."""
    found = load("refit")
    head = ["graph", "error of each stage", "speed-up"]
    head += [f"{level * 100:g} points" for level in found["levels"]]
    rows = []
    for name, graph in found["graphs"].items():
        values = graph["sizes"][max(graph["sizes"], key=int)]
        errors = ", ".join(
            f"{error['before']['mean']:.1%} > {error['after']['mean']:.1%}"
            for error in values["error"].values()
        )
        for kind in REPAIRS:
            speedup = values["speedup"][kind]
            told = [name, errors] if kind == REPAIRS[0] else ["", ""]
            cells = zip(speedup["mean"], speedup["se"], strict=True)
            rows.append([*told, kind, *(f"{mean:.2f} ± {error:.2f}" for mean, error in cells)])
    return table(head, rows)


def optimized() -> str:
    """What one command made of networks, for requests of each size that it was asked for."""
    head = ["given", "requests of", "stages", "what runs", "bound, points"]
    head += ["int8", "bfloat16", "plan", "over the better of these", "seconds, training included"]
    cases = load("optimize")["cases"]
    rows = [
        [name, batch, *_optimized(found, int(batch))]
        for name, each in cases.items()
        for batch, found in each.items()
    ]
    return table(head, rows)


def _optimized(found: Mapping[str, Any], batch: int) -> list[str]:
    speedup = {row["what"]: row["speedup"] for row in found["clock"] if row["batch"] == batch}
    fewer = [speedup[what] for what in ("int8", "bfloat16") if what in speedup]
    bound = found["certificate"]["bound"]
    return [
        " > ".join(found["siblings"]["stages"]),
        " > ".join(found["runs"]),
        "" if bound is None else f"{bound * 100:.2f}",
        *(f"{speedup[what]:.2f}" if what in speedup else "" for what in ("int8", "bfloat16")),
        f"{speedup['plan']:.2f}",
        f"{speedup['plan'] / max(fewer):.2f}" if fewer else "",
        f"{sum(found['seconds'].values()):.0f}",
    ]


JOURNEYS = {"lite": "EfficientNet-lite0, 1, 2", "text": "encoders of text"}


def journeys() -> str:
    """What was certified, whether it ran as replayed, and how fast a file is at batch 1."""
    head = ["networks", "budget, points", "verdict", "certified with", "bound, points"]
    head += ["speed-up by costs", "excess loss on other examples, points"]
    head += ["answered otherwise than replayed: live, one file", "speed-up of one file, timed"]
    rows = [[name, *_journey(plan)] for file, name in JOURNEYS.items() for plan in _plans(file)]
    return table(head, rows)


def _plans(file: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = load(file)["plans"]
    return found


def _journey(plan: dict[str, Any]) -> list[str]:
    """The cells of one plan; what was not measured is empty."""
    verdict = plan["verdict"]
    told = f"{verdict}: {plan['static_choice']}" if verdict == "one network" else verdict
    cells = [f"{plan['budget'] * 100:g}", told, f"{plan['examples']:,}"]
    cells += [f"{plan['bound'] * 100:.2f}", f"{plan['speedup']:.2f}"]
    other = plan.get("evaluation")
    cells.append(f"{other['excess_loss'] * 100:+.2f}" if other else "")
    if "answers" not in plan:
        return [*cells, "", ""]
    ran = plan["answers"]
    differing = [f"{ran[f'{runtime}_answer']}" for runtime in ("live", "one_file")]
    timed = f"{plan['bench']['speedup']:.2f}"
    return [*cells, f"{', '.join(differing)} of {ran['examples']:,}", timed]


def alone() -> str:
    """The accuracy of each network by itself."""
    cells = [
        [name, ", ".join(f"{stage} {value:.1%}" for stage, value in load(file)["accuracy"].items())]
        for file, name in JOURNEYS.items()
    ]
    return table(["networks", "accuracy of each"], cells)


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


def _over_uncut(row: Mapping[str, Any], speedup: float) -> float:
    """A speed-up over the sum of the reference's parts as one over the uncut reference.

    Results saved before a network alone had one price divide by that sum. The uncut reference,
    which costs less, is on the hull as well, so that this is the least that it may be.
    """
    if "reference_alone_ms" in row:
        return speedup
    parts = row["part_ms"]
    (uncut,) = (ms for part, ms in parts.items() if part.endswith(".whole"))
    cut = sum(ms for part, ms in parts.items() if "." not in part and part != "small")
    return max(1.0, float(speedup * uncut / cut))


def exits_clock() -> str:
    head = ["graph", "batch", "certified at 1 point", "equal quality at 0.5 points, at least"]
    rows = [
        [
            name,
            f"{row['batch']}",
            f"{row['certified_speedup']:.2f}",
            f"{_over_uncut(row, row['equal_quality']['learned'][1]):.2f}",
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


def numbers() -> str:
    """The README's five numbers, each with its page, its file and the command that repeats it."""
    found = (_saved(), _ahead(), _kept(), _timed(), _alone())
    return "\n".join(
        f"- {what} [{page}](docs/results/{page}.md), `python -m benchmarks.{file}{data}`"
        for what, page, file, data in found
    )


def _saved() -> tuple[str, str, str, str]:
    at = load("peers")["levels"].index(0.01)
    forms = _sized(load("peers")["traces"][SHOWN], 2000)
    own = forms["together"][DEFAULT]["speedups"][at]
    bests = []
    for policies in (forms[form] for form in FORMS):
        published = {name: policies[name]["speedups"][at] for name in _published(policies)}
        best = max(published, key=published.__getitem__)
        bests.append(f"{published[best]:.2f} ({best})")
    what = (
        f"**{own:.2f} times** less computation than a ResNet-56 at 1 point of excess loss, three "
        f"ResNets in one graph; the best published policy reaches {bests[0]}, and {bests[1]} with "
        "offramp's committees."
    )
    return what, "policies", "peers", " DATA"


def _ahead() -> tuple[str, str, str, str]:
    own, count = _mean(DEFAULT, "gap_cost", "together"), len(load("peers")["traces"])
    bests = []
    for form in FORMS:
        best = next(name for name in _ranked("gap_cost", form) if name not in OWN)
        bests.append(f"{_mean(best, 'gap_cost', form):.1%} ({best})")
    what = (
        f"**{own:.1%}** of the gap in cost between the best single network and a router that sees "
        f"the labels is closed, on average over {count} traces; {bests[0]} by the best published "
        f"policy, and {bests[1]} with offramp's committees."
    )
    return what, "policies", "peers", " DATA"


def _kept() -> tuple[str, str, str, str]:
    rows = [row for row in load("promise")["rows"] if row["confidence"] == 0.95]
    kept, broken = (max(row[which]["broken"] for row in rows) for which in ("certified", "tuned"))
    what = (
        f"**{kept:.1%}** of the promises at 95 % confidence were broken at worst; 5 % may be; "
        f"without a certificate {broken:.1%}."
    )
    return what, "promise", "promise", " DATA"


def _timed() -> tuple[str, str, str, str]:
    rows = _rows_of_clock()
    found = next(row for row in rows if row["certified"] and row["budget"] == 0.01)
    what = (
        f"**{found['speedup']:.2f} times** as fast on the clock as the fastest static fp32 runtime "
        "of ResNet-56, certified at 1 point: two ResNets in one file, one thread, batch 1 "
        "(measured with an earlier version of the policies)."
    )
    return what, "clock", "clock", " DATA"


def _alone() -> tuple[str, str, str, str]:
    row = next(row for row in _rows_of_clock() if not row["certified"])
    int8 = next(c for c in row["contestants"] if c["name"].endswith("int8"))
    what = (
        f"For comparison, int8 alone: **{int8['speedup']:.2f} times**, without routing, on the "
        f"same clock, with {int8['changed']:.1%} of the answers changed. Routing of fp32 networks "
        "does not beat it."
    )
    return what, "clock", "clock", " DATA"


def _rows_of_clock() -> list[dict[str, Any]]:
    """Of two networks, one thread, batch 1."""
    rows = load("clock")["systems"]["ResNet-20 > ResNet-56"]["rows"]
    return [row for row in rows if row["threads"] == row["batch"] == 1]


SHARES = {  # of images, as the paper's figure counts them
    "right by all": "right by all three",
    "wrong by all": "wrong by all three",
    "right by another than the first": "wrong by AlexNet, right by another",
    "error of alexnet": "error of AlexNet",
    "error of googlenet": "error of GoogLeNet",
    "error of resnet50": "error of ResNet-50",
}
SELECTION = {  # what is shown of network selection, by what it sees
    "exact oracle": "exact oracle",
    DEFAULT: "offramp, classes alone",
    "agreement": "agreement",
    "thresholds": "thresholds on class-wise reliability",
    "myopic": "one such threshold",
    "uniform": "blind mix of networks",
}


def paper_shares() -> str:
    found = load("imagenet")["shares"]
    rows = [
        [told, *(f"{found[loss][share]:.1%}" for loss in found)] for share, told in SHARES.items()
    ]
    return table(["images", *("top-1", "top-5")], rows)


def paper_selection(loss: str, unit: str) -> str:
    """Speed-ups at equal net excess loss of every topology, by what decides."""
    found = load("imagenet")
    head = ["topology", "decides", *(f"{level * 100:g} points" for level in found["levels"])]
    rows = []
    for topology, each in found["found"][loss][unit].items():
        speedups = {DEFAULT if n == "auto" else n: row for n, row in each["speedups"].items()}
        lost, cost = each["soft oracle"]
        soft = [f"{1 / cost:.2f}" if lost <= level else "" for level in found["levels"]]
        rows.append([topology, "soft oracle", *soft])
        rows += [
            ["", told, *(f"{speedup:.2f}" for speedup in speedups[name])]
            for name, told in SELECTION.items()
        ]
    return table(head, rows)


def paper_stops() -> str:
    """Where images stop, of top-5 in the paper's times."""
    rows = []
    for topology, each in load("imagenet")["found"]["top5"]["ms"].items():
        for level, shares in each["stops_at"].items():
            told = [topology if level == next(iter(each["stops_at"])) else ""]
            told.append(f"{float(level) * 100:g} points")
            rows.append([*told, *(f"{shares[n]:.1%}" if n in shares else "" for n in IMAGENET)])
    return table(["topology", "excess loss", *IMAGENET.values()], rows)


IMAGENET = {"alexnet": "AlexNet", "googlenet": "GoogLeNet", "resnet50": "ResNet-50"}


def paper_figure() -> str:
    """Top-5 excess loss against time: the three topologies, single networks, mixes, the oracle."""
    found = load("imagenet")["found"]["top5"]["ms"]
    tree = list(found)[2]
    series = [
        _series(f"offramp, {name}", "learned" if name == tree else "policy", _over(curve), 1.0)
        for name, curve in ((name, found[name]["curves"]["auto"]) for name in list(found)[:3])
    ]
    shown = found[tree]
    for name in ("uniform", "exact oracle"):
        series.append(_series(name, _role(name), _over(shown["curves"][name]), 1.0))
    lost, cost = shown["soft oracle"]
    series.append(_series("soft oracle", "oracle", [[lost, cost]], 1.0))
    series += [_series(IMAGENET[n], "static", [p], 1.0) for n, p in shown["static"].items()]
    return draw_frontier(FrontierFigure(series=tuple(series), highest=6.0))


def _over(points: list[list[float]]) -> list[list[float]]:
    """A curve, up to what is shown."""
    return [[lost, cost] for lost, cost in points if lost <= 0.06]


RECORDED = {  # policies shown of what others recorded, and what they are called
    "auto": DEFAULT,
    "learned": "learned",
    "cascade-routing": "cascade-routing",
    "jei-dnn": "jei-dnn",
    "eenet": "eenet",
    "zero-time-waste": "zero-time-waste",
    "margin": "margin",
    "myopic": "myopic",
    "thresholds": "thresholds",
    "agreement": "agreement",
    "uniform": "uniform",
}


def recorded() -> str:
    """Speed-ups at equal quality of each policy on what others recorded, and the oracle's."""
    found = load("recorded")
    head = ["trace", "policy", *(f"{level * 100:g} points" for level in found["levels"])]
    rows = []
    for name, trace in found["traces"].items():
        policies, first = trace["summaries"]["policies"], True
        for policy, told in RECORDED.items():
            if policy in policies:
                rows.append([name if first else "", told, *_speedups(policies[policy])])
                first = False
        rows.append(["", "exact oracle", *_speedups(trace["summaries"]["oracle"]["exact"])])
    return table(head, rows)


def _speedups(summary: Mapping[str, Any]) -> list[str]:
    return [f"{level['value']:.2f}" for level in summary["speedups"]]


def recorded_promise() -> str:
    """Plans fitted on one half of what others recorded, measured on the other."""
    found = load("recorded")
    head = ["trace", "examples", "splits", "over the budget", "by more than two standard errors"]
    head += ["that error, points", "excess loss, points", "speed-up", "routed"]
    rows = []
    for name, trace in found["traces"].items():
        kept = trace["promise"]
        cells = [f"{trace['examples']:,}", f"{kept['splits']}", f"{kept['over']:.1%}"]
        cells += [f"{kept['over_by_two_errors']:.1%}", f"{kept['error'] * 100:.2f}"]
        cells += [f"{kept['excess_loss'] * 100:.2f}", f"{kept['speedup']:.2f}"]
        rows.append([name, *cells, f"{kept['routed']:.0%}"])
    return table(head, rows)


def folders() -> str:
    """What each folder of the source holds, in its own words."""
    lines = ["| folder | what it holds |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{name}` | {what} |" for name, what in holdings().items())])


def house() -> str:
    """What the source was at its first measure, and is now."""
    kept = load("house")
    sides = [kept["before"], kept["now"]]
    rows = [[name, *(f"{of(side)}" for side in sides)] for name, of in HOUSE.items()]
    return table(["", *(f"`{side['commit'][:7]}`" for side in sides)], rows)


def _loaded(entry: str, side: dict[str, Any]) -> str:
    counts = side["loaded"][entry]
    return "fails" if counts is None else f"{counts['offramp']} of {counts['all']}"


def _adding(kind: str, side: dict[str, Any]) -> str:
    files = side["files_to_add"][kind]
    return "no example does" if files is None else str(files)


def _count(key: str) -> Callable[[dict[str, Any]], int]:
    return lambda side: len(side[key])


HOUSE: dict[str, Callable[[dict[str, Any]], object]] = {  # row -> its cell, of one measure
    "rooms: folders, and files that lie in none": itemgetter("rooms"),
    "arrows: pairs of rooms of which one uses the other": itemgetter("arrows"),
    "modules": itemgetter("modules"),
    "imports between modules": itemgetter("imports"),
    "levels of modules": itemgetter("levels"),
    "lines": itemgetter("lines"),
    "functions": itemgetter("functions"),
    "lines of a function, its docstring counted: median": lambda s: s["function_lines"]["median"],
    "likewise: 90th percentile": lambda side: side["function_lines"]["90th percentile"],
    "likewise: longest": lambda side: side["function_lines"]["longest"],
    "functions over 40 lines": _count("long_functions"),
    "functions with more than 8 arguments": _count("many_arguments"),
    "modules over 400 lines": _count("long_modules"),
    "public names that two or more modules define": _count("repeated_names"),
    "records of more than 4 fields that take them by place": _count("positional_records"),
    "modules loaded by `import offramp`, of offramp and in all": partial(_loaded, "import offramp"),
    "likewise by `from offramp.runtime import SingleFile`": partial(
        _loaded, "from offramp.runtime import SingleFile"
    ),
    "files touched to add a policy": partial(_adding, "policy"),
    "files touched to add an engine": partial(_adding, "engine"),
}


def guard() -> str:
    """False alarms, and audits until a change is found."""
    found = load("guard")
    rows = []
    for row in found["rows"]:
        for change in row["changes"]:
            own, other = change["guard"], change["cusum"]
            rows.append(
                [
                    row["case"],
                    f"{row['false_alarms']:.1%}",
                    f"{change['rise'] * 100:g}",
                    f"{change['at']:,}",
                    *(f"{one[what]:,.0f}" for what in ("median", "p90") for one in (own, other)),
                ]
            )
    head = ["watched", f"false alarms in {found['audits']:,} audits", "rise, points", "at audit"]
    head += ["audits until the alarm, median", "CUSUM", "90 % within", "CUSUM"]
    return table(head, rows)


def streams() -> str:
    """Recorded streams: what was promised, what came, and the alarm."""
    rows = [
        [
            row["stream"],
            f"{row['budget'] * 100:g}",
            f"{row['speedup']:.2f}",
            f"{row['watched']:,}",
            f"{row['mean']:.2%}",
            f"{row['interval'][0]:.2%} to {row['interval'][1]:.2%}",
            "none" if row["alarm"] is None else f"{row['alarm']:,}",
        ]
        for row in load("guard")["streams"]
    ]
    head = ["stream", "promised, points", "times less cost", "rows watched", "disagreement"]
    return table([*head, "surely between", "alarm at row"], rows)


def delay() -> str:
    """How soon a rise is found, in a sentence."""
    found = load("guard")
    rise = {
        points: max(
            change["guard"]["p90"]
            for row in found["rows"]
            for change in row["changes"]
            if change["rise"] == points / 100
        )
        for points in (1, 2)
    }
    return (
        f"In the simulations a rise by one point is found within {rise[1]:,.0f} audits in nine of "
        f"ten runs, whenever it comes, and one by two points within {rise[2]:,.0f}."
    )


TABLES: dict[str, Callable[[], str]] = {
    "numbers": numbers,
    "standing": standing,
    "gap_cost": partial(peers, "gap_cost", "alone"),
    "gap_cost_together": partial(peers, "gap_cost", "together"),
    "gap_loss": partial(peers, "gap_loss", "alone"),
    "gap_loss_together": partial(peers, "gap_loss", "together"),
    "levels": partial(levels, "alone"),
    "levels_together": partial(levels, "together"),
    "blocks": blocks,
    "pool": pool,
    "few": few,
    "totals": totals,
    "refit": refit,
    "tuned": tuned,
    "promise": promise,
    "structure": structure,
    "journeys": journeys,
    "optimized": optimized,
    "alone": alone,
    "exits": exits,
    "exits_tuned": exits_tuned,
    "exits_clock": exits_clock,
    "clock": clock,
    "instead": instead,
    "routing": routing,
    "scale": scale,
    "guard": guard,
    "streams": streams,
    "delay": delay,
    "paper_shares": paper_shares,
    "paper_top5": partial(paper_selection, "top5", "ms"),
    "paper_top1": partial(paper_selection, "top1", "ms"),
    "paper_adds": partial(paper_selection, "top5", "multiply-adds"),
    "paper_stops": paper_stops,
    "recorded": recorded,
    "recorded_promise": recorded_promise,
    "machine": machine,
    "house": house,
    "folders": folders,
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
    return draw_frontier(
        FrontierFigure(series=tuple(series), budget=kept["budget"] * 100, bound=kept["bound"] * 100)
    )


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
    return "oracle" if "oracle" in name else "learned" if name == DEFAULT else "policy"


def _series(name: str, role: Role, points: list[list[float]], unit: float) -> Series:
    costs, losses = [p[1] / unit for p in points], [p[0] * 100 for p in points]
    return Series(name, role, tuple(costs), tuple(losses))


FIGURES: dict[str, Callable[[], str]] = {
    "frontier": figure,
    "clock": clock_figure,
    "paper": paper_figure,
}


if __name__ == "__main__":
    main()
