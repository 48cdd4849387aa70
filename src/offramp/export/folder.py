"""One ONNX file per stage, and a small one for what is decided after it, for any engines.

A driver keeps what files make and gives each file the rows that come to it: see `runtime.routed`,
which needs numpy and the engines alone. Decisions stand apart, so that networks run where sizes are
known and are no engine's business: on some a comparison with NaN holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from offramp.base.manifests import kind_of_folder, write_manifest
from offramp.base.outputs import new_folder
from offramp.base.progress import Progress, silent
from offramp.core.graph import BATCH
from offramp.export.deciding import TAINT, Decider, Recipe, turned
from offramp.export.itinerary import Block
from offramp.export.photographs import Reading
from offramp.export.scope import Scope, value
from offramp.export.seal import described, facts, write_sealed
from offramp.export.stages import StageWriter, Tensor, unwatched
from offramp.networks.networks import fields_to_json
from offramp.networks.resizing import Size
from offramp.networks.weights import fingerprint_of_copy
from offramp.plan.plan import Plan
from offramp.policies.operators import Get
from offramp.runtime.format import KIND, PATH, SCORES, TRADEOFF, VERSION

EXPORTED_FOLDER = kind_of_folder(KIND)


def write_folder(
    plan: Plan,
    path: str | Path,
    *,
    dial: bool = False,
    images: bool = False,
    image_size: Size | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> None:
    """Writes a file per stage, and `routes.json` that says how to go from one to the next.

    Args:
        plan: with networks.
        path: of the folder.
        dial: adds an input `tradeoff` to every file, NaN for the certified one.
        images: the files read uint8 images (batch, height, width, channels).
        image_size: height and width of these; None: what networks read.
        force: replaces a folder of offramp's.
        progress: called with what is written, how many files are, and how many there are.

    Raises:
        PlanError, NetworkError, InputError: as `one_file`; `path` is taken.
    """
    path, tell = Path(path), progress or silent
    tell("putting stages together", 0, 1)
    stages = StageWriter(unwatched(plan) if images else plan)
    reading = Reading.of(stages, images, image_size)
    written = _all(stages, reading, dial)
    asked = {key for each in written for key in each.reads}
    axes = {key: tensor.axis for each in written for key, tensor in each.makes.items()}
    with new_folder(path, EXPORTED_FOLDER, force=force) as folder:
        routes = []
        for number, each in enumerate(written):
            tell(f"writing {each.name}", number, len(written))
            routes.append(_route(each, folder, asked, axes))
        about = _manifest(stages, reading, dial)
        write_manifest(folder, KIND, {"version": VERSION, **about, "files": routes})


def _all(stages: StageWriter, reading: Reading, dial: bool) -> list[_Written]:
    """The files, in the order in which they run."""
    known: dict[str, Tensor | Recipe] = {}
    return [
        _Written.of(stages, block, reading, dial, known, decides=decides)
        for block in stages.itinerary.root.all()
        for decides in ((False, True) if _decides(stages, block) else (False,))
    ]


def _route(
    written: _Written, folder: Path, asked: Collection[str], axes: Mapping[str, int | None]
) -> dict[str, Any]:
    """Writes the file of one stage; what routes.json says of it.

    Args:
        written: the stage.
        folder: where.
        asked: the tensors that any file reads.
        axes: along which axis of a tensor the batch lies.
    """
    makes = {key: tensor for key, tensor in written.makes.items() if key in asked}
    file = folder / written.name
    write_sealed(written.model(makes), file, file)
    return {
        "stage": written.block.stage,
        "file": written.name,
        "decides": written.decides,
        "fingerprint": fingerprint_of_copy(file),
        "entering": written.block.entering,
        "reads": {key: axes.get(key, 0) for key in written.reads},
        "makes": {key: tensor.axis for key, tensor in makes.items()},
    }


def _manifest(stages: StageWriter, reading: Reading, dial: bool) -> dict[str, Any]:
    paths = stages.itinerary.paths
    return {
        "about": {**facts(stages), **fields_to_json(list(reading.inputs))},
        "dial": TRADEOFF if dial else None,
        "stage_of_path": [stages.itinerary.graph.order.index(path.stage) for path in paths],
        "cost_of_path": stages.costs,
    }


def _decides(stages: StageWriter, block: Block) -> bool:
    """Whether examples part after a block."""
    return bool(block.answering and stages.graph.successors[block.stage])


@dataclass
class _Written:
    """The networks of one block as a graph of its own; or what is decided after them."""

    stages: StageWriter
    block: Block
    reading: Reading
    dial: bool
    decides: bool
    scope: Scope = field(default_factory=Scope)
    reads: dict[str, onnx.ValueInfoProto] = field(default_factory=dict)  # by key
    makes: dict[str, Tensor] = field(default_factory=dict)
    scores: str = ""
    after: str | None = None

    @classmethod
    def of(
        cls,
        stages: StageWriter,
        block: Block,
        reading: Reading,
        dial: bool,
        known: dict[str, Tensor | Recipe],
        *,
        decides: bool,
    ) -> _Written:
        """A file, after those that made what is `known`, to which it adds."""
        found = cls(stages, block, reading, dial and decides, decides)
        scope, here = found.scope, dict[str, str]()

        def read(key: str) -> str:
            found.reads[key] = found._info(key)
            return key

        def get(key: str) -> str:
            if key in here:
                return here[key]
            if key in reading.sources:
                here[key] = reading.make(scope, key, read)
            else:
                there = known.get(key)
                recipe = None if isinstance(there, Tensor) else there
                here[key] = read(key) if recipe is None else recipe(scope, get)
            return here[key]

        def add(made: Mapping[str, Tensor | Recipe]) -> None:
            known.update(made)
            tensors = {key: tensor for key, tensor in made.items() if isinstance(tensor, Tensor)}
            found.makes |= tensors
            here.update({key: tensor.name for key, tensor in tensors.items()})

        found._fill(get, add)
        return found

    @property
    def name(self) -> str:
        return f"{self.block.stage}{'.decision' if self.decides else ''}.onnx"

    def _fill(self, get: Get, add: Callable[[Mapping[str, Tensor | Recipe]], None]) -> None:
        """Writes what the block runs, says or decides."""
        stages, block, scope, plan = self.stages, self.block, self.scope, self.stages.plan
        if not self.decides:
            add(stages.body(scope, block.stage, get))
            if not block.saying:  # only passed
                return
            add(stages.head(scope, block, get))
            if _decides(stages, block):
                return
        settings = plan.policy.settings
        dialled = turned(scope, settings, plan.setting, TRADEOFF) if self.dial else None
        said = stages.decide(scope, block, get, Decider(plan, dialled, stages.tainted))
        add(said.made)
        self.scores = said.scores
        path = PATH if len(block.entering) > 1 else None
        self.after = stages.onward(scope, block, said, path)

    def _info(self, key: str) -> onnx.ValueInfoProto:
        """The input, or the output, for what is handed on under `key`."""
        if key in self.reading.inputs:
            return _called(key, self.reading.inputs[key])
        if key == TAINT:
            return value(key, TensorProto.FLOAT, [BATCH])
        part, slash, name = key.partition("/")
        if not slash:
            return value(key, TensorProto.FLOAT, [BATCH, self.stages.plan.classes])
        made = next(o for o in self.stages.models[part].graph.output if o.name == name)
        info = _called(key, made)
        if key == self.stages.scores(part):
            info.type.tensor_type.elem_type = TensorProto.FLOAT
        return info

    def model(self, makes: dict[str, Tensor]) -> onnx.ModelProto:
        """The finished model, which gives scores, the path and what others ask for."""
        scope, classes = self.scope, self.stages.plan.classes
        outputs = []
        if self.scores:
            scope.give(self.scores, SCORES)
            outputs.append(value(SCORES, TensorProto.FLOAT, [BATCH, classes]))
        if self.after is not None and self.after != PATH:
            scope.give(self.after, "next")
            outputs.append(value("next", TensorProto.INT64, [BATCH]))
        for key, tensor in makes.items():
            scope.give(tensor.name, key)
            outputs.append(self._info(key))
        inputs = list(self.reads.values())
        used = {name for node in scope.nodes for name in node.input}
        if PATH in used:
            inputs.append(value(PATH, TensorProto.INT64, [BATCH]))
        if self.dial:
            inputs.append(value(TRADEOFF, TensorProto.FLOAT, []))
        return described(self.stages.model(scope, inputs, outputs), facts(self.stages))


def _called(name: str, info: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    found = onnx.ValueInfoProto()
    found.CopyFrom(info)
    found.name = name
    return found
