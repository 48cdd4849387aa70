"""A plan over modules is a module."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from offramp.base.arrays import FloatArray  # noqa: E402
from offramp.base.errors import NetworkError  # noqa: E402
from offramp.core.graph import Costs, Graph, Stage  # noqa: E402
from offramp.core.trace import assemble  # noqa: E402
from offramp.plan.fit import fit  # noqa: E402
from offramp.plan.plan import Plan  # noqa: E402
from offramp.runtime.driver import Driver  # noqa: E402
from offramp.runtime.format import Answers  # noqa: E402
from offramp.runtime.torch import TorchRuntime  # noqa: E402
from offramp.testing import DriverLaws  # noqa: E402
from offramp.torch import Cascade, CascadeAnswers  # noqa: E402

FEATURES, CLASSES = 6, 4


def linear(inputs: int, outputs: int, seed: int) -> Any:
    layer = nn.Linear(inputs, outputs)
    weights = np.random.default_rng(seed).normal(size=(outputs, inputs)) * 0.7
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights))
        layer.bias.zero_()
    return layer


def networks() -> dict[str, Any]:
    """Two networks, the small one a rough copy of the big one, which drops half while it trains."""
    big = nn.Sequential(linear(FEATURES, CLASSES, 0), nn.Dropout(0.5))
    small = copy.deepcopy(big[0])
    with torch.no_grad():
        small.weight += 0.3 * torch.from_numpy(
            np.random.default_rng(1).normal(size=(CLASSES, FEATURES))
        )
    return {"small": small, "big": big}


def exits() -> tuple[Graph, dict[str, Any]]:
    """A network with an exit: two bodies, each with a head."""
    graph = Graph.build([Stage("first"), Stage("last", "first")])
    body = nn.Sequential(linear(FEATURES, 8, 2), nn.ReLU())
    modules = {"first": body, "last": linear(8, 8, 3)}
    return graph, {
        **modules,
        "first.head": linear(8, CLASSES, 4),
        "last.head": linear(8, CLASSES, 5),
    }


def inputs(rows: int, seed: int = 0) -> FloatArray:
    return np.random.default_rng(seed).normal(size=(rows, FEATURES)).astype(np.float32)


def planned(runtime: TorchRuntime) -> Plan:
    x, graph = inputs(600), runtime.graph
    scores = {stage: runtime.run(stage, x) for stage in graph.order}
    costs = Costs(dict(zip(graph.order, (1.0, 3.0), strict=True)), dict.fromkeys(graph.order, 0.0))
    trace = assemble(graph, costs, scores, kind="logits")
    plan = fit(trace, 0.2, policy="margin", unlabelled=True)
    return replace(plan, tradeoff=float(plan.policy.settings[len(plan.policy.settings) // 2]))


def made(kind: str) -> tuple[Cascade, TorchRuntime, Plan]:
    graph, modules = (None, networks()) if kind == "networks" else exits()
    runtime = TorchRuntime(modules, graph)
    plan = planned(runtime)
    return Cascade(plan, modules), runtime, plan


@pytest.fixture(params=["networks", "exits"])
def parts(request: pytest.FixtureRequest) -> tuple[Cascade, TorchRuntime, Plan]:
    return made(request.param)


class _Driven:
    """A cascade as a driver: its tensors as arrays."""

    def __init__(self, cascade: Cascade, plan: Plan) -> None:
        self.cascade, self.plan = cascade, plan

    def __call__(self, x: Any, tradeoff: float | None = None) -> Answers:
        self.cascade.plan = self.plan.turned(tradeoff)
        found: CascadeAnswers = self.cascade(torch.from_numpy(x))
        answer, scores, position, cost = (values.numpy() for values in found)
        names = np.array(self.cascade.names)
        return Answers(answer=answer, position=position, stages=names, cost=cost, scores=scores)


class TestCascade(DriverLaws):
    @pytest.fixture
    def plan(self, parts: tuple[Cascade, TorchRuntime, Plan]) -> Plan:
        return parts[2]

    @pytest.fixture
    def runtime(self, parts: tuple[Cascade, TorchRuntime, Plan]) -> TorchRuntime:
        return parts[1]

    @pytest.fixture
    def driver(self, parts: tuple[Cascade, TorchRuntime, Plan]) -> Driver:
        return _Driven(parts[0], parts[2])

    @pytest.fixture
    def x(self) -> FloatArray:
        return inputs(60, seed=7)


def test_some_leave_early_and_some_do_not(parts: tuple[Cascade, TorchRuntime, Plan]) -> None:
    found = parts[0](torch.from_numpy(inputs(60, seed=7)))
    assert set(found.position.tolist()) == {0, 1}  # else the laws would say little


def test_it_stays_in_evaluation_inside_what_trains() -> None:
    cascade = made("networks")[0]
    x = torch.from_numpy(inputs(60, seed=7))
    before = cascade(x)
    around = nn.Sequential(cascade).train()
    after = around(x)
    assert not cascade.training
    assert not any(module.training for module in cascade.modules())
    assert (before.scores == after.scores).all()
    assert not after.scores.requires_grad


def test_its_state_is_that_of_its_modules(tmp_path: Path) -> None:
    for kind in ("networks", "exits"):
        cascade, _, plan = made(kind)
        fresh = networks() if kind == "networks" else exits()[1]
        x = torch.from_numpy(inputs(60, seed=7))
        state = {key: value.clone() for key, value in cascade.state_dict().items()}
        for module in fresh.values():
            for values in module.parameters():
                nn.init.zeros_(values)
        other = Cascade(plan, fresh)
        assert not (other(x).scores == cascade(x).scores).all()
        other.load_state_dict(state)
        assert (other(x).scores == cascade(x).scores).all()
        assert (copy.deepcopy(other)(x).scores == cascade(x).scores).all()


def test_threads_of_the_process_stay_as_they_are() -> None:
    before = torch.get_num_threads()
    cascade = made("networks")[0]
    torch.set_num_threads(2)
    try:
        cascade(torch.from_numpy(inputs(5)))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_is_no_tensor_or_has_no_module_is_refused() -> None:
    cascade, _, plan = made("networks")
    with pytest.raises(NetworkError, match="reads tensors, not ndarray"):
        cascade(inputs(5))
    with pytest.raises(NetworkError, match="'small' has no network"):
        Cascade(plan, {"big": networks()["big"]})
