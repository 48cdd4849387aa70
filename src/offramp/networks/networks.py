"""A graph with the ONNX files of its parts, as a folder: graph.json and stages/<part>.onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.checked import checked
from offramp.base.errors import GraphError, InputError, NetworkError, foreign
from offramp.base.files import regular, storage
from offramp.base.manifests import PRINTS, Manifest, kind_of_folder, read_manifest, write_manifest
from offramp.base.outputs import new_folder
from offramp.core.graph import Graph, GraphJson, Stage, head, whole
from offramp.networks import weights
from offramp.networks.preprocessing import Preprocessing

GRAPH_VERSION = 1
TAUGHT = "taught.npy"  # beside graph.json: the hashes of examples that trained heads or chose
GRAPH = kind_of_folder("graph")


class PreprocessingJson(TypedDict):
    size: list[int]
    mean: list[float]
    std: list[float]
    layout: str


class GraphManifest(Manifest, GraphJson):
    """What graph.json holds."""

    networks: dict[str, str]  # part -> fingerprint
    preprocessing: NotRequired[PreprocessingJson | None]


@checked
@dataclass(frozen=True)
class Networks:
    """A graph whose stages can run."""

    graph: Graph
    files: Mapping[str, Path]  # part -> ONNX file; a whole network, or bodies and heads
    preprocessing: Preprocessing | None = None  # None: examples are arrays, read as they are
    taught: AnyArray | None = None  # (n,) uint64, hashes of the examples that trained heads

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
        return cls(graph, files, read_preprocessing(value), _read_taught(path, value))


def combine(
    given: Mapping[str, Path],
    edges: str | None = None,
    reference: str | None = None,
    preprocessing: Preprocessing | None = None,
) -> Networks:
    """Networks, and networks with exits, in one graph.

    The stages of a network with exits are called NAME-exit1, NAME-exit2, ..., and NAME for its own
    answer. Without `edges` the stages form a chain in the order given, and every network but the
    last may also be followed by the next one's end.

    Args:
        given: for each name an ONNX file, or a folder with the graph of a network with exits.
        edges: "a>b,a>c" between stages; None: see above.
        reference: None takes the last.
        preprocessing: None takes that of the folders, which must agree.

    Raises:
        GraphError: a folder that is no graph, names or edges that do not fit, or other
            preprocessing than that of a folder.
    """
    combined = _Combined(preprocessing)
    for name, path in given.items():
        if path.is_dir():
            combined.add_graph(name, path)
        else:
            weights.beside(path)  # finds out here whether all of it is there
            combined.add_network(name, path)
    graph = Graph.build(combined.stages, edges, reference)
    if edges is None:
        graph = Graph(graph.stages, (*graph.edges, *combined.skips), graph.reference)
    taught = np.unique(np.concatenate(combined.taught)) if combined.taught else None
    return Networks(graph, combined.files, combined.preprocessing, taught)


@dataclass
class _Combined:
    """Networks and graphs, one after the other."""

    preprocessing: Preprocessing | None
    files: dict[str, Path] = field(default_factory=dict)
    stages: list[Stage] = field(default_factory=list)
    skips: list[tuple[str, str]] = field(default_factory=list)  # past the exits of a graph
    taught: list[AnyArray] = field(default_factory=list)  # hashes of what trained heads

    def add_network(self, name: str, path: Path) -> None:
        self.stages.append(Stage(name))
        self.files[name] = path

    def add_graph(self, name: str, path: Path) -> None:
        """The stages of a folder, under names that say of which network they are."""
        before = self.stages[-1].name if self.stages else None
        added = Networks.read(path)
        self.preprocessing = _agreed(self.preprocessing, added.preprocessing, path)
        self.taught += [] if added.taught is None else [added.taught]
        names = {s.name: _within(name, s.name, added.graph) for s in added.graph.stages}
        self.stages += [_renamed(stage, names) for stage in added.graph.stages]
        for part, file in added.files.items():
            stage, dot, kind = part.partition(".")
            self.files[f"{names[stage]}{dot}{kind}"] = file
        if before is not None and len(names) > 1:
            self.skips.append((before, name))


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


def _agreed(
    one: Preprocessing | None, other: Preprocessing | None, path: Path
) -> Preprocessing | None:
    if one is not None and other is not None and one != other:
        raise GraphError(
            f"{path} reads its examples in another way: {other.to_json()}, not {one.to_json()}. "
            "All networks of a graph read the same inputs."
        )
    return one if other is None else other


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


def read_preprocessing(value: Mapping[str, Any]) -> Preprocessing | None:
    found = value.get("preprocessing")
    return None if found is None else Preprocessing.from_json(found)


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
