"""The command line: the journey, its JSON, exit codes, and every bad input in one sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offramp import __version__, cli
from offramp.core.trace import Trace
from offramp.runtime import Routed, SingleFile
from offramp.testing import synthetic
from tests.made import blob_networks, blobs, linear_network, picture, rehashed

POINT = {"tradeoff", "excess_loss", "induced_loss", "cost", "speedup"}


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Offramp = Callable[..., Said]


@pytest.fixture
def offramp(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Offramp:
    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["offramp", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Said(exit_.value.code, captured.out, captured.err)

    return run


def save_scores(path: Path, trace: Trace) -> None:
    arrays: dict[str, Any] = {"labels": trace.labels, **trace.scores}
    np.savez(path, **arrays)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with networks, data, scores, a trace, and plans with and without networks."""
    folder = tmp_path_factory.mktemp("made")
    files = blob_networks(folder / "onnx")
    x, y = blobs(1500)
    np.savez(folder / "data.npz", x=x, y=y)
    trace = synthetic(1500)
    save_scores(folder / "scores.npz", trace)

    def do(*arguments: object) -> None:
        command = [sys.executable, "-m", "offramp.cli", *map(str, arguments)]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        assert found.returncode == 0, found.stderr

    networks = [f"{stage}={file}" for stage, file in files.items()]
    do("graph", *networks, "--out", folder / "graph")
    do("record", folder / "graph", "--data", folder / "data.npz", "--out", folder / "timed")
    # networks this small all take the same time; here the big one shall cost four times as much
    four = ["--cost", "small=1,big=4", "--cost-unit", "s"]
    do("reprice", folder / "timed", *four, "--out", folder / "recorded")
    do("fit", folder / "recorded", "--budget", 0.01, "--policy", "margin", "--out", folder / "runs")
    costs = ["--cost", "small=1,medium=3,large=9"]
    do("import", folder / "scores.npz", *costs, "--out", folder / "trace")
    do("fit", folder / "trace", "--budget", 0.1, "--out", folder / "plan")
    return folder


# ------------------------------------------------------------------------------ the journey


def test_scores_recorded_elsewhere_become_a_certified_plan(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    said = offramp("fit", made / "trace", "--budget", 0.1, "--json", "--out", tmp_path / "plan")
    assert said.code == 0
    names = {
        *("excess", "loss", "budget", "confidence", "method", "examples", "losses", "gains"),
        *("bound", "tradeoff", "points", "cost", "reference_cost", "speedup", "static_choice"),
        *("examples_needed", "verdict"),
    }
    assert names <= said.json.keys()
    assert said.json["verdict"] == "route"
    plan = json.loads((tmp_path / "plan" / "plan.json").read_text())
    assert said.json == plan["certificate"] | {"dropped": plan["dropped"]}
    assert plan["version"] == 1


def test_plans_of_several_budgets_are_replaced_by_force(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    """By plans of several budgets, that is: a plan is another kind of folder."""
    plans = tmp_path / "plans"
    fit = ("fit", made / "trace", "--policy", "margin", "--out", plans)
    for budgets in ("0.1,0.2", "0.1,0.3"):
        assert offramp(*fit, "--budget", budgets, "--force").code == 0
    assert {folder.name for folder in plans.iterdir()} == {"0.1", "0.3", "plans.json"}
    assert offramp(*fit, "--budget", 0.1, "--force").code == 2
    assert (plans / "0.3" / "plan.json").exists()


def test_needs_says_how_many_examples_to_label(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    replace(Trace.read(made / "trace"), labels=None).write(tmp_path / "bare")
    said = offramp("needs", tmp_path / "bare", "--budget", 0.01, "--json")
    assert said.code == 0
    assert said.json["assumed"] == [0.0, 0.0025, 0.005]
    assert {"stage", "tradeoff", "speedup", "changed", "examples_needed"} <= said.json["settings"][
        0
    ].keys()
    assert all(len(need["examples_needed"]) == 3 for need in said.json["settings"])
    shown = offramp("needs", made / "trace", "--budget", 0.01, "--excess", "induced")
    assert "changed" in shown.out
    assert "measured" in shown.out
    for wrong, says in ((["--budget", 5], "budget"), (["--budget", 0.1, "--power", 1], "power")):
        assert_refused(offramp("needs", tmp_path / "bare", *wrong), says)
    assert_refused(offramp("needs", tmp_path / "none", "--budget", 0.1), "none")


def test_evaluate_says_whether_the_promise_is_kept(offramp: Offramp, made: Path) -> None:
    said = offramp("evaluate", made / "plan", made / "trace", "--json")
    assert said.code == 0
    names = {
        *("examples", "loss", "reference_loss", "excess_loss", "induced_loss", "cost"),
        *("unrefitted_reference_loss", "cost_interval", "speedup_interval"),
        *(
            "reference_cost",
            "cost_unit",
            "cost_source",
            "speedup",
            "exits",
            "budget",
            "confidence",
            "tradeoff",
        ),
        *("kept", "interval", "shift"),
    }
    assert said.json.keys() == names
    assert said.json["kept"] == "yes"
    assert list(said.json["exits"]) == ["small", "medium", "large"]
    assert said.json["cost_unit"] == "MFLOP"


def test_what_was_imported_is_said_as_json(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    given = ["import", made / "scores.npz", "--cost", "small=1,medium=3,large=9"]
    said = offramp(*given, "--json", "--out", tmp_path / "t")
    assert said.code == 0
    assert said.json["examples"] == 1500
    assert said.json["stages"] == ["small", "medium", "large"]
    assert said.json["reference"] == "large"
    assert said.json["scores"].keys() == said.json["cost"].keys() == set(said.json["stages"])


def test_examples_that_taught_a_plan_say_little(offramp: Offramp, made: Path) -> None:
    assert "taught or certified" in offramp("evaluate", made / "plan", made / "trace").err


def test_without_arguments_it_shows_its_help(offramp: Offramp) -> None:
    said = offramp()
    assert said.code == 0
    assert "Usage: offramp" in said.out


def test_compare_shows_everything_side_by_side(offramp: Offramp, made: Path) -> None:
    said = offramp("compare", made / "trace", "--json")
    found = said.json
    assert {"examples", "reference", "static", "policies", "oracle"} <= found.keys()
    assert found["reference"].keys() == {"stage", "loss", "cost"}
    assert found["static"].keys() == {"small", "medium", "large"}
    expected = {"learned", "myopic", "margin", "entropy", "thresholds", "patience"}
    expected |= {"agreement", "uniform"}
    assert set(found["policies"]) >= expected
    points = [*found["static"].values(), found["oracle"]["soft"], *found["oracle"]["exact"]]
    for point in [*points, *(p for ps in found["policies"].values() for p in ps)]:
        assert point.keys() >= POINT
    other = offramp("compare", made / "trace", "--test", made / "trace", "--json")
    # a third of 1,500 rows is not sealed
    assert other.json["examples"] == 500
    assert found["examples"] == 250


def test_compare_sums_up_every_frontier(offramp: Offramp, made: Path) -> None:
    found = offramp("compare", made / "trace", "--policies", "auto,margin", "--json").json
    assert found["policies"].keys() == {"auto", "margin", "uniform"}
    assert found["summary"].keys() == {"policies", "static", "oracle"}
    assert found["summary"]["policies"].keys() == found["policies"].keys()
    assert found["summary"]["static"].keys() == found["static"].keys()
    for summary in found["summary"]["policies"].values():
        assert [level["excess_loss"] for level in summary["speedups"]] == [0.0, 0.005, 0.01, 0.02]
        numbers = [*summary["speedups"], *summary["lead"]]
        for band in [*numbers, *(summary[name] for name in ("area", "gap_cost", "gap_loss"))]:
            assert band["low"] <= band["high"]
    assert found["summary"]["policies"]["auto"]["seconds"] > 0
    plain = offramp("compare", made / "trace", "--policies", "margin", "--no-bands", "--json").json
    margin = plain["summary"]["policies"]["margin"]
    assert margin["gap_cost"]["low"] is None
    assert margin["frontier"] is None
    for name in ("area", "gap_cost", "gap_loss"):
        banded = found["summary"]["policies"]["margin"][name]
        assert margin[name]["value"] == banded["value"]


def test_compare_ranks_all_by_the_gap_that_they_close(offramp: Offramp, made: Path) -> None:
    command = ["compare", made / "trace", "--policies", "margin,entropy"]
    lines = offramp(*command).out.splitlines()
    head, rows = lines[1], [line for line in lines[3:] if line.strip()]
    for column in ("policy", "0 points", "2 points", "area", "cost gap", "loss gap"):
        assert column in head
    assert rows[0].startswith("exact oracle")
    assert max(map(len, lines)) <= 80  # nothing is cut off on a narrow terminal
    assert not any("…" in line for line in lines)
    for name in ("margin", "entropy", "uniform", "'small' alone", "'large' alone", "soft oracle"):
        assert any(row.startswith(name) for row in rows), name
    shares = [int(row.split()[-2][:-1]) for row in rows if row.rstrip().endswith("%")]
    assert shares == sorted(shares, reverse=True)
    assert ".." in offramp(*command).out
    assert ".." not in offramp(*command, "--no-bands").out


def test_policies_that_make_no_sense(offramp: Offramp, made: Path) -> None:
    for given, says in (("magic", "magic"), ("learned,", "--policies"), ("", "--policies")):
        assert_refused(offramp("compare", made / "trace", "--policies", given), says)


def test_the_whole_journey_without_labels(offramp: Offramp, tmp_path: Path) -> None:
    """A flat folder of images: disagreement with the reference is the loss all along."""
    random = np.random.default_rng(0)
    weights = np.kron(np.eye(3), np.ones((16, 1)))  # how red, green and blue a picture is
    poor = weights + random.normal(size=weights.shape) * 0.1
    small = linear_network(tmp_path / "a.onnx", poor, [3, 4, 4])
    big = linear_network(tmp_path / "b.onnx", weights, [3, 4, 4])
    for folder in ("flat", "later"):
        (tmp_path / folder).mkdir()
        for i, colour in enumerate(random.integers(0, 255, (300, 3)).tolist()):
            (tmp_path / folder / f"{i:03}.png").write_bytes(picture(tuple(colour)))
    graph, flat, plan = tmp_path / "graph", tmp_path / "flat", tmp_path / "plan"
    assert offramp("graph", f"small={small}", f"big={big}", "--size", 4, "--out", graph).code == 0
    for folder in ("flat", "later"):
        trace = tmp_path / f"{folder}-trace"
        four = ["--cost", "small=1,big=4"]
        given = ["record", graph, "--data", tmp_path / folder, *four, "--out", trace]
        assert offramp(*given).code == 0
        assert Trace.read(trace).labels is None
    trace, later = tmp_path / "flat-trace", tmp_path / "later-trace"

    fit = ["fit", trace, "--budget", 0.1, "--policy", "margin", "--out", plan]
    assert_refused(offramp(*fit), "--unlabelled")
    said = offramp(*fit, "--unlabelled", "--json")
    assert said.code == 0
    assert said.json["loss"] == "disagreement"
    found = offramp("evaluate", plan, later, "--json").json
    assert found["reference_loss"] == 0
    assert found["speedup"] > 1.5
    assert found["kept"] == "yes"

    assert_refused(offramp("compare", trace), "--unlabelled")
    compare = ["compare", trace, "--test", later, "--unlabelled", "--policies", "margin"]
    compared = offramp(*compare, "--json").json
    assert compared["loss"] == "disagreement"
    assert compared["reference"]["loss"] == 0
    assert "disagreement" in offramp(*compare).out

    answers = tmp_path / "answers.parquet"
    assert offramp("run", plan, "--data", flat, "--out", answers).code == 0
    table = pq.read_table(answers)
    assert offramp("export", plan, "--out", tmp_path / "one.onnx").code == 0
    reference = Trace.read(trace).scores["big"].argmax(axis=1)
    assert np.mean(table["answer"].to_numpy() != reference) <= 0.1
    page = tmp_path / "report.html"
    assert offramp("report", trace, later, plan, "--out", page).code == 0
    assert "answers differ from" in page.read_text(encoding="utf-8")


def test_run_answers_in_input_order(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.parquet"
    said = offramp("run", made / "runs", "--data", made / "data.npz", "--scores", "--out", out)
    assert said.code == 0
    found = pq.read_table(out)
    assert found.column_names == ["id", "answer", "stage", "cost", "scores"]
    assert found["id"].to_pylist() == list(range(1500))
    y = blobs(1500)[1]
    assert np.mean(found["answer"].to_numpy() == y) > 0.9
    assert set(found["stage"].to_pylist()) <= {"small", "big"}


def test_answers_go_to_standard_output_as_csv(offramp: Offramp, made: Path) -> None:
    command = [sys.executable, "-m", "offramp.cli", "run", str(made / "runs")]
    command += ["--data", str(made / "data.npz")]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = found.stdout.splitlines()
    assert lines[0].replace('"', "") == "id,answer,stage,cost"
    assert len(lines) == 1501


def test_bench_gives_a_row_per_batch_size(offramp: Offramp, made: Path) -> None:
    said = offramp("bench", made / "runs", "--data", made / "data.npz", "--batch", "1,64", "--json")
    names = {"batch", "threads", "reference_ms", "adaptive_ms", "speedup", "theoretical_speedup"}
    for row in said.json:
        assert {*names, "realised", "contestants", "exits", "part_ms"} <= row.keys()
    assert [row["batch"] for row in said.json] == [1, 64]


def test_an_exported_plan_answers_as_run_does(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    answers, plan = tmp_path / "answers.parquet", made / "runs"
    assert offramp("run", plan, "--data", made / "data.npz", "--out", answers).code == 0
    expected = pq.read_table(answers)
    x = np.load(made / "data.npz")["x"]
    assert offramp("export", plan, "--out", tmp_path / "one.onnx").code == 0
    assert offramp("export", plan, "--dial", "--out", tmp_path / "dial.onnx").code == 0
    assert offramp("export", plan, "--stages", "--out", tmp_path / "stages").code == 0
    for driver in (
        SingleFile(tmp_path / "one.onnx"),
        SingleFile(tmp_path / "dial.onnx"),
        Routed(tmp_path / "stages"),
    ):
        found = driver(x)
        assert found.answer.tolist() == expected["answer"].to_pylist()
        assert found.stage.tolist() == expected["stage"].to_pylist()
    assert set(SingleFile(tmp_path / "dial.onnx")(x, 2.0).stage) == {"big"}  # no margin is above 1


def test_an_export_is_replaced_only_by_force(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    arguments = ["export", made / "runs", "--stages", "--out", tmp_path / "stages"]
    assert offramp(*arguments).code == 0
    assert_refused(offramp(*arguments), "exists already")
    assert offramp(*arguments, "--force").code == 0


def test_costs_are_the_time_of_requests_where_a_batch_size_is_given(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    arguments = ["fit", made / "recorded", "--budget", 0.02, "--batch", "1,4", "--json"]
    said = offramp(*arguments, "--out", tmp_path / "p")
    # networks this small may not be worth routing: the clock says
    assert said.code == (said.json["verdict"] == "keep the reference")
    assert (said.json["batch"], [s["batch"] for s in said.json["sizes"]]) == (4, [1])
    plan = json.loads((tmp_path / "p" / "plan.json").read_text())
    assert plan["cost_unit"] == "s"
    assert "batch 4" in plan["cost_source"]
    assert plan["latency"]["batch"] == 4
    assert set(plan["latency"]["part_ms"]) == {"small", "big"}
    assert all(found["body"] < 0.01 for found in plan["cost"].values())  # not 1 and 4, as recorded


def test_a_trace_gets_costs_of_another_kind(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    arguments = ["reprice", made / "trace", "--cost-unit", "USD", "--out", tmp_path / "t"]
    assert_refused(offramp(*arguments, "--cost", "small=1"), "'medium'")
    said = offramp(*arguments, "--cost", "small=1,medium=2,large=9,large.whole=8")
    assert (said.code, said.out) == (0, "")
    assert Trace.read(tmp_path / "t").reference_cost == 8
    said = offramp("evaluate", made / "plan", tmp_path / "t")
    assert_refused(said, "reprice")


def test_what_bench_measured_is_reported_first(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    arguments = ["bench", made / "runs", "--data", made / "data.npz", "--batch", "8", "--json"]
    (tmp_path / "bench.json").write_text(offramp(*arguments).out)
    said = offramp("report", made / "runs", tmp_path / "bench.json", "--out", tmp_path / "r.html")
    assert said.code == 0
    assert "On the clock, at batch 8" in (tmp_path / "r.html").read_text()
    said = offramp("report", tmp_path / "bench.json", "--out", tmp_path / "s.html")
    assert_refused(said, "plan")


def test_a_report_shows_pictures_of_what_was_recorded_alone(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    data, trace, plan = made / "data.npz", tmp_path / "t", tmp_path / "p"
    assert offramp("record", made / "graph", "--data", data, "--out", trace).code == 0
    assert offramp("fit", trace, "--budget", 0.3, "--policy", "margin", "--out", plan).code < 2
    arguments = ["report", plan, trace, "--out", tmp_path / "r.html"]
    assert offramp(*arguments, "--data", data).code == 0
    np.savez(tmp_path / "other.npz", x=np.zeros((4, 6), np.float32))
    said = offramp(*arguments, "--data", tmp_path / "other.npz", "--force")
    assert_refused(said, "of other examples")
    said = offramp("report", trace, "--data", data, "--out", tmp_path / "s.html")
    assert_refused(said, "name a plan")


def test_a_card_goes_to_a_file_or_to_standard_output(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    said = offramp("card", made / "runs")
    assert (said.code, said.err) == (0, "")
    assert "# runs" in said.out
    assert "offramp bench runs --data" in said.out
    assert offramp("card", made / "runs", "--out", tmp_path / "card.md").code == 0
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == said.out
    assert_refused(offramp("card", made / "runs", "--out", tmp_path / "card.md"), "card.md")


def test_zero_rows_give_zero_answers(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", x=np.zeros((0, 6), np.float32))
    out = tmp_path / "answers.parquet"
    assert offramp("run", made / "runs", "--data", tmp_path / "none.npz", "--out", out).code == 0
    assert pq.read_table(out).num_rows == 0


def test_keep_the_reference_is_exit_code_1_and_a_plan_all_the_same(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    said = offramp("fit", made / "recorded", "--budget", 0.0001, "--json", "--out", tmp_path / "p")
    assert said.code == 1
    assert said.json["verdict"] == "keep the reference"
    assert said.json["tradeoff"] is None
    out = tmp_path / "answers.parquet"
    assert offramp("run", tmp_path / "p", "--data", made / "data.npz", "--out", out).code == 0
    assert set(pq.read_table(out)["stage"].to_pylist()) == {said.json["static_choice"]}


def test_one_network_is_a_saving_and_no_refusal(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    said = offramp("fit", made / "trace", "--budget", 0.9, "--json", "--out", tmp_path / "p")
    assert (said.code, said.json["verdict"]) == (0, "one network")
    assert said.json["speedup"] > 1
    said = offramp("fit", made / "trace", "--budget", 0, "--out", tmp_path / "q")
    assert said.code == 1
    assert "keep the reference" in said.out
    told = " ".join(said.out.replace("│", " ").split())
    assert "more or cheaper stages" in told


def test_a_plan_gets_networks_that_were_recorded_or_are_given(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    assert (made / "runs" / "stages" / "small.onnx").exists()
    trace = Trace.read(made / "recorded")
    save_scores(tmp_path / "s.npz", trace)
    costs = ["--cost", "small=1,big=4"]
    assert offramp("import", tmp_path / "s.npz", *costs, "--out", tmp_path / "t").code == 0
    said = offramp("fit", tmp_path / "t", "--budget", 0.1, "--out", tmp_path / "bare")
    assert "no networks" in said.err
    arguments = ["--budget", 0.1, "--graph", made / "graph", "--out", tmp_path / "p"]
    assert offramp("fit", tmp_path / "t", *arguments).code == 0
    assert (tmp_path / "p" / "stages" / "big.onnx").exists()


def test_photographs_go_through_what_record_wrote_into_the_graph(
    offramp: Offramp, tmp_path: Path
) -> None:
    """Red, green and blue pictures; the networks compare the channels."""
    colours = [(200, 30, 40), (20, 180, 60), (10, 40, 220)]
    weights = np.kron(np.eye(3), np.ones((16, 1))) / 16  # channels first, 4 by 4 pixels
    small = linear_network(tmp_path / "a.onnx", weights, [3, 4, 4])
    big = linear_network(tmp_path / "b.onnx", weights * 9, [3, 4, 4])
    image = ["--size", "4", "--mean", "0.3,0.3,0.3", "--std", "0.2,0.2,0.2"]
    offramp("graph", f"small={small}", f"big={big}", *image, "--out", tmp_path / "g")
    photos = tmp_path / "photos"
    for label, colour in enumerate(colours):
        (photos / f"{label}").mkdir(parents=True)
        for i in range(30):
            shade = (colour[0] + i, *colour[1:])  # no two pictures are alike
            size = (4 + i % 3, 5)
            (photos / f"{label}" / f"{i:02}.png").write_bytes(picture(shade, size))
    said = offramp("record", tmp_path / "g", "--data", photos, "--out", tmp_path / "t")
    assert said.code == 0
    assert not any(Trace.read(tmp_path / "t").losses().values["big"])
    fit = ["fit", tmp_path / "t", "--budget", 0.5, "--repeats", "real", "--out", tmp_path / "p"]
    fitted = offramp(*fit, "--json")
    assert fitted.code == (fitted.json["verdict"] == "keep the reference")  # as the clock says
    flat = tmp_path / "flat"
    flat.mkdir()
    for i, colour in enumerate(colours):
        (flat / f"{i}.jpg").write_bytes(picture(colour, (40, 30)))
    out = tmp_path / "answers.parquet"
    assert offramp("run", tmp_path / "p", "--data", flat, "--out", out).code == 0
    found = pq.read_table(out)
    assert found["id"].to_pylist() == ["0.jpg", "1.jpg", "2.jpg"]
    assert found["answer"].to_pylist() == [0, 1, 2]


def test_classes_are_listed_and_compared_between_recordings(
    offramp: Offramp, tmp_path: Path
) -> None:
    """Folders are numbered as they are sorted: where one is missing, later labels are wrong."""
    network = linear_network(
        tmp_path / "a.onnx", np.random.default_rng(0).normal(size=(48, 3)), [3, 4, 4]
    )
    offramp("graph", f"a={network}", f"b={network}", "--size", "4", "--out", tmp_path / "g")
    for where, names in (("one", "abc"), ("two", "acd"), ("few", "ac")):
        for name in names:
            (tmp_path / where / name).mkdir(parents=True)
            for i in range(30):
                colour = (ord(name) % 7 * 30, i * 8, 90)
                (tmp_path / where / name / f"{i}.png").write_bytes(picture(colour))
    (tmp_path / "one" / "a" / "notes.txt").touch()
    said = {
        where: offramp(
            "record", tmp_path / "g", "--data", tmp_path / where, "--out", tmp_path / f"t-{where}"
        )
        for where in ("one", "two", "few")
    }
    assert "classes: 0 a, 1 b, 2 c" in said["one"].err
    assert "left aside a/notes.txt" in said["one"].err
    assert "of 2 named classes, but networks score 3" in " ".join(said["few"].err.split())
    assert Trace.read(tmp_path / "t-one").info["class_names"] == ["a", "b", "c"]
    other = offramp("compare", tmp_path / "t-one", "--test", tmp_path / "t-two", "--no-bands")
    assert "label 1 is 'c' here and 'b' in the other" in " ".join(other.err.split())
    offramp("fit", tmp_path / "t-one", "--budget", 0.5, "--out", tmp_path / "p")
    other = offramp("evaluate", tmp_path / "p", tmp_path / "t-two")
    assert "label 1 is 'c' here and 'b' in the other" in " ".join(other.err.split())


def test_what_scores_were_taken_for_is_said_where_it_is_in_doubt(
    offramp: Offramp, tmp_path: Path
) -> None:
    trace = synthetic(300)
    shares = {stage: 1 / (1 + np.exp(-values)) for stage, values in trace.scores.items()}
    arrays: dict[str, Any] = {"labels": trace.labels, **shares, "small_loss": np.zeros(300)}
    np.savez(tmp_path / "s.npz", **arrays)
    given = ["import", tmp_path / "s.npz", "--cost", "small=1e+0,medium=3,large=9"]
    said = offramp(*given, "--out", tmp_path / "t")
    assert said.code == 0
    assert "'small' lie in [0, 1], but 300 of 300 rows do not sum to 1" in " ".join(
        said.err.split()
    )
    assert "called `small.loss`" in " ".join(said.err.split())
    said = offramp(*given, "--scores", "sigmoid", "--out", tmp_path / "t2")
    assert "sum to 1" not in said.err
    kinds = [Trace.read(tmp_path / name).kinds for name in ("t", "t2")]
    assert kinds[0] == kinds[1] == dict.fromkeys(trace.graph.order, "sigmoid")


def test_broken_images_are_left_out_only_if_asked(offramp: Offramp, tmp_path: Path) -> None:
    network = linear_network(tmp_path / "a.onnx", np.ones((48, 2)), [3, 4, 4])
    offramp("graph", f"a={network}", "--size", "4", "--out", tmp_path / "g")
    images = [picture((i, i, i)) for i in range(30)]
    images[7] = b"broken"
    table = pa.table({"image": images, "label": [i % 2 for i in range(30)]})
    pq.write_table(table, tmp_path / "d.parquet")
    arguments = [
        "record",
        tmp_path / "g",
        "--data",
        tmp_path / "d.parquet",
        "--out",
        tmp_path / "t",
    ]
    assert_refused(offramp(*arguments), "image 7")
    said = offramp(*arguments, "--skip-broken")
    assert "left out 1" in said.err
    assert Trace.read(tmp_path / "t").examples == 29


@pytest.mark.parametrize(
    "command",
    [
        *("demo", "graph", "record", "import", "fit", "evaluate", "compare", "run", "bench"),
        *("export", "report", "card", "needs", "reprice"),
        *("serve", "label", "watch", "size"),
    ],
)
def test_every_help_ends_with_an_example(offramp: Offramp, command: str) -> None:
    said = offramp(command, "--help")
    assert said.code == 0
    assert said.out.strip().splitlines()[-1].strip().startswith(f"Example: offramp {command}")


def test_json_is_all_that_standard_output_holds(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    said = offramp("fit", made / "trace", "--budget", 0.1, "--json", "--out", tmp_path / "p")
    assert said.out.count("\n") == 1
    assert said.json


# ------------------------------------------------------------------------------ bad input


def assert_refused(said: Said, says: str) -> None:
    """Exit code 2, one sentence on standard error, nothing on standard output, no traceback."""
    assert said.code == 2, said
    assert said.out == ""
    lines = said.err.strip().splitlines()
    assert len(lines) == 1, said.err
    assert lines[0].startswith("offramp: ")
    assert says in lines[0], lines[0]


def scores(path: Path, **arrays: Any) -> Path:
    given = {"labels": np.arange(60) % 3, "a": np.eye(3)[np.arange(60) % 3] - 0.5}
    given["b"] = given["a"] * 2
    np.savez(path, **{name: value for name, value in (given | arrays).items() if value is not None})
    return path


BAD_SCORES: dict[str, tuple[dict[str, Any], str]] = {
    "labels out of range": ({"labels": np.full(60, 7)}, "outside 0..2"),
    "labels of the wrong type": ({"labels": np.full(60, 0.5)}, "integers"),
    "labels as text": ({"labels": np.array(["cat"] * 60)}, "integers"),
    "too few labels": ({"labels": np.zeros(59, int)}, "59 labels for 60"),
    "NaN scores": ({"a": np.full((60, 3), np.nan)}, "NaN"),
    "infinite scores": ({"b": np.full((60, 3), np.inf)}, "infinite"),
    "wrong number of classes": ({"b": np.zeros((60, 4))}, "classes"),
    "wrong number of rows": ({"b": np.zeros((61, 3))}, "rows"),
    "one class": ({"a": np.zeros((60, 1)), "b": np.zeros((60, 1))}, "two classes"),
    "mixed kinds": ({"a": np.vstack([np.eye(3)] * 19 + [np.ones((3, 3)) * 2])}, "mixes"),
    "no examples": (
        {"a": np.zeros((0, 3)), "b": np.zeros((0, 3)), "labels": np.zeros(0, int)},
        "no examples",
    ),
    "a stage without scores": ({"b": None}, "'b' has no array"),
    "a stage without costs": ({"c": np.zeros((60, 3))}, "'c'"),
}


@pytest.mark.parametrize("case", BAD_SCORES)
def test_bad_scores(offramp: Offramp, tmp_path: Path, case: str) -> None:
    arrays, says = BAD_SCORES[case]
    file = scores(tmp_path / "s.npz", **arrays)
    said = offramp("import", file, "--cost", "a=1,b=2", "--out", tmp_path / "t")
    assert_refused(said, says)
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


BAD_COSTS = {
    "a=1": "'b'",
    "a=1,b=-2": "at least 0",
    "a=1,b=nan": "at least 0",
    "a=1,b=two": "no number",
    "a=1,b": "not of the form",
    "a=1,b=2,z=3": "'z'",
    "a=1,a=1,b=2": "two costs",
    "a=0,b=1": "costs nothing",
    "": "not of the form",
}


@pytest.mark.parametrize("cost", BAD_COSTS)
def test_bad_costs(offramp: Offramp, tmp_path: Path, cost: str) -> None:
    file = scores(tmp_path / "s.npz")
    assert_refused(
        offramp("import", file, "--cost", cost, "--out", tmp_path / "t"), BAD_COSTS[cost]
    )
    assert not (tmp_path / "t").exists()


BAD_EDGES = {
    "a>b,b>a": "circle",
    "a>c": "not a stage",
    "": "disconnected",
    "a-b": "not of the form",
}


@pytest.mark.parametrize("edges", BAD_EDGES)
def test_bad_edges(offramp: Offramp, tmp_path: Path, edges: str) -> None:
    file, out = scores(tmp_path / "s.npz"), tmp_path / "t"
    costs = ["--cost", "a=1,b=2"]
    assert_refused(
        offramp("import", file, *costs, "--edges", edges, "--out", out), BAD_EDGES[edges]
    )
    assert_refused(offramp("import", file, *costs, "--reference", "z", "--out", out), "'z'")
    assert not out.exists()


BAD_FITS: dict[str, tuple[list[object], str]] = {
    "a budget below 0": (["--budget", -0.1], "budget"),
    "a budget above 1": (["--budget", 5], "budget"),
    "a budget that is no number": (["--budget", "half"], "--budget"),
    "a budget of NaN": (["--budget", "nan"], "budget"),
    "no budget": ([], "budget"),
    "a confidence of 1": (["--budget", 0.1, "--confidence", 1], "confidence"),
    "a confidence above 1": (["--budget", 0.1, "--confidence", 95], "confidence"),
    "a share of 0": (["--budget", 0.1, "--learn-share", 0], "share"),
    "an unknown policy": (["--budget", 0.1, "--policy", "magic"], "magic"),
    "a loss beyond the classes": (["--budget", 0.1, "--loss", "top99"], "10 classes"),
    "an unknown loss": (["--budget", 0.1, "--loss", "accuracy"], "accuracy"),
    "a loss that is not there": (["--budget", 0.1, "--loss", "nowhere:f"], "nowhere"),
    "a loss with --unlabelled": (["--budget", 0.1, "--loss", "top5", "--unlabelled"], "--loss"),
    "an unknown excess": (["--budget", 0.1, "--excess", "gross"], "gross"),
    "another graph": (["--budget", 0.1, "--graph", "{made}/graph"], "another graph"),
    "no graph": (["--budget", 0.1, "--graph", "{made}/trace"], "no graph.json"),
    "another trace to certify on": (["--budget", 0.1, "--certify", "{made}/recorded"], "another"),
    "an unknown option": (["--budget", 0.1, "--colour", "red"], "--colour"),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_bad_fits(offramp: Offramp, made: Path, tmp_path: Path, case: str) -> None:
    options, says = BAD_FITS[case]
    given = [str(option).replace("{made}", str(made)) for option in options]
    assert_refused(offramp("fit", made / "trace", *given, "--out", tmp_path / "p"), says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        "fit {made}/trace --budget 0.1 --out p",
        "compare {made}/trace",
        "needs {made}/trace --budget 0.1",
        "exits {made}/onnx/big.onnx --out p",
    ],
)
def test_a_seed_below_zero_is_refused(offramp: Offramp, made: Path, command: str) -> None:
    said = offramp(*command.replace("{made}", str(made)).split(), "--seed", -1)
    assert_refused(said, "--seed")


def test_what_nobody_expected_never_reads_as_a_verdict(
    offramp: Offramp, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("of [all]\nthings")

    monkeypatch.setattr("offramp.command.plans.fit_each", broken)
    fit = ["fit", made / "trace", "--budget", 0.1, "--out", made / "none"]
    said = offramp(*fit)
    assert (said.code, said.out) == (3, "")
    assert said.err == (
        "offramp: unexpected ZeroDivisionError: of [all] things; run with --debug and report it\n"
    )
    monkeypatch.setattr(sys, "argv", ["offramp", "--debug", *map(str, fit)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_too_small_a_trace(offramp: Offramp, tmp_path: Path) -> None:
    synthetic(30).write(tmp_path / "t")
    said = offramp("fit", tmp_path / "t", "--budget", 0.1, "--out", tmp_path / "p")
    assert_refused(said, "at least 20")


def test_a_loss_of_ones_own_lies_in_the_current_folder(
    offramp: Offramp, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graded_loss.py").write_text(
        "import numpy as np\n"
        "def near(scores, labels):\n    return abs(scores.argmax(1) - labels) / 10\n"
        "def failing(scores, labels):\n    raise ValueError('no such\\ncolour')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    fit = ["fit", made / "trace", "--budget", 0.1, "--out", tmp_path / "p", "--force"]
    assert offramp(*fit, "--loss", "graded_loss:near").code == 0
    evaluate = ["evaluate", tmp_path / "p", made / "trace"]
    assert_refused(offramp(*evaluate), "--loss graded_loss:near")
    assert offramp(*evaluate, "--loss", "graded_loss:near").code == 0
    assert_refused(offramp(*fit, "--loss", "graded_loss:failing"), "no such colour")


def test_missing_labels(offramp: Offramp, tmp_path: Path) -> None:
    synthetic(300, labelled=False).write(tmp_path / "t")
    said = offramp("fit", tmp_path / "t", "--budget", 0.1, "--out", tmp_path / "p")
    assert_refused(said, "--unlabelled")
    said = offramp("fit", tmp_path / "t", "--budget", 0.3, "--unlabelled", "--out", tmp_path / "p")
    assert said.code == 0


def copied(made: Path, name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / name, tmp_path / name))


def rewrite(path: Path, **values: Any) -> None:
    rehashed(path, json.loads(path.read_text()) | values)


def test_truncated_parts_and_archives(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    trace = copied(made, "trace", tmp_path)
    part = trace / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    for command in (
        ["fit", trace, "--budget", 0.1, "--out", tmp_path / "p"],
        ["compare", trace],
        ["evaluate", made / "plan", trace],
    ):
        assert_refused(offramp(*command), "cut short")
    cut = tmp_path / "cut.npz"
    cut.write_bytes((made / "scores.npz").read_bytes()[:-500])
    arguments = ["--cost", "small=1,medium=3,large=9", "--out", tmp_path / "t"]
    assert_refused(offramp("import", cut, *arguments), "cut short")


def test_newer_and_damaged_plans(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    plan = copied(made, "runs", tmp_path)
    run = ["run", plan, "--data", made / "data.npz", "--out", tmp_path / "a.parquet"]
    rewrite(plan / "plan.json", version=2)
    assert_refused(offramp(*run), "version 2")
    rewrite(plan / "plan.json", version=1, policy={})
    assert_refused(offramp(*run), "damaged")
    (plan / "plan.json").write_text('{"version": 1')
    assert_refused(offramp(*run), "JSON")
    assert not (tmp_path / "a.parquet").exists()


def test_networks_that_do_not_match_their_fingerprints(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    plan = copied(made, "runs", tmp_path)
    shutil.copyfile(made / "onnx" / "big.onnx", plan / "stages" / "small.onnx")
    said = offramp("run", plan, "--data", made / "data.npz", "--out", tmp_path / "a.parquet")
    assert_refused(said, "fingerprint")


def test_networks_that_do_not_load_or_do_not_match(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no network")
    fixed = linear_network(tmp_path / "fixed.onnx", np.eye(6, 4), [6], batch=1)
    out = tmp_path / "g"
    assert_refused(offramp("graph", f"a={broken}", "--out", out), "does not load")
    assert_refused(offramp("graph", f"a={fixed}", "--out", out), "batch")
    assert_refused(offramp("graph", f"a={tmp_path / 'none.onnx'}", "--out", out), "does not exist")
    assert_refused(offramp("graph", "a.onnx", "--out", out), "NAME=FILE.onnx")
    assert_refused(offramp("graph", f"a b={fixed}", "--out", out), "may only hold")
    good = made / "onnx" / "big.onnx"
    for options, says in (
        (["--size", "x"], "--size"),
        (["--mean", "0.5"], "--size"),
        (["--size", "8", "--layout", "chwn"], "layout"),
        (["--size", "8", "--std", "0,0,0"], "positive"),
        (["--edges", "a>z"], "'z'"),
    ):
        assert_refused(offramp("graph", f"a={good}", *options, "--out", out), says)
    assert not out.exists()
    np.savez(tmp_path / "wide.npz", x=np.zeros((40, 9), np.float32), y=np.zeros(40, int))
    said = offramp(
        "record", made / "graph", "--data", tmp_path / "wide.npz", "--out", tmp_path / "t"
    )
    assert_refused(said, "cannot run on inputs of shape")


def test_labels_outside_the_classes_of_the_networks(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    x, y = blobs(60)
    np.savez(tmp_path / "d.npz", x=x, y=y + 3)
    said = offramp("record", made / "graph", "--data", tmp_path / "d.npz", "--out", tmp_path / "t")
    assert_refused(said, "outside 0..3")


def test_a_plan_without_networks_does_not_run(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    said = offramp(
        "run", made / "plan", "--data", made / "data.npz", "--out", tmp_path / "a.parquet"
    )
    assert_refused(said, "--graph")
    assert_refused(offramp("bench", made / "plan", "--data", made / "data.npz"), "--graph")


def test_what_cannot_be_exported(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    assert_refused(offramp("export", made / "plan", "--out", out), "--graph")
    assert_refused(offramp("export", made / "runs", "--images", "--out", out), "--images")
    assert_refused(offramp("export", tmp_path / "none", "--out", out), "is not a plan")
    assert list(tmp_path.iterdir()) == []


def test_imported_scores_cannot_be_timed(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    arguments = ["fit", made / "trace", "--budget", 0.1, "--batch", 8, "--out", tmp_path / "p"]
    assert_refused(offramp(*arguments), "offramp record")
    assert_refused(offramp(*arguments[:-3], 0, *arguments[-2:]), "--batch")


def test_batches_that_make_no_sense(offramp: Offramp, made: Path) -> None:
    for batch, says in (("0", "--batch"), ("one", "--batch"), ("5000", "5000")):
        said = offramp("bench", made / "runs", "--data", made / "data.npz", "--batch", batch)
        assert_refused(said, says)


def test_existing_output_is_refused_unless_forced(
    offramp: Offramp, made: Path, tmp_path: Path
) -> None:
    fit = ["fit", made / "trace", "--budget", 0.1, "--out", tmp_path / "p"]
    assert offramp(*fit).code == 0
    before = (tmp_path / "p" / "plan.json").read_bytes()
    assert_refused(offramp(*fit), "--force")
    assert (tmp_path / "p" / "plan.json").read_bytes() == before
    assert offramp(*fit, "--force").code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert_refused(offramp(*fit[:-1], tmp_path / "mine", "--force"), "not written by offramp")
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_paths_that_are_not_there(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    nowhere, out = tmp_path / "nowhere", tmp_path / "out"
    for command in (
        ["record", nowhere, "--data", made / "data.npz", "--out", out],
        ["record", made / "graph", "--data", nowhere, "--out", out],
        ["import", nowhere, "--cost", "a=1", "--out", out],
        ["fit", nowhere, "--budget", 0.1, "--out", out],
        ["evaluate", nowhere, made / "trace"],
        ["evaluate", made / "plan", nowhere],
        ["compare", nowhere],
        ["run", nowhere, "--data", made / "data.npz"],
        ["bench", nowhere, "--data", made / "data.npz"],
        ["report", nowhere, "--out", out],
        ["card", nowhere, "--out", out],
    ):
        assert_refused(offramp(*command), "nowhere")
    assert not out.exists()


def test_a_full_disk(
    offramp: Offramp, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pyarrow.parquet.write_table", full)
    said = offramp("record", made / "graph", "--data", made / "data.npz", "--out", tmp_path / "t")
    assert_refused(said, "No space left")
    monkeypatch.undo()
    assert not list((tmp_path / "t").glob("*part*"))
    again = offramp("record", made / "graph", "--data", made / "data.npz", "--out", tmp_path / "t")
    assert again.code == 0


def test_a_folder_that_cannot_be_written(offramp: Offramp, made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    said = offramp("fit", made / "trace", "--budget", 0.1, "--out", tmp_path / "file" / "p")
    assert_refused(said, "cannot write")


def test_debug_shows_where_an_error_comes_from(made: Path) -> None:
    command = [sys.executable, "-m", "offramp.cli", "fit", str(made / "none"), "--debug"]
    command += ["--budget", "0.1", "--out", str(made / "p")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode != 0
    assert "Traceback" in found.stderr


def test_the_version_is_said(offramp: Offramp) -> None:
    said = offramp("--version")
    assert (said.code, said.out) == (0, f"offramp {__version__}\n")
