"""Which copies stay: those that could pay before the network, on held-out examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from offramp.base.progress import Progress, silent
from offramp.core.frontier import LEVELS, cost_at, frontier, static_points
from offramp.core.policy import path
from offramp.core.trace import Trace
from offramp.policies import family

CHEAPER = 0.9  # of the network's time: what a copy may take at most
LEAST = 0.002  # of the network's cost: what a copy must save to stay
_RULE = "margin"  # decides while copies are chosen: one number, so that nothing can be overfitted


@dataclass(frozen=True)
class Choice:
    """The copies that stay, and why each other one went."""

    kept: tuple[str, ...]  # stages by cost, the network last
    dropped: Mapping[str, str]  # stage -> reason
    cost: float  # of walks through those kept, mean at some levels, over the network's


def choose(
    trace: Trace, changed: Mapping[str, float], most: int, progress: Progress | None = None
) -> Choice:
    """Drops copies that are dear or beaten, then takes those that walks are cheapest with.

    Args:
        trace: of all copies and the network, the reference, on held-out examples; labelled.
        changed: of each stage, the share of answers that are not the network's.
        most: copies to keep.
        progress: called with what is tried.
    """
    time, reference = trace.costs.body, trace.graph.reference
    dropped = {name: reason for name in time if (reason := _dear(trace, name))}
    left = [name for name in trace.graph.order if name not in dropped and name != reference]
    beaten = {name: by for name in left if (by := _better(trace, changed, left, name))}
    dropped |= {name: _beaten(trace, changed, name, by) for name, by in beaten.items()}
    left = sorted((name for name in left if name not in beaten), key=time.__getitem__)
    walks = _Walks(trace)
    kept = _taking_part(walks, [*left, reference], most, progress or silent)
    useless = {name: _useless(walks, kept, name) for name in left if name not in kept}
    return Choice(tuple(kept), dropped | useless, walks.cost(kept))


def _dear(trace: Trace, name: str) -> str | None:
    share = trace.costs.body[name] / trace.costs.body[trace.graph.reference]
    if name == trace.graph.reference or share <= CHEAPER:
        return None
    return f"takes {share:.0%} of the network's time; a copy must take at most {CHEAPER:.0%}"


def _better(
    trace: Trace, changed: Mapping[str, float], names: Sequence[str], name: str
) -> str | None:
    """Who is as fast and answers as alike, or better in one: the most alike of those."""
    time = trace.costs.body
    better = [
        other
        for other in names
        if time[other] <= time[name]
        and changed[other] <= changed[name]
        and (time[other], changed[other]) != (time[name], changed[name])
    ]
    return min(better, key=lambda other: (changed[other], time[other]), default=None)


def _beaten(trace: Trace, changed: Mapping[str, float], name: str, other: str) -> str:
    time = trace.costs.body
    return (
        f"'{other}' takes {time[other] / time[name]:.0%} of its time and changes "
        f"{changed[other]:.1%} of the answers instead of {changed[name]:.1%}"
    )


def _useless(walks: _Walks, kept: Sequence[str], name: str) -> str:
    more = walks.cost(walks.ordered([*kept, name])) - walks.cost(kept)
    change = f"{abs(more):.1%} of the network {'more' if more >= 0 else 'less'}"
    return f"walks with it beside those that stay would cost {change}"


@dataclass
class _Walks:
    """What walks through chains of stages cost by one shared threshold, over the network's cost."""

    trace: Trace
    known: dict[tuple[str, ...], float] = field(default_factory=dict)

    def ordered(self, names: Sequence[str]) -> list[str]:
        """By time, the network last."""
        time, reference = self.trace.costs.body, self.trace.graph.reference
        return sorted(names, key=lambda name: (name == reference, time[name]))

    def cost(self, chain: Sequence[str]) -> float:
        """The mean at some levels of excess loss; each chain is tried once."""
        if tuple(chain) not in self.known:
            some = replace(self.trace, graph=path(self.trace.graph, list(chain)))
            losses = some.losses()
            points = frontier(some, losses, family(_RULE)(some, losses))
            points += static_points(some, losses).values()
            mean = float(np.mean([cost_at(points, level) for level in LEVELS]))
            self.known[tuple(chain)] = mean / self.trace.reference_cost
        return self.known[tuple(chain)]

    def without_one(self, chain: Sequence[str]) -> list[str]:
        """The chain without the copy that walks miss least."""
        fewer = [[s for s in chain if s != name] for name in chain[:-1]]
        return min(fewer, key=self.cost)


def _taking_part(walks: _Walks, chain: list[str], most: int, tell: Progress) -> list[str]:
    """Drops the copy that walks miss least, until each that is left pays; one stays in any case."""
    total = max(1, len(chain) - 2)
    while len(chain) > 2:
        tell("choosing copies", total - len(chain) + 2, total)
        fewer = walks.without_one(chain)
        if len(chain) <= most + 1 and walks.cost(fewer) - walks.cost(chain) >= LEAST:
            break
        chain = fewer
    return chain
