"""What a plan says and decides, as ONNX operators: refits, committees, its policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx
from onnx import helper

from offramp.answering.committees import SMALLEST
from offramp.base.arrays import FloatArray
from offramp.core.graph import BATCH
from offramp.core.task import SINGLE, Task
from offramp.core.tasks import Kind
from offramp.export.scope import OLDEST_OPSET, Scope, value
from offramp.plan.plan import Plan
from offramp.policies import Deployable
from offramp.policies.operators import FLOAT, INT64, Decision, Dial, Get, SeenTensors
from offramp.runtime.format import TRADEOFF

Recipe = Callable[[Scope, Get], str]
"""How to make what is recorded, where it is asked for: most examples never come that far."""
Recorded = dict[str, Recipe]  # by key
ACTION = "action"  # what a decision that stands alone gives
TAINT = "taint"  # the key of what tells examples that are no numbers, (n,): 0, or NaN


def tainted(scope: Scope, inputs: Mapping[str, int]) -> str:
    """What is recorded under TAINT for inputs (n, ...), by name the number of their axes.

    Networks may hide a NaN from their scores.
    A rectifier turns NaN into 0 on many engines, after which the scores look as good as any.
    """
    totals = []
    for x, axes in inputs.items():
        if axes > 1:
            x = scope.add("ReduceSum", x, scope.integers(*range(1, axes)), keepdims=0)
        totals.append(x)
    total = totals[0] if len(totals) == 1 else scope.add("Sum", *totals)
    return scope.add("Sub", total, total)


def spoken(stage: str) -> str:
    """The key of what a stage answered in a walk, (n, classes)."""
    return f"{stage}:said"


def refitted_scores(scope: Scope, plan: Plan, stage: str, scores: str) -> str:
    """The scores of a stage by itself, refitted where it is, (n, classes)."""
    if stage not in plan.refits:
        return scores
    refit = plan.refits[stage]
    logs = _log_probabilities(scope, scores, plan.kinds[stage], plan.classes)
    logs = scope.add("Max", logs, scope.constant(SMALLEST))
    weights, bias = scope.constant(refit.weights), scope.constant(refit.bias)
    if refit.weights.ndim == 2:
        return scope.add("Gemm", logs, weights, bias)
    return scope.add("Add", scope.add("Mul", logs, weights), bias)


def chosen(scope: Scope, stops: str, stay: int, go: int) -> str:
    """A number (n,) for the rows that stop, and another for those that go on."""
    both = (scope.constant(number, np.int64) for number in (stay, go))
    return scope.add("Where", stops, *both)


def _log_probabilities(scope: Scope, scores: str, kind: Kind, classes: int) -> str:
    """As refits and committees read them, (n, classes)."""
    seen = SeenTensors(
        scope=scope,
        stage="",
        observed=(),
        scores=scores,
        kind=kind,
        classes=classes,
        get=lambda key: key,
    )
    return seen.logs


def turned(scope: Scope, settings: FloatArray, default: float, tradeoff: str) -> Dial:
    """A dial that an input turns, NaN for the default setting.

    It is kept within what the policy has settings for. Where they cannot be below zero, a tradeoff
    that is must fail: looking it up in a table of one row does.
    """
    one, absent = scope.constant(1.0), scope.add("IsNaN", tradeoff)
    given = scope.add("Where", absent, one, tradeoff)
    if settings.min() >= 0:
        negative = scope.add("Less", given, scope.constant(0.0))
        row = scope.add("Cast", negative, to=INT64)
        valid = scope.name("tradeoff_must_not_be_negative")
        table = scope.constant([1.0])
        scope.call("Gather", [table, row], [valid])
        given = scope.add("Mul", given, valid)
    low, high = (scope.constant(float(end)) for end in (settings.min(), settings.max()))
    inside = scope.add("Min", scope.add("Max", given, low), high)
    setting = scope.add("Where", absent, scope.constant(default), inside)
    log = scope.add("Log", setting)
    columns = [setting, scope.add("Mul", setting, log), one, log]
    rows = [scope.add("Reshape", column, scope.integers(1)) for column in columns]
    return Dial(default, setting, scope.add("Concat", *rows, axis=0))


@dataclass(frozen=True, kw_only=True)
class Decisions:
    """What a policy decides of scores, as stages answer."""

    policy: Deployable
    dial: Dial
    kinds: Mapping[str, Kind]  # of the scores of each stage
    classes: int
    task: Task = SINGLE  # what scores mean

    def decide(
        self, scope: Scope, stage: str, scores: str, get: Get, taint: str | None = None
    ) -> Decision:
        """Where rows with these scores (n, classes) at a stage go."""
        return self.policy.decision(self._seen(scope, stage, scores, get, taint), self.dial)

    def recorded(self, stage: str) -> Recorded:
        """What later stages can ask of a stage, made of its scores where it is asked for."""
        remembered = self.policy.remembered(stage)
        return {f"{stage}:{name}": self._recipe(stage, make) for name, make in remembered.items()}

    def _recipe(self, stage: str, make: Callable[[SeenTensors, Dial], str]) -> Recipe:
        return lambda scope, get: make(self._seen(scope, stage, get(spoken(stage)), get), self.dial)

    def _seen(
        self, scope: Scope, stage: str, scores: str, get: Get, taint: str | None = None
    ) -> SeenTensors:
        return SeenTensors(
            scope=scope,
            stage=stage,
            observed=self.policy.graph.observed[stage],
            scores=scores,
            kind=self.kinds[stage],
            classes=self.classes,
            get=get,
            taint=taint,
            task=self.task,
        )

    @classmethod
    def alone(
        cls,
        policy: Deployable,
        stage: str,
        kinds: Mapping[str, Kind],
        classes: int,
        setting: float,
        *,
        dial: bool = False,
        task: Task = SINGLE,
    ) -> onnx.ModelProto:
        """The decision at one stage and nothing else.

        It reads the scores (batch, classes) of every stage that the walk has seen, under their
        names, and with a dial a scalar `tradeoff`; it gives an `action` (batch,) of int64.
        """
        scope, observed = Scope(), policy.graph.observed[stage]
        turns = turned(scope, policy.settings, setting, TRADEOFF) if dial else Dial(setting)
        here = cls(policy=policy, dial=turns, kinds=kinds, classes=classes, task=task)
        known = {spoken(each): each for each in observed}
        recipes = {key: make for each in observed for key, make in here.recorded(each).items()}

        def get(key: str) -> str:
            if key not in known:
                known[key] = recipes[key](scope, get)
            return known[key]

        decision = here.decide(scope, stage, stage, get)
        action = decision.action or chosen(scope, decision.stops, 0, 1)
        scope.give(action, ACTION)
        inputs = [value(each, FLOAT, [BATCH, classes]) for each in observed]
        inputs += [value(TRADEOFF, FLOAT, [])] if dial else []
        outputs = [value(ACTION, INT64, [BATCH])]
        graph = helper.make_graph(scope.finished(), stage, inputs, outputs, scope.constants)
        opsets = [helper.make_opsetid("", OLDEST_OPSET)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)


@dataclass(frozen=True)
class Decider:
    """The policy of a plan, its refits and its committees.

    Args:
        plan: whose.
        dial: where a tradeoff is given at run time; None: the plan's own, folded into constants.
        tainted: whether inputs may be NaN, which is then recorded under TAINT.
    """

    plan: Plan
    dial: Dial | None = None
    tainted: bool = False

    def speak(self, scope: Scope, stage: str, key: str, get: Get) -> tuple[str, Recorded]:
        """What a stage answers, (n, classes), from its own scores under `key`."""
        plan = self.plan
        before = plan.running.graph.observed
        recorded: Recorded = {}
        if any(stage in before[other] for other in plan.speaking if other in before):
            recorded[f"{stage}:logs"] = partial(self._logs, stage, key)
        if stage not in plan.speaking:
            return refitted_scores(scope, plan, stage, get(key)), recorded
        committee = plan.speaking[stage]
        weighted = []
        for member, weight in zip(committee.stages, committee.weights, strict=True):
            own = member == stage
            logs = self._logs(stage, key, scope, get) if own else get(f"{member}:logs")
            heard = scope.add("Max", logs, scope.constant(SMALLEST))
            weighted.append(scope.add("Mul", heard, scope.constant(weight)))
        if committee.biases:
            weighted.append(scope.constant([committee.biases]))
        return scope.add("Sum", *weighted), recorded

    def _logs(self, stage: str, key: str, scope: Scope, get: Get) -> str:
        """Log-probabilities of a stage by itself, (n, classes)."""
        plan = self.plan
        scores = refitted_scores(scope, plan, stage, get(key))
        return _log_probabilities(scope, scores, plan.refitted[stage], plan.classes)

    def decide(self, scope: Scope, stage: str, scores: str, get: Get) -> tuple[Decision, Recorded]:
        """Where rows with these answers go, and what later stages can ask of them."""
        taint = get(TAINT) if self.tainted else None
        decisions = self._decisions
        return decisions.decide(scope, stage, scores, get, taint), decisions.recorded(stage)

    @property
    def _decisions(self) -> Decisions:
        plan = self.plan
        return Decisions(
            policy=plan.policy,
            dial=self.dial or Dial(plan.setting),
            kinds=plan.answered,
            classes=plan.classes,
            task=plan.task,
        )
