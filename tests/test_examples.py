"""The examples run: exits beyond images, a policy from outside and an engine of one's own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from examples import engine, language_model, tokens, vectors
from offramp.base.errors import InputError, PlanError
from offramp.core import tasks
from offramp.core.tasks import Losses
from offramp.core.trace import Trace
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.policies import FAMILIES, Deployable, Family, families, register
from offramp.runtime import Engine
from offramp.study.compare import compare
from offramp.testing import EngineLaws, PolicyLaws, synthetic

TRACE = synthetic(900, ("small", "big"), seed=3)


def test_vectors(tmp_path: Path) -> None:
    found = vectors.run(tmp_path, 1500)
    assert found.speedup > 1
    assert found.kept != "no"


def test_tokens_with_padding(tmp_path: Path) -> None:
    found = tokens.run(tmp_path, examples=3000, epochs=5)
    assert sum(found.exits.values()) > 0.999
    assert found.kept != "no"


class TestAnEngineOfOnesOwn(EngineLaws):
    @pytest.fixture
    def engine(self) -> Engine:
        return engine.REFERENCE


def test_an_engine_of_ones_own_runs_everything(tmp_path: Path) -> None:
    assert len(set(engine.run(tmp_path))) > 1


def test_language_models_behind_an_address() -> None:
    language_model.ASKED.clear()
    with language_model.stand_in() as address:
        plan, answers = language_model.run(address)
    assert plan.routes
    assert 0 < (answers.stage == "small").mean() < 1
    likely = tasks.log_probabilities(language_model.KNOWN.scores["big"][700:], "logits")
    by_big = (answers.stage == "big") & ("big" not in plan.speaking)
    np.testing.assert_allclose(answers.scores[by_big], likely[by_big], atol=1e-4)
    assert set(language_model.ASKED.values()) == {1}  # no model is asked a question twice
    assert sum(model == "big" for model, _ in language_model.ASKED) < 900


def test_the_documentation_shows_the_example() -> None:
    """Line by line: it is not run on its page, where there is no server."""
    root = Path(__file__).resolve().parent.parent
    page = (root / "docs" / "several-networks.md").read_text(encoding="utf-8")
    example = (root / "examples" / "language_model.py").read_text(encoding="utf-8")
    lines = [line.strip() for line in example.splitlines()]
    blocks = [block for block in page.split("```") if block.startswith("python\n")]
    shown = next(block for block in blocks if "chat/completions" in block)
    for line in shown.splitlines()[1:]:
        assert line.strip() in lines, line
    assert sum(bool(line.strip()) for line in shown.splitlines()[1:]) <= 35


# ---------------------------------------------------------------------- a policy from outside


@pytest.fixture
def outside() -> Iterator[ModuleType]:
    """The example, imported and so registered while a test runs, and no longer."""
    before = dict(families._registered)
    yield import_module("examples.policy")
    families._registered.clear()
    families._registered.update(before)
    del sys.modules["examples.policy"]


class TestOutside(PolicyLaws):
    @pytest.fixture
    def policy(self, outside: ModuleType, trace: Trace) -> Deployable:
        fitted: Deployable = outside.AGREEING(trace, trace.losses())
        return fitted

    @pytest.fixture
    def trace(self) -> Trace:
        return TRACE


def test_a_policy_from_outside_is_fitted_compared_read_back_and_exported(
    outside: ModuleType, tmp_path: Path
) -> None:
    shown = outside.run(tmp_path, 900)
    assert shown.plan.routes
    assert shown.plan.policy.kind == "agreeing"
    assert set(shown.comparison.policies) == {"margin", "agreeing", "uniform"}
    assert 0 < (shown.walked.stage == "small").mean() < 1
    assert (shown.walked.stage == shown.exported.stage).mean() > 0.99
    np.testing.assert_allclose(shown.walked.cost, shown.exported.cost, rtol=1e-5)


def test_a_family_has_the_name_that_a_plan_says(outside: ModuleType) -> None:
    by_name = fit(TRACE, 0.1, policy="agreeing")
    assert by_name.policy.kind == "agreeing"
    assert set(compare(TRACE, policies=["agreeing"], bands=False).policies) == {
        "agreeing",
        "uniform",
    }


def test_a_plan_of_an_unknown_kind_says_what_to_import(
    outside: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(TRACE, 0.1, policy="agreeing").write(tmp_path / "plan")
    assert Plan.read(tmp_path / "plan").policy.kind == "agreeing"
    monkeypatch.delitem(families._registered, "agreeing")
    with pytest.raises(PlanError, match=r"'agreeing' is unknown.*import the module") as caught:
        Plan.read(tmp_path / "plan")
    assert "\n" not in str(caught.value)


def test_a_family_that_nobody_registered_is_fitted_too(outside: ModuleType) -> None:
    def fitted(trace: Trace, losses: Losses) -> Deployable:
        policy: Deployable = replace(outside.Agreeing.fit(trace, losses), kind="other")
        return policy

    other = Family(name="other", fit=fitted, read=outside.Agreeing.from_json)
    assert fit(TRACE, 0.1, policy=other).policy.kind == "other"
    assert "other" in compare(TRACE, policies=[other], bands=False).policies
    assert "other" not in FAMILIES


def test_a_family_that_fits_policies_of_another_kind_is_refused() -> None:
    other = Family(name="other", fit=FAMILIES["margin"].fit, read=FAMILIES["margin"].read)
    with pytest.raises(InputError, match="'margin'"):
        fit(TRACE, 0.1, policy=other)


@pytest.mark.parametrize("name", ["margin", "auto", "uniform", "", "two words", "a/b"])
def test_a_name_that_is_taken_or_none_is_refused(name: str) -> None:
    family = Family(name=name, fit=FAMILIES["margin"].fit, read=FAMILIES["margin"].read)
    before = dict(FAMILIES)
    with pytest.raises(InputError):
        register(family)
    assert dict(FAMILIES) == before


def test_another_family_of_a_known_name_is_refused() -> None:
    double = Family(name="margin", fit=FAMILIES["entropy"].fit, read=FAMILIES["entropy"].read)
    with pytest.raises(InputError, match="margin"):
        fit(TRACE, 0.1, policy=double)
    with pytest.raises(InputError, match="margin"):
        compare(TRACE, policies=["margin", double], bands=False)


def test_registering_twice_changes_nothing() -> None:
    before = dict(FAMILIES)
    register(*FAMILIES.values())
    assert list(FAMILIES.items()) == list(before.items())


@pytest.mark.parametrize("usual", [None, [], {}, {"small": None}, {"small": 2.0}, {"small": [0.5]}])
def test_a_policy_from_outside_checks_its_json(outside: ModuleType, usual: Any) -> None:
    whole = families.policy_to_json(outside.AGREEING(TRACE, TRACE.losses()))
    with pytest.raises(PlanError):
        families.policy_from_json(json.loads(json.dumps({**whole, "usual": usual})))
