"""The time of requests as what a plan costs, measured on a plan as it will decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from offramp.core.trace import Trace
from offramp.networks.networks import Networks
from offramp.plan.asked import Asked
from offramp.plan.fit import draft
from offramp.recording.measure import latency
from offramp.recording.record import blank
from offramp.runtime import Engine


@dataclass(frozen=True)
class Requests:
    """Whose time is the cost."""

    sizes: Sequence[int]  # examples in each, at least one number
    threads: int
    engine: Engine | str


def at_request_times(
    trace: Trace, asked: Asked, networks: Networks | None, requests: Requests
) -> Asked:
    """What is asked for, with the time of such requests as prices.

    Args:
        trace: recorded; none of its sealed rows is looked at.
        asked: what `fit_each` is to be asked.
        networks: that are timed.
        requests: of which sizes, on what.

    Raises:
        TraceError: too few examples to learn from, or the trace does not say what networks read.
        PlanError, NetworkError: as `offramp.export.one_file`.
    """
    drafted, sizes = draft(trace, asked, networks), requests.sizes
    x = blank(trace, max(sizes))
    prices = latency(drafted, x, requests.threads, sizes, engine=requests.engine)
    return replace(asked, choices=replace(asked.choices, prices=prices))
