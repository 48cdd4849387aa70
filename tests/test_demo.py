"""The demo, whole, and the networks that come along."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from offramp import Trace, cli
from offramp.base.errors import InputError
from offramp.command import demo
from offramp.networks.networks import recorded_networks
from offramp.runtime import OnnxRuntime


@pytest.fixture(scope="module")
def found(journey: tuple[demo.Demo, Path, list[str]]) -> tuple[demo.Demo, Path]:
    result, out, steps = journey
    assert len(set(steps)) >= 5
    return result, out


def test_the_parts_of_the_data_do_not_overlap() -> None:
    parts = list(demo.split().values())
    assert [len(part) for part in parts] == [300, 600, 897]
    assert sorted(np.concatenate(parts)) == list(range(1797))


def test_every_step_leaves_its_result(found: tuple[demo.Demo, Path]) -> None:
    result, out = found
    for name in ("graph", "plan", "fit-trace", "measure-trace", "demo.json", "report.html"):
        assert (out / name).exists()
    values = json.loads((out / "demo.json").read_text())
    assert values["certificate"]["examples"] == 400
    assert values["certificate"]["budget"] == 0.02
    assert values["evaluation"]["examples"] == 897
    assert [row["batch"] for row in values["bench"]] == [1, 64]
    assert result.report == out / "report.html"


def test_what_it_measures_trained_nothing(found: tuple[demo.Demo, Path]) -> None:
    result, out = found
    assert (
        result.plan.info["certification_data"]
        != json.loads((out / "measure-trace" / "trace.json").read_text())["data"]
    )
    assert result.evaluation.kept != "no"


def test_the_networks_are_as_good_as_said(found: tuple[demo.Demo, Path]) -> None:
    files = {stage: found[1] / "graph" / "stages" / f"{stage}.onnx" for stage in demo.STAGES}
    runtime = OnnxRuntime(files)
    x, y = demo.digits("measure")
    right = [float((runtime.run(s, x).argmax(axis=1) == y).mean()) for s in demo.STAGES]
    assert right == sorted(right)
    assert right[0] > 0.85
    assert right[-1] > 0.98


def test_it_replaces_only_what_is_its_own(found: tuple[demo.Demo, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--force"):
        demo.journey(found[1], progress=lambda what, done, total: None)


def test_its_traces_remember_the_networks(found: tuple[demo.Demo, Path]) -> None:
    for part in ("fit", "measure"):
        trace = Trace.read(found[1] / f"{part}-trace")
        networks = recorded_networks(trace.info)
        assert networks is not None
        assert networks.files["large"].is_relative_to(found[1] / "graph")


def test_the_command_shows_what_was_found(
    found: tuple[demo.Demo, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(demo, "journey", lambda out, *, force, progress: found[0])
    said = {}
    for options in ([], ["--details"]):
        monkeypatch.setattr("sys.argv", ["offramp", "demo", *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
        said[len(options)] = capsys.readouterr().out
    lines = said[0].splitlines()
    assert [line.split()[0] for line in lines] == ["ran", "saved", "promise", "page", "next"]
    for line, word in zip(lines, ("897", "batch 1", "2%", "report.html", "offramp"), strict=True):
        assert word in line
    assert said[1].endswith(said[0])
    for word in ("certified on", "897", "learned"):
        assert word in said[1]
