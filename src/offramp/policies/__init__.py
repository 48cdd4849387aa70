"""Policies by name: the learned one, rules and baselines, all behind one protocol."""

from __future__ import annotations

from collections.abc import Mapping

from offramp.errors import InputError
from offramp.policies.baselines import ExactOracle, SoftOracle, Static
from offramp.policies.encoding import Deployable, policy_from_json, policy_to_json
from offramp.policies.learned import Learned
from offramp.policies.protocol import STOP, Family, Policy, Seen
from offramp.policies.rules import Alike, Threshold, Thresholds

FAMILIES: Mapping[str, Family[Deployable]] = {
    "learned": Learned.fit,
    "myopic": lambda trace, losses: Threshold.fit("myopic", trace),
    "margin": lambda trace, losses: Threshold.fit("margin", trace),
    "entropy": lambda trace, losses: Threshold.fit("entropy", trace),
    "thresholds": Thresholds.fit,
    "patience": lambda trace, losses: Alike.fit("patience", trace),
    "agreement": lambda trace, losses: Alike.fit("agreement", trace),
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
