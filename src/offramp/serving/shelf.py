"""The versions of a plan that are served, and which of them a request meets."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from offramp.base.errors import InputError, Overloaded
from offramp.serving.models import ServedPlan


class NoSuchModel(InputError):  # noqa: N818 - reads as the situation
    """There is no model of that name, or no such version of it."""


@dataclass(frozen=True, eq=False)
class OnTrial:
    """A new version that meets a share of the requests until it has proved itself."""

    model: ServedPlan
    share: float  # of requests without a version, in (0, 1]
    requests: int  # to be answered well


class Shelf:
    """Holds the versions of one plan.

    Requests that name no version meet the current one; every so many of them, evenly spread, the
    one on trial.

    Args:
        name: that clients ask for.
        model: the first version; None: none is ready yet.
    """

    def __init__(self, name: str, model: ServedPlan | None = None) -> None:
        self.name: str = name
        self.current: ServedPlan | None = model
        self.trial: OnTrial | None = None
        self.draining: bool = False
        self._changed = threading.Condition()
        self._lent: Counter[ServedPlan] = Counter()
        self._counted = 0.0

    @property
    def ready(self) -> bool:
        return self.current is not None and not self.draining

    @property
    def models(self) -> list[ServedPlan]:
        """Those that answer, the current one first."""
        tried = self.trial.model if self.trial else None
        return [model for model in (self.current, tried) if model is not None]

    @contextmanager
    def lend(self, name: str, version: str = "") -> Iterator[ServedPlan]:
        """The model that a request meets, which is not closed before the request is done.

        Raises:
            As `find`.
        """
        with self._changed:
            model = self._choose(self._named(name, version))
            self._lent[model] += 1
        try:
            yield model
        finally:
            with self._changed:
                self._lent[model] -= 1
                self._changed.notify_all()

    def find(self, name: str, version: str = "") -> ServedPlan:
        """The model of a version, or the current one, to be asked what it is.

        Raises:
            NoSuchModel: another name, or a version that is not served.
            Overloaded: none is ready yet.
        """
        return self._named(name, version) or self._ready()

    def _named(self, name: str, version: str) -> ServedPlan | None:
        """The model of a version; None: no version is named."""
        if name != self.name:
            raise NoSuchModel(f"there is no model '{name}'; this server has '{self.name}'.")
        self._ready()
        if not version:
            return None
        for model in self.models:
            if model.version == version:
                return model
        served = ", ".join(model.version for model in self.models)
        raise NoSuchModel(f"version {version} of '{name}' is not served; {served} is.")

    def _ready(self) -> ServedPlan:
        if self.current is None:
            raise Overloaded("no version is ready yet; send it again in a second.", 1.0)
        return self.current

    def _choose(self, named: ServedPlan | None) -> ServedPlan:
        """The model named; else the current one, and every so many times the one on trial."""
        if named is not None or self.trial is None:
            return named or self._ready()
        self._counted += self.trial.share
        if self._counted < 1:
            return self._ready()
        self._counted -= 1
        return self.trial.model

    def retire(self, model: ServedPlan, wait_s: float | None = None) -> None:
        """Closes a model that is served no more, once those who have it are done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._lent[model], wait_s)
            self._lent.pop(model, None)
        model.close(wait_s)

    def put(self, model: ServedPlan, trial: OnTrial | None = None) -> ServedPlan | None:
        """Serves a version from now on, or tries it; what it replaces is given back, to be closed.

        Args:
            model: the new version.
            trial: how it is tried; None: it is the current one at once.
        """
        with self._changed:
            if trial is not None and self.current is not None:
                old = self.trial.model if self.trial else None
                self.trial, self._counted = trial, 0.0
            else:
                old, self.current, self.trial = self.current, model, None
        return old

    def end_trial(self, *, passed: bool) -> ServedPlan | None:
        """The version on trial becomes the current one, or leaves; who leaves is given back."""
        with self._changed:
            if self.trial is None:
                return None
            tried, self.trial = self.trial.model, None
            old, self.current = (self.current, tried) if passed else (tried, self.current)
        return old

    def close(self, wait_s: float | None = None) -> None:
        """Takes no more requests, and ends once all are answered."""
        self.draining = True
        for model in self.models:
            model.close(wait_s)
