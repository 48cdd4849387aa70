"""What is deployed: graph, policy, tradeoff and certificate, in a folder that runs no code."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired

from offramp.answering.committees import (
    Committees,
    biases_to_json,
    committees_from_json,
    with_committees,
)
from offramp.answering.refit import Refits, Repair, refits_from_json, with_refits
from offramp.base.arrays import FloatArray
from offramp.base.checked import checked
from offramp.base.errors import InputError, PlanError
from offramp.base.fields import X
from offramp.base.manifests import (
    HASH,
    PRINTS,
    Manifest,
    kind_of_folder,
    read_manifest,
    write_manifest,
)
from offramp.base.notebook import table_html
from offramp.base.outputs import new_folder
from offramp.base.schema import fits
from offramp.core import tasks
from offramp.core.costs import COST_KEYS, CostsJson
from offramp.core.graph import Costs, Graph, GraphJson
from offramp.core.policy import Policy, Static
from offramp.core.task import SINGLE, Task, task_named
from offramp.core.tasks import Kind
from offramp.core.trace import Trace
from offramp.networks.inputs import Watches
from offramp.networks.networks import (
    PreprocessingJson,
    copy_networks,
    fields_to_json,
    find_networks,
    read_fields,
    read_preprocessing,
)
from offramp.networks.preprocessing import AnyPreprocessing
from offramp.plan.profile import Profile
from offramp.policies import Deployable, policy_from_json, policy_to_json
from offramp.promise.certify import KEEP, ROUTE, Certificate

VERSION = 1
PLAN = kind_of_folder("plan")
_KEYS = frozenset(
    (
        *("version", "graph", *COST_KEYS, "scores", "classes", "task", "policy"),
        *("tradeoff", "path", "certificate", "profile", "networks", "preprocessing"),
        *("fields", "committees", "biases", "refits", "repair", PRINTS, HASH),
    )
)


class PlanManifest(Manifest, CostsJson):
    """What plan.json holds; records inside are checked where they are read."""

    graph: GraphJson
    scores: dict[str, Kind]
    classes: int
    task: NotRequired[str]
    policy: dict[str, Any]
    tradeoff: float | None
    path: list[float]
    certificate: dict[str, Any]
    profile: dict[str, Any]
    committees: NotRequired[dict[str, dict[str, float]]]
    biases: NotRequired[dict[str, list[float]]]
    refits: NotRequired[dict[str, dict[str, Any]]]
    repair: NotRequired[dict[str, Any] | None]
    networks: dict[str, str]  # part -> fingerprint
    preprocessing: NotRequired[PreprocessingJson | None]
    fields: NotRequired[list[str]]
    learning_data: NotRequired[str | None]
    certification_data: NotRequired[str | None]
    learning_examples: NotRequired[int]
    learning_sampled_from: NotRequired[int | None]
    pool: NotRequired[str | None]
    dropped: NotRequired[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A system that runs just enough network for each input.

    Its policy walks the graph at `tradeoff`; where that is None, `certificate.static_choice` runs
    alone.
    """

    graph: Graph
    costs: Costs
    kinds: Mapping[str, Kind]
    classes: int
    policy: Deployable
    tradeoff: float | None
    certificate: Certificate
    profile: Profile
    committees: Committees = field(default_factory=dict)  # how some stages answer
    networks: Mapping[str, Path] = field(default_factory=dict)  # part -> ONNX file; may be empty
    preprocessing: AnyPreprocessing | None = None
    fields: tuple[str, ...] = (X,)  # that inputs read, each by its name; x: there is one, for all
    info: Mapping[str, Any] = field(default_factory=dict)  # data fingerprints, seed, versions, ...
    refits: Refits = field(default_factory=dict)  # how the scores of some stages are mended
    repair: Repair | None = None  # what that does by itself; None: nobody asked for refits
    task: Task = SINGLE  # what scores mean

    def __repr__(self) -> str:
        found, names = self.certificate, ", ".join(self.running.graph.order)
        return (
            f"<Plan: {found.verdict}, {names}; {found.speedup:.2f} times less cost than "
            f"{self.graph.reference}, at most {found.budget:.4g} excess loss at "
            f"{found.confidence:.4g} confidence>"
        )

    def _repr_html_(self) -> str:
        running = self.running.graph.order
        stops = ", ".join(f"{s} {self.profile.exits.get(s, 0.0):.1%}" for s in running)
        said = [("stages", ", ".join(running)), ("reference", self.graph.reference)]
        costs = [("costs", f"in {self.costs.unit}, {self.costs.source}"), ("inputs stop", stops)]
        return table_html("Plan", [*said, *self.certificate.lines(), *costs])

    @property
    def routes(self) -> bool:
        return self.tradeoff is not None

    @cached_property
    def running(self) -> Policy:
        """The policy that runs: the plan's own, or the single network of choice."""
        return self.policy if self.routes else Static.of(self.graph, self.certificate.static_choice)

    @property
    def speaking(self) -> Committees:
        """The committees that answer: a network that runs alone answers by itself."""
        return self.committees if self.routes else {}

    @cached_property
    def refitted(self) -> Mapping[str, Kind]:
        """What the scores of each stage are after its refit."""
        return {**self.kinds, **dict.fromkeys(self.refits, "logits")}

    @cached_property
    def answered(self) -> Mapping[str, Kind]:
        """What the scores of each stage's answer are: those of a committee are logits."""
        return {**self.refitted, **dict.fromkeys(self.speaking, "logits")}

    def own(self, stage: str, scores: FloatArray) -> FloatArray:
        """The scores (n, classes) of a stage by itself, from those recorded: refitted or not."""
        if stage not in self.refits:
            return scores
        return self.refits[stage](tasks.log_probabilities(scores, self.kinds[stage]))

    def answering(self, trace: Trace) -> Trace:
        """A trace of recorded scores as the plan answers it: refitted, then by committees."""
        return with_committees(with_refits(trace, self.refits), self.speaking)

    @property
    def setting(self) -> float:
        return float("nan") if self.tradeoff is None else self.tradeoff

    def turned(self, tradeoff: float | None) -> Plan:
        """The same plan at another tradeoff, for which nothing is certified; None changes nothing.

        Raises:
            PlanError: it is no setting of the plan's policy, or the plan runs one network alone.
        """
        if tradeoff is None or math.isnan(tradeoff):
            return self
        if not self.routes:
            raise PlanError(
                f"this plan runs '{self.certificate.static_choice}' alone, so there is no tradeoff "
                "to choose. Leave it out."
            )
        if tradeoff < 0 <= self.policy.settings.min():
            raise PlanError(f"the tradeoff is {tradeoff}; it must be a number of at least 0.")
        return replace(self, tradeoff=float(tradeoff))

    @property
    def fitted_on(self) -> frozenset[str]:
        """The fingerprints of the data and of the rows that taught or certified it."""
        kinds = ("learning_data", "certification_data", "learning_rows", "certification_rows")
        found = [self.info.get(kind) for kind in kinds]
        return frozenset(fingerprint for fingerprint in found if fingerprint)

    @cached_property
    def watch(self) -> Watches:
        """Says where inputs are unlike those that were recorded."""
        return Watches.of(self.info.get("input"))

    def runnable(self) -> Mapping[str, Path]:
        """The networks of every stage. Raises PlanError where the plan has none."""
        if not self.networks:
            raise PlanError(
                "this plan has no networks: it was fitted on scores that were recorded elsewhere. "
                "Fit again with --graph GRAPH, a folder made by `offramp graph`."
            )
        return self.networks

    @checked
    def write(self, path: str | Path, *, force: bool = False) -> None:
        """Writes the plan and copies of its networks, whole or not at all.

        Raises:
            InputError: `path` is taken.
            StorageError: it cannot be written.
        """
        path = Path(path)
        with new_folder(path, PLAN, force=force) as folder:
            prints = copy_networks(self.networks, folder)
            write_manifest(folder, "plan", self._manifest(prints))

    def _manifest(self, prints: Mapping[str, str]) -> dict[str, Any]:
        return {
            "version": VERSION,
            "graph": self.graph.to_json(),
            **self.costs.to_json(),
            "scores": dict(self.kinds),
            "classes": self.classes,
            "task": str(self.task),
            "policy": policy_to_json(self.policy),
            "tradeoff": self.tradeoff,
            "path": [float(t) for t in self.policy.settings],
            "certificate": self.certificate.to_json(),
            "profile": self.profile.to_json(),
            "committees": {s: found.to_json() for s, found in self.committees.items()},
            "biases": biases_to_json(self.committees),
            "refits": {s: found.to_json() for s, found in self.refits.items()},
            "repair": self.repair and self.repair.to_json(),
            "networks": dict(prints),
            "preprocessing": self.preprocessing and self.preprocessing.to_json(),
            **fields_to_json(self.fields),
            **self.info,
        }

    @classmethod
    @checked
    def read(cls, path: str | Path) -> Plan:
        """The plan in folder `path`.

        Raises:
            PlanError: no plan, a damaged one, a newer version, or networks that do not match their
                fingerprints.
        """
        path = Path(path)
        if (path / "plans.json").exists():
            held = ", ".join(str(plan.parent) for plan in sorted(path.glob("*/plan.json")))
            raise PlanError(f"{path} holds several plans; name one of them: {held}.")
        value = read_manifest(path, "plan", VERSION, PlanManifest, PlanError)
        try:
            return cls._from_manifest(path, value)
        except InputError:
            raise
        except Exception as problem:  # whatever reading a value of another kind ends in
            raise PlanError(f"{path}/plan.json is damaged ({problem!r}); fit again.") from None

    @classmethod
    def _from_manifest(cls, path: Path, value: Mapping[str, Any]) -> Plan:
        graph = Graph.from_json(value["graph"])
        policy = policy_from_json(value["policy"], value["classes"])
        task = task_named(value.get("task", SINGLE.name))
        found = cls(
            graph=graph,
            costs=graph.check_costs(Costs.from_json(value)),
            kinds=value["scores"],
            classes=value["classes"],
            task=task,
            policy=policy,
            tradeoff=value["tradeoff"],
            certificate=Certificate.from_json(value["certificate"]),
            profile=Profile.from_json(value["profile"]),
            committees=committees_from_json(
                value.get("committees", {}),
                graph,
                policy.graph,
                value.get("biases", {}),
                value["classes"],
            ),
            networks=find_networks(path, graph, value, PlanError),
            preprocessing=read_preprocessing(value),
            fields=read_fields(value),
            info={key: item for key, item in value.items() if key not in _KEYS},
            refits=refits_from_json(value.get("refits", {}), graph, value["classes"]),
            repair=Repair.from_json(value["repair"]) if value.get("repair") else None,
        )
        found._check()
        return found

    def _check(self) -> None:
        """Raises ValueError where parts of a plan do not fit each other."""
        stages, running = set(self.graph.order), self.policy.graph.order
        named: dict[str, Iterable[str]] = {"policy": running, "profile": self.profile.exits}
        named["certificate"] = (self.certificate.static_choice,)
        for what, names in named.items():
            if unknown := sorted(set(names) - stages):
                raise ValueError(f"the {what} names an unknown stage {unknown[0]!r}")
        if not fits(int, self.classes) or self.classes < (2 if self.task == SINGLE else 0):
            raise ValueError(f"the number of classes is {self.classes!r}")
        if not fits(Mapping[str, Kind], self.kinds) or not stages <= set(self.kinds):
            raise ValueError(f"the kinds of scores are {self.kinds!r}")
        if not fits(float | None, self.tradeoff):
            raise ValueError(f"the tradeoff is {self.tradeoff!r}")
        verdict, alone = self.certificate.verdict, self.certificate.static_choice
        if self.routes != (verdict == ROUTE):
            raise ValueError(f"the verdict is {verdict!r} and the tradeoff {self.tradeoff!r}")
        self.watch  # noqa: B018 - raises where what was recorded of inputs is damaged
        if not self.routes and (alone == self.graph.reference) != (verdict == KEEP):
            raise ValueError(f"the verdict is {verdict!r} and '{alone}' runs alone")
        if self.repair and not stages <= set(self.repair.before) & set(self.repair.after):
            raise ValueError("the repair lacks stages")


PLANS = kind_of_folder("plans")


class PlansManifest(Manifest):
    """What plans.json holds."""

    plans: list[str]  # folders beside it, by budget


def write_plans(plans: Sequence[Plan], path: Path, *, force: bool = False) -> None:
    """Writes one plan as a folder, or several as folders in it, called by their budgets.

    Raises:
        InputError: `path` is taken.
        StorageError: it cannot be written.
    """
    if len(plans) == 1:
        plans[0].write(path, force=force)
        return
    with new_folder(path, PLANS, force=force) as folder:
        names = [f"{plan.certificate.budget:g}" for plan in plans]
        for name, plan in zip(names, plans, strict=True):
            plan.write(folder / name)
        write_manifest(folder, "plans", {"version": VERSION, "plans": names})


def read_plans(path: str | Path) -> list[Plan]:
    """The plan in a folder, or all plans of one that `fit` wrote for several budgets.

    Raises:
        PlanError: as `Plan.read`.
    """
    path = Path(path)
    if not (path / "plans.json").exists():
        return [Plan.read(path)]
    held = read_manifest(path, "plans", VERSION, PlansManifest, PlanError)
    return [Plan.read(path / name) for name in held["plans"]]
