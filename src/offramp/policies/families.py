"""Families of policies, registered by kind: what `fit` fits by name and a plan is read back with.

A family is one file: a class that is `Deployable`, a function that fits it, and its `Family`. Those
of offramp are registered when `offramp.policies` is imported; one from elsewhere is registered by
the module that defines it, which must be imported before a plan of its kind is read, since reading
a file never imports anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeVar

import numpy as np

from offramp.answering.committees import Committees, with_committees
from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import InputError, PlanError
from offramp.core.graph import Graph
from offramp.core.policy import Policy
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.policies.operators import Decision, Dial, Memory, SeenTensors

ALWAYS = 1e6  # more than any sureness, and than any cost in units of the reference's
T = TypeVar("T")
_WORDS = ("auto", "uniform")  # which stand for other things where a policy is named


class Deployable(Policy, Protocol):
    """A policy that plans can hold: written as JSON, timed, and exported."""

    @property
    def kind(self) -> str:
        """The name of its family."""

    def to_json(self) -> dict[str, Any]:
        """What it holds besides kind, graph and settings, as JSON values; maybe nothing."""

    def forced(self, *, goes_on: bool) -> tuple[Deployable, float]:
        """One that computes as much, to be timed, and a setting at which it always does the same.

        Where `goes_on`, it goes on to the first successor; else it stops.
        """

    def decision(self, seen: SeenTensors, dial: Dial) -> Decision:
        """As `choose` of `evidence`, in ONNX operators, at a stage with successors."""

    def remembered(self, stage: str) -> Memory:
        """What later stages ask of this one where decisions are made in ONNX; maybe nothing."""


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A policy's JSON, of which kind, graph and settings have been read and checked."""

    kind: str
    graph: Graph
    settings: FloatArray
    values: Mapping[str, Any]  # all of it
    classes: int | None = None  # of the plan it lies in, where it lies in one

    def numbers(self, name: str) -> dict[str, FloatArray]:
        """Arrays of finite numbers, one for each stage with successors."""
        return self.every({stage: numbers(each) for stage, each in self.values[name].items()}, name)

    def cuts(self, name: str) -> dict[str, FloatArray]:
        """The inverse of `cuts_to_json`, for each stage with successors."""
        return self.every({stage: _cuts(each) for stage, each in self.values[name].items()}, name)

    def every(self, learned: dict[str, T], what: str) -> dict[str, T]:
        """What has been learned, by stage. Raises PlanError where one that goes on has none."""
        missing = [s for s in self.graph.order if self.graph.successors[s] and s not in learned]
        if missing:
            raise PlanError(f"the policy has no {what} for stage '{missing[0]}'; fit again.")
        return learned

    def check(self, fits: bool, what: str, stage: str | None = None) -> None:
        """Raises PlanError where `what` does not fit, at `stage` or everywhere."""
        if not fits:
            at = f" at stage '{stage}'" if stage else ""
            raise PlanError(f"the policy's {what}{at} are damaged; fit again.")


@dataclass(frozen=True, eq=False, kw_only=True)
class Family:
    """Policies of one kind."""

    name: str  # the kind of its policies, and what users call it
    fit: Callable[[Trace, Losses], Deployable]
    read: Callable[[Saved], Deployable]  # the inverse of `Deployable.to_json`
    most: int | None = None  # examples that are learned from; of more, a sample is
    _: KW_ONLY
    any_task: bool = False  # whether it looks at nothing that only scores of classes have
    # how stages answer where the policy decides, if its source says so; None: it does not
    answers: Callable[[Trace, Losses], Committees] | None = None

    def __call__(self, trace: Trace, losses: Losses) -> Deployable:
        """The policy learned, or tuned, on a trace and its losses.

        Raises InputError where it is of another kind, as a plan would be read back wrongly, or
        where the trace is of a task that it does not fit.
        """
        if not self.fits(trace.task):
            able = ", ".join(name for name, each in FAMILIES.items() if each.any_task)
            raise InputError(
                f"policy '{self.name}' needs scores of classes, of which one is right, and the "
                f"task '{trace.task}' has none; take one of {able}."
            )
        policy = self.fit(trace, losses)
        if policy.kind != self.name:
            raise InputError(
                f"the family '{self.name}' fits a policy of kind '{policy.kind}'; give both the "
                "same name."
            )
        return policy

    def answering(self, trace: Trace, loss: str | None) -> tuple[Deployable, Committees]:
        """The policy as its source has it: learned on stages that answer as it says there.

        Args:
            trace: to learn from.
            loss: see `Trace.losses`.
        """
        losses = trace.losses(loss)
        together = self.answers(trace, losses) if self.answers and self.fits(trace.task) else {}
        spoken = with_committees(trace, together) if together else trace
        return self(spoken, spoken.losses(loss)), together

    def fits(self, task: Task) -> bool:
        """Whether the policy can decide for a task."""
        return self.any_task or task == SINGLE


_registered: dict[str, Family] = {}
FAMILIES: Mapping[str, Family] = MappingProxyType(_registered)
"""Every family that is registered, by the name that the command line and reports use."""


def register(*families: Family) -> None:
    """Makes families known by name.

    Raises:
        InputError: a name that is taken, or is none.
    """
    for each in families:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", each.name) or each.name in _WORDS:
            raise InputError(
                f"a policy cannot be called '{each.name}'; names are letters, digits, _ and -, and "
                f"neither of {', '.join(_WORDS)}."
            )
        family(each)
        _registered[each.name] = each


def family(policy: str | Family) -> Family:
    """The family called `policy`, or `policy` itself where it is one.

    Raises:
        InputError: there is none of that name, or another one has the name.
    """
    if isinstance(policy, Family):
        if _registered.get(policy.name, policy) is not policy:
            raise InputError(f"another policy is called '{policy.name}'; take another name.")
        return policy
    if policy not in FAMILIES:
        raise InputError(f"policy '{policy}' is unknown; the policies are {', '.join(FAMILIES)}.")
    return FAMILIES[policy]


def policy_to_json(policy: Deployable) -> dict[str, Any]:
    """The policy as JSON values."""
    return {
        "kind": policy.kind,
        "graph": policy.graph.to_json(),
        "settings": policy.settings.tolist(),
        **policy.to_json(),
    }


def policy_from_json(value: Mapping[str, Any], classes: int | None = None) -> Deployable:
    """The inverse of `policy_to_json`: of numbers and names only, so that no code is run.

    Args:
        value: of a family that is registered.
        classes: that stages score, where that is known.

    Raises:
        PlanError: the kind is unknown, a stage lacks what it needs, or the value is damaged.
        GraphError: the graph is none.
    """
    try:
        kind, graph = value["kind"], Graph.from_json(value["graph"])
        settings = numbers(value["settings"])
        saved = Saved(kind=kind, graph=graph, settings=settings, values=value, classes=classes)
        saved.check(settings.ndim == 1 and settings.size > 0, "settings")
        if kind not in FAMILIES:
            raise PlanError(
                f"policy kind '{kind}' is unknown. If it is one of your own, import the module "
                "that registers it before reading the plan; else upgrade offramp, or fit again."
            )
        return FAMILIES[kind].read(saved)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as problem:
        raise PlanError(f"the policy is damaged ({problem!r}); fit again.") from None


def arrays_to_json(arrays: Mapping[str, AnyArray]) -> dict[str, Any]:
    """Arrays by stage, as lists."""
    return {stage: array.tolist() for stage, array in arrays.items()}


def cuts_to_json(cuts: FloatArray) -> list[list[float | None]]:
    """(settings, cuts). JSON has no infinity: None stands for a cut that no confidence reaches."""
    return [[float(cut) if np.isfinite(cut) else None for cut in row] for row in cuts]


def _cuts(values: Any) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    return np.where(np.isnan(array), np.inf, array)


def numbers(values: Any) -> FloatArray:
    """An array of finite numbers; here a None stands for nothing. Raises ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError("a number is missing or infinite")
    return array
