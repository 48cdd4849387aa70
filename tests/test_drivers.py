"""Every driver against the laws of drivers, on plans of every shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from scipy.special import logit
from torch import nn

from offramp.answering.refit import Refit, Refits, with_refits
from offramp.base.arrays import FloatArray
from offramp.base.errors import InputError, NetworkError, PlanError
from offramp.core.frontier import replay
from offramp.core.graph import Costs, Graph
from offramp.core.tasks import Kind
from offramp.core.trace import Trace, assemble
from offramp.exits import ExitOptions, add_exits
from offramp.export import one_file as one_file_model
from offramp.export import write_file, write_folder
from offramp.export.seal import sealed_bytes
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks, combine
from offramp.networks.preprocessing import Layout, Preprocessing
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.policies.cascade_routing import Routing
from offramp.policies.gates import Gates
from offramp.recording.record import RecordOptions, record
from offramp.runtime import Driver, OnnxRuntime, Routed, SingleFile, Walker
from offramp.runtime.torch import TorchRuntime
from offramp.testing import DriverLaws, seen_at
from tests.made import blob_networks, blobs, deep_network, hard_blobs, linear_network


@dataclass(frozen=True)
class Case:
    """A plan, and everything that drives it."""

    plan: Plan
    folder: Path

    @property
    def runtime(self) -> OnnxRuntime:
        return OnnxRuntime(self.plan.runnable(), self.plan.graph)


def walker(case: Case) -> Driver:
    return Walker(case.plan, case.runtime)


def one_file(case: Case) -> Driver:
    write_file(case.plan, case.folder / "plan.onnx", force=True)
    return SingleFile(case.folder / "plan.onnx")


def with_a_dial(case: Case) -> Driver:
    write_file(case.plan, case.folder / "dial.onnx", dial=True, force=True)
    return SingleFile(case.folder / "dial.onnx", threads=2)


def a_file_per_stage(case: Case) -> Driver:
    write_folder(case.plan, case.folder / "stages", dial=True, force=True)
    return Routed(case.folder / "stages")


def in_openvino(case: Case) -> Driver:
    write_folder(case.plan, case.folder / "vino", dial=True, force=True)
    return Routed(case.folder / "vino", "openvino")


def in_pytorch(case: Case) -> Driver:
    runtime = TorchRuntime(modules(case.plan.runnable()), case.plan.graph)
    return Walker(case.plan, runtime)


class Layers(nn.Module):  # type: ignore[misc]
    """A chain of Gemm and Relu, as `deep_network` and what is cut from it, in PyTorch."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__()
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self.read = graph.input[0].name
        self.nodes, self.said = list(graph.node), graph.output[0].name
        self.weights = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        known = {self.read: x, **self.weights}
        for node in self.nodes:
            given = [known[name] for name in node.input]
            known[node.output[0]] = _OPERATORS[node.op_type](*given)
        return known[self.said]


_OPERATORS: Mapping[str, Callable[..., torch.Tensor]] = {
    "Gemm": lambda x, weights, bias: x @ weights + bias,
    "Relu": torch.relu,
    "Cast": lambda x: x,
    "Identity": lambda x: x,
}


def modules(files: Mapping[str, Path]) -> dict[str, nn.Module]:
    return {
        part: Layers(onnx.load(file).graph)
        for part, file in files.items()
        if not part.endswith(".whole")
    }


DRIVERS: Mapping[str, Callable[[Case], Driver]] = {
    "walker": walker,
    "one file": one_file,
    "one file with a dial": with_a_dial,
    "a file per stage": a_file_per_stage,
    "a file per stage in OpenVINO": in_openvino,
    "walker in PyTorch": in_pytorch,
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Plans: a chain, exits with committees, a small network before them with a skip; refits."""
    folder = tmp_path_factory.mktemp("drivers")
    x, y = hard_blobs(1500, 1)
    np.savez(folder / "train.npz", x=x, y=y)
    x, y = hard_blobs(1600, 2)
    np.savez(folder / "test.npz", x=x, y=y)
    big, small = deep_network(folder / "big.onnx", 4), deep_network(folder / "small.onnx", 1)
    examples = open_examples(folder / "train.npz")
    exits = add_exits(big, examples, ExitOptions(at=["hidden1", "hidden2"]), folder / "e")
    exits.networks.write(folder / "exits")
    graphs = {
        "chain": combine({"small": small, "big": big}),
        "exits": exits.networks,
        "both": combine({"small": small, "big": folder / "exits"}),
    }
    found = {name: planned(networks, folder / f"case-{name}") for name, networks in graphs.items()}
    refits = dict(zip(graphs["both"].graph.order, some_refits(), strict=True))
    return {**found, "refitted": planned(graphs["both"], folder / "case-refitted", refits)}


def some_refits() -> list[Refit]:
    """One of every form, each of which changes answers."""
    random = np.random.default_rng(0)
    weights = [np.ones(4), np.eye(4), np.ones(()), np.eye(4)]
    return [
        Refit((w + random.normal(size=w.shape) * 0.2) / 2, random.normal(size=4) * 0.5)
        for w in weights
    ]


def planned(networks: Networks, folder: Path, refits: Refits | None = None) -> Case:
    runtime = OnnxRuntime(networks.files, networks.graph)
    examples = open_examples(folder.parent / "test.npz")
    names = [stage.name for stage in networks.graph.stages]
    # given, not measured: networks as small as these take no longer than a decision
    costs = Costs({n: 4.0**i for i, n in enumerate(names)}, dict.fromkeys(names, 0.25), "unit")
    trace = record(
        networks, runtime, examples, folder / "trace", RecordOptions(batch=50), costs=costs
    )
    # the small network of the chain errs less than the big one: what learns never leaves it
    plain = "margin" if len(networks.graph.order) == 2 else "learned"
    policy = "network" if refits else plain
    return routing(trace, networks, folder, policy, refits)


def routing(
    trace: Trace, networks: Networks, folder: Path, policy: str, refits: Refits | None = None
) -> Case:
    """A plan at the setting of its policy at which examples stop most evenly at its stages."""
    plan = fit(
        with_refits(trace, refits or {}), 0.1, policy=policy, networks=networks, keep_stages=True
    )
    plan = replace(plan, kinds=trace.kinds, refits=refits or {})
    spoken = plan.answering(trace)

    def evenness(setting: float) -> float:
        exits = replay(spoken, plan.policy, setting).exits().values()
        return -sum(share * math.log(share) for share in exits if share > 0)

    tradeoff = max(map(float, plan.policy.settings), key=evenness)
    return Case(replace(plan, tradeoff=tradeoff), folder)


class TestDrivers(DriverLaws):
    @pytest.fixture(params=["chain", "exits", "both", "refitted"])
    def case(self, request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
        return cases[request.param]

    @pytest.fixture(params=sorted(DRIVERS))
    def driver(self, request: pytest.FixtureRequest, case: Case) -> Driver:
        return DRIVERS[request.param](case)

    @pytest.fixture
    def plan(self, case: Case) -> Plan:
        return case.plan

    @pytest.fixture
    def runtime(self, case: Case) -> OnnxRuntime:
        return case.runtime

    @pytest.fixture
    def x(self) -> FloatArray:
        return hard_blobs(96, 3)[0]


PEERS = ("window", "exhaustive", "msdnet", "greedy", "eenet", "jei-dnn", "cascade-routing")


@pytest.fixture(scope="module")
def peers(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Published policies on the graph with everything in it, all of whose stages are used."""
    both, folder = cases["both"], tmp_path_factory.mktemp("peers")
    trace = Trace.read(both.folder / "trace")
    networks = Networks(trace.graph, both.plan.networks)
    for name in PEERS:
        (folder / name).mkdir()
    made = {name: routing(trace, networks, folder / name, name) for name in PEERS}
    return {name: replace(case, plan=evened(case.plan, trace)) for name, case in made.items()}


def evened(plan: Plan, trace: Trace) -> Plan:
    """Half of the examples stop at every gate, whatever it has learned."""
    policy, spoken = plan.policy, plan.answering(trace)
    seen = {s: seen_at(policy.graph, spoken, s) for s in policy.graph.order[:-1]}
    if isinstance(policy, Gates):
        halves = {s: np.median(policy.evidence(seen[s]), axis=0) for s in seen}
        cuts = {s: np.resize(half, len(policy.settings)) for s, half in halves.items()}
        return replace(plan, policy=replace(policy, cuts=cuts))
    if isinstance(policy, Routing):
        weights, free = dict(policy.weights), dict(policy.costs)
        for stage in seen:
            logits = logit(policy.evidence(seen[stage]))
            weights[stage] = weights[stage].copy()
            weights[stage][0, 0] += np.median(logits[:, 1:].min(axis=1) - logits[:, 0])
            free[stage] = np.zeros_like(free[stage])
        return replace(plan, policy=replace(policy, weights=weights, costs=free))
    return plan


@pytest.fixture(scope="module")
def driven(peers: dict[str, Case]) -> Callable[[str, str], Driver]:
    """Each driver of each plan, made once."""
    return cache(lambda policy, driver: DRIVERS[driver](peers[policy]))


@pytest.mark.parametrize("policy", PEERS)
class TestPeers(DriverLaws):
    @pytest.fixture(params=sorted(DRIVERS))
    def driver(
        self, request: pytest.FixtureRequest, policy: str, driven: Callable[[str, str], Driver]
    ) -> Driver:
        return driven(policy, request.param)

    @pytest.fixture
    def plan(self, policy: str, peers: dict[str, Case]) -> Plan:
        return peers[policy].plan

    @pytest.fixture
    def runtime(self, policy: str, peers: dict[str, Case]) -> OnnxRuntime:
        return peers[policy].runtime

    @pytest.fixture
    def x(self) -> FloatArray:
        return hard_blobs(96, 3)[0]


def test_the_plans_of_the_laws_use_their_stages(
    cases: dict[str, Case], peers: dict[str, Case]
) -> None:
    for case in (*cases.values(), *peers.values()):
        stages = set(walker(case)(hard_blobs(400, 3)[0]).stage)
        assert len(stages) > 1  # else the laws above would say little
    assert any(case.plan.committees for case in cases.values())


def test_a_network_that_runs_alone_is_exported_as_well(tmp_path: Path) -> None:
    """Where a plan does not route, its one network answers, uncut."""
    networks = combine(blob_networks(tmp_path))
    x = np.zeros((3, 6), np.float32)
    points, labels = blobs(90)
    np.savez(tmp_path / "d.npz", x=points, y=labels)
    runtime = OnnxRuntime(networks.files)
    examples = open_examples(tmp_path / "d.npz")
    trace = record(networks, runtime, examples, tmp_path / "trace", RecordOptions(batch=20))
    plan = fit(trace, 0.0001, networks=networks)
    assert not plan.routes
    for driver in (one_file(Case(plan, tmp_path)), a_file_per_stage(Case(plan, tmp_path))):
        assert set(driver(x).stage) == {plan.certificate.static_choice}
        np.testing.assert_allclose(driver(x).scores, runtime.run(driver(x).stage[0], x), atol=1e-5)
        assert len(driver(x[:0]).answer) == 0


def test_any_stage_alone_is_exported(cases: dict[str, Case], tmp_path: Path) -> None:
    """Exits too, and the uncut reference of a network with exits."""
    x = hard_blobs(40, 5)[0]
    for name, case in cases.items():
        for stage in case.plan.graph.order:
            certificate = replace(case.plan.certificate, static_choice=stage)
            plan = replace(case.plan, tradeoff=None, certificate=certificate)
            folder = tmp_path / f"{name}-{stage}"
            folder.mkdir()
            alone = Case(plan, folder)
            expected = walker(alone)(x)
            for driver in (one_file(alone), a_file_per_stage(alone)):
                found = driver(x)
                assert set(found.stage) == {stage}
                np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.parametrize("kind", ["probabilities", "sigmoid"])
def test_other_kinds_are_refitted_in_files_as_well(
    cases: dict[str, Case], tmp_path: Path, kind: Kind
) -> None:
    case, x = cases["chain"], hard_blobs(64, 4)[0]
    refits = dict(zip(case.plan.graph.order, some_refits(), strict=False))
    kinds: dict[str, Kind] = dict.fromkeys(case.plan.graph.order, kind)
    plan = replace(case.plan, refits=refits, kinds=kinds, committees={})
    read = Case(plan, tmp_path)
    expected = walker(read)(x)
    assert not np.allclose(expected.scores, walker(case)(x).scores, atol=0.1)
    for driver in (one_file(read), a_file_per_stage(read), in_openvino(read)):
        np.testing.assert_allclose(driver(x).scores, expected.scores, atol=1e-4)


# ------------------------------------------------------------------------------ bad files


def test_stages_of_a_folder_may_run_on_different_engines(
    cases: dict[str, Case], tmp_path: Path
) -> None:
    plan, x = cases["chain"].plan, hard_blobs(200)[0]
    write_folder(plan, tmp_path / "stages")
    engines = {"small": "openvino", "big": "onnxruntime"}
    mixed, one = Routed(tmp_path / "stages", engines), Routed(tmp_path / "stages")
    assert {stage: engine.name for stage, engine in mixed.engines.items()} == {
        "small": "OpenVINO",
        "big": "ONNX Runtime",
    }
    found, expected = mixed(x), one(x)
    assert (found.stage == expected.stage).all()
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    for wrong in ({"small": "openvino"}, {**engines, "other": "openvino"}):
        with pytest.raises(InputError, match=r"Name one engine for each of small, big\."):
            Routed(tmp_path / "stages", wrong)


@pytest.mark.parametrize("spoil", ["cut", "altered", "added to", "another", "no file"])
def test_files_that_are_not_as_exported_are_refused(
    cases: dict[str, Case], tmp_path: Path, spoil: str
) -> None:
    case = replace(cases["chain"], folder=tmp_path)
    one_file(case), a_file_per_stage(case)
    for path, load, error in (
        (tmp_path / "plan.onnx", SingleFile, NetworkError),
        (tmp_path / "stages" / "big.onnx", lambda _: Routed(tmp_path / "stages"), PlanError),
    ):
        spoiled(path, spoil)
        with pytest.raises(error, match=r"Export|read|match|not exist|missing") as caught:
            load(path)
        assert "\n" not in str(caught.value)


def spoiled(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "altered":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "added to":
        path.write_bytes(content + b"\x00")
    elif how == "another":
        path.write_bytes(deep_network(path.parent / "other").read_bytes())
    else:
        path.unlink()


def test_a_file_says_what_it_promises(cases: dict[str, Case], tmp_path: Path) -> None:
    case = replace(cases["exits"], folder=tmp_path)
    one_file(case)
    about = SingleFile(tmp_path / "plan.onnx").about
    assert about["certificate"] == case.plan.certificate.to_json()
    assert about["stages"] == list(case.plan.graph.order)
    assert about["tradeoff"] == case.plan.tradeoff
    assert set(about["networks"]) == {
        part for part in case.plan.networks if not part.endswith(".whole")
    }


def test_a_file_that_needs_a_newer_engine_is_refused(
    cases: dict[str, Case], tmp_path: Path
) -> None:
    model = one_file_model(cases["chain"].plan)
    model.opset_import[0].version = 99
    (tmp_path / "new.onnx").write_bytes(sealed_bytes(model))
    with pytest.raises(NetworkError, match="does not load"):
        SingleFile(tmp_path / "new.onnx")


def test_cuda_is_refused_where_there_is_none(cases: dict[str, Case], tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    one_file(replace(cases["chain"], folder=tmp_path))
    with pytest.raises(NetworkError, match="onnxruntime-gpu"):
        SingleFile(tmp_path / "plan.onnx", device="cuda")


# ------------------------------------------------------------------------------ images


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("colours", [1, 3])
def test_preprocessing_can_be_inside_the_file(tmp_path: Path, layout: Layout, colours: int) -> None:
    pixels = Preprocessing((5, 4), (0.4, 0.5, 0.6)[:colours], (0.2, 0.3, 0.1)[:colours], layout)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (400, 5, 4, colours), dtype=np.uint8)
    x = pixels(images)
    weights = random.normal(size=(x[0].size, 3))
    files = {
        name: linear_network(tmp_path / f"{name}.onnx", weights + noise, x.shape[1:])
        for name, noise in (("small", random.normal(size=weights.shape)), ("big", 0.0))
    }
    runtime = OnnxRuntime(files)
    scores = {stage: runtime.run(stage, x) for stage in files}
    costs = Costs({"small": 1.0, "big": 4.0}, {"small": 0.0, "big": 0.0})
    labels = scores["big"].argmax(axis=1)
    trace = assemble(Graph.chain(files), costs, scores, labels=labels, kind="logits")
    plan = fit(trace, 0.5, policy="margin", networks=Networks(trace.graph, files, pixels))
    middle = len(plan.policy.settings) // 2
    between = plan.policy.settings[middle : middle + 2].mean()  # no example is right at it
    plan = replace(plan, tradeoff=float(between))
    write_file(plan, tmp_path / "plan.onnx", images=True, dial=True)
    write_folder(plan, tmp_path / "plan", images=True)
    expected = Walker(plan, runtime)(x)
    assert len(set(expected.stage)) == 2
    for driver in (SingleFile(tmp_path / "plan.onnx"), Routed(tmp_path / "plan")):
        found = driver(images)
        assert (found.stage == expected.stage).all()
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
        with pytest.raises(NetworkError):
            driver(x)
