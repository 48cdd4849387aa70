"""What a plan says and decides, as ONNX operators: refits, committees, its policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from offramp.answering.committees import SMALLEST
from offramp.core.tasks import Kind
from offramp.export.scope import Scope
from offramp.plan.plan import Plan
from offramp.policies.operators import FLOAT, INT64, Decision, Dial, Get, SeenTensors

Recipe = Callable[[Scope, Get], str]
"""How to make what is recorded, where it is asked for: most examples never come that far."""
Recorded = dict[str, Recipe]  # by key
TAINT = "taint"  # the key of what tells examples that are no numbers, (n, 1): 0, or NaN


def tainted(scope: Scope, x: str) -> str:
    """What is recorded under TAINT for inputs (n, ...): networks may hide a NaN from their scores.

    A rectifier turns NaN into 0 on many engines, after which the scores look as good as any.
    """
    flat = scope.add("Cast", scope.add("Flatten", x), to=FLOAT)
    total = scope.add("ReduceSum", flat, scope.integers(1))
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
    weights, bias = scope.constant(refit.weights), scope.constant(refit.bias)
    if refit.weights.ndim == 2:
        return scope.add("Gemm", logs, weights, bias)
    return scope.add("Add", scope.add("Mul", logs, weights), bias)


def _log_probabilities(scope: Scope, scores: str, kind: Kind, classes: int) -> str:
    """As refits and committees read them, none below SMALLEST, (n, classes)."""
    seen = SeenTensors(
        scope=scope,
        stage="",
        observed=(),
        scores=scores,
        kind=kind,
        classes=classes,
        get=lambda key: key,
    )
    return scope.add("Max", seen.logs, scope.constant(SMALLEST))


def turned(scope: Scope, plan: Plan, tradeoff: str) -> Dial:
    """A dial that an input turns, NaN for the plan's own setting.

    It is kept within what the policy has settings for. Where they cannot be below zero, a tradeoff
    that is must fail: looking it up in a table of one row does.
    """
    settings, one = plan.policy.settings, scope.constant(1.0)
    own = scope.add("IsNaN", tradeoff)
    given = scope.add("Where", own, one, tradeoff)
    if settings.min() >= 0:
        negative = scope.add("Less", given, scope.constant(0.0))
        row = scope.add("Cast", negative, to=INT64)
        valid = scope.name("tradeoff_must_not_be_negative")
        table = scope.constant([1.0])
        scope.call("Gather", [table, row], [valid])
        given = scope.add("Mul", given, valid)
    low, high = (scope.constant(float(end)) for end in (settings.min(), settings.max()))
    inside = scope.add("Min", scope.add("Max", given, low), high)
    setting = scope.add("Where", own, scope.constant(plan.setting), inside)
    log = scope.add("Log", setting)
    columns = [setting, scope.add("Mul", setting, log), one, log]
    shape = scope.integers(1, 1)
    rows = [scope.add("Reshape", column, shape) for column in columns]
    return Dial(plan.setting, setting, scope.add("Concat", *rows, axis=0))


@dataclass(frozen=True)
class Decider:
    """The policy of a plan, its refits and its committees.

    Args:
        plan: whose.
        dial: where a tradeoff is given at run time; None: the plan's own, folded into constants.
        tainted: whether inputs may be NaN, which is then recorded under TAINT.
        wary: of engines on which a comparison with NaN may hold.
    """

    plan: Plan
    dial: Dial | None = None
    tainted: bool = False
    wary: bool = False

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
        of = dict(zip(committee.stages, committee.weights, strict=True))
        weights = scope.constant([[of.get(member, 0.0)] for member in before[stage]])
        logs = self._logs(stage, key, scope, get)
        weighted = scope.add("Mul", logs, weights)
        return scope.add("ReduceSum", weighted, scope.integers(1), keepdims=0), recorded

    def _logs(self, stage: str, key: str, scope: Scope, get: Get) -> str:
        """Log-probabilities of a stage and those before it, (n, stages, classes)."""
        plan = self.plan
        scores = refitted_scores(scope, plan, stage, get(key))
        logs = _log_probabilities(scope, scores, plan.refitted[stage], plan.classes)
        rows = scope.add("Unsqueeze", logs, scope.integers(1))
        observed = plan.running.graph.observed[stage]
        if len(observed) == 1:
            return rows
        return scope.add("Concat", get(f"{observed[-2]}:logs"), rows, axis=1)

    def decide(self, scope: Scope, stage: str, scores: str, get: Get) -> tuple[Decision, Recorded]:
        """Where rows with these answers go, and what later stages can ask of them."""
        policy, dial = self.plan.policy, self.dial or Dial(self.plan.setting)
        taint = get(TAINT) if self.tainted else None
        seen = self._seen(scope, stage, scores, get, taint)
        recorded = {
            f"{stage}:{name}": self._recipe(stage, make, dial)
            for name, make in policy.remembered(stage).items()
        }
        return policy.decision(seen, dial), recorded

    def _recipe(self, stage: str, make: Callable[[SeenTensors, Dial], str], dial: Dial) -> Recipe:
        """How to make what a stage remembers, for those of its rows that are asked about."""
        return lambda scope, get: make(self._seen(scope, stage, get(spoken(stage)), get), dial)

    def _seen(
        self, scope: Scope, stage: str, scores: str, get: Get, taint: str | None = None
    ) -> SeenTensors:
        plan = self.plan
        return SeenTensors(
            scope=scope,
            stage=stage,
            observed=plan.running.graph.observed[stage],
            scores=scores,
            kind=plan.answered[stage],
            classes=plan.classes,
            get=get,
            taint=taint,
            wary=self.wary,
        )
