"""Arguments of the wrong type are refused in our words, wherever users call us."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

import offramp
from offramp import testing
from offramp.base.checked import accepts, checked
from offramp.base.errors import ArgumentError, InputError
from offramp.core.policy import Policy
from offramp.core.trace import Trace
from offramp.policies import Static
from offramp.runtime import Stages

CALLED = ("of", "read", "write", "losses", "split")  # of classes
MADE_BY_US = {  # records that functions return; nobody calls their constructors
    *("Losses", "Trace", "Seen", "Policy", "Certificate", "Work", "Outcome", "Point", "Plan"),
    *("Needs", "Evaluation", "Comparison", "Answers", "Exits", "Optimized", "OfframpError"),
}


class Wrong:
    """Of no type that anything asks for."""


def called() -> dict[str, Callable[..., Any]]:
    """Every function, constructor and class method that a user calls."""
    found: dict[str, Callable[..., Any]] = {}
    for name in offramp.__all__:
        value = getattr(offramp, name)
        if inspect.isfunction(value):
            found[name] = value
        elif inspect.isclass(value):
            found |= {} if name in MADE_BY_US else {name: value}
            methods = {m: getattr(value, m) for m in CALLED if callable(getattr(value, m, None))}
            found |= {f"{name}.{method}": each for method, each in methods.items()}
    return found


def test_there_is_much_to_call() -> None:
    assert {"fit", "bench", "Plan.read", "Trace.of", "OnnxRuntime", "Stage"} <= called().keys()


@pytest.mark.parametrize("name", called())
def test_every_argument_of_another_type_is_refused_in_a_sentence(name: str) -> None:
    function = called()[name]
    for parameter in inspect.signature(function).parameters:
        if parameter == "self":
            continue
        with pytest.raises(ArgumentError) as refused:
            function(**{parameter: Wrong()})
        said = str(refused.value)
        assert said.startswith(f"{name} asks for "), said
        assert f"as `{parameter}`, and a Wrong came. " in said
        assert said.endswith("."), said


SAID: list[tuple[Callable[[], object], str]] = [
    (
        lambda: offramp.fit("x", 0.01),  # type: ignore[arg-type]
        "fit asks for a Trace as `trace`, and the text 'x' came. Make one with Trace.read(...) or "
        "Trace.of(...).",
    ),
    (
        lambda: offramp.fit(testing.synthetic(30), "0.01"),  # type: ignore[arg-type]
        "fit asks for a number as `budget`, and the text '0.01' came. Write numbers without "
        "quotes.",
    ),
    (
        lambda: offramp.Trace.of([1, 2], costs={}),  # type: ignore[arg-type]
        "Trace.of asks for a mapping or an ArrowTable as `scores`, and a list came. See "
        "help(offramp.Trace.of).",
    ),
    (
        lambda: offramp.Plan.read(3),  # type: ignore[arg-type]
        "Plan.read asks for a text or a path as `path`, and 3 came. See help(offramp.Plan.read).",
    ),
    (
        lambda: offramp.compare(testing.synthetic(30), policies="margin"),
        "compare asks for a list or None as `policies`, and the text 'margin' came. Put "
        "it into a list: ['margin'].",
    ),
    (
        lambda: offramp.hull([1, 2]),  # type: ignore[list-item]
        "hull asks for a list of Point as `points`, and a list with 1 in it came. See "
        "help(offramp.hull).",
    ),
    (
        lambda: offramp.fit(testing.synthetic(30), 0.1, excess="gross"),  # type: ignore[arg-type]
        "fit asks for one of 'net', 'induced' as `excess`, and the text 'gross' came. See "
        "help(offramp.fit).",
    ),
]


@pytest.mark.parametrize(("call", "sentence"), SAID)
def test_the_sentence_says_what_was_asked_what_came_and_what_to_do(
    call: Callable[[], object], sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        call()
    assert str(refused.value) == sentence
    assert isinstance(refused.value, TypeError)  # as Python would have said


RIGHT: list[tuple[Any, object]] = [
    *((float, number) for number in (1, 0.5, np.float32(1), np.float64(2), np.int64(3))),
    *((int, number) for number in (1, np.int64(3))),
    *((bool, flag) for flag in (True, np.True_)),
    *((Literal["net", "induced"], name) for name in ("net", "induced")),
    *((Iterable[str], names) for names in (["a"], ("a",), {"a"}, (n for n in "a"), {"a": 1})),
    (Mapping[str, float], {"a": "left to those who know"}),
    (Callable[[int], int], abs),
    (str | Path | None, None),
    (Policy, Static.of(testing.synthetic(30).graph, "small")),
    (Stages, testing.MemoryRuntime.of(testing.synthetic(30))),
    (Any, Wrong()),
]
WRONG: list[tuple[Any, object]] = [
    *((float, value) for value in (True, "1", None, np.zeros(1), 1j)),
    *((int, value) for value in (True, 1.0, "1")),
    *((bool, value) for value in (1, "yes", None)),
    *((Literal["net", "induced"], value) for value in ("gross", None, 1, np.zeros(2))),
    *((Sequence[str], value) for value in ("ab", [1], b"ab", 3)),
    (Mapping[str, Trace], {"a": 1}),
    (tuple[str, ...], ("a", 1)),
    (Callable[[int], int], 3),
    (str | Path | None, 3),
    *((kind, value) for kind in (Policy, Stages) for value in (3, None, "margin")),
]


@pytest.mark.parametrize(("hint", "value"), RIGHT)
def test_what_fits_is_accepted(hint: Any, value: object) -> None:
    assert accepts(hint, value)


@pytest.mark.parametrize(("hint", "value"), WRONG)
def test_what_does_not_fit_is_not(hint: Any, value: object) -> None:
    assert not accepts(hint, value)


def test_a_checked_function_stays_what_it_is() -> None:
    def double(number: float, *, times: int = 1) -> float:
        """Twice."""
        return number * 2.0**times

    found = checked(double)
    assert (found(2), found(2, times=2), found.__doc__) == (4, 8, "Twice.")
    assert inspect.signature(found) == inspect.signature(double)
    with pytest.raises(TypeError, match="missing 1 required"):
        found()  # type: ignore[call-arg]
