"""Who may see which rows of a trace: some teach and are shown, others are sealed and certify.

Rows open in an order that the examples fix (`offramp.base.hashing`). Everything but certificates
and evaluations opens them from the front, up to the seal; what was never opened certifies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from offramp.base import hashing
from offramp.base.arrays import AnyArray, BoolArray
from offramp.base.errors import BudgetError, TraceError
from offramp.core.trace import Trace

Repeats = Literal["copies", "real"]
FEWEST = 20  # examples to learn from, and to certify on; below, nothing is worth an answer
SYSTEM = ("networks", "preprocessing")  # what a recording says of the system besides its graph
_SURE = 5.0  # standard errors
_MANY = 0.01  # share of rows that repeat others, above which somebody must say what they are


def asked(trace: Trace, share: float | None) -> int:
    """How many rows a share asks for; None: all that are not sealed.

    Raises:
        BudgetError: a share outside (0, 1), or larger than what the seal leaves.
    """
    if share is None:
        return trace.unsealed
    if not 0 < share < 1:
        raise BudgetError(f"the learning share is {share}; it must lie between 0 and 1.")
    count = round(share * trace.examples)
    if trace.seal is not None and count > trace.unsealed:
        raise BudgetError(
            f"the learning share is {share}, but {trace.seal:.4g} of this trace is sealed. Ask for "
            f"at most {1 - trace.seal:.4g}, or make the trace again with another --seal."
        )
    return count


def front(trace: Trace, count: int) -> Trace:
    """The first rows of the order in which they open."""
    return trace.take(trace.opening[:count])


def opened(trace: Trace, by: str, count: int) -> None:
    """Remembers that the first rows were opened, so that they certify no more.

    Args:
        trace: with all its rows.
        by: who opens them, for the ledger.
        count: of the rows.

    Raises:
        StorageError: the ledger cannot be written.
    """
    if count:
        trace.ledger.open(by, _turn(trace, count))


def shown(trace: Trace, by: str) -> Trace:
    """All rows that are not sealed, in their order, opened.

    Raises:
        StorageError: the ledger cannot be written.
    """
    opened(trace, by, trace.unsealed)
    return front(trace, trace.unsealed)


def sealed(trace: Trace, count: int = 0) -> Trace:
    """The rows beyond the first `count` that nobody has opened, in their order: these certify.

    Raises:
        TraceError: there are none.
    """
    mark = max(trace.ledger.mark, _turn(trace, count) if count else -1)
    rows = trace.opening
    if mark >= 0:
        rows = rows[trace.turns[rows] > np.uint64(mark)]
    if not len(rows):
        raise TraceError(
            "every row of this trace has been opened to learn from or to be shown, so that none "
            "can certify. Certify on others: --certify TRACE."
        )
    return trace.take(rows)


def _turn(trace: Trace, count: int) -> int:
    return int(trace.turns[trace.opening[count - 1]])


def distinct(trace: Trace, repeats: Repeats | None) -> Trace:
    """The trace with each example as often as it counts.

    Copies of one example are no further draws from a population; equal rows of a table with few
    values are. Nothing in the rows tells which: somebody must say.

    Args:
        trace: with all its rows.
        repeats: `copies` keeps one of equal rows, and none where only another one of them was
            opened; `real` keeps all; None asks where more than 1 % repeat others.

    Raises:
        TraceError: many rows repeat others and `repeats` is None.
    """
    again = hashing.repeats(trace.identity) > 0
    if repeats == "real" or not again.any():
        return trace
    if repeats is None:
        if again.mean() > _MANY:
            raise TraceError(
                f"{again.sum()} of {trace.examples} examples repeat others (the same "
                f"{trace.hash_of}). Copies are no further evidence: say --repeats copies to count "
                "each once, or --repeats real if examples come with few different values and "
                "these were drawn one by one."
            )
        return trace
    _, group = np.unique(trace.identity, return_inverse=True)
    earliest = np.full(group.max() + 1, np.iinfo(np.uint64).max, dtype=np.uint64)
    np.minimum.at(earliest, group, trace.turns)
    seen = trace.ledger.mark >= 0
    mark = np.uint64(max(0, trace.ledger.mark))
    half_seen = (earliest[group] <= mark) & (trace.turns > mark) if seen else np.zeros_like(again)
    return _kept(trace, ~again & ~half_seen)


def unshared(learning: Trace, certifying: Trace, repeats: Repeats | None) -> Trace:
    """The examples of `certifying` that are not among those of `learning`.

    Raises:
        TraceError: they are the same examples, in whatever order; or more than 1 % are shared and
            nobody says by `repeats` what that means.
    """
    taught, found = _comparable(learning, certifying)
    shared = np.isin(found, taught)
    if len(found) == len(taught) and bool((np.sort(found) == np.sort(taught)).all()):
        raise TraceError(
            "the trace to certify on holds the same examples as the one to learn from; a promise "
            "needs examples that taught nothing. Leave --certify out, or record others."
        )
    if not shared.any():
        return certifying
    if repeats == "real":
        _check_chance(taught, shared)
        return certifying
    if repeats is None and shared.mean() > _MANY:
        raise TraceError(
            f"{shared.sum()} of the {len(found)} examples to certify on are among those to learn "
            "from. Record others; or say --repeats copies to leave these out, or --repeats real "
            "if examples come with few different values and were drawn one by one."
        )
    return _kept(certifying, ~shared)


def _comparable(one: Trace, other: Trace) -> tuple[AnyArray, AnyArray]:
    """What tells the examples of both apart, as far as both know it."""
    if one.hash_of == other.hash_of == "inputs":
        return one.identity, other.identity
    if one.labels is None or other.labels is None:
        one, other = replace(one, labels=None), replace(other, labels=None)
    return one.score_hashes, other.score_hashes


def _check_chance(taught: AnyArray, shared: BoolArray) -> None:
    """Raises TraceError where more examples are shared than draws of few values would be.

    Source: the chance of a value that was not yet seen is about the share of values that were seen
        once (Good 1953, The population frequencies of species).
    """
    _, counts = np.unique(taught, return_counts=True)
    expected = 1 - (counts == 1).sum() / len(taught)
    noise = np.sqrt(expected * (1 - expected) * (1 / len(taught) + 1 / len(shared)))
    if shared.mean() > expected + _SURE * noise + _MANY:
        raise TraceError(
            f"{shared.sum()} of the {len(shared)} examples to certify on are among those to learn "
            f"from, where draws would share about {expected:.0%}: they taught. Record others."
        )


def fresh(trace: Trace) -> Trace:
    """The examples that did not train the heads of exits.

    Raises:
        TraceError: more than 1 % of them did.
    """
    if trace.taught is None or not trace.taught.any():
        return trace
    if trace.taught.mean() > _MANY:
        raise TraceError(
            f"{trace.taught.sum()} of {trace.examples} examples trained heads of these exits, "
            "which answer them better than any others: they certify nothing. Record examples "
            "that `offramp exits` has not seen."
        )
    return _kept(trace, ~trace.taught)


def _kept(trace: Trace, rows: BoolArray) -> Trace:
    """Some rows of a trace, with its ledger and seal."""
    return replace(trace.take(rows), seal=trace.seal, ledger=trace.ledger)


def check_alike(trace: Trace, other: Trace, what: str) -> None:
    """Raises TraceError where two traces are not of the same system, as far as both say.

    Args:
        trace: the one that is learned from, or what a plan says of it.
        other: the one that certifies, or is evaluated.
        what: how to call the other one.
    """
    if other.graph != trace.graph or other.classes != trace.classes:
        raise TraceError(f"{what} was recorded with another graph.")
    check_same(system(trace), system(other), what)


def system(trace: Trace) -> dict[str, Any]:
    """What a trace says of the system that it was recorded with."""
    return {name: trace.info[name] for name in SYSTEM if name in trace.info} | {
        "unit of cost": trace.costs.unit,
        "kinds of scores": {stage: trace.kinds[stage] for stage in trace.graph.order},
    }


def check_same(one: Mapping[str, Any], other: Mapping[str, Any], what: str) -> None:
    """Raises TraceError where something that both name differs."""
    for name, value in one.items():
        if other.get(name, value) != value:
            raise TraceError(
                f"{what} was recorded with other {name}: {_short(other[name])}, not "
                f"{_short(value)}. A promise holds for what it was certified with; record "
                "the same system again."
            )


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else "others"
