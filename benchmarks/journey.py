"""From networks in files to one certified file, on the command line of offramp as a user would.

What runs is then compared with the replay of what was recorded: stages as they are driven from
Python, and the exported file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from offramp.base.arrays import AnyArray
from offramp.base.fields import arrays
from offramp.core.frontier import replay
from offramp.core.trace import Trace
from offramp.data import ExampleBatch, open_examples
from offramp.plan.plan import Plan
from offramp.runtime import SingleFile
from offramp.study.bench import Contest, bench
from offramp.testing import close

KEPT_REFERENCE = 1  # the exit code of a fit that certifies nothing
_TOLD = (
    "budget",
    "confidence",
    "verdict",
    "static_choice",
    "examples",
    "losses",
    "gains",
    "bound",
    "speedup",
)
_EVALUATED = ("examples", "excess_loss", "interval", "kept", "speedup", "exits")
_TIMED = ("batch", "threads", "speedup", "theoretical_speedup", "realised", "reference")
_SHOWN = ("speedup", "changed", "error", "best")  # of what takes part in a bench


@dataclass(frozen=True)
class Journey:
    """A folder, and in it all that is made of some networks; graphs and traces are made once."""

    folder: Path
    networks: Mapping[str, Path]  # cheapest first

    def graph(self, *options: str) -> None:
        named = [f"{name}={path}" for name, path in self.networks.items()]
        self._make("graph", "graph", *named, *options)

    def record(self, data: Path, name: str, *options: str) -> None:
        """Records examples as a trace that is called `name`; costs are those of one example."""
        batch = ("--data", data, "--batch", "1")
        self._make(name, "record", self.folder / "graph", *batch, *options)

    def fit(self, trace: str, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
        """The certificates of plans that one trace certifies, which lie in `plans`, called by
        their budgets; the promises hold together."""
        listed = ",".join(f"{budget:g}" for budget in budgets)
        options = ("--budget", listed, "--out", self.folder / "plans", "--force", "--json")
        return list(offramp("fit", self.folder / trace, *options, allowed=(0, KEPT_REFERENCE)))

    def accuracy(self, trace: str) -> dict[str, float]:
        """Of each stage."""
        losses = Trace.read(self.folder / trace).losses("top1").values
        return {stage: 1 - float(loss.mean()) for stage, loss in losses.items()}

    def certified(self, trace: str, budgets: tuple[float, ...]) -> list[dict[str, Any]]:
        """As `fit`, of each what its certificate says."""
        return [{name: found[name] for name in _TOLD} for found in self.fit(trace, budgets)]

    def evaluated(self, budget: float, trace: str) -> dict[str, Any]:
        """What a plan does on the examples of another trace."""
        found = offramp("evaluate", self._plan(budget), self.folder / trace, "--json")
        return {name: found[name] for name in _EVALUATED}

    def running(
        self, budget: float, trace: str, data: Path, *, requests: int, passes: int
    ) -> dict[str, Any]:
        """How a plan answers the examples of a trace, replayed, live and in one file; its time.

        Args:
            budget: of the plan.
            trace: of the examples.
            data: the examples.
            requests: of one example each, that are timed.
            passes: over these.
        """
        folder, file = self._plan(budget), self.folder / f"{budget:g}.onnx"
        offramp("export", folder, "--out", file, "--force", json_=False)
        plan = Plan.read(folder)
        examples = next(iter(_inputs(plan, data, requests)))
        brief = Contest(passes=passes, thorough=False)
        timed = bench(plan, examples.fields, examples.labels, contest=brief).to_json()
        return {
            "answers": compared(folder, file, Trace.read(self.folder / trace), data),
            "bench": {
                **{name: timed[name] for name in _TIMED},
                "contestants": {c["name"]: {n: c[n] for n in _SHOWN} for c in timed["contestants"]},
            },
        }

    def _plan(self, budget: float) -> Path:
        return self.folder / "plans" / f"{budget:g}"

    def _make(self, name: str, *arguments: object) -> None:
        """What a command writes as `name`, unless the folder has it from an earlier run."""
        if not (self.folder / name).exists():
            offramp(*arguments, "--out", self.folder / name, json_=False)


def offramp(*arguments: object, allowed: tuple[int, ...] = (0,), json_: bool = True) -> Any:
    """Runs a command, and returns the JSON value that it prints.

    Args:
        arguments: the command and its options.
        allowed: exit codes.
        json_: whether it prints JSON.
    """
    line = [sys.executable, "-m", "offramp.cli", *map(str, arguments)]
    print("offramp", *line[3:], flush=True)
    ran = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    if ran.returncode not in allowed:
        raise SystemExit(f"offramp {arguments[0]} ended with exit code {ran.returncode}.")
    return json.loads(ran.stdout) if json_ else None


def compared(folder: Path, file: Path, trace: Trace, data: Path) -> dict[str, int]:
    """How many of the examples of a trace a plan answers, or stops on, otherwise than replayed.

    Args:
        folder: of the plan.
        file: exported from it.
        trace: of the examples.
        data: the examples.
    """
    plan = Plan.read(folder)
    outcome = replay(plan.answering(trace), plan.running, plan.setting)
    stages = np.array(outcome.order)[outcome.stage]
    spoken = plan.answering(trace)
    answers = np.select(
        [stages == stage for stage in outcome.order],
        [spoken.scores[stage].argmax(axis=1) for stage in outcome.order],
    )
    live, single = _live(folder, data), _single(plan, file, data)
    return {
        "examples": trace.examples,
        "close": int(close(plan, trace).sum()),
        **{
            f"{runtime}_{what}": int((found[what] != expected).sum())
            for runtime, found in (("live", live), ("one_file", single))
            for what, expected in (("stage", stages), ("answer", answers))
        },
    }


def _live(plan: Path, data: Path) -> dict[str, AnyArray]:
    """What `run` writes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "answers.parquet"
        offramp("run", plan, "--data", data, "--out", out, json_=False)
        found = pq.read_table(out)
    return {name: found[name].to_numpy() for name in ("stage", "answer")}


def _single(plan: Plan, file: Path, data: Path) -> dict[str, AnyArray]:
    """What the exported file answers to the same examples."""
    run = SingleFile(file)
    answers = [run(arrays(group.fields)) for group in _inputs(plan, data, 64)]
    return {
        "stage": np.concatenate([found.stage for found in answers]),
        "answer": np.concatenate([found.answer for found in answers]),
    }


def _inputs(plan: Plan, data: Path, size: int) -> Iterator[ExampleBatch]:
    return open_examples(data, plan.preprocessing, fields=plan.fields).batches(size)
