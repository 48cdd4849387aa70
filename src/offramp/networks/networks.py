"""A graph with the ONNX files of its parts, as a folder: graph.json and stages/<part>.onnx."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, NotRequired

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.checked import checked
from offramp.base.errors import GraphError, InputError, NetworkError, foreign
from offramp.base.fields import X
from offramp.base.files import regular, storage
from offramp.base.manifests import PRINTS, Manifest, kind_of_folder, read_manifest, write_manifest
from offramp.base.outputs import new_folder
from offramp.core.graph import Graph, GraphJson, Stage, head, whole
from offramp.core.task import SINGLE, Task, task_named
from offramp.core.tasks import Kind
from offramp.networks import weights
from offramp.networks.classes import Names
from offramp.networks.forms import (
    AS_THEY_COME,
    OutputJson,
    Outputs,
    ScoresOutput,
    Scratch,
    Speaking,
    bring,
    scoring_parts,
)
from offramp.networks.inputs import fields_to_json as fields_to_json
from offramp.networks.inputs import read_fields as read_fields
from offramp.networks.preprocessing import (
    AnyPreprocessing,
    PerNetwork,
    Preprocessing,
    preprocessing_from_json,
)

GRAPH_VERSION = 1
TAUGHT = "taught.npy"  # beside graph.json: the hashes of examples that trained heads or chose
GRAPH = kind_of_folder("graph")


PreprocessingJson = dict[str, Any]  # for all networks, or by network; checked where it is read


class GraphManifest(Manifest, GraphJson):
    """What graph.json holds."""

    networks: dict[str, str]  # part -> fingerprint
    preprocessing: NotRequired[PreprocessingJson | None]
    outputs: NotRequired[dict[str, OutputJson]]  # part -> where its scores come from
    class_names: NotRequired[list[str]]
    fields: NotRequired[list[str]]
    task: NotRequired[str]


@checked
@dataclass(frozen=True)
class Networks:
    """A graph whose stages can run."""

    graph: Graph
    files: Mapping[str, Path]  # part -> ONNX file; a whole network, or bodies and heads
    preprocessing: AnyPreprocessing | None = None  # None: examples are arrays, read as they are
    taught: AnyArray | None = None  # (n,) uint64, hashes of the examples that trained heads
    _: KW_ONLY
    fields: tuple[str, ...] = (X,)  # that inputs read, each by its name; x: there is one, for all
    outputs: Mapping[str, ScoresOutput] = field(default_factory=dict)  # by part that scores
    class_names: Names = ()  # in the order of the scores; none: they are not known
    scratch: Scratch | None = field(default=None, repr=False)  # keeps files that were changed
    task: Task | None = None  # what outputs mean, where it was said

    def task_for(self, asked: Task | None) -> Task:
        """The task that examples are recorded for: as the graph says, else as asked.

        Raises:
            GraphError: the graph was made for another task.
        """
        changed = any(scores.original is not None for scores in self.outputs.values())
        known = self.task or (SINGLE if changed else asked or SINGLE)
        if asked is not None and asked != known:
            raise GraphError(
                f"the graph was made for the task '{known}', not '{asked}', and its networks are "
                f"brought to what that takes. Make it again: offramp graph ... --task {asked}."
            )
        return known

    @property
    def notes(self) -> list[str]:
        """Sentences on what was taken for scores, and what was changed in the copies."""
        said = [
            f"stage '{part.partition('.')[0]}': {note}."
            for part, scores in self.outputs.items()
            for note in scores.notes
        ]
        return list(dict.fromkeys(said))

    @property
    def kinds(self) -> dict[str, Kind]:
        """What scores are, of each stage whose network shows it."""
        ends = {s.name: (head(s.name), s.name) for s in self.graph.stages}
        known = {part: found.kind for part, found in self.outputs.items()}
        found = {
            s: next((known[p] for p in parts if p in known), None) for s, parts in ends.items()
        }
        return {stage: kind for stage, kind in found.items() if kind is not None}

    def fingerprints(self) -> dict[str, str]:
        return {part: weights.network_fingerprint(file) for part, file in self.files.items()}

    @checked
    def write(self, path: str | Path, *, force: bool = False) -> None:
        """Writes the graph and copies of its networks, whole or not at all.

        Raises:
            InputError: `path` is taken, or a network's file does not exist.
            StorageError: it cannot be written.
        """
        path = Path(path)
        with new_folder(path, GRAPH, force=force) as folder:
            prints = copy_networks(self.files, folder)
            value = {"version": GRAPH_VERSION, **self.graph.to_json(), "networks": prints}
            value["preprocessing"] = self.preprocessing and self.preprocessing.to_json()
            value["outputs"] = {part: found.to_json() for part, found in self.outputs.items()}
            if self.class_names:
                value["class_names"] = list(self.class_names)
            value |= fields_to_json(self.fields)
            if self.task is not None:
                value["task"] = str(self.task)
            if self.taught is not None:
                with storage(folder / TAUGHT):
                    np.save(folder / TAUGHT, self.taught)
            write_manifest(folder, "graph", value)

    @classmethod
    @checked
    def read(cls, path: str | Path) -> Networks:
        """The graph in folder `path`.

        Raises:
            GraphError: no graph, a damaged or newer one, or networks that do not match.
        """
        path = Path(path)
        value = read_manifest(path, "graph", GRAPH_VERSION, GraphManifest, GraphError)
        graph = Graph.from_json(value)
        files = find_networks(path, graph, value, GraphError)
        missing = [stage.name for stage in graph.stages if stage.name not in files]
        if missing:
            raise GraphError(f"{path} has no network for stage '{missing[0]}'; make it again.")
        return cls(
            graph,
            files,
            read_preprocessing(value),
            _read_taught(path, value),
            fields=read_fields(value),
            outputs={p: ScoresOutput.from_json(v) for p, v in value.get("outputs", {}).items()},
            class_names=tuple(value.get("class_names", ())),
            task=task_named(value["task"]) if "task" in value else None,
        )


def combine(
    given: Mapping[str, Path],
    edges: str | None = None,
    reference: str | None = None,
    preprocessing: AnyPreprocessing | None = None,
    outputs: Outputs = AS_THEY_COME,
    *,
    task: str | Task | None = None,
) -> Networks:
    """Networks, and networks with exits, in one graph.

    The stages of a network with exits are called NAME-exit1, NAME-exit2, ..., and NAME for its own
    answer. Without `edges` the stages form a chain in the order given, and every network but the
    last may also be followed by the next one's end.

    Args:
        given: for each name an ONNX file, or a folder with the graph of a network with exits.
        edges: "a>b,a>c" between stages; None: see above.
        reference: None takes the last.
        preprocessing: of all networks, or by network; None takes that of the folders.
        outputs: which outputs are scores, of what kind, and of which classes.
        task: what outputs mean, or its name; None: it is not said, and they are scores of classes.

    Raises:
        GraphError: a folder that is no graph, names or edges that do not fit, or other
            preprocessing than that of a folder; networks that score other classes.
        NetworkError: a network without scores.
    """
    outputs.check(given)
    combined = _Combined(preprocessing, None if task is None else task_named(task))
    for name, path in given.items():
        if path.is_dir():
            combined.add_graph(name, path)
        else:
            weights.beside(path)  # finds out here whether all of it is there
            combined.add_network(name, path)
    graph = Graph.build(combined.stages, edges, reference)
    if edges is None:
        graph = Graph(graph.stages, (*graph.edges, *combined.skips), graph.reference)
    return combined.networks(graph, outputs, given)


@dataclass
class _Combined:
    """Networks and graphs, one after the other."""

    preprocessing: AnyPreprocessing | None
    task: Task | None = None
    folders: dict[str, Preprocessing] = field(default_factory=dict)  # how those given read
    files: dict[str, Path] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    skips: list[tuple[str, str]] = field(default_factory=list)  # past the exits of a graph
    taught: list[AnyArray] = field(default_factory=list)  # hashes of what trained heads
    speaking: list[Speaking] = field(default_factory=list)  # parts that score
    owner: dict[str, str] = field(default_factory=dict)  # of each stage the network as given
    names: dict[str, Names] = field(default_factory=dict)  # of classes, by network

    def networks(self, graph: Graph, outputs: Outputs, given: Iterable[str]) -> Networks:
        """All of them, their scores in one form."""
        owner = self.owner[graph.reference]
        task = self.task or SINGLE
        brought = bring(self.files, self.speaking, owner, outputs, self.names, task)
        return Networks(
            graph,
            brought.files,
            self.agreed(given),
            np.unique(np.concatenate(self.taught)) if self.taught else None,
            outputs=brought.outputs,
            class_names=brought.names,
            scratch=brought.scratch,
            task=self.task,
        )

    def add_network(self, name: str, path: Path) -> None:
        self.stages.append(Stage(name))
        self.files[name] = path
        self.owner[name] = name
        self.speaking.append(Speaking(name, name))

    def add_graph(self, name: str, path: Path) -> None:
        """The stages of a folder, under names that say of which network they are."""
        before = self.stages[-1].name if self.stages else None
        added = Networks.read(path)
        several = len({added.graph.first(stage) for stage in added.graph.order}) > 1
        if isinstance(added.preprocessing, PerNetwork) or (several and added.fields != (X,)):
            raise GraphError(
                f"{path} holds several networks or fields; a folder that stands for a network "
                "holds one network with its exits. Give its networks one by one."
            )
        if (known := added.task or SINGLE) != (self.task or SINGLE):
            raise GraphError(
                f"{path} holds networks of the task '{known}', not '{self.task or SINGLE}'. Put "
                "networks of one task into a graph, and say which: --task."
            )
        if added.preprocessing is not None:
            self._check(name, added.preprocessing, path)
            self.folders[name] = added.preprocessing
        self.taught += [] if added.taught is None else [added.taught]
        names = {s.name: _within(name, s.name, added.graph) for s in added.graph.stages}
        self.stages += [_renamed(stage, names) for stage in added.graph.stages]
        for part, file in added.files.items():
            stage, dot, kind = part.partition(".")
            called = f"{names[stage]}{dot}{kind}"
            self.files[called] = file
            if part in scoring_parts(added.files):
                self.speaking.append(Speaking(called, name, True, added.outputs.get(part)))
        self.owner |= dict.fromkeys(names.values(), name)
        self.names[name] = added.class_names
        if before is not None and len(names) > 1:
            self.skips.append((before, name))

    def _check(self, name: str, own: Preprocessing, path: Path) -> None:
        """Raises GraphError where a folder reads its examples in another way than is said here."""
        said = self.preprocessing
        if isinstance(said, PerNetwork):
            said = said.networks.get(name)
        if said is not None and said != own:
            raise GraphError(
                f"{path} reads its examples in another way: {own.to_json()}, not {said.to_json()}. "
                f"Leave out what is said of '{name}', or make the folder again."
            )

    def agreed(self, given: Iterable[str]) -> AnyPreprocessing | None:
        """How all networks read, or each of them where they differ."""
        said = self.preprocessing
        if isinstance(said, Preprocessing):
            return said
        each = {**(said.networks if said else {}), **self.folders}
        if unknown := [name for name in each if name not in [*given]]:
            raise GraphError(
                f"there is no network '{unknown[0]}', whose images are described; the networks are "
                f"{', '.join(given)}. Name one of these."
            )
        ways = list(each.values())
        if (
            ways
            and all(way == ways[0] for way in ways)
            and (not said or len(ways) == len([*given]))
        ):
            return ways[0]
        return PerNetwork({name: each[name] for name in given if name in each}) if ways else None


def _read_taught(path: Path, manifest: Mapping[str, Any]) -> AnyArray | None:
    """The hashes of the examples that trained heads. Raises GraphError where they are none."""
    if TAUGHT not in manifest[PRINTS]:
        return None
    with foreign(GraphError, f"{path / TAUGHT} cannot be read", "Make the graph again."):
        hashes: AnyArray = np.load(path / TAUGHT, allow_pickle=False)
    return hashes


def _within(network: str, stage: str, graph: Graph) -> str:
    return network if stage == graph.reference else f"{network}-{stage}"


def _renamed(stage: Stage, names: Mapping[str, str]) -> Stage:
    after = None if stage.after is None else names[stage.after]
    return Stage(names[stage.name], after, tuple(names[s] for s in stage.hears), stage.answers)


def sources(
    graph: Graph, reads: Mapping[str, Sequence[str]], makes: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, str | None]]:
    """For each part, for each tensor that it reads, the part that makes it; None: the example.

    Args:
        graph: which says what has run before a part.
        reads: the names of what each part reads.
        makes: the names of what each part makes.
    """
    found: dict[str, dict[str, str | None]] = {}
    for part, names in reads.items():
        stage = part.partition(".")[0]
        alone = part == whole(stage)
        before = [p for p in graph.parts(stage) if p in makes and p != part and not alone]
        made = {name: p for p in before for name in makes[p]}
        found[part] = {name: made.get(name) for name in names}
    return found


def recorded_networks(info: Mapping[str, Any]) -> Networks | None:
    """The networks that a trace was recorded with, where its graph's folder still holds them."""
    folder = info.get("graph_folder")
    if folder is None or not (Path(folder) / "graph.json").exists():
        return None
    try:
        networks = Networks.read(Path(folder))
    except InputError:
        return None
    return networks if networks.fingerprints() == info.get("networks") else None


def read_preprocessing(value: Mapping[str, Any]) -> AnyPreprocessing | None:
    found = value.get("preprocessing")
    return None if found is None else preprocessing_from_json(found)


def copy_networks(files: Mapping[str, Path], folder: Path) -> dict[str, str]:
    """Copies networks with their weights to folder/stages; their fingerprints by part."""
    prints = {}
    for part, network in files.items():
        regular(network, NetworkError)
        target = folder / "stages" / f"{part}.onnx"
        with storage(target):
            target.parent.mkdir(exist_ok=True)
            weights.copy(network, target)
        prints[part] = weights.fingerprint_of_copy(target)
    return prints


def find_networks(
    path: Path, graph: Graph, manifest: Mapping[str, Any], error: type[InputError]
) -> dict[str, Path]:
    """The ONNX files in path/stages, by part.

    Args:
        path: of a graph or a plan.
        graph: whose parts they are.
        manifest: which was read, and so the files that it lists are as they were written.
        error: raised where a network is none of a part, or not among the files of the manifest.
    """
    networks = {}
    parts = {name(stage.name) for stage in graph.stages for name in (str, head, whole)}
    for part, expected in manifest["networks"].items():
        if part not in parts:  # a part is a name, and never a path
            raise error(f"{path} has a network of {part!r}, which is not one of its stages.")
        name, listed = f"stages/{part}.onnx", manifest[PRINTS]
        found = [listed[file] for file in (name, f"{name}.data") if file in listed]
        if name not in listed or weights.together(found) != expected:
            raise error(f"{path} does not list {name} with the fingerprint of its network.")
        networks[part] = path / name
    return networks
