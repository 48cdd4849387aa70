"""Costs that differ from example to example: tokens, seconds, money; one column per stage.

A column says what coming to its stage costs each example: the stage's body; heads cost nothing. The
mean of a column stands for the stage wherever one number is asked for (`Costs`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import CostError
from offramp.core.costs import MOST_COST, Costs
from offramp.core.graph import Graph

ExampleCosts = Mapping[str, FloatArray]
"""Stage -> (examples,) float64, at least 0, in the unit of the trace."""
AnyCosts = Costs | ExampleCosts

INTERVAL = 0.95  # confidence of the intervals of mean costs, by the normal approximation
_SURE = 1.959963984540054  # standard errors of the normal distribution that hold so much


def check_example_costs(
    columns: Mapping[str, AnyArray], stages: Sequence[str], examples: int
) -> dict[str, FloatArray]:
    """The columns of `stages` as float64 (examples,).

    Raises:
        CostError: a stage without a column, no numbers, NaN, below 0 or too large, of other rows,
            or 0 for every example.
    """
    if missing := [stage for stage in stages if stage not in columns]:
        raise CostError(
            f"stage '{missing[0]}' has no cost per example, others have. Give every stage a "
            f"column `{missing[0]}.cost`, or one cost per stage instead."
        )
    return {stage: _checked(columns[stage], stage, examples) for stage in stages}


def _checked(values: AnyArray, stage: str, examples: int) -> FloatArray:
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise CostError(
            f"the costs of stage '{stage}' are {values.dtype} of shape {values.shape}; they must "
            "be numbers, one per example."
        )
    if len(values) != examples:
        raise CostError(f"stage '{stage}' has {len(values)} costs for {examples} examples.")
    given = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(~((given >= 0) & (given <= MOST_COST)))  # NaN is neither
    if wrong.size:
        raise CostError(
            f"the cost of stage '{stage}' in row {wrong[0]} is {given[wrong[0]]:.4g}; a cost is a "
            f"number from 0 to {MOST_COST:g}. Mend it, or leave the example out."
        )
    if examples and not given.any():
        raise CostError(
            f"stage '{stage}' costs nothing for every example; it must cost something for some. "
            "Give what it costs, or one cost per stage instead."
        )
    return given


def mean_costs(each: ExampleCosts, unit: str) -> Costs:
    """One cost per stage: the mean over the examples, which there must be."""
    examples = len(next(iter(each.values())))
    means = {stage: float(values.mean()) for stage, values in each.items()}
    nothing = dict.fromkeys(means, 0.0)
    source = f"mean of {examples:,} examples"
    return Costs(means, nothing, unit, source, examples=examples)


def priced_by(
    costs: Mapping[str, float | AnyArray] | None, examples: int, unit: str
) -> tuple[Costs, dict[str, FloatArray] | None]:
    """Costs per stage and, where one of them differs by example, those of each example.

    Raises:
        CostError: as `check_example_costs`.
    """
    if costs is None:
        raise CostError("give `costs`: what each network costs, a number or an array for each.")
    if not any(isinstance(cost, _MANY) for cost in costs.values()):
        return fixed_costs(costs, unit), None
    columns = {s: _column(cost, examples) for s, cost in costs.items()}
    each = check_example_costs(columns, [*columns], examples)
    return mean_costs(each, unit), each


def fixed_costs(costs: Mapping[str, float | AnyArray], unit: str) -> Costs:
    """One cost per stage. Raises CostError where one of them has several."""
    body: dict[str, float] = {}
    for stage, cost in costs.items():
        if isinstance(cost, _MANY):
            raise CostError(
                f"give one number as the cost of '{stage}': a table has costs per example in a "
                f"column `{stage}.cost`."
            )
        body[stage] = cost
    return Costs(body, dict.fromkeys(body, 0.0), unit)


_MANY = (np.ndarray, list, tuple)


def _column(cost: float | AnyArray, examples: int) -> AnyArray:
    """A column of costs; one number is that of every example."""
    values = np.asarray(cost)
    return values if values.ndim else np.full(examples, values)


def taken(
    costs: Costs, each: ExampleCosts | None, rows: AnyArray | slice
) -> tuple[Costs, ExampleCosts | None]:
    """The costs of some examples, and their means."""
    if each is None:
        return costs, None
    some = {stage: values[rows] for stage, values in each.items()}
    return mean_costs(some, costs.unit) if len(next(iter(some.values()))) else costs, some


def steps(
    graph: Graph, each: ExampleCosts, target: str, run: Collection[str] = ()
) -> FloatArray | float:
    """What coming to `target` and answering there costs, (examples,), given the parts `run`."""
    paid = [each[name] for name in graph.parts(target) if name in each and name not in run]
    return np.asarray(sum(paid)) if paid else 0.0


def paid(each: ExampleCosts, part: str, rows: IntArray) -> FloatArray | float:
    """What a body, called as its stage, or a head costs these rows, (rows,)."""
    return each[part][rows] if part in each else 0.0


def mean_interval(cost: FloatArray) -> tuple[float, float]:
    """Where the mean of (examples,) costs lies, at 95 %: 1.96 standard errors around it."""
    half = _SURE * float(cost.std()) / math.sqrt(max(1, len(cost) - 1))
    return max(0.0, float(cost.mean()) - half), float(cost.mean()) + half


def ratio_interval(over: FloatArray, under: FloatArray) -> tuple[float, float]:
    """Where the ratio of two means lies, at 95 %, by the delta method; (examples,) each.

    Source: Cochran 1977, Sampling techniques, section 6.4: the ratio of two means of the same
        examples, whose error is that of the mean of `over - ratio * under`.
    """
    ratio = float(over.mean() / under.mean())
    left = (over - ratio * under) / under.mean()
    half = _SURE * float(left.std()) / math.sqrt(max(1, len(left) - 1))
    return max(0.0, ratio - half), ratio + half
