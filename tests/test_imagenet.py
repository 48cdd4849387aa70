"""The paper's experiment on classes alone: observations that know no label of their own."""

from __future__ import annotations

import numpy as np

from benchmarks.imagenet import NETWORKS, TOPOLOGIES, Halves, place, rates, shares, wrong
from offramp.base.arrays import AnyArray, IntArray

TREE = list(TOPOLOGIES)[2]


def made(examples: int = 3000, classes: int = 60) -> tuple[dict[str, IntArray], IntArray]:
    """Lists of five classes of three networks, the later the better, and labels."""
    random = np.random.default_rng(0)
    labels = random.integers(0, classes, examples)
    lists = {}
    for name, right in zip(NETWORKS, (0.5, 0.7, 0.8), strict=True):
        each = np.array([random.permutation(classes)[:5] for _ in labels])
        each[:, 0] = np.where(random.random(examples) < right, labels, each[:, 0])
        lists[name] = each
    return lists, labels


def halves(labels: IntArray | None = None) -> Halves:
    lists, own = made()
    first: AnyArray = np.arange(len(own)) % 2 == 0
    return Halves(lists, own if labels is None else labels, first)


def test_shares_of_images_are_those_of_their_networks() -> None:
    lists, labels = made()
    found = shares(lists, labels, 1)
    right = np.stack([lists[name][:, 0] == labels for name in NETWORKS])
    assert found["right by all"] == right.all(axis=0).mean()
    assert found["wrong by all"] == (~right).all(axis=0).mean()
    assert found["error of alexnet"] == (~right[0]).mean()
    assert found["right by another than the first"] == (right[1:].any(axis=0) & ~right[0]).mean()


def test_no_image_is_seen_through_its_own_label() -> None:
    """Other labels of those that measure, or of one that teaches, change nothing seen of them."""
    own, (_, labels) = halves(), made()
    losses = {name: wrong(own.lists[name], labels, 1) for name in NETWORKS}
    seen = own.observations(NETWORKS, losses)
    for changed in (np.arange(len(labels)) % 2 == 1, np.arange(len(labels)) == 8):
        others = {name: np.where(changed, 1 - loss, loss) for name, loss in losses.items()}
        again = own.observations(NETWORKS, others)
        for name in NETWORKS:
            np.testing.assert_array_equal(again[name][changed], seen[name][changed])


def test_a_class_without_examples_is_as_its_kin() -> None:
    classes = np.array([0] * 50 + [30] * 50)
    found = rates(classes, np.repeat([1.0, 0.0], 50), of=50)
    assert found[1] > 0.8
    assert found[31] < 0.2
    assert found[0] > found[1]
    assert found[30] < found[31]


def test_places_count_from_the_first() -> None:
    lists = np.array([[4, 2, 7], [1, 0, 3]])
    assert place(lists, np.array([7, 9])).tolist() == [2, 3]


def test_lists_that_agree_save_cost_and_lose_little() -> None:
    found = halves().study("top1", "ms", TREE)
    blind, learned = (found["speedups"][name][2] for name in ("uniform", "auto"))
    assert learned > blind
    assert found["speedups"]["exact oracle"][2] > learned
    assert sum(found["stops_at"]["0.01"].values()) > 0.999
