"""Losses, labels and scores."""

from __future__ import annotations

import numpy as np
import pytest

from offramp import tasks
from offramp.arrays import AnyArray, FloatArray, IntArray
from offramp.errors import DataError, LossError, ScoresError


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
    with pytest.raises(ScoresError, match="mixes"):
        tasks.kind_of(np.array([[0.2, 0.8], [3.0, -1.0]]), "a")


def test_logits_of_two_classes_may_sum_to_1_by_chance() -> None:
    logits = np.random.default_rng(0).normal(size=(5000, 2)) * 3
    logits[7] = (0.25, 0.75)
    assert tasks.kind_of(logits, "a") == "logits"
    with pytest.raises(ScoresError, match="mixes"):  # one in ten is no chance
        tasks.kind_of(np.vstack([logits[:900], np.full((100, 2), 0.5)]), "a")
    three = np.hstack([logits, np.ones((5000, 1))])
    three[7] = (0.25, 0.5, 0.25)
    with pytest.raises(ScoresError, match="mixes"):
        tasks.kind_of(three, "a")


@pytest.mark.parametrize("row", [[0.5, 0.6], [-0.5, 1.5], [3.0, 4.0]])
def test_what_is_said_to_be_probabilities_must_be(row: list[float]) -> None:
    tasks.check_probabilities(np.array([[0.2, 0.8], [0.5, 0.5005]]), "a")
    with pytest.raises(ScoresError, match=r"'a'.* row 1 "):
        tasks.check_probabilities(np.array([[0.2, 0.8], row]), "a")


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
