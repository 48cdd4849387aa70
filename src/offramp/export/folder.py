"""One ONNX file per stage, each with its decision inside, for engines that do not skip branches.

A driver keeps what files make and gives each file the rows that come to it: see
`runtime.routed`, which needs numpy and the engine alone.
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
    blocks = stages.itinerary.root.all()
    known: dict[str, Tensor | Recipe] = {}
    written = [_Written.of(stages, block, reading, dial, known) for block in blocks]
    asked = {key for each in written for key in each.reads}
    axes = {key: tensor.axis for each in written for key, tensor in each.makes.items()}
    with new_folder(path, EXPORTED_FOLDER, force=force) as folder:
        routes = []
        for number, each in enumerate(written):
            tell(f"writing {each.block.stage}.onnx", number, len(written))
            routes.append(_route(each, folder, asked, axes))
        about = _manifest(stages, reading, dial)
        write_manifest(folder, KIND, {"version": VERSION, **about, "files": routes})


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
    file = folder / f"{written.block.stage}.onnx"
    write_sealed(written.model(makes), file, file)
    return {
        "stage": written.block.stage,
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


@dataclass
class _Written:
    """One block as a graph of its own."""

    stages: StageWriter
    block: Block
    reading: Reading
    dial: bool
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
    ) -> _Written:
        """The block, after those that made what is `known`, to which it adds."""
        found = cls(stages, block, reading, dial)
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

    def _fill(self, get: Get, add: Callable[[Mapping[str, Tensor | Recipe]], None]) -> None:
        """Writes what the block runs, says and decides."""
        stages, block, scope, plan = self.stages, self.block, self.scope, self.stages.plan
        settings = plan.policy.settings
        dialled = turned(scope, settings, plan.setting, TRADEOFF) if self.dial else None
        add(stages.body(scope, block.stage, get))
        if not block.saying:  # only passed
            return
        said = stages.say(scope, block, get, Decider(plan, dialled, stages.tainted, wary=True))
        add(said.made)
        self.scores = said.scores
        path = PATH if len(block.entering) > 1 else None
        self.after = stages.onward(scope, block, said, path)

    def _info(self, key: str) -> onnx.ValueInfoProto:
        """The input, or the output, for what is handed on under `key`."""
        if key in self.reading.inputs:
            return _called(key, self.reading.inputs[key])
        if key == TAINT:
            return value(key, TensorProto.FLOAT, [BATCH, 1])
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
