"""What offramp raises, for those who catch it."""

from offramp.base.errors import (
    BudgetError,
    CostError,
    DataError,
    GraphError,
    InputError,
    LossError,
    MachineError,
    MissingExtra,
    NetworkError,
    OfframpError,
    OfframpWarning,
    PlanError,
    ScoresError,
    StorageError,
    TraceError,
)

__all__ = [
    "BudgetError",
    "CostError",
    "DataError",
    "GraphError",
    "InputError",
    "LossError",
    "MachineError",
    "MissingExtra",
    "NetworkError",
    "OfframpError",
    "OfframpWarning",
    "PlanError",
    "ScoresError",
    "StorageError",
    "TraceError",
]
