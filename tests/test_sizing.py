"""The simulation of queues knows what queueing theory knows, and finds the fewest cores."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offramp.base.errors import InputError
from offramp.serving.sizing import Load, Machine, StageTimes, simulate, size
from tests.made import blobs
from tests.served import blob_plans
from tests.test_watch import run

FLAT = StageTimes(  # a stage whose runs take 10 ms, whatever is in them
    stages=("only",),
    visits=np.ones((10, 1), dtype=bool),
    sizes=(1, 64),
    seconds={"only": np.array([0.01, 0.01])},
    door_s=0.0,
)


def test_one_row_at_a_time_waits_as_theory_says() -> None:
    """Pollaczek and Khinchine: the mean wait in M/D/1 is load / (2 * (1 - load)) services."""
    machine, load = Machine(cores=1, workers={"only": 1}, batch=1), Load(rate=50)
    found = simulate(FLAT, load, machine)
    assert found.busy["only"] == pytest.approx(0.5, abs=0.02)
    assert found.rows == {"only": 1.0}
    # the median of M/D/1 at half load: half wait less than 0.0 to one service
    assert 10 <= found.p50_ms <= 15
    loads = [simulate(FLAT, Load(rate=rate), machine).p99_ms for rate in (10, 50, 95)]
    assert loads == sorted(loads)
    assert not simulate(FLAT, Load(rate=150), machine).kept_up


def test_batches_carry_what_single_rows_cannot() -> None:
    one = Machine(cores=1, workers={"only": 1}, batch=64)
    found = simulate(FLAT, Load(rate=2000), one)
    assert found.kept_up
    # in a closed cycle each run takes what came in the run before: 2,000 x 0.01
    assert found.rows["only"] == pytest.approx(20, rel=0.05)
    assert found.p99_ms < 21


def test_rows_that_stop_do_not_reach_later_stages() -> None:
    visits = np.ones((100, 2), dtype=bool)
    visits[:90, 1] = False
    two = StageTimes(
        stages=("small", "big"),
        visits=visits,
        sizes=(1, 64),
        seconds={"small": np.array([1e-3, 1e-3]), "big": np.array([1e-2, 6.4e-1])},
        door_s=1e-4,
    )
    found = simulate(two, Load(rate=100), Machine(cores=2, workers={"small": 1, "big": 1}))
    assert found.busy["big"] == pytest.approx(0.1, abs=0.02)  # 100 x 0.1 x 0.01
    assert found.busy["door"] == pytest.approx(0.01, abs=0.002)
    assert found.p50_ms == pytest.approx(1.1, abs=0.2)


def test_the_fewest_cores_are_found() -> None:
    slow = StageTimes(
        stages=("only",),
        visits=np.ones((10, 1), dtype=bool),
        sizes=(1, 64),
        seconds={"only": np.array([0.01, 0.64])},  # batches save nothing
        door_s=1e-4,
    )
    found = size(slow, 350, 0.05, batch=8)
    assert found.cores >= 4  # 350 x 0.01 cores are busy
    assert found.p99_ms <= 50
    assert found.workers["only"] == found.cores
    fewer = Machine(cores=found.cores - 1, workers={"only": found.cores - 1}, batch=8)
    less = simulate(slow, Load(rate=350), fewer)
    assert less.p99_ms > 50 or not less.kept_up
    many = size(replace(FLAT, door_s=1e-4), 15_000, 1.0)
    assert many.servers == 2  # one door cannot read so many
    assert size(slow, 350, 0.05, batch=8) == found  # it is deterministic


def test_what_cannot_be_is_said() -> None:
    with pytest.raises(InputError, match="alone takes 10 ms"):
        size(FLAT, 10, 0.005)
    for rate, time in ((0, 1), (1, 0), (float("inf"), 1)):
        with pytest.raises(InputError, match="above 0"):
            size(FLAT, rate, time)
    with pytest.raises(InputError, match="at least one core"):
        Machine(cores=0, workers={"only": 1})


def test_the_command_measures_and_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blob_plans(tmp_path / "made", 0.02)[0].write(tmp_path / "plan")
    np.savez(tmp_path / "data.npz", x=blobs(200)[0])
    command = ("size", tmp_path / "plan", "--data", tmp_path / "data.npz", "--rate", 20)
    code, out, said = run(capsys, *command, "--p99", "500ms", "--json")
    assert code == 0, said
    found = json.loads(out)
    assert found["p99_ms"] <= 500
    assert set(found["busy"]) == {"small", "big", "door"}
    code, _, said = run(capsys, *command, "--p99", "50")
    assert (code, "50ms" in said) == (2, True)
