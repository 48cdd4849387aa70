"""Policies, refits, committees as ONNX operators: what the core computes in numpy, in a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from onnx import TensorProto

from offramp.answering.committees import SMALLEST
from offramp.base.arrays import FloatArray, IntArray
from offramp.core.tasks import FEW_CLASSES, NEAREST, Kind
from offramp.core.tasks import SMALLEST as SMALLEST_PROBABILITY
from offramp.export.scope import Scope
from offramp.plan.plan import Plan
from offramp.policies.features import SURE, Linear
from offramp.policies.gates import Gates
from offramp.policies.learned import Learned, bases
from offramp.policies.regression import Hidden
from offramp.policies.routing import Routing
from offramp.policies.rules import Alike, Threshold
from offramp.policies.statistics import LOWEST
from offramp.policies.thresholds import Thresholds

Get = Callable[[str], str]  # from a key to the tensor that earlier blocks recorded under it
Recipe = Callable[[Scope, Get], str]
"""How to make what is recorded, where it is asked for: most examples never come that far."""
Recorded = dict[str, Recipe]  # by key
TAINT = "taint"  # the key of what tells examples that are no numbers, (n, 1): 0, or NaN
_EARLIER, _DIVERGENCE = 3, 2  # numbers of an earlier stage in these blocks of features
_ROUNDED = 2.0**-54  # 1 minus less than this is 1 in numpy


def tainted(scope: Scope, x: str) -> str:
    """What is recorded under TAINT for inputs (n, ...): networks may hide a NaN from their scores.

    A rectifier turns NaN into 0 on many engines, after which the scores look as good as any.
    """
    flat = scope.add("Cast", scope.add("Flatten", x), to=TensorProto.FLOAT)
    total = scope.add("ReduceSum", flat, scope.integers(1))
    return scope.add("Sub", total, total)


def spoken(stage: str) -> str:
    """The key of what a stage answered in a walk, (n, classes)."""
    return f"{stage}:said"


@dataclass
class Evidence:
    """What a stage said, as tensors of n rows; each is computed once, where it is asked for."""

    scope: Scope
    scores: str  # (n, classes)
    kind: Kind
    classes: int
    stage: str
    get: Get
    taint: str | None = None  # (n, 1), 0 where the inputs are numbers, else NaN

    @cached_property
    def probabilities(self) -> str:
        """(n, classes)."""
        scope = self.scope
        if self.kind != "probabilities":
            return scope.add("Softmax", self.logits, axis=1)
        likely = scope.add("Max", self.scores, scope.constant(SMALLEST_PROBABILITY))
        return scope.add("Div", likely, scope.add("ReduceSum", likely, scope.integers(1)))

    @cached_property
    def logits(self) -> str:
        """`tasks.logits` of scores that are no probabilities, (n, classes)."""
        if self.kind != "sigmoid":
            return self.scores
        scope = self.scope
        left = scope.add("Sub", scope.constant(1.0), self.scores)
        each = ((self.scores, SMALLEST_PROBABILITY), (left, NEAREST))
        logs = [scope.add("Log", scope.add("Max", t, scope.constant(low))) for t, low in each]
        return scope.add("Sub", *logs)

    @cached_property
    def logs(self) -> str:
        """Logarithms of the probabilities, (n, classes)."""
        if self.kind != "probabilities":
            return self.scope.add("LogSoftmax", self.logits, axis=1)
        return self.scope.add("Log", self.probabilities)

    @cached_property
    def two(self) -> list[str]:
        """The two highest probabilities, and their classes, (n, 2) each."""
        two = self.scope.integers(2)
        return self.scope.several(2, "TopK", self.probabilities, two, axis=1)

    @cached_property
    def first(self) -> str:
        """The class answered, (n,)."""
        return _column(self.scope, self.two[1])

    @cached_property
    def member(self) -> str:
        """1 at the class answered, (n, classes)."""
        # a scalar, and the axis said: the reference evaluator of ONNX takes nothing else
        depth, values = self.scope.constant(self.classes, np.int64), self.scope.constant([0, 1])
        return self.scope.add("OneHot", self.first, depth, values, axis=-1)

    @cached_property
    def unsure(self) -> str:
        """1 minus the highest probability, without losing its digits near 0, (n, 1)."""
        others = self.scope.add("Sub", self.scope.constant(1.0), self.member)
        rest = self.scope.add("Mul", self.probabilities, others)
        return self.scope.add("ReduceSum", rest, self.scope.integers(1))

    @cached_property
    def close(self) -> str:
        """1 minus the margin of the two highest probabilities, (n, 1)."""
        return self.scope.add("Add", self.unsure, self.column(self.two[0], 1))

    @cached_property
    def spread(self) -> str:
        """The entropy, the energy, and the logarithm of what other classes get, (n, 3)."""
        scope, one = self.scope, self.scope.integers(1)
        if self.kind != "probabilities":
            # a score minus its log-probability; ReduceLogSumExp fails in branches of OpenVINO
            answer = scope.add("Unsqueeze", self.first, one)
            own = [scope.add("GatherElements", t, answer, axis=1) for t in (self.logits, self.logs)]
            energy = scope.add("Sub", *own)
        else:
            energy = scope.add("Mul", self.entropy, scope.constant(0.0))
        return scope.add("Concat", self.entropy, energy, self.rest, axis=1)

    @cached_property
    def rest(self) -> str:
        """The logarithm of what other classes get, (n, 1)."""
        return self.scope.add("Log", self.scope.add("Max", self.unsure, self.scope.constant(SURE)))

    @cached_property
    def entropy(self) -> str:
        """(n, 1)."""
        return self.scope.add("Neg", self._weighted(self.logs))

    @cached_property
    def sureness(self) -> str:
        """`policies.statistics.sureness`, (n, 5), or with the probabilities of few classes."""
        scope = self.scope
        logs = scope.add("Max", self.logs, scope.constant(LOWEST))
        squared = scope.add("LogSoftmax", scope.add("Add", logs, logs), axis=1)
        columns = [
            scope.add("Sub", scope.constant(1.0), self.unsure),
            scope.add("Sub", scope.constant(1.0), self.close),
            *(self._weighted(found) for found in (logs, squared)),
            scope.add("Neg", self.rest),
            *([self.probabilities] if self.classes <= FEW_CLASSES else []),
        ]
        return scope.add("Concat", *columns, axis=1)

    def _weighted(self, logs: str) -> str:
        """Logarithms of probabilities, each as often as it happens, (n, 1)."""
        # a class that is impossible counts nothing: minus infinity times 0 would be NaN
        finite = self.scope.add("Max", logs, self.scope.constant(LOWEST))
        weighted = self.scope.add("Mul", finite, self.scope.add("Exp", logs))
        return self.scope.add("ReduceSum", weighted, self.scope.integers(1))

    def column(self, tensor: str, number: int) -> str:
        """One column of (n, k), as (n, 1)."""
        return self.scope.add("Gather", tensor, self.scope.integers(number), axis=1)

    def trusted(self, values: str, columns: int) -> str:
        """(n, columns) values, NaN in the rows whose scores or inputs are no numbers."""
        if self.kind != "logits":  # NaN logits are NaN in every probability already
            nothing = self.scope.constant(np.zeros((self.classes, columns)))
            values = self.scope.add("Gemm", self.scores, nothing, values)
        return values if self.taint is None else self.scope.add("Add", values, self.taint)


def refitted_scores(scope: Scope, plan: Plan, stage: str, scores: str) -> str:
    """The scores of a stage by itself, refitted where it is, (n, classes)."""
    if stage not in plan.refits:
        return scores
    refit, kind = plan.refits[stage], plan.kinds[stage]
    logs = Evidence(scope, scores, kind, plan.classes, stage, lambda key: key).logs
    clipped = scope.add("Max", logs, scope.constant(SMALLEST))
    weights, bias = scope.constant(refit.weights), scope.constant(refit.bias)
    if refit.weights.ndim == 2:
        return scope.add("Gemm", clipped, weights, bias)
    return scope.add("Add", scope.add("Mul", clipped, weights), bias)


@dataclass(frozen=True)
class Decision:
    """Where n rows go; comparisons are made so that NaN goes on, as far as possible."""

    onward: str  # (n,) whether each goes on
    action: str | None = None  # (n,) 0 to stop, i for the i-th successor; None: at most one


@dataclass(frozen=True)
class Dial:
    """A tradeoff given at run time, as tensors."""

    setting: str  # scalar
    bases: str  # (4, 1), of `policies.learned.bases`

    @classmethod
    def turned(cls, scope: Scope, plan: Plan, tradeoff: str) -> Dial:
        """From an input, NaN for the plan's own, kept within what the policy has settings for.

        Where settings cannot be below zero, one that is must fail: looking it up in a table of one
        row does.
        """
        settings, one = plan.policy.settings, scope.constant(1.0)
        own = scope.add("IsNaN", tradeoff)
        given = scope.add("Where", own, one, tradeoff)
        if settings.min() >= 0:
            negative = scope.add("Less", given, scope.constant(0.0))
            row = scope.add("Cast", negative, to=TensorProto.INT64)
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
        return cls(setting, scope.add("Concat", *rows, axis=0))


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
        own, kind = refitted_scores(scope, plan, stage, get(key)), plan.refitted[stage]
        said = Evidence(scope, own, kind, plan.classes, stage, get)
        logs = scope.add("Max", said.logs, scope.constant(SMALLEST))
        rows = scope.add("Unsqueeze", logs, scope.integers(1))
        observed = plan.running.graph.observed[stage]
        if len(observed) == 1:
            return rows
        return scope.add("Concat", get(f"{observed[-2]}:logs"), rows, axis=1)

    def decide(self, scope: Scope, stage: str, scores: str, get: Get) -> tuple[Decision, Recorded]:
        """Where rows with these answers go, and what later stages can ask of them."""
        policy = self.plan.running
        kind, taint = self.plan.answered[stage], get(TAINT) if self.tainted else None
        said = Evidence(scope, scores, kind, self.plan.classes, stage, get, taint)
        number = len(policy.graph.successors[stage])
        if isinstance(policy, Learned):
            return self._learned(policy, said, number), self._remembered(policy, stage)
        if isinstance(policy, Threshold):
            return self._threshold(policy, said), {}
        if isinstance(policy, Thresholds):
            return self._thresholds(policy, said, number), {}
        recorded: Recorded = {f"{stage}:answers": partial(self._answers, stage)}
        if isinstance(policy, Gates):
            recorded[f"{stage}:scores"] = partial(self._scores, policy, stage)
            return self._gates(policy, said), {} if policy.kind == "jei-dnn" else recorded
        if isinstance(policy, Routing):
            recorded[f"{stage}:sureness"] = partial(self._sureness, stage)
            return self._routing(policy, said, number), recorded
        assert isinstance(policy, Alike), policy
        return self._alike(policy, said), recorded

    def _learned(self, policy: Learned, said: Evidence, successors: int) -> Decision:
        scope, model = said.scope, policy.models[said.stage]
        # with several successors stopping has a column of its own, of zeros, so that one
        # comparison finds the lowest
        weights = np.concatenate([np.zeros((1, *model.weights.shape[1:])), model.weights])
        weights = weights[1 if successors == 1 else 0 :]  # (columns, 4, 1 + features)
        columns = len(weights)
        if self.dial is None:
            weights = np.einsum("k,ckf->cf", bases(self.plan.setting), weights)
        linear = Linear.fold(model.features, weights.reshape(-1, weights.shape[-1]))
        observed = policy.graph.observed[said.stage]
        value = _linear(said, linear, observed)
        if model.hidden is not None and model.rectified is not None:
            units = scope.add("Relu", _linear(said, model.rectified, observed))
            out = scope.constant(self._outputs(model.hidden, columns))
            value = scope.add("Gemm", units, out, value)
        if self.dial is not None:
            rows = scope.add("Reshape", value, scope.integers(0, columns, 4))
            value = scope.add("MatMul", rows, self.dial.bases)
            value = scope.add("Squeeze", value, scope.integers(2))
        value = said.trusted(value, columns)
        if columns == 1:
            on = self._goes_on(scope, "GreaterOrEqual", value, scope.constant(0.0))
            return Decision(_flat(scope, on))
        return _lowest(scope, value, successors)

    def _outputs(self, hidden: Hidden, columns: int) -> FloatArray:
        """What hidden units add to each column, (units, columns) or with a dial 4 for each."""
        out = hidden.out.reshape(len(hidden.out), -1, 4)
        none = np.zeros((len(out), columns - out.shape[1], 4))
        out = np.concatenate([none, out], axis=1)
        if self.dial is None:
            return np.asarray(out @ bases(self.plan.setting))
        return out.reshape(len(out), -1)

    def _remembered(self, policy: Learned, stage: str) -> Recorded:
        """What later stages ask for when they look back at this one."""
        observed = policy.graph.observed
        if not any(
            stage in observed[other][:-1] and {"earlier", "divergence"} & {*model.features.blocks}
            for other, model in policy.models.items()
        ):
            return {}
        return {
            f"{stage}:seen": partial(self._seen, stage),
            f"{stage}:margins": partial(self._margins, stage),
        }

    def _back(self, stage: str, scope: Scope, get: Get) -> Evidence:
        """What a stage said, for those of its rows that are now in `scope`."""
        plan = self.plan
        return Evidence(scope, get(spoken(stage)), plan.answered[stage], plan.classes, stage, get)

    def _after(self, stage: str, what: str, get: Get) -> str | None:
        """What the stages before one have recorded; None where it is the first."""
        observed = self.plan.running.graph.observed[stage]
        return get(f"{observed[-2]}:{what}") if len(observed) > 1 else None

    def _seen(self, stage: str, scope: Scope, get: Get) -> str:
        """Per stage so far two rows, its probabilities and its answer, (n, 2 * stages, classes)."""
        said, before = self._back(stage, scope, get), self._after(stage, "seen", get)
        both = (said.probabilities, said.member)
        rows = [scope.add("Unsqueeze", part, scope.integers(1)) for part in both]
        return scope.add("Concat", *filter(None, [before]), *rows, axis=1)

    def _margins(self, stage: str, scope: Scope, get: Get) -> str:
        """The margin of each stage so far, (n, stages)."""
        said, before = self._back(stage, scope, get), self._after(stage, "margins", get)
        margin = scope.add("MatMul", said.two[0], scope.constant([[1.0], [-1.0]]))
        return margin if before is None else scope.add("Concat", before, margin, axis=1)

    def _answers(self, stage: str, scope: Scope, get: Get) -> str:
        """The answer of each stage so far, (n, stages)."""
        said, before = self._back(stage, scope, get), self._after(stage, "answers", get)
        first = scope.add("Unsqueeze", said.first, scope.integers(1))
        return first if before is None else scope.add("Concat", before, first, axis=1)

    def _threshold(self, policy: Threshold, said: Evidence) -> Decision:
        """Sureness is compared as 1 minus itself, which keeps its digits near 1."""
        scope = said.scope
        if policy.kind == "entropy":
            value = said.entropy
            limit = self._setting(scope, lambda t: -t, lambda t: scope.add("Neg", t))
        else:
            value = said.unsure if policy.kind == "myopic" else said.close
            limit = self._setting(scope, lambda t: 1.0 - t, lambda t: self._less(scope, t))
        on = self._goes_on(scope, "LessOrEqual", said.trusted(value, 1), limit)
        return Decision(_flat(scope, on))

    def _thresholds(self, policy: Thresholds, said: Evidence, successors: int) -> Decision:
        scope, cuts = said.scope, 1.0 - policy.cuts[said.stage]
        cuts = np.where(cuts == 0, _ROUNDED, cuts)
        limits = self._row(scope, policy.settings, cuts)
        unsure = said.trusted(said.unsure, 1)
        below = self._goes_on(scope, "LessOrEqual", unsure, limits)
        if cuts.shape[1] == 1:
            return Decision(_flat(scope, below))
        bands = scope.add("Cast", below, to=TensorProto.INT64)
        action = scope.add("ReduceSum", bands, scope.integers(1), keepdims=0)
        if cuts.shape[1] > successors:  # below the last band the hopeless stop, what is NaN goes on
            last = scope.constant(successors, np.int64)
            stopping = scope.add("Mod", action, scope.constant(successors + 1, np.int64))
            broken = _flat(scope, scope.add("IsNaN", unsure))
            action = scope.add("Where", broken, last, stopping)
        return Decision(scope.add("Greater", action, scope.constant(0, np.int64)), action)

    def _gates(self, policy: Gates, said: Evidence) -> Decision:
        scope = said.scope
        value = said.trusted(self._score(policy, said), 1)
        limit = self._row(scope, policy.settings, policy.cuts[said.stage][:, None])
        return Decision(_flat(scope, self._goes_on(scope, "GreaterOrEqual", value, limit)))

    def _score(self, policy: Gates, said: Evidence) -> str:
        """The score of the gate of a stage, (n, 1)."""
        scope, weights = said.scope, policy.weights[said.stage]
        looks, observed = [said.sureness], policy.graph.observed[said.stage]
        if policy.kind == "jei-dnn":  # looks at no probabilities of classes
            rest = said.classes if said.classes <= FEW_CLASSES else 0
            weights = np.pad(weights, ((0, 0), (0, rest)))
        elif len(observed) == 1:  # the only vote is its own
            weights = np.concatenate([weights[:, :1] + weights[:, -1:], weights[:, 1:-1]], axis=1)
        else:
            alike = scope.add("ReduceSum", self._same(said), scope.integers(1))
            votes = scope.add("Add", alike, scope.constant(1.0))
            looks.append(scope.add("Div", votes, scope.constant(float(len(observed)))))
            looks.append(said.get(f"{observed[-2]}:scores"))
        slopes = self._row(scope, policy.settings, weights[:, 1:, None])
        constant = self._row(scope, policy.settings, weights[:, :1])
        found = looks[0] if len(looks) == 1 else scope.add("Concat", *looks, axis=1)
        return scope.add("Add", scope.add("MatMul", found, slopes), constant)

    def _routing(self, policy: Routing, said: Evidence, successors: int) -> Decision:
        scope, stage = said.scope, said.stage
        observed, weights = policy.graph.observed[stage], policy.weights[stage]
        looks = said.sureness
        if len(observed) > 1:
            earlier = said.get(f"{observed[-2]}:sureness")
            looks = scope.add("Concat", earlier, looks, self._same(said), axis=1)
        linear = scope.constant(weights[:, 1:].T), scope.constant(weights[:, 0])
        lost = scope.add("Sigmoid", scope.add("Gemm", looks, *linear))
        tradeoff = self._setting(scope, lambda t: self._inside(policy, t), lambda t: t)
        worth = scope.add("Mul", said.trusted(lost, len(weights)), tradeoff)
        value = scope.add("Add", worth, scope.constant(policy.costs[stage]))
        return _lowest(scope, value, successors, policy.actions[stage])

    @staticmethod
    def _inside(policy: Routing, tradeoff: float) -> float:
        return float(min(max(tradeoff, policy.settings[-1]), policy.settings[0]))

    def _scores(self, policy: Gates, stage: str, scope: Scope, get: Get) -> str:
        """The score of the gate of each stage so far, (n, stages)."""
        score = self._score(policy, self._back(stage, scope, get))
        before = self._after(stage, "scores", get)
        return score if before is None else scope.add("Concat", before, score, axis=1)

    def _sureness(self, stage: str, scope: Scope, get: Get) -> str:
        """The sureness of each stage so far, (n, stages * columns)."""
        said, before = self._back(stage, scope, get), self._after(stage, "sureness", get)
        own = said.sureness
        return own if before is None else scope.add("Concat", before, own, axis=1)

    def _row(self, scope: Scope, settings: FloatArray, table: FloatArray) -> str:
        """The row of a table (settings, ...), or of one row for all, that the dial asks for."""
        if self.dial is None or len(table) == 1:
            at = int(np.abs(settings - self.plan.setting).argmin())
            return scope.constant(table[min(at, len(table) - 1)])
        away = scope.add("Sub", scope.constant(settings), self.dial.setting)
        nearest = scope.add("ArgMin", scope.add("Abs", away), axis=0, keepdims=0)
        return scope.add("Gather", scope.constant(table), nearest, axis=0)

    def _same(self, said: Evidence) -> str:
        """1 for each earlier stage that answered alike, else 0, (n, stages - 1)."""
        scope, observed = said.scope, self.plan.running.graph.observed[said.stage]
        own = scope.add("Unsqueeze", said.first, scope.integers(1))
        alike = scope.add("Equal", said.get(f"{observed[-2]}:answers"), own)
        return scope.add("Cast", alike, to=TensorProto.FLOAT)

    def _alike(self, policy: Alike, said: Evidence) -> Decision:
        """How many answers agree, counted back from this one."""
        scope, observed = said.scope, policy.graph.observed[said.stage]
        streak = scope.constant([[1.0]])
        if len(observed) > 1:
            same, together = self._same(said), None
            for back in reversed(range(len(observed) - 1)):
                column = said.column(same, back)
                together = column if together is None else scope.add("Mul", together, column)
                streak = scope.add("Add", streak, together)
        if policy.kind == "agreement":
            all_ = scope.constant(float(len(observed)))
            zero = scope.constant([[0.0]])
            streak = scope.add("Where", scope.add("Equal", streak, all_), streak, zero)
        limit = self._setting(scope, lambda t: t, lambda t: t)
        on = self._goes_on(scope, "GreaterOrEqual", said.trusted(streak, 1), limit)
        return Decision(_flat(scope, on))

    def _goes_on(self, scope: Scope, stops: str, value: str, limit: str) -> str:
        """Where a comparison does not hold, NaN included."""
        on = scope.add("Not", scope.add(stops, value, limit))
        return scope.add("Or", on, scope.add("IsNaN", value)) if self.wary else on

    def _setting(
        self, scope: Scope, fixed: Callable[[float], float], turned: Callable[[str], str]
    ) -> str:
        if self.dial is None:
            return scope.constant(fixed(self.plan.setting))
        return turned(self.dial.setting)

    @staticmethod
    def _less(scope: Scope, tensor: str) -> str:
        return scope.add("Sub", scope.constant(1.0), tensor)


def _flat(scope: Scope, column: str) -> str:
    return scope.add("Squeeze", column, scope.integers(1))


def _lowest(
    scope: Scope, values: str, successors: int, actions: IntArray | None = None
) -> Decision:
    """The action with the lowest value, the first of several; the last where there is NaN.

    `actions` says which action each column of the values stands for, if not its own number.
    """
    best = scope.add("ArgMin", values, axis=1, keepdims=0)
    if actions is not None:
        best = scope.add("Gather", scope.integers(*actions), best)
    total = scope.add("ReduceSum", values, scope.integers(1), keepdims=0)
    last = scope.constant(successors, np.int64)
    action = scope.add("Where", scope.add("IsNaN", total), last, best)
    return Decision(scope.add("Greater", action, scope.constant(0, np.int64)), action)


def _linear(said: Evidence, linear: Linear, observed: tuple[str, ...]) -> str:
    """A `Linear` of the features of these rows, (n, outputs)."""
    scope, columns = said.scope, linear.curve.shape[1]
    # columns of `bent`: 1, 1 minus the margin, and the margin above each knot
    bends = len(linear.knots)
    slopes = np.array([[0, -1, *[1] * bends], [0, 1, *[-1] * bends]])
    shift = np.array([1, 1, *-linear.knots])
    pieces = scope.add("Gemm", said.two[0], scope.constant(slopes), scope.constant(shift))
    bent = scope.add("Relu", pieces)
    if linear.answered is None and linear.second is None:
        weights = np.vstack([linear.constant, np.zeros(columns), linear.curve])
        value = scope.add("MatMul", bent, scope.constant(weights))
    else:
        table = _table(linear, said.classes)  # (classes, classes, columns, 2 + bends)
        if columns == 1:
            table = table[:, :, 0]
        else:
            bent = scope.add("Unsqueeze", bent, scope.integers(1))
        weighted = scope.add("GatherND", scope.constant(table), said.two[1])
        product = scope.add("Mul", weighted, bent)
        value = scope.add("ReduceSum", product, scope.integers(-1), keepdims=int(columns == 1))
    if linear.spread is not None:
        value = scope.add("Gemm", said.spread, scope.constant(linear.spread), value)
    if linear.earlier is not None:
        value = _looks_back(said, linear.earlier, observed[-2], value)
    if linear.divergence is not None:
        # per earlier stage: what its answer is given now, and the chance that draws agree
        now, together = (linear.divergence[i::_DIVERGENCE] for i in range(_DIVERGENCE))
        asked = scope.add("Unsqueeze", said.probabilities, scope.integers(2))
        value = _asked(said, asked, np.stack([together, now], axis=1), observed[-2], value)
    return value


def _looks_back(said: Evidence, slopes: FloatArray, before: str, value: str) -> str:
    """Adds what the block `earlier` says."""
    scope = said.scope
    # per earlier stage: whether it answered alike, its margin, what it gave to the answer
    alike, margins, given = (slopes[i::_EARLIER] for i in range(_EARLIER))
    asked = scope.add("Unsqueeze", said.member, scope.integers(2))
    value = _asked(said, asked, np.stack([given, alike], axis=1), before, value)
    return scope.add("Gemm", said.get(f"{before}:margins"), scope.constant(margins), value)


def _asked(said: Evidence, asked: str, slopes: FloatArray, before: str, value: str) -> str:
    """Adds products of (n, classes, 1) with every earlier stage's probabilities and answer.

    Slopes: (earlier stages, 2, columns), of the product with probabilities, then with the answer.
    """
    scope = said.scope
    found = scope.add("MatMul", said.get(f"{before}:seen"), asked)
    both = scope.add("Squeeze", found, scope.integers(2))
    return scope.add("Gemm", both, scope.constant(slopes.reshape(-1, slopes.shape[-1])), value)


def _table(linear: Linear, classes: int) -> FloatArray:
    """The coefficients for each answer and second answer, (classes, classes, columns, pieces)."""
    columns = linear.curve.shape[1]
    answered = np.zeros((classes, 2, columns)) if linear.answered is None else linear.answered
    second = np.zeros((classes, columns)) if linear.second is None else linear.second
    table = np.empty((classes, classes, columns, 2 + len(linear.knots)))
    table[..., 0] = (answered[:, 0] + linear.constant)[:, None]
    table[..., 1] = answered[:, None, 1] + second[None]
    table[..., 2:] = linear.curve.T
    return table


def _column(scope: Scope, tensor: str) -> str:
    """The first column of (n, k), (n,)."""
    return scope.add("Gather", tensor, scope.constant(0, np.int64), axis=1)
