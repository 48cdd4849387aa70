"""Policies by name: the learned one, rules and baselines, all behind one protocol."""

from offramp.core.policy import STOP, Policy, Seen, Static
from offramp.policies.alike import VOTES
from offramp.policies.baselines import ExactOracle, SoftOracle
from offramp.policies.cascade_routing import ROUTING
from offramp.policies.families import (
    FAMILIES,
    Deployable,
    Family,
    Saved,
    family,
    policy_from_json,
    policy_to_json,
    register,
)
from offramp.policies.gates import GATES
from offramp.policies.learned import LEARNED, Learned
from offramp.policies.operators import Decision, Dial, Memory, SeenTensors
from offramp.policies.rules import RULES
from offramp.policies.thresholds import THRESHOLDS
from offramp.policies.tuners import TUNERS

__all__ = [
    "FAMILIES",
    "STOP",
    "Decision",
    "Deployable",
    "Dial",
    "ExactOracle",
    "Family",
    "Learned",
    "Memory",
    "Policy",
    "Saved",
    "Seen",
    "SeenTensors",
    "SoftOracle",
    "Static",
    "family",
    "policy_from_json",
    "policy_to_json",
    "register",
]

# in the order in which tables name them
register(*LEARNED, *RULES, *THRESHOLDS, *TUNERS, *VOTES, *GATES, *ROUTING)
