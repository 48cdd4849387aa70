"""Policies whose decisions are computed as ever and always come out alike: to time them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from offramp.policies.encoding import Deployable
from offramp.policies.gates import Gates
from offramp.policies.learned import Learned, Model
from offramp.policies.routing import Routing
from offramp.policies.thresholds import Thresholds

_SURE = 1e6  # times the reference's cost: more than anything that was learned


def forced(policy: Deployable, *, goes_on: bool) -> tuple[Deployable, float]:
    """A policy that always goes on to the first successor, or always stops, and its setting."""
    if isinstance(policy, Learned):
        models = {stage: _forced(model, goes_on) for stage, model in policy.models.items()}
        return replace(policy, models=models), 1.0
    if isinstance(policy, Thresholds):
        cuts = {stage: np.full_like(found, -np.inf) for stage, found in policy.cuts.items()}
        for found in cuts.values():
            found[:, :1] = np.inf if goes_on else -np.inf
        return replace(policy, cuts=cuts), float(policy.settings[0])
    if isinstance(policy, Gates):
        always = np.inf if goes_on else -np.inf
        gates = {stage: np.full_like(found, always) for stage, found in policy.cuts.items()}
        return replace(policy, cuts=gates), float(policy.settings[0])
    if isinstance(policy, Routing):
        wanted = {s: (a == 1) if goes_on else (a == 0) for s, a in policy.actions.items()}
        prices = {stage: np.where(found, 0.0, _SURE) for stage, found in wanted.items()}
        return replace(policy, costs=prices), 1.0
    return policy, _SURE if goes_on else -_SURE  # files hold no infinity


def _forced(model: Model, goes_on: bool) -> Model:
    """The first successor far cheaper than the others and than stopping, or all far dearer."""
    cost = model.cost.copy()
    rank = np.arange(len(cost), 0, -1) if goes_on else -np.ones(len(cost))
    cost[:, 0, 0] -= _SURE * rank
    return replace(model, cost=cost)
