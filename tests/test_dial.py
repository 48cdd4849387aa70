"""A plan at every setting of its dial, and the examples that a report shows."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from offramp.base.arrays import AnyArray
from offramp.base.errors import DataError
from offramp.base.files import fingerprint
from offramp.core.frontier import frontier, replay
from offramp.core.trace import Trace
from offramp.networks.preprocessing import Preprocessing
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.promise import split
from offramp.report import dial, report_inputs
from offramp.report.dial import MOST_SHOWN, excerpts, position, thumbnail
from offramp.testing import synthetic

LEARN, FRESH = synthetic(1200, seed=1), synthetic(900, seed=2)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return fit(LEARN, 0.05)


def test_the_dial_is_the_plan_at_its_settings(plan: Plan) -> None:
    turned = dial(plan, replace(FRESH, seal=0.0))
    spoken = plan.answering(FRESH)
    expected = frontier(spoken, spoken.losses("top1"), plan.policy)
    assert [replace(point, interval=None) for point in turned.points] == expected
    assert all(p.interval and p.interval[0] <= p.excess_loss for p in turned.points)
    at = position(turned.points, plan.tradeoff)
    assert turned.points[at].tradeoff == plan.tradeoff
    assert position(turned.points, None) == 0


def test_sealed_rows_stay_closed(plan: Plan) -> None:
    turned = dial(plan, FRESH)
    shown = split.front(FRESH, FRESH.unsealed)
    assert turned.examples == shown.examples < FRESH.examples
    assert shown.ids is not None
    allowed = {str(name) for name in shown.ids}
    assert {e.id for some in turned.excerpts.values() for e in some} <= allowed


def test_excerpts_stop_early_late_and_wrong(plan: Plan) -> None:
    found = excerpts(plan, FRESH)
    spoken = plan.answering(FRESH)
    outcome = replay(spoken, plan.running, plan.setting)
    for kind in ("early", "late", "wrong"):
        assert 0 < len(found[kind]) <= MOST_SHOWN
    for e in found["early"] + found["late"] + found["wrong"]:
        row = int(e.id)
        assert e.stage == outcome.order[outcome.stage[row]]
        assert e.cost == outcome.cost[row] / FRESH.reference_cost
        assert e.answer == str(spoken.scores[e.stage][row].argmax())
        assert FRESH.labels is not None
        assert e.label == str(FRESH.labels[row])
    assert {e.stage for e in found["early"]} == {"small"}
    dearest = np.sort(outcome.cost)[::-1][:MOST_SHOWN] / FRESH.reference_cost
    assert [e.cost for e in found["late"]] == dearest.tolist()
    assert all(e.answer != e.label for e in found["wrong"])
    assert found["wrong"][0].reference == found["wrong"][0].label  # the plan's own faults first


def test_examples_that_taught_are_said_to_flatter(plan: Plan) -> None:
    taught = replace(plan, info={**plan.info, "learning_data": "sha256:a"})
    assert dial(taught, replace(FRESH, info={"data": "sha256:a"})).taught
    assert not dial(taught, replace(FRESH, info={"data": "sha256:b"})).taught


def pictures(path: Path) -> tuple[Path, str]:
    """As many grey pictures as FRESH has examples, each of one brightness and one white corner."""
    x = np.zeros((FRESH.examples, 1, 4, 4), np.uint8)
    x[:] = np.arange(FRESH.examples)[:, None, None, None] % 200
    np.savez(path, x=x)
    return path, fingerprint(path)


def test_pictures_come_from_the_data_that_was_recorded(plan: Plan, tmp_path: Path) -> None:
    path, known = pictures(tmp_path / "x.npz")
    trace = replace(FRESH, info={"data": known})
    turned = dial(plan, trace, str(path))
    for e in [e for some in turned.excerpts.values() for e in some]:
        assert np.unique(pixels(e.picture)).tolist() == [int(e.id) % 200]
    assert all(e.picture is None for e in dial(plan, trace).excerpts["early"])
    with pytest.raises(DataError, match="of other examples"):
        dial(plan, FRESH, str(path))


def pixels(address: str | None) -> AnyArray:
    assert address is not None
    content = base64.b64decode(address.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_thumbnails_look_like_the_picture_before_networks_read_it(layout: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), dtype=np.uint8)
    read = Preprocessing((64, 64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), layout)
    assert (pixels(thumbnail(read(image)[0], read)) == image[0]).all()


def test_what_is_no_picture_has_no_thumbnail() -> None:
    for shape in ((7,), (2, 5, 5), (3, 3, 3, 3)):
        assert thumbnail(np.zeros(shape, np.float32), None) is None
    assert pixels(thumbnail(np.full((5, 3), 2.5), None)).shape == (64, 38)


def test_a_plan_is_shown_on_examples_that_it_has_not_seen(tmp_path: Path) -> None:
    traces: dict[str, Trace] = {}
    for name, trace in (("learn", LEARN), ("fresh", FRESH)):
        replace(trace, info={"data": f"sha256:{name}"}).write(tmp_path / name)
        traces[name] = Trace.read(tmp_path / name)
    fit(traces["learn"], 0.05).write(tmp_path / "plan")
    (both,) = report_inputs([tmp_path / name for name in ("plan", "learn", "fresh")])
    assert both.dial is not None
    assert both.comparison is not None
    assert not both.dial.taught
    assert both.dial.examples == both.comparison.examples == traces["fresh"].unsealed
    (alone,) = report_inputs([tmp_path / name for name in ("plan", "learn")])
    assert alone.dial is not None
    assert alone.dial.taught
