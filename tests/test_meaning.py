"""Labels that mean other classes than the scores are found; noise and good networks are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from offramp.base.arrays import FloatArray, IntArray
from offramp.command import tables
from offramp.core.graph import Costs, Graph
from offramp.core.imports import import_scores
from offramp.core.meaning import DoubtfulLabels, chance_loss, doubts, finding_of
from offramp.core.trace import Trace, assemble
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks
from offramp.plan.fit import fit
from offramp.plan.notes import notes
from offramp.plan.plan import Plan
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime
from tests.made import blobs

CLASSES = st.integers(2, 60)
SEEDS = st.integers(0, 2**16)


def scored(
    seed: int, classes: int, examples: int, error: float = 0.2
) -> tuple[FloatArray, IntArray]:
    """Scores that are wrong about a share of their labels, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, examples)
    said = np.where(random.random(examples) < error, random.integers(0, classes, examples), labels)
    scores = np.eye(classes)[said] + random.normal(size=(examples, classes)) * 1e-3
    return scores.astype(np.float32), labels


@given(SEEDS, CLASSES, st.sampled_from([0.0, 0.2, 0.4]))
@settings(deadline=None)
def test_good_networks_give_nothing(seed: int, classes: int, error: float) -> None:
    assert finding_of(*scored(seed, classes, 1000, error)) is None


@given(SEEDS, st.integers(5, 60))
@settings(deadline=None)
def test_permuted_labels_are_found(seed: int, classes: int) -> None:
    scores, labels = scored(seed, classes, 2000, 0.1)
    turned = (7 * np.arange(classes) + 3) % classes if classes % 7 else np.arange(classes)[::-1]
    found = finding_of(scores, turned[labels])
    assert found is not None
    assert found.reason in ("permuted", "shifted")
    assert found.mended is not None
    assert found.mended < 0.35 < found.loss


@given(SEEDS, CLASSES, st.sampled_from([-3, -2, -1, 1, 2, 3]))
@settings(deadline=None)
def test_shifted_labels_are_found(seed: int, classes: int, shift: int) -> None:
    scores, labels = scored(seed, classes, 500)
    wide = np.zeros((500, classes + 6), np.float32)
    wide[:, 3 : classes + 3] = scores
    found = finding_of(wide, labels + 3 - shift)
    assert found is not None
    assert (found.reason, found.shift) == ("shifted", shift)


@given(SEEDS, st.sampled_from([2, 10, 100, 1000]), st.sampled_from([60, 500, 2000]))
@settings(deadline=None, max_examples=40)
def test_noise_is_no_permutation(seed: int, classes: int, examples: int) -> None:
    scores, labels = scored(seed, classes, examples, 1.0)
    found = finding_of(scores, labels)
    assert found is None or found.reason == "chance"


def test_noise_is_chance_most_of_the_time() -> None:
    found = [finding_of(*scored(seed, 10, 500, 1.0)) for seed in range(50)]
    assert sum(one is not None and one.reason == "chance" for one in found) >= 45


def test_two_classes_that_are_exchanged_are_found_far_from_chance() -> None:
    scores, labels = scored(0, 10, 3000, 0.05)
    exchanged = np.array([0, 1, 2, 3, 4, 5, 6, 7, 9, 8])[labels]
    found = finding_of(scores, exchanged)
    assert found is not None
    assert found.reason == "permuted"
    assert found.loss < 0.3


def test_a_network_that_always_says_the_same_is_not_permuted() -> None:
    labels = (np.random.default_rng(0).random(2000) < 0.1).astype(np.int64)
    found = finding_of(np.eye(4, dtype=np.float32)[np.full(2000, 3)], labels)
    assert found is not None
    assert found.reason == "chance"


def test_a_few_examples_say_nothing() -> None:
    assert finding_of(*scored(0, 5, 10, 1.0)) is None


def test_cheap_stages_may_know_little() -> None:
    scores, labels = scored(0, 5, 500)
    noise, _ = scored(1, 5, 500, 1.0)
    assert doubts({"small": noise, "big": scores}, labels, "big") == []
    (said,) = doubts({"small": scores, "big": noise}, labels, "big")
    assert "stage 'big'" in said
    assert doubts({"big": noise}, None, "big") == []


def test_chance_is_the_loss_of_the_commonest_labels() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert chance_loss("top1", labels, 4) == pytest.approx(0.5)
    assert chance_loss("top2", labels, 4) == pytest.approx(1 / 6)
    assert chance_loss("disagreement", labels, 4) is None


def traced(labels: IntArray, scores: FloatArray) -> Trace:
    costs = Costs({"small": 1.0, "big": 4.0}, {"small": 0.0, "big": 0.0})
    both = {"small": np.roll(scores, 1, axis=0), "big": scores}
    return assemble(Graph.chain(both), costs, both, labels=labels, kind="logits")


def test_certificates_show_the_reference_beside_chance(tmp_path: Path) -> None:
    scores, labels = scored(0, 5, 2000)
    trace = traced(labels, scores)
    fit(trace, 0.1, policy="margin").write(tmp_path / "plan")
    found = Plan.read(tmp_path / "plan")
    certifying = trace.opening[trace.unsealed :]
    wrong = (scores.argmax(axis=1) != labels)[certifying]
    assert found.certificate.reference_loss == pytest.approx(wrong.mean())
    assert found.certificate.chance_loss == chance_loss("top1", labels[certifying], 5)
    rows = [value for _, value in tables.certificate(found).lines]
    assert any(f"{wrong.mean():.2%}; by chance" in str(row) for row in rows)
    assert "chance" not in " ".join(notes(found))
    unlabelled = fit(trace, 0.1, policy="margin", unlabelled=True).certificate
    assert (unlabelled.reference_loss, unlabelled.chance_loss) == (None, None)


def test_fit_and_import_say_that_labels_are_shifted(tmp_path: Path) -> None:
    scores, labels = scored(0, 5, 2000)
    wide = np.concatenate([np.zeros((2000, 1), np.float32), scores], axis=1)
    assert "1 is added to every label" in " ".join(notes(fit(traced(labels, wide), 0.1)))
    np.savez(tmp_path / "scores.npz", labels=labels, small=wide, big=wide)
    costs = Costs({"small": 1.0, "big": 4.0}, {"small": 0.0, "big": 0.0})
    with pytest.warns(DoubtfulLabels, match="1 is added to every label"):
        import_scores(tmp_path / "scores.npz", costs, kind="logits")


def test_a_recording_names_the_output_that_fits(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(size=(6, 9)).astype(np.float32)
    constants = {"noise": noise, "best": (np.eye(6, 4) * 4).astype(np.float32)}
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["input", "noise"], ["embedding"]),
            helper.make_node("MatMul", ["input", "best"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 6])],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 9]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "big.onnx")
    x, y = blobs(500)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    networks = Networks(Graph.chain(["big"]), {"big": tmp_path / "big.onnx"})
    with pytest.warns(DoubtfulLabels) as said:
        record(
            networks,
            OnnxRuntime(networks.files),
            open_examples(tmp_path / "data.npz"),
            tmp_path / "trace",
            RecordOptions(batch=1),
        )
    assert any("another output of 'big', 'logits'" in str(one.message) for one in said)
