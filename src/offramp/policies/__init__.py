"""Policies by name: the learned one, rules and baselines, all behind one protocol."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from offramp.base.errors import InputError
from offramp.core.policy import STOP, Family, Policy, Seen, Static
from offramp.policies.baselines import ExactOracle, SoftOracle
from offramp.policies.encoding import Deployable, policy_from_json, policy_to_json
from offramp.policies.gates import Gates
from offramp.policies.learned import UNITS, Learned
from offramp.policies.routing import Routing
from offramp.policies.rules import Alike, Threshold
from offramp.policies.thresholds import THRESHOLDS

FAMILIES: Mapping[str, Family[Deployable]] = {
    "learned": Learned.fit,
    "network": partial(Learned.fit, units=UNITS),
    "myopic": lambda trace, losses: Threshold.fit("myopic", trace),
    "margin": lambda trace, losses: Threshold.fit("margin", trace),
    "entropy": lambda trace, losses: Threshold.fit("entropy", trace),
    **THRESHOLDS,
    "patience": lambda trace, losses: Alike.fit("patience", trace),
    "agreement": lambda trace, losses: Alike.fit("agreement", trace),
    "eenet": Gates.eenet,
    "jei-dnn": Gates.jei_dnn,
    "cascade-routing": Routing.fit,
}
"""Every policy that can be fitted, by the name that the command line and reports use."""

__all__ = [
    "FAMILIES",
    "STOP",
    "Deployable",
    "ExactOracle",
    "Learned",
    "Policy",
    "Seen",
    "SoftOracle",
    "Static",
    "family",
    "policy_from_json",
    "policy_to_json",
]


def family(name: str) -> Family[Deployable]:
    """The family of policies called `name`. Raises InputError where there is none."""
    if name not in FAMILIES:
        raise InputError(f"policy '{name}' is unknown; the policies are {', '.join(FAMILIES)}.")
    return FAMILIES[name]
