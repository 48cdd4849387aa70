"""Inputs unlike the recorded ones are said, once; inputs like them never."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offramp.base.arrays import AnyArray
from offramp.base.errors import NetworkError
from offramp.core.graph import Graph
from offramp.export import write_file, write_folder
from offramp.networks.data import open_examples
from offramp.networks.inputs import EVERY, FIRST, Inputs, Range, UnlikeInputs, Watch
from offramp.networks.networks import Networks
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.recording.record import RecordOptions, record
from offramp.runtime import OnnxRuntime, infer
from offramp.runtime.routed import Routed
from offramp.runtime.single import SingleFile
from tests.made import blob_networks, blobs

Runs = Callable[[AnyArray], object]


def silent(run: Runs, x: AnyArray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(x)


def send(watch: Watch, x: AnyArray, batch: int) -> None:
    for start in range(0, len(x), batch):
        watch(x[start : start + batch])


def recorded(x: AnyArray, batch: int = 64) -> Inputs:
    parts = [Range.of(x[i : i + batch]) for i in range(0, len(x), batch)]
    return Inputs(x.shape[1:], str(x.dtype), Range.together(parts))


PIXELS = np.random.default_rng(0).integers(0, 256, (256, 3, 4, 4)).astype(np.uint8)
UNIT = (PIXELS / 255).astype(np.float32)
NORMAL = ((UNIT - 0.45) / 0.225).astype(np.float32)
UNLIKE: dict[str, tuple[AnyArray, AnyArray]] = {
    "bytes for unit": (UNIT, PIXELS),
    "bytes as floats for unit": (UNIT, PIXELS.astype(np.float32)),
    "bytes as floats for normalised": (NORMAL, PIXELS.astype(np.float32)),
    "unit for normalised": (NORMAL, UNIT),
    "unit for bytes as floats": (PIXELS.astype(np.float32), UNIT),
    "doubles": (NORMAL, NORMAL.astype(np.float64)),
    "signed for unsigned": (PIXELS, PIXELS.astype(np.int8)),
    "larger tokens": (PIXELS.astype(np.int64), PIXELS.astype(np.int64) * 100),
}


@pytest.mark.parametrize("name", UNLIKE)
@pytest.mark.parametrize("batch", [1, 64])
def test_inputs_of_another_type_or_range_are_said_once(name: str, batch: int) -> None:
    before, now = UNLIKE[name]
    watch = Watch(recorded(before))
    with pytest.warns(UnlikeInputs, match="unlike the certified ones") as said:
        send(watch, np.concatenate([now, now]), batch)
    assert len(said) == 1


@given(st.integers(0, 2**16), st.sampled_from([1, 3, 64, 200]))
def test_inputs_drawn_alike_are_never_said(seed: int, batch: int) -> None:
    random = np.random.default_rng(seed)
    before = random.normal(size=(640, 5)).astype(np.float32)
    before[::97, 0] = 40.0  # outliers, which later ones may lack
    now = random.normal(size=(640, 5)).astype(np.float32)
    watch = Watch(recorded(before))
    silent(lambda x: send(watch, x, batch), now)


def test_dark_images_alone_and_broken_numbers_are_no_other_range() -> None:
    watch = Watch(recorded(UNIT))
    for x in (np.zeros_like(UNIT[:1]), UNIT[:0], np.full_like(UNIT[:2], np.nan)):
        silent(watch, x)
    assert Range.of(np.full((2, 2), np.inf)) is None


def test_a_change_of_range_is_noticed_later_as_well() -> None:
    watch = Watch(recorded(UNIT))
    for _ in range(FIRST):
        watch(UNIT[:1])
    with pytest.warns(UnlikeInputs):
        send(watch, np.resize(UNIT * 255, (EVERY, *UNIT.shape[1:])), 1)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_ranges_of_parts_are_the_range_of_all(sizes: list[int]) -> None:
    x = np.random.default_rng(len(sizes)).normal(size=(sum(sizes), 3))
    parts = np.split(x, np.cumsum(sizes)[:-1])
    found = Range.together(Range.of(part) for part in parts)
    assert found is not None
    assert (found.low, found.high, found.numbers) == (x.min(), x.max(), x.size)
    assert found.mean == pytest.approx(x.mean())
    largest = [np.ptp(part) for part in parts if len(part) == max(sizes)]
    assert found.narrowest == min(largest)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder = tmp_path_factory.mktemp("plan")
    files = blob_networks(folder / "onnx")
    networks = Networks(Graph.chain(files), files)
    x, y = blobs(3000)
    np.savez(folder / "data.npz", x=x, y=y)
    examples = open_examples(folder / "data.npz")
    trace = record(
        networks, OnnxRuntime(files), examples, folder / "trace", RecordOptions(batch=16)
    )
    known = Inputs.from_json(trace.info["input"])
    assert known.range is not None
    assert (known.shape, known.dtype) == ((6,), "float32")
    assert (known.range.low, known.range.high) == (x.min(), x.max())
    assert known.range.rows == 16
    fit(trace, 0.5, policy="margin", networks=networks).write(folder / "fitted")
    return Plan.read(folder / "fitted")


def test_every_driver_says_it(plan: Plan, tmp_path: Path) -> None:
    write_file(plan, tmp_path / "model.onnx")
    write_folder(plan, tmp_path / "stages")
    runtime = OnnxRuntime(plan.runnable(), plan.graph)
    drivers: list[Runs] = [
        lambda x: infer(plan, runtime, x),
        SingleFile(tmp_path / "model.onnx"),
        Routed(tmp_path / "stages"),
    ]
    x, _ = blobs(100, seed=3)
    for driver in drivers:
        silent(driver, x)
        with pytest.raises(NetworkError, match="complex"):
            driver(x.astype(complex))
        with pytest.warns(UnlikeInputs, match=r"float64 from .* float32 in the range from"):
            driver(x.astype(np.float64))
        silent(driver, x.astype(np.float64))  # once
