"""Which rows teach and which certify: order, seal, copies, ledger; several looks and budgets."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.base import hashing
from offramp.base.arrays import FloatArray, IntArray
from offramp.base.errors import (
    BudgetError,
    CostError,
    InputError,
    LossError,
    OfframpError,
    StorageError,
    TraceError,
)
from offramp.core.graph import Costs
from offramp.core.ledger import LEDGER, Ledger, Look
from offramp.core.trace import Trace, assemble
from offramp.learn.latency import Latency
from offramp.plan.asked import Asked, Choices, Promise, Split
from offramp.plan.evaluate import evaluate
from offramp.plan.fit import draft, fit, fit_each
from offramp.plan.job import Job, prepare
from offramp.plan.needs import needs
from offramp.plan.plan import Plan
from offramp.policies import FAMILIES, policy_to_json
from offramp.promise import split
from offramp.promise.certify import Certificate
from offramp.study.compare import compare
from offramp.testing import synthetic
from tests.made import unseen

TRACE = synthetic(1500, seed=1)
OTHER = synthetic(1500, seed=2)
SMALL = synthetic(300, seed=3)


def shuffled(trace: Trace, seed: int = 0) -> Trace:
    return trace.take(np.random.default_rng(seed).permutation(trace.examples))


@given(st.lists(st.integers(0, 5), max_size=40))
def test_copies_are_counted_as_in_a_loop(values: list[int]) -> None:
    found = hashing.repeats(np.array(values, dtype=np.uint64))
    assert found.tolist() == [values[:place].count(v) for place, v in enumerate(values)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.randoms())
def test_the_order_of_rows_does_not_depend_on_their_places(
    values: list[int], random: object
) -> None:
    """The same rows elsewhere have the same turns, whichever of equal rows has which."""
    hashes = hashing.hash_rows(np.array(values))
    there = np.random.default_rng(len(values)).permutation(len(values))
    assert sorted(hashing.turns(hashes)) == sorted(hashing.turns(hashes[there]))
    assert len(set(hashing.turns(hashes).tolist())) == len(values)


def test_hashes_see_every_value_and_only_values() -> None:
    x = np.random.default_rng(0).normal(size=(50, 3, 2)).astype(np.float32)
    y = np.arange(50)
    found = hashing.hash_rows(x, y)
    assert len(set(found.tolist())) == 50
    assert (hashing.hash_rows(np.asfortranarray(x), y) == found).all()
    for changed in (x.copy(), y.copy()):
        changed[7] += 1
        given = (changed, y) if changed.ndim > 1 else (x, changed)
        assert np.flatnonzero(hashing.hash_rows(*given) != found).tolist() == [7]


def test_few_turns_come_early_by_chance_alone() -> None:
    """The order knows nothing of losses: the front is as good a sample as any."""
    trace = synthetic(40_000, seed=3)
    wrong = trace.losses().values["small"][np.argsort(trace.turns)]
    front, back = wrong[:10_000], wrong[10_000:]
    noise = np.sqrt(wrong.var() * (1 / len(front) + 1 / len(back)))
    assert abs(front.mean() - back.mean()) < 4 * noise


def test_a_trace_keeps_its_order_through_files_and_rows_elsewhere(tmp_path: Path) -> None:
    TRACE.write(tmp_path / "trace")
    read = Trace.read(tmp_path / "trace")
    assert (read.turns == TRACE.turns).all()
    assert read.seal is None
    other = shuffled(TRACE)
    assert other.digest == TRACE.digest
    one, two = split.shown(unseen(TRACE), "fit"), split.shown(other, "fit")
    assert (one.identity == two.identity).all()
    moved = replace(TRACE, scores={s: v + 1 for s, v in TRACE.scores.items()})
    assert (moved.turns == TRACE.turns).all()  # fixed when the trace was made


def test_a_fit_does_not_know_the_order_of_rows() -> None:
    one, two = (fit(t, 0.05, policy="learned") for t in (unseen(TRACE), shuffled(TRACE)))
    assert policy_to_json(one.policy) == policy_to_json(two.policy)
    assert one.certificate == two.certificate


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_what_is_sealed_is_seen_by_certificates_alone(share: float) -> None:
    trace = replace(unseen(TRACE), seal=share)
    first = split.shown(trace, "compare")
    assert first.examples == round((1 - share) * trace.examples)
    if share == 0:
        with pytest.raises(TraceError, match="nothing of this trace is sealed"):
            fit(trace, 0.05)
        assert fit(unseen(TRACE), 0.05, certify_on=replace(OTHER, seal=0.0, ledger=Ledger()))
        return
    plan = fit(trace, 0.05, policy="margin")
    assert plan.certificate.examples == trace.examples - first.examples
    assert plan.info["learning_examples"] == first.examples
    with pytest.raises(BudgetError, match="is sealed"):
        fit(trace, 0.05, learn_share=1.1 - share if share > 0.2 else 0.9)


def labels_of(trace: Trace) -> IntArray:
    assert trace.labels is not None
    return trace.labels


def replaced(trace: Trace, rows: IntArray, seed: int = 5) -> Trace:
    """Some rows replaced by noise: scores, labels and losses; where they open stays."""
    random = np.random.default_rng(seed)
    labels = labels_of(trace).copy()
    labels[rows] = random.integers(0, trace.classes, len(rows))
    loss = trace.loss and {stage: values.copy() for stage, values in trace.loss.items()}
    for values in (loss or {}).values():
        values[rows] = random.random(len(rows))
    scores = {stage: values.copy() for stage, values in trace.scores.items()}
    for values in scores.values():
        values[rows] = random.normal(size=(len(rows), trace.classes)) * 3
    return replace(trace, scores=scores, labels=labels, loss=loss, ledger=Ledger())


@dataclass(frozen=True)
class Case:
    """What `fit_each` is asked for, and of how many examples."""

    asked: Asked
    examples: int = 240
    apart: bool = False  # whether other examples certify


def case(*budgets: float, examples: int = 240, apart: bool = False, **options: Any) -> Case:
    return Case(Asked.of(*(budgets or (0.05,)), **options), examples, apart)


REQUESTS = Latency(
    batch=4,
    parts={s: {1: 3.0**i, 4: 9.0**i} for i, s in enumerate(SMALL.graph.order)},
    stop={1: 0.1},
)
CASES: dict[str, Case] = {
    "default": case(),
    "pool": case(pool=True, policy="margin"),
    "refit": case(refit=True, policy="margin", examples=600),
    "all stages": case(keep_stages=True, policy="margin"),
    "four hundred": case(examples=1200),
    "alone": case(committees=False, policy="margin"),
    "induced": case(excess="induced", policy="learned"),
    "unlabelled": case(unlabelled=True, policy="margin"),
    "top2": case(loss="top2", policy="margin"),
    "a function": case(loss=f"{__name__}:near", policy="learned"),
    "recorded": case(loss="recorded", policy="learned"),
    "share": case(learn_share=0.2, seed=3, policy="margin"),
    "looks": case(looks=4, confidence=0.9, policy="thresholds"),
    "copies": case(repeats="copies", policy="margin"),
    "real": case(repeats="real", policy="margin"),
    "budgets": case(0.02, 0.05, 0.2, policy="margin"),
    "latency": case(policy="learned", prices=REQUESTS),
    "apart": case(policy="margin", apart=True),
    **{name: case(policy=name) for name in FAMILIES},
}


def test_every_option_of_a_fit_is_asked_for_somewhere() -> None:
    """But for the networks, which are copied and teach nothing, and who certifies: `apart`."""
    names = set()
    for part, record in (("promise", Promise), ("choices", Choices), ("split", Split)):
        for option in fields(record):
            names.add(option.name)
            values = {repr(getattr(getattr(c.asked, part), option.name)) for c in CASES.values()}
            assert len(values) > 1 or option.name == "certify_on", option.name
    assert any(case.apart for case in CASES.values())
    flat = set(inspect.signature(fit).parameters) - {"trace", "budget", "networks", "progress"}
    assert flat == names - {"budgets"}


def near(scores: FloatArray, labels: IntArray) -> FloatArray:
    """A loss with many values: how far the answer lies from the label."""
    return np.asarray(abs(scores.argmax(axis=1) - labels) / 10)


@pytest.mark.parametrize("name", CASES)
def test_nothing_that_is_learned_knows_the_sealed_rows(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    asked, budgets = case.asked, case.asked.promise.budgets
    trace = synthetic(case.examples, seed=7)
    if asked.promise.loss == "recorded":
        loss = {s: near(v, labels_of(trace)) for s, v in trace.scores.items()}
        trace = replace(trace, loss=loss)
    count = round((asked.split.learn_share or 0) * trace.examples) or trace.unsealed
    noisy = replaced(trace, np.argsort(trace.turns)[count:])
    others = synthetic(case.examples, seed=8)
    pairs: list[tuple[Trace, Trace | None]] = [(trace, None), (noisy, None)]
    if case.apart:
        pairs = [(trace, others), (unseen(trace), replaced(others, np.arange(others.examples)))]
    jobs: list[Job] = []

    def noted(*arguments: Any, **options: Any) -> Job:
        jobs.append(prepare(*arguments, **options))
        return jobs[-1]

    monkeypatch.setattr(inspect.getmodule(fit_each), "prepare", noted)
    plans = [
        fit_each(one, replace(asked, split=replace(asked.split, certify_on=other)))
        for one, other in pairs
    ]
    assert len(jobs) == 2 * len(budgets)
    for one, two in zip(jobs[: len(budgets)], jobs[len(budgets) :], strict=True):
        assert learned(one) == learned(two)
    for one_plan, two_plan in zip(*plans, strict=True):
        assert one_plan.certificate.method == two_plan.certificate.method
        assert sequence(one_plan)[0] == sequence(two_plan)[0]
        assert one_plan.certificate != two_plan.certificate  # and what is certified does


def learned(job: Job) -> dict[str, Any]:
    """Everything that is fixed before the sealed rows are looked at."""
    return {
        "policy": policy_to_json(job.taught.policy),
        "tried": job.taught.held_out,
        "committees": {s: c.to_json() for s, c in job.taught.lesson.committees.items()},
        "refits": {s: r.to_json() for s, r in job.material.refits.items()},
        "order": job.order,
        "cost": job.taught.cost,
        "dropped": job.taught.dropped,
        "costs": job.certifying.costs,
        "binary": job.taught.lesson.losses.binary,
    }


def sequence(plan: Plan) -> list[tuple[float | None, str | None]]:
    found = plan.certificate
    return [(p.tradeoff, p.stage) for p in (*found.points, *found.statics)]


def test_what_is_shown_knows_no_sealed_row() -> None:
    noisy = replaced(TRACE, np.argsort(TRACE.turns)[TRACE.unsealed :])
    for shows in (
        lambda t: needs(t, 0.05).to_json(),
        lambda t: [p.to_json() for p in compare(t, bands=False, policies=["margin"]).exact_oracle],
    ):
        assert shows(unseen(TRACE)) == shows(noisy)


def test_copies_are_no_examples() -> None:
    few = synthetic(300, seed=4)
    many = few.take(np.tile(np.arange(300), 20))
    with pytest.raises(TraceError, match="--repeats copies"):
        fit(many, 0.05)
    once = fit(unseen(many), 0.05, repeats="copies", policy="margin")
    assert once.certificate.examples == fit(few, 0.05, policy="margin").certificate.examples == 200
    drawn = fit(unseen(many), 0.05, repeats="real", policy="margin")
    assert drawn.certificate.examples > 3000
    other = replace(few, labels=(labels_of(few) + 1) % 10)  # other examples
    both = assemble(
        few.graph,
        few.costs,
        {s: np.concatenate([few.scores[s], other.scores[s]]) for s in few.graph.order},
        labels=np.concatenate([labels_of(few), labels_of(other)]),
    )
    assert fit(both, 0.05, policy="margin").certificate.examples == 400


def test_examples_that_teach_do_not_certify_wherever_they_lie(tmp_path: Path) -> None:
    TRACE.write(tmp_path / "trace")
    shared = np.arange(1000, 1500)
    mixed = assemble(
        TRACE.graph,
        TRACE.costs,
        {s: np.concatenate([TRACE.scores[s][shared], OTHER.scores[s]]) for s in TRACE.scores},
        labels=np.concatenate([labels_of(TRACE)[shared], labels_of(OTHER)]),
    )
    for same in (TRACE, shuffled(TRACE), Trace.read(tmp_path / "trace")):
        with pytest.raises(TraceError, match="the same examples"):
            fit(unseen(TRACE), 0.05, certify_on=unseen(same))
        with pytest.raises(TraceError, match="the same examples"):
            fit(unseen(TRACE), 0.05, certify_on=unseen(same), repeats="real")
    with pytest.raises(TraceError, match="500 of the 2000"):
        fit(unseen(TRACE), 0.05, certify_on=mixed)
    left = fit(unseen(TRACE), 0.05, certify_on=mixed, repeats="copies", policy="margin")
    assert left.certificate.examples == 1500


def test_recordings_are_compared_by_what_networks_read() -> None:
    inputs = hashing.hash_rows(np.arange(1500))
    recorded = replace(TRACE, hashes=inputs, hash_of="inputs", ledger=Ledger())
    again = replace(OTHER, hashes=inputs[::-1].copy(), hash_of="inputs", ledger=Ledger())
    with pytest.raises(TraceError, match="the same examples"):
        fit(recorded, 0.05, certify_on=again)
    with pytest.raises(TraceError, match="the same examples"):  # only their scores are at hand
        fit(recorded, 0.05, certify_on=unseen(TRACE))


def test_examples_that_trained_heads_certify_nothing() -> None:
    taught = np.zeros(1500, dtype=bool)
    taught[:5] = True
    few = replace(TRACE, taught=taught, ledger=Ledger())
    assert fit(few, 0.05, policy="margin").certificate.examples >= 995
    for share in (0.3, 1.0):
        many = replace(TRACE, taught=np.arange(1500) < share * 1500, ledger=Ledger())
        with pytest.raises(TraceError, match="trained heads"):
            fit(many, 0.05)
        with pytest.raises(TraceError, match="trained heads"):
            evaluate(fit(unseen(TRACE), 0.05, policy="margin"), many)


@pytest.mark.parametrize(
    ("name", "change", "refused"),
    [
        ("networks", {"info": {"networks": {"small": "b"}}}, TraceError),
        ("preprocessing", {"info": {"preprocessing": {"size": [8, 8]}}}, TraceError),
        ("unit of cost", {"costs": replace(OTHER.costs, unit="J")}, CostError),
    ],
)
def test_another_system_certifies_nothing(
    name: str, change: dict[str, object], refused: type[OfframpError]
) -> None:
    info = {"networks": {"small": "a"}, "preprocessing": None}
    trace = replace(TRACE, info=info, ledger=Ledger())
    same = replace(OTHER, info=info, ledger=Ledger())
    other = replace(same, **change, ledger=Ledger())  # type: ignore[arg-type]
    with pytest.raises(TraceError, match=f"other {name}"):
        fit(trace, 0.05, certify_on=other)
    plan = fit(unseen(trace), 0.05, certify_on=same, policy="margin")
    assert evaluate(plan, same)
    with pytest.raises(refused, match=r"other|do not compare"):
        evaluate(plan, other)


def test_costs_that_count_are_those_that_were_learned_with() -> None:
    dear = Costs({s: 3 * c for s, c in OTHER.costs.body.items()}, OTHER.costs.head)
    other = replace(OTHER, costs=replace(dear, unit=TRACE.costs.unit), ledger=Ledger())
    plan = fit(unseen(TRACE), 0.05, certify_on=other, policy="margin")
    assert plan.certificate.reference_cost == TRACE.reference_cost


def test_a_second_look_is_counted_and_the_same_one_is_not(tmp_path: Path) -> None:
    TRACE.write(tmp_path / "trace")

    def look(**choices: object) -> Certificate:
        return fit(Trace.read(tmp_path / "trace"), 0.05, **choices).certificate  # type: ignore[arg-type]

    first = look(policy="margin")
    assert (first.look, first.confidence, first.joint_confidence) == (1, 0.95, 0.95)
    assert look(policy="margin") == first
    second = look(policy="margin", seed=1)
    assert (second.look, second.confidence) == (2, 0.95)
    assert second.joint_confidence == pytest.approx(0.9)
    third = look(policy="margin", looks=5, seed=2)
    assert third.level == pytest.approx(0.01)
    assert third.joint_confidence == pytest.approx(0.89)
    plan = fit(Trace.read(tmp_path / "trace"), 0.05, policy="margin")
    assert plan.certificate == first
    evaluate(plan, Trace.read(tmp_path / "trace"))
    evaluate(plan, Trace.read(tmp_path / "trace"))
    assert len(Ledger.read(tmp_path / "trace").looks) == 4


def test_what_was_shown_certifies_no_more() -> None:
    trace = unseen(TRACE)
    assert fit(trace, 0.05, learn_share=0.1, policy="margin").certificate.examples == 1350
    compare(trace, policies=["margin"], bands=False)
    assert fit(trace, 0.05, learn_share=0.1, policy="margin").certificate.examples == 1000
    split.opened(trace, "report", trace.examples)
    with pytest.raises(TraceError, match="has been opened"):
        fit(trace, 0.05)


def test_a_draft_looks_at_no_sealed_row() -> None:
    trace = unseen(TRACE)
    plan = draft(trace, Asked.of(0.05, policy="margin"))
    assert trace.ledger.looks == []
    assert not plan.routes
    noisy = replaced(trace, np.argsort(trace.turns)[trace.unsealed :])
    other = draft(noisy, Asked.of(0.05, policy="margin"))
    assert policy_to_json(plan.policy) == policy_to_json(other.policy)


def test_a_ledger_survives_a_line_cut_short_and_refuses_a_damaged_one(tmp_path: Path) -> None:
    ledger = Ledger.read(tmp_path)
    ledger.open("fit", 77)
    ledger.look(Look("fit", "a", 0.05))
    file = tmp_path / LEDGER
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"by": "fit", "que')
    again = Ledger.read(tmp_path)
    assert (again.mark, len(again.looks)) == (77, 1)
    assert again.look(Look("fit", "b", 0.05)) == 2
    assert Ledger.read(tmp_path).looks == again.looks
    endless = b'{"by": "fit", "question": "a", "error": NaN}'
    nonsense = (b"[1]", b"nothing", b'{"by": "x"}', b'{"opened": 7}', b"\xff", b"[" * 90_000)
    for damaged in (endless, *nonsense):
        file.write_bytes(whole + damaged + b"\n")
        with pytest.raises(TraceError, match="ledger"):
            Ledger.read(tmp_path)


def test_a_ledger_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    trace = replace(TRACE, ledger=Ledger(tmp_path / "gone" / LEDGER))
    with pytest.raises(StorageError, match="what has been seen"):
        fit(trace, 0.05)


def test_several_budgets_are_one_look_at_a_shared_error() -> None:
    budgets = [0.02, 0.05, 0.1]
    trace = unseen(TRACE)
    plans = fit_each(trace, Asked.of(*budgets, policy="margin"))
    assert len(trace.ledger.looks) == 1
    assert [plan.certificate.budget for plan in plans] == budgets
    for plan in plans:
        assert plan.certificate.level >= 0.05 / 3 - 1e-12
        assert plan.certificate.joint_confidence == pytest.approx(0.95)
    costs = [plan.certificate.cost for plan in plans]
    assert all(b <= a for a, b in itertools.pairwise(costs))
    with pytest.raises(InputError, match="no budget"):
        Asked.of()


def test_a_budget_that_needs_no_more_error_hands_it_on() -> None:
    """Where everything passes, the other budget is tested at all of the error."""
    trace = unseen(TRACE)
    plans = fit_each(trace, Asked.of(0.05, 1.0, policy="margin"))
    alone = fit(unseen(TRACE), 0.05, policy="margin")
    assert plans[0].certificate.level == pytest.approx(0.05)
    assert plans[0].certificate.points == alone.certificate.points


def graded(trace: Trace, step: float) -> Trace:
    """The trace with a loss of its own that is 0 or 1 on the front, and in steps on sealed rows."""
    sealed = np.zeros(trace.examples, dtype=bool)
    sealed[np.argsort(trace.turns)[trace.unsealed :]] = True
    values = trace.losses().values
    loss = {s: np.where(sealed, v * step, v).astype(np.float32) for s, v in values.items()}
    return replace(trace, loss=loss, ledger=Ledger())


def test_the_test_is_chosen_on_what_teaches() -> None:
    assert fit(graded(TRACE, 1.0), 0.05).certificate.method == "trinomial"
    with pytest.raises(LossError, match="trinomial test counts"):
        fit(graded(TRACE, 0.5), 0.05)


def test_labels_left_out_do_not_hide_what_taught() -> None:
    bare = assemble(TRACE.graph, TRACE.costs, TRACE.scores, kind="logits")
    with pytest.raises(TraceError, match="the same examples"):
        fit(unseen(TRACE), 0.05, certify_on=bare, unlabelled=True)


def test_some_of_what_taught_are_no_draws() -> None:
    half = unseen(TRACE.take(np.arange(700)))
    with pytest.raises(TraceError, match="they taught"):
        fit(unseen(TRACE), 0.05, certify_on=half, repeats="real")
    random = np.random.default_rng(0)
    table = synthetic(40, seed=5)  # few different examples, drawn one by one
    one, two = (table.take(random.integers(0, 40, 600)) for _ in range(2))
    drawn = fit(one, 0.05, certify_on=two, repeats="real", policy="margin")
    assert drawn.certificate.examples == 600


def test_what_is_refused_opens_nothing() -> None:
    trace = unseen(TRACE)
    with pytest.raises(TraceError, match="to certify on"):
        fit(trace, 0.05, certify_on=OTHER.take(np.arange(10)))
    with pytest.raises(InputError, match="twice"):
        Asked.of(0.05, 0.05)
    with pytest.raises(InputError, match="no option 'pol'"):
        Asked.of(0.05, pol=True)
    with pytest.raises(BudgetError):
        fit(trace, 0.05, learn_share=2.0)
    assert (trace.ledger.mark, trace.ledger.looks) == (-1, [])
    plan = fit(trace, 0.05, policy="margin")
    fresh = unseen(OTHER)
    with pytest.raises(LossError):
        evaluate(plan, fresh, loss="nosuch")
    assert fresh.ledger.looks == []


def test_the_ledger_stays_with_the_rows(tmp_path: Path) -> None:
    unseen(TRACE).write(tmp_path / "trace")
    read = [Trace.read(tmp_path / "trace") for _ in range(2)]  # both before either looks
    looks = [
        fit(trace, 0.05, policy="margin", seed=seed).certificate.look
        for seed, trace in enumerate(read)
    ]
    assert looks == [1, 2]
    unseen(shuffled(TRACE)).write(tmp_path / "trace", force=True)
    assert len(Ledger.read(tmp_path / "trace").looks) == 2
    OTHER.write(tmp_path / "trace", force=True)
    assert Ledger.read(tmp_path / "trace").looks == []


_SCALE = {"scale": 0.5}


def changing(scores: FloatArray, labels: IntArray) -> FloatArray:
    return np.asarray((scores.argmax(axis=1) != labels) * _SCALE["scale"])


def test_another_loss_is_another_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Although it is called the same."""
    trace, name = unseen(TRACE), f"{__name__}:changing"
    assert fit(trace, 0.05, loss=name, policy="margin").certificate.look == 1
    assert fit(trace, 0.05, loss=name, policy="margin").certificate.look == 1
    monkeypatch.setitem(_SCALE, "scale", 0.1)
    assert fit(trace, 0.05, loss=name, policy="margin").certificate.look == 2


def test_what_was_shown_as_a_copy_certifies_no_more() -> None:
    twice = synthetic(600, seed=6).take(np.tile(np.arange(600), 2))
    shown = split.shown(twice, "needs")
    certified = split.sealed(split.distinct(twice, "copies"))
    assert certified.examples > 100
    assert not np.isin(certified.identity, shown.identity).any()


def test_an_evaluation_counts_no_copies_and_judges_no_other_loss() -> None:
    plan = fit(unseen(TRACE), 0.15, policy="margin")
    many = OTHER.take(np.tile(np.arange(150), 40))
    with pytest.raises(TraceError, match="--repeats copies"):
        evaluate(plan, many)
    assert evaluate(plan, many, repeats="copies").examples == 150
    assert evaluate(plan, synthetic(6000, seed=9)).kept == "yes"
    assert evaluate(plan, unseen(OTHER), loss="top5").kept == "unknown"
