"""Exits on modules as people write them: their answers, wrappers, passes, inputs and order."""

from __future__ import annotations

import warnings
from collections import OrderedDict, namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from offramp.base.arrays import AnyArray
from offramp.base.errors import InputError, NetworkError, OfframpWarning
from offramp.cli import app
from offramp.core.frontier import replay
from offramp.core.trace import Trace
from offramp.exits import ExitOptions, add_exits, candidate_points
from offramp.exits.cutting import exit_point
from offramp.exits.descent import Training
from offramp.exits.module import WithExits, export
from offramp.exits.modules import exit_scores, scores_name, submodules
from offramp.exits.network import Network, open_session
from offramp.exits.outputs import FINAL
from offramp.exits.training import shuffled, train
from offramp.networks.data import ExampleBatch
from offramp.networks.networks import Networks, combine
from offramp.plan.plan import Plan
from offramp.recording.independence import TrainingMode, check_made_up
from offramp.runtime import OnnxRuntime, SingleFile, Stages, infer
from tests import architectures
from tests.made import blobs, linear_network

Pair = namedtuple("Pair", "early final")


@dataclass
class Record:
    early: Tensor
    final: Tensor


class ModelOutput(OrderedDict[str, Tensor]):
    """As transformers answer: a mapping whose values are also its attributes and its places."""


KINDS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "list": lambda early, final: [early, final],
    "tuple": lambda early, final: (early, final),
    "main first": lambda early, final: (final, early),
    "mapping": lambda early, final: {"final": final, "early": early},
    "ModelOutput": lambda early, final: ModelOutput(final=final, early=early),
    "named tuple": Pair,
    "dataclass": Record,
    "nested": lambda early, final: {"all": Record(early, final), "hidden": None},
}


class Two(nn.Module):
    """Two layers, with scores after each, which it gives as it is told."""

    def __init__(self, answer: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.answer = answer
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 16)
        self.early, self.final = nn.Linear(16, 4), nn.Linear(16, 4)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.a(x))
        return self.early(x), self.final(torch.relu(self.b(x)))

    def forward(self, x: Tensor) -> Any:
        return self.answer(*self.both(x))


class Last(Two):
    """Its hidden layer, and the second of the scores."""

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.a(x))
        return x, self.final(torch.relu(self.b(x)))


def points(examples: int = 40) -> tuple[Tensor, AnyArray]:
    x, y = blobs(examples)
    return torch.from_numpy(x), y


def answered(stage: str, exits: Any, x: Any) -> AnyArray:
    networks = exits.networks
    found: AnyArray = OnnxRuntime(networks.files, networks.graph).run(stage, x)
    return found


WRAPPED: dict[str, Callable[[nn.Module], nn.Module]] = {
    "bare": lambda module: module,
    "DataParallel": nn.DataParallel,
    "compiled": lambda module: torch.compile(module, backend="eager"),
    "both": lambda module: torch.compile(nn.DataParallel(module), backend="eager"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_deepest_answer_is_the_reference_whatever_its_place(kind: str, tmp_path: Path) -> None:
    module, (x, _) = Two(KINDS[kind]), points()
    made = export(module, x, tmp_path)
    assert made.networks.graph.order == ("exit1", FINAL)
    with torch.no_grad():
        early, final = module.both(x)
    np.testing.assert_allclose(answered("exit1", made, x.numpy()), early.numpy(), atol=1e-5)
    np.testing.assert_allclose(answered(FINAL, made, x.numpy()), final.numpy(), atol=1e-5)


def test_answers_of_googlenet_come_in_the_order_of_their_depth(tmp_path: Path) -> None:
    module, x = architectures.googlenet()
    made = export(module, torch.from_numpy(x), tmp_path)
    with torch.no_grad():
        main, two, one = module(torch.from_numpy(x))
    for stage, scores in (("exit1", one), ("exit2", two), (FINAL, main)):
        np.testing.assert_allclose(answered(stage, made, x), scores.numpy(), atol=1e-5)


class Twin(nn.Module):
    """Two answers of the same depth: neither is an exit before the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.one, self.two = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.a(x))
        return {"one": self.one(self.b(x).relu()), "two": self.two(self.c(x).relu())}


def test_answers_of_equal_depth_are_refused_until_one_is_named(tmp_path: Path) -> None:
    module, (x, _) = Twin(), points()
    with pytest.raises(NetworkError, match=r"answers \(one, two\) is the network's own.*answer="):
        export(module, x, tmp_path / "refused")
    made = export(module, x, tmp_path / "named", answer="one")
    with torch.no_grad():
        expected = module(x)["one"].numpy()
    np.testing.assert_allclose(answered(FINAL, made, x.numpy()), expected, atol=1e-5)


def test_a_layer_more_against_more_work_is_refused(tmp_path: Path) -> None:
    class Doubtful(Two):
        def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.relu(self.a(x))
            return self.wide(x), self.final(torch.relu(self.narrow(x)))

    module, (x, _) = Doubtful(Pair), points()
    module.wide, module.narrow = nn.Linear(16, 4), nn.Linear(16, 1)
    module.final = nn.Linear(1, 4)
    with pytest.raises(NetworkError, match="does not show"):
        export(module, x, tmp_path)


def test_tensors_that_are_no_scores_are_no_exits(tmp_path: Path) -> None:
    module, (x, _) = Two(lambda e, f: {"hidden": e.repeat(1, 3), "logits": f, "exit": e}), points()
    with pytest.raises(NetworkError, match=r"different numbers of classes.*answer="):
        export(module, x, tmp_path / "refused")
    made = export(module, x, tmp_path / "made", answer="logits")
    assert made.networks.graph.order == ("exit1", FINAL)
    with pytest.raises(NetworkError, match=r"no scores .* called 'logit'.*Did you mean 'logits'"):
        export(module, x, tmp_path / "other", answer="logit")
    with pytest.raises(NetworkError, match="exits need several scores"):
        export(Last(lambda h, s: s), x, tmp_path / "one")


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_wrapped_modules_are_cut_as_the_bare_one(wrapped: str, tmp_path: Path) -> None:
    x, y = points()
    made = export(WRAPPED[wrapped](Two(KINDS["list"])), x, tmp_path / "own")
    assert made.networks.graph.order == ("exit1", FINAL)
    model = WithExits(WRAPPED[wrapped](Last(lambda h, s: s)), {"exit1": "a"}, x)
    assert "module.a.weight" in model.state_dict()
    train(WRAPPED[wrapped](model), shuffled(x.numpy(), y, 20), Training("heads", epochs=1))
    made = export(WRAPPED[wrapped](model), x, tmp_path / "attached")
    with torch.no_grad():
        expected = model.eval()(x)
    np.testing.assert_allclose(answered("exit1", made, x.numpy()), expected[0], atol=1e-5)


def test_compiled_parts_have_the_names_of_the_bare_ones(tmp_path: Path) -> None:
    module, (x, _) = Last(lambda h, s: s), points()
    module.a = torch.compile(nn.Sequential(module.a, nn.ReLU()), backend="eager")
    assert {"a", "a.0", "a.1"} <= submodules(module).keys()
    model = WithExits(module, {"exit1": "a.0"}, x)
    assert export(model, x, tmp_path).networks.graph.order == ("exit1", FINAL)


SINGLE: dict[str, tuple[Callable[[Tensor, Tensor], Any], str | None]] = {
    "tensor": (lambda hidden, scores: scores, None),
    "mapping": (lambda hidden, scores: {"hidden": hidden, "logits": scores}, None),
    "dataclass": (lambda hidden, scores: Record(hidden, scores), "final"),
    "tuple": (lambda hidden, scores: (hidden, scores), "1"),
    "list of one": (lambda hidden, scores: [scores], None),
    "nested": (lambda hidden, scores: {"out": {"x": hidden, "logits": scores}}, None),
    "three dimensions beside": (lambda hidden, scores: (scores, hidden[:, None]), None),
}


@pytest.mark.parametrize("kind", SINGLE)
def test_the_scores_of_a_module_are_found_in_its_answer(kind: str, tmp_path: Path) -> None:
    answer, name = SINGLE[kind]
    module, (x, _) = Last(answer), points()
    model = WithExits(module, {"exit1": "a"}, x, answer=name).eval()
    with torch.no_grad():
        assert torch.equal(model(x)[-1], module.both(x)[1])
    assert export(model, x, tmp_path).networks.graph.order == ("exit1", FINAL)


def test_scores_that_do_not_show_are_asked_for() -> None:
    x, _ = points(4)
    with pytest.raises(NetworkError, match=r"does not show which are its scores.*answer="):
        WithExits(Last(lambda h, s: (h, s)), {"exit1": "a"}, x)
    with pytest.raises(NetworkError, match="called 'logits'; it holds Record"):
        WithExits(Last(Record), {"exit1": "a"}, x, answer="logits")
    for nothing in ({"hidden": x[:, None]}, None, "text", ([[x]],)):
        with pytest.raises(NetworkError, match="Name them"):
            scores_name(nothing, None)
    with pytest.raises(NetworkError, match="exits need several"):
        exit_scores({"logits": x}, None)


def test_a_refused_module_stays_as_it_was() -> None:
    module, (x, _) = Last(lambda h, s: (h, s)).train(), points(4)
    module.b.eval()
    with pytest.raises(NetworkError):
        WithExits(module, {"exit1": "a"}, x)
    assert not module.a._forward_hooks
    assert module.training
    assert not module.b.training


def test_an_exit_lies_after_the_pass_that_was_asked_for(tmp_path: Path) -> None:
    module, x = architectures.recurrent()
    inputs = torch.from_numpy(x)
    expected, hidden = {}, module.stem(inputs)
    for number in (1, 2, 3):
        expected[number] = hidden = module.block(hidden)
    for number in (1, 2):
        model = WithExits(module, {"exit1": f"block#{number}"}, inputs).eval()
        head = model.heads["exit1"]
        with torch.no_grad():
            assert torch.equal(model(inputs)[0], head(expected[number]))
            assert torch.equal(model(inputs)[0], head(expected[number]))  # and again
        made = export(model, inputs, tmp_path / str(number))
        scores = head(expected[number]).detach().numpy()
        np.testing.assert_allclose(answered("exit1", made, x), scores, atol=1e-5)
    with pytest.warns(OfframpWarning, match="'block' runs 3 times.*after the last.*block#1"):
        model = WithExits(module, {"exit1": "block"}, inputs)
    with torch.no_grad():
        assert torch.equal(model(inputs)[0], model.heads["exit1"](expected[3]))
    with pytest.raises(NetworkError, match="no pass 4 of 'block': it runs 3 times"):
        WithExits(module, {"exit1": "block#4"}, inputs)
    with pytest.raises(NetworkError, match="no pass 0 of 'stem': it runs once"):
        WithExits(module, {"exit1": "stem#0"}, inputs)


def older_export(module: nn.Module, x: AnyArray, path: Path) -> Path:
    """By the exporter that most files in use come from."""
    torch.onnx.export(
        module.eval(),
        (torch.from_numpy(x),),
        path,
        dynamo=False,
        input_names=["x"],
        dynamic_axes={"x": {0: "batch"}},
    )
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("exporter", [architectures.export, older_export])
def test_passes_of_a_block_are_told_apart_in_a_file(
    exporter: Callable[[nn.Module, AnyArray, Path], Path], tmp_path: Path
) -> None:
    module, x = architectures.recurrent()
    network = Network.read(exporter(module, x, tmp_path / "m.onnx"), x)
    listed = candidate_points(tmp_path / "m.onnx")
    assert len({point.path for point in listed}) == len(listed) == 4
    hidden = module.stem(torch.from_numpy(x))
    for number in (1, 2, 3):
        hidden = module.block(hidden)
        point = exit_point(network, f"block#{number}")
        assert point == listed[number]
        wide = onnx.ModelProto()
        wide.CopyFrom(network.model)
        wide.graph.output.append(onnx.ValueInfoProto(name=point.name))
        values = open_session(wide).run([point.name], {network.inputs[0]: x})[0]
        np.testing.assert_allclose(values, hidden.detach().numpy(), atol=1e-5)
    with pytest.raises(NetworkError, match="no pass 4 of 'block': it runs 3 times"):
        exit_point(network, "block#4")
    with pytest.raises(NetworkError, match="no point 'blok'"):
        exit_point(network, "blok#2")


def test_a_block_without_a_pass_means_its_last_and_says_so(tmp_path: Path) -> None:
    module, x = architectures.recurrent()
    network = Network.read(architectures.export(module, x, tmp_path / "m.onnx"), x)
    with pytest.warns(OfframpWarning, match="'block' runs 3 times"):
        assert exit_point(network, "block") == exit_point(network, "block#3")


def batch_of(x: Mapping[str, AnyArray], rows: int) -> dict[str, AnyArray]:
    return {name: np.resize(values, (rows, *values.shape[1:])) for name, values in x.items()}


@pytest.mark.parametrize("by_name", [False, True])
def test_modules_with_several_inputs_get_exits(by_name: bool, tmp_path: Path) -> None:
    module, x = architectures.encoder()
    tensors = {name: torch.from_numpy(values) for name, values in x.items()}
    names = ("types", "ids", "mask") if by_name else ("ids", "mask", "types")
    given: Any = {name: tensors[name] for name in names}
    arrays: Any = {name: np.tile(x[name], (10, 1)) for name in names}
    if not by_name:
        given, arrays = tuple(given.values()), tuple(arrays.values())
    model = WithExits(module, {"exit1": "layers.0", "exit2": "layers.1"}, given, answer="logits")
    labels = np.arange(60) % architectures.CLASSES
    before = [tensor.clone() for tensor in model.heads.parameters()]
    train(model, shuffled(arrays, labels, 20), Training("heads", epochs=1))
    assert not all(map(torch.equal, before, model.heads.parameters()))
    made = export(model, given, tmp_path)
    assert made.networks.graph.order == ("exit1", "exit2", FINAL)
    more = batch_of(x, 8)
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(values) for name, values in more.items()})
    for stage, scores in zip(made.networks.graph.order, expected, strict=True):
        np.testing.assert_allclose(answered(stage, made, more), scores.numpy(), atol=1e-5)


def test_inputs_that_a_module_does_not_take_are_refused(tmp_path: Path) -> None:
    module, x = architectures.encoder()
    tensors = {name: torch.from_numpy(values) for name, values in x.items()}
    unlike: list[Any] = [{"ids": tensors["ids"], "masks": tensors["mask"]}, (tensors["ids"],)]
    for wrong in unlike:
        with pytest.raises(InputError, match="does not take these inputs"):
            WithExits(module, {"exit1": "layers.0"}, wrong, answer="logits")
    none: list[Any] = [(), [1, 2]]
    for wrong in none:
        with pytest.raises(InputError, match="inputs of a module are tensors"):
            WithExits(module, {"exit1": "layers.0"}, wrong)
    with pytest.raises(InputError, match="input mask has 5 rows, and there are 6 labels"):
        shuffled({**x, "mask": x["mask"][:5]}, np.zeros(6, np.int64))


class Fields:
    """Examples of several fields, in memory."""

    fingerprint, classes, notes, remarks = "fields", (), (), ()

    def __init__(self, x: Mapping[str, AnyArray], labels: AnyArray) -> None:
        self.x, self.labels, self.examples = x, labels, len(labels)

    def batches(self, size: int, start: int = 0) -> Iterator[ExampleBatch]:
        for at in range(start, self.examples, size):
            rows = slice(at, at + size)
            fields: Any = {name: values[rows] for name, values in self.x.items()}
            yield ExampleBatch(np.arange(self.examples)[rows], fields, self.labels[rows])


class Logits(nn.Module):
    """An encoder that gives its scores alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.x = architectures.encoder()

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        return self.encoder(ids, mask, types).logits


def test_networks_with_several_inputs_get_exits(tmp_path: Path) -> None:
    module = Logits()
    x = module.x
    path = architectures.export(module, x, tmp_path / "m.onnx")
    assert Network.read(path).inputs == ("ids", "mask", "types")
    assert candidate_points(path)
    random = np.random.default_rng(0)
    ids = random.integers(1, 30, (300, 9))
    ids[np.arange(9) >= random.integers(3, 10, 300)[:, None]] = 0
    fields = {"ids": ids, "mask": (ids != 0).astype(np.int64), "types": np.zeros_like(ids)}
    labels = ids[:, 1] % architectures.CLASSES
    options = ExitOptions(at=["encoder.layers.0"], padding=0, style="linear")
    made = add_exits(path, Fields(fields, labels), options, tmp_path / "parts")
    assert made.networks.taught is not None
    assert len(made.networks.taught) == 300
    with torch.no_grad():
        expected = module(*(torch.from_numpy(values) for values in x.values())).numpy()
    np.testing.assert_allclose(answered(FINAL, made, x), expected, atol=1e-5)
    with pytest.raises(NetworkError, match=r"reads ids, mask, types.*'types' is missing"):
        Network.read(path, {"ids": ids, "mask": fields["mask"]})


@pytest.mark.filterwarnings("ignore:stage 'final' is wrong")  # it is untrained
def test_from_a_network_of_several_inputs_to_one_file_by_the_command_line(tmp_path: Path) -> None:
    module = Logits()
    path = architectures.export(module, module.x, tmp_path / "m.onnx")
    random = np.random.default_rng(0)
    ids = random.integers(1, 30, (600, 9))
    ids[np.arange(9) >= random.integers(3, 10, 600)[:, None]] = 0
    fields = {"ids": ids, "mask": (ids != 0).astype(np.int64), "types": np.zeros_like(ids)}
    with torch.no_grad():
        right = module(*map(torch.from_numpy, fields.values())).argmax(dim=1).numpy()
    labels = np.where(random.random(600) < 0.9, right, ids[:, 1] % architectures.CLASSES)
    given: Any = {**fields, "y": labels}
    for name, rows in (("train", slice(300)), ("test", slice(300, None))):
        np.savez(tmp_path / f"{name}.npz", **{key: each[rows] for key, each in given.items()})
    train_, data = (("--data", str(tmp_path / f"{name}.npz")) for name in ("train", "test"))
    at = {name: str(tmp_path / name) for name in ("exits", "graph", "trace", "plan", "one.onnx")}
    points = ("--at", "encoder.layers.0", "--head", "linear", "--padding", "0")
    call("exits", str(path), *train_, *points, "--out", at["exits"])
    assert Networks.read(at["exits"]).fields == ("ids", "mask", "types")
    call("graph", f"big={at['exits']}", "--out", at["graph"])
    assert {*Networks.read(at["graph"]).fields} == {*fields}
    call("record", at["exits"], *data, "--out", at["trace"])
    fit_ = ("--budget", "0.9", "--confidence", "0.8", "--policy", "margin")
    call(
        "fit", at["trace"], *fit_, "--graph", at["exits"], "--repeats", "real", "--out", at["plan"]
    )
    call("export", at["plan"], "--out", at["one.onnx"])
    plan, trace = Plan.read(at["plan"]), Trace.read(at["trace"])
    runtime = Stages(plan.runnable(), plan.graph)
    fields = {name: values[300:] for name, values in fields.items()}
    live = infer(plan, runtime, fields)
    np.testing.assert_array_equal(live.position, replay(trace, plan.running, plan.setting).stage)
    exported = SingleFile(at["one.onnx"])(fields)
    np.testing.assert_array_equal(exported.position, live.position)
    np.testing.assert_array_equal(exported.answer, live.answer)
    mixed = _mixed(plan, trace)
    live = infer(mixed, runtime, fields)
    assert len({*live.position.tolist()}) == 2
    np.testing.assert_array_equal(live.position, replay(trace, mixed.policy, mixed.setting).stage)


def _mixed(plan: Plan, trace: Trace) -> Plan:
    """The plan where its exits share the examples most evenly."""
    settings = [float(setting) for setting in plan.policy.settings]
    shares = [max(replay(trace, plan.policy, each).exits().values()) for each in settings]
    return replace(plan, tradeoff=settings[int(np.argmin(shares))])


def call(*arguments: str) -> None:
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output or found.exception


def test_hints_for_one_network_do_not_name_it(tmp_path: Path) -> None:
    file = linear_network(tmp_path / "m.onnx", np.ones((6, 3)), [6])
    with pytest.raises(NetworkError, match=r"^--output other: the outputs of"):
        candidate_points(file, settings=ExitOptions(output="other"))


def test_exits_of_one_answer_among_several_outputs(tmp_path: Path) -> None:
    module, x = architectures.googlenet()
    path = architectures.export(module, x, tmp_path / "m.onnx")
    outputs = Network.read(path).outputs
    made = add_exits(path, None, ExitOptions(at=["outputs"]), tmp_path / "parts")
    with torch.no_grad():
        main = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(answered(FINAL, made, x), main, atol=1e-5)
    early = candidate_points(path, settings=ExitOptions(output=outputs[2]))
    assert max(p.cost for p in early) < max(p.cost for p in candidate_points(path))
    for name in ("nothing", ""):
        with pytest.raises(NetworkError, match=r"no output|the outputs of"):
            add_exits(path, None, ExitOptions(at=["outputs"], output=name), tmp_path / "refused")
        with pytest.raises(NetworkError, match=r"no output|the outputs of"):
            candidate_points(path, settings=ExitOptions(output=name))


def test_what_teaches_is_the_modules_own_answer() -> None:
    x, y = points()
    batches = shuffled(x.numpy(), y, 20)
    with pytest.raises(NetworkError, match=r"does not show\. Name it: train"):
        train(Two(Pair), batches, Training("distill", epochs=1))
    named = train(
        Two(lambda e, f: Pair(f, e)), batches, Training("distill", epochs=2), answer="early"
    )
    last = train(Two(KINDS["list"]), batches, Training("distill", epochs=2))
    for name, value in named.state_dict().items():
        torch.testing.assert_close(value, last.state_dict()[name])


def dropping(path: Path, mode: bool | None, *, computed: bool = False) -> Path:
    """A network with dropout of a share of nothing, so that an engine shows no sign of it."""
    weights = [onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")]
    weights.append(onnx.numpy_helper.from_array(np.float32(0), "share"))
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["hidden"])]
    if mode is not None:
        value = onnx.numpy_helper.from_array(np.array(mode), "mode")
        if computed:
            nodes.append(onnx.helper.make_node("Constant", [], ["mode"], value=value))
        else:
            weights.append(value)
    reads = ["hidden", "share", *(["mode"] if mode is not None else [])]
    nodes.append(onnx.helper.make_node("Dropout", reads, ["kept"]))
    nodes.append(onnx.helper.make_node("MatMul", ["kept", "w"], ["scores"]))
    kind = onnx.TensorProto.FLOAT
    values = [onnx.helper.make_tensor_value_info(n, kind, ["batch", 4]) for n in ("x", "scores")]
    graph = onnx.helper.make_graph(nodes, "dropping", values[:1], values[1:], weights)
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=opsets), path)
    return path


@pytest.mark.parametrize("computed", [False, True])
def test_dropout_in_training_mode_is_said(computed: bool, tmp_path: Path) -> None:
    for mode in (True, False, None):
        file = dropping(tmp_path / f"{mode}.onnx", mode, computed=computed)
        described = combine({"small": file})
        runtime = OnnxRuntime(described.files, described.graph)
        x, labels = np.tile(np.eye(4, dtype=np.float32), (50, 1)), np.arange(200) % 4
        examples = Fields({"x": x}, labels)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            check_made_up(described, runtime)
            add_exits(file, examples, ExitOptions(at=["hidden"]), tmp_path / f"{mode}{computed}")
        sentences = [str(w.message) for w in said if issubclass(w.category, TrainingMode)]
        assert len(sentences) == (2 if mode else 0)
        assert all("Dropout in training mode" in sentence for sentence in sentences)
