"""What the options of the command line mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from offramp import tasks
from offramp.errors import BudgetError, CostError, GraphError, InputError, LossError
from offramp.graph import Costs, Stage, whole
from offramp.preprocessing import Preprocessing

N = TypeVar("N", int, float)
WHOLE = whole("")  # after the name of a stage: its network, uncut


def files(networks: list[str]) -> dict[str, Path]:
    """ "small=a.onnx", or "big=GRAPH" made by `offramp exits`, as name -> path, in order."""
    found: dict[str, Path] = {}
    for text in networks:
        name, _, file = text.partition("=")
        if not (name and file):
            raise GraphError(f"'{text}' is not of the form NAME=FILE.onnx or NAME=GRAPH.")
        if name in found:
            raise GraphError(f"stage '{name}' is given twice; every stage needs its own name.")
        if not Path(file).exists():
            raise GraphError(f"the network of stage '{name}', {file}, does not exist.")
        found[name] = Path(file)
    return found


def points(text: str) -> list[str] | None:
    """ "auto" as None, "a,b" as names of tensors or modules."""
    if text == "auto":
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"--at {text} holds an empty name; give auto, outputs, or names: a,b.")
    return names


def policies(text: str | None) -> list[str] | None:
    """ "learned,margin" as names of policies; None is all of them."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"--policies {text} holds an empty name; give names: learned,margin.")
    return names


def costs(text: str, unit: str) -> Costs:
    """ "small=41,big=126" as costs; 40+2 is body + head, big.whole=120 what big costs uncut."""
    body: dict[str, float] = {}
    head: dict[str, float] = {}
    uncut: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if not (name and value):
            raise CostError(f"'{part}' is not of the form STAGE=COST, for example small=41.")
        stage = name.removesuffix(WHOLE)
        if name in body or (stage != name and stage in uncut):
            raise CostError(f"stage '{name}' has two costs; give one.")
        if stage != name:
            uncut[stage] = _cost(name, value)
            continue
        amounts = value.split("+")
        if len(amounts) > 2:
            raise CostError(f"'{value}' is not a cost; it is BODY, or BODY+HEAD.")
        numbers = [_cost(name, amount) for amount in amounts]
        body[name], head[name] = numbers[0], sum(numbers[1:])
    return Costs(body, head, unit, whole=uncut)


def stages(text: str) -> list[Stage]:
    """Which body continues which, from the same text: one with a head hands on to the next.

    "small=41,e1=43+5,e2=41+4,big=41" is a network, and another one with two exits.
    """
    found: list[Stage] = []
    before: str | None = None
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name.endswith(WHOLE):
            continue
        found.append(Stage(name, before))
        before = name if "+" in value else None
    return found


def _cost(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CostError(f"the cost of stage '{name}' is '{text}', which is no number.") from None


def preprocessing(
    size: str | None, mean: str | None, std: str | None, layout: str
) -> Preprocessing | None:
    """The preprocessing that the options describe; None without a size."""
    if size is None:
        if mean or std:
            raise GraphError("--mean and --std say how images are read; give --size as well.")
        return None
    numbers = _numbers(size.replace("x", ","), "--size", int)
    height, width = numbers * 2 if len(numbers) == 1 else numbers
    means = _numbers(mean, "--mean", float) if mean else None
    deviations = _numbers(std, "--std", float) if std else None
    channels = len(means or deviations or (0.0, 0.0, 0.0))
    return Preprocessing(
        (int(height), int(width)),
        means or (0.0,) * channels,
        deviations or (1.0,) * channels,
        layout,  # type: ignore[arg-type]  # Preprocessing checks it
    )


def _numbers(text: str, option: str, number: Callable[[str], N]) -> tuple[N, ...]:
    try:
        return tuple(number(part) for part in text.split(","))
    except ValueError:
        raise GraphError(
            f"{option} is '{text}'; it must be numbers, separated by commas."
        ) from None


def batches(text: str) -> list[int]:
    """ "1,64" as batch sizes."""
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputError(f"--batch is '{text}'; it must be sizes of at least 1, such as 1,64.")
    return sizes


def budgets(text: str) -> list[float]:
    """ "0.005,0.01" as budgets."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise BudgetError(
            f"--budget is '{text}'; it is the accuracy given up, such as 0.005, or several: "
            "0.005,0.01."
        ) from None


def loss(name: str | None, unlabelled: bool) -> str | None:
    """The name of the loss that --loss and --unlabelled ask for."""
    if name and unlabelled:
        raise LossError("--unlabelled measures disagreement with the reference; leave out --loss.")
    return tasks.DISAGREEMENT if unlabelled else name
