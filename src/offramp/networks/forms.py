"""The scores of several networks in one form: (n, classes) first, the same classes in one order."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Collection, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NotRequired, TypedDict

from offramp.base.checked import checked
from offramp.base.errors import GraphError, NetworkError
from offramp.core.graph import head
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import Kind
from offramp.networks import weights
from offramp.networks.classes import ClassOrder, Names, class_names, shortened
from offramp.networks.copies import write_copy
from offramp.networks.endings import Ending, ending_of, kind_of_rows


class OutputJson(TypedDict):
    """What graph.json says of the scores of a part."""

    tensor: str
    kind: NotRequired[Kind | None]
    notes: NotRequired[list[str]]
    original: NotRequired[str | None]


@checked
@dataclass(frozen=True)
class Outputs:
    """What is said of the outputs of networks, by network."""

    _: KW_ONLY
    output: Mapping[str, str] = field(default_factory=dict)  # that holds the scores
    kind: Mapping[str, Kind] = field(default_factory=dict)  # of the scores
    classes: Mapping[str, Names] = field(default_factory=dict)  # names, as the network scores them

    def check(self, networks: Mapping[str, Any]) -> None:
        """Raises GraphError for a network that there is not, and for names that are none."""
        asked = {"output": self.output, "kind": self.kind, "classes": self.classes}
        for option, values in asked.items():
            for name in values:
                if name not in networks:
                    raise GraphError(
                        f"--{option} names '{name}', which is no network; the networks are "
                        f"{', '.join(networks)}."
                    )
        for name, names in self.classes.items():
            try:
                class_names(names)
            except ValueError as problem:
                raise GraphError(f"--classes for '{name}' {problem}.") from None


AS_THEY_COME = Outputs()


def scoring_parts(files: Collection[str]) -> list[str]:
    """The parts that score, among those of a graph: heads, and networks that are not cut."""
    return [part for part in files if "." in part or head(part) not in files]


@dataclass(frozen=True)
class ScoresOutput:
    """How the scores of a part came about."""

    tensor: str  # the output of the original that holds them
    kind: Kind | None = None  # as the last operator says; None: it does not
    notes: tuple[str, ...] = ()  # what was taken and changed, in words
    original: str | None = None  # fingerprint of the network before it was changed; None: it is not

    def to_json(self) -> OutputJson:
        return {
            "tensor": self.tensor,
            "kind": self.kind,
            "notes": list(self.notes),
            "original": self.original,
        }

    @classmethod
    def from_json(cls, value: OutputJson) -> ScoresOutput:
        kind, notes = value.get("kind"), tuple(value.get("notes", ()))
        return cls(value["tensor"], kind, notes, value.get("original"))


class Scratch:
    """A folder for changed copies, until nobody holds it any longer."""

    folder: Path

    def __init__(self) -> None:
        self.folder = Path(mkdtemp(prefix="offramp-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Brought:
    """Networks whose scores are in one form."""

    files: Mapping[str, Path]  # part -> ONNX file: the user's own, or a changed copy
    outputs: Mapping[str, ScoresOutput]  # by part that scores
    names: Names  # of the classes; none: they are not known
    scratch: Scratch | None  # where the changed copies lie; None: nothing was changed


@dataclass(frozen=True)
class Speaking:
    """A part that scores."""

    part: str
    network: str  # that it is of, as the user calls it
    cut: bool = False  # it comes from a graph, in one form already
    known: ScoresOutput | None = None  # what that graph says of it
    _: KW_ONLY
    named: bool = True  # options name the network: there may be several


def bring(
    files: Mapping[str, Path],
    speaking: list[Speaking],
    reference: str,
    asked: Outputs,
    known: Mapping[str, Names],
    task: Task = SINGLE,
) -> Brought:
    """Scores in one form, from networks as they come; no file of the user's is changed.

    Args:
        files: part -> ONNX file.
        speaking: the parts that score.
        reference: the network whose classes all score.
        asked: what the user says of outputs.
        known: names of classes that are known already, by network.
        task: what outputs mean; of others than one label they stay as they are.

    Raises:
        NetworkError, GraphError: no output can be scores; other classes, and nobody says which.
    """
    endings = {each.part: _ending(each, files[each.part], asked, task) for each in speaking}
    if task != SINGLE:
        return _columns(files, speaking, reference, endings, asked, task)
    names = {e.network: _names(e.network, endings[e.part], asked, known) for e in speaking}
    counts = {each.network: endings[each.part].classes for each in speaking}
    numbered = _numbered(speaking, endings, counts[reference])
    orders = numbered | _orders(names, reference, asked)
    _check_counts(counts, orders, reference)
    found = _Found(dict(files))
    for each in speaking:
        order = orders.get(each.network)
        alike = order is None and bool(names[each.network]) != bool(names[reference])
        ending = _with_notes(endings[each.part], reference, alike, bool(names[each.network]))
        found.add(each, ending, order, reference)
    chosen = names[reference]
    return Brought(files=found.files, outputs=found.outputs, names=chosen, scratch=found.scratch)


def _numbered(
    speaking: list[Speaking], endings: Mapping[str, Ending], count: int | None
) -> dict[str, ClassOrder]:
    """The order of the classes of networks that number those they have met."""
    found = {each.network: _by_number(endings[each.part], count) for each in speaking}
    return {network: order for network, order in found.items() if order is not None}


def _columns(
    files: Mapping[str, Path],
    speaking: list[Speaking],
    reference: str,
    endings: Mapping[str, Ending],
    asked: Outputs,
    task: Task,
) -> Brought:
    """Outputs of another task than one label, first and (n, columns), each column as it is.

    Raises:
        GraphError: names of classes, which there are none of, or outputs of different widths.
    """
    for network in asked.classes:
        raise GraphError(
            f"--classes {network}=FILE names classes of which one is right, and the task '{task}' "
            "has none. Leave it out."
        )
    widths = {each.network: endings[each.part].classes for each in speaking}
    for network, width in widths.items():
        if task.alike and None not in (width, widths[reference]) and width != widths[reference]:
            raise GraphError(
                f"stage '{network}' gives {width} numbers for each example and the reference "
                f"'{reference}' {widths[reference]}; the task '{task}' takes equally many. Name "
                "other outputs (--output), or export one of them again."
            )
    found = _Found(dict(files))
    for each in speaking:
        found.add(each, endings[each.part], None, reference)
    return Brought(files=found.files, outputs=found.outputs, names=(), scratch=found.scratch)


def _ending(each: Speaking, file: Path, asked: Outputs, task: Task) -> Ending:
    output = asked.output.get(each.network)
    if each.cut and output is not None:
        raise GraphError(
            f"--output {each.network}={output}: '{each.network}' is a network with exits, whose "
            "scores have been found already. Say it to `offramp exits`."
        )
    if each.cut:
        output = weights.parsed(file).graph.output[0].name
    kind = asked.kind.get(each.network)
    named = each.named
    return ending_of(each.network, file, output=output, kind=kind, task=task, named=named)


def _names(network: str, ending: Ending, asked: Outputs, known: Mapping[str, Names]) -> Names:
    """The names of the classes of a network: as given, else as known, else as its file says.

    Raises:
        GraphError: more or fewer names are given than it scores classes.
    """
    names = class_names(asked.classes[network]) if network in asked.classes else ()
    if names and ending.classes not in (None, len(names)):
        raise GraphError(
            f"--classes for '{network}' has {len(names)} names, but it scores {ending.classes} "
            "classes. Give the name of every class, in the order in which it scores them."
        )
    own = ending.names if len(ending.names) == ending.classes else ()
    return names or known.get(network) or own


def _orders(names: Mapping[str, Names], reference: str, asked: Outputs) -> dict[str, ClassOrder]:
    """The order that brings each network to the classes of the reference, where names are known.

    Raises:
        GraphError: names are needed and missing, or two networks share no class.
    """
    wanted, orders = names[reference], {}
    for network in names:
        if wanted and names[network]:
            orders[network] = ClassOrder.by_name(names[network], wanted)
            if orders[network].shared < 2:
                raise GraphError(
                    f"'{network}' scores {_some(names[network])}; the reference '{reference}' "
                    f"{_some(wanted)}: they share {orders[network].shared} of the names, and at "
                    "least two are needed. Check the files of --classes."
                )
        elif network in asked.classes:
            raise GraphError(
                f"--classes names the classes of '{network}', but those of the reference "
                f"'{reference}' are not known. Write --classes {reference}=labels.txt as well."
            )
    return orders


def _by_number(ending: Ending, classes: int | None) -> ClassOrder | None:
    """The order of a network whose file numbers its classes, some of those of the reference.

    None: it has others: numbers that begin with 1, say.
    """
    numbers = ending.numbers
    if classes is None or not 2 <= len(numbers) <= classes or not {*numbers} <= {*range(classes)}:
        return None
    return ClassOrder.by_name(tuple(map(str, numbers)), tuple(map(str, range(classes))))


def _check_counts(
    counts: Mapping[str, int | None], orders: Mapping[str, ClassOrder], reference: str
) -> None:
    """Raises GraphError for networks that score more or fewer classes, if nobody says which."""
    for network, count in counts.items():
        if network not in orders and None not in (count, counts[reference]):
            if count == counts[reference]:
                continue
            raise GraphError(
                f"stage '{network}' scores {count} classes and the reference '{reference}' "
                f"{counts[reference]}. Write what they are, in each one's own order, one name per "
                f"line: --classes {network}=labels.txt --classes {reference}=labels.txt."
            )


def _with_notes(ending: Ending, reference: str, alike: bool, named: bool) -> Ending:
    """An ending that says what its classes are taken for.

    Args:
        ending: of a network.
        reference: the network whose classes all score.
        alike: only one of both has names of classes.
        named: which is this one.
    """
    numbers = ending.numbers
    if numbers and numbers != tuple(range(len(numbers))):
        note = (
            f"its file numbers its classes {shortened([*map(str, numbers)])}; labels of examples "
            "are positions among the scores, and count from 0"
        )
        ending = replace(ending, notes=(*ending.notes, note))
    if not alike:
        return ending
    lacking = reference if named else ending.stage
    note = (
        f"it is taken to score the classes of '{reference}', in the same order; the names of those "
        f"of '{lacking}' are not known (--classes {lacking}=labels.txt)"
    )
    return replace(ending, notes=(*ending.notes, note))


def _some(names: Names) -> str:
    return ", ".join(f"'{name}'" for name in names[:3]) + ", ..." * (len(names) > 3)


@dataclass
class _Found:
    """Files and what is said of them, one part after the other."""

    files: dict[str, Path]
    outputs: dict[str, ScoresOutput] = field(default_factory=dict)
    scratch: Scratch | None = None

    def add(self, each: Speaking, ending: Ending, order: ClassOrder | None, reference: str) -> None:
        """Takes a part as it is, or a copy of it in one form."""
        file, mapped = ending.file, order is not None and order.changes
        before = each.known or ScoresOutput(ending.candidate.output)
        notes = [*before.notes, *ending.notes, *(order.notes(reference) if order else [])]
        kind = ending.kind or before.kind
        said = replace(before, kind=kind, notes=tuple(dict.fromkeys(notes)))
        if ending.plain and not mapped:
            self.outputs[each.part] = said
            return
        self.scratch = self.scratch or Scratch()
        target = self.scratch.folder / f"{each.part}.onnx"
        needed = _needed(each, ending, order) if order is not None else None
        write_copy(ending, order, needed, target, keeps=each.cut)
        self.files[each.part] = target
        original = said.original or weights.network_fingerprint(file)
        self.outputs[each.part] = replace(said, original=original)


def _needed(each: Speaking, ending: Ending, order: ClassOrder) -> Kind | None:
    """What scores are, where classes are dropped or added. Raises NetworkError: it is not known."""
    if not (order.dropped or order.lacked):
        return None
    kind = kind_of_rows(ending)
    if kind is None:
        raise NetworkError(
            f"stage '{each.network}' scores other classes than the reference, and does not show "
            f"what its scores are. Write --kind {each.network}=logits, probabilities or sigmoid."
        )
    return kind
