"""What every stage said of the same rows, and what that tells: losses, identities, parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import numpy as np

from offramp.base import hashing
from offramp.base.arrays import AnyArray, BoolArray, FloatArray, IntArray
from offramp.base.errors import LossError
from offramp.core import tasks
from offramp.core.example_costs import (
    ExampleCosts,
    steps,
    taken,
)
from offramp.core.graph import Costs, Graph
from offramp.core.ledger import Ledger
from offramp.core.rows import (
    HashOf,
    learning_share,
    other_classes,
)
from offramp.core.task import SINGLE, Task
from offramp.core.task.recorded import RecordedAnswers, alike
from offramp.core.tasks import DISAGREEMENT, Kind


@dataclass(frozen=True, kw_only=True)
class ScoredRows:
    """Scores of every stage on the same examples, with labels and costs.

    What scores and labels mean, `task` says; shapes below are those of a single label.
    """

    graph: Graph
    costs: Costs
    scores: Mapping[str, FloatArray]  # stage -> (examples, classes) float32
    kinds: Mapping[str, Kind]
    labels: AnyArray | None = None  # (examples,) or (examples, ...)
    ids: AnyArray | None = None  # (examples,) integers or strings; None: 0, 1, 2, ...
    loss: Mapping[str, FloatArray] | None = None  # stage -> (examples,), the user's own, in [0, 1]
    example_costs: ExampleCosts | None = None  # where they differ; `costs` are then their means
    info: Mapping[str, Any] = field(default_factory=dict)  # data fingerprint, versions, batch, ...
    alone: Mapping[str, FloatArray] = field(default_factory=dict)  # of committees: their own scores
    alone_kinds: Mapping[str, Kind] = field(default_factory=dict)  # and what those are
    hashes: AnyArray | None = None  # (examples,) uint64, what tells examples apart; see `identity`
    hash_of: HashOf = "scores"  # of what: inputs, where they were at hand, or scores and labels
    taught: BoolArray | None = None  # (examples,) whether one trained heads; None: none did
    seal: float | None = None  # share that only certificates may see; None: by `learning_share`
    ledger: Ledger = field(default_factory=Ledger, compare=False)  # what was seen of the rows
    task: Task = SINGLE  # what scores and labels mean
    answers: Mapping[str, IntArray] | None = None  # stage -> (examples,) ids of recorded answers

    def __repr__(self) -> str:
        labelled = "unlabelled" if self.labels is None else "labelled"
        return (
            f"<Trace: {self.examples} {labelled} examples, {self._width}; "
            f"{', '.join(self.graph.order)}; costs in {self.costs.unit}>"
        )

    @property
    def _width(self) -> str:
        if self.task == SINGLE:
            return f"{self.classes} classes"
        return f"task {self.task}, {self.classes} columns"

    @cached_property
    def outputs(self) -> Mapping[str, FloatArray]:
        """What a walk is told of every stage, (examples, width): the scores, for most tasks.

        Of recorded answers which are alike comes after their observations.
        """
        if not isinstance(self.task, RecordedAnswers):
            return self.scores
        apart = {s: np.full(self.examples, i) for i, s in enumerate(self.scores)}
        same = alike(self.answers or apart)
        return {s: np.column_stack([v, same[s]]) for s, v in self.scores.items()}

    @cached_property
    def identity(self) -> AnyArray:
        """What tells examples apart, uint64 (examples,): equal numbers are equal examples."""
        return self.score_hashes if self.hashes is None else self.hashes

    @cached_property
    def score_hashes(self) -> AnyArray:
        """One hash per row of its own scores and label, uint64 (examples,).

        RecordedAnswers answers may say the same of many examples: there ids tell them apart.
        """
        columns: list[AnyArray] = [self.own(stage) for stage in self.graph.order]
        columns += [] if self.labels is None else [self.labels]
        if isinstance(self.task, RecordedAnswers):
            columns += [*(self.answers or {}).values(), self._numbers]
        return hashing.hash_rows(*columns)

    @property
    def _numbers(self) -> AnyArray:
        """A number for each example that its id stands for, (examples,)."""
        if self.ids is None:
            return np.arange(self.examples)
        if self.ids.dtype.kind in "iu":
            return self.ids.astype(np.int64)
        words = [np.frombuffer(str(name).encode(), np.uint8) for name in self.ids.tolist()]
        return np.array([int(hashing.hash_rows(word[None])[0]) for word in words], dtype=np.uint64)

    @cached_property
    def turns(self) -> AnyArray:
        """When each row is opened, uint64 (examples,): a permutation that the examples fix."""
        return hashing.turns(self.identity)

    @cached_property
    def digest(self) -> str:
        """What tells these examples from others, in whatever order they are."""
        return f"rows:{int(self.identity.sum(dtype=np.uint64)):016x}"

    @cached_property
    def opening(self) -> IntArray:
        """The numbers of the rows in the order in which they are opened, (examples,)."""
        return np.argsort(self.turns, kind="stable")

    @property
    def unsealed(self) -> int:
        """How many rows may be learned from and shown: the first ones of `opening`."""
        share = learning_share(self.examples) if self.seal is None else 1 - self.seal
        return round(share * self.examples)

    @property
    def examples(self) -> int:
        return len(self.scores[self.graph.root])

    @property
    def classes(self) -> int:
        return int(self.scores[self.graph.root].shape[1])

    @cached_property
    def reference_cost(self) -> float:
        return self.graph.reference_cost(self.costs)

    @cached_property
    def reference_costs(self) -> FloatArray:
        """The cost of running the reference alone on each example, (examples,)."""
        cost = self.step_cost(self.graph, self.graph.reference)
        alone = self.reference_cost if self.example_costs is None else cost
        return np.broadcast_to(np.asarray(alone, dtype=np.float64), (self.examples,))

    def step_cost(self, graph: Graph, target: str, run: Collection[str] = ()) -> FloatArray | float:
        """The cost of reaching and answering at `target`, given the parts already `run`.

        One number, or (examples,) where costs differ. `graph` may hold fewer stages than the trace.
        """
        if self.example_costs is None:
            return graph.step_cost(self.costs, target, run)
        return steps(graph, self.example_costs, target, run)

    def at_costs(self, costs: Costs) -> Self:
        """The trace at other costs; where both know them per example, each keeps its own."""
        if costs.examples and self.example_costs is not None:
            return self
        return replace(self, costs=costs, example_costs=None)

    def log_probabilities(self, stage: str) -> FloatArray:
        """The logarithms of the probabilities of a stage, (examples, classes)."""
        return tasks.log_probabilities(self.scores[stage], self.kinds[stage])

    def doubts(self, known: Mapping[str, Kind] | None = None) -> list[str]:
        """Sentences on stages many of whose rows look like scores of another kind.

        Args:
            known: what scores are, as the networks of stages show it.
        """
        if self.task != SINGLE:
            return []
        found = (self._doubt(stage, (known or {}).get(stage)) for stage in self.graph.order)
        return [sentence for sentence in found if sentence]

    def _doubt(self, stage: str, known: Kind | None) -> str | None:
        kind = self.kinds[stage]
        if known is None:
            return tasks.doubt(self.scores[stage], kind, stage)
        if known == kind:
            return None
        return (
            f"the network of stage '{stage}' shows scores of kind {known}, but they are not: taken "
            f"as {kind}. If they are not, say --scores."
        )

    def other_classes(self, names: Sequence[str] = ()) -> list[str]:
        """Sentences on the names of classes: fewer than are scored, or others than `names`."""
        return other_classes(list(self.info.get("class_names", ())), names, self.classes)

    def take(self, rows: AnyArray | slice) -> Self:
        """The trace of some examples, of which nothing is sealed or seen: indices or a mask."""
        costs, example_costs = taken(self.costs, self.example_costs, rows)
        return replace(
            self,
            costs=costs,
            example_costs=example_costs,
            scores={stage: scores[rows] for stage, scores in self.scores.items()},
            labels=None if self.labels is None else self.labels[rows],
            ids=np.arange(self.examples)[rows] if self.ids is None else self.ids[rows],
            loss=self.loss and {stage: loss[rows] for stage, loss in self.loss.items()},
            answers=self.answers and {stage: ids[rows] for stage, ids in self.answers.items()},
            alone={stage: scores[rows] for stage, scores in self.alone.items()},
            hashes=self.identity[rows],
            taught=None if self.taught is None else self.taught[rows],
            seal=None,
            ledger=Ledger(),
        )

    def speaking(self, scores: Mapping[str, FloatArray]) -> Self:
        """The trace with some stages answering otherwise, by logits, than alone."""
        return replace(
            self,
            scores={**self.scores, **scores},
            kinds={**self.kinds, **dict.fromkeys(scores, "logits")},
            alone={**self.alone, **{stage: self.scores[stage] for stage in scores}},
            alone_kinds={**self.alone_kinds, **{stage: self.kinds[stage] for stage in scores}},
        )

    def own(self, stage: str) -> FloatArray:
        """The scores of a stage by itself, (examples, classes), whatever it answers in a walk."""
        return self.alone.get(stage, self.scores[stage])

    def own_log_probabilities(self, stage: str) -> FloatArray:
        """The logarithms of the probabilities of a stage by itself, (examples, classes)."""
        kind = self.alone_kinds.get(stage, self.kinds[stage])
        return tasks.log_probabilities(self.own(stage), kind)

    def sample(self, most: int, seed: int) -> IntArray:
        """All rows, or at random `most` of them where there are more, ascending."""
        if self.examples <= most:
            return np.arange(self.examples)
        return np.sort(np.random.default_rng(seed).choice(self.examples, most, replace=False))

    def _loss_values(self, name: str, scores: Mapping[str, FloatArray]) -> Mapping[str, FloatArray]:
        if name == tasks.RECORDED:
            if not self.loss:
                raise LossError("this trace holds no loss of its own; name one with --loss.")
            return self.loss
        if name == DISAGREEMENT:
            return self._disagreement(scores)
        of, labels = self.task.loss_of, self.labels
        return {s: of(name, values, self.kinds[s], labels) for s, values in scores.items()}

    def _disagreement(self, scores: Mapping[str, FloatArray]) -> Mapping[str, FloatArray]:
        """How far answers are not those of the reference alone, whatever labels say."""
        task, reference = self.task, self.graph.reference
        if isinstance(task, RecordedAnswers) and not self.answers:
            raise LossError(
                "this trace holds no answers, so nobody knows which differ: name them by integers "
                "in columns `<stage>.answer`, or take the loss that it holds."
            )
        kind = self.alone_kinds.get(reference, self.kinds[reference])
        agreed = task.answers(self.alone.get(reference, self.outputs[reference]), kind)
        return {
            stage: (1 - task.agreement(task.answers(values, self.kinds[stage]), agreed)).astype(
                np.float32
            )
            for stage, values in scores.items()
        }
