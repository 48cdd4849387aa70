"""PyTorch as an engine: stages are modules, on a CPU or an accelerator.

Needs the extra `torch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import MissingExtra, NetworkError
from offramp.core.graph import Graph, head
from offramp.runtime.engine import Engine, Fields, Program, Value, fields_of
from offramp.runtime.rows import join
from offramp.runtime.stages import Batch, Stages

try:
    import torch
    from torch import Tensor, nn
except ImportError as _problem:
    raise MissingExtra(_problem.name or "torch", "torch") from None

_X, _SCORES = "x", "scores"  # names of tensors; what bodies hand on is called as their stage


@dataclass(frozen=True)
class NamedModule:
    """A module that reads one tensor and gives one, with the names that graphs connect them by."""

    module: nn.Module
    reads: str = _X
    makes: str = _SCORES  # these leave the device, as float32

    def __str__(self) -> str:
        return type(self.module).__name__


def engine(device: str = "cpu") -> Engine:
    """PyTorch, which opens `NamedModule` modules, or modules that turn examples into scores."""
    place = torch.device(device)

    def opened(network: NamedModule | nn.Module, threads: int) -> Program:
        named = network if isinstance(network, NamedModule) else NamedModule(network)
        module = named.module.eval().to(place)
        torch.set_num_threads(threads)  # of the whole process: PyTorch has no other

        def run(fields: Fields, wanted: Sequence[str]) -> dict[str, Any]:
            with torch.inference_mode():
                found: Tensor = module(_tensor(fields[named.reads], place))
            scores = named.makes == _SCORES
            return {named.makes: found.float().cpu().numpy() if scores else found}

        return Program({named.reads: Value()}, {named.makes: Value()}, run)

    return Engine("PyTorch", torch.__version__, opened, files=False)


class TorchRuntime(Stages):
    """Stages from modules; carries stay on the device, rows that stop are dropped there.

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

    device: Any

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        graph: Graph | None = None,
        *,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        graph = graph or Graph.chain(part for part in modules if "." not in part)
        named = {part: _named(part, module, modules, graph) for part, module in modules.items()}
        super().__init__(named, graph, engine=engine(device), threads=threads)
        self.device = torch.device(device)

    def begin(self, x: AnyArray | Fields) -> Batch:
        """As that of all stages; inputs move to the device once."""
        return super().begin({n: _tensor(v, self.device) for n, v in fields_of(x).items()})


def _named(
    part: str, module: nn.Module, modules: Mapping[str, nn.Module], graph: Graph
) -> NamedModule:
    name, dot, _ = part.partition(".")
    stage = graph.stage(name)
    if dot:
        if stage.hears:
            raise NetworkError(
                f"the head of stage '{name}' hears other scores, which modules cannot. "
                "Run the plan in ONNX Runtime."
            )
        return NamedModule(module, reads=name if part == head(name) else _X)
    answers = head(name) not in modules
    return NamedModule(module, stage.after or _X, _SCORES if answers else name)


def _tensor(x: Any, device: torch.device) -> Tensor:
    if isinstance(x, Tensor):
        return x
    try:
        found = torch.from_numpy(np.ascontiguousarray(x)).to(device)
    except TypeError:
        raise NetworkError(f"PyTorch has no tensors of {x.dtype}. Convert them.") from None
    if found.is_complex():
        raise NetworkError(f"networks read real numbers, not {x.dtype}. Convert them.")
    return found


@join.register(Tensor)
def _join(value: Tensor, *more: Tensor, axis: int) -> Tensor:
    return torch.cat([value, *more], axis)
