"""Made-up chains of two networks whose best policy is known, since every chance in them is.

The small network answers class `a` with probability `c`. How often that is right, and how often the
large network would be, depends on (a, c) in a way that each trace has of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from offramp.base.arrays import FloatArray, IntArray
from offramp.core.graph import Costs, Graph
from offramp.core.policy import TRADEOFFS
from offramp.core.trace import Trace, assemble
from offramp.policies import STOP, Seen
from offramp.policies.statistics import confidence

CLASSES = 10
SMALL, LARGE = 1.0, 3.0  # costs
_TOGETHER = 0.7  # share of examples on which both networks are right or wrong by the same luck
Chance = Callable[[IntArray, FloatArray], FloatArray]  # of being right, given answer and confidence


@dataclass(frozen=True)
class World:
    """How examples come about."""

    right: Chance  # of the small network
    next: Chance  # of the large one
    hard: float = 2.0  # how many are unsure: confidence is 1 minus a Beta(1, .) share
    hard_test: float | None = None  # likewise where tests are drawn; None: as in learning

    def draw(self, examples: int, seed: int, *, test: bool = False) -> Trace:
        """A trace of independent examples."""
        random = np.random.default_rng([seed, int(test)])
        a = random.integers(0, CLASSES, examples)
        hard = self.hard_test if test and self.hard_test else self.hard
        c = 1 - (1 - 1.5 / CLASSES) * random.beta(0.4, hard, examples)
        luck = random.random((2, examples))
        small = luck[0] < self.right(a, c)
        together = random.random(examples) < _TOGETHER
        large = np.where(together, luck[0], luck[1]) < self.next(a, c)
        second = (a + random.integers(1, CLASSES, examples)) % CLASSES
        labels = np.where(small, a, (a + random.integers(1, CLASSES, examples)) % CLASSES)
        wrong = (labels + random.integers(1, CLASSES, examples)) % CLASSES
        sure = 1 - 0.3 * random.random(examples)
        scores = {
            "small": _spread(a, second, c),
            "large": _spread(np.where(large, labels, wrong), second, sure),
        }
        costs = Costs({"small": SMALL, "large": LARGE}, {"small": 0.0, "large": 0.0}, "made up")
        graph = Graph.chain(scores)
        return assemble(graph, costs, scores, labels=labels, kind="probabilities")

    def best(self, trace: Trace) -> Optimum:
        """The policy that no other can beat on average, whatever it learns."""
        return Optimum(trace.graph, TRADEOFFS, self)


@dataclass(frozen=True)
class Optimum:
    """Stops where the expected excess loss, known exactly, is worth less than going on costs."""

    graph: Graph
    settings: FloatArray
    world: World

    def evidence(self, seen: Seen) -> FloatArray:
        a, c = seen.answers(), confidence(seen.log_probabilities())
        return (self.world.next(a, c) - self.world.right(a, c))[:, None]

    def choose(self, stage: str, evidence: FloatArray, setting: float) -> IntArray:
        return np.where(setting * evidence[:, 0] <= 1.0, STOP, 1)  # going on costs one reference


def _spread(answer: IntArray, second: IntArray, c: FloatArray) -> FloatArray:
    """Probabilities (n, classes): about c at the answer, the second class twice the others'."""
    rows = np.arange(len(answer))
    scores = np.ones((len(answer), CLASSES))
    scores[rows, second] = 2.0
    scores *= ((1 - c) / CLASSES)[:, None]
    scores[rows, answer] = 0.0
    scores[rows, answer] = 1.0 - scores.sum(axis=1)
    return scores.astype(np.float32)


def _taught(a: IntArray, c: FloatArray) -> FloatArray:
    """A large network that is right more often the surer the small one is."""
    return np.asarray(np.minimum(0.99, 0.55 + 0.44 * c))


WORLDS: dict[str, World] = {
    "confidence tells all": World(lambda a, c: c, _taught),
    # the small network knows half of the classes, and is as sure of the others
    "specialists": World(
        lambda a, c: np.where(a < CLASSES // 2, 0.97, 0.55 + 0.2 * c),
        lambda a, c: np.full(len(a), 0.95),
    ),
    # where it is unsure, so are labels: nobody is right there, and going on gains nothing
    "label noise": World(
        lambda a, c: c * np.where(c < 0.6, 0.5, 1.0),
        lambda a, c: np.where(c < 0.6, 0.5, 1.0) * _taught(a, c),
    ),
    # as specialists and confidence mixed, met with twice as many hard examples
    "shifted test": World(
        lambda a, c: np.where(a < CLASSES // 2, 0.5 + 0.5 * c, c),
        _taught,
        hard=3.0,
        hard_test=1.5,
    ),
}
"""By name."""
