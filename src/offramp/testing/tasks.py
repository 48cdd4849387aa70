"""Laws that every task must pass: what it says of a row, of losses, and the same in ONNX."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

from offramp.base.arrays import AnyArray, FloatArray
from offramp.core.task import Task, TaskForm, task_named
from offramp.core.tasks import Kind
from offramp.export.scope import OLDEST_OPSET, Scope, value

_NEAR = 1e-5  # how far float32 may lie from float64


class TaskLaws:
    """What every task must do.

    Fixtures: `task`, which is registered; `outputs` (n, width) of several kinds of rows; `kind`,
    what they are; and `labels` of the same rows.
    """

    def test_its_name_stands_for_it(self, task: Task) -> None:
        assert task_named(str(task)) == task

    def test_what_is_said_of_a_row_does_not_depend_on_the_others(
        self, task: Task, outputs: FloatArray, kind: Kind
    ) -> None:
        some = np.arange(1, len(outputs), 3)
        for say in (task.answers, task.sure, task.observations):
            whole, part = say(outputs, kind), say(outputs[some], kind)
            np.testing.assert_allclose(part, whole[some], atol=1e-9)

    def test_sureness_lies_between_0_and_1(
        self, task: Task, outputs: FloatArray, kind: Kind
    ) -> None:
        sure = task.sure(outputs, kind)
        assert sure.shape == (len(outputs),)
        assert ((sure >= 0) & (sure <= 1)).all()

    def test_observations_are_columns_of_finite_numbers(
        self, task: Task, outputs: FloatArray, kind: Kind
    ) -> None:
        observed = task.observations(outputs, kind)
        assert observed.ndim == 2
        assert len(observed) == len(outputs)
        assert np.isfinite(observed).all()

    def test_answers_agree_with_themselves_and_either_way(
        self, task: Task, outputs: FloatArray, kind: Kind
    ) -> None:
        answers = task.answers(outputs, kind)
        assert (task.agreement(answers, answers) == 1).all()
        others = answers[::-1]
        agreed = task.agreement(answers, others)
        assert agreed.shape == (len(outputs),)
        assert ((agreed >= 0) & (agreed <= 1)).all()
        np.testing.assert_allclose(agreed, task.agreement(others, answers), atol=_NEAR)

    def test_losses_lie_between_0_and_1_and_right_answers_cost_nothing(
        self, task: Task, outputs: FloatArray, kind: Kind, labels: AnyArray
    ) -> None:
        known = task.check_labels(labels, len(outputs), outputs.shape[1])
        for name in task.losses:
            lost = task.loss_of(name, outputs, kind, known)  # which refuses what leaves [0, 1]
            assert not task.is_binary(name) or np.isin(lost, (0, 1)).all()
            some = np.arange(1, len(outputs), 3)
            part = task.loss_of(name, outputs[some], kind, known[some])
            np.testing.assert_allclose(part, lost[some], atol=1e-6)
            right = task.answers(outputs, kind)
            assert not np.asarray(task.losses[name](right, right)).any()

    def test_in_operators_it_says_the_same(
        self, task: Task, outputs: FloatArray, kind: Kind
    ) -> None:
        form = task.form(outputs.shape[1])
        if form is None:
            pytest.skip("plans of this task are not exported")
        answers = task.answers(outputs, kind).reshape(len(outputs), form.columns)
        expected = {
            "answers": answers,
            "unsure": 1 - task.sure(outputs, kind)[:, None],
            "observations": task.observations(outputs, kind),
            "agreement": task.agreement(answers, answers[::-1])[:, None],
        }
        found = _in_operators(form, outputs, outputs[::-1], kind)
        assert found["answers"].dtype == form.dtype
        for name, values in expected.items():
            np.testing.assert_allclose(found[name], values, atol=_NEAR, err_msg=name)


def _in_operators(
    form: TaskForm, outputs: FloatArray, others: FloatArray, kind: Kind
) -> Mapping[str, AnyArray]:
    """What a form says of outputs, and how far it agrees with others, as an engine computes it."""
    scope = Scope()
    answers = form.answers(scope, "outputs", kind)
    says = {
        "answers": answers,
        "unsure": form.unsure(scope, "outputs", kind),
        "observations": form.observations(scope, "outputs", kind),
        "agreement": form.agreement(scope, answers, form.answers(scope, "others", kind)),
    }
    for name, tensor in says.items():
        scope.call("Identity", [tensor], [name])
    types = {"answers": helper.np_dtype_to_tensor_dtype(np.dtype(form.dtype))}
    width = ["batch", outputs.shape[1]]
    model = helper.make_model(
        helper.make_graph(
            scope.finished(),
            "task",
            [value(name, TensorProto.FLOAT, width) for name in ("outputs", "others")],
            [value(name, types.get(name, TensorProto.FLOAT), ["batch", None]) for name in says],
            scope.constants,
        ),
        opset_imports=[helper.make_opsetid("", OLDEST_OPSET)],
        ir_version=8,
    )
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {"outputs": outputs, "others": np.ascontiguousarray(others)}
    return dict(zip(says, session.run(list(says), given), strict=True))
