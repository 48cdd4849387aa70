"""What the options of the command line mean."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from offramp.base.errors import BudgetError, CostError, GraphError, InputError, LossError
from offramp.core import tasks
from offramp.core.graph import Costs, Stage, whole
from offramp.core.tasks import Kind
from offramp.networks.classes import read_class_names
from offramp.networks.forms import Outputs

WHOLE = whole("")  # after the name of a stage: its network, uncut
_PLUS = re.compile(r"(?<=[0-9.\s])\+")  # between body and head, no sign of an exponent
_DIGITS = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|-?(nan|inf|infinity)", re.I)
_DEAREST = 1e38  # of all stages together: exported plans count in float32


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


def one_or_more(networks: list[str]) -> Path | dict[str, Path]:
    """ "big.onnx" alone, or several NAME=FILE, the reference last."""
    if len(networks) == 1 and "=" not in networks[0]:
        return Path(networks[0])
    return files(networks)


def outputs(output: list[str], kind: list[str], classes: list[str]) -> Outputs:
    """What --output, --kind and --classes say of networks, each NAME=VALUE."""
    kinds = _by_network("kind", "sigmoid", kind)
    for name, value in kinds.items():
        if value not in get_args(Kind):
            raise GraphError(f"--kind {name}={value}: it is one of {', '.join(get_args(Kind))}.")
    files = _by_network("classes", "labels.txt", classes)
    return Outputs(
        output=_by_network("output", "probabilities", output),
        kind=cast(dict[str, Kind], kinds),
        classes={name: read_class_names(Path(file)) for name, file in files.items()},
    )


def _by_network(option: str, example: str, texts: list[str]) -> dict[str, str]:
    """ "big=VALUE", once for each network."""
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not (name and value):
            raise GraphError(f"--{option} {text} is not of the form NAME=VALUE: big={example}.")
        if name in found:
            raise GraphError(f"--{option} is given twice for '{name}'; give it once.")
        found[name] = value
    return found


def exit_names(text: str) -> list[str] | None:
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
        name, _, value = (piece.strip() for piece in part.partition("="))
        if not (name and value):
            raise CostError(
                f"'{part.strip()}' is not of the form STAGE=COST, for example small=41,big=126. "
                "A comma stands between stages, not inside numbers."
            )
        stage = name.removesuffix(WHOLE)
        if name in body or (stage != name and stage in uncut):
            raise CostError(f"stage '{name}' has two costs; give one.")
        if stage != name:
            uncut[stage] = _cost(name, value)
            continue
        body[name], *rest = [_cost(name, amount) for amount in _amounts(value)]
        head[name] = sum(rest)
    if (total := sum([*body.values(), *head.values(), *uncut.values()])) > _DEAREST:
        raise CostError(
            f"the costs add up to {total:.4g}; choose a larger --cost-unit, in which they stay "
            f"below {_DEAREST:.0e}."
        )
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
        before = name if len(_amounts(value)) == 2 else None
    return found


def chosen(text: str | None, cost: str | None) -> list[Stage] | None:
    """ "small,big" as the stages that take part; else those of `--cost`; None: neither says."""
    if text is None:
        return None if cost is None else stages(cost)
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise InputError(f"--stages {text} holds an empty name; give names: small,big.")
    known = {stage.name: stage for stage in (stages(cost) if cost else [])}
    return [known.get(name, Stage(name)) for name in names]


def _amounts(value: str) -> list[str]:
    """ "4.1e+07+2" as body and head: a plus after the e of a number belongs to it."""
    amounts = _PLUS.split(value)
    if len(amounts) > 2:
        raise CostError(f"'{value}' is not a cost; it is BODY, or BODY+HEAD.")
    return amounts


def _cost(name: str, text: str) -> float:
    try:
        cost = number_of(text)
    except ValueError:
        raise CostError(
            f"the cost of stage '{name}' is '{text}', which is no number. Write digits, such as "
            "41, 0.5 or 4.1e+07; name units with --cost-unit."
        ) from None
    if not math.isfinite(cost) or cost < 0:
        raise CostError(
            f"the cost of stage '{name}' is {text.strip()}; it must be finite and at least 0."
        )
    return cost


def number_of(text: str) -> float:
    """A number in plain digits. Raises ValueError: Python's own 1_000 reads like a slip here."""
    if not _DIGITS.fullmatch(text.strip()):
        raise ValueError(text)
    return float(text)


def whole_number(text: str) -> int:
    """As `_number`, a whole one."""
    number = number_of(text)
    if not number.is_integer():
        raise ValueError(text)
    return int(number)


Given = Sequence[str] | str | None  # the values of an option that may be given several times
_NEXT = re.compile(r",(?=[A-Za-z0-9_-]+=)")  # between NAME=VALUE and the next


def by_name(given: Given, option: str) -> dict[str, str]:
    """["224"] as {"": "224"}, for all; "small=224,big=260" and the like by name.

    Raises:
        GraphError: something is said twice.
    """
    texts = [given] if isinstance(given, str) else [*(given or ())]
    found: dict[str, str] = {}
    for part in (part for text in texts for part in _NEXT.split(text)):
        name, equals, value = part.partition("=")
        name, value = (name.strip(), value) if equals else ("", part)
        if name in found:
            whose = f"'{name}'" if name else "all networks"
            raise GraphError(f"{option} is given twice for {whose}; give one value.")
        found[name] = value.strip()
    return found


def reads(given: Sequence[str] | None) -> dict[str, dict[str, str]]:
    """ "small.pixels=image,big.ids=big_ids" as the field that each input of a network reads.

    Raises:
        GraphError: it is of another form, or something is said twice.
    """
    found: dict[str, dict[str, str]] = {}
    for part in (part for text in given or () for part in text.split(",")):
        end, _, name = (piece.strip() for piece in part.partition("="))
        network, _, read = end.partition(".")
        if not (network and read and name):
            raise GraphError(
                f"--reads holds '{part.strip()}', which is not of the form NETWORK.INPUT=FIELD, "
                "for example small.pixels=image,big.ids=big_ids."
            )
        own = found.setdefault(network, {})
        if own.setdefault(read, name) != name:
            raise GraphError(
                f"--reads says that '{end}' reads '{own[read]}' and '{name}'; an input reads one "
                "field. Leave one out."
            )
    return found


def batches(text: str) -> list[int]:
    """ "1,64" as batch sizes."""
    try:
        sizes = [whole_number(part) for part in text.split(",")]
    except ValueError:
        sizes = []
    if not sizes or min(sizes) < 1:
        raise InputError(f"--batch is '{text}'; it must be sizes of at least 1, such as 1,64.")
    return sizes


def budgets(text: str) -> tuple[float, ...]:
    """ "0.005,0.01" as budgets."""
    try:
        return tuple(float(part) for part in text.split(","))
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


def seconds(text: str, option: str) -> float:
    """ "50ms" or "0.5s" as seconds.

    Raises:
        InputError: it is of another form.
    """
    number, unit = (text[:-2], 1e-3) if text.endswith("ms") else (text.removesuffix("s"), 1.0)
    try:
        found = number_of(number) * unit
    except ValueError:
        found = 0.0
    if not (found > 0 and math.isfinite(found) and text.endswith("s")):
        raise InputError(f"{option} is '{text}'; it is a time such as 50ms or 0.5s.")
    return found
