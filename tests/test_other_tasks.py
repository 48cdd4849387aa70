"""Tasks besides one label: their laws, and each of them from a trace to a certified plan."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from examples import task as example
from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import (
    DataError,
    GraphError,
    InputError,
    LossError,
    PlanError,
    ScoresError,
    TraceError,
)
from offramp.cli import app
from offramp.core.costs import Costs
from offramp.core.frontier import replay
from offramp.core.graph import Graph
from offramp.core.ledger import Ledger
from offramp.core.rows import RowFacts
from offramp.core.tasks import Kind
from offramp.core.trace import Trace, assemble
from offramp.export import one_file, write_file, write_folder
from offramp.networks.data import open_examples
from offramp.networks.forms import Outputs
from offramp.networks.networks import Networks, combine
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import fit
from offramp.plan.needs import needs
from offramp.plan.plan import Plan
from offramp.policies import FAMILIES
from offramp.recording.record import RecordOptions, record
from offramp.report import card as card_of
from offramp.report import report_inputs, write_report
from offramp.runtime import Routed, SingleFile, infer
from offramp.runtime.stages import Stages
from offramp.study.compare import compare
from offramp.tasks import Labels, Numbers, RecordedAnswers, Sequences, Single, Task, task_named
from offramp.testing import TaskLaws
from tests.made import linear_network
from tests.test_promises import allowed

RANDOM = np.random.default_rng(0)
SPREAD = {"a": 0.6, "b": 0.4, "c": 0.2}  # how badly stages err
COSTS = {"a": 1.0, "b": 3.0, "c": 10.0}
Make = Callable[[int, int], Trace]

# ------------------------------------------------------------------------ traces, made up


def regression(examples: int, seed: int, *, spreads: bool = True) -> Trace:
    random = np.random.default_rng(seed)
    labels = random.normal(size=(examples, 2))
    hard = random.gamma(1.0, 0.5, size=(examples, 1))

    def stage(noise: float) -> FloatArray:
        numbers = labels + noise * hard * random.normal(size=labels.shape)
        spread = noise * hard * np.exp(0.2 * random.normal(size=hard.shape))
        return np.hstack([numbers, spread, spread]) if spreads else numbers

    task = "regression/2/spreads" if spreads else "regression/2"
    said = {name: stage(noise) for name, noise in SPREAD.items()}
    return Trace.of(said, labels, costs=COSTS, task=task)


def several(examples: int, seed: int) -> Trace:
    random = np.random.default_rng(seed)
    labels = (random.random((examples, 4)) < 0.3).astype(np.int64)
    hard = random.gamma(1.0, 5.0, size=(examples, 1))
    said = {
        name: (2 * labels - 1) * 3 + noise * hard * random.normal(size=labels.shape)
        for name, noise in SPREAD.items()
    }
    said["b"] = 1 / (1 + np.exp(-said["b"]))  # stages may say it in their own way
    return Trace.of(said, labels, costs=COSTS, task="labels")


def sequences(examples: int, seed: int) -> Trace:
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=(examples, 5))
    labels[random.random(examples) < 0.5, 4] = -1
    hard = random.gamma(1.0, 5.0, size=(examples, 1, 1))
    said = {}
    for name, noise in SPREAD.items():
        scores = 3 * np.eye(3)[labels] + noise * hard * random.normal(size=(examples, 5, 3))
        scores[labels == -1] = 0
        said[name] = scores.reshape(examples, 15)
    return Trace.of(said, labels, costs=COSTS, task="sequences/3")


def recorded(examples: int, seed: int, *, observed: bool = True, answers: bool = True) -> Trace:
    random = np.random.default_rng(seed)
    hard, truth = random.random(examples), random.integers(1000, size=examples)
    loss, ids, seen = {}, {}, {}
    for name, noise in SPREAD.items():
        wrong = random.random(examples) < noise * hard * 1.3
        loss[name] = wrong.astype(float)
        ids[name] = np.where(wrong, random.integers(1000, size=examples) + 2**40, truth)
        confidence = 5 - 9 * hard + random.normal(size=examples)
        # of an answer that comes last nothing need be observed
        seen[name] = confidence[:, None] if observed and name != "c" else np.empty((examples, 0))
    facts = RowFacts(
        ids=np.arange(examples) + examples * seed,
        task=RecordedAnswers(),
        loss=loss,
        answers=ids if answers else None,
    )
    return assemble(Graph.chain("abc"), Costs(COSTS, dict.fromkeys("abc", 0.0)), seen, facts=facts)


MADE: Mapping[str, Make] = {
    "regression": partial(regression, spreads=False),
    "spreads": regression,
    "labels": several,
    "sequences": sequences,
    "recorded": recorded,
}

# ---------------------------------------------------------------------------------- laws


def of_stage(make: Make, stage: str) -> tuple[Task, FloatArray, Kind, AnyArray]:
    trace = make(90, 3)
    labels = np.zeros(90) if trace.labels is None else trace.labels
    return trace.task, trace.outputs[stage], trace.kinds[stage], labels


def single(examples: int, seed: int) -> Trace:
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=examples)
    return Trace.of({"a": random.normal(size=(examples, 3))}, labels, costs={"a": 1})


LAWFUL = {
    "single": of_stage(single, "a"),
    "labels": of_stage(several, "a"),
    "sigmoids": of_stage(several, "b"),
    "numbers": of_stage(MADE["regression"], "a"),
    "spreads": of_stage(regression, "a"),
    "sequences": of_stage(sequences, "a"),
    "recorded": of_stage(recorded, "a"),
    "nothing observed": of_stage(recorded, "c"),
    "of one's own": of_stage(example.made, "small"),
}


class TestTasks(TaskLaws):
    @pytest.fixture(params=list(LAWFUL))
    def lawful(self, request: pytest.FixtureRequest) -> tuple[Task, FloatArray, Kind, AnyArray]:
        return LAWFUL[request.param]

    @pytest.fixture
    def task(self, lawful: tuple[Any, ...]) -> Task:
        return lawful[0]  # type: ignore[no-any-return]

    @pytest.fixture
    def outputs(self, lawful: tuple[Any, ...]) -> FloatArray:
        return lawful[1]  # type: ignore[no-any-return]

    @pytest.fixture
    def kind(self, lawful: tuple[Any, ...]) -> Kind:
        return lawful[2]  # type: ignore[no-any-return]

    @pytest.fixture
    def labels(self, lawful: tuple[Any, ...]) -> AnyArray:
        return lawful[3]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Faulty(Numbers):
    """A task with one fault; called as the sound one is."""

    fault: ClassVar[str] = ""

    def sure(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        sure = super().sure(outputs, kind)
        if self.fault == "surer than sure":
            return 2 * sure
        return sure / sure.max() if self.fault == "looks at other rows" else sure

    def observations(self, outputs: FloatArray, kind: Kind) -> FloatArray:
        seen = super().observations(outputs, kind)
        return np.log(seen - seen.min()) if self.fault == "no numbers" else seen

    def agreement(self, answers: AnyArray, others: AnyArray) -> FloatArray:
        agreed = super().agreement(answers, others)
        return np.where(answers[:, 0] > others[:, 0], 0, agreed) if "way" in self.fault else agreed

    @property
    def losses(self) -> Mapping[str, Any]:
        if self.fault == "right answers cost":
            return {"half": lambda answers, labels: np.full(len(answers), 0.5)}
        return super().losses

    def form(self, width: int) -> Any:
        other = replace(self, scale=2 * self.scale) if self.fault == "another form" else self
        return Numbers.form(other, width)

    def __str__(self) -> str:
        return "regression/3.0" if self.fault == "another name" else super().__str__()


FAULTS = {
    "another name": "its_name",
    "surer than sure": "sureness",
    "looks at other rows": "does_not_depend",
    "no numbers": "finite",
    "agrees one way": "either_way",
    "right answers cost": "right_answers",
    "another form": "in_operators",
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_breaks_its_law(fault: str) -> None:
    sound, outputs, kind, labels = LAWFUL["spreads"]
    faulty = type("Faulty", (Faulty,), {"fault": fault})(2.0, True)
    given = {"task": faulty, "outputs": outputs, "kind": kind, "labels": labels}
    laws = [name for name in dir(TaskLaws) if FAULTS[fault] in name]
    assert len(laws) == 1
    law = getattr(TaskLaws(), laws[0])
    asked = {name: given[name] for name in inspect.signature(law).parameters}
    with pytest.raises((AssertionError, LossError)):
        law(**asked)
    law(**{**asked, "task": sound} if fault != "another name" else {"task": sound})


# ------------------------------------------------------------------- from a trace to a plan


@pytest.mark.parametrize("name", MADE)
def test_a_plan_is_certified_read_back_and_evaluated(name: str, tmp_path: Path) -> None:
    make = MADE[name]
    trace = make(2500, 0)
    trace.write(tmp_path / "trace")
    read = Trace.read(tmp_path / "trace")
    assert read.task == trace.task
    assert read.digest == trace.digest
    for stage in "abc":
        np.testing.assert_array_equal(read.outputs[stage], trace.outputs[stage])

    plan = fit(read, 0.04)
    assert plan.certificate.speedup > 1
    assert plan.certificate.reference_loss is not None
    plan.write(tmp_path / "plan")
    loaded = Plan.read(tmp_path / "plan")
    assert loaded.task == trace.task
    others = make(2500, 1)
    found = evaluate(loaded, others)
    assert found.excess_loss is not None
    assert found.excess_loss < 0.06
    again = replay(others, plan.running, plan.setting)
    assert found.exits == {**dict.fromkeys("abc", 0.0), **again.exits()}


@pytest.mark.parametrize("name", ["spreads", "recorded"])
def test_a_promise_is_kept_as_often_as_it_says(name: str) -> None:
    make, draws, broken, routed = MADE[name], 30, 0, 0
    truth = make(40_000, 10_000)
    losses = truth.losses()
    for draw in range(draws):
        plan = fit(make(900, draw), 0.05, confidence=0.8, policy="learned")
        outcome = replay(truth, plan.running, plan.setting)
        excess = np.choose(outcome.stage, [losses.excess(s) for s in outcome.order])
        broken += float(excess.mean()) > 0.05
        routed += plan.routes
    assert broken / draws <= allowed(0.2, draws)
    assert routed >= draws / 3  # and it is not vacuous


@pytest.mark.parametrize("family", [name for name, each in FAMILIES.items() if each.any_task])
@pytest.mark.parametrize("name", MADE)
def test_policies_of_any_task_walk_it_and_are_read_back(family: str, name: str) -> None:
    from offramp.policies import policy_from_json, policy_to_json

    trace = MADE[name](400, 0)
    policy = FAMILIES[family](trace, trace.losses())
    loaded = policy_from_json(policy_to_json(policy), trace.classes)
    for setting in policy.settings[[0, len(policy.settings) // 2, -1]]:
        before, after = (replay(trace, each, float(setting)) for each in (policy, loaded))
        assert (before.stage == after.stage).all()


def test_policies_of_classes_say_that_they_do_not_fit() -> None:
    trace = regression(300, 0)
    for name, each in FAMILIES.items():
        if not each.any_task:
            with pytest.raises(InputError, match="needs scores of classes"):
                fit(trace, 0.05, policy=name)
    found = compare(trace, bands=False)
    assert set(found.left_out) == {name for name, each in FAMILIES.items() if not each.any_task}
    assert found.to_json()["left_out"] == list(found.left_out)
    assert "learned" in found.policies


@pytest.mark.parametrize("name", MADE)
def test_reports_and_cards_of_it_are_written(name: str, tmp_path: Path) -> None:
    trace = MADE[name](1200, 0)
    trace.write(tmp_path / "trace")
    plan = fit(trace, 0.05)
    plan.write(tmp_path / "plan")
    paths = [tmp_path / "plan", tmp_path / "trace"]
    write_report(tmp_path / "report.html", report_inputs(paths, None))
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert card_of(plan, "plan")


def test_nobody_looks_at_what_is_not_there() -> None:
    trace = recorded(900, 0, observed=False, answers=False)
    plan = fit(trace, 0.05)
    assert plan.certificate.verdict
    with pytest.raises(LossError, match=r"holds no answers.*\.answer"):
        fit(trace, 0.05, unlabelled=True)
    with pytest.raises(LossError, match="no loss of its own"):
        replace(trace, loss=None).losses("recorded")


def test_what_cannot_be_counted_is_said() -> None:
    with pytest.raises(TraceError, match="differ by degrees"):
        needs(regression(900, 0), 0.05)
    assert needs(recorded(1500, 0), 0.05).settings
    with pytest.raises(InputError, match="leave --refit out"):
        fit(regression(900, 0), 0.05, refit=True)


def test_a_trace_of_another_task_is_refused() -> None:
    plan = fit(regression(900, 0), 0.05)
    with pytest.raises(TraceError, match=r"of the task 'regression/1\.0/spreads'"):
        evaluate(plan, replace(regression(900, 1), task=Numbers(1.0, True)))


# --------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ranks", "is unknown"),
        ("labels/2", "takes nothing"),
        ("regression", "the error that counts as 1"),
        ("regression/0", "the error that counts as 1"),
        ("regression/x", "the error that counts as 1"),
        ("regression/2/sure", "the error that counts as 1"),
        ("sequences", "the number of classes"),
        ("sequences/1", "the number of classes"),
    ],
)
def test_a_task_that_means_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        task_named(text)


@pytest.mark.parametrize("task", [Single(), Labels(), Numbers(0.1, True), Sequences(7)])
def test_a_task_is_read_back_from_its_name(task: Task) -> None:
    assert task_named(str(task)) == task


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "error", "message"),
    [
        ("labels", np.ones((3, 2)), np.array([0, 1, 1]), DataError, "0 or 1 for each label"),
        ("labels", np.ones((3, 2)), np.full((3, 2), 2), DataError, "0 or 1 for each label"),
        ("labels", np.full((3, 2), np.nan), None, ScoresError, "NaN"),
        ("regression/1", np.ones((3, 2)), np.ones(3), DataError, "as many as a stage answers"),
        ("regression/1", np.ones((3, 1)), np.full(3, np.inf), DataError, "NaN or infinite"),
        ("regression/1/spreads", np.ones((3, 3)), None, ScoresError, "d spreads"),
        ("sequences/2", np.ones((3, 3)), None, ScoresError, "for each place"),
        ("sequences/2", np.ones((3, 4)), np.full((3, 2), 2), DataError, "from 0 to 1"),
    ],
)
def test_outputs_and_labels_that_do_not_fit_are_refused(
    task: str, outputs: FloatArray, labels: AnyArray | None, error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        Trace.of({"a": outputs}, labels, costs={"a": 1}, task=task)


def test_a_task_of_ones_own_keeps_its_promise() -> None:
    found = example.run(2000)
    assert found.kept != "no"
    assert found.speedup > 1


# ------------------------------------------------------------------------- live and exported


def networks_of(folder: Path, task: str) -> tuple[Path, list[str]]:
    """Data and three linear networks of growing quality, of several labels or of numbers."""
    random = np.random.default_rng(0)
    x = random.normal(size=(1500, 6)).astype(np.float32)
    weights = random.normal(size=(6, 2)) * (3 if task == "labels" else 0.5)
    right = x @ weights
    y = (right > 0).astype(np.int64) if task == "labels" else right.astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=y)
    files = []
    for name, noise in SPREAD.items():
        noise = noise if task == "labels" else noise / 4
        worse = weights + noise * random.normal(size=weights.shape)
        if task.endswith("spreads"):  # an error of |x| times the noise
            worse = np.hstack([worse, noise * np.abs(random.normal(size=weights.shape))])
        files.append(f"{name}={linear_network(folder / f'{name}.onnx', worse, [6])}")
    return folder / "data.npz", files


@pytest.mark.parametrize("task", ["labels", "regression/1.0", "regression/1.0/spreads"])
def test_from_networks_to_answers_by_the_command_line(task: str, tmp_path: Path) -> None:
    data, files = networks_of(tmp_path, task)
    at = {name: str(tmp_path / name) for name in ("graph", "trace", "plan", "stages", "one.onnx")}
    call("graph", *files, "--out", at["graph"])
    costs = ("--cost", "a=1,b=3,c=10")
    data_ = ("--data", str(data))
    call("record", at["graph"], *data_, "--task", task, *costs, "--out", at["trace"])
    trace = Trace.read(at["trace"])
    assert trace.task == task_named(task)

    call("fit", at["trace"], "--budget", "0.1", "--graph", at["graph"], "--out", at["plan"], may=1)
    call("run", at["plan"], *data_, "--out", str(tmp_path / "answers.parquet"))
    plan = Plan.read(at["plan"])
    x = np.load(data)["x"]
    live = infer(plan, Stages(plan.runnable(), plan.graph), x)
    table = pq.read_table(tmp_path / "answers.parquet")
    if task == "labels":
        assert table.column("answer").to_pylist() == live.answer.tolist()
    else:
        columns = [table.column(f"answer.{i}").to_numpy() for i in range(2)]
        np.testing.assert_array_equal(np.stack(columns, axis=1), live.answer)
    call("export", at["plan"], "--out", at["one.onnx"])
    assert evaluate(plan, replace(trace, ledger=Ledger())).kept != "no"


@pytest.mark.parametrize("policy", ["learned", "network", "thresholds", "patience"])
@pytest.mark.parametrize("task", ["labels", "regression/1.0", "regression/1.0/spreads"])
def test_live_replayed_and_exported_it_decides_alike(
    task: str, policy: str, tmp_path: Path
) -> None:
    data, files = networks_of(tmp_path, task)
    given = {name: Path(file) for name, file in (each.split("=") for each in files)}
    networks = Networks(Graph.chain(given), given)
    runtime = Stages(networks.files, networks.graph)
    options = RecordOptions(task=task_named(task))
    examples = open_examples(data, task=task)
    costs = Costs(COSTS, dict.fromkeys(COSTS, 0.0))
    trace = record(networks, runtime, examples, tmp_path / "trace", options, costs=costs)
    fitted = fit(trace, 0.1, policy=policy, networks=networks, keep_stages=True)
    settings = [float(setting) for setting in fitted.policy.settings]
    exits = [replay(trace, fitted.policy, setting).exits() for setting in settings]
    mixed = int(np.argmin([max(each.values()) for each in exits]))
    plan = replace(fitted, tradeoff=settings[mixed])
    never_sure = policy == "thresholds" and task == "regression/1.0"  # all rows are alike to it
    assert (max(exits[mixed].values()) < 0.95) != never_sure

    x = np.load(data)["x"]
    live = infer(plan, runtime, x)
    np.testing.assert_array_equal(live.position, replay(trace, plan.policy, plan.setting).stage)
    write_file(plan, tmp_path / "one.onnx")
    write_folder(plan, tmp_path / "stages")
    for found in (SingleFile(tmp_path / "one.onnx")(x), Routed(tmp_path / "stages")(x)):
        same = found.position == live.position
        assert same.mean() > 0.995  # float32 beside float64
        assert found.answer.dtype == live.answer.dtype
        np.testing.assert_allclose(found.answer[same], live.answer[same], atol=1e-5)
    assert SingleFile(tmp_path / "one.onnx")(x[:0]).answer.shape == (0, 2)


def test_one_number_stays_a_number_by_the_command_line(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(1500, 6)).astype(np.float32)
    weights = random.normal(size=(6, 1)) / 2
    np.savez(tmp_path / "data.npz", x=x, y=(x @ weights)[:, 0].astype(np.float32))
    files = []
    for name, noise in SPREAD.items():
        worse = weights + noise / 4 * random.normal(size=weights.shape)
        files.append(f"{name}={linear_network(tmp_path / f'{name}.onnx', worse, [6])}")
    same, plan = _live_and_exported(tmp_path, "regression/1.0", files)
    assert same.shape[1:] == (1,)
    assert plan.classes == 1


@pytest.mark.parametrize("shape", [(3, 2), (6,)])
def test_several_labels_stay_as_they_are_by_the_command_line(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    """Also where they come in rows of rows, behind another output."""
    random = np.random.default_rng(0)
    x = random.normal(size=(1500, 6)).astype(np.float32)
    weights = random.normal(size=(6, 6)) * 3
    np.savez(tmp_path / "data.npz", x=x, y=(x @ weights > 0).astype(np.int64))
    files = []
    for name, noise in SPREAD.items():
        worse = weights + noise * random.normal(size=weights.shape)
        file = shaped(linear_network(tmp_path / f"{name}.onnx", worse, [6]), shape)
        files.append(f"{name}={file}")
    outputs = [part for name in SPREAD for part in ("--output", f"{name}=chances")]
    same, plan = _live_and_exported(tmp_path, "labels", [*files, *outputs])
    assert same.shape[1:] == (6,)
    assert set(plan.kinds.values()) == {"sigmoid"}


def shaped(file: Path, shape: tuple[int, ...]) -> Path:
    """The network with its sigmoids (n, *shape) as a second output."""
    model = onnx.load(file)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, *shape]), "shape"))
    model.graph.node.extend(
        [
            helper.make_node("Sigmoid", ["scores"], ["flat chances"]),
            helper.make_node("Reshape", ["flat chances", "shape"], ["chances"]),
        ]
    )
    value = helper.make_tensor_value_info("chances", TensorProto.FLOAT, ["batch", *shape])
    model.graph.output.append(value)
    onnx.save(model, file)
    return file


def _live_and_exported(folder: Path, task: str, given: list[str]) -> tuple[AnyArray, Plan]:
    """Answers of a plan from files to one file, which are those of the plan, and the plan."""
    at = {name: str(folder / name) for name in ("graph", "trace", "plan", "one.onnx", "a.parquet")}
    data = ("--data", str(folder / "data.npz"))
    call("graph", *given, "--task", task, "--out", at["graph"])
    assert Networks.read(at["graph"]).task == task_named(task)
    call("record", at["graph"], *data, "--cost", "a=1,b=3,c=10", "--out", at["trace"])
    assert Trace.read(at["trace"]).task == task_named(task)
    call("fit", at["trace"], "--budget", "0.1", "--graph", at["graph"], "--out", at["plan"], may=1)
    call("evaluate", at["plan"], at["trace"])
    call("run", at["plan"], *data, "--out", at["a.parquet"])
    call("export", at["plan"], "--out", at["one.onnx"])
    plan, x = Plan.read(at["plan"]), np.load(folder / "data.npz")["x"]
    live, exported = infer(plan, Stages(plan.runnable(), plan.graph), x), SingleFile(at["one.onnx"])
    same = exported(x).position == live.position
    assert same.mean() > 0.995  # float32 beside float64
    np.testing.assert_allclose(exported(x).answer[same], live.answer[same], atol=1e-5)
    return live.answer, plan


def test_a_graph_of_another_task_is_not_recorded(tmp_path: Path) -> None:
    data, files = networks_of(tmp_path, "labels")
    one = linear_network(tmp_path / "one.onnx", np.ones((6, 1)), [6])
    call("graph", *files, "--task", "labels", "--out", str(tmp_path / "labels"))
    call("graph", f"one={one}", "--out", str(tmp_path / "binary"))
    for graph, task, known in (
        ("labels", "regression/1.0", "labels"),
        ("binary", "regression/1.0", "single"),
    ):
        found = CliRunner().invoke(
            app,
            [
                *("record", str(tmp_path / graph), "--data", str(data)),
                *("--task", task, "--out", str(tmp_path / "trace")),
            ],
        )
        assert isinstance(found.exception, GraphError)
        assert f"made for the task '{known}', not '{task}'" in str(found.exception)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("--kind", "a=probabilities"), "the task 'labels' takes logits or sigmoid"),
        (("--classes", "a=names.txt"), "the task 'labels' has none"),
        (("--output", "a=other"), "the outputs of .* are scores"),
    ],
)
def test_what_does_not_fit_a_task_is_refused_by_graph(
    asked: tuple[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names.txt").write_text("one\ntwo\n")
    _, files = networks_of(tmp_path, "labels")
    found = CliRunner().invoke(app, ["graph", *files, "--task", "labels", *asked, "--out", "g"])
    assert isinstance(found.exception, InputError)  # of which the command line makes exit code 2
    assert re.search(message, str(found.exception))


def test_networks_of_a_task_answer_equally_many_numbers(tmp_path: Path) -> None:
    files = {
        name: linear_network(tmp_path / f"{name}.onnx", np.ones((6, width)), [6])
        for name, width in (("a", 1), ("b", 3))
    }
    with pytest.raises(GraphError, match=r"'a' gives 1 numbers .* 'b' 3"):
        combine(files, task="regression/1.0")


def test_sequences_are_laid_flat(tmp_path: Path) -> None:
    file = shaped(linear_network(tmp_path / "a.onnx", np.ones((6, 6)), [6]), (3, 2))
    networks = combine({"a": file}, task="sequences/2", outputs=Outputs(output={"a": "chances"}))
    x = np.zeros((5, 6), np.float32)
    assert Stages(networks.files, networks.graph).run("a", x).shape == (5, 6)


def test_a_task_without_a_form_is_not_exported(tmp_path: Path) -> None:
    data, files = networks_of(tmp_path, "labels")
    given = np.load(data)
    labels = given["y"][:, :1]
    np.savez(data, x=given["x"], y=labels)
    call("graph", *files, "--out", str(tmp_path / "graph"))
    call(
        *("record", str(tmp_path / "graph"), "--data", str(data), "--task", "sequences/2"),
        *("--cost", "a=1,b=3,c=10", "--out", str(tmp_path / "trace")),
    )
    call(
        *("fit", str(tmp_path / "trace"), "--budget", "0.2", "--graph", str(tmp_path / "graph")),
        *("--out", str(tmp_path / "plan")),
        may=1,
    )
    call("run", str(tmp_path / "plan"), "--data", str(data), "--out", str(tmp_path / "a.parquet"))
    with pytest.raises(PlanError, match="'sequences/2' has no form in ONNX"):
        one_file(Plan.read(tmp_path / "plan"))


def test_scores_of_a_task_are_imported(tmp_path: Path) -> None:
    trace = several(900, 0)
    arrays: dict[str, Any] = {"labels": trace.labels, **trace.scores}
    np.savez(tmp_path / "s.npz", **arrays)
    out = tmp_path / "trace"
    costs = ("--cost", "a=1,b=3,c=10")
    call("import", str(tmp_path / "s.npz"), *costs, "--task", "labels", "--out", str(out))
    read = Trace.read(out)
    assert read.task == Labels()
    assert read.kinds == {"a": "logits", "b": "sigmoid", "c": "logits"}


def call(*arguments: str, may: int = 0) -> None:
    """Runs a command, which ends well; `fit` may say to keep the reference."""
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code in (0, may), found.output
