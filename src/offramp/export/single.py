"""One file that holds a whole plan: every network, exit and decision, for batches of any size.

The rows that go on are gathered and everything that only they need lies in a branch that runs where
there are any, so what is not needed is neither computed nor laid out for other rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from offramp.base.errors import PlanError
from offramp.base.files import storage
from offramp.base.outputs import new_output
from offramp.core.graph import BATCH
from offramp.export.deciding import Decider, Recipe, chosen, spoken, turned
from offramp.export.itinerary import Block
from offramp.export.photographs import Reading
from offramp.export.scope import Scope, value
from offramp.export.seal import EXPORTED, described, facts, write_sealed
from offramp.export.stages import StageWriter, Tensor, unwatched
from offramp.networks.resizing import Size
from offramp.plan.plan import Plan
from offramp.policies.operators import Get
from offramp.runtime.format import OUTPUTS, TRADEOFF

FLOAT: int = TensorProto.FLOAT
INT64: int = TensorProto.INT64


@dataclass
class RowLevel:
    """Rows that are computed together: those of the level around it at the positions `keep`."""

    scope: Scope
    tensors: dict[str, Tensor | Recipe]
    around: RowLevel | None = None
    keep: str = ""  # (m,) int64
    _positions: dict[int, str] = field(default_factory=dict)

    def get(self, key: str) -> str:
        """The tensor under `key`, of these rows.

        Raises:
            PlanError: it was made in a branch that is not around this one.
        """
        owner: RowLevel | None = self
        while owner is not None and key not in owner.tensors:
            owner = owner.around
        if owner is None:
            raise PlanError(
                f"walks that come from '{key.partition(':')[0]}' join others inside a network that "
                "both enter, and what it said is out of reach there in one file. "
                "Write a file per stage: --stages."
            )
        found = owner.tensors[key]
        if not isinstance(found, Tensor):
            found = Tensor(found(self.scope, self.get))
        elif owner is not self and found.axis is not None:
            at = self._in(owner, self.scope)
            found = Tensor(self.scope.add("Gather", found.name, at, axis=found.axis), found.axis)
        self.tensors[key] = found
        return found.name

    def _in(self, owner: RowLevel, scope: Scope) -> str:
        """The positions of these rows among those of a level further out."""
        assert self.around is not None
        if self.around is owner:
            return self.keep
        if id(owner) not in self._positions:
            found = scope.add("Gather", self.around._in(owner, scope), self.keep)
            if scope is not self.scope:
                return found
            self._positions[id(owner)] = found
        return self._positions[id(owner)]


@dataclass(frozen=True)
class Writer:
    """Writes blocks inside blocks."""

    stages: StageWriter
    decider: Decider

    def block(self, block: Block, level: RowLevel, path: str | None) -> tuple[str, str | None]:
        """Runs a block for the rows of a level.

        Args:
            block: with at least one row.
            level: its rows.
            path: of each row, (m,); None where all have the only one that enters.

        Returns:
            Scores (m, classes), and paths (m,), None where they did not change.
        """
        level.tensors |= self.stages.body(level.scope, block.stage, level.get)
        if block.saying not in ((), block.entering):
            assert path is not None
            scores, changed = self._some(block, level, path)
            return self._inside(block, level, scores, changed, None)
        said = None
        if block.saying:
            said = self.stages.say(level.scope, block, level.get, self.decider)
            level.tensors |= said.made
        if not block.answering and self._all_go_on(block):
            return self.block(block.inside[0], level, path)
        if said is None:  # only passed
            assert path is not None
            return self._inside(block, level, self._unsaid(level.scope, path), path, None)
        after = self.stages.onward(level.scope, block, said, path)
        mask = None
        if said.decision and self._all_inside(block):
            mask = chosen(level.scope, said.decision.stops, 0, 1)
        return self._inside(block, level, said.scores, after, mask)

    def _some(self, block: Block, level: RowLevel, path: str) -> tuple[str, str]:
        """As `block` after its body, where only some of the rows need the scores."""
        scope, then, otherwise = level.scope, level.scope.branch(), level.scope.branch()
        mask = self._among(scope, path, block.saying)
        inner, places = self._below(level, then, mask)
        said = self.stages.say(then, block, inner.get, self.decider)
        after = self.stages.onward(then, block, said, then.add("Gather", path, inner.keep))
        assert after is not None

        nothing = self._unsaid(then, path)

        def spread(part: str, onto: str = nothing) -> str:
            """Values of some rows as values of all; 0 elsewhere."""
            return then.add("ScatterND", onto, places, part)

        tensors = {key: made for key, made in said.made.items() if isinstance(made, Tensor)}
        level.tensors |= {key: made for key, made in said.made.items() if key not in tensors}
        yes = [spread(after, path), *(spread(made.name) for made in tensors.values())]
        no = [path, *[self._unsaid(otherwise, path)] * len(tensors)]
        types = [INT64, *[FLOAT] * len(tensors)]
        changed, *made = scope.choose(self._any(scope, mask), (then, yes), (otherwise, no), types)
        level.tensors |= {key: Tensor(name) for key, name in zip(tensors, made, strict=True)}
        return made[list(tensors).index(spoken(block.stage))], changed

    def _unsaid(self, scope: Scope, path: str) -> str:
        """Scores of rows that have not been asked yet, (m, classes)."""
        classes = scope.integers(self.stages.plan.classes)
        shape = scope.add("Concat", scope.add("Shape", path), classes, axis=0)
        return scope.add("ConstantOfShape", shape)

    def _inside(
        self, block: Block, level: RowLevel, scores: str, path: str | None, mask: str | None
    ) -> tuple[str, str | None]:
        """Runs the blocks inside a block for the rows that come to them.

        `mask` says which rows go on, where these are those that come to the only block inside.
        """
        for inner in block.inside:
            scope, coming = level.scope, mask
            if coming is None:
                assert path is not None
                coming = self._among(scope, path, inner.entering)
            then, otherwise = scope.branch(), scope.branch()
            below, places = self._below(level, then, coming)
            entering = None
            if len(inner.entering) > 1:
                assert path is not None
                entering = then.add("Gather", path, below.keep)
            found, changed = self.block(inner, below, entering)
            yes, no = [then.add("ScatterND", scores, places, found)], [scores]
            if changed is not None and changed != entering:
                assert path is not None
                yes.append(then.add("ScatterND", path, places, changed))
                no.append(path)
            any_, types = self._any(scope, coming), [FLOAT, INT64][: len(yes)]
            scores, *paths = scope.choose(any_, (then, yes), (otherwise, no), types)
            path = paths[0] if paths else path
        return scores, path

    @staticmethod
    def _all_go_on(block: Block) -> bool:
        """Whether all rows that come to a block come to the only one inside it as well."""
        return len(block.inside) == 1 and set(block.entering) <= set(block.inside[0].entering)

    def _all_inside(self, block: Block) -> bool:
        """Whether all rows decide here, and all that go on come to the only block inside."""
        further = {n for here in block.answering for n in self.stages.itinerary.next(here)[1:]}
        return (
            block.answering == block.entering
            and len(block.inside) == 1
            and further <= set(block.inside[0].entering)
        )

    def _among(self, scope: Scope, path: str, numbers: tuple[int, ...]) -> str:
        """1 for the rows on one of some paths, else 0, (m,)."""
        table = np.isin(np.arange(len(self.stages.itinerary.paths)), numbers)
        return scope.add("Gather", scope.integers(*table.tolist()), path)

    @staticmethod
    def _any(scope: Scope, mask: str) -> str:
        """Whether a mask, 1 or 0 of each row, names any, a scalar."""
        most = scope.add("ReduceMax", mask, keepdims=0)
        return scope.add("Cast", most, to=TensorProto.BOOL)

    @staticmethod
    def _below(level: RowLevel, then: Scope, mask: str) -> tuple[RowLevel, str]:
        """The rows of a level that a mask names, and where they are in it, (m, 1)."""
        rows = then.add("NonZero", mask)
        inner = RowLevel(then, {}, level, then.add("Squeeze", rows, then.integers(0)))
        return inner, then.add("Transpose", rows, perm=[1, 0])


def one_file(
    plan: Plan, *, dial: bool = False, images: bool = False, image_size: Size | None = None
) -> onnx.ModelProto:
    """A plan as one ONNX model: examples (batch, ...) in; scores, answer, stage and cost out.

    Args:
        plan: with networks.
        dial: adds an input `tradeoff`, a scalar: NaN for the certified one.
        images: reads uint8 images (batch, height, width, channels) instead of what the networks
            read, and does the plan's preprocessing inside, that of each network where it runs.
        image_size: height and width of these images; None: what all networks read.

    Raises:
        PlanError: the plan has no networks, no preprocessing where `images` asks for it, or a graph
            that one file cannot walk.
        NetworkError: networks that cannot be brought together.
    """
    stages = StageWriter(unwatched(plan) if images else plan)
    reading = Reading.of(stages, images, image_size)
    outside, example = Scope(), next(iter(reading.inputs.values()))
    scope, none = outside.branch(), outside.branch()
    dialled = turned(outside, plan.policy.settings, plan.setting, TRADEOFF) if dial else None
    writer = Writer(stages, Decider(plan, dialled, stages.tainted))
    level = RowLevel(scope, _read(reading))
    scores, path = writer.block(stages.itinerary.root, level, None)
    made = [scores, *_outcome(scope, stages, scores, path)]
    # without rows nothing runs: some networks cannot, nor can TopK in ONNX Runtime before 1.32
    given = _outputs(stages)
    empty = [none.constant(np.zeros([0, *shape[1:]]), kind) for kind, shape in given.values()]
    types = [helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for kind, _ in given.values()]
    rows = outside.add("Gather", outside.add("Shape", example.name), outside.constant(0, np.int64))
    any_ = outside.add("Cast", rows, to=TensorProto.BOOL)
    chosen = outside.choose(any_, (scope, made), (none, empty), types)
    for name, found in zip(OUTPUTS, chosen, strict=True):
        outside.give(found, name)
    tradeoff = [value(TRADEOFF, FLOAT, [])] if dial else []
    return _model(stages, outside, [*reading.inputs.values(), *tradeoff])


def _read(reading: Reading) -> dict[str, Tensor | Recipe]:
    """What is there before any network has run: inputs, and how fields are made of them."""
    found: dict[str, Tensor | Recipe] = {}
    for name, (key, source) in reading.sources.items():
        given = Tensor(reading.inputs[key].name)
        if source is None:
            found[name] = given
        else:
            found |= {_given(key): given, name: partial(_made, reading, name)}
    return found


def _made(reading: Reading, name: str, scope: Scope, get: Get) -> str:
    return reading.make(scope, name, lambda key: get(_given(key)))


def _given(key: str) -> str:
    """The key of an input of the file: what networks read may be called alike."""
    return f"{key}/given"


def write_file(
    plan: Plan,
    path: str | Path,
    *,
    dial: bool = False,
    images: bool = False,
    image_size: Size | None = None,
    force: bool = False,
) -> None:
    """Writes `one_file`, checked, whole or not at all; with weights beside it where above 2 GB.

    Raises:
        InputError: `path` is taken; with `force`, by something else than an exported file.
        PlanError, NetworkError: as `one_file`.
        StorageError: it cannot be written.
    """
    path = Path(path)
    model = one_file(plan, dial=dial, images=images, image_size=image_size)
    with new_output(path, EXPORTED, force=force) as written, storage(path):
        write_sealed(model, written, path)


def _outcome(scope: Scope, stages: StageWriter, scores: str, path: str | None) -> list[str]:
    """The answer, the number of the stage that gave it and the cost of each row, (n,) each."""
    itinerary = stages.itinerary
    answer = scope.add("ArgMax", scores, axis=1, keepdims=0)
    if path is None:  # one network alone
        nothing = scope.constant(0, np.int64)
        path = scope.add("Expand", nothing, scope.add("Shape", answer))
    positions = [itinerary.graph.order.index(found.stage) for found in itinerary.paths]
    stage = path
    if positions != list(range(len(positions))):
        stage = scope.add("Gather", scope.integers(*positions), path)
    cost = scope.add("Gather", scope.constant(stages.costs), path)
    if stages.form is not None:
        answer = _answer(scope, stages, scores, stage)
    return [answer, stage, cost]


def _answer(scope: Scope, stages: StageWriter, scores: str, stage: str) -> str:
    """The answer of a task, (n, columns), of scores of the kind of each row's stage."""
    assert stages.form is not None
    kinds = [stages.plan.answered[name] for name in stages.itinerary.graph.order]
    different = list(dict.fromkeys(kinds))
    answer = stages.form.answers(scope, scores, different[0])
    for kind in different[1:]:
        table = scope.constant([each == kind for each in kinds], np.bool_)
        rows = scope.add("Unsqueeze", scope.add("Gather", table, stage), scope.integers(1))
        answer = scope.add("Where", rows, stages.form.answers(scope, scores, kind), answer)
    return answer


def _outputs(stages: StageWriter) -> dict[str, tuple[Any, list[Any]]]:
    """The type and shape of every output, by name."""
    shapes: dict[str, tuple[Any, list[Any]]] = {n: (kind, [BATCH]) for n, kind in OUTPUTS.items()}
    shapes["scores"] = (OUTPUTS["scores"], [BATCH, stages.plan.classes])
    if (form := stages.form) is not None:
        shapes["answer"] = (form.dtype, [BATCH, form.columns])
    return shapes


def _model(stages: StageWriter, scope: Scope, inputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
    outputs = [
        value(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape)
        for name, (kind, shape) in _outputs(stages).items()
    ]
    return described(stages.model(scope, inputs, outputs), facts(stages))
