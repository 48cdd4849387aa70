"""Which field each input of a network reads; in copies of networks, inputs are called so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import onnx

from offramp.base.errors import GraphError
from offramp.base.fields import X
from offramp.networks import weights
from offramp.networks.networks import Networks, sources
from offramp.networks.preprocessing import PerNetwork, Preprocessing

Reads = Mapping[str, Mapping[str, str]]  # network -> its input -> the field that it reads
# names that exported plans use for what they hand on and answer
_TAKEN = ("scores", "answer", "stage", "cost", "tradeoff", "path", "next", "taint")


def with_fields(networks: Networks, reads: Reads, folder: Path) -> Networks:
    """The networks, each input called as the field that it reads.

    Where every network has one input, nobody says otherwise, and all prepare images alike, that is
    `x` for all, and the networks stay as they are.

    Args:
        networks: a graph with its files.
        reads: what is said of inputs; the others read the field of their own name.
        folder: for copies of the networks whose inputs get other names.

    Raises:
        GraphError: an unknown network or input, a name that is taken, images of another size than a
            network reads.
        NetworkError: a network does not load.
    """
    ends = _Ends(networks)
    ends.check(reads)
    _check_images(ends)
    names = {
        network: {each: ends.field(network, each, reads) for each in inputs}
        for network, inputs in ends.inputs.items()
    }
    _check_shapes(ends, names)
    if not reads and not ends.several and not isinstance(networks.preprocessing, PerNetwork):
        return networks
    fields = tuple(dict.fromkeys(field for read in names.values() for field in read.values()))
    if taken := [field for field in fields if field in _TAKEN]:
        raise GraphError(
            f"a field is called '{taken[0]}', which plans call something else. Name it otherwise: "
            f"--reads NETWORK.{taken[0]}=FIELD."
        )
    files = {
        part: _renamed(
            file, names[ends.network_of(part)], ends.reads[part], folder / f"{part}.onnx"
        )
        for part, file in networks.files.items()
    }
    return replace(networks, files=files, fields=fields)


@dataclass(frozen=True)
class _Ends:
    """What networks read of the examples."""

    networks: Networks

    @cached_property
    def graphs(self) -> dict[str, onnx.GraphProto]:
        return {part: weights.parsed(file).graph for part, file in self.networks.files.items()}

    @cached_property
    def reads(self) -> dict[str, list[str]]:
        """Of each part, the inputs that are read from examples."""
        read = {part: [v.name for v in inputs_of(graph)] for part, graph in self.graphs.items()}
        makes = {part: [v.name for v in graph.output] for part, graph in self.graphs.items()}
        found = sources(self.networks.graph, read, makes)
        return {
            part: [name for name, source in made.items() if source is None]
            for part, made in found.items()
        }

    @cached_property
    def inputs(self) -> dict[str, dict[str, onnx.ValueInfoProto]]:
        """Of each network, the inputs that are read from examples."""
        found: dict[str, dict[str, onnx.ValueInfoProto]] = {}
        for part, names in self.reads.items():
            values = {value.name: value for value in inputs_of(self.graphs[part])}
            of_network = found.setdefault(self.network_of(part), {})
            of_network |= {name: values[name] for name in names if name not in of_network}
        return found

    @property
    def several(self) -> bool:
        return any(len(inputs) > 1 for inputs in self.inputs.values())

    def network_of(self, part: str) -> str:
        """What a network is called: as its own answer, or as the stage that it begins with."""
        graph = self.networks.graph
        first = graph.first(part.partition(".")[0])
        return next(s.name for s in reversed(graph.stages) if graph.first(s.name) == first)

    def field(self, network: str, name: str, reads: Reads) -> str:
        """What an input of a network is called where it is read."""
        said = reads.get(network, {}).get(name)
        single = not self.several and not reads
        field = said or (X if single else name)
        pixels = self.networks.preprocessing
        if not isinstance(pixels, PerNetwork) or network not in pixels.networks:
            return field
        return f"{network}.{field}" if _is_image(self.inputs[network][name]) else field

    def check(self, reads: Reads) -> None:
        """Raises GraphError where networks or inputs are named that do not exist."""
        for network, names in reads.items():
            if network not in self.inputs:
                raise GraphError(
                    f"--reads names a network '{network}', and there are "
                    f"{', '.join(self.inputs)}. Name one of these."
                )
            for name in names:
                if name not in self.inputs[network]:
                    raise GraphError(
                        f"--reads names an input '{name}' of '{network}', which reads "
                        f"{', '.join(self.inputs[network]) or 'nothing'}. Name one of these."
                    )


def _check_images(ends: _Ends) -> None:
    """Raises GraphError where a network reads images otherwise than they are prepared for it."""
    pixels = ends.networks.preprocessing
    for network, inputs in ends.inputs.items():
        for value in inputs.values():
            if pixels is None or not _is_image(value):
                continue
            way = pixels if isinstance(pixels, Preprocessing) else pixels.networks.get(network)
            if way is None:
                raise GraphError(
                    f"nothing says how '{network}' reads images, as it does for others. Say so: "
                    f"--size {network}={_size(value)}."
                )
            _check_fits(ends, network, value, way)


def _check_fits(
    ends: _Ends, network: str, value: onnx.ValueInfoProto, pixels: Preprocessing
) -> None:
    dims, shape = dims_of(value), pixels.shape
    if len(dims) != 4 or _alike(dims[1:], shape):
        return
    comes = (
        f"network '{network}' reads {_shown(dims)} as '{value.name}', and images come to it as "
        f"{_shown([dims[0], *shape])}"
    )
    channels = _channels(dims, pixels)
    if channels is not None:
        mean, std = (",".join([value] * channels) for value in ("0.5", "0.25"))
        raise GraphError(
            f"{comes}: images have as many channels as there are means. Give one value for each "
            f"channel of this network: --mean {network}={mean} --std {network}={std}, say."
        )
    turned = dims[1] not in (1, 3) if pixels.layout == "nchw" else dims[1] in (1, 3)
    other = "nhwc" if pixels.layout == "nchw" else "nchw"
    advice = f"--layout {network}={other}" if turned else _sizes(ends)
    raise GraphError(
        f"{comes}. Say how each network reads: {advice}; photographs are then "
        "resized for each network to its own size."
    )


def _channels(dims: Sequence[int | str | None], pixels: Preprocessing) -> int | None:
    """How many channels a network reads, where that alone differs from what comes; else None."""
    place = 1 if pixels.layout == "nchw" else 3
    count, others = dims[place], list(pixels.shape)
    if not isinstance(count, int) or count not in (1, 3):
        return None
    others[place - 1] = count
    return count if _alike(dims[1:], others) else None


def _check_shapes(ends: _Ends, names: Mapping[str, Mapping[str, str]]) -> None:
    """Raises GraphError where networks read arrays of different shapes as one field."""
    before: dict[str, tuple[str, str, list[int | str | None]]] = {}
    for network, inputs in ends.inputs.items():
        for name, value in inputs.items():
            if not value.type.tensor_type.HasField("shape"):
                continue
            field, dims = names[network][name], dims_of(value)
            other, its, shape = before.setdefault(field, (network, name, dims))
            if _alike(dims[1:], shape[1:]):
                continue
            images = f"where these are images, {_sizes(ends)}; " if _is_image(value) else ""
            raise GraphError(
                f"'{network}' reads {_shown(dims)} and '{other}' {_shown(shape)} as one field, "
                f"'{field}', so what fits one does not fit the other. Say how each network reads: "
                f"{images}where these are different arrays, "
                f"--reads {other}.{its}=ONE --reads {network}.{name}=OTHER."
            )


def _alike(dims: Sequence[int | str | None], others: Sequence[int | str | None]) -> bool:
    """Whether one array may have both shapes."""
    sizes = zip(dims, others, strict=False)
    return len(dims) == len(others) and all(
        one == other for one, other in sizes if isinstance(one, int) and isinstance(other, int)
    )


def _shown(dims: Sequence[int | str | None]) -> str:
    return f"({', '.join('?' if dim is None else str(dim) for dim in dims)})"


def _sizes(ends: _Ends) -> str:
    """What to write for networks to get images of their own sizes."""
    return " ".join(
        f"--size {network}={_size(value)}"
        for network, inputs in ends.inputs.items()
        for value in inputs.values()
        if len(dims_of(value)) == 4
    )


def _size(value: onnx.ValueInfoProto) -> str:
    """The height and width that an input of images asks for, as --size takes them."""
    dims = dims_of(value)
    if len(dims) != 4:
        return "PIXELS"
    height, width = dims[2:] if dims[1] in (1, 3) or dims[3] not in (1, 3) else dims[1:3]
    if not isinstance(height, int) or not isinstance(width, int):
        return "PIXELS"
    return f"{height}" if height == width else f"{height}x{width}"


def _is_image(value: onnx.ValueInfoProto) -> bool:
    """Whether an input may be images."""
    return len(dims_of(value)) in (0, 4)


def dims_of(value: onnx.ValueInfoProto) -> list[int | str | None]:
    """The sizes of an input: a name, or None, where they are open."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]


def inputs_of(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """What a network reads; constants that are listed as inputs are none."""
    constants = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in constants]


def fields_read(file: Path) -> tuple[str, ...]:
    """The fields that a network reads by itself: its inputs; `x` where there is one."""
    names = tuple(value.name for value in inputs_of(weights.parsed(file).graph))
    return names if len(names) > 1 else (X,)


def _renamed(file: Path, names: Mapping[str, str], read: list[str], target: Path) -> Path:
    """A copy of a network in which some inputs have other names; the file itself where none has."""
    changed = {name: names[name] for name in read if names[name] != name}
    if not changed:
        return file
    model = weights.load(file)
    aside = {name: f"{name}/inside" for name in made_in(model.graph) & set(changed.values())}
    rename_tensors(model.graph, {**aside, **changed})
    weights.write(model, target)
    return target


def made_in(graph: onnx.GraphProto) -> set[str]:
    """The names of all tensors that a graph knows, its outputs aside."""
    found = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        found |= {*node.output}
        for inner in _inside(node):
            found |= made_in(inner)
    return found - {value.name for value in graph.output}


def rename_tensors(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Gives tensors other names wherever a graph and what lies inside it speaks of them."""
    for tensor in graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)
    for value in (*graph.input, *graph.value_info):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            for position, name in enumerate(ends):
                ends[position] = names.get(name, name)
        for inner in _inside(node):
            rename_tensors(inner, names)
            for value in inner.output:
                value.name = names.get(value.name, value.name)


def _inside(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The graphs of a node's branches."""
    return [
        graph
        for attribute in node.attribute
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else []))
    ]
