"""Arguments of the wrong type, refused in a sentence before anything is done with them.

What users call is checked at the door against its own annotations: there is nothing to keep in step
with it by hand.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from offramp.base.errors import ArgumentError

F = TypeVar("F", bound=Callable[..., Any])
_MAKERS = ("read", "of", "build")  # class methods by which one comes to one
_LONGEST = 40  # characters of a text that are shown


def checked(called: F) -> F:
    """A function, or a class of which the constructor is meant, that looks at its arguments.

    Raises:
        ArgumentError: when it is called with an argument of another type than it says.
    """
    if isinstance(called, type):
        called.__init__ = checked(called.__init__)  # type: ignore[misc]
        return called
    names, hints = [*inspect.signature(called).parameters], dict[str, Any]()

    @wraps(called)
    def entered(*args: Any, **kwargs: Any) -> Any:
        if not hints:  # once all modules are there
            hints.update(get_type_hints(called))
        for name, value in [*zip(names, args, strict=False), *kwargs.items()]:
            if name in hints and not accepts(hints[name], value):
                raise ArgumentError(_sentence(called, name, hints[name], value))
        return called(*args, **kwargs)

    return entered  # type: ignore[return-value]


def accepts(hint: Any, value: object) -> bool:
    """Whether a value is of the type that an annotation says, and what it holds of a class of ours.

    Numbers and texts inside mappings are left to those who know what they stand for.
    """
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return any(accepts(each, value) for each in arguments)
    if origin is Literal:
        return any(value is each or value == each for each in arguments if isinstance(value, str))
    if hint in _PLAIN:
        return _PLAIN[hint](value)
    if not isinstance(origin, type):
        return True
    if getattr(origin, "_is_protocol", False):
        return all(hasattr(value, name) for name in _members(origin))
    if origin.__name__ == "ndarray":
        return isinstance(value, origin) or hasattr(value, "__array__")
    if not isinstance(value, origin) or (origin in _MANY and isinstance(value, str | bytes)):
        return False
    return all(accepts(hint, each) for hint, each in _inside(origin, arguments, value))


_PLAIN: dict[Any, Callable[[Any], bool]] = {
    Any: lambda value: True,
    float: lambda value: isinstance(value, Real) and not isinstance(value, bool),
    int: lambda value: isinstance(value, Integral) and not isinstance(value, bool),
    bool: lambda value: isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"),
}
_MANY = (Iterable, Sequence)


def _members(protocol: type) -> set[str]:
    """What a protocol asks for."""
    kinds = [kind for kind in protocol.__mro__ if getattr(kind, "_is_protocol", False)]
    named = {name for kind in kinds for name in (*vars(kind), *inspect.get_annotations(kind))}
    return {name for name in named if not name.startswith("_") or name.startswith("__arrow")}


def _inside(origin: Any, arguments: tuple[Any, ...], value: Any) -> list[tuple[Any, object]]:
    """What is held, each with the annotation that it must fit; generators are not used up."""
    if origin is Mapping and len(arguments) == 2 and _ours(arguments[1]):
        return [(arguments[1], each) for each in value.values()]
    if origin in _MANY and isinstance(value, list | tuple):
        return [(arguments[0], each) for each in value] if arguments else []
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return [(arguments[0], each) for each in value]
    return []


def _ours(hint: Any) -> bool:
    return isinstance(hint, type) and hint.__module__.startswith("offramp.")


def _sentence(called: Callable[..., Any], name: str, hint: Any, value: object) -> str:
    asks = called.__qualname__.removesuffix(".__init__")
    advice = _advice(hint, value) or f"See help(offramp.{asks})."
    return f"{asks} asks for {_wanted(hint)} as `{name}`, and {_came(hint, value)} came. {advice}"


def _came(hint: Any, value: object) -> str:
    """What came, and what it holds that should not be there."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    inside = _inside(origin, arguments, value) if isinstance(value, _HOLDING) else []
    wrong = next((each for inner, each in inside if not accepts(inner, each)), None)
    return _given(value) + ("" if wrong is None else f" with {_given(wrong)} in it")


_HOLDING = (list, tuple, Mapping)


def _wanted(hint: Any) -> str:
    """An annotation in words."""
    origin, arguments = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_wanted, arguments)))
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if hint in _WORDS or origin in _WORDS:
        return _WORDS.get(hint) or _WORDS[origin]
    if origin.__name__ == "ndarray":
        return "a numpy array"
    if origin in (*_MANY, list, tuple):
        inner = [each for each in arguments[:1] if hasattr(each, "__name__")]
        return "a list" + "".join(f" of {_plain(each)}" for each in inner)
    return _with_article(origin.__name__)


_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "True or False",
    str: "a text",
    Path: "a path",
    type(None): "None",
    Mapping: "a mapping",
    Callable: "a function",
}


def _plain(kind: Any) -> str:
    return str(_WORDS.get(kind, kind.__name__)).removeprefix("a ")


def _given(value: object) -> str:
    """What came, in words."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return f"the text {value[:_LONGEST]!r}"
    if type(value).__name__ == "ndarray":
        return f"an array of shape {value.shape}"  # type: ignore[attr-defined]
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return _with_article(type(value).__name__)


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOaeio' else 'a'} {noun}"


def _advice(hint: Any, value: object) -> str:
    """What to do, where it can be told from the types."""
    kinds = [get_origin(each) or each for each in (hint, *get_args(hint))]
    if isinstance(value, str) and (float in kinds or int in kinds):
        return "Write numbers without quotes."
    if isinstance(value, str) and any(kind in _MANY for kind in kinds):
        return f"Put it into a list: [{value[:_LONGEST]!r}]."
    if isinstance(value, str) and Path in kinds:
        return f"Write Path({value[:_LONGEST]!r})."
    makers = [
        f"{kind.__name__}.{name}(...)"
        for kind in kinds
        for name in _MAKERS
        if _ours(kind) and hasattr(kind, name)
    ]
    return f"Make one with {' or '.join(makers)}." if makers else ""
