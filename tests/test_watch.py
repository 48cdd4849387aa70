"""A promise is watched on audited examples, which are kept as a trace."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp import cli
from offramp.base.arrays import AnyArray
from offramp.base.errors import DataError, InputError, LossError
from offramp.base.hashing import hash_rows
from offramp.core.trace import Trace
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.plan.watch import DISAGREEMENT, LOSS, Watching
from offramp.recording.audits import Audits, add_labels, labelled, read_labels
from offramp.runtime import Stages
from tests.made import blobs
from tests.served import blob_plans


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return blob_plans(tmp_path_factory.mktemp("plan"), 0.02)[0]


def audited(plan: Plan, audits: Audits, x: AnyArray, start: int = 0) -> Trace:
    stages = Stages(plan.networks, plan.graph)
    ids = [str(start + number) for number in range(len(x))]
    return audits.trace_of(ids, {s: stages.run(s, x) for s in plan.graph.order}, hash_rows(x))


def shifted(examples: int, seed: int) -> tuple[AnyArray, AnyArray]:
    """Points that lie where the small network is sure and wrong; the big one does not care."""
    x, y = blobs(examples, seed)
    return x + np.array([0, 0, 0, 0, 5, 5], np.float32), y


def test_inputs_like_those_that_certified_raise_no_alarm(plan: Plan) -> None:
    watch, audits = Watching(plan), Audits(None, plan)
    x, y = blobs(4000, seed=77)
    trace = audited(plan, audits, x)
    assert watch.see(trace) == []
    known = labelled(trace, {str(i): int(label) for i, label in enumerate(y)})
    assert known is not None
    assert watch.see_labels(known) == []
    said = {one["guard"]: one for one in watch.to_json()}
    assert set(said) == {LOSS, DISAGREEMENT}
    assert said[LOSS]["examples"] == 4000
    assert said[LOSS]["promised"] == 0.02
    assert said[DISAGREEMENT]["mean"] <= said[DISAGREEMENT]["promised"]
    assert not any(one["alarm"] for one in watch.to_json())


def test_shifted_inputs_raise_the_alarm_which_says_since_when(plan: Plan) -> None:
    watch, audits = Watching(plan), Audits(None, plan)
    before, after = blobs(2000, seed=78)[0], shifted(1500, seed=79)[0]
    assert watch.see(audited(plan, audits, before)) == []
    raised = watch.see(audited(plan, audits, after, 2000))
    assert [one.guard for one in raised] == [DISAGREEMENT]
    assert 2000 <= int(raised[0].since) <= int(raised[0].example) < 3500
    assert watch.alarms == (raised[0],)
    assert watch.see(audited(plan, audits, after, 4000)) == []  # once


def test_a_plan_that_promises_disagreement_is_watched_on_it(plan: Plan) -> None:
    x, _ = blobs(4000, seed=5)
    stages = Stages(plan.networks)
    scores = {name: stages.run(name, x) for name in plan.graph.order}
    other = fit(
        Trace.of(scores, costs={"small": 1.0, "big": 9.0}), 0.05, unlabelled=True, policy="margin"
    )
    watch = Watching(other)
    assert set(watch.guards) == {LOSS}
    assert watch.see(audited(plan, Audits(None, other), shifted(1500, 79)[0]))


def test_audits_are_a_trace_that_grows_and_goes_on(plan: Plan, tmp_path: Path) -> None:
    x, y = blobs(900, seed=80)
    audits = Audits(tmp_path / "audits", plan)
    for start in range(0, 600, 200):
        audits.add(audited(plan, audits, x[start : start + 200], start))
        assert Trace.read(tmp_path / "audits").examples == start + 200
    (tmp_path / "audits" / "part-000099.parquet").write_bytes(b"cut short")
    again = Audits(tmp_path / "audits", plan)
    assert len(again.known) == 600
    again.add(audited(plan, again, x[600:], 600))
    trace = Trace.read(tmp_path / "audits")
    assert trace.ids is not None
    assert trace.ids.tolist() == [str(i) for i in range(900)]
    found = fit(trace, 0.1, unlabelled=True, policy="margin")  # they make the next plan
    assert found.graph == plan.graph
    table = tmp_path / "labels.csv"
    lines = [f"{i},{label}" for i, label in enumerate(y)] + ["nobody,1"]
    table.write_text("id,label\n" + "\n".join(lines) + "\n")
    assert add_labels(tmp_path / "audits", table, trace) == (900, 1)
    known = labelled(trace, read_labels(tmp_path / "audits"))
    assert known is not None
    assert known.labels is not None
    assert (known.labels == y).all()
    assert fit(known, 0.1, policy="margin").certificate.loss == "top1"


def test_what_does_not_fit_the_audits_is_refused(plan: Plan, tmp_path: Path) -> None:
    x, _ = blobs(50, seed=81)
    audits = Audits(tmp_path / "audits", plan)
    audits.add(audited(plan, audits, x))
    trace, table = Trace.read(tmp_path / "audits"), tmp_path / "labels.csv"
    scores = np.random.default_rng(0).random((50, 4))
    other = Trace.of({"a": scores, "b": scores}, costs={"a": 1, "b": 2})
    for text, says in (
        ("id,answer\n1,2\n", "no column `label`"),
        ("id,label\n1,9\n", "label"),
        ("name,label\n1,1\n", "id"),
    ):
        table.write_text(text)
        with pytest.raises(InputError, match=says):
            add_labels(tmp_path / "audits", table, trace)
    table.write_text("id,label\n1,2\n")
    add_labels(tmp_path / "audits", table, trace)
    table.write_text("id,label\n1,3\n")
    with pytest.raises(DataError, match="has the label 2 already"):
        add_labels(tmp_path / "audits", table, trace)
    with pytest.raises(InputError, match="another graph"):
        Watching(plan).see(other)


def test_a_loss_of_ones_own_cannot_be_watched(plan: Plan) -> None:
    own: Any = replace(plan, certificate=replace(plan.certificate, loss="mine:loss"))
    with pytest.raises(LossError, match="code of your own"):
        Watching(own)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """What a command ends with, prints, and says."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["offramp", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def test_commands_label_and_watch_audits(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan.write(tmp_path / "plan")
    audits = Audits(tmp_path / "audits", plan)
    x, y = blobs(300, seed=82)
    audits.add(audited(plan, audits, x))
    (tmp_path / "labels.csv").write_text(
        "id,label\n" + "\n".join(f"{row},{label}" for row, label in enumerate(y[:200]))
    )
    to_label = ("label", tmp_path / "audits", tmp_path / "labels.csv", "--out", tmp_path / "known")
    code, _, said = run(capsys, *to_label)
    assert (code, "200 of 300 audited examples have labels" in said) == (0, True)
    assert Trace.read(tmp_path / "known").examples == 200
    assert run(capsys, *to_label)[0] == 2  # it is there already
    code, out, _ = run(capsys, "watch", tmp_path / "plan", tmp_path / "audits", "--json")
    found = {one["guard"]: one for one in json.loads(out)}
    assert code == 0
    assert (found[LOSS]["examples"], found[DISAGREEMENT]["examples"]) == (200, 300)
    audits.add(audited(plan, audits, shifted(900, 83)[0], 300))
    code, out, _ = run(capsys, "watch", tmp_path / "plan", tmp_path / "audits")
    assert code == 1
    assert "after" in out
