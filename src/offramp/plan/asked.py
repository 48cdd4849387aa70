"""What a plan is asked for, as three records.

A field that is annotated with a sentence is an option of the command line, which says it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any

from offramp.base.errors import BudgetError, InputError
from offramp.core import tasks
from offramp.core.prices import Prices
from offramp.core.tasks import Excess
from offramp.core.trace import Trace
from offramp.learn.teach import AUTO, Ways
from offramp.policies import Family, family
from offramp.promise.certify import check_promise
from offramp.promise.split import Repeats


@dataclass(frozen=True)
class AtLeast:
    """The smallest value that an option takes."""

    value: int


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What is promised.

    Raises:
        BudgetError: a number out of range.
        InputError: no budget, or one that is given twice.
    """

    budgets: tuple[float, ...]  # excess losses given up, fractions in [0, 1]
    confidence: Annotated[float, "Chance that the promise holds."] = 0.95
    excess: Annotated[Excess, "net: gains make up for losses."] = "net"
    loss: str | None = None  # top1, top5, module:function; None: the trace's own, else top1
    unlabelled: Annotated[bool, "Loss is disagreement with the reference."] = False
    looks: Annotated[int, "Looks at the sealed rows that share the error.", AtLeast(1)] = 1

    def __post_init__(self) -> None:
        if not self.budgets:
            raise InputError("there is no budget; give one, or several: 0.005,0.01.")
        if len(set(self.budgets)) < len(self.budgets):
            raise InputError("a budget is given twice; give each once.")
        for budget in self.budgets:
            check_promise(budget, self.confidence)
        if not isinstance(self.looks, int) or self.looks < 1:
            raise BudgetError(f"the number of looks is {self.looks}; it must be at least 1.")

    @property
    def loss_name(self) -> str | None:
        return tasks.DISAGREEMENT if self.unlabelled else self.loss

    @property
    def error(self) -> float:
        """Chance that the promises of one look fail together, in (0, 1)."""
        return (1 - self.confidence) / self.looks


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What may run, and how it is learned.

    Raises:
        InputError: an unknown policy; all stages are kept, and searched for.
    """

    policy: Annotated[str | Family, "What decides; auto chooses."] = AUTO
    keep_stages: Annotated[bool, "All stages take part, whether they pay or not."] = False
    pool: Annotated[bool, "Any stage may follow any cheaper one; edges don't count."] = False
    committees: Annotated[bool, "Stages may answer with all scores paid for, where it helps."] = (
        True
    )
    refit: Annotated[bool, "Mend scores on labels; the reference's as well."] = False
    prices: Prices | None = None  # None: costs as recorded

    def __post_init__(self) -> None:
        if self.policy != AUTO:
            family(self.policy)  # raises where there is none
        if self.keep_stages and self.pool:
            raise InputError(
                "--pool searches for the stages that take part, and --keep-stages keeps all; "
                "leave one of them out."
            )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Which rows teach and which certify."""

    learn_share: Annotated[
        float | None, "Part of TRACE to learn from. Default: what is not sealed."
    ] = None
    repeats: Annotated[Repeats | None, "What rows are that repeat others, where many do."] = None
    seed: Annotated[int, "Of the folds.", AtLeast(0)] = 0
    certify_on: Trace | None = None  # learn from all of the trace, certify on these


@dataclass(frozen=True, kw_only=True)
class Asked:
    """All that is asked for, besides the examples."""

    promise: Promise
    choices: Choices = field(default_factory=Choices)
    split: Split = field(default_factory=Split)

    @classmethod
    def of(cls, *budgets: float, **options: Any) -> Asked:
        """The records that hold these options of `fit`, by name.

        Raises:
            As the records; InputError: no such option.
        """
        owners = {f.name: record for record in (Promise, Choices, Split) for f in fields(record)}
        unknown = [name for name in options if name not in owners]
        if unknown:
            raise InputError(f"there is no option '{unknown[0]}'; there are {', '.join(owners)}.")

        def given(record: type) -> dict[str, Any]:
            return {name: value for name, value in options.items() if owners[name] is record}

        return cls(
            promise=Promise(budgets=budgets, **given(Promise)),
            choices=Choices(**given(Choices)),
            split=Split(**given(Split)),
        )

    def ways(self, budget: float, certifying: int) -> Ways:
        """What counts in learning for one of the budgets, where so many examples certify."""
        promise, choices = self.promise, self.choices
        return Ways(
            loss=promise.loss_name,
            excess=promise.excess,
            unlabelled=promise.unlabelled,
            committees=choices.committees,
            keep_stages=choices.keep_stages,
            pool=choices.pool,
            prices=choices.prices,
            budgets=(budget,),
            error=promise.error / len(promise.budgets),
            certifying=certifying,
            seed=self.split.seed,
        )
