"""Laws that every policy must pass: as a rule, as JSON, forced, and exported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnxruntime import InferenceSession

from offramp.base.arrays import IntArray
from offramp.base.errors import InputError
from offramp.core.frontier import replay
from offramp.core.policy import Policy, backbone
from offramp.core.trace import Trace
from offramp.export.deciding import Decisions
from offramp.policies import Deployable, policy_from_json, policy_to_json
from offramp.runtime.format import TRADEOFF
from offramp.testing.closeness import MOST_CLOSE, close_at, seen_at


class PolicyLaws:
    """What every policy must do. Fixtures: `policy`, and a `trace` of its graph."""

    def test_evidence_of_a_row_does_not_depend_on_the_others(
        self, policy: Policy, trace: Trace
    ) -> None:
        some = np.arange(1, trace.examples, 3)
        for stage in policy.graph.order:
            if policy.graph.successors[stage]:
                whole = policy.evidence(seen_at(policy.graph, trace, stage))
                part = policy.evidence(seen_at(policy.graph, trace, stage, some))
                np.testing.assert_allclose(part, whole[some], atol=1e-9)

    def test_choices_are_actions_of_the_stage(self, policy: Policy, trace: Trace) -> None:
        for stage in policy.graph.order:
            if successors := policy.graph.successors[stage]:
                evidence = policy.evidence(seen_at(policy.graph, trace, stage))
                for setting in policy.settings:
                    action = policy.choose(stage, evidence, float(setting))
                    assert action.shape == (trace.examples,)
                    assert np.issubdtype(action.dtype, np.integer)
                    assert ((action >= 0) & (action <= len(successors))).all()

    def test_the_dial_goes_from_safe_to_cheap(self, policy: Policy, trace: Trace) -> None:
        ends = [
            replay(trace, policy, float(setting)).cost.mean()
            for setting in policy.settings[[0, -1]]
        ]
        if len(policy.settings) > 1:  # else it has no dial
            assert ends[0] > ends[-1]

    def test_saved_and_loaded_it_decides_alike(self, policy: Deployable, trace: Trace) -> None:
        loaded = policy_from_json(json.loads(_as_json(policy)))
        assert loaded.kind == policy.kind
        for setting in some_settings(policy):
            before = replay(trace, policy, setting)
            after = replay(trace, loaded, setting)
            assert (before.stage == after.stage).all()

    def test_damaged_json_is_refused(self, policy: Deployable) -> None:
        """Whatever is missing or empty."""
        whole = _as_json(policy)
        for key in json.loads(whole):
            without = {name: value for name, value in json.loads(whole).items() if name != key}
            empty: tuple[Any, ...] = (None, {}, [])
            for value in (without, *({**without, key: new} for new in empty)):
                refusal = _refusal(value)
                assert refusal, f"it is read with '{key}' as {value.get(key, 'nothing')}"
                assert "\n" not in refusal

    def test_forced_it_always_does_the_same(self, policy: Deployable, trace: Trace) -> None:
        walked = backbone(policy.graph).order
        for goes_on, end in ((True, walked[-1]), (False, walked[0])):
            forced, setting = policy.forced(goes_on=goes_on)
            assert np.isfinite(setting), "files hold no infinity"
            assert replay(trace, forced, setting).exits()[end] == 1.0

    def test_exported_it_decides_alike(self, policy: Deployable, trace: Trace) -> None:
        """At a setting of the file's own, and at one given at run time."""
        for stage in policy.graph.order:
            if not policy.graph.successors[stage]:
                continue
            for setting in some_settings(policy):
                evidence = policy.evidence(seen_at(policy.graph, trace, stage))
                expected = policy.choose(stage, evidence, setting)
                near = close_at(policy, trace, stage, setting)
                assert near.mean() <= MOST_CLOSE, "so close that little is compared"
                for dial in (False, True):
                    decided = decided_by_file(policy, trace, stage, setting, dial=dial)
                    assert ((decided == expected) | near).all()


def _as_json(policy: Deployable) -> str:
    """Raises AssertionError where JSON cannot hold it."""
    try:
        return json.dumps(policy_to_json(policy), allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise AssertionError(f"JSON cannot hold the policy: {problem}") from None


def _refusal(value: Mapping[str, Any]) -> str:
    """Why JSON is no policy; nothing where it is one."""
    try:
        policy_from_json(value)
    except InputError as refused:
        return str(refused)
    return ""


def some_settings(policy: Policy) -> list[float]:
    """About five settings of a dial, from end to end."""
    return [float(s) for s in policy.settings[:: max(1, len(policy.settings) // 5)]]


def decided_by_file(
    policy: Deployable, trace: Trace, stage: str, setting: float, *, dial: bool
) -> IntArray:
    """What ONNX Runtime makes of the exported decision at a stage, of all examples, (examples,)."""
    default = float(policy.settings[0]) if dial else setting
    model = Decisions.alone(
        policy, stage, trace.kinds, trace.classes, default, dial=dial, task=trace.task
    )
    session = InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    given = {name: trace.scores[name] for name in names if name != TRADEOFF}
    if dial:
        given[TRADEOFF] = np.array(setting, dtype=np.float32)
    return np.asarray(session.run(None, given)[0])
