"""What a plan does at every setting of its dial, and some examples that it stops early or late."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from offramp.answering.committees import with_committees
from offramp.answering.refit import with_refits
from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import DataError
from offramp.core import tasks
from offramp.core.frontier import Point, loss_of, replay
from offramp.core.trace import Trace
from offramp.networks.data import Examples, open_examples
from offramp.networks.preprocessing import Preprocessing
from offramp.plan.evaluate import priced
from offramp.plan.plan import Plan
from offramp.promise import split
from offramp.study.bands import DRAWS, Resamples, measure

MOST_SHOWN = 8  # examples of each kind
_SIDE = 64  # pixels of a thumbnail
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Excerpt:
    """An example, and what became of it."""

    id: str
    stage: str  # where it stopped
    cost: float  # share of the reference's
    answer: str
    reference: str  # the reference's answer
    label: str | None
    picture: str | None = None  # a data address; None: the data is not at hand


@dataclass(frozen=True, kw_only=True)
class DialView:
    """A plan on the examples of a trace that are not sealed."""

    points: Sequence[Point]  # at every setting, safest first
    examples: int
    taught: bool  # whether the same examples taught the policy, which flatters it
    excerpts: Mapping[str, Sequence[Excerpt]] = field(default_factory=dict)


def dial(plan: Plan, trace: Trace, data: str | None = None) -> DialView:
    """The dial of `plan` on the rows of `trace` that are not sealed, and excerpts of them.

    Args:
        plan: whose loss is not the user's own.
        trace: of the same graph.
        data: the examples that the trace was recorded on, for pictures; None: ids alone.

    Raises:
        DataError: `data` is not what the trace was recorded on.
        CostError: the trace's costs are of another unit.
        StorageError: the trace's ledger cannot be written.
    """
    rows = priced(plan, split.shown(trace, "report"))
    spoken = with_committees(with_refits(rows, plan.refits), plan.committees)
    losses = spoken.losses(_loss(plan, rows), plan.certificate.excess)
    curve = measure(spoken, losses, plan.policy, Resamples.of(rows.examples, DRAWS, 0))
    shown = excerpts(plan, rows)
    return DialView(
        points=curve.points,
        examples=rows.examples,
        taught=trace.info.get("data") in plan.fitted_on,
        excerpts=pictured(shown, plan, trace, data) if data else shown,
    )


def excerpts(plan: Plan, trace: Trace) -> dict[str, list[Excerpt]]:
    """Examples that the plan stops early, late, and wrong, at most `MOST_SHOWN` of each.

    Early: the surest of those that stop first. Late: the dearest walks. Wrong: the reference
    answers better, before those that it answers as badly.
    """
    spoken = plan.answering(trace)
    outcome = replay(spoken, plan.running, plan.setting)
    losses = spoken.losses(_loss(plan, trace), plan.certificate.excess)
    lost = loss_of(outcome, losses)
    worse = lost - losses.of_reference
    unsure = -spoken.log_probabilities(spoken.graph.root).max(axis=1)
    rows = np.arange(trace.examples)
    first = rows[outcome.cost <= outcome.cost.min()]
    last = rows[outcome.cost > outcome.cost.min()]
    wrong = rows[lost > 0]
    chosen = {
        "early": first[np.argsort(unsure[first], kind="stable")],
        "late": last[np.lexsort((-unsure[last], -outcome.cost[last]))],
        "wrong": wrong[np.lexsort((outcome.cost[wrong], -worse[wrong]))],
    }
    told = _Told(spoken, [outcome.order[at] for at in outcome.stage], outcome.cost)
    return {
        kind: [told.excerpt(int(row)) for row in some[:MOST_SHOWN]] for kind, some in chosen.items()
    }


@dataclass(frozen=True)
class _Told:
    """What is said of each row of a trace."""

    trace: Trace
    stages: Sequence[str]  # where each row stopped
    cost: FloatArray  # (examples,)

    def excerpt(self, row: int) -> Excerpt:
        trace, stage = self.trace, self.stages[row]
        return Excerpt(
            id=str(row if trace.ids is None else trace.ids[row]),
            stage=stage,
            cost=float(self.cost[row]) / trace.reference_cost,
            answer=self._name(int(trace.scores[stage][row].argmax())),
            reference=self._name(int(trace.own(trace.graph.reference)[row].argmax())),
            label=None if trace.labels is None else self._name(int(trace.labels[row])),
        )

    def _name(self, label: int) -> str:
        names = self.trace.info.get("class_names") or ()
        return str(names[label]) if label < len(names) else str(label)


def pictured(
    found: Mapping[str, Sequence[Excerpt]], plan: Plan, trace: Trace, data: str
) -> dict[str, list[Excerpt]]:
    """The same excerpts with small pictures, where the examples are pictures.

    Raises:
        DataError: `data` cannot be read, or is not what the trace was recorded on.
    """
    examples = open_examples(data, plan.preprocessing, skip_broken=True)
    if examples.fingerprint != trace.info.get("data"):
        raise DataError(
            f"{data} is not what the trace whose examples are shown was recorded on, so its "
            "pictures would be of other examples. Give the data that `offramp record` read, or "
            "leave --data out."
        )
    wanted = {excerpt.id for some in found.values() for excerpt in some}
    pictures = dict(_pictures(examples, wanted, plan.preprocessing))
    return {
        kind: [replace(excerpt, picture=pictures.get(excerpt.id)) for excerpt in some]
        for kind, some in found.items()
    }


def _pictures(
    examples: Examples, wanted: set[str], read: Preprocessing | None
) -> Iterable[tuple[str, str]]:
    for batch in examples.batches(_BATCH):
        for name, x in zip(batch.ids.tolist(), batch.x, strict=True):
            if str(name) in wanted and (address := thumbnail(x, read)):
                yield str(name), address


def thumbnail(x: AnyArray, read: Preprocessing | None) -> str | None:
    """What a network read, as the address of a small PNG; None where it is no picture."""
    grid = _grid(x, read)
    if grid is None:
        return None
    image = Image.fromarray(grid.squeeze())
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    smooth = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    file = io.BytesIO()
    image.resize(size, smooth).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _grid(x: AnyArray, read: Preprocessing | None) -> AnyArray | None:
    """Pixels (height, width, 1 or 3) uint8: as they were, or from darkest to brightest."""
    if x.ndim == 2:
        x = x[None]
    if x.ndim != 3:
        return None
    if x.shape[0] in (1, 3):
        x = x.transpose(1, 2, 0)
    if x.shape[2] not in (1, 3):
        return None
    if read is not None and x.dtype != np.uint8:
        scale, offset = read.factors
        return np.asarray(((x + offset) / scale).round().clip(0, 255).astype(np.uint8))
    if x.dtype == np.uint8:
        return x
    low, high = float(np.nanmin(x)), float(np.nanmax(x))
    stretched = np.nan_to_num((x - low) / max(high - low, 1e-12))
    return np.asarray((stretched * 255).round().astype(np.uint8))


def _loss(plan: Plan, trace: Trace) -> str:
    """The plan's loss where the examples can tell, else disagreement with the reference."""
    name = plan.certificate.loss
    return tasks.DISAGREEMENT if trace.labels is None and name != tasks.RECORDED else name


def position(points: Sequence[Point], tradeoff: float | None) -> int:
    """The number of the setting nearest to a tradeoff; of the safest where there is none."""
    if tradeoff is None:
        return 0
    return int(np.argmin([abs((point.tradeoff or 0.0) - tradeoff) for point in points]))
