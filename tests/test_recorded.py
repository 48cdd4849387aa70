"""What others recorded is read as it should be: on small arrays that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.recorded import TOP5, ranked, reliability, scored, shared, study
from offramp.base.arrays import AnyArray


def test_lists_of_classes_become_recorded_answers() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 40, 400)
    lists = {name: np.stack([random.permutation(40)[:5] for _ in labels]) for name in TOP5}
    lists["resnet50"] = np.stack([[label, *_others(label, random)] for label in labels])
    trace = ranked({"labels": labels, **lists}, TOP5)
    assert str(trace.task) == "recorded"
    assert trace.examples == 200
    assert trace.ids is not None
    assert trace.loss
    assert trace.answers
    rows = trace.ids
    assert trace.loss["resnet50"].max() == 0
    wrong = lists["alexnet"][rows, 0] != labels[rows]
    assert np.array_equal(trace.loss["alexnet"], wrong)
    assert np.array_equal(trace.answers["alexnet"] == trace.answers["resnet50"], ~wrong)
    names = trace.info["observations"]["resnet50"]
    assert names == ["reliability", "lead", "shared0", "shared1"]
    both = [len({*a} & {*b}) for a, b in zip(lists["resnet50"], lists["alexnet"], strict=True)]
    assert np.array_equal(trace.scores["resnet50"][:, 2], np.array(both)[rows])
    assert trace.info["left_aside"] == []


def _others(label: int, random: np.random.Generator) -> AnyArray:
    """Four other classes."""
    return random.permutation(np.delete(np.arange(40), label))[:4]


def test_reliability_is_shrunk_to_kin_and_to_all() -> None:
    answers = np.repeat([0, 1, 30], [1000, 10, 1000])
    labels = np.repeat([0, 2, 31], [1000, 10, 1000])
    found = reliability(answers, labels, 60)
    assert found[0] == pytest.approx(1, abs=0.01)
    assert found[30] == pytest.approx(0, abs=0.01)
    assert 0.5 < found[1] < 0.7  # wrong each time, but a few times, among kin that are right
    assert found[2] == pytest.approx(found[3])  # never answered: as its kin
    assert found[49] < 0.1 < found[2]
    assert found[59] == pytest.approx(1000 / 2010)  # nothing is known of its kin either


def test_lists_share_classes_in_any_order() -> None:
    one, other = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[3, 1, 9], [7, 8, 9]])
    assert shared(one, other).tolist() == [2, 0]


def test_scores_of_language_models_are_a_trace() -> None:
    random = np.random.default_rng(0)
    scores = random.normal(size=(50, 6))
    arrays: dict[str, AnyArray] = {"labels": np.zeros(50, np.int16), "a": scores, "b": 2 * scores}
    trace = scored(arrays, {"a": 7.0, "b": 70.0})
    assert trace.graph.order == ("a", "b")
    assert trace.reference_cost == 70.0


def test_a_study_of_recorded_answers_says_what_policies_save() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 3000)
    lists = {}
    for name, skill in zip(TOP5, (0.6, 0.8, 0.95), strict=True):
        first = np.where(random.random(3000) < skill, labels, (labels + 1) % 10)
        lists[name] = np.stack([first, *((first + n) % 10 for n in range(1, 5))], axis=1)
    found = study(ranked({"labels": labels, **lists}, TOP5), 2)
    assert found["examples"] == 1500
    assert {"learned", "thresholds"} <= {*found["summaries"]["policies"]}
    assert found["promise"]["splits"] == 2
    assert found["promise"]["speedup"] >= 1
