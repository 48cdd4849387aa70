"""Every law that authors inherit finds the fault that it is there for, and passes what is sound."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from offramp.answering.refit import Refit
from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import NetworkError, PlanError
from offramp.core.graph import BATCH, Costs
from offramp.core.policy import STOP
from offramp.core.trace import Trace
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.policies import Decision, Dial, Seen, SeenTensors
from offramp.policies.rules import Threshold
from offramp.runtime import Engine, Program, Value, engine_named
from offramp.runtime.driver import Driver, Walker, infer
from offramp.runtime.engine import Fields, Run, fields_of
from offramp.runtime.format import Answers
from offramp.runtime.stages import Batch, Stages
from offramp.testing import DriverLaws, EngineLaws, PolicyLaws, RuntimeLaws, synthetic
from tests.made import different

EDGES = "a>b>c,a>c"
LEARN = different(900, EDGES)
REFITS = {"b": Refit(np.asarray(0.8), np.linspace(0, 0.5, 5))}
ROWS = 90
X = np.stack([np.arange(ROWS), np.ones(ROWS)], axis=1).astype(np.float32)


def planned() -> Plan:
    """A plan with a committee and a refit, some of whose examples stop at every stage."""
    plan = fit(LEARN, 0.05, policy="margin")
    plan = replace(plan, tradeoff=float(plan.policy.settings[60]), refits=REFITS)
    assert plan.committees
    return plan


PLAN = planned()


class Numbered(Stages):
    """Says what was recorded: an input is the number of an example and 1, (n, 2)."""

    reads = Value(None, (BATCH, 2))

    def __init__(self, trace: Trace = LEARN) -> None:
        def opened(stage: str, threads: int) -> Program:
            def run(fields: Fields, wanted: Sequence[str]) -> dict[str, AnyArray]:
                return {"scores": self.says(stage, fields["x"])}

            return Program({"x": self.reads}, {"scores": Value()}, run)

        self.trace = trace
        stages = {stage: stage for stage in trace.graph.order}
        super().__init__(stages, engine=Engine("numbers", "1", opened, files=False))

    def says(self, stage: str, x: AnyArray) -> FloatArray:
        if x.dtype.kind != "f":
            raise NetworkError(f"stage '{stage}' reads numbers of examples.")
        # as rectifiers do, it hides what is no number
        rows = np.nan_to_num(x[:, 0], posinf=0).astype(int)
        return np.asarray(self.trace.scores[stage][rows])


def laws(family: type) -> Iterator[str]:
    return (name for name in dir(family) if name.startswith("test_"))


def test_every_law_has_a_fault_that_it_must_find() -> None:
    for family, faults in (
        (RuntimeLaws, RUNTIMES),
        (EngineLaws, ENGINES),
        (DriverLaws, DRIVERS),
        (PolicyLaws, POLICIES),
    ):
        assert {law for law, _ in faults} == {law.removeprefix("test_") for law in laws(family)}


# ------------------------------------------------------------------------------ runtimes


class Hole(Numbered):
    def says(self, stage: str, x: AnyArray) -> FloatArray:
        found = super().says(stage, x).copy()
        found[-1, 0] = np.nan
        return found


class ClassLeftOut(Numbered):
    def says(self, stage: str, x: AnyArray) -> FloatArray:
        return super().says(stage, x)[:, 1:]


class RowLeftOut(Numbered):
    def says(self, stage: str, x: AnyArray) -> FloatArray:
        return super().says(stage, x)[1:]


class BatchNormalised(Numbered):
    def says(self, stage: str, x: AnyArray) -> FloatArray:
        found = super().says(stage, x)
        return np.asarray(found - found.mean(axis=0))


class Exchanged(Numbered):
    def says(self, stage: str, x: AnyArray) -> FloatArray:
        return super().says(stage, np.concatenate([x[1:2], x[:1], x[2:]]))


class WrongAlone(Numbered):
    def says(self, stage: str, x: AnyArray) -> FloatArray:
        return super().says(stage, x) * (2.0 if len(x) < 4 else 1.0)


class AnyShape(Numbered):
    reads = Value()

    def says(self, stage: str, x: AnyArray) -> FloatArray:
        return super().says(stage, x.reshape(len(x), -1)[:, :2])


class OnItsWay(Numbered):
    """Sound where a stage runs alone."""

    batch: type[Batch]

    def run(self, stage: str, x: AnyArray | Fields) -> FloatArray:
        return Numbered(self.trace).run(stage, x)

    def begin(self, x: AnyArray | Fields) -> Batch:
        return self.batch(self, fields_of(x))


class Backwards(OnItsWay):
    """Only a batch on its way has its rows out of order."""

    class batch(Batch):  # noqa: N801
        def advance(self, stage: str, rows: IntArray | None) -> None:
            super().advance(stage, rows if rows is None else rows[::-1])


class AnotherStage(OnItsWay):
    """Only a batch on its way is answered by another stage."""

    class batch(Batch):  # noqa: N801
        def answer(self, stage: str, rows: IntArray | None) -> FloatArray:
            return super().answer({"b": "c", "c": "b"}.get(stage, stage), rows)


class NeedsRows(Numbered):
    def begin(self, x: AnyArray | Fields) -> Batch:
        assert len(fields_of(x)["x"]), "a batch of no rows"
        return super().begin(x)


RUNTIMES: list[tuple[str, Numbered]] = [
    ("scores_have_one_finite_row_per_input", Hole()),
    ("scores_have_one_finite_row_per_input", ClassLeftOut()),
    ("scores_have_one_finite_row_per_input", RowLeftOut()),
    ("a_row_does_not_depend_on_its_batch", BatchNormalised()),
    ("a_row_does_not_depend_on_its_batch", Exchanged()),
    ("a_row_does_not_depend_on_its_batch", WrongAlone()),
    ("live_is_replay", Backwards()),
    ("live_is_replay", AnotherStage()),
    ("batch_order_changes_nothing", Exchanged()),
    ("batch_size_changes_nothing", BatchNormalised()),
    ("batch_size_changes_nothing", WrongAlone()),
    ("zero_rows_give_zero_answers", NeedsRows()),
    ("inputs_of_another_shape_are_refused", AnyShape()),
]


def named(value: object) -> str:
    return value if isinstance(value, str) else type(value).__name__


@pytest.mark.parametrize(("law", "runtime"), RUNTIMES, ids=named)
def test_laws_of_runtimes_find_faults(law: str, runtime: Numbered) -> None:
    getattr(RuntimeLaws(), f"test_{law}")(Numbered(), PLAN, X)
    with pytest.raises(AssertionError):
        getattr(RuntimeLaws(), f"test_{law}")(runtime, PLAN, X)


# ------------------------------------------------------------------------------ engines


SOUND = engine_named("onnxruntime")


def changed(change: Callable[[Program], Program]) -> Engine:
    """A sound engine whose programs are changed."""
    return replace(SOUND, open=lambda file, threads: change(SOUND.open(file, threads)))


def running(change: Callable[[Run], Run]) -> Engine:
    return changed(lambda program: replace(program, run=change(program.run)))


def axes_forgotten(program: Program) -> Program:
    return replace(program, outputs=dict.fromkeys(program.outputs, Value()))


def last_first(program: Program) -> Program:
    return replace(program, outputs=dict(reversed([*program.outputs.items()])))


def any_inputs(program: Program) -> Program:
    """Reads what it can of whatever comes."""

    def run(fields: Fields, wanted: Sequence[str]) -> Mapping[str, AnyArray]:
        fitting = {
            name: np.resize(np.real(x), (len(x), 6)).astype(np.float32)
            for name, x in fields.items()
        }
        return program.run(fitting, wanted)

    return replace(program, inputs=dict.fromkeys(program.inputs, Value()), run=run)


def once_and_for_all(run: Run) -> Run:
    """Gives again what it gave for as many rows."""
    known: dict[tuple[object, ...], Mapping[str, AnyArray]] = {}

    def cached(fields: Fields, wanted: Sequence[str]) -> Mapping[str, AnyArray]:
        key = (*wanted, *(len(np.atleast_1d(x)) for x in fields.values()))
        return known.setdefault(key, run(fields, wanted))

    return cached


def in_the_same_memory(run: Run) -> Run:
    kept: dict[str, AnyArray] = {}

    def view(fields: Fields, wanted: Sequence[str]) -> Mapping[str, AnyArray]:
        for name, value in run(fields, wanted).items():
            if name in kept and kept[name].shape == value.shape:
                kept[name][...] = value
            else:
                kept[name] = value
        return {name: kept[name] for name in wanted}

    return view


def in_place(run: Run) -> Run:
    def writing(fields: Fields, wanted: Sequence[str]) -> Mapping[str, AnyArray]:
        found = run(fields, wanted)
        for x in fields.values():
            x *= 0
        return found

    return writing


def normalised(run: Run) -> Run:
    def over_the_batch(fields: Fields, wanted: Sequence[str]) -> Mapping[str, AnyArray]:
        found = run(fields, wanted)
        return {n: v - v.mean(axis=0) if v.shape[-1] == 4 else v for n, v in found.items()}

    return over_the_batch


def as_it_lies(run: Run) -> Run:
    def in_order(fields: Fields, wanted: Sequence[str]) -> Mapping[str, AnyArray]:
        return run({n: x.ravel(order="K").reshape(x.shape) for n, x in fields.items()}, wanted)

    return in_order


def opens_anything(file: Path, threads: int) -> Program:
    try:
        return SOUND.open(file, threads)
    except Exception:
        return Program({}, {}, lambda fields, wanted: {})


def doubled_alone(run: Run) -> Run:
    def single(fields: Fields, wanted: Sequence[str]) -> Mapping[str, AnyArray]:
        rows = {len(x) for x in fields.values() if x.ndim}
        return {n: v * 2 if rows == {1} else v for n, v in run(fields, wanted).items()}

    return single


ENGINES: list[tuple[str, Engine]] = [
    ("it_says_what_a_file_reads_and_makes", changed(axes_forgotten)),
    ("it_says_what_a_file_reads_and_makes", changed(last_first)),
    ("it_says_what_a_file_reads_and_makes", replace(SOUND, version="")),
    ("outputs_are_those_of_the_file", running(once_and_for_all)),
    ("what_it_gave_and_was_given_stays", running(in_the_same_memory)),
    ("what_it_gave_and_was_given_stays", running(in_place)),
    ("a_row_does_not_depend_on_its_batch", running(normalised)),
    ("a_row_does_not_depend_on_its_batch", running(doubled_alone)),
    ("inputs_may_lie_in_memory_as_they_like", running(as_it_lies)),
    ("inputs_that_it_does_not_read_are_refused", changed(any_inputs)),
    ("files_that_are_no_networks_are_refused", replace(SOUND, open=opens_anything)),
    ("a_network_in_parts_answers_as_the_whole", changed(axes_forgotten)),
    ("a_network_in_parts_answers_as_the_whole", running(in_the_same_memory)),
    ("live_is_replay", running(doubled_alone)),
    ("a_file_per_stage_answers_alike", running(doubled_alone)),
]


@pytest.mark.parametrize("law", sorted(laws(EngineLaws)))
def test_what_is_sound_passes_the_laws_of_engines(law: str, tmp_path: Path) -> None:
    getattr(EngineLaws(), law)(SOUND, tmp_path)


@pytest.mark.parametrize(("law", "engine"), ENGINES)
def test_laws_of_engines_find_faults(law: str, engine: Engine, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, NetworkError)):
        getattr(EngineLaws(), f"test_{law}")(engine, tmp_path)


# ------------------------------------------------------------------------------ drivers


@dataclass(frozen=True)
class Drives:
    """A sound driver, unless a plan, what is read or what is answered is changed."""

    plan: Callable[[Plan], Plan] = lambda plan: plan
    reads: Callable[[AnyArray], AnyArray] = lambda x: x
    turns: Callable[[float | None], float | None] = lambda tradeoff: tradeoff
    says: Callable[[Answers], Answers] = lambda found: found

    def __call__(self, x: AnyArray | Fields, tradeoff: float | None = None) -> Answers:
        assert isinstance(x, np.ndarray)
        return self.says(Walker(self.plan(PLAN), Numbered())(self.reads(x), self.turns(tradeoff)))


def rolled(found: Answers) -> Answers:
    names = ("answer", "position", "cost", "scores")
    return replace(found, **{name: np.roll(getattr(found, name), 1, axis=0) for name in names})


def other_scores(found: Answers) -> Answers:
    """The answers of the last stage, wherever a row stopped."""
    return replace(found, scores=infer(replace(PLAN, tradeoff=2.0), Numbered(), X).scores)


def heads_alone(plan: Plan) -> Plan:
    body = plan.costs.body
    return replace(
        plan, costs=Costs(dict.fromkeys(body, 0.0), dict(body), plan.costs.unit, whole=body)
    )


def padded(found: Answers) -> Answers:
    if len(found.answer):
        return found
    return replace(found, answer=np.zeros(1, np.int64), scores=np.zeros((1, PLAN.classes)))


def without_classes(found: Answers) -> Answers:
    return found if len(found.answer) else replace(found, scores=np.zeros((0, 0)))


def by_place(found: Answers) -> Answers:
    """Rounds every second row more."""
    scores = found.scores.copy()
    scores[::2] = scores[::2].round(1)
    return replace(found, scores=scores)


def by_size(found: Answers) -> Answers:
    return replace(found, scores=found.scores * (2 if len(found.scores) == 1 else 1))


def no_numbers_are_zero(x: AnyArray) -> AnyArray:
    return np.nan_to_num(x, posinf=0.0)


def all_or_none(x: AnyArray) -> AnyArray:
    return x if np.isfinite(x).all() else np.full_like(x, np.nan)


DRIVERS: list[tuple[str, Drives]] = [
    ("live_is_replay", Drives(says=rolled)),
    ("live_is_replay", Drives(says=other_scores)),
    ("live_is_replay", Drives(says=lambda a: replace(a, answer=(a.answer + 1) % 5))),
    ("live_is_replay", Drives(says=lambda a: replace(a, position=np.zeros_like(a.position)))),
    ("live_is_replay", Drives(plan=lambda plan: replace(plan, committees={}))),
    ("live_is_replay", Drives(plan=lambda plan: replace(plan, refits={}))),
    ("live_is_replay", Drives(plan=lambda plan: replace(plan, tradeoff=0.5))),
    ("live_is_replay", Drives(plan=heads_alone, says=lambda a: replace(a, cost=a.cost * 2))),
    ("the_dial_turns_as_in_replay", Drives(turns=lambda _: None)),
    ("the_dial_turns_as_in_replay", Drives(turns=lambda t: 0.5 if t != t else t)),
    ("batch_order_changes_nothing", Drives(says=by_place)),
    ("batch_size_changes_nothing", Drives(says=by_size)),
    ("zero_rows_give_zero_answers", Drives(says=padded)),
    ("zero_rows_give_zero_answers", Drives(says=without_classes)),
    ("what_is_no_number_never_leaves_early", Drives(reads=no_numbers_are_zero)),
    ("what_is_no_number_never_leaves_early", Drives(reads=all_or_none)),
    (
        "inputs_that_the_networks_do_not_read_are_refused",
        Drives(reads=lambda x: np.resize(x.real, (len(x), 2)).astype(np.float32)),
    ),
    ("a_tradeoff_below_zero_is_refused", Drives(turns=lambda t: None if t and t < 0 else t)),
]


def given(law: str, driver: Driver) -> Mapping[str, object]:
    fixtures = {"driver": driver, "runtime": Numbered(), "plan": PLAN, "x": X}
    method = getattr(DriverLaws, f"test_{law}")
    return {name: fixtures[name] for name in method.__annotations__ if name != "return"}


@pytest.mark.parametrize(("law", "driver"), DRIVERS)
def test_laws_of_drivers_find_faults(law: str, driver: Drives) -> None:
    check = getattr(DriverLaws(), f"test_{law}")
    check(**given(law, Drives()))
    with pytest.raises(AssertionError):
        check(**given(law, driver))


def test_a_dial_is_there_for_every_tradeoff_or_for_none() -> None:
    def fixed(tradeoff: float | None) -> float | None:
        if tradeoff in PLAN.policy.settings[1:]:
            raise PlanError("Export it with --dial.")
        return tradeoff

    law = DriverLaws().test_the_dial_turns_as_in_replay
    with pytest.raises(AssertionError, match="or none"):
        law(**given("the_dial_turns_as_in_replay", Drives(turns=fixed)))  # type: ignore[arg-type]


def test_a_plan_that_decides_everything_by_a_hair_compares_nothing() -> None:
    """Where all rows are as sure as the threshold asks, every answer would do."""
    scores = {s: np.repeat(v[:1], LEARN.examples, axis=0) for s, v in LEARN.scores.items()}
    runtime = Numbered(replace(LEARN, scores=scores))
    seen = Seen("a", np.arange(1), {"a": (np.arange(1), scores["a"][:1])}, LEARN.kinds)
    plan = replace(PLAN, tradeoff=float(PLAN.policy.evidence(seen)[0, 0]), committees={}, refits={})
    with pytest.raises(AssertionError, match="little is compared"):
        RuntimeLaws().test_live_is_replay(runtime, plan, X)


# ------------------------------------------------------------------------------ policies


TRACE = synthetic(300, seed=4)


class ByRank(Threshold):
    """Compares a row with the others of its batch."""

    def evidence(self, seen: Seen) -> FloatArray:
        found = super().evidence(seen)
        return np.asarray(found - found.mean())


class TooFar(Threshold):
    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return super().choose(stage, evidence, setting) * 2


class HalfWay(Threshold):
    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return super().choose(stage, evidence, setting) / 2  # type: ignore[return-value]


class OneForAll(Threshold):
    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return super().choose(stage, evidence, setting)[:1]


class WrongWay(Threshold):
    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return np.where(evidence[:, 0] >= setting, 1, STOP)


class Deaf(Threshold):
    """Ignores its dial."""

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return super().choose(stage, evidence, 0.5)


class Forgetful(Threshold):
    """Decides by something that is not written."""

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return super().choose(stage, evidence, setting / 2)


class Infinite(Threshold):
    """Holds what JSON cannot."""

    def to_json(self) -> dict[str, Any]:
        return {"cut": np.inf}


class Unread(Threshold):
    """What it holds is not looked for where it is read."""

    def to_json(self) -> dict[str, Any]:
        return {"cut": 0.5}


class Unforced(Threshold):
    """Decides as ever."""

    def forced(self, *, goes_on: bool) -> tuple[Threshold, float]:
        return self, float(np.median(self.settings))


class Reversed(Threshold):
    def forced(self, *, goes_on: bool) -> tuple[Threshold, float]:
        return super().forced(goes_on=not goes_on)


class OtherForm(Threshold):
    """Exported, it looks at something else."""

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        return Threshold(self.graph, self.settings, "myopic").decision(seen, dial)


class Stuck(Threshold):
    """Exported, it ignores its dial."""

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        return super().decision(seen, Dial(dial.default))


POLICIES: list[tuple[str, type[Threshold]]] = [
    ("evidence_of_a_row_does_not_depend_on_the_others", ByRank),
    ("choices_are_actions_of_the_stage", TooFar),
    ("choices_are_actions_of_the_stage", HalfWay),
    ("choices_are_actions_of_the_stage", OneForAll),
    ("the_dial_goes_from_safe_to_cheap", WrongWay),
    ("the_dial_goes_from_safe_to_cheap", Deaf),
    ("saved_and_loaded_it_decides_alike", Forgetful),
    ("saved_and_loaded_it_decides_alike", Infinite),
    ("damaged_json_is_refused", Unread),
    ("forced_it_always_does_the_same", Unforced),
    ("forced_it_always_does_the_same", Reversed),
    ("exported_it_decides_alike", OtherForm),
    ("exported_it_decides_alike", Stuck),
]


@pytest.mark.parametrize(("law", "policy"), POLICIES)
def test_laws_of_policies_find_faults(law: str, policy: type[Threshold]) -> None:
    check = getattr(PolicyLaws(), f"test_{law}")
    given = (TRACE,) if "trace" in inspect.signature(check).parameters else ()
    check(Threshold.fit("margin", TRACE), *given)
    with pytest.raises(AssertionError):
        check(policy.fit("margin", TRACE), *given)
