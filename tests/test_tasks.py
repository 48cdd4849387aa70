"""Losses, labels and scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import DataError, LossError, ScoresError
from offramp.core import tasks


def half_wrong(scores: FloatArray, labels: IntArray) -> FloatArray:
    """A loss of our own: a neighbouring class is half as bad."""
    return np.asarray(np.minimum(np.abs(scores.argmax(axis=1) - labels) / 2, 1.0))


def out_of_range(scores: FloatArray, labels: IntArray) -> FloatArray:
    return np.full(len(labels), 2.0)


def failing(scores: FloatArray, labels: IntArray) -> FloatArray:
    raise ValueError("no such\ncolour")


def wrong_shape(scores: FloatArray, labels: IntArray) -> FloatArray:
    return np.zeros(3)


def test_top_k_against_sorting() -> None:
    random = np.random.default_rng(0)
    scores = random.integers(0, 4, (200, 7)).astype(np.float32)  # many ties
    labels = random.integers(0, 7, 200)
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 2, 5):
        expected = [label not in row[:k] for row, label in zip(order, labels, strict=True)]
        assert (tasks.loss_function(f"top{k}")(scores, labels) == expected).all()


def test_ones_own_loss() -> None:
    function = tasks.loss_function(f"{__name__}:half_wrong")
    found = function(np.eye(4)[[0, 1, 3]], np.array([0, 2, 0]))
    assert found.tolist() == [0, 0.5, 1]


@pytest.mark.parametrize(
    "name", ["top0", "accuracy", "no_such_module:f", f"{__name__}:no_such_function"]
)
def test_unknown_losses_are_refused(name: str) -> None:
    with pytest.raises(LossError):
        tasks.loss_function(name)


@pytest.mark.parametrize("name", ["out_of_range", "wrong_shape", "failing"])
def test_a_loss_gives_one_number_between_0_and_1_per_example(name: str) -> None:
    with pytest.raises(LossError):
        tasks.loss_function(f"{__name__}:{name}")(np.eye(5), np.arange(5))


def test_excess_is_net_or_induced() -> None:
    values = {"a": np.array([1, 0, 1, 0.25]), "b": np.array([0, 1, 1, 0.5])}
    losses = tasks.Losses("own", values, "b", "net")
    assert losses.excess("a").tolist() == [1, -1, 0, -0.25]
    assert losses.excess("a", "induced").tolist() == [1, 0, 0, 0]


def test_probabilities_are_told_from_logits() -> None:
    probable = np.array([[0.2, 0.8], [0.5, 0.5005]])
    assert tasks.kind_of(probable, "a") == "probabilities"
    assert tasks.kind_of(probable * 2, "a") == "logits"
    assert tasks.kind_of(probable * 0.8, "a") == "sigmoid"
    assert tasks.kind_of(probable - 0.3, "a") == "logits"
    with pytest.raises(ScoresError, match=r"mixes.* row 1 "):
        tasks.kind_of(np.array([[0.2, 0.8], [3.0, -1.0]]), "a")


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("how", ["float16", "bfloat16", "4 digits"])
def test_probabilities_need_not_sum_to_1_exactly(classes: int, spread: float, how: str) -> None:
    logits = np.random.default_rng(0).normal(size=(300, classes)) * spread
    exact = softmax(logits, axis=1)
    if how == "float16":
        said = exact.astype(np.float16).astype(np.float32)
    elif how == "bfloat16":  # the upper half of a float32
        said = (exact.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)
    else:
        said = np.round(exact, 4)
    assert tasks.kind_of(said, "a") == "probabilities"
    tasks.check_kind(said, "probabilities", "a")
    found = tasks.probabilities(said, "probabilities")
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-9)


def test_few_rows_that_look_otherwise_change_nothing_and_many_are_said() -> None:
    logits = np.random.default_rng(0).normal(size=(5000, 2)) * 3
    logits[7] = (0.25, 0.75)
    assert tasks.kind_of(logits, "a") == "logits"
    assert tasks.doubt(logits, "logits", "a") is None
    some = np.vstack([logits[10:910], np.full((100, 2), 0.5)])
    assert tasks.kind_of(some, "a") == "logits"
    assert "100 of 1000 rows of 'a' look like probabilities" in (
        tasks.doubt(some, "logits", "a") or ""
    )
    apart = np.vstack([np.full((990, 2), 0.5), np.full((10, 2), 0.9)])
    assert tasks.kind_of(apart, "a") == "sigmoid"
    assert "10 of 1000 rows do not sum to 1" in (tasks.doubt(apart, "sigmoid", "a") or "")


@pytest.mark.parametrize("row", [[0.5, 0.6], [-0.5, 1.5], [3.0, 4.0]])
def test_what_is_said_to_be_probabilities_must_be(row: list[float]) -> None:
    tasks.check_kind(np.array([[0.2, 0.8], [0.5, 0.5005]]), "probabilities", "a")
    tasks.check_kind(np.array([[0.2, 0.8], row]), "logits", "a")
    tasks.check_kind(np.array([[0.2, 0.8], [0.5, 0.3]]), "probabilities", "a")  # of few digits
    with pytest.raises(ScoresError, match=r"'a'.* row 1 "):
        tasks.check_kind(np.array([[0.2, 0.8], row]), "probabilities", "a")


def test_what_is_said_to_be_sigmoids_lies_in_0_to_1() -> None:
    tasks.check_kind(np.array([[0.9, 0.9], [0.0, 0.0]]), "sigmoid", "a")
    with pytest.raises(ScoresError, match=r"no sigmoids in row 1 .*largest 3"):
        tasks.check_kind(np.array([[0.9, 0.8], [0.3, 3.0]]), "sigmoid", "a")


@pytest.mark.parametrize("kind", ["logits", "probabilities", "sigmoid"])
def test_whatever_the_kind_the_likeliest_is_the_answer(kind: tasks.Kind) -> None:
    """And more for it, all else equal, is never less sure."""
    scores = np.random.default_rng(0).uniform(0.01, 0.98, size=(500, 5)).astype(np.float32)
    rows, answer = np.arange(500), tasks.answers(scores)
    logs = tasks.log_probabilities(scores, kind)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.exp(logs), tasks.probabilities(scores, kind), atol=1e-5)
    assert (logs.argmax(axis=1) == answer).all()
    more = scores.copy()
    more[rows, answer] += 0.01
    assert (tasks.log_probabilities(more, kind) > logs)[rows, answer].all()


def test_sigmoids_are_as_sure_as_the_chances_that_they_are() -> None:
    """Of each class given that exactly one is right: counted over all combinations."""
    chances = np.array([[0.7, 0.4, 0.1]])
    alone = [0.7 * 0.6 * 0.9, 0.3 * 0.4 * 0.9, 0.3 * 0.6 * 0.1]
    expected = np.array([alone]) / sum(alone)
    np.testing.assert_allclose(tasks.probabilities(chances, "sigmoid"), expected)
    ends = np.array([[1.0, 0.0, 0.5], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]], dtype=np.float32)
    assert np.isfinite(tasks.log_probabilities(ends, "sigmoid")).all()


def test_impossible_classes_are_taken_as_finite_scores() -> None:
    scores = np.array([[1.0, -np.inf, 2.0], [-np.inf, -np.inf, 300.0]])
    found = tasks.check_scores(scores, "a")
    assert np.isfinite(found).all()
    expected = tasks.probabilities(np.array([[1.0, -1e4, 2.0], [-1e4, -1e4, 300.0]]), "logits")
    np.testing.assert_allclose(tasks.probabilities(found, "logits"), expected)
    assert np.isfinite(tasks.log_probabilities(scores, "logits")).all()
    with pytest.raises(ScoresError, match="row 1"):
        tasks.check_scores(np.array([[0.0, 1.0], [-np.inf, -np.inf]]), "a")


@pytest.mark.parametrize("k", [4, 99])
def test_a_loss_that_no_answer_can_have_is_refused(k: int) -> None:
    with pytest.raises(LossError, match=f"top{k}.* 4 classes"):
        tasks.loss_function(f"top{k}")(np.eye(4), np.arange(4))


def test_log_probabilities_are_those_of_either_kind() -> None:
    logits = np.array([[1.0, 2.0, -300.0], [0.0, 0.0, 0.0]], dtype=np.float32)
    found = tasks.log_probabilities(logits, "logits")
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-6)
    probable = np.exp(found)
    np.testing.assert_allclose(
        tasks.log_probabilities(probable, "probabilities")[:, :2], found[:, :2], atol=1e-5
    )


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (np.zeros(3), "shape"),
        (np.zeros((3, 1)), "two classes"),
        (np.array([["a", "b"]]), "floats"),
        (np.array([[0.0, np.nan]]), "NaN"),
        (np.array([[0.0, 1.0], [np.inf, 0.0]]), "row 1"),
        (np.array([[0.0, 1.0], [1e300, 0.0]]), "row 1"),
    ],
)
def test_scores_that_cannot_be_used(scores: AnyArray, says: str) -> None:
    with pytest.raises(ScoresError, match=says):
        tasks.check_scores(scores, "a")


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.array([0.0, 1.0]), "integers"),
        (np.array([[0, 1]]), "shape"),
        (np.array([0, 1, 0]), "3 labels for 2 examples"),
        (np.array([0, 2]), "row 1 is 2, outside 0..1"),
        (np.array([-1, 0]), "outside"),
    ],
)
def test_labels_that_do_not_fit(labels: AnyArray, says: str) -> None:
    with pytest.raises(DataError, match=says):
        tasks.check_labels(labels, 2, 2)
