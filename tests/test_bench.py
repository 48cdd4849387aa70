"""A plan on the clock: what is compared, and that its numbers agree with one another."""

from __future__ import annotations

import io
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from offramp.answering.refit import Refit
from offramp.base.errors import DataError, MissingExtra, PlanError
from offramp.command import tables
from offramp.networks.data import open_examples
from offramp.networks.networks import combine
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime
from offramp.study.bench import Bench, Contest, Timing, bench
from offramp.study.contestants import ONE_FILE, STAGE_FILES
from offramp.study.memory import peak_mb
from tests.made import blob_networks, blobs, linear_network


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("bench")
    x, y = blobs(800)
    np.savez(folder / "d.npz", x=x, y=y)
    networks = combine(blob_networks(folder))
    runtime = OnnxRuntime(networks.files)
    trace = record(
        networks, runtime, open_examples(folder / "d.npz"), folder / "t", RecordOptions(batch=50)
    )
    found = fit(trace, 0.05, policy="margin", networks=networks)
    return replace(found, tradeoff=float(found.policy.settings[50]))


@pytest.fixture(scope="module")
def measured(plan: Plan) -> Bench:
    return bench(plan, *blobs(300, seed=4), batch=8, contest=Contest(2))


def named(found: Bench) -> dict[str, Timing]:
    return {timing.name: timing for timing in found.contestants}


def test_everything_that_one_would_run_instead_takes_part(measured: Bench) -> None:
    halves = {name for name in named(measured) if "bfloat16" in name}  # where the processor has it
    assert named(measured).keys() - halves == {
        *(ONE_FILE, STAGE_FILES, f"{STAGE_FILES}, OpenVINO", "small"),
        *("big, basic", "big, extended", "big, all", "big, int8", "big, OpenVINO"),
        "big, int8, OpenVINO",
    }
    assert measured.missing == {}


def test_speed_ups_are_against_the_reference_at_its_fastest(measured: Bench) -> None:
    found = named(measured)
    best = found[measured.reference]
    assert best.best
    assert sum(timing.best for timing in measured.contestants) == 1
    assert best.speedup == 1.0
    exact = ("big, basic", "big, extended", "big, all", "big, OpenVINO")
    assert best.ms == min(found[name].ms for name in exact)  # int8 is not the same network
    assert measured.speedup == found[ONE_FILE].speedup
    assert measured.realised == pytest.approx(measured.speedup / measured.theoretical_speedup)


def test_the_plan_is_compared_with_fewer_bits_that_keep_the_budget(measured: Bench) -> None:
    found = named(measured)
    best = found[measured.reference]
    reduced = [t for t in measured.contestants if t.reduced]
    assert {t.name for t in reduced} >= {"big, int8", "big, int8, OpenVINO"}
    assert all(t.error is not None and best.error is not None for t in reduced)
    keeping = [t for t in reduced if (t.error or 0.0) - (best.error or 0.0) <= 0.3]
    assert keeping
    fastest = max(keeping, key=lambda t: t.speedup)
    assert measured.reduced == fastest.name
    assert measured.over_reduced == pytest.approx(measured.speedup / fastest.speedup)


def test_quantiles_throughput_and_shares_make_sense(measured: Bench) -> None:
    for timing in measured.contestants:
        assert 0 < timing.p50_ms <= timing.p95_ms <= timing.p99_ms
        assert timing.throughput == pytest.approx(8 / timing.ms * 1e3)
        assert 0 <= timing.changed <= 1
        assert timing.load_s is not None
        assert timing.load_s > 0
    assert sum(measured.exits.values()) == pytest.approx(1)
    assert len(measured.exits) == 2
    assert set(measured.part_ms) == {"small", "big"}
    assert set(measured.part_ms["big"]) == {"1", "2", "4", "8"}


def test_changed_answers_and_errors_are_counted(measured: Bench, plan: Plan) -> None:
    x, y = blobs(300, seed=4)
    runtime = OnnxRuntime(plan.runnable())
    used = x[-256:], y[-256:]
    answers = {stage: runtime.run(stage, used[0]).argmax(axis=1) for stage in ("small", "big")}
    found = named(measured)
    assert found["small"].changed == (answers["small"] != answers["big"]).mean()
    assert found["small"].error == (answers["small"] != used[1]).mean()
    assert found["big, all"].changed == 0
    assert found[ONE_FILE].changed == found[STAGE_FILES].changed


def test_networks_with_refits_answer_refitted_on_every_runtime(plan: Plan) -> None:
    refits = {
        "small": Refit(np.ones(()), np.array([0.0, 4.0, 0.0, -4.0])),
        "big": Refit(np.roll(np.eye(4), 1, axis=1), np.zeros(4)),
    }
    mended = replace(plan, refits=refits)
    x, y = blobs(300, seed=4)
    found = named(bench(mended, x, y, batch=8, contest=Contest(1)))
    runtime = OnnxRuntime(plan.runnable())
    answers = {s: mended.own(s, runtime.run(s, x[-256:])).argmax(axis=1) for s in refits}
    assert found["small"].error == (answers["small"] != y[-256:]).mean()
    assert found["small"].changed == (answers["small"] != answers["big"]).mean()
    for name in ("big, basic", "big, extended", "big, all", "big, OpenVINO"):
        assert found[name].changed == 0
        assert found[name].error == (answers["big"] != y[-256:]).mean()
    assert found["big, int8"].changed < 0.1


def test_without_labels_and_in_a_hurry(plan: Plan) -> None:
    others = {"always 0": lambda x: np.zeros(len(x), dtype=np.int64)}
    found = bench(plan, blobs(300)[0], batch=1, contest=Contest(1, False, others))
    assert named(found).keys() == {ONE_FILE, "big, all", "big, OpenVINO", "always 0"}
    assert all(timing.error is None for timing in found.contestants)


def test_a_plan_that_does_not_route_is_the_reference(plan: Plan) -> None:
    certificate = replace(plan.certificate, static_choice="big")
    alone = replace(plan, tradeoff=None, certificate=certificate)
    found = bench(alone, blobs(300)[0], batch=4, contest=Contest(1, False))
    assert found.theoretical_speedup == 1.0
    assert named(found)[ONE_FILE].changed == 0


def test_what_cannot_be_timed_is_refused(plan: Plan) -> None:
    with pytest.raises(DataError, match="needs as many examples"):
        bench(plan, blobs(3)[0], batch=8)
    with pytest.raises(PlanError, match="--graph"):
        bench(replace(plan, networks={}), blobs(300)[0])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured on Linux alone")
def test_memory_is_that_of_the_file_whatever_this_process_takes(tmp_path: Path) -> None:
    here = np.ones(60_000_000)  # 480 MB, that a process started from here must not be charged with
    weights = np.random.default_rng(0).normal(size=(5000, 2000)).astype(np.float32)  # 40 MB
    file = linear_network(tmp_path / "large.onnx", weights, [5000])
    measured = peak_mb(file, here[:5000].astype(np.float32)[None], 1)
    assert measured is not None
    assert 40 <= measured < 300


def test_what_is_missing_is_said_with_the_extra_that_brings_it(measured: Bench) -> None:
    lacking = replace(measured, missing={"OpenVINO": str(MissingExtra("openvino", "openvino"))})
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(tables.bench([lacking]))
    assert "pip install 'offramp[openvino]'" in console.export_text()
