"""A network in int8, as ONNX Runtime runs it fastest on a CPU: static, weights by channel."""

from __future__ import annotations

import inspect
import io
import logging
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from offramp.base.arrays import AnyArray
from offramp.base.errors import NetworkError
from offramp.base.fields import Fields, count, fields_of, take
from offramp.networks import weights
from offramp.runtime.ends import ends
from offramp.runtime.format import inputs_named
from offramp.siblings.shrinking import RESIZED

Calibration = Literal["MinMax", "Percentile", "Entropy"]
CALIBRATIONS: tuple[Calibration, ...] = ("MinMax", "Percentile", "Entropy")
_LAYERS = ("Conv", "Gemm", "MatMul")  # whose products int8 makes cheap
_ROUNDING = re.compile("uantizeLinear|^QLinear|Integer$")  # operators of quantised networks
_ROWS = 16  # of each call that calibrates, at most
_CACHE = "calibration_cache_path"  # newer versions of ONNX Runtime keep ranges for another try


End = Literal["first", "last"]
ENDS: tuple[tuple[End, ...], ...] = (("first",), ("last",), ("first", "last"))


@dataclass(frozen=True)
class Scheme:
    """How a network is brought to int8."""

    method: Calibration = "MinMax"  # that finds the ranges of activations
    kept: tuple[End, ...] = ()  # its first and last layers, where they stay in fp32

    def __str__(self) -> str:
        kept = f", {' and '.join(self.kept)} layer in fp32" if self.kept else ""
        return f"{self.method}{kept}"


class Quantiser:
    """Makes int8 networks of one network, on examples that calibrate.

    Unsigned activations and signed weights, with a scale for each channel. Weights have 7 bits
    where the processor would else saturate.

    Args:
        file: the network.
        folder: for what is made on the way.
        x: examples (n, ...), or fields of them, from which the ranges of activations are taken.

    Raises:
        NetworkError: the network cannot be prepared, or multiplies nothing.
    """

    folder: Path
    x: Fields
    prepared: Path
    layers: list[str]

    def __init__(self, file: Path, folder: Path, x: AnyArray | Fields) -> None:
        from onnxruntime.quantization.shape_inference import quant_pre_process

        self.folder, self.x = folder, inputs_named([*ends(file)[0]], fields_of(x))
        self.prepared = folder / f"{file.stem}.prepared.onnx"
        with _quietly(file):
            quant_pre_process(str(file), str(self.prepared), skip_symbolic_shape=True)
        self.layers = self._layers()

    def _layers(self) -> list[str]:
        """The names of the nodes that int8 makes cheap, after naming those without a name."""
        model = weights.load(self.prepared)
        for number, node in enumerate(model.graph.node):
            node.name = node.name or f"{node.op_type}_{number}"
        weights.write(model, self.prepared)
        kinds = sorted({node.op_type for node in model.graph.node})
        if rounded := [kind for kind in kinds if _ROUNDING.search(kind)]:
            raise NetworkError(f"it is quantised already: {', '.join(rounded)}.")
        layers = [node.name for node in model.graph.node if node.op_type in _LAYERS]
        if not layers:
            raise NetworkError(f"none of its operators gains by int8: {', '.join(kinds)}.")
        return layers

    def _excluded(self, scheme: Scheme) -> list[str]:
        """The nodes that stay as they are."""
        ends = {"first": self.layers[0], "last": self.layers[-1]}
        return [RESIZED, *(ends[end] for end in scheme.kept)]

    def __call__(self, scheme: Scheme, out: Path) -> Path:
        """Writes the network in int8 and returns its path.

        Raises:
            NetworkError: it cannot be quantised; what ONNX Runtime says of it.
        """
        from onnxruntime import quantization

        kinds = quantization.QuantType
        found = {_CACHE: self.folder / f"{self.prepared.stem}.{scheme.method}.json"}
        known = inspect.signature(quantization.quantize_static).parameters
        with _quietly(self.prepared):
            quantization.quantize_static(
                str(self.prepared),
                str(out),
                _reader(self.x),
                per_channel=True,
                reduce_range=saturates(),
                activation_type=kinds.QUInt8,
                weight_type=kinds.QInt8,
                nodes_to_exclude=self._excluded(scheme),
                calibrate_method=quantization.CalibrationMethod[scheme.method],
                **(found if _CACHE in known else {}),
            )
        return out


def saturates() -> bool:
    """Whether products of 8 bits may overflow 16 here: on x86 without VNNI, or not known to it."""
    if platform.machine().lower() in ("arm64", "aarch64"):
        return False
    try:
        return "vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return True


def _reader(x: Fields) -> object:
    """The examples as the quantiser asks for them."""
    from onnxruntime import quantization

    # of one size: histograms are made of arrays of one shape
    rows = max(size for size in range(1, _ROWS + 1) if count(x) % size == 0)
    batches = iter([take(x, slice(i, i + rows)) for i in range(0, count(x), rows)])

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Fields | None:
            return next(batches, None)

    return Reader()


@contextmanager
def _quietly(file: Path) -> Iterator[None]:
    """Keeps the quantiser from talking, and says what goes wrong in our words."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    except Exception as problem:  # the quantiser's errors share no public base class
        raise NetworkError(_sentence(file, problem)) from None
    finally:
        logging.disable(before)


def _sentence(file: Path, problem: Exception) -> str:
    """What the quantiser says, and which operators it may be about."""
    said = str(problem).strip().partition("\n")[0] or type(problem).__name__
    foreign = foreign_operators(file)
    among = f" Operators that are not ONNX's own: {', '.join(foreign)}." if foreign else ""
    return f"it cannot be brought to int8: {said}.{among}".replace("..", ".")


def foreign_operators(file: Path) -> Sequence[str]:
    """The operators of a network from other domains than ONNX's."""
    try:
        nodes = weights.parsed(file).graph.node
    except weights.NoModel:
        return []
    others = {f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in _OWN}
    return sorted(others)


_OWN = ("", "ai.onnx", "ai.onnx.ml")
