"""A plan over classifiers is a classifier."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.compose import make_column_transformer
from sklearn.datasets import make_classification
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.estimator_checks import estimator_checks_generator

from offramp.base.arrays import AnyArray
from offramp.base.errors import (
    BudgetError,
    CostError,
    GraphError,
    InputError,
    NetworkError,
    PlanError,
)
from offramp.plan.plan import Plan
from offramp.sklearn import CascadeClassifier, FewRows

LABELS = np.array(["ant", "bee", "cow"])
X, _numbers = make_classification(5000, n_informative=8, n_classes=3, random_state=0)
Y = LABELS[_numbers]
SHOWN, NEW = slice(0, 4000), slice(4000, 5000)
COSTS = {"small": 1.0, "big": 50.0}


def forest(trees: int = 40) -> RandomForestClassifier:
    return RandomForestClassifier(trees, random_state=0)


def cascade(small: Any = None, **options: Any) -> CascadeClassifier:
    stages = [("small", LogisticRegression() if small is None else small), ("big", forest())]
    return CascadeClassifier(
        stages, **{"budget": 0.05, "costs": COSTS, "policy": "margin", "random_state": 0, **options}
    )


@pytest.fixture(scope="module")
def fitted() -> CascadeClassifier:
    return cascade().fit(X[SHOWN], Y[SHOWN])


def planned(few: CascadeClassifier) -> Plan:
    """Its plan; there is one."""
    assert few.plan_ is not None
    assert few.certificate_ is few.plan_.certificate
    return few.plan_


def taught_and_certified(few: CascadeClassifier) -> int:
    found = planned(few)
    return int(found.info["learning_examples"]) + found.certificate.examples


def _checks() -> list[Any]:
    few = CascadeClassifier([("small", LogisticRegression()), ("big", forest(10))])
    return [*estimator_checks_generator(few)]


CHECKS = _checks()


@pytest.mark.parametrize(
    ("estimator", "check"), CHECKS, ids=[check.func.__name__ for _, check in CHECKS]
)
@pytest.mark.filterwarnings("ignore::offramp.sklearn.FewRows")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_scikit_learn_s_own_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def test_it_answers_at_less_cost_within_the_budget(fitted: CascadeClassifier) -> None:
    assert planned(fitted).routes  # else other tests would say little
    answers = fitted.infer(X[NEW])
    assert set(answers.stage) == {"small", "big"}
    assert answers.cost.mean() < 51
    reference = fitted.stages_["big"].score(X[NEW], Y[NEW])
    assert fitted.score(X[NEW], Y[NEW]) > reference - 0.05
    assert (fitted.classes_[answers.answer] == fitted.predict(X[NEW])).all()


def test_probabilities_are_those_of_the_stage_that_answers(fitted: CascadeClassifier) -> None:
    stages, likely = fitted.infer(X[NEW]).stage, fitted.predict_proba(X[NEW])
    np.testing.assert_allclose(likely.sum(axis=1), 1)
    assert (fitted.classes_[likely.argmax(axis=1)] == fitted.predict(X[NEW])).all()
    for stage in set(stages) - set(planned(fitted).speaking):
        alone = fitted.stages_[stage].predict_proba(X[NEW])
        np.testing.assert_allclose(likely[stages == stage], alone[stages == stage], atol=1e-6)


def test_rows_that_certify_train_no_stage(fitted: CascadeClassifier) -> None:
    """A forest knows the rows that trained it by heart, and those alone."""
    known = fitted.stages_["big"].predict(X[SHOWN]) == Y[SHOWN]
    assert taught_and_certified(fitted) == 2000
    assert 2000 < known.sum() < 2000 + 0.95 * 2000


def test_the_same_seed_gives_the_same() -> None:
    again = cascade(RandomForestClassifier(5)).fit(X[SHOWN], Y[SHOWN])
    other = cascade(RandomForestClassifier(5)).fit(X[SHOWN], Y[SHOWN])
    assert (again.predict_proba(X[NEW]) == other.predict_proba(X[NEW])).all()
    assert planned(again).tradeoff == planned(other).tradeoff


def test_trained_stages_are_taken_as_they_are() -> None:
    stages = [("small", LogisticRegression()), ("big", forest())]
    for _, stage in stages:
        stage.fit(X[:2000], Y[:2000])
    few = CascadeClassifier(stages, 0.05, costs=COSTS, policy="margin", train_share="prefit")
    few.fit(X[2000:4000], Y[2000:4000])
    assert few.stages_["big"] is stages[1][1]
    assert taught_and_certified(few) == 2000
    with pytest.raises(Exception, match="not fitted"):
        few.set_params(small=LogisticRegression()).fit(X[SHOWN], Y[SHOWN])


def test_costs_are_measured() -> None:
    few = cascade(costs="measured").fit(X[SHOWN], Y[SHOWN])
    assert planned(few).costs.unit == "s"
    assert 0 < planned(few).costs.body["small"] < planned(few).costs.body["big"]


def test_tables_keep_their_columns() -> None:
    """Stages read columns by name, of kinds that no array has together."""
    table = pd.DataFrame(X, columns=[f"f{n}" for n in range(X.shape[1])])
    table["kind"] = np.where(Y == "ant", "six", "many")
    chosen = make_column_transformer(
        (OneHotEncoder(), ["kind"]), ("passthrough", ["f0", "f1"]), remainder="drop"
    )
    numbers = make_column_transformer(("drop", ["kind"]), remainder="passthrough")
    stages = [
        ("small", make_pipeline(chosen, LogisticRegression())),
        ("big", make_pipeline(numbers, forest())),
    ]
    few = CascadeClassifier(stages, 0.05, costs=COSTS, random_state=0)
    few.fit(table[SHOWN], pd.Series(Y[SHOWN]))
    assert few.n_features_in_ == table.shape[1]
    assert [*few.feature_names_in_] == [*table.columns]
    assert few.score(table[NEW], Y[NEW]) > 0.7
    with pytest.raises(ValueError, match="feature names"):
        few.predict(table[NEW].drop(columns="kind"))


@pytest.mark.parametrize("of", [sparse.csr_array, sparse.coo_matrix, np.asfortranarray])
def test_other_arrays_answer_alike(fitted: CascadeClassifier, of: Any) -> None:
    np.testing.assert_allclose(
        fitted.predict_proba(of(X[NEW])), fitted.predict_proba(X[NEW]), atol=1e-6
    )


@pytest.mark.parametrize("small", [RidgeClassifier(), GaussianNB()])
@pytest.mark.parametrize("classes", [2, 3])
def test_decision_functions_are_scores(small: Any, classes: int) -> None:
    labels = np.where(Y == "cow", "bee", Y) if classes == 2 else Y
    few = cascade(small).fit(X[SHOWN], labels[SHOWN])
    likely = few.predict_proba(X[NEW])
    assert likely.shape == (1000, classes)
    stages = few.infer(X[NEW]).stage
    alone = few.stages_["small"].predict(X[NEW])
    if "small" not in planned(few).speaking:
        assert (few.predict(X[NEW]) == alone)[stages == "small"].all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_class_of_few_rows_is_known_to_every_stage(seed: int) -> None:
    labels = Y.copy()
    labels[7] = "yak"
    few = cascade(random_state=seed).fit(X[:400], labels[:400])
    assert [*few.classes_] == ["ant", "bee", "cow", "yak"]
    assert all([*stage.classes_] == [*few.classes_] for stage in few.stages_.values())
    assert taught_and_certified(few) <= 200


def test_with_few_rows_the_reference_answers() -> None:
    with pytest.warns(FewRows, match="80 rows"):
        few = cascade().fit(X[:80], Y[:80])
    assert few.plan_ is None
    assert few.certificate_ is None
    alone = forest().fit(X[:80], Y[:80])
    assert (few.predict(X[NEW]) == alone.predict(X[NEW])).all()
    with pytest.raises(PlanError, match="too few"):
        few.infer(X[NEW])


def test_with_one_label_there_is_nothing_to_decide() -> None:
    few = CascadeClassifier([("small", GaussianNB()), ("big", forest(3))])
    with pytest.warns(FewRows, match="one label"):
        few.fit(X[SHOWN], np.zeros(4000))
    assert set(few.predict(X[NEW])) == {0.0}


@pytest.mark.parametrize("small", [RidgeClassifier(), LogisticRegression()])
def test_a_class_that_a_trained_stage_does_not_know_is_never_its_answer(small: Any) -> None:
    two = Y[:2000] != "cow"
    stages = [
        ("small", clone(small).fit(X[:2000][two], Y[:2000][two])),
        ("big", forest().fit(X[:2000], Y[:2000])),
    ]
    few = CascadeClassifier(stages, 0.2, costs=COSTS, train_share="prefit", policy="margin")
    few.fit(X[2000:4000], Y[2000:4000])
    assert [*few.classes_] == [*LABELS]
    by_small = few.infer(X[NEW]).stage == "small"
    assert by_small.any()
    assert not (few.predict(X[NEW][by_small]) == "cow").any()
    assert few.score(X[NEW], Y[NEW]) > few.stages_["big"].score(X[NEW], Y[NEW]) - 0.2


def test_it_is_cloned_pickled_and_searched(fitted: CascadeClassifier) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    assert (again.predict(X[NEW]) == fitted.predict(X[NEW])).all()
    assert not hasattr(clone(fitted), "plan_")
    search = GridSearchCV(cascade(), {"small__C": [1e-4, 1.0], "budget": [0.05]}, cv=2)
    search.fit(X[SHOWN], Y[SHOWN])
    assert search.best_params_["small__C"] == 1.0


class _Bare(BaseEstimator):  # type: ignore[misc]
    """Predicts, and scores nothing."""

    def fit(self, X: AnyArray, y: AnyArray) -> _Bare:
        return self


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"budget": 1.5}, BudgetError, "budget"),
    ({"train_share": 0.0}, BudgetError, "train_share"),
    ({"train_share": "half"}, BudgetError, "'half'"),
    ({"costs": {"small": 1.0}}, CostError, "big"),
    ({"costs": "guessed"}, InputError, "guessed"),
    ({"policy": "none such"}, InputError, "none such"),
    ({"small": _Bare()}, InputError, "predict_proba"),
]


@pytest.mark.parametrize(("options", "error", "words"), WRONG)
def test_what_does_not_fit_is_said(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        cascade(**options).fit(X[SHOWN], Y[SHOWN])


def test_names_that_are_none_are_refused() -> None:
    two = [("a b", LogisticRegression()), ("big", forest())]
    with pytest.raises(GraphError):
        CascadeClassifier(two, costs={"a b": 1.0, "big": 2.0}).fit(X[SHOWN], Y[SHOWN])
    with pytest.raises(InputError, match="at least one stage"):
        CascadeClassifier([]).fit(X[SHOWN], Y[SHOWN])


class _Wide(LogisticRegression):  # type: ignore[misc]
    """Scores a column more than it has classes."""

    def predict_proba(self, X: AnyArray) -> AnyArray:
        return np.full((len(X), len(self.classes_) + 1), 0.25)


def test_scores_of_other_classes_are_refused() -> None:
    with pytest.raises(NetworkError, match="4 columns"):
        cascade(_Wide()).fit(X[SHOWN], Y[SHOWN])


def test_gradient_boosting_takes_missing_values() -> None:
    holes = X.copy()
    holes[::3, 0] = np.nan
    few = CascadeClassifier(
        [("small", HistGradientBoostingClassifier(max_iter=3)), ("big", forest())],
        0.05,
        costs=COSTS,
        random_state=0,
    ).fit(holes[SHOWN], Y[SHOWN])
    assert few.score(holes[NEW], Y[NEW]) > 0.7
