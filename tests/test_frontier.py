"""What frontiers are measured by: hulls, gaps to the exact oracle, bands over draws of examples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offramp.core.frontier import (
    Point,
    area,
    cost_at,
    frontier,
    gap_closed,
    hull,
    loss_gap_closed,
    static_points,
    uniform_points,
)
from offramp.core.hulls import LEVELS
from offramp.core.trace import Trace
from offramp.policies import FAMILIES, ExactOracle
from offramp.study.bands import Band, Resamples, measure
from offramp.study.compare import compare
from offramp.testing import synthetic

LEARN, FRESH = synthetic(800, seed=1), synthetic(600, seed=2)
REFERENCE = 10.0


def spot(excess: float, cost: float) -> Point:
    return Point(
        tradeoff=None,
        excess_loss=excess,
        induced_loss=max(excess, 0.0),
        cost=cost,
        speedup=REFERENCE / cost,
        exits={},
    )


# multiples of half a point, so that levels are met exactly; costs up to above the reference's
spots = st.lists(
    st.builds(spot, st.integers(-4, 12).map(lambda i: i / 200), st.integers(1, 24).map(float)),
    max_size=6,
)
# most of them far better than the single networks: without a gap there is nothing to test
seers = st.lists(
    st.builds(spot, st.integers(-6, 1).map(lambda i: i / 200), st.integers(1, 4).map(float)),
    max_size=3,
)
singles = spots.map(
    lambda found: {"big": spot(0.0, REFERENCE)} | {f"s{i}": p for i, p in enumerate(found)}
)


def slow_cost(points: Sequence[Point], excess: float) -> float:
    """The lowest cost at `excess` or less of any point, or of any mix of two."""
    found = [p.cost for p in points if p.excess_loss <= excess]
    for a, b in itertools.permutations(points, 2):
        if a.excess_loss <= excess < b.excess_loss:
            share = (excess - a.excess_loss) / (b.excess_loss - a.excess_loss)
            found.append(a.cost + share * (b.cost - a.cost))
    return min(found)


def slow_excess(points: Sequence[Point], cost: float) -> float | None:
    """The lowest excess loss at `cost` or less of any point, or mix of two; None: none so cheap."""
    found = [p.excess_loss for p in points if p.cost <= cost]
    for a, b in itertools.permutations(points, 2):
        if a.cost <= cost < b.cost:
            share = (cost - a.cost) / (b.cost - a.cost)
            found.append(a.excess_loss + share * (b.excess_loss - a.excess_loss))
    return min(found) if found else None


def slow_won(points: Sequence[Point], statics: Sequence[Point]) -> float:
    """The area between two hulls: costs are whole, so that between them nothing bends."""
    total = 0.0
    for cost in np.arange(min(p.cost for p in statics), REFERENCE) + 0.5:
        blind, found = slow_excess(statics, cost), slow_excess(points, cost)
        if blind is not None and found is not None:
            total += blind - found
    return total


@given(singles, spots, seers)
def test_the_gap_in_cost_is_what_the_obvious_way_finds(
    statics: dict[str, Point], ours: list[Point], oracle: list[Point]
) -> None:
    alone = statics["big"]
    saved = possible = 0.0
    for level in LEVELS:
        best = min(p.cost for p in statics.values() if p.excess_loss <= level)
        saved += best - slow_cost([*ours, alone], level)
        possible += best - slow_cost([*oracle, alone], level)
    expected = saved / possible if possible > 1e-6 else 0.0
    assert gap_closed(ours, statics, oracle, "big") == pytest.approx(expected, abs=1e-9)


@given(singles, spots, seers)
def test_the_gap_in_loss_is_what_the_obvious_way_finds(
    statics: dict[str, Point], ours: list[Point], oracle: list[Point]
) -> None:
    alone, blind = statics["big"], list(statics.values())
    won, possible = (slow_won([*points, alone], blind) for points in (ours, oracle))
    expected = won / possible if possible > 1e-6 else 0.0
    found = loss_gap_closed(ours, statics, oracle, "big")
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(singles, spots)
def test_the_area_is_the_mean_cost_between_the_ends_of_the_levels(
    statics: dict[str, Point], ours: list[Point]
) -> None:
    points, steps = [*ours, statics["big"]], 200
    middles = LEVELS[0] + (LEVELS[-1] - LEVELS[0]) * (np.arange(steps) + 0.5) / steps
    expected = np.mean([slow_cost(points, level) for level in middles]) / REFERENCE
    assert area(points, REFERENCE) == pytest.approx(expected, abs=1e-2)


@given(singles, seers)
def test_the_oracle_closes_all_and_blind_mixes_nothing(
    statics: dict[str, Point], oracle: list[Point]
) -> None:
    alone, blind = statics["big"], list(statics.values())
    gap = slow_won([*oracle, alone], blind) > 1e-6
    assert loss_gap_closed(oracle, statics, oracle, "big") == pytest.approx(float(gap))
    assert gap_closed(oracle, statics, oracle, "big") in (0.0, pytest.approx(1.0))
    assert loss_gap_closed(blind, statics, oracle, "big") == pytest.approx(0.0, abs=1e-9)
    for closed in (gap_closed, loss_gap_closed):
        assert closed([], statics, oracle, "big") <= 1e-12  # the reference alone


def test_no_gap_is_closed_by_nobody() -> None:
    statics = {"big": spot(0.0, REFERENCE)}
    for closed in (gap_closed, loss_gap_closed):
        assert closed([spot(0.0, 2.0)], statics, [], "big") == 0.0  # an oracle that saves nothing
    worse = [spot(0.0, 9.0), spot(0.5, 5.0)]
    statics["small"] = spot(0.01, 4.0)
    assert loss_gap_closed(worse, statics, [spot(0.0, 4.0)], "big") < 0
    assert gap_closed([], statics, [spot(0.0, 4.0)], "big") < 0  # a single network is cheaper


@given(singles, spots.filter(len), seers.filter(len), st.data())
@settings(max_examples=400)
def test_a_policy_that_dominates_another_closes_no_less(
    statics: dict[str, Point], ours: list[Point], oracle: list[Point], data: st.DataObject
) -> None:
    moves = st.tuples(st.integers(0, 8), st.integers(0, 8))
    better = []
    for point in ours:
        less, cheaper = data.draw(moves)
        better.append(spot(point.excess_loss - less / 200, max(0.5, point.cost - cheaper)))
    assert (
        gap_closed(better, statics, oracle, "big")
        >= gap_closed(ours, statics, oracle, "big") - 1e-9
    )
    # in loss where both start at the same cost: what a policy does at a lower one counts too
    start = [spot(0.06, 0.5)]
    closed = [loss_gap_closed(p + start, statics, oracle, "big") for p in (ours, better)]
    assert closed[0] <= closed[1] + 1e-9


# ---------------------------------------------------------------------------------- bands


def test_the_first_draw_is_the_examples_as_they_are() -> None:
    losses = FRESH.losses()
    policy = FAMILIES["margin"](LEARN, LEARN.losses())
    curve = measure(FRESH, losses, policy, Resamples.of(FRESH.examples, 3, 0))
    plain = frontier(FRESH, losses, policy)
    np.testing.assert_allclose(curve.excess[0], [p.excess_loss for p in plain], atol=1e-12)
    np.testing.assert_allclose(curve.cost[0], [p.cost for p in plain])
    assert [p.exits for p in curve.points] == [p.exits for p in plain]


def test_a_draw_is_the_frontier_of_the_examples_drawn() -> None:
    losses, draws = FRESH.losses(), Resamples.of(FRESH.examples, 4, 0)
    policy = FAMILIES["margin"](LEARN, LEARN.losses())
    curve = measure(FRESH, losses, policy, draws)
    for row in range(5):
        drawn = FRESH.take(np.repeat(np.arange(FRESH.examples), draws.counts[row]))
        assert drawn.examples == FRESH.examples
        again = frontier(drawn, drawn.losses(), policy)
        np.testing.assert_allclose(curve.excess[row], [p.excess_loss for p in again], atol=1e-12)
        np.testing.assert_allclose(curve.cost[row], [p.cost for p in again])


def test_means_in_parts_are_means(monkeypatch: pytest.MonkeyPatch) -> None:
    draws, random = Resamples.of(1000, 5, 0), np.random.default_rng(0)
    values = random.normal(size=(3, 1000))
    whole = draws.means(values)
    monkeypatch.setattr("offramp.study.bands._CHUNK", 7)
    np.testing.assert_allclose(draws.means(values), whole)
    np.testing.assert_allclose(whole, draws.counts @ values.T / 1000)


def test_settings_in_groups_are_measured_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    losses, draws = FRESH.losses(), Resamples.of(FRESH.examples, 2, 0)
    policy = FAMILIES["margin"](LEARN, LEARN.losses())
    whole = measure(FRESH, losses, policy, draws)
    monkeypatch.setattr("offramp.study.bands._HELD", 2 * 5 * FRESH.examples)
    assert measure(FRESH, losses, policy, draws).points == whole.points


@pytest.fixture(scope="module")
def few() -> list[str]:
    return ["auto", "learned", "margin"]


def test_numbers_are_those_of_the_points_themselves(few: list[str]) -> None:
    found = compare(LEARN, FRESH, policies=few)
    alone, reference = found.static["large"], FRESH.reference_cost
    for name, points in found.policies.items():
        summary = found.summaries[name]
        for band, level in zip(summary.speedups, LEVELS, strict=True):
            expected = reference / cost_at([*points, alone], level)
            assert band.value == pytest.approx(expected)
        assert summary.area.value == pytest.approx(area([*points, alone], reference))
        given = (points, found.static, found.exact_oracle, "large")
        assert summary.gap_cost.value == pytest.approx(gap_closed(*given))
        assert summary.gap_loss.value == pytest.approx(loss_gap_closed(*given), abs=1e-9)
    assert found.oracle_summaries["exact"].gap_loss == Band(1.0, 1.0, 1.0)
    assert found.summaries["uniform"].gap_loss.value == pytest.approx(0.0, abs=1e-9)


def test_differences_to_the_default_policy_are_paired(few: list[str]) -> None:
    found = compare(LEARN, FRESH, policies=few)
    own, other = found.summaries["auto"], found.summaries["margin"]
    assert own.lead == (Band(0.0, 0.0, 0.0),) * len(LEVELS)  # apart, they would differ by chance
    assert other.lead is not None
    for lead, a, b in zip(other.lead, own.speedups, other.speedups, strict=True):
        assert lead.value == pytest.approx(a.value - b.value)
    assert compare(LEARN, FRESH, policies=["margin"]).summaries["margin"].lead is None


def test_without_bands_the_numbers_are_the_same(few: list[str]) -> None:
    plain, banded = (compare(LEARN, FRESH, policies=few, bands=b) for b in (False, True))
    assert not plain.banded
    assert banded.banded
    for name, summary in plain.summaries.items():
        assert summary.frontier is None
        for one, other in zip(summary.gaps, banded.summaries[name].gaps, strict=True):
            assert (one.value, one.low, one.high) == (other.value, None, None)
    assert all(p.interval is None for ps in plain.policies.values() for p in ps)
    assert all(p.interval is not None for ps in banded.policies.values() for p in ps)


def test_the_same_seed_gives_the_same_bands_and_steps_are_counted(few: list[str]) -> None:
    told: list[tuple[str, int, int]] = []
    one = compare(LEARN, FRESH, policies=few, progress=lambda *step: told.append(step))
    other = compare(LEARN, FRESH, policies=few)
    assert one.summaries["margin"].speedups == other.summaries["margin"].speedups
    assert [done for _, done, _ in told] == list(range(len(told)))
    assert {total for *_, total in told} == {len(told)}


def covered(truth: Trace, small: list[Trace]) -> list[bool]:
    """Whether the band of the speed-up at one point holds that on very many examples."""
    policy = FAMILIES["margin"](LEARN, LEARN.losses())
    statics = static_points(truth, truth.losses())
    real = frontier(truth, truth.losses(), policy)
    expected = truth.reference_cost / cost_at([*real, statics["large"]], LEVELS[-1])
    found = []
    for trace in small:
        band = compare(LEARN, trace, policies=["margin"]).summaries["margin"].speedups[-1]
        assert band.low is not None
        assert band.high is not None
        found.append(band.low <= expected <= band.high)
    return found


def test_bands_hold_the_truth_about_as_often_as_they_say() -> None:
    held = covered(synthetic(60_000, seed=99), [synthetic(1000, seed=s) for s in range(200, 240)])
    assert 0.85 <= np.mean(held) <= 1.0


def test_real_policies_lie_between_the_single_networks_and_the_oracle() -> None:
    losses = FRESH.losses()
    statics = static_points(FRESH, losses)
    oracle = frontier(FRESH, losses, ExactOracle.fit(FRESH, losses))
    learned = frontier(FRESH, losses, FAMILIES["learned"](LEARN, LEARN.losses()))
    mixes = uniform_points(statics.values())
    for closed in (gap_closed, loss_gap_closed):
        order = [closed(p, statics, oracle, "large") for p in (mixes, learned, oracle)]
        assert order == sorted(order)
        assert order[-1] == pytest.approx(1.0)
    assert hull(mixes)
