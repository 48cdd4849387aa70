"""What runs at one block of a walk, written as operators: a body, a head, what is said, decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, version_converter

from offramp.base.errors import NetworkError, PlanError
from offramp.base.fields import X
from offramp.core.graph import BATCH, Graph, head, whole
from offramp.core.task import SINGLE, TaskForm
from offramp.export.deciding import TAINT, Decider, Recipe, chosen, refitted_scores, spoken, tainted
from offramp.export.itinerary import Block, Itinerary
from offramp.export.scope import OLDEST_OPSET, Scope, is_float, value
from offramp.networks import weights
from offramp.networks.networks import sources
from offramp.networks.preprocessing import Preprocessing
from offramp.networks.resizing import Size
from offramp.networks.resizing import weights as weights_of
from offramp.plan.plan import Plan
from offramp.policies.operators import Decision, Get


@dataclass(frozen=True)
class Tensor:
    """A tensor that a block has made, under a key by which later ones find it."""

    name: str
    axis: int | None = 0  # of the rows; None: the same for every row


@dataclass(frozen=True)
class Said:
    """What a stage answered, and where its examples go."""

    scores: str  # (n, classes)
    decision: Decision | None  # None at an end of the graph
    made: Mapping[str, Tensor | Recipe]


@dataclass(frozen=True)
class StageWriter:
    """The networks of a plan, ready to be placed.

    Raises:
        PlanError: of a task without a form in ONNX.
        NetworkError: a network that does not load, or of a version that cannot be converted.
    """

    plan: Plan

    def __post_init__(self) -> None:
        if self.plan.task != SINGLE and self.form is None:
            raise PlanError(
                f"the task '{self.plan.task}' has no form in ONNX, so its plans cannot be "
                "exported. Answer with `offramp run`, or give the task a `form`."
            )

    @property
    def form(self) -> TaskForm | None:
        """What the task of the plan says in operators; None for one label."""
        return self.plan.task.form(self.plan.classes)

    @cached_property
    def uncut(self) -> bool:
        """Whether one network runs alone that other plans would run in parts."""
        running = self.plan.running.graph
        return len(running.order) == 1 and whole(running.root) in self.plan.runnable()

    @cached_property
    def graph(self) -> Graph:
        """The stages whose networks run."""
        running = self.plan.running.graph
        return Graph.chain(running.order) if self.uncut else running

    @cached_property
    def costs(self) -> list[float]:
        """What an example that stops has cost, for each path."""
        return Itinerary(self.plan.running.graph).costs(self.plan.costs)

    @cached_property
    def files(self) -> dict[str, Path]:
        """The parts that run: a network that runs alone is not cut."""
        files = self.plan.runnable()
        if self.uncut:
            return {self.graph.root: files[whole(self.graph.root)]}
        stages = {stage.name for stage in self.graph.stages}
        return {
            part: file
            for part, file in files.items()
            if part.partition(".")[0] in stages and part != whole(part.partition(".")[0])
        }

    @cached_property
    def models(self) -> dict[str, onnx.ModelProto]:
        """The network of each part, all of one version of ONNX."""
        found = {part: _load(part, file) for part, file in self.files.items()}
        newest = max([OLDEST_OPSET, *map(_opset, found.values())])
        return {part: _converted(part, model, newest) for part, model in found.items()}

    @cached_property
    def opsets(self) -> dict[str, int]:
        """Versions of operators, by domain; ONNX's own is the empty one."""
        found: dict[str, int] = {}
        for model in self.models.values():
            for entry in model.opset_import:
                domain = "" if entry.domain == "ai.onnx" else entry.domain
                found[domain] = max(entry.version, found.get(domain, 0))
        return found

    @cached_property
    def itinerary(self) -> Itinerary:
        return Itinerary(self.graph)

    @cached_property
    def sources(self) -> Mapping[str, Mapping[str, str | None]]:
        """For each part, for each tensor it reads, the part that makes it; None: the examples."""
        return sources(
            self.graph,
            {part: _inputs(model) for part, model in self.models.items()},
            {part: [o.name for o in model.graph.output] for part, model in self.models.items()},
        )

    @cached_property
    def inputs(self) -> dict[str, onnx.ValueInfoProto]:
        """What the examples look like, by field; the only one is called as the reference does."""
        first = self.graph.first(self.graph.reference)
        found: dict[str, onnx.ValueInfoProto] = {}
        for part in dict.fromkeys([first, *self.models]):
            values = {value.name: value for value in self.models[part].graph.input}
            for name, source in self.sources[part].items():
                if source is None:
                    found.setdefault(self.field(name), values[name])
        return {name: found[name] for name in self.plan.fields if name in found}

    def field(self, name: str) -> str:
        """The field that an input reads: the one of its name, or the only one."""
        return X if self.plan.fields == (X,) else name

    @property
    def tainted(self) -> bool:
        """Whether examples may be NaN, and something is decided about them."""
        return bool(self._floats) and len(self.itinerary.paths) > 1

    @cached_property
    def _floats(self) -> list[str]:
        """The fields that may hold NaN."""
        floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
        return [name for name, read in self.inputs.items() if _kind(read) in floats]

    def _numbers(self, scope: Scope, get: Get) -> dict[str, int]:
        """The fields that may hold NaN, in single precision, with the number of their axes."""
        found = {}
        for name in self._floats:
            read, x = self.inputs[name], get(name)
            single = x if is_float(read) else scope.add("Cast", x, to=TensorProto.FLOAT)
            found[single] = len(_shape(read))
        return found

    @cached_property
    def examples(self) -> dict[str, onnx.ValueInfoProto]:
        """The examples by field, with any number of rows, as networks read them."""
        return {
            name: value(read.name, _kind(read), [BATCH, *_shape(read)[1:]])
            for name, read in self.inputs.items()
        }

    def model(
        self,
        scope: Scope,
        inputs: list[onnx.ValueInfoProto],
        outputs: list[onnx.ValueInfoProto],
    ) -> onnx.ModelProto:
        """What has been written, as a model."""
        return helper.make_model(
            helper.make_graph(scope.finished(), "offramp", inputs, outputs, scope.constants),
            producer_name="offramp",
            producer_version=version("offramp"),
            opset_imports=[helper.make_opsetid(d, v) for d, v in self.opsets.items()],
            ir_version=max(8, *(found.ir_version for found in self.models.values())),
        )

    def body(self, scope: Scope, stage: str, get: Get) -> dict[str, Tensor]:
        """Passes a stage; what it hands on, by key."""
        made = self._place(scope, stage, get)
        if self.tainted and stage == self.itinerary.root.stage:
            made[TAINT] = Tensor(tainted(scope, self._numbers(scope, get)))
        return made

    def say(self, scope: Scope, block: Block, get: Get, decider: Decider) -> Said:
        """Answers at a stage that has been passed, and decides what follows."""
        made = self.head(scope, block, get)
        said = self.decide(
            scope, block, lambda key: made[key].name if key in made else get(key), decider
        )
        return replace(said, made={**made, **said.made})

    def head(self, scope: Scope, block: Block, get: Get) -> dict[str, Tensor]:
        """The head of a stage, where it has one; what it makes, by key."""
        part = head(block.stage)
        return self._place(scope, part, get) if part in self.models else {}

    def decide(self, scope: Scope, block: Block, get: Get, decider: Decider) -> Said:
        """What is made of the scores of a stage: its answer, and where examples go."""
        part = head(block.stage) if head(block.stage) in self.models else block.stage
        if not block.answering:  # only heard by others
            return Said(get(self.scores(part)), None, {})
        scores, recorded = decider.speak(scope, block.stage, self.scores(part), get)
        made: dict[str, Tensor | Recipe] = {spoken(block.stage): Tensor(scores), **recorded}
        if not self.graph.successors[block.stage]:
            return Said(scores, None, made)
        decision, recorded = decider.decide(scope, block.stage, scores, get)
        made |= recorded
        # what was worked out to decide, and is asked for later, is not worked out again
        here = {f"{block.stage}:{name}": tensor for name, tensor in decision.made.items()}
        made |= {key: Tensor(tensor) for key, tensor in here.items() if key in recorded}
        return Said(scores, decision, made)

    def onward(self, scope: Scope, block: Block, said: Said, path: str | None) -> str | None:
        """The paths (n,) of rows after what was said; None: the only one there was."""
        if said.decision is None:
            return path
        next_ = self.itinerary.next
        action = said.decision.action
        if path is None:
            here = next_(block.entering[0])
            if action is None:
                return chosen(scope, said.decision.stops, *here)
            return scope.add("Gather", scope.integers(*here), action)
        action = action or chosen(scope, said.decision.stops, 0, 1)
        width = 1 + len(self.graph.successors[block.stage])
        table = [
            next_(number) if number in block.answering else (number,) * width
            for number in range(len(self.itinerary.paths))
        ]
        one = scope.integers(1)
        both = [scope.add("Unsqueeze", part, one) for part in (path, action)]
        return scope.add(
            "GatherND", scope.constant(table, np.int64), scope.add("Concat", *both, axis=1)
        )

    def scores(self, part: str) -> str:
        """The key of the scores that a part makes."""
        return f"{part}/{self.models[part].graph.output[0].name}"

    def _place(self, scope: Scope, part: str, get: Get) -> dict[str, Tensor]:
        model = self.models[part]
        given = {}
        for name, source in self.sources[part].items():
            given[name] = get(self.field(name) if source is None else f"{source}/{name}")
            if source is None and (kind := _type(model, name)) != self._type(name):
                given[name] = scope.add("Cast", given[name], to=kind)
        answers = "." in part or head(part) not in self.models
        wanted = [
            output
            for number, output in enumerate(model.graph.output)
            if (answers and not number) or self._read(part, output.name)
        ]
        found = scope.place(model, given, [output.name for output in wanted])
        made = {}
        for number, (output, name) in enumerate(zip(wanted, found, strict=True)):
            if answers and not number:
                name = name if is_float(output) else scope.add("Cast", name, to=TensorProto.FLOAT)
                made[f"{part}/{output.name}"] = Tensor(name)
            else:
                made[f"{part}/{output.name}"] = Tensor(name, _axis(output))
        return made

    def _type(self, name: str) -> int:
        return _kind(self.inputs[self.field(name)])

    def _read(self, part: str, name: str) -> bool:
        return any(reads.get(name) == part for reads in self.sources.values())


def refitted(plan: Plan, stage: str, file: Path) -> onnx.ModelProto:
    """A network alone, with the refit of its stage at its end and nothing else around it.

    Args:
        plan: that refits the stage.
        stage: whose refit.
        file: of a whole network, in fp32 or in int8.

    Raises:
        NetworkError: it does not load, or is of a version that cannot be converted.
    """
    loaded = _load(stage, file)
    model = _converted(stage, loaded, max(OLDEST_OPSET, _opset(loaded)))
    scope, made = Scope(), model.graph.output[0]
    given = {name: name for name in _inputs(model)}
    scores = scope.place(model, given, [made.name])[0]
    scores = scores if is_float(made) else scope.add("Cast", scores, to=TensorProto.FLOAT)
    scope.give(refitted_scores(scope, plan, stage, scores), "scores")
    inputs = [found for found in model.graph.input if found.name in given]
    said = value("scores", TensorProto.FLOAT, [BATCH, plan.classes])
    return helper.make_model(
        helper.make_graph(scope.finished(), "offramp", inputs, [said], scope.constants),
        opset_imports=model.opset_import,
        ir_version=model.ir_version,
    )


def unwatched(plan: Plan) -> Plan:
    """The plan, knowing nothing of inputs: for files that read others than were recorded."""
    return replace(plan, info={**plan.info, "input": None})


def preprocess(scope: Scope, images: str, pixels: Preprocessing, size: Size) -> str:
    """As `Preprocessing` does, for uint8 images (n, height, width, channels) of one size.

    Resizing is a product with constant weights along each side, rounded to whole grey levels after
    each as Pillow does, so that every engine makes the same of it.
    """
    scale, offset = pixels.factors
    values = scope.add("Cast", images, to=TensorProto.FLOAT)
    if pixels.resize.how == "shorter" or size != pixels.size:
        values = _resize(scope, values, pixels, size)
    values = scope.add("Mul", values, scope.constant(scale))
    values = scope.add("Sub", values, scope.constant(offset))
    if pixels.layout == "nchw":
        return scope.add("Transpose", values, perm=[0, 3, 1, 2])
    return values


def _resize(scope: Scope, values: str, pixels: Preprocessing, size: Size) -> str:
    rows, columns = weights_of(pixels, size)
    high = scope.add("Transpose", values, perm=[0, 3, 1, 2])  # (n, channels, height, width)
    wide = scope.add("MatMul", high, scope.constant(columns.T))
    if pixels.resize.antialias:
        wide = _grey(scope, wide)
    small = _grey(scope, scope.add("MatMul", scope.constant(rows), wide))
    return scope.add("Transpose", small, perm=[0, 2, 3, 1])


def _grey(scope: Scope, values: str) -> str:
    """Whole numbers from 0 to 255; halves go up, as in Pillow."""
    ends = scope.constant(0.0), scope.constant(255.0)
    whole_numbers = scope.add("Floor", scope.add("Add", values, scope.constant(0.5)))
    return scope.add("Clip", whole_numbers, *ends)


def _load(part: str, file: Path) -> onnx.ModelProto:
    model = weights.load(file, f"the network of stage '{part}', {file},")
    return inliner.inline_local_functions(model) if model.functions else model


def _opset(model: onnx.ModelProto) -> int:
    own = ("", "ai.onnx")
    return max(int(entry.version) for entry in model.opset_import if entry.domain in own)


def _converted(part: str, model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    if _opset(model) == opset:
        return model
    try:
        return version_converter.convert_version(model, opset)
    except Exception as problem:  # the converter's errors share no public base class
        raise NetworkError(
            f"the network of stage '{part}' is of version {_opset(model)} of ONNX and cannot be "
            f"converted to {opset}, which the others need ({str(problem).splitlines()[0]}). "
            "Export all networks with one opset."
        ) from None


def _inputs(model: onnx.ModelProto) -> list[str]:
    constants = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in constants]


def _type(model: onnx.ModelProto, name: str) -> int:
    value = next(value for value in model.graph.input if value.name == name)
    return int(value.type.tensor_type.elem_type)


def _kind(info: onnx.ValueInfoProto) -> int:
    return int(info.type.tensor_type.elem_type)


def _shape(info: onnx.ValueInfoProto) -> list[int | str | None]:
    dims = info.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]


def _axis(value: onnx.ValueInfoProto) -> int | None:
    dims = [dim.dim_param for dim in value.type.tensor_type.shape.dim]
    return dims.index(BATCH) if BATCH in dims else None
