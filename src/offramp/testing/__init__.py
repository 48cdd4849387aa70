"""Laws that any engine, policy or task must pass, stages in memory, and traces made up.

To test an engine or a policy of your own, inherit its laws and give the fixtures they ask for:

    class TestMine(EngineLaws):
        @pytest.fixture
        def engine(self) -> Engine: ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from offramp._version import __version__
from offramp.base.arrays import AnyArray, FloatArray
from offramp.base.errors import NetworkError, PlanError
from offramp.core.frontier import replay
from offramp.core.graph import BATCH, Costs, Graph
from offramp.core.trace import Trace, assemble
from offramp.plan.plan import Plan
from offramp.runtime.driver import Driver, infer
from offramp.runtime.engine import Engine, Fields, Program, Value
from offramp.runtime.format import Answers
from offramp.runtime.stages import Stages
from offramp.testing.closeness import MOST_CLOSE, close, seen_at
from offramp.testing.engines import EngineLaws
from offramp.testing.policies import PolicyLaws
from offramp.testing.tasks import TaskLaws

__all__ = [
    "DriverLaws",
    "EngineLaws",
    "MemoryRuntime",
    "PolicyLaws",
    "RuntimeLaws",
    "TaskLaws",
    "check_replay",
    "close",
    "has_dial",
    "seen_at",
    "synthetic",
]


def _remembered(scores: FloatArray, threads: int) -> Program:
    def run(fields: Fields, wanted: Sequence[str]) -> dict[str, AnyArray]:
        return {"scores": scores[fields["x"][:, 0].astype(np.int64)]}

    return Program({"x": Value(None, (BATCH, 1))}, {"scores": Value()}, run)


MEMORY = Engine("memory", __version__, _remembered, files=False)
"""Opens recorded scores, (examples, classes): an input is the number of an example, (n, 1)."""


class MemoryRuntime(Stages):
    """Stages that answer from recorded scores, by stage: an input is the number of an example."""

    def __init__(self, scores: Mapping[str, FloatArray]) -> None:
        super().__init__(scores, engine=MEMORY)

    @classmethod
    def of(cls, trace: Trace) -> MemoryRuntime:
        return cls(trace.scores)


def synthetic(
    examples: int,
    stages: Sequence[str] = ("small", "medium", "large"),
    *,
    edges: str | None = None,
    classes: int = 10,
    seed: int = 0,
    labelled: bool = True,
) -> Trace:
    """A made-up trace: later stages cost three times as much and see with less noise.

    Examples differ in difficulty, and stages err together on the hard ones, as networks do.
    """
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, examples)
    difficulty = random.gamma(1.0, 1.0, (examples, 1))
    shared = random.normal(size=(examples, classes))
    scores = {}
    for depth, stage in enumerate(stages):
        own = random.normal(size=(examples, classes))
        noise = difficulty * (shared + own * 1.5 / (1 + depth))
        scores[stage] = (4.0 * (labels[:, None] == np.arange(classes)) + noise).astype(np.float32)
    costs = Costs(
        {s: 3.0**depth for depth, s in enumerate(stages)}, dict.fromkeys(stages, 0.0), "MFLOP"
    )
    graph = Graph.build(stages, edges)
    return assemble(graph, costs, scores, labels=labels if labelled else None, kind="logits")


class RuntimeLaws:
    """What stages on any engine must do. Fixtures: `runtime`, its `plan`, and `x` (n, ...), n >= 8.

    `EngineLaws` hold them for an engine of your own, on networks of their making.
    """

    tolerance: float = 1e-4  # of scores, between batches of different sizes

    def test_scores_have_one_finite_row_per_input(
        self, runtime: Stages, plan: Plan, x: AnyArray
    ) -> None:
        for stage in plan.graph.order:
            scores = runtime.run(stage, x)
            assert scores.shape == (len(x), plan.classes)
            assert np.isfinite(scores).all()

    def test_a_row_does_not_depend_on_its_batch(
        self, runtime: Stages, plan: Plan, x: AnyArray
    ) -> None:
        some = np.array([5, 0, 3])
        for stage in plan.graph.order:
            whole = runtime.run(stage, x)
            np.testing.assert_allclose(
                runtime.run(stage, x[some]), whole[some], atol=self.tolerance
            )
            np.testing.assert_allclose(runtime.run(stage, x[2:3]), whole[2:3], atol=self.tolerance)

    def test_live_is_replay(self, runtime: Stages, plan: Plan, x: AnyArray) -> None:
        check_replay(infer(plan, runtime, x), runtime, plan, x, self.tolerance)

    def test_batch_order_changes_nothing(self, runtime: Stages, plan: Plan, x: AnyArray) -> None:
        order = np.random.default_rng(0).permutation(len(x))
        one, other = infer(plan, runtime, x), infer(plan, runtime, x[order])
        assert (one.stage[order] == other.stage).all()
        np.testing.assert_allclose(one.scores[order], other.scores, atol=self.tolerance)

    def test_batch_size_changes_nothing(self, runtime: Stages, plan: Plan, x: AnyArray) -> None:
        whole = infer(plan, runtime, x)
        parts = [infer(plan, runtime, x[i : i + 3]) for i in range(0, len(x), 3)]
        assert (whole.stage == np.concatenate([part.stage for part in parts])).all()
        scores = np.concatenate([part.scores for part in parts])
        np.testing.assert_allclose(whole.scores, scores, atol=self.tolerance)

    def test_zero_rows_give_zero_answers(self, runtime: Stages, plan: Plan, x: AnyArray) -> None:
        found = infer(plan, runtime, x[:0])
        assert len(found.answer) == len(found.stage) == len(found.cost) == 0
        assert found.scores.shape == (0, plan.classes)

    def test_inputs_of_another_shape_are_refused(
        self, runtime: Stages, plan: Plan, x: AnyArray
    ) -> None:
        wrong = np.zeros((2, *x.shape[1:], 3), dtype=x.dtype)
        try:
            runtime.run(plan.graph.root, wrong)
        except NetworkError:
            return
        raise AssertionError("inputs of another shape must raise NetworkError")


class DriverLaws:
    """What every driver of a plan must do, one file or many, on whatever engine.

    Fixtures: `driver`, the `plan` that it drives, a `runtime` that says what each stage alone says,
    and floating-point inputs `x` (n, ...), n >= 8.
    """

    tolerance: float = 1e-4  # of scores, between engines and batches of different sizes

    def test_live_is_replay(self, driver: Driver, runtime: Stages, plan: Plan, x: AnyArray) -> None:
        self._check(driver(x), runtime, plan, x)

    def test_the_dial_turns_as_in_replay(
        self, driver: Driver, runtime: Stages, plan: Plan, x: AnyArray
    ) -> None:
        self._check(driver(x, float("nan")), runtime, plan, x)
        settings = plan.policy.settings
        dial = has_dial(driver, x, float(settings[0]))
        for tradeoff in map(float, settings[:: max(1, len(settings) // 4)]):
            assert has_dial(driver, x, tradeoff) == dial, "every tradeoff is refused, or none"
            if dial:
                self._check(driver(x, tradeoff), runtime, plan.turned(tradeoff), x)

    def _check(self, found: Answers, runtime: Stages, plan: Plan, x: AnyArray) -> None:
        check_replay(found, runtime, plan, x, self.tolerance)

    def test_batch_order_changes_nothing(self, driver: Driver, x: AnyArray) -> None:
        order = np.random.default_rng(0).permutation(len(x))
        one, other = driver(x), driver(x[order])
        assert (one.stage[order] == other.stage).all()
        np.testing.assert_allclose(one.scores[order], other.scores, atol=self.tolerance)

    def test_batch_size_changes_nothing(self, driver: Driver, x: AnyArray) -> None:
        whole = driver(x)
        for size in (1, 3, 8):
            parts = [driver(x[i : i + size]) for i in range(0, min(48, len(x)), size)]
            stages = np.concatenate([part.stage for part in parts])
            assert (whole.stage[: len(stages)] == stages).all()
            scores = np.concatenate([part.scores for part in parts])
            np.testing.assert_allclose(whole.scores[: len(scores)], scores, atol=self.tolerance)

    def test_zero_rows_give_zero_answers(self, driver: Driver, plan: Plan, x: AnyArray) -> None:
        found = driver(x[:0])
        assert len(found.answer) == len(found.stage) == len(found.cost) == 0
        assert found.scores.shape == (0, plan.classes)

    def test_what_is_no_number_never_leaves_early(
        self, driver: Driver, plan: Plan, x: AnyArray
    ) -> None:
        ends = [s for s, after in plan.running.graph.successors.items() if not after]
        for worst in (np.nan, np.inf):
            broken = x.copy()
            broken.reshape(len(x), -1)[::3, 0] = worst
            found, fine = driver(broken), driver(x)
            assert set(found.stage[::3]) <= set(ends)
            others = np.arange(len(x)) % 3 > 0
            assert (found.stage[others] == fine.stage[others]).all()
            assert (found.answer[others] == fine.answer[others]).all()

    def test_inputs_that_the_networks_do_not_read_are_refused(
        self, driver: Driver, x: AnyArray
    ) -> None:
        for wrong in (x[..., None], x[..., :1], x.astype(complex)):
            try:
                driver(wrong)
            except NetworkError:
                continue
            raise AssertionError("inputs of another shape or type must raise NetworkError")

    def test_a_tradeoff_below_zero_is_refused(
        self, driver: Driver, plan: Plan, x: AnyArray
    ) -> None:
        """Where the dial has no such settings; where it has, it is taken as any other."""
        try:
            driver(x, -1.0)
        except PlanError:
            dial = has_dial(driver, x, float(plan.policy.settings[0]))
            assert plan.policy.settings.min() >= 0 or not dial
        else:
            assert plan.policy.settings.min() < 0, "a tradeoff below zero must raise PlanError"


def has_dial(driver: Driver, x: AnyArray, tradeoff: float) -> bool:
    """Whether it takes a tradeoff; some were exported at one."""
    try:
        driver(x, tradeoff)
    except PlanError as refused:
        if "--dial" not in str(refused):
            raise
        return False
    return True


def check_replay(
    found: Answers, runtime: Stages, plan: Plan, x: AnyArray, tolerance: float
) -> None:
    """Raises AssertionError where answers are not those of the recorded stages and the walk.

    Args:
        found: what was answered.
        runtime: what each stage says alone.
        plan: what decides.
        x: the inputs, (n, ...).
        tolerance: of scores. Of rows that a little change would send elsewhere, at most a half
            of all, cost and scores alone are left open.
    """
    scores = {stage: runtime.run(stage, x) for stage in plan.graph.order}
    trace = plan.answering(
        Trace(graph=plan.graph, costs=plan.costs, scores=scores, kinds=plan.kinds)
    )
    outcome = replay(trace, plan.running, plan.setting)
    same, near = found.stage == np.array(outcome.order)[outcome.stage], close(plan, trace)
    assert near.mean() <= MOST_CLOSE, "so many decisions are close that little is compared"
    assert (same | near).all()
    np.testing.assert_allclose(found.cost[same], outcome.cost[same], rtol=1e-5)
    assert (found.answer == found.scores.argmax(axis=1)).all()
    for row in np.flatnonzero(same):
        expected = trace.scores[found.stage[row]][row]
        np.testing.assert_allclose(found.scores[row], expected, atol=tolerance)
