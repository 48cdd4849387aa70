"""Tables of what stages said, recorded elsewhere, become traces; what is not read is named."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from offramp import Trace, cli, fit
from offramp.base.arrays import AnyArray
from offramp.base.errors import (
    ArgumentError,
    CostError,
    DataError,
    InputError,
    LossError,
    ScoresError,
    TraceError,
)
from offramp.core.costs import Costs
from offramp.core.frontier import replay
from offramp.core.graph import Stage
from offramp.core.imports import import_scores
from offramp.core.policy import Static
from offramp.policies.baselines import ExactOracle
from offramp.testing import synthetic

N = 300
Columns = dict[str, Any]


def scored(examples: int = N) -> Columns:
    """Scores of two stages in lists, with labels, costs, and something else."""
    trace = synthetic(examples, ("small", "big"))
    random = np.random.default_rng(1)
    return {
        "id": [f"q{row}" for row in range(examples)],
        "label": trace.labels,
        "big.scores": list(trace.scores["big"]),
        "small.scores": list(trace.scores["small"]),
        "big.cost": random.uniform(3, 9, examples),
        "small.cost": random.uniform(0, 1, examples),
        "question": ["why"] * examples,
    }


def recorded(examples: int = N) -> Columns:
    """Answers of two stages without scores."""
    random = np.random.default_rng(2)
    options = np.array(["red", "green", "blue"])
    return {
        "id": [f"q{row}" for row in range(examples)],
        "small.answer": options[random.integers(0, 3, examples)],
        "small.quality": random.integers(0, 2, examples),
        "small.length": random.integers(1, 90, examples),
        "small.sure": random.uniform(0, 1, examples),
        "small.cost": random.uniform(0, 1, examples),
        "big.answer": options[random.integers(0, 3, examples)],
        "big.quality": random.uniform(0, 1, examples),
        "big.cost": random.uniform(3, 9, examples),
    }


def spread(columns: Columns) -> Columns:
    """Lists as one column for each of their numbers."""
    found: Columns = {}
    for name, values in columns.items():
        if name.endswith(".scores"):
            each = np.stack(values).T
            found |= {f"{name}.{number}": column for number, column in enumerate(each)}
        else:
            found[name] = values
    return found


def table(columns: Columns) -> pa.Table:
    return pa.table({name: pa.array(list(values)) for name, values in columns.items()})


def csv(path: Path, columns: Columns) -> Path:
    pa.csv.write_csv(table(spread(columns)), path)
    return path


def parquet(path: Path, columns: Columns) -> Path:
    pq.write_table(table(columns), path)
    return path


WRITERS = {"csv": csv, "parquet": parquet}


@pytest.mark.parametrize("ending", WRITERS)
def test_scores_costs_labels_and_ids_are_read(tmp_path: Path, ending: str) -> None:
    columns = scored()
    trace = import_scores(
        WRITERS[ending](tmp_path / f"a.{ending}", columns), costs=Costs({}, {}, "USD")
    )
    assert trace.graph.order == ("small", "big")  # by mean cost, whatever the order of columns
    assert str(trace.task) == "single"
    for stage in ("small", "big"):
        assert trace.scores[stage] == pytest.approx(np.stack(columns[f"{stage}.scores"]))
        assert trace.example_costs
        assert trace.example_costs[stage] == pytest.approx(columns[f"{stage}.cost"])
    assert trace.labels is not None
    assert np.array_equal(trace.labels, columns["label"])
    assert trace.ids is not None
    assert trace.ids.tolist() == columns["id"]
    assert (trace.costs.unit, trace.costs.source) == ("USD", "mean of 300 examples")
    assert trace.info["left_aside"] == [f"not read in a.{ending}: `question`"]


@pytest.mark.parametrize("ending", WRITERS)
def test_answers_without_scores_are_recorded(tmp_path: Path, ending: str) -> None:
    columns = recorded()
    made = import_scores(WRITERS[ending](tmp_path / f"a.{ending}", columns))
    made.write(tmp_path / "t")
    for trace in (made, Trace.read(tmp_path / "t")):
        assert str(trace.task) == "recorded"
        assert trace.info["observations"] == {"small": ["length", "sure"], "big": []}
        assert trace.scores["small"][:, 0] == pytest.approx(columns["small.length"])
        assert trace.scores["small"][:, 1] == pytest.approx(columns["small.sure"])
        assert trace.scores["big"].shape == (N, 0)
        assert trace.loss
        assert trace.loss["small"] == pytest.approx(1 - columns["small.quality"])
        assert trace.answers
        alike = columns["small.answer"] == columns["big.answer"]
        assert np.array_equal(trace.answers["small"] == trace.answers["big"], alike)
        assert trace.losses().name == "recorded"
        alone = replay(trace, Static.of(trace.graph, "big"), np.nan)
        assert alone.cost == pytest.approx(columns["big.cost"])
    again = Trace.read(tmp_path / "t")
    assert np.array_equal(again.identity, made.identity)
    assert len(np.unique(made.identity)) == N
    oracle = ExactOracle.fit(again, again.losses())
    assert replay(again, oracle, 1.0).cost.mean() <= replay(
        again, Static.of(again.graph, "big"), np.nan
    ).cost.mean() + float(again.costs.body["small"])


def test_a_label_judges_answers_that_have_no_loss(tmp_path: Path) -> None:
    columns = {n: v for n, v in recorded().items() if not n.endswith("quality")}
    columns["label"] = ["red"] * N
    trace = import_scores(csv(tmp_path / "a.csv", columns))
    assert trace.loss
    assert np.array_equal(trace.loss["small"], columns["small.answer"] != "red")
    assert trace.info["left_aside"] == []


def test_stages_are_taken_in_the_order_given(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {**scored(), "third.loss": np.zeros(N)})
    given = Costs({"big": 1.0, "small": 2.0}, {"big": 0.0, "small": 0.0}, "s")
    trace = import_scores(path, given, stages=[Stage("big"), Stage("small")])
    assert trace.graph.order == ("big", "small")
    assert trace.costs.body == {"big": 1.0, "small": 2.0}
    assert trace.example_costs is None
    left = trace.info["left_aside"]
    assert left == ["not read in a.parquet: `big.cost`, `question`, `small.cost`, `third.loss`"]


def test_one_cost_per_stage_goes_with_a_column_of_another(tmp_path: Path) -> None:
    columns = {n: v for n, v in scored().items() if n != "big.cost"}
    trace = Trace.of(table(columns), costs={"big": 5.0})
    assert trace.example_costs
    assert (trace.example_costs["big"] == 5.0).all()
    assert trace.example_costs["small"] == pytest.approx(columns["small.cost"])


@pytest.mark.parametrize("name", ["pandas", "polars"])
def test_data_frames_say_the_same_as_arrow(name: str) -> None:
    library, columns = pytest.importorskip(name), scored()
    other = Trace.of(library.DataFrame({n: list(v) for n, v in columns.items()}))
    assert np.array_equal(Trace.of(table(columns)).identity, other.identity)


class Frame:
    """What any library's table is, as far as Arrow's protocol asks."""

    def __init__(self, columns: Columns) -> None:
        self.table = table(columns)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


def test_a_table_of_any_library_that_speaks_arrow_is_taken() -> None:
    columns = scored()
    one, other = Trace.of(table(columns)), Trace.of(Frame(columns))
    assert np.array_equal(one.identity, other.identity)


def without(name: str) -> Callable[[Columns], Columns]:
    return lambda columns: {n: v for n, v in columns.items() if n != name}


def changed(name: str, change: Callable[[AnyArray], Any]) -> Callable[[Columns], Columns]:
    def apply(columns: Columns) -> Columns:
        values = list(columns[name])
        return {**columns, name: change(np.array(values, dtype=object))}

    return apply


def put(row: int, value: Any) -> Callable[[AnyArray], Any]:
    def apply(values: AnyArray) -> list[Any]:
        return [value if number == row else old for number, old in enumerate(values)]

    return apply


BAD: list[tuple[Callable[[], Columns], Callable[[Columns], Columns], type[InputError], str]] = [
    (scored, lambda c: {"label": c["label"]}, InputError, "holds no stage: a stage has a column"),
    (scored, without("small.cost"), CostError, "no column `small.cost`"),
    (scored, changed("small.cost", put(3, -1.0)), CostError, "'small' in row 3 is -1"),
    (scored, changed("small.cost", put(3, float("nan"))), CostError, "'small' in row 3 is nan"),
    (scored, changed("small.cost", put(3, None)), DataError, "`small.cost` .* empty in row 3"),
    (scored, changed("small.cost", lambda v: v * 0), CostError, "costs nothing for every"),
    (scored, changed("small.cost", lambda v: v.astype(str)), DataError, "must be numbers"),
    (scored, changed("label", put(5, None)), DataError, "`label` .* empty in row 5"),
    (scored, changed("id", put(5, "q4")), TraceError, "'q4' is there twice"),
    (scored, changed("big.scores", put(7, [1.0, 2.0])), ScoresError, "in row 7, of 2 numbers"),
    (scored, changed("big.scores", put(7, None)), DataError, "`big.scores` .* empty in row 7"),
    (
        scored,
        changed("big.scores", put(7, [None] + [1.0] * 9)),
        ScoresError,
        "lacks a number in row 7",
    ),
    (scored, changed("big.scores", lambda v: [1.0] * N), ScoresError, "must be lists of numbers"),
    (scored, lambda c: {**c, "big.loss": np.zeros(N)}, LossError, "'small' has no `small.loss`"),
    (recorded, without("small.quality"), LossError, "how good the answers of 'small' are"),
    (recorded, changed("big.quality", lambda v: v * 100), LossError, r"goes from .* to \d+"),
    (recorded, changed("big.quality", put(2, float("nan"))), DataError, "is nan in row 2"),
    (recorded, lambda c: {**c, "big.loss": np.zeros(N)}, LossError, "has both"),
    (recorded, changed("big.answer", lambda v: np.arange(N)), DataError, "as one type"),
    (recorded, changed("small.sure", put(9, float("inf"))), DataError, "is inf in row 9"),
    (recorded, lambda c: {n: v[:0] for n, v in c.items()}, TraceError, "has no rows"),
]


@pytest.mark.parametrize(("made", "change", "error", "says"), BAD)
def test_what_does_not_fit_is_refused_in_a_sentence(
    made: Callable[[], Columns],
    change: Callable[[Columns], Columns],
    error: type[InputError],
    says: str,
) -> None:
    with pytest.raises(error, match=says):
        Trace.of(table(change(made())))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.loss,a.cost\n0,1\n0\n", "cannot be read"),
        ("a.loss;a.cost\n0;1\n", "separated by ';'"),
        ("a.loss,a.cost\nzero,1\n", "cannot be read"),
        ("a.loss,a.loss,a.cost\n0,0,1\n", "there twice"),
        ("a.scores.0,a.scores.2,a.cost\n0,0,1\n", "no `a.scores.1`"),
        ("", "cannot be read"),
    ],
)
def test_csv_that_does_not_fit_is_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        import_scores(tmp_path / "a.csv")


def test_a_late_fraction_in_csv_is_read_as_a_number(tmp_path: Path) -> None:
    rows = 200_000  # more than the first block that types are often found out from
    ones = "\n".join(["1,0,1"] * rows)
    (tmp_path / "a.csv").write_text(f"a.seen,a.loss,a.cost\n{ones}\n0.5,0,1\n")
    trace = import_scores(tmp_path / "a.csv")
    assert trace.scores["a"][-1, 0] == 0.5


def test_others_than_tables_and_mappings_are_refused() -> None:
    with pytest.raises(ArgumentError, match="a list came"):
        Trace.of([1, 2, 3])  # type: ignore[arg-type]
    with pytest.raises(CostError, match="give `costs`"):
        Trace.of({"a": np.zeros((2, 2))})


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and messages of a command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["offramp", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, " ".join(captured.err.split())


def test_from_a_file_to_a_certified_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, trace, plan = csv(tmp_path / "a.csv", scored(2000)), tmp_path / "t", tmp_path / "p"
    code, _, messages = said(capsys, "import", file, "--cost-unit", "USD", "--out", trace)
    assert code == 0
    assert "not read in a.csv: `question`" in messages
    code, out, _ = said(capsys, "fit", trace, "--budget", 0.05, "--json", "--out", plan)
    promise = json.loads(out)
    low, high = promise["cost_interval"]
    assert code == 0
    assert low < promise["cost"] < high
    _, out, _ = said(capsys, "evaluate", plan, trace, "--json")
    assert json.loads(out)["speedup_interval"][0] > 1
    priced = tmp_path / "priced"
    _, _, messages = said(capsys, "reprice", trace, "--cost", "small=1,big=4", "--out", priced)
    assert "costs per example are replaced" in messages
    again = Trace.read(priced)
    assert again.example_costs is None
    assert again.costs.body == {"small": 1.0, "big": 4.0}


def test_intervals_of_costs_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Trace.of(table(scored(1500))).write(tmp_path / "t")
    _, _, _ = said(capsys, "fit", tmp_path / "t", "--budget", 0.1, "--out", tmp_path / "p")
    _, out, messages = said(capsys, "evaluate", tmp_path / "p", tmp_path / "t")
    assert "95 % interval of the speed-up" in out + messages
    code, out, _ = said(capsys, "card", tmp_path / "p")
    assert code == 0
    assert out.count("95 % interval of the mean cost") == 1


def test_bad_input_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = csv(tmp_path / "a.csv", {**scored(), "small.cost": np.full(N, -1.0)})
    code, _, messages = said(capsys, "import", file, "--out", tmp_path / "t")
    assert code == 2
    assert "'small' in row 0 is -1" in messages
    asked = ("import", file, "--stages", "small,huge", "--out", tmp_path / "t")
    code, _, messages = said(capsys, *asked)
    assert code == 2
    assert "stage 'huge' has no columns in a.csv" in messages
    assert not (tmp_path / "t").exists()


def test_costs_that_are_one_per_stage_stay_so() -> None:
    columns = {n: v for n, v in scored().items() if not n.endswith("cost")}
    trace = Trace.of(table(columns), costs={"small": 1.0, "big": 4.0})
    assert trace.example_costs is None
    plan = fit(Trace.of(table(scored(1500))), 0.1)
    assert plan.certificate.cost_interval is not None
