"""A served plan by name and version: what it reads, and requests turned into answers."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np

from offramp._version import __version__
from offramp.base.arrays import AnyArray
from offramp.base.errors import DataError
from offramp.networks.images import decode
from offramp.networks.preprocessing import Source, sources_of
from offramp.runtime.engine import Value
from offramp.runtime.stages import Stages
from offramp.serving.auditing import Auditor
from offramp.serving.protocol import BYTES, NAMES, NamedTensor, Query, Reply, of_base64
from offramp.serving.service import Served, Service

PLATFORM = "offramp_plan"
EXTENSIONS = ("binary_tensor_data",)


@dataclass(frozen=True)
class Spec:
    """What an input or an output is; -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


class ServedPlan:
    """A plan that is served under a name.

    Args:
        name: that clients ask for.
        version: of the plan.
        service: answers.
    """

    name: str
    version: str
    service: Service
    answered: int
    failed: int

    def __init__(self, name: str, version: str, service: Service) -> None:
        self.name, self.version, self.service = name, version, service
        self.auditor: Auditor | None = None
        self.answered, self.failed = 0, 0  # requests, so far
        plan = service.plan
        self.reads: Mapping[str, Value] = _reads(service.runtime)
        self.sources: Mapping[str, Source] = sources_of(plan.fields, plan.preprocessing)
        self.inputs: tuple[Spec, ...] = tuple(self._inputs())
        numbers = plan.task.answers_of(
            np.zeros((1, plan.classes), np.float32), [plan.kinds[plan.graph.root]], np.zeros(1, int)
        )
        self.outputs: tuple[Spec, ...] = (
            Spec("answer", _datatype(numbers.dtype), (-1, *numbers.shape[1:])),
            Spec("stage", BYTES, (-1,)),
            Spec("cost", "FP64", (-1,)),
            Spec("scores", "FP32", (-1, plan.classes)),
        )

    @property
    def alarmed(self) -> bool:
        """Whether a guard raised the alarm."""
        return self.auditor is not None and self.auditor.alarmed

    def close(self, wait_s: float | None = None) -> None:
        """As `Service.close`; what was audited by then is looked at."""
        self.service.close(wait_s)
        if self.auditor is not None:
            self.auditor.close()

    def metadata(self) -> dict[str, Any]:
        """As the protocol says it."""
        return {
            "name": self.name,
            "versions": [self.version],
            "platform": PLATFORM,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
        }

    def takes_long(self, query: Query) -> bool:
        """Whether reading its inputs would hold up an event loop: images are decoded."""
        return any(tensor.datatype == BYTES for tensor in query.tensors)

    def fields(self, query: Query, *, texts: bool = False) -> dict[str, AnyArray]:
        """The inputs of a request, as networks read them.

        Args:
            query: what is asked.
            texts: BYTES came as texts in JSON.

        Raises:
            DataError: inputs that are missing, unknown, of another type or shape.
        """
        given = {tensor.name: tensor for tensor in query.tensors}
        names = [spec.name for spec in self.inputs]
        if set(given) != set(names) or len(query.tensors) != len(names):
            came = ", ".join(tensor.name for tensor in query.tensors) or "nothing"
            raise DataError(f"'{self.name}' reads {', '.join(names)}, and {came} came.")
        known = [spec.name for spec in self.outputs]
        if unknown := [name for name in query.outputs if name not in known]:
            raise DataError(f"there is no output '{unknown[0]}'; choose {', '.join(known)}.")
        made = {
            field: self._field(field, source, given[source.name], texts)
            for field, source in self.sources.items()
        }
        if len({len(values) for values in made.values()}) > 1:
            raise DataError("the inputs have different numbers of rows; give as many of each.")
        return made

    def submit(
        self, query: Query, fields: Mapping[str, AnyArray], deadline_s: float | None, hold: Any
    ) -> Future[Served]:
        """As `Service.submit`; the parameter `timeout` of a request, in microseconds, counts too.

        Raises:
            As `Service.submit`; DataError: a timeout that is none.
        """
        timeout = query.parameters.get("timeout")
        if timeout is not None:
            if type(timeout) is not int or timeout < 0:
                raise DataError(f"the timeout is {timeout!r}; give microseconds, 0 for any number.")
            if timeout:
                deadline_s = min(deadline_s or np.inf, timeout / 1e6)
        return self.service.submit(fields, deadline_s=deadline_s, hold=hold)

    def reply(self, query: Query, served: Served) -> Reply:
        """The answers, with the stage and the cost of each, and the tradeoff of all."""
        answers = served.answers
        values = {
            "answer": answers.answer,
            "stage": answers.stage,
            "cost": answers.cost,
            "scores": answers.scores,
        }
        wanted = query.outputs or tuple(values)
        types = {spec.name: spec.datatype for spec in self.outputs}
        said: dict[str, str | int | float | bool] = {"budget": served.budget, "level": served.level}
        if served.tradeoff is not None:
            said["tradeoff"] = float(served.tradeoff)
        return Reply(
            model=self.name,
            version=self.version,
            id=query.id,
            outputs=tuple(
                NamedTensor(name, types[name], np.asarray(values[name])) for name in wanted
            ),
            parameters=said,
        )

    def _inputs(self) -> list[Spec]:
        found: dict[str, Spec] = {}
        for field, source in self.sources.items():
            value = self.reads[field]
            shape = [-1 if not isinstance(size, int) else size for size in (value.shape or ())[1:]]
            own = Spec(source.name, _datatype(value.dtype), (-1, *shape))
            images = source.preprocessing is not None
            found[source.name] = Spec(source.name, BYTES, (-1,)) if images else own
        return list(found.values())

    def _field(self, field: str, source: Source, tensor: NamedTensor, texts: bool) -> AnyArray:
        if tensor.datatype == BYTES:
            if source.preprocessing is None:
                raise DataError(f"the input '{tensor.name}' is a tensor of numbers, not BYTES.")
            return _pixels(tensor.values, source, texts)
        return self._tensor(tensor, self.reads[field])

    def _tensor(self, tensor: NamedTensor, reads: Value) -> AnyArray:
        """A tensor of the shape and type that networks read."""
        values, shape = tensor.values, reads.shape
        sizes = zip(shape or (), values.shape, strict=False)
        if shape is not None and (
            values.ndim != len(shape)
            or any(isinstance(n, int) and n != size for n, size in list(sizes)[1:])
        ):
            wanted = [n if isinstance(n, int) else -1 for n in shape]
            raise DataError(
                f"the input '{tensor.name}' has the shape {list(values.shape)}; it must be "
                f"{[-1, *wanted[1:]]}, rows first."
            )
        if isinstance(reads.dtype, np.dtype) and values.dtype != reads.dtype:
            if not np.can_cast(values.dtype, reads.dtype, casting="same_kind"):
                raise DataError(
                    f"the input '{tensor.name}' is {tensor.datatype}; it must be "
                    f"{_datatype(reads.dtype)}."
                )
            return values.astype(reads.dtype)
        return values


def server_metadata() -> dict[str, Any]:
    """As the protocol says it."""
    return {"name": "offramp", "version": __version__, "extensions": list(EXTENSIONS)}


def _datatype(dtype: Any) -> str:
    return NAMES.get(np.dtype(dtype), "FP32") if not isinstance(dtype, str | None) else "FP32"


def _reads(runtime: Stages) -> dict[str, Value]:
    """What the networks read of each field."""
    found: dict[str, Value] = {}
    for part, program in runtime.parts.items():
        for name, source in runtime.source[part].items():
            if source is None:
                found.setdefault(name, program.inputs[name])
    return found if len(found) > 1 else _Any(found)


class _Any(dict[str, Value]):
    """The only input, whatever its field is called."""

    def __missing__(self, name: str) -> Value:
        return next(iter(self.values()))


def _pixels(values: AnyArray, source: Source, texts: bool) -> AnyArray:
    """Encoded images as networks read them. Raises DataError where one does not decode."""
    assert source.preprocessing is not None
    if values.ndim != 1 and values.shape[1:] != (1,):
        raise DataError(f"encoded images come as a list, and the shape is {list(values.shape)}.")
    images = (of_base64(values) if texts else values).ravel()
    found = []
    for number, image in enumerate(images):
        try:
            found.append(decode(image, source.preprocessing))
        except DataError as problem:
            raise DataError(f"image {number} cannot be decoded: {problem}.") from None
    if not found:
        return np.empty((0, *source.preprocessing.shape), np.float32)
    return source.preprocessing(np.stack(found))
