"""A plan over scikit-learn's classifiers that is one itself."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from sklearn.base import ClassifierMixin, clone
from sklearn.utils import _safe_indexing, check_random_state, get_tags
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _num_samples,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from offramp.base.arrays import AnyArray, FloatArray, IntArray
from offramp.base.errors import BudgetError, InputError, OfframpWarning, PlanError, ScoresError
from offramp.base.hashing import hash_rows
from offramp.core import tasks
from offramp.core.graph import Costs, Graph
from offramp.core.rows import RowFacts, learning_share
from offramp.core.tasks import Kind
from offramp.core.trace import Trace, assemble
from offramp.plan.fit import fit
from offramp.plan.plan import Plan
from offramp.promise.certify import Certificate, check_promise
from offramp.promise.split import FEWEST, Repeats
from offramp.recording.measure import stage_costs
from offramp.runtime import Answers, Calls, infer

__all__ = ["CascadeClassifier", "FewRows"]

_BATCH = 256  # rows per call where costs are measured
_LIMIT_S = 2.0  # for that


class FewRows(OfframpWarning):
    """There are too few rows, or labels, to certify anything: the reference answers alone."""


class CascadeClassifier(ClassifierMixin, _BaseComposition):
    """Classifiers of which just enough run for each row, with a certified loss of accuracy.

    `fit` trains the classifiers on one part of the rows, and learns and certifies a plan on what
    they say of the other rows. The last one is the reference: what a plan answers loses at most
    `budget` against it, with the chance `confidence` over the draw of those other rows.

    With too few rows to certify anything (below about 60 held out), all of them train, and the
    reference answers alone.

    Args:
        stages: (name, classifier) from the cheapest to the reference. Each has `predict_proba`, or
            else `decision_function`.
        budget: accuracy given up, a fraction in [0, 1]; 0.01 is one percentage point.
        confidence: chance that the promise holds.
        costs: `measured`, in seconds; or name -> cost per row in any unit.
        policy: a family of `offramp.policies.FAMILIES`, or `auto`.
        train_share: part of the rows that train the classifiers, in (0, 1); or `prefit`: they are
            trained already, on other rows, are taken as they are, and all rows are held out.
        repeats: what rows that repeat others are: `real` draws, or `copies`, which count once.
        random_state: of the split, of the classifiers whose own is None, and of the plan.

    Attributes:
        classes_: (classes,) labels.
        stages_: name -> classifier, as trained.
        plan_: `offramp.Plan`; None with too few rows.
        certificate_: of the plan; None likewise.
        n_features_in_, feature_names_in_: as elsewhere in scikit-learn.

    Example:
        >>> from sklearn.datasets import make_classification
        >>> from sklearn.ensemble import RandomForestClassifier
        >>> from sklearn.linear_model import LogisticRegression
        >>> from offramp.sklearn import CascadeClassifier
        >>> X, y = make_classification(6000, n_informative=8, n_classes=3, random_state=0)
        >>> cascade = CascadeClassifier(
        ...     [("small", LogisticRegression()), ("big", RandomForestClassifier())],
        ...     budget=0.05, costs={"small": 1, "big": 50}, random_state=0,
        ... ).fit(X[:4000], y[:4000])
        >>> cascade.certificate_.verdict
        'route'
        >>> bool(cascade.score(X[4000:], y[4000:]) > 0.7)
        True
    """

    classes_: AnyArray
    stages_: dict[str, Any]
    plan_: Plan | None
    certificate_: Certificate | None

    def __init__(
        self,
        stages: Sequence[tuple[str, Any]],
        budget: float = 0.01,
        *,
        confidence: float = 0.95,
        costs: Literal["measured"] | Mapping[str, float] = "measured",
        policy: str = "auto",
        train_share: float | Literal["prefit"] = 0.5,
        repeats: Repeats = "real",
        random_state: Any = None,
    ) -> None:
        self.stages = stages
        self.budget = budget
        self.confidence = confidence
        self.costs = costs
        self.policy = policy
        self.train_share = train_share
        self.repeats = repeats
        self.random_state = random_state

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name, those of the stages as `name__parameter`."""
        found: dict[str, Any] = self._get_params("stages", deep=deep)
        return found

    def set_params(self, **params: Any) -> CascadeClassifier:
        """Sets parameters, those of stages, and stages by their names."""
        self._set_params("stages", **params)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = [get_tags(stage).input_tags for _, stage in self.stages]
        tags.input_tags.allow_nan = all(one.allow_nan for one in inner)
        tags.input_tags.sparse = all(one.sparse for one in inner)
        return tags

    def fit(self, X: Any, y: Any) -> CascadeClassifier:
        """Trains the stages, and fits a plan on what they say of rows that trained none.

        Args:
            X: (n, features), of any kind that the stages read.
            y: (n,) labels.

        Raises:
            ValueError: rows or labels that scikit-learn refuses.
            BudgetError, InputError, GraphError, CostError: parameters that do not fit.
            NetworkError: a stage that fails, or scores other classes than there are labels.

        Warns:
            FewRows: there are too few to certify anything.
        """
        check_promise(self.budget, self.confidence)
        X, y = self._checked(X, y)
        random = check_random_state(self.random_state)
        training, others = self._split(y, random)
        self.plan_ = None
        if _is_enough(len(others)) and len(self.classes_) > 1:
            self.stages_ = self._trained(_safe_indexing(X, training), y[training], random)
            trace = self._trace(_safe_indexing(X, others), y[others])
            self.plan_ = self._planned(trace, random)
        else:
            self.stages_ = self._trained(X, y, random)
            warnings.warn(_few(len(y), len(self.classes_)), FewRows, stacklevel=2)
        self.certificate_ = None if self.plan_ is None else self.plan_.certificate
        return self

    def predict(self, X: Any) -> AnyArray:
        """The labels of rows, (n,)."""
        likely = self.predict_proba(X)
        labels: AnyArray = self.classes_[likely.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> FloatArray:
        """What the stages that answer say of each class, (n, classes)."""
        if (plan := self._ready()) is None:
            return self._reference(self._read(X))
        answers = self.infer(X)
        likely = np.empty(answers.scores.shape, dtype=np.float64)
        for stage in np.unique(answers.stage):
            rows = answers.stage == stage
            likely[rows] = tasks.probabilities(answers.scores[rows], plan.answered[stage])
        return likely

    def infer(self, X: Any) -> Answers:
        """The answers of the plan: for each row also the stage that gave it, and its cost.

        Raises:
            PlanError: there were too few rows for a plan.
        """
        if (plan := self._ready()) is None:
            raise PlanError("there is no plan: too few rows were fitted. The reference answers.")
        X = self._read(X)
        return infer(plan, _calls(self.stages_, self.classes_, X), np.arange(_num_samples(X)))

    @property
    def _prefit(self) -> bool:
        return isinstance(self.train_share, str) and self.train_share == "prefit"

    def _ready(self) -> Plan | None:
        check_is_fitted(self)
        return self.plan_

    def _checked(self, X: Any, y: Any) -> tuple[Any, AnyArray]:
        """Rows and labels, from which names, number of features and classes are known."""
        X, y = validate_data(self, X, y, **self._door(X))
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        self._check_stages()
        known = [stage.classes_ for _, stage in self.stages] if self._prefit else []
        self.classes_ = np.unique(np.concatenate([y, *known]))
        return X, y

    def _door(self, X: Any) -> dict[str, Any]:
        """How rows are checked: tables are left to the stages, which may read columns by name."""
        if hasattr(X, "columns"):
            return {"skip_check_array": True}
        tags = get_tags(self).input_tags
        sparse = "csr" if tags.sparse else False  # of which rows can be taken
        return {"dtype": None, "accept_sparse": sparse, "ensure_all_finite": not tags.allow_nan}

    def _read(self, X: Any) -> Any:
        return validate_data(self, X, reset=False, **self._door(X))

    def _split(self, y: AnyArray, random: np.random.RandomState) -> tuple[IntArray, IntArray]:
        """The rows that train, some of every class, and the others; both ascending."""
        if self._prefit:
            return np.arange(0), np.arange(len(y))
        share = self.train_share
        if isinstance(share, str) or not 0 < share < 1:
            raise BudgetError(
                f"train_share is {share!r}; it must lie between 0 and 1, or be 'prefit'."
            )
        order = random.permutation(len(y))
        trains = np.zeros(len(y), dtype=bool)
        trains[order[: round(share * len(y))]] = True
        for label in np.setdiff1d(self.classes_, y[trains]):
            trains |= y == label
        return np.flatnonzero(trains), np.flatnonzero(~trains)

    def _trained(self, X: Any, y: AnyArray, random: np.random.RandomState) -> dict[str, Any]:
        if self._prefit:
            return dict(self.stages)
        fresh = {name: clone(stage) for name, stage in self.stages}
        if self.random_state is not None:
            for stage in fresh.values():
                _seed(stage, random)
        return {name: stage.fit(X, y) for name, stage in fresh.items()}

    def _check_stages(self) -> None:
        names = [name for name, _ in self.stages]
        self._validate_names(names)
        Graph.chain(names)  # raises where they are none
        for name, stage in self.stages:
            if self._prefit:
                check_is_fitted(stage)
            if not any(hasattr(stage, method) for method in _METHODS):
                raise InputError(
                    f"stage '{name}' is {stage!r:.60}, which has neither predict_proba nor "
                    "decision_function. Give a classifier that scores its classes."
                )

    def _trace(self, X: Any, y: AnyArray) -> Trace:
        """What the stages say of rows that trained none of them."""
        calls, rows = _calls(self.stages_, self.classes_, X), np.arange(len(y))
        trace = assemble(
            calls.graph,
            self._costs(calls, rows),
            {stage: calls.run(stage, rows) for stage in calls.graph.order},
            labels=np.searchsorted(self.classes_, y),
            facts=RowFacts(hashes=_hashes(X)),
        )
        return replace(trace, kinds={name: _kind(stage) for name, stage in self.stages_.items()})

    def _costs(self, calls: Calls, rows: IntArray) -> Costs:
        if isinstance(self.costs, str):
            if self.costs != "measured":
                raise InputError(f"costs is '{self.costs}'; give 'measured', or name -> number.")
            return stage_costs(calls, calls.graph, rows, _BATCH, limit_s=_LIMIT_S)
        return Costs(dict(self.costs), dict.fromkeys(self.costs, 0.0), "unit")

    def _planned(self, trace: Trace, random: np.random.RandomState) -> Plan:
        return fit(
            trace,
            self.budget,
            confidence=self.confidence,
            policy=self.policy,
            repeats=self.repeats,
            seed=int(random.randint(2**31)),
        )

    def _reference(self, X: Any) -> FloatArray:
        """What the reference says by itself, (n, classes)."""
        *_, stage = self.stages_.values()
        scores = _scores(stage, self.classes_, X, np.arange(_num_samples(X)))
        return tasks.probabilities(scores, _kind(stage))


_METHODS: Mapping[str, Kind] = {"predict_proba": "probabilities", "decision_function": "logits"}


def _kind(stage: Any) -> Kind:
    """What it gives: probabilities where it can."""
    return next(kind for method, kind in _METHODS.items() if hasattr(stage, method))


def _calls(stages: Mapping[str, Any], classes: AnyArray, X: Any) -> Calls:
    """Stages that are asked about rows of X by their numbers: whatever kind of table X is."""
    return Calls({name: partial(_scores, stage, classes, X) for name, stage in stages.items()})


def _scores(stage: Any, classes: AnyArray, X: Any, rows: IntArray) -> FloatArray:
    """The scores of a trained classifier, (n, classes), in the order of `classes`."""
    kind = _kind(stage)
    method = next(method for method in _METHODS if hasattr(stage, method))
    found = np.asarray(getattr(stage, method)(_safe_indexing(X, rows)))
    if found.ndim == 1:  # how far on the side of the second of two classes
        found = np.stack([-found, found], axis=1) / 2
    known = np.asarray(stage.classes_)
    if found.shape[1] != len(known) or not np.isin(known, classes).all():
        raise ScoresError(
            f"{stage!r:.60} scores {found.shape[1]} columns for the classes {known.tolist()}, "
            f"and the labels are {classes.tolist()}. Every stage scores classes among the labels."
        )
    scores = np.full((len(rows), len(classes)), 0.0 if kind == "probabilities" else -np.inf)
    scores[:, np.searchsorted(classes, known)] = found
    return scores


def _seed(stage: Any, random: np.random.RandomState) -> None:
    """Gives whatever in a classifier draws numbers, and has no seed of its own, one."""
    open_ = sorted(
        name
        for name, value in stage.get_params(deep=True).items()
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    )
    if open_:
        stage.set_params(**{name: int(random.randint(2**31)) for name in open_})


def _hashes(X: Any) -> AnyArray | None:
    """What tells rows apart; None: their scores must do."""
    return hash_rows(X) if isinstance(X, np.ndarray) and X.dtype.kind in "fiub" else None


def _is_enough(examples: int) -> bool:
    """Whether so many rows can teach and certify."""
    return min(shown := round(learning_share(examples) * examples), examples - shown) >= FEWEST


def _few(examples: int, classes: int) -> str:
    """Why nothing is certified."""
    if classes == 1:
        return "all rows have one label, so there is nothing to decide and nothing is certified."
    return (
        f"there are {examples} rows, too few to train, to learn from and to certify on: the "
        "reference answers alone, and nothing is certified. Give several hundred."
    )
