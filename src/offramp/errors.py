"""What offramp raises, for those who catch it."""

from offramp.base.errors import (
    ArgumentError,
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
    "ArgumentError",
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
