"""The weights of a network: in its ONNX file, or in files beside it, as today's exporters do."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
from onnx import TensorProto
from onnx.external_data_helper import ExternalDataInfo, set_external_data, uses_external_data

from offramp.base.errors import NetworkError
from offramp.base.files import data_of, fingerprint, regular


class NoModel(NetworkError):  # noqa: N818 - reads as the situation
    """The file does not exist, or holds no ONNX model."""


LARGEST = 2**31 - 2**20  # bytes that fit into one protocol buffer
_SMALL = 1024  # bytes of a tensor that stays in the ONNX file, where others are beside it


def load(path: Path, what: str | None = None) -> onnx.ModelProto:
    """The model in an ONNX file, with all of its weights inside.

    Args:
        path: of the file, or a link to it.
        what: what messages call it.

    Raises:
        NetworkError: it does not exist or does not load; a file of weights is missing, cut short,
            or lies outside the folder of the network.
    """
    model = parsed(path, what)
    for tensor in _external(model):
        tensor.raw_data = _read(path, tensor)
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")
    return model


def beside(path: Path) -> tuple[Path, ...]:
    """The other files that hold weights of a network, each checked to be there.

    Raises:
        NetworkError: as `load`.
    """
    model = parsed(path)
    return tuple(dict.fromkeys(_file(path, tensor) for tensor in _external(model)))


def copy(source: Path, target: Path) -> None:
    """Copies a network with its weights: to one file, or where that is too large to two.

    The second is called as the first, with `.data` at its end.

    Raises:
        NetworkError: as `load`.
    """
    try:
        whole = not beside(source)
    except NoModel:  # whoever opens it says so
        whole = True
    if whole:
        shutil.copyfile(source, target)
    else:
        write(load(source), target)


def write(model: onnx.ModelProto, target: Path) -> None:
    """Writes a model as `copy` does; the weights of a large one are taken out of `model`."""
    if model.ByteSize() > LARGEST:
        put_beside(model, data_of(target), data_of(target).name)
    target.write_bytes(model.SerializeToString())


def network_fingerprint(path: Path) -> str:
    """The fingerprint of a network and of all files that hold its weights."""
    return _together([path, *beside(path)])


def fingerprint_of_copy(path: Path) -> str:
    """As `network_fingerprint` of what `copy` wrote, which need not be looked into."""
    data = data_of(path)
    return _together([path, data] if data.is_file() else [path])


def _together(files: list[Path]) -> str:
    return together([fingerprint(file) for file in files])


def together(prints: list[str]) -> str:
    """The fingerprint of a network from those of its files, its own first."""
    if len(prints) == 1:
        return prints[0]
    return "sha256:" + hashlib.sha256(" ".join(prints).encode()).hexdigest()


def parsed(path: Path, what: str | None = None) -> onnx.ModelProto:
    """The model in an ONNX file, without what lies beside it. Raises NoModel."""
    what = what or str(path)
    if path.exists():
        regular(path, NetworkError)
    try:
        return onnx.load(str(path), load_external_data=False)
    except FileNotFoundError:
        raise NoModel(f"{what} does not exist.") from None
    except Exception as problem:  # protobuf's errors share no public base class
        raise NoModel(
            f"{what} does not load as ONNX ({type(problem).__name__}). Export it again, or check "
            "it with onnx.checker."
        ) from None


def _read(path: Path, tensor: TensorProto) -> bytes:
    file, info = _file(path, tensor), ExternalDataInfo(tensor)
    start = info.offset or 0
    size = file.stat().st_size - start if info.length is None else info.length
    with file.open("rb") as opened:
        opened.seek(start)
        found = opened.read(max(0, min(size, file.stat().st_size - start)))
    if len(found) != size:
        raise NetworkError(
            f"{file} is too short for the weights of {path.name}: it is cut short, or belongs to "
            "another network. Copy or export both again."
        )
    return found


def _file(path: Path, tensor: onnx.TensorProto) -> Path:
    """The file that holds a tensor: beside the network, or beside what a link to it points to."""
    location: str = ExternalDataInfo(tensor).location
    climbs = ".." in PureWindowsPath(location).parts  # which knows both kinds of slashes
    if climbs or PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor:
        raise NetworkError(
            f"{path} keeps weights in '{location}', outside its folder, where they are not looked "
            "for. Save it again with its weights beside it: onnx.save(model, file, "
            "save_as_external_data=True)."
        )
    for folder in (path.parent, path.resolve().parent):
        if location and (folder / location).is_file():
            return folder / location
    raise NetworkError(
        f"the weights of {path} are in '{location}', which is not beside it. Copy both files "
        "together, or export the network again."
    )


def put_beside(model: onnx.ModelProto, data: Path, name: str) -> None:
    """Moves the weights of a model to a file, which is to be called `name` beside the model."""
    with data.open("wb") as file:
        for tensor in _tensors(model):
            if len(tensor.raw_data) >= _SMALL:
                set_external_data(tensor, name, file.tell(), len(tensor.raw_data))
                file.write(tensor.raw_data)
                tensor.ClearField("raw_data")


def _external(model: onnx.ModelProto) -> Iterator[TensorProto]:
    return (tensor for tensor in _tensors(model) if uses_external_data(tensor))


def _tensors(model: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model, those inside branches and functions as well."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        yield from _of_nodes(function.node)


def _of_graph(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for attribute in (a for node in nodes for a in node.attribute):
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            yield from _of_graph(graph)
