"""What running each stage costs, at one batch size or at several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NotRequired, TypedDict

from offramp.base.checked import checked
from offramp.base.errors import CostError

COST_KEYS = (  # of a manifest
    *("cost", "cost_unit", "cost_source", "cost_whole", "cost_batch", "cost_overhead", "cost_at"),
    *("cost_engine", "cost_examples"),
)
_LEAST, MOST_COST = 1e-30, 1e30  # sums and ratios of these fit what decides, float32 as well


class PartCosts(TypedDict):
    body: float
    head: float


class CostsJson(TypedDict):
    """Costs as JSON values."""

    cost: dict[str, PartCosts]
    cost_unit: str
    cost_source: str
    cost_whole: NotRequired[dict[str, float] | float | None]
    cost_batch: NotRequired[int | None]
    cost_overhead: NotRequired[float | None]
    cost_at: NotRequired[dict[str, dict[str, Any]]]
    cost_engine: NotRequired[str | None]
    cost_examples: NotRequired[int | None]


@checked
@dataclass(frozen=True)
class Costs:
    """What running each stage costs, per example; bodies and heads apart.

    Those that plans are optimised for; `at` holds what was measured at other batch sizes.
    """

    body: Mapping[str, float]  # what must run to pass the stage
    head: Mapping[str, float]  # what runs only where the stage's answer is asked for
    unit: str = "s"  # "s" (seconds), "MFLOP", "J", ...
    source: str = "given"  # how and where they were measured
    _: KW_ONLY
    # networks that run alone, uncut, by stage; one that is not here costs the sum of its parts
    whole: Mapping[str, float] = field(default_factory=dict)
    batch: int | None = None  # examples per call that they were measured at; None: not said
    overhead: float | None = None  # of them for a call and a decision; None: not measured
    at: Mapping[int, Costs] = field(default_factory=dict)  # other batch size -> costs there
    engine: str | None = None  # and its version, that they were measured on; None: not said
    examples: int | None = None  # that they are means of; None: they do not differ by example

    def __repr__(self) -> str:
        at = "" if self.batch is None else f" at batch {self.batch}"
        each = ", ".join(f"{s} {self.body[s] + self.head.get(s, 0.0):.4g}" for s in self.body)
        return f"<Costs in {self.unit}{at}: {each}>"

    def part(self, name: str) -> float:
        """The cost of a part: a body, called as its stage, or a head."""
        stage, dot, _ = name.partition(".")
        return self.head[stage] if dot else self.body[stage]

    def to_json(self) -> dict[str, Any]:
        """The entries of a manifest that describe costs."""
        each = {name: {"body": self.body[name], "head": self.head[name]} for name in self.body}
        found = {"cost": each, "cost_unit": self.unit, "cost_source": self.source}
        more = {
            "cost_whole": dict(self.whole),
            "cost_batch": self.batch,
            "cost_overhead": self.overhead,
            "cost_engine": self.engine,
            "cost_examples": self.examples,
            "cost_at": {str(batch): costs.to_json() for batch, costs in self.at.items()},
        }
        return found | {key: value for key, value in more.items() if value not in ({}, None)}

    def smallest(self) -> Costs:
        """The costs at the smallest batch size that they are known at."""
        return self.at[min(self.at)] if self.at and min(self.at) < (self.batch or 0) else self

    @classmethod
    def from_json(cls, manifest: Mapping[str, Any]) -> Costs:
        """The inverse of `to_json`. Raises CostError where an entry is missing.

        Earlier versions kept the uncut reference alone, as a single number.
        """
        try:
            each, uncut = manifest["cost"], manifest.get("cost_whole")
            body = {name: part["body"] for name, part in each.items()}
            head = {name: part["head"] for name, part in each.items()}
            unit, source = manifest["cost_unit"], manifest["cost_source"]
            if isinstance(uncut, int | float):
                uncut = {manifest["graph"]["reference"]: uncut}
            batch, overhead = manifest.get("cost_batch"), manifest.get("cost_overhead")
            at = {int(n): cls.from_json(there) for n, there in manifest.get("cost_at", {}).items()}
            return cls(
                body,
                head,
                unit,
                source,
                whole=dict(uncut or {}),
                batch=batch,
                overhead=overhead,
                at=at,
                engine=manifest.get("cost_engine"),
                examples=manifest.get("cost_examples"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise CostError(f"this is not a record of costs: {problem!r}.") from None


def elsewhere(costs: Costs | None, engine: str | None, what: str) -> list[str]:
    """A sentence where costs were measured on another engine; other versions are no other engine.

    Args:
        costs: None: there are none.
        engine: and its version; None: not said.
        what: is of that engine, and its verb.
    """
    measured = costs and costs.engine
    if not measured or not engine or measured.rpartition(" ")[0] == engine.rpartition(" ")[0]:
        return []
    return [
        f"costs were measured on {measured}, {what} {engine}: what costs less on one engine may "
        "not on another."
    ]


def check_sizes(costs: Costs) -> Mapping[int, Costs]:
    """The costs at other batch sizes. Raises CostError where one of the sizes is none."""
    for batch in (costs.batch, *costs.at):
        if batch is not None and (not isinstance(batch, int) or batch < 1):
            raise CostError(f"costs are at batch {batch!r}; a batch size is a number of examples.")
    if costs.overhead is not None and not isinstance(costs.overhead, int | float):
        raise CostError(f"the overhead of a call is {costs.overhead!r}; it must be a number.")
    return costs.at


def check_cost(name: str, part: str, value: float | None) -> None:
    if value is None:
        raise CostError(f"stage '{name}' has no {part} cost. Give one cost per stage.")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value == 0 or _LEAST <= value <= MOST_COST):
        raise CostError(
            f"the {part} cost of stage '{name}' is {value!r}; a cost is a number of at least 0, "
            f"and not beyond {MOST_COST:g} or, above 0, below {_LEAST:g}: choose another unit."
        )
