"""A plan over PyTorch modules that is one itself.

Needs the extra `torch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from offramp.base.errors import MissingExtra, NetworkError
from offramp.plan.plan import Plan
from offramp.runtime.driver import infer
from offramp.runtime.torch import TorchRuntime

try:
    import torch
    from torch import Tensor, nn
except ImportError as _problem:
    raise MissingExtra(_problem.name or "torch", "torch") from None

__all__ = ["Cascade", "CascadeAnswers"]


class CascadeAnswers(NamedTuple):
    """What a cascade answered, in the order of its inputs, on their device."""

    answer: Tensor  # (n,) int64, class
    scores: Tensor  # (n, classes) float32, of the stage that answered
    position: Tensor  # (n,) int64, of that stage among `Cascade.names`
    cost: Tensor  # (n,) float64, in the unit of the plan


class Cascade(nn.Module):
    """Modules of which just enough run for each row of a batch.

    It answers, and is never trained: it stays in evaluation mode, whatever a module around it is
    told, and keeps no gradients. Its state is that of its modules, so that theirs can be loaded
    into it and moved with it.

    Args:
        plan: what decides.
        modules: part -> module, as for `TorchRuntime`: stage -> network; or bodies and heads
            (`big.head`) where the plan's graph has exits.

    Attributes:
        names: of the stages that `position` counts.

    Raises:
        NetworkError: a stage without a module, or heads that hear others.
    """

    def __init__(self, plan: Plan, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.plan = plan
        # names of modules hold no dot, and those of stages no colon
        self.stages = nn.ModuleDict({_key(part): module for part, module in modules.items()})
        self.names: tuple[str, ...] = tuple(plan.running.graph.order)
        self._runtime(torch.device("cpu"))  # finds out here what does not fit
        self.eval()

    def train(self, mode: bool = True) -> Cascade:
        """Stays in evaluation mode: a plan holds for modules as they answered when recorded."""
        super().train(False)
        return self

    def forward(self, x: Tensor | Mapping[str, Tensor]) -> CascadeAnswers:
        """The answers to inputs (n, ...), or fields by name, on their device; n may be 0.

        Raises:
            NetworkError: inputs of a shape or type that the modules do not read.

        Warns:
            UnlikeInputs: they are of another type or range than those recorded; once for a plan.
        """
        given = x if isinstance(x, Mapping) else {"x": x}
        device = next((value.device for value in given.values()), torch.device("cpu"))
        found = infer(self.plan, self._runtime(device), {n: _array(v) for n, v in given.items()})
        return CascadeAnswers(
            *(
                torch.from_numpy(np.ascontiguousarray(values)).to(device)
                for values in (found.answer, found.scores, found.position, found.cost)
            )
        )

    def _runtime(self, device: torch.device) -> TorchRuntime:
        """Made anew in each call, which takes next to nothing: modules move and are replaced."""
        modules = {part.replace(":", "."): module for part, module in self.stages.items()}
        threads = torch.get_num_threads()  # as they are: they are of the whole process
        return TorchRuntime(modules, self.plan.graph, device=str(device), threads=threads)


def _key(part: str) -> str:
    return part.replace(".", ":")


def _array(values: Any) -> Any:
    if not isinstance(values, Tensor):
        raise NetworkError(f"a cascade reads tensors, not {type(values).__name__}.")
    return values.detach().cpu().numpy()
