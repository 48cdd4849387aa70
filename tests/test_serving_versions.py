"""Versions come and go without a gap, and audits watch what each of them promises."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.base.arrays import AnyArray
from offramp.base.errors import BudgetError, InputError, PlanError
from offramp.core.trace import Trace
from offramp.plan.plan import Plan, write_plans
from offramp.recording.audits import add_labels
from offramp.runtime import Stages, infer
from offramp.serving import Limits, ServedPlan, Service, Shelf, Telemetry
from offramp.serving.auditing import Auditing
from offramp.serving.opening import Opening
from offramp.serving.shelf import NoSuchModel
from offramp.serving.tracing import Caller, TraceContext
from offramp.serving.versions import Canary, Versions
from tests.made import blobs
from tests.served import blob_plans, listening
from tests.test_serving_http import posted, query
from tests.test_watch import shifted

X, Y = blobs(400, seed=9)


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> list[Plan]:
    return blob_plans(tmp_path_factory.mktemp("plan"), 0.02, 0.1)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    shelf = Shelf("blobs")
    yield shelf
    shelf.close()


def followed(folder: Path, shelf: Shelf, canary: Canary | None = None) -> Versions:
    telemetry = Telemetry(shelf)
    opening = Opening(name="blobs")
    return Versions(folder, shelf, lambda f, v: opening.open(f, v, telemetry), canary)


def ask(shelf: Shelf, times: int = 1) -> list[str]:
    """The versions that so many requests met."""
    met = []
    for _ in range(times):
        with shelf.lend("blobs") as model:
            model.service.infer(X[:2])
            met.append(model.version)
    return met


def test_the_newest_whole_version_is_served_and_bad_ones_are_refused(
    plans: list[Plan], shelf: Shelf, tmp_path: Path
) -> None:
    with pytest.raises(PlanError, match="holds no plan"):
        followed(tmp_path, shelf)
    for name in ("v2", "v9"):
        plans[0].write(tmp_path / name)
    versions = followed(tmp_path, shelf)
    assert ask(shelf) == ["v9"]
    shutil.copytree(tmp_path / "v9", tmp_path / "v10")  # by number, not by letter
    (tmp_path / "v10" / "stages" / "big.onnx").write_bytes(b"cut short")
    assert isinstance(versions.look(), PlanError)
    assert ask(shelf) == ["v9"]
    assert versions.look() is None  # it is not tried again as long as it is as it was
    shutil.copy(tmp_path / "v9" / "stages" / "big.onnx", tmp_path / "v10" / "stages" / "big.onnx")
    assert versions.look() is None
    assert ask(shelf) == ["v10"]
    with pytest.raises(NoSuchModel, match="v9"):
        shelf.find("blobs", "v9")
    shutil.rmtree(tmp_path / "v10")  # back to the one before
    versions.look()
    assert ask(shelf) == ["v9"]


def test_a_canary_meets_its_share_and_becomes_the_version_or_leaves(
    plans: list[Plan], shelf: Shelf, tmp_path: Path
) -> None:
    plans[0].write(tmp_path / "1")
    versions = followed(tmp_path, shelf, Canary(share=0.25, requests=5))
    plans[1].write(tmp_path / "2")
    versions.look()
    met = ask(shelf, 16)
    assert (met.count("1"), met.count("2")) == (12, 4)
    assert shelf.find("blobs", "2").version == "2"  # whoever names it gets it
    versions.look()
    ask(shelf, 8)
    versions.look()
    assert ask(shelf, 4) == ["2"] * 4
    plans[0].write(tmp_path / "3")
    versions.look()
    tried = shelf.trial
    assert tried is not None
    tried.model.service.observer.refused("failed")
    versions.look()
    assert shelf.trial is None
    assert ask(shelf, 8) == ["2"] * 8
    versions.look()
    assert shelf.trial is None  # it is not tried again
    for bad in ({"share": 1.5}, {"share": -0.1}, {"requests": 0}):
        with pytest.raises(InputError, match="--canary"):
            Canary(**bad)


def test_a_request_keeps_its_version_until_it_is_done(
    plans: list[Plan], shelf: Shelf, tmp_path: Path
) -> None:
    plans[0].write(tmp_path / "1")
    versions = followed(tmp_path, shelf)
    plans[1].write(tmp_path / "2")
    with shelf.lend("blobs") as model:
        swapping = threading.Thread(target=versions.look)
        swapping.start()
        while shelf.current is model:
            pass
        assert model.service.infer(X[:2]).budget == 0.02  # it is still there
    swapping.join(20)
    assert not swapping.is_alive()
    assert ask(shelf) == ["2"]


def test_a_plan_swapped_a_hundred_times_under_load_fails_nobody(
    plans: list[Plan], shelf: Shelf, tmp_path: Path
) -> None:
    folder, ready = tmp_path / "versions", tmp_path / "ready"
    for number, plan in enumerate(plans):
        plan.write(ready / str(number))
    for number in range(2, 101):
        shutil.copytree(ready / str(number % 2), ready / str(number))
    folder.mkdir()
    (ready / "0").rename(folder / "0")
    versions = followed(folder, shelf)
    expected = [infer(p, Stages(p.networks, p.graph), X[:99]).cost.tolist() for p in plans]
    assert expected[0] != expected[1]
    said, over = [], threading.Event()
    body = query(shape=[99, 6], data=X[:99].ravel().tolist())
    with listening(shelf) as server:

        def client() -> None:
            while not over.is_set():
                said.append(posted(server, body)[::2])

        clients = [threading.Thread(target=client) for _ in range(3)]
        for thread in clients:
            thread.start()
        for number in range(1, 101):
            (ready / str(number)).rename(folder / str(number))
            versions.look()
        over.set()
        for thread in clients:
            thread.join(20)
    met = set()
    for status, answer in said:
        assert status == 200
        found = json.loads(answer)
        values = {one["name"]: one["data"] for one in found["outputs"]}
        assert values["cost"] == expected[int(found["model_version"]) % 2]
        met.add(found["model_version"])
    assert len(met) > 10


Audited = Callable[..., tuple[ServedPlan, Telemetry]]


@pytest.fixture
def audited() -> Iterator[Audited]:
    """Makes a model that is audited."""
    made: list[ServedPlan] = []

    def make(folder: Path, auditing: Auditing, **how: Any) -> tuple[ServedPlan, Telemetry]:
        shelf = Shelf("blobs")
        telemetry = Telemetry(shelf)
        opening = Opening(name="blobs", auditing=auditing, limits=Limits(rows=10_000), **how)
        model = opening.open(folder, "1", telemetry)
        shelf.put(model)
        made.append(model)
        return model, telemetry

    yield make
    for model in made:
        model.close()


def send(model: ServedPlan, x: AnyArray, start: int = 0) -> None:
    """Requests of one row each, called by their numbers, and waits until all are audited."""
    assert model.auditor is not None
    for first in range(0, len(x), 50):
        waiting = [
            model.service.submit(
                x[row : row + 1], hold=Caller(str(start + row), TraceContext.of(None))
            )
            for row in range(first, min(first + 50, len(x)))
        ]
        for future in waiting:
            future.result(20)
        while model.service._places._value < 64:  # audits that wait
            threading.Event().wait(0.001)
    model.auditor.settle()


def test_audits_are_kept_and_watched_and_an_alarm_turns_the_dial(
    plans: list[Plan], tmp_path: Path, audited: Audited
) -> None:
    plans[0].write(tmp_path / "plan")
    model, telemetry = audited(tmp_path / "plan", Auditing(share=1.0, folder=tmp_path / "audits"))
    send(model, X)
    trace = Trace.read(tmp_path / "audits")
    assert trace.ids is not None
    assert sorted(map(int, trace.ids)) == list(range(400))
    rows = np.array([int(name) for name in trace.ids])
    stages = Stages(model.service.plan.networks)
    for stage in trace.graph.order:
        assert np.allclose(trace.scores[stage], stages.run(stage, X)[rows], atol=1e-4)
    assert not model.alarmed
    send(model, shifted(700, seed=3)[0], start=1000)
    assert model.alarmed
    first = telemetry.figures()["guards"][0]
    assert (first["guard"], first["alarm"]) == ("disagreement", True)
    assert int(first["since_id"]) >= 950
    assert "tradeoff" in first["did"]
    assert first["since"] is not None
    said = model.service.infer(X[:3])
    assert (said.level, said.tradeoff) == (-1, plans[0].certificate.points[0].tradeoff)
    text = telemetry.text().decode()
    assert 'offramp_guard_alarm{guard="disagreement",version="1"} 1.0' in text
    assert "offramp_audits_total 1100.0" in text
    assert "offramp_level -1.0" in text


def test_labels_that_come_later_are_watched_as_well(
    plans: list[Plan], tmp_path: Path, audited: Audited
) -> None:
    """The answers are those of the reference; labels say that they are wrong."""
    kept = replace(plans[0], profile=replace(plans[0].profile, changed=None))
    kept.write(tmp_path / "plan")
    how = Auditing(share=1.0, folder=tmp_path / "audits", on_alarm="reference")
    model, _ = audited(tmp_path / "plan", how)
    x, y = shifted(400, seed=3)
    send(model, x)
    assert not model.alarmed  # nobody knows what is right
    lines = [f"{row},{label}" for row, label in enumerate(y)]
    (tmp_path / "labels.csv").write_text("id,label\n" + "\n".join(lines))
    add_labels(tmp_path / "audits", tmp_path / "labels.csv", Trace.read(tmp_path / "audits"))
    assert model.auditor is not None
    model.auditor.settle()
    assert model.alarmed
    assert model.auditor.states()[0]["guard"] == "excess loss"
    assert set(model.service.infer(x[:50]).answers.stage) == {"big"}


def test_an_alarm_of_brown_out_ends_brown_out_alone(
    plans: list[Plan], tmp_path: Path, audited: Audited
) -> None:
    write_plans(plans, tmp_path / "plans")
    model, _ = audited(tmp_path / "plans", Auditing(share=1.0), brown_out=0.1)
    auditor = model.auditor
    assert auditor is not None
    names = list(auditor._watches)
    assert names == ["", " within 0.1"]
    auditor._turn(names[1], auditor._watches[names[1]][0])
    assert (model.service.dial.most, model.service.dial.held) == (0, None)
    assert list(auditor._watches) == [""]


def test_rows_are_audited_by_chance_and_named_once(
    plans: list[Plan], tmp_path: Path, audited: Audited
) -> None:
    plans[0].write(tmp_path / "plan")
    model, telemetry = audited(tmp_path / "plan", Auditing(share=0.2, on_alarm="say"))
    caller = Caller("mine", TraceContext.of(None))
    assert model.auditor is not None
    for _ in range(3):  # the same name again and again
        model.service.submit(X[:200], hold=caller).result(20)
        while model.service._places._value < 64:
            threading.Event().wait(0.001)
        model.auditor.settle()
    known = model.auditor.audits.known
    assert all(name.startswith("mine/") for name in known)
    assert 40 < len(known) < 200
    assert f"offramp_audits_total {float(len(known))}" in telemetry.text().decode()
    for share in (0.0, 1.1):
        with pytest.raises(BudgetError, match="--audit"):
            Auditing(share=share)


def test_an_engine_without_a_network_needs_no_server_extra(plans: list[Plan]) -> None:
    with Service(plans, brown_out=0.1) as service:
        assert len(service.levels) > 1
        assert list(service.watched) == ["", " within 0.1"]
