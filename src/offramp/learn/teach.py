"""What is certified: who takes part, how they answer and what decides, chosen before certifying.

Each candidate is judged by one score, its predicted certified cost (`offramp.promise.forecast`),
on examples that it has not learned from; the one with the lowest is taught. A user need not choose.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from offramp.answering.committees import Known
from offramp.base.progress import Progress, silent
from offramp.core.graph import Costs, Graph
from offramp.core.trace import Trace
from offramp.learn.lesson import DEFAULT as DEFAULT
from offramp.learn.lesson import Findings, Lesson, Rehearsals, Scored, Setup, Together
from offramp.learn.lesson import Ways as Ways
from offramp.learn.pool import FEW_STAGES, Pool, with_edges
from offramp.policies import Deployable, Family, family
from offramp.promise.forecast import Forecast

AUTO = "auto"
QUICK, NETWORK = "learned", "network"
TRIED_RULES = ("margin", "myopic", "entropy")  # hard to beat with few examples
FEW = 100  # examples below which nothing is learned
_MANY = 1000  # examples from which a network is worth trying
_WORTH = 0.01  # of the reference's cost that others must save over the linear policy
_LEAST = 0.002  # of the reference's cost that a stage or an edge more must save
UNKNOWN = Forecast(1.0, 1.0, None)  # where there was nothing to choose
_FINALISTS = 3  # setups that a rule likes best, which are tried with what is to decide


@dataclass(frozen=True, kw_only=True)
class Taught:
    """A policy, how stages answer, and what else was tried."""

    policy: Deployable
    family: Family
    lesson: Lesson  # what it was learned from
    held_out: Mapping[str, float]  # policy -> predicted certified cost, over the reference's
    cost: float | None = None  # likewise, of what was chosen; None: there was no choice
    dropped: Mapping[str, str] = field(default_factory=dict)  # stage -> why
    costs: Costs | None = None  # of all stages, where prices were given

    @property
    def name(self) -> str:
        return self.family.name


def teach(
    trace: Trace,
    ways: Ways = DEFAULT,
    policy: str | Family = AUTO,
    progress: Progress | None = None,
    findings: Findings | None = None,
) -> Taught:
    """The stages and the policy that will probably cost least once they are certified.

    Args:
        trace: examples to learn from and choose on; whatever is chosen learns from all of them.
        ways: what counts, who may take part, and what will be certified.
        policy: a family or its name, or `auto` to choose one: with few examples a rule.
        progress: called with what is learned or tried, how much of it, and how much there is.
        findings: about the same examples, for other budgets.

    Raises:
        InputError: an unknown policy.
        TraceError, LossError: as `Trace.losses`.
    """
    tell = progress or silent
    search = _Search(trace, ways, policy, findings, tell)
    found = search.best()
    decides = found.setup.family
    tell(f"learning {decides.name}", 0, 1)
    lesson = ways.lesson(_at(trace, found), found.setup.together, search.committees)
    return Taught(
        policy=decides(lesson.trace, lesson.losses),
        family=decides,
        lesson=lesson,
        held_out=search.policies(found),
        cost=found.cost if search.known else None,
        dropped=search.dropped(found),
        costs=found.costs,
    )


def _at(trace: Trace, found: Scored) -> Trace:
    """The examples with the graph, and at the costs, that were chosen."""
    priced = trace if found.costs is None else trace.at_costs(found.costs)
    return replace(priced, graph=found.setup.graph)


class _Search:
    """Setups, tried on held-out examples: a rule ranks them, the best are tried with the rest."""

    def __init__(
        self,
        trace: Trace,
        ways: Ways,
        policy: str | Family,
        findings: Findings | None,
        tell: Progress,
    ) -> None:
        self.trace, self.ways, self.tell = trace, ways, tell
        self.room = Rehearsals(trace, ways, findings)
        self.pool = Pool.of(trace) if ways.pool else Pool(trace.graph)
        rules = [family(name) for name in TRIED_RULES if family(name).fits(trace.task)]
        self.families = _families(trace, policy, rules)
        own = self.families[0]
        self.sketch = own if own in rules else rules[0]
        self.quick = own == self.sketch or own.name == QUICK  # others may learn for minutes
        self.known: list[Scored] = []

    def best(self) -> Scored:
        """The setup with the lowest score, of those that decide by what was asked for."""
        if not self._anything_to_choose():
            return self._only()
        self._sketch("trying who takes part", self._graphs())
        own = self.families[0]
        if own != self.sketch:
            finalists = [replace(found.setup, family=own) for found in self._finalists()]
            few = list(dict.fromkeys((finalists[0], finalists[-1])))  # the best, and all stages
            self._try("trying the best of them", finalists if self.quick else few)
        if own.name == QUICK and not self.ways.keep_stages:
            self._skip()  # one that learns skips; rules walk along a chain
        for other in self.families[1:]:
            self._try(f"trying {other.name}", [replace(self._chosen().setup, family=other)])
        found = self._chosen()
        return found if found.cost < 1 else self._as_given()

    def _as_given(self) -> Scored:
        """All stages, where nothing is foreseen to save: there is no reason to leave any out."""
        together = next(self._ways(self.everyone))
        return self._tried(Setup(self.everyone, together, self.families[0]))

    @property
    def committees(self) -> Known | None:
        """Those that were learned from all examples, or None: from a sample."""
        whole = self.room.trace.examples == self.trace.examples
        return self.room.found.committees if whole else None

    def _anything_to_choose(self) -> bool:
        few = self.trace.examples < FEW and self.ways.prices is None
        return len(self.trace.graph.order) > 1 and not few

    def _only(self) -> Scored:
        together: Together = "all" if self.ways.committees else "none"
        setup = Setup(self.everyone, together, self.families[0])
        return Scored(setup, UNKNOWN, None if self.ways.prices is None else self.room.trace.costs)

    @property
    def everyone(self) -> Graph:
        """All stages: along the edges as given, or in a chain where those do not count."""
        return self.pool.everyone() if self.ways.pool else self.trace.graph

    def _try(self, what: str, setups: Sequence[Setup]) -> None:
        for number, setup in enumerate(setups):
            self.tell(what, number, len(setups))
            self._tried(setup)

    def _sketch(self, what: str, graphs: Sequence[Graph]) -> list[Scored]:
        found = []
        for number, graph in enumerate(graphs):
            self.tell(what, number, len(graphs))
            found.append(self._sketched(graph))
        return found

    def _tried(self, setup: Setup) -> Scored:
        found = self.room.score(setup)
        if found not in self.known:
            self.known.append(found)
        return found

    def _sketched(self, graph: Graph) -> Scored:
        """The best way to answer in a graph, as a rule decides."""
        ways = [Setup(graph, together, self.sketch) for together in self._ways(graph)]
        return min(map(self._tried, ways), key=_penalised)

    def _ways(self, graph: Graph) -> Iterator[Together]:
        """Who may answer together, where that differs."""
        if self.ways.committees:
            setup = Setup(graph, "all", self.sketch)
            found = {*self.room.lesson(setup).committees}
            if found:
                yield "all"
            if len(found - {graph.reference}) not in (0, len(found)):
                yield "others"
        yield "none"

    def _graphs(self) -> list[Graph]:
        """Who may take part, alone or together; all stages where all are kept."""
        if self.ways.keep_stages or not self.pool.others:
            return [self.trace.graph]
        if len(self.pool.others) < FEW_STAGES:
            some = [self.pool.of_stages(names) for names in self.pool.subsets()]
        else:
            some = list(self._grown())
        return list(dict.fromkeys([*filter(None, some), self.pool.everyone(), self.everyone]))

    def _grown(self) -> Iterator[Graph]:
        """Stages join and leave, one at a time, while that saves enough."""
        chain: frozenset[str] = frozenset()
        present = 1.0
        while True:
            changed = [names for name in self.pool.others if (names := chain ^ {name})]
            graphs = {names: found for names in changed if (found := self.pool.of_stages(names))}
            tried = self._sketch(f"trying {len(chain) + 2} stages", list(graphs.values()))
            cost = dict(zip(graphs, (found.cost for found in tried), strict=True))
            best = min(cost, key=cost.__getitem__)
            if cost[best] > present - _LEAST:
                return
            chain, present = best, cost[best]
            yield graphs[best]

    def _finalists(self) -> list[Scored]:
        """What the rule likes best, and all stages together."""
        ranked = sorted(self.known, key=_penalised)
        everyone = [found for found in ranked if found.setup.graph == self.everyone]
        return list({f.setup.key: f for f in (*ranked[:_FINALISTS], *everyone[:1])}.values())

    def _skip(self) -> None:
        """Tries edges more, one after another, where the given ones allow them."""
        while True:
            setup = self._chosen(self.families[:1]).setup
            more = [with_edges(setup.graph, [edge]) for edge in self.pool.skips(setup.graph)]
            self._try("trying skips", [replace(setup, graph=graph) for graph in more])
            if self._chosen(self.families[:1]).setup.graph not in more:
                return

    def _chosen(self, families: Iterable[Family] | None = None) -> Scored:
        allowed = [each.name for each in (self.families if families is None else families)]
        return min((f for f in self.known if f.setup.family.name in allowed), key=_penalised)

    def policies(self, found: Scored) -> dict[str, float]:
        """What each policy would probably cost where what was chosen decides."""
        alike = [
            f for f in self.known if replace(f.setup, family=found.setup.family) == found.setup
        ]
        return {f.setup.family.name: f.cost for f in alike if f.setup.family in self.families}

    def dropped(self, found: Scored) -> dict[str, str]:
        """Why stages take no part."""
        missing = [s for s in self.trace.graph.order if s not in found.setup.graph.order]
        return {stage: self._why(stage, found) for stage in missing}

    def _why(self, stage: str, found: Scored) -> str:
        without, within = self._compared(stage, found.setup)
        batch = found.costs.batch if found.costs else None
        at = "" if batch is None else f"at batch {batch} "
        enough = f"; it must save {_LEAST:.1%}" if within < without else ""
        return (
            f"{at}the predicted cost is {without:.1%} of the reference's without it, and "
            f"{within:.1%} with it{enough}"
        )

    def _compared(self, stage: str, chosen: Setup) -> tuple[float, float]:
        """The least cost without and with a stage, as one policy that was tried in both decides."""
        for judge in (chosen.family, self.families[0], self.sketch):
            alike = [f for f in self.known if f.setup.family == judge]
            without = [f.cost for f in alike if f.setup.graph.order == chosen.graph.order]
            within = [f.cost for f in alike if stage in f.setup.graph.order]
            if without and within:
                break
        return min(without), min(within)


def _families(trace: Trace, policy: str | Family, rules: list[Family]) -> list[Family]:
    """Those to choose from, first the one that the others must beat."""
    if policy != AUTO:
        return [family(policy)]
    if trace.examples < FEW:
        return rules[:1]
    more = [family(NETWORK)] if trace.examples >= _MANY else []
    return [family(QUICK), *rules, *more]


def _penalised(found: Scored) -> float:
    """Its score, and what it must save over simpler ones."""
    setup = found.setup
    worth = 0.0 if setup.family.name == QUICK else _WORTH
    edges = len(setup.graph.edges) - 1
    return found.cost + worth + _LEAST * edges
