"""PyTorch as an engine: stages are modules, on a CPU or an accelerator.

Needs the extra `torch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import MissingExtra, NetworkError
from offramp.core.graph import Graph, head

try:
    import torch
    from torch import Tensor, nn
except ImportError as problem:
    raise MissingExtra(problem.name or "torch", "torch") from None


class TorchRuntime:
    """Runs stages from modules; carries stay on the device, rows that stop are dropped there.

    Args:
        modules: part -> module. A whole network or a body reads what its graph says: the examples,
            or what the body before it gave. A body that others continue gives one tensor (batch,
            ...); a head (`big.head`) turns it into scores (batch, classes). A network without a
            head gives scores itself.
        graph: which body continues which; None where every stage is a whole network.
        device: "cpu", "cuda", ...
        threads: of a CPU, for the whole process.

    Raises:
        NetworkError: a stage without a module, or heads that hear others.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        graph: Graph | None = None,
        *,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        torch.set_num_threads(threads)
        self.graph = graph or Graph.chain(part for part in modules if "." not in part)
        self.device = torch.device(device)
        self.modules = {part: found.eval().to(self.device) for part, found in modules.items()}
        for stage in self.graph.stages:
            if stage.name not in self.modules:
                raise NetworkError(f"stage '{stage.name}' has no module.")
            if stage.hears:
                raise NetworkError(
                    f"the head of stage '{stage.name}' hears other scores, which modules cannot. "
                    "Run the plan in ONNX Runtime."
                )

    def run(self, stage: str, x: AnyArray) -> FloatArray:
        batch = self.begin(x)
        batch.advance(stage, None)
        return batch.answer(stage, None)

    def begin(self, x: AnyArray) -> _Batch:
        return _Batch(self, self._tensor(x))

    def _tensor(self, x: AnyArray) -> Tensor:
        try:
            found = torch.from_numpy(np.ascontiguousarray(x)).to(self.device)
        except TypeError:
            raise NetworkError(f"PyTorch has no tensors of {x.dtype}. Convert them.") from None
        if found.is_complex():
            raise NetworkError(f"networks read real numbers, not {x.dtype}. Convert them.")
        return found


@dataclass
class _Batch:
    """What each part gave, for which rows of a batch."""

    runtime: TorchRuntime
    x: Tensor
    made: dict[str, tuple[IntArray | None, Tensor]] = field(default_factory=dict)

    def advance(self, stage: str, rows: IntArray | None) -> None:
        after = self.runtime.graph.stage(stage).after
        if after is not None:
            self.advance(after, rows)
        self._need(stage, rows)

    def answer(self, stage: str, rows: IntArray | None) -> FloatArray:
        part = head(stage) if head(stage) in self.runtime.modules else stage
        scores = self._need(part, rows)
        if scores.ndim != 2:
            raise NetworkError(
                f"stage '{stage}' gave scores of shape {tuple(scores.shape)}; it must give "
                "(batch, classes)."
            )
        return np.asarray(scores.float().cpu().numpy())

    def _need(self, part: str, rows: IntArray | None) -> Tensor:
        """What a part gives for some rows, after running it for those it has not seen."""
        known = self.made.get(part)
        if known is None:
            self.made[part] = (rows, self._run(part, rows))
        elif (missing := _lacks(known[0], rows)).size:
            old, values = known
            assert old is not None
            both = np.concatenate([old, missing])
            order = np.argsort(both)
            joined = torch.cat([values, self._run(part, missing)])[self._at(order)]
            self.made[part] = (both[order], joined)
        old, values = self.made[part]
        if rows is None or (old is not None and len(old) == len(rows)):
            return values
        return values[self._at(rows if old is None else np.searchsorted(old, rows))]

    def _run(self, part: str, rows: IntArray | None) -> Tensor:
        stage, dot, _ = part.partition(".")
        before = stage if dot else self.runtime.graph.stage(stage).after
        if before is not None:
            given = self._need(before, rows)
        else:
            given = self.x if rows is None else self.x[self._at(rows)]
        try:
            with torch.inference_mode():
                found: Tensor = self.runtime.modules[part](given)
        except (RuntimeError, TypeError, ValueError) as problem:
            reason = str(problem).strip().partition("\n")[0].rstrip(".")
            raise NetworkError(
                f"stage '{stage}' cannot run on inputs of shape {tuple(given.shape)}: {reason}. "
                "Check the examples and the preprocessing of the graph."
            ) from None
        return found

    def _at(self, rows: IntArray) -> Tensor:
        return torch.from_numpy(rows).to(self.runtime.device)


def _lacks(known: IntArray | None, rows: IntArray | None) -> IntArray:
    """Those of `rows` that are not `known`; None: all there are."""
    if known is None:
        return np.empty(0, dtype=np.int64)
    assert rows is not None
    return np.setdiff1d(rows, known, assume_unique=True)
