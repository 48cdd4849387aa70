"""Captured stages answer as modules alone, whatever runs early; on a CPU, where it is not timed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks import accelerator
from benchmarks.captured import Captured, Piece
from benchmarks.shapes import PAPER, multiply_adds, resnet


class Exit(nn.Module):
    """Hands on what it read, times a number, and says so."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x * self.factor, x[:, :3] * self.factor


def above(number: int, scores: Tensor) -> Tensor:
    """Rows go on while their first score is large."""
    onward: Tensor = scores[:, 0] > 0.2 * (number + 1)
    return onward


@pytest.mark.parametrize("sure", [None, [0.0, 0.5, 0.3], [0.0, 1.0, 1.0]])
@pytest.mark.parametrize("continues", [True, False])
@pytest.mark.parametrize("rows", [1, 7, 16])
def test_every_row_is_answered_by_the_stage_where_it_stops(
    sure: list[float] | None, continues: bool, rows: int
) -> None:
    torch.manual_seed(rows)
    factors = (1.0, 2.0, 3.0)
    pieces = [Piece(Exit(f), continues and n > 0) for n, f in enumerate(factors)]
    x = torch.rand(rows, 4)
    captured = Captured(pieces, torch.rand(16, 4), [1, 4, 8, 16], sure)
    for _ in range(2):  # buffers are used again
        scores, stage = captured(x, above)
        for row in range(rows):
            carry, at = x[row], 0
            while True:
                said = (carry if continues else x[row])[:3] * factors[at]
                carry = carry * factors[at]
                if at == 2 or not said[0] > 0.2 * (at + 1):
                    break
                at += 1
            assert stage[row] == at
            torch.testing.assert_close(scores[row], said)


def test_forced_shares_are_met() -> None:
    decide = accelerator.forced(64, 0.25, 3)
    first = decide(0, torch.zeros(64, 2))
    assert first.sum() == 16
    assert not first[:16].all()
    assert decide(1, torch.zeros(16, 2)).sum() == 4


def test_rows_of_the_benchmark_say_how_much_of_theory_is_reached() -> None:
    size = accelerator.Size(torch.device("cpu"), torch.float32, 32, 0.1, (1, 8), 1)
    small = [accelerator.build(make, size) for make in PAPER.values()]
    for batch in size.batches:
        rows = accelerator.routed(small, size, batch)
        assert [row["share"] for row in rows] == ([0.0, 1.0] if batch == 1 else [0.25, 0.5])
        for row in rows:
            assert row["realised"] == pytest.approx(row["speedup"] / row["theoretical_speedup"])
            assert row["joules"] is None


def test_shapes_cost_what_their_papers_say() -> None:
    """In thousand million multiply-adds: about 0.7, 1.5, 4.1, and 1.8 of a ResNet-18."""
    found = [sum(multiply_adds(make(224, 1000), 224)) / 1e9 for make in PAPER.values()]
    assert found == [pytest.approx(cost, rel=0.15) for cost in (0.71, 1.5, 4.1)]
    assert sum(multiply_adds(resnet(18, 224, 1000), 224)) / 1e9 == pytest.approx(1.8, rel=0.05)
