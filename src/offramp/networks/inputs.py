"""What inputs were recorded, and whether others are like them: type and range, not content."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from offramp.base.arrays import AnyArray
from offramp.base.errors import OfframpWarning
from offramp.base.fields import Fields, X
from offramp.base.schema import record_of

FIRST, EVERY = 64, 256  # calls that are looked at: the first, then every so many
_NUMBERS = "fiub"  # kinds of arrays that have a range


class UnlikeInputs(OfframpWarning):
    """Inputs are of another type or range than those that a plan was certified on."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The finite numbers of some inputs."""

    low: float
    high: float
    mean: float
    whole: float  # share of whole numbers
    numbers: int
    rows: int  # examples in the largest batch
    narrowest: float  # the smallest difference of high and low within one batch of so many

    @classmethod
    def of(cls, x: AnyArray) -> Range | None:
        """Of one batch, (n, ...); None: it holds no finite numbers."""
        values = x[np.isfinite(x)] if x.dtype.kind == "f" else x
        if x.dtype.kind not in _NUMBERS or not values.size:
            return None
        low, high, mean = float(values.min()), float(values.max()), values.mean(dtype=np.float64)
        whole = float((values == np.floor(values)).mean()) if x.dtype.kind == "f" else 1.0
        return cls(
            low=low,
            high=high,
            mean=float(mean),
            whole=whole,
            numbers=values.size,
            rows=len(x),
            narrowest=high - low,
        )

    @classmethod
    def together(cls, found: Iterable[Range | None]) -> Range | None:
        """Of several batches; None: of none."""
        ranges = [one for one in found if one is not None]
        if not ranges:
            return None
        numbers, rows = [one.numbers for one in ranges], max(one.rows for one in ranges)
        return cls(
            low=min(one.low for one in ranges),
            high=max(one.high for one in ranges),
            mean=float(np.average([one.mean for one in ranges], weights=numbers)),
            whole=float(np.average([one.whole for one in ranges], weights=numbers)),
            numbers=sum(numbers),
            rows=rows,
            narrowest=min(one.narrowest for one in ranges if one.rows == rows),
        )


@dataclass(frozen=True)
class Inputs:
    """What the inputs of a recording were."""

    shape: tuple[int, ...]  # of one example
    dtype: str
    range: Range | None = None  # None: not known

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, value: Any) -> Inputs:
        """The inverse of `to_json`. Raises ValueError where a value is missing or none of it."""
        if not isinstance(value, dict):
            raise ValueError(f"the inputs are {value!r}")
        known = value.get("range")
        found = record_of(cls, {key: item for key, item in value.items() if key != "range"})
        np.dtype(found.dtype)
        return cls(found.shape, found.dtype, None if known is None else record_of(Range, known))


AllInputs = Inputs | Mapping[str, Inputs]  # of the only field, or of each


def inputs_to_json(recorded: AllInputs) -> dict[str, Any]:
    """As manifests and exported files say it."""
    if isinstance(recorded, Inputs):
        return recorded.to_json()
    return {"fields": {name: each.to_json() for name, each in recorded.items()}}


def inputs_from_json(value: Any) -> AllInputs:
    """The inverse of `inputs_to_json`. Raises ValueError where a value is none of it."""
    if not isinstance(value, dict) or "fields" not in value:
        return Inputs.from_json(value)
    if not isinstance(value["fields"], dict) or len(value) > 1:
        raise ValueError(f"the inputs are {value!r}")
    return {str(name): Inputs.from_json(each) for name, each in value["fields"].items()}


class Watch:
    """Looks at inputs on their way, and says once where they are unlike those recorded.

    Args:
        recorded: None: nothing is known, and nothing said.
        name: of the field, where there are several.
    """

    def __init__(self, recorded: Inputs | None, name: str = "") -> None:
        self.name: str = name
        self.recorded: Inputs | None = recorded
        self.done: bool = recorded is None
        self.dtype: np.dtype[Any] | None = np.dtype(recorded.dtype) if recorded else None
        self.calls: int = 0
        self.rows: int = 0
        self.low: float = math.inf
        self.high: float = -math.inf

    def __call__(self, x: AnyArray) -> None:
        """Warns with `UnlikeInputs` where inputs (n, ...) are of another type or range."""
        if self.done:
            return
        self.calls += 1
        if self.calls <= FIRST or not self.calls % EVERY or x.dtype != self.dtype:
            self._look(x)

    def _look(self, x: AnyArray) -> None:
        if not x.size or x.dtype.kind not in _NUMBERS:
            return
        low, high = float(x.min()), float(x.max())
        if math.isfinite(low) and math.isfinite(high):
            self.low, self.high = min(self.low, low), max(self.high, high)
            self.rows += len(x)
        if x.dtype != self.dtype or self._elsewhere():
            self.done = True
            warnings.warn(self._sentence(x), UnlikeInputs, stacklevel=5)

    def _elsewhere(self) -> bool:
        """Whether numbers lie far outside what was recorded, or within far less of it."""
        known = self.recorded and self.recorded.range
        if not known or self.low > self.high:
            return False
        size = known.high - known.low or abs(known.high) or 1.0
        outside = self.low < known.low - size or self.high > known.high + size
        return outside or (self.rows >= known.rows and self.high - self.low < known.narrowest / 2)

    def _sentence(self, x: AnyArray) -> str:
        assert self.recorded is not None
        known = self.recorded.range
        before = f" in the range from {known.low:.4g} to {known.high:.4g}" if known else ""
        field = f" in `{self.name}`" if self.name else ""
        now = f" from {self.low:.4g} to {self.high:.4g}" if self.low <= self.high else ""
        return (
            f"inputs of {x.dtype}{field}{now} are unlike the certified ones, which were of type "
            f"{self.recorded.dtype}{before}: the certificate does not cover them. "
            "Convert and scale them as they were when recorded."
        )


class Watches:
    """A watch for each field of the inputs.

    Args:
        fields: by name; a single watch is for whatever the only field is called.
    """

    def __init__(self, fields: Mapping[str, Watch]) -> None:
        self.fields: dict[str, Watch] = dict(fields)
        self.only: Watch | None = next(iter(self.fields.values())) if len(fields) == 1 else None

    @classmethod
    def of(cls, value: Any) -> Watches:
        """For what a plan or an exported file says of its inputs; None: nothing."""
        if value is None:
            return cls({})
        found = inputs_from_json(value)
        if isinstance(found, Inputs):
            return cls({X: Watch(found)})
        return cls({name: Watch(each, name) for name, each in found.items()})

    def __call__(self, fields: Fields) -> None:
        """Warns as `Watch` does; what is prepared here, as it was recorded, needs no watching."""
        if self.only is not None and len(fields) == 1:
            (x,) = fields.values()
            if isinstance(x, np.ndarray):
                self.only(x)
            return
        for name, watch in self.fields.items():
            if isinstance(values := fields.get(name), np.ndarray):
                watch(values)


def fields_to_json(fields: Sequence[str]) -> dict[str, list[str]]:
    """An entry of a manifest; none where there is only `x`."""
    return {} if tuple(fields) == (X,) else {"fields": list(fields)}


def read_fields(value: Mapping[str, Any]) -> tuple[str, ...]:
    """The inverse of `fields_to_json`."""
    return tuple(value.get("fields", (X,)))
