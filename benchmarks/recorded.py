"""What others recorded: language models on questions, and networks on ImageNet without scores.

Usage: python -m benchmarks.recorded DATA [--splits 200] [--only NAME]

DATA holds `language/` (mmlu.npz, stream_*.npz: scores of two or more models, and labels) and
`imagenet/top5.npz` (the five best classes of three networks, best first, without scores). Every
policy on one half of the open rows, measured on the other; and the promise over random splits: a
plan is fitted on one half of the examples, and its excess loss measured on the other. That is an
estimate of the truth with a noise of its own, so it is also told how many are over the budget by
more than two standard errors of it. ImageNet: the class answered is the answer; observations are
how often a network is right where it answers so, and how many of the five classes it shares with
earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.results import command
from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.core.frames import FrameOptions, framed
from offramp.core.frontier import excess_of, replay
from offramp.core.hulls import LEVELS
from offramp.core.ledger import Ledger
from offramp.core.tables import Columns
from offramp.core.trace import Trace, of_frame
from offramp.plan.fit import fit
from offramp.study.compare import compare

MMLU = {  # thousand million parameters, by which models are paid
    "mistral_7b_v0_1": 7.0,
    "llama_2_13b_hf": 13.0,
    "deepseek_llm_67b_base": 67.0,
}
PAIR = ("mistral_7b_v0_1", "deepseek_llm_67b_base")
DAG = "mistral_7b_v0_1>llama_2_13b_hf>deepseek_llm_67b_base,mistral_7b_v0_1>deepseek_llm_67b_base"
STREAM = {"llama31_8b": 8.0, "llama33_70b": 70.0}
TOP5 = {"alexnet": 0.71, "googlenet": 1.5, "resnet50": 4.1}  # thousand million multiply-adds
BUDGET, CONFIDENCE = 0.02, 0.95
_KIN = 25  # classes of neighbouring numbers, which are kin
_PRIOR = 20.0  # examples that a class is shrunk to its kin by, and those to all classes

Files = Annotated[Path, typer.Argument(help="Folder with `language` and `imagenet`.")]


def everything(
    data: Files,
    splits: int = 200,
    only: Annotated[str | None, typer.Option(help="This one; nothing is saved.")] = None,
) -> dict[str, Any] | None:
    found = traces(data)
    chosen = {name: trace for name, trace in found.items() if only in (None, name)}
    rows = {name: study(trace, splits) for name, trace in chosen.items()}
    if only is not None:
        print(rows)
        return None
    return {"budget": BUDGET, "confidence": CONFIDENCE, "levels": LEVELS, "traces": rows}


def traces(data: Path) -> dict[str, Trace]:
    """Everything that was recorded, by name."""
    language = {
        name: dict(np.load(data / "language" / f"{name}.npz"))
        for name in ("mmlu", "stream_arxiv", "stream_boolq")
    }
    return {
        "MMLU, two": scored(language["mmlu"], {name: MMLU[name] for name in PAIR}),
        "MMLU, three": scored(language["mmlu"], MMLU, DAG),
        "arXiv": scored(language["stream_arxiv"], STREAM),
        "BoolQ": scored(language["stream_boolq"], STREAM),
        "ImageNet, top 5": ranked(dict(np.load(data / "imagenet" / "top5.npz")), TOP5),
    }


def scored(
    arrays: Mapping[str, AnyArray], costs: Mapping[str, float], edges: str | None = None
) -> Trace:
    """Scores (n, classes) of some models, and labels."""
    scores = {name: arrays[name] for name in costs}
    return Trace.of(scores, arrays["labels"].astype(np.int64), costs=costs, edges=edges)


def ranked(arrays: Mapping[str, AnyArray], costs: Mapping[str, float]) -> Trace:
    """Lists of the best classes (n, k), best first, of some networks, and labels.

    A random half of the examples teaches how reliable classes are, and is not in the trace.
    """
    labels = arrays["labels"].astype(np.int64)
    half = np.random.default_rng(0).permutation(len(labels)) < len(labels) // 2
    columns: dict[str, AnyArray] = {"id": np.flatnonzero(~half), "label": labels[~half]}
    before: list[AnyArray] = []
    for name, cost in costs.items():
        best = arrays[name].astype(np.int64)
        sure = reliability(best[half, 0], labels[half], int(labels.max()) + 1)
        columns |= {
            f"{name}.answer": best[~half, 0],
            f"{name}.cost": np.full(int((~half).sum()), cost),
            f"{name}.reliability": sure[best[~half, 0]],
            f"{name}.lead": sure[best[~half, 0]] - sure[best[~half, 1]],
        }
        for number, other in enumerate(before):
            columns[f"{name}.shared{number}"] = shared(best[~half], other)
        before.append(best[~half])
    frame = framed(Columns.of(columns, "top5.npz"), FrameOptions(stages=[*costs]))
    return of_frame(frame)


def reliability(answers: IntArray, labels: IntArray, classes: int) -> FloatArray:
    """How often an answer of each class is right, (classes,), shrunk to its kin and to all."""
    given = np.bincount(answers, minlength=classes).astype(float)
    right = np.bincount(answers[answers == labels], minlength=classes).astype(float)
    kin = np.arange(classes) // _KIN
    everyone = right.sum() / max(1.0, given.sum())
    among = [np.bincount(kin, weights=counts)[kin] for counts in (right, given)]
    group = (among[0] + _PRIOR * everyone) / (among[1] + _PRIOR)
    return np.asarray((right + _PRIOR * group) / (given + _PRIOR))


def shared(one: AnyArray, other: AnyArray) -> IntArray:
    """How many classes two lists have in common, (n,)."""
    return np.asarray((one[:, :, None] == other[:, None, :]).any(axis=2).sum(axis=1))


def study(trace: Trace, splits: int) -> dict[str, Any]:
    """Policies side by side, and how often promises were kept."""
    compared = compare(trace, bands=False).to_json()
    kept = [promise(trace, seed) for seed in range(splits)]
    excess, error, speedups = np.array(kept).T
    return {
        "examples": trace.examples,
        "summaries": compared["summary"],
        "promise": {
            "splits": splits,
            "over": float((excess > BUDGET).mean()),
            "over_by_two_errors": float((excess - 2 * error > BUDGET).mean()),
            "error": float(error.mean()),
            "excess_loss": float(excess.mean()),
            "speedup": float(speedups.mean()),
            "routed": float((speedups > 1).mean()),
        },
    }


def promise(trace: Trace, seed: int) -> tuple[float, float, float]:
    """Excess loss on one half of a plan fitted on the other, its error, and its speed-up."""
    first, second = trace.split(0.5, seed)
    learning, other = (replace(trace.take(rows), ledger=Ledger()) for rows in (first, second))
    plan = fit(learning, BUDGET, confidence=CONFIDENCE, policy="learned", repeats="real")
    answered = plan.answering(other)
    outcome = replay(answered, plan.running, plan.setting)
    lost = excess_of(outcome, answered.losses(plan.certificate.loss), "net")
    error = float(lost.std() / np.sqrt(len(lost)))
    return float(lost.mean()), error, other.reference_cost / float(outcome.cost.mean())


if __name__ == "__main__":
    command("recorded", everything)
