"""A chain of PyTorch modules on an accelerator: captured once, survivors compacted there.

Each stage is captured as a CUDA graph for some batch sizes, from buffers that stay where they are.
Rows that go on are put in front on the device. How many they are is copied to the host behind the
next stage, which starts at once for as many rows as are sure to go on, so that the host waits while
the device works. On a CPU the same steps run without graphs, which tests the order of things and
measures nothing. Needs the extra `torch`.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Decide = Callable[[int, Tensor], Tensor]
"""Whether rows go on: the stage's number and its scores (n, classes) to bools (n,), no syncing."""
_WARM = 3  # runs before a capture, in which libraries choose their kernels


@dataclass(frozen=True)
class Piece:
    """A stage: what it runs, and of what."""

    module: nn.Module  # examples, or what the stage before made, to scores, or (carry, scores)
    continues: bool = False  # reads what the stage before made


class _Slot:
    """One stage at one batch size, its buffers and its graph."""

    def __init__(self, piece: Piece, example: Tensor, rows: int, memory: Any) -> None:
        self.piece, self.memory = piece, memory
        self.given = example.new_zeros(rows, *example.shape[1:])
        if example.ndim == 4 and example.is_contiguous(memory_format=torch.channels_last):
            self.given = self.given.to(memory_format=torch.channels_last)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.made = self._run()
        if example.is_cuda:
            self._capture()

    def _run(self) -> tuple[Tensor | None, Tensor]:
        found = self.piece.module(self.given)
        return found if isinstance(found, tuple) else (None, found)

    def _capture(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, pool=self.memory):
            self.made = self._run()

    def __call__(self, source: Tensor, rows: Tensor) -> tuple[Tensor | None, Tensor]:
        """What the stage makes of some rows of a source; valid until the next call."""
        count = len(rows)
        torch.index_select(source, 0, rows, out=self.given[:count])
        if self.graph is None:
            self.made = self._run()
        else:
            self.graph.replay()
        carry, scores = self.made
        return None if carry is None else carry[:count], scores[:count]


class Captured:
    """Runs just enough stages for each row.

    Args:
        pieces: the stages, in order.
        example: a batch of one or more inputs (n, ...), on the device and of the type that all run
            in.
        sizes: batch sizes that stages are captured at; what lies between runs in the next larger
            one. The largest is the largest batch.
        sure: for each stage, the share of a batch that is sure to come to it, from which on it
            starts before it is known how many come. A stage that starts for too many computes some
            rows in vain, and nothing is wrong.
    """

    def __init__(
        self,
        pieces: Sequence[Piece],
        example: Tensor,
        sizes: Sequence[int],
        sure: Sequence[float] | None = None,
    ) -> None:
        self.pieces, self.sizes = list(pieces), sorted(sizes)
        self.sure = list(sure or [0.0] * len(self.pieces))
        self.slots: list[dict[int, _Slot]] = []
        self.early: list[dict[int, _Slot]] = []  # their own buffers: both are read at once
        # graphs run one after the other, so what lies between their inputs and outputs is shared
        memory = torch.cuda.graph_pool_handle() if example.is_cuda else None
        with torch.inference_mode():
            given = example
            for number, piece in enumerate(self.pieces):
                given = given if piece.continues else example
                early = [n for n in self.sizes if n <= self.sure[number] * self.sizes[-1]]
                self.slots.append({n: _Slot(piece, given, n, memory) for n in self.sizes})
                self.early.append({n: _Slot(piece, given, n, memory) for n in early})
                carry = self.slots[-1][self.sizes[0]].made[0]
                given = example if carry is None else carry.clone()

    def __call__(self, x: Tensor, decide: Decide) -> tuple[Tensor, Tensor]:
        """The scores (n, classes) of inputs (n, ...), and the stage (n,) that gave each."""
        with torch.inference_mode():
            return self._walk(x, decide)

    def _walk(self, x: Tensor, decide: Decide) -> tuple[Tensor, Tensor]:
        stage = torch.zeros(len(x), dtype=torch.long, device=x.device)
        rows = torch.arange(len(x), device=x.device)
        carry, scores = self._stage(0, x, rows, None)
        answers = scores.clone()
        for number in range(1, len(self.pieces)):
            onward = decide(number - 1, scores)
            order = torch.argsort(~onward, stable=True)  # those that go on come first
            count = _Count(onward)
            ahead = self._ahead(number, len(x), len(order))
            source, places = self._source(number, x, carry, rows, order)
            early = self.early[number][ahead](source, places[:ahead]) if ahead else None
            going = count.read()
            if not going:
                break
            rows = rows[order[:going]]
            found = self._stage(number, source, places[:going], early)
            carry, scores = found[0], found[1]
            answers.index_copy_(0, rows, scores)
            stage.index_fill_(0, rows, number)
        return answers, stage

    def _source(
        self, number: int, x: Tensor, carry: Tensor | None, rows: Tensor, order: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What a stage reads, and where in it the rows lie, in the order in which they go on."""
        if self.pieces[number].continues:
            assert carry is not None
            return carry, order
        return x, rows[order]

    def _ahead(self, number: int, batch: int, most: int) -> int:
        """The largest size of which that many rows are sure to come; 0: none."""
        fits = bisect.bisect_right(self.sizes, min(int(self.sure[number] * batch), most))
        return self.sizes[fits - 1] if fits else 0

    def _stage(
        self,
        number: int,
        source: Tensor,
        places: Tensor,
        early: tuple[Tensor | None, Tensor] | None,
    ) -> tuple[Tensor | None, Tensor]:
        """What a stage makes of some places of its source, some of which may have run already."""
        done = 0 if early is None else min(len(early[1]), len(places))
        parts = [] if early is None else [tuple(_first(each, done) for each in early)]
        if rest := len(places) - done:
            size = self.sizes[min(bisect.bisect_left(self.sizes, rest), len(self.sizes) - 1)]
            parts.append(self.slots[number][size](source, places[done:]))
        if len(parts) == 1:
            carry, scores = parts[0]
            assert scores is not None
            return carry, scores
        carries, said = zip(*parts, strict=True)
        both = [each for each in carries if each is not None]
        return torch.cat(both) if both else None, torch.cat(said)


class _Count:
    """How many are true, on its way to the host while the device goes on."""

    def __init__(self, mask: Tensor) -> None:
        self.ready: torch.cuda.Event | None = None
        total = mask.sum()
        if mask.is_cuda:
            self.host = torch.empty((), dtype=total.dtype, pin_memory=True)
            self.host.copy_(total, non_blocking=True)
            self.ready = torch.cuda.Event()
            self.ready.record()
        else:
            self.host = total

    def read(self) -> int:
        if self.ready is not None:
            self.ready.synchronize()
        return int(self.host)


def _first(value: Tensor | None, count: int) -> Tensor | None:
    return None if value is None else value[:count]
