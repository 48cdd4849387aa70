"""Everything that offramp raises, split by who can act.

    OfframpError                every one of them; the command line turns it into exit code 2
    ├── InputError              the caller can mend what was given
    │   ├── ArgumentError       an argument of another type than asked for; a TypeError as well
    │   ├── GraphError          stages, edges, reference
    │   ├── DataError           examples: files, images, labels
    │   ├── ScoresError         what a stage said: shape, NaN, probabilities and logits mixed
    │   ├── LossError           a loss, or its values
    │   ├── CostError           costs: missing, negative, unknown stages
    │   ├── BudgetError         a budget, a confidence or a share outside its range
    │   ├── TraceError          a trace that cannot be read, or does not fit
    │   ├── PlanError           a plan that cannot be read, is newer, or does not match its networks
    │   └── NetworkError        an ONNX file: does not load, or fails on these rows
    └── MachineError            the machine must change first
        ├── MissingExtra        an optional dependency; the message names the install line
        ├── StorageError        a full disk, a folder that cannot be written
        ├── Overloaded          a server without room; `retry_after_s` says when to come again
        └── TooLate             a server that could not answer before the deadline

    OfframpWarning              what its user should know, though it goes on; shown once

A message says what was asked, what came, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class OfframpError(Exception):
    """Every error that offramp raises on purpose."""


class OfframpWarning(UserWarning):
    """What the user should know, though it goes on."""


class InputError(OfframpError):
    """The caller can mend what was given."""


class ArgumentError(InputError, TypeError):
    """An argument of another type than asked for."""


class GraphError(InputError):
    """Stages, edges or the reference do not make a graph."""


class DataError(InputError):
    """Examples that cannot be read."""


class ScoresError(InputError):
    """Scores that cannot be used."""


class LossError(InputError):
    """A loss that is unknown, or whose values lie outside [0, 1]."""


class CostError(InputError):
    """Costs that are missing, negative, or for unknown stages."""


class BudgetError(InputError):
    """A budget, a confidence or a share outside its range."""


class TraceError(InputError):
    """A trace that cannot be read, or does not fit what is asked of it."""


class PlanError(InputError):
    """A plan that cannot be read or does not match its networks."""


class NetworkError(InputError):
    """An ONNX file that does not load or does not run."""


class MachineError(OfframpError):
    """The machine must change before this can work."""


class MissingExtra(MachineError):  # noqa: N818 - reads as the situation, not as a class of errors
    """An optional dependency is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(
            f"this needs {module}, which is not installed. Run: pip install 'offramp[{extra}]'"
        )


class StorageError(MachineError):
    """The disk is full, or a folder cannot be written."""


class Overloaded(MachineError):  # noqa: N818 - reads as the situation
    """A server has no room for a request now."""

    def __init__(self, sentence: str, retry_after_s: float) -> None:
        super().__init__(sentence)
        self.retry_after_s: float = retry_after_s


class TooLate(MachineError):  # noqa: N818 - reads as the situation
    """A request was not answered before its deadline."""


@contextmanager
def foreign(error: type[InputError], what: str, advice: str = "") -> Iterator[None]:
    """Raises `error` in place of whatever another library, or a user's code, raises.

    Decoders, engines and readers raise dozens of kinds for the same thing, and `sys.exit` counts as
    one; this is the one place that turns them into ours. Only their own calls belong inside.

    Args:
        error: ours.
        what: went wrong, a sentence without its end; the reason follows.
        advice: a sentence that says what to do.
    """
    try:
        yield
    except (OfframpError, BrokenPipeError):
        raise
    except (Exception, SystemExit) as problem:
        raise error(f"{what}: {reason(problem)}. {advice}".rstrip()) from problem


def reason(problem: BaseException) -> str:
    """What an exception says, on one line, or its name where it says nothing."""
    name = type(problem).__name__
    said = problem.strerror if isinstance(problem, OSError) and problem.strerror else str(problem)
    line = " ".join(said.split()).rstrip(".")
    if isinstance(problem, SystemExit):
        return f"it called sys.exit({line})"
    if isinstance(problem, OSError):
        return line[:500] or name
    return f"{name}: {line[:500]}" if line else name
