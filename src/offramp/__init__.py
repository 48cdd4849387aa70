"""offramp: run just enough network for each input, and keep the accuracy you promised.

The names below come in the order in which the modules build on each other.
"""

from functools import cache
from typing import TYPE_CHECKING

from offramp._version import __version__
from offramp.base.checked import checked
from offramp.base.lazy import from_homes

if TYPE_CHECKING:
    from offramp.base.errors import OfframpError
    from offramp.core.frontier import Point, frontier, hull
    from offramp.core.graph import Costs, Graph, Stage
    from offramp.core.imports import import_scores
    from offramp.core.tasks import Losses
    from offramp.core.trace import Trace
    from offramp.core.walk import Outcome, Work, drive, walk
    from offramp.exits import Exits, add_exits
    from offramp.networks.data import open_examples
    from offramp.networks.networks import Networks
    from offramp.networks.preprocessing import Preprocessing
    from offramp.optimizing import Optimized, optimize
    from offramp.plan.evaluate import Evaluation, evaluate
    from offramp.plan.fit import fit
    from offramp.plan.needs import Needs, needs
    from offramp.plan.plan import Plan
    from offramp.policies import FAMILIES, Policy, Seen
    from offramp.promise.certify import Certificate, certify
    from offramp.promise.pvalues import examples_expected
    from offramp.recording.record import record
    from offramp.runtime import Answers, OnnxRuntime, infer
    from offramp.study.bench import bench
    from offramp.study.compare import Comparison, compare

__all__ = [  # noqa: RUF022 - in the order of the modules
    "__version__",
    "OfframpError",
    "Stage",
    "Costs",
    "Graph",
    "Losses",
    "Trace",
    "import_scores",
    "Seen",
    "Policy",
    "FAMILIES",
    "examples_expected",
    "certify",
    "Certificate",
    "Work",
    "walk",
    "drive",
    "Outcome",
    "Point",
    "frontier",
    "hull",
    "Preprocessing",
    "Networks",
    "Plan",
    "fit",
    "Needs",
    "needs",
    "Evaluation",
    "evaluate",
    "Comparison",
    "compare",
    "open_examples",
    "Answers",
    "OnnxRuntime",
    "infer",
    "bench",
    "record",
    "Exits",
    "add_exits",
    "Optimized",
    "optimize",
]

# where each name comes from, once somebody asks for it (PEP 562): `import offramp` loads nothing
_HOMES = {
    "offramp.base.errors": "OfframpError",
    "offramp.core.frontier": "Point frontier hull",
    "offramp.core.graph": "Costs Graph Stage",
    "offramp.core.tasks": "Losses",
    "offramp.core.imports": "import_scores",
    "offramp.core.trace": "Trace",
    "offramp.core.walk": "Outcome Work drive walk",
    "offramp.exits": "Exits add_exits",
    "offramp.networks.data": "open_examples",
    "offramp.networks.networks": "Networks",
    "offramp.networks.preprocessing": "Preprocessing",
    "offramp.optimizing": "Optimized optimize",
    "offramp.plan.evaluate": "Evaluation evaluate",
    "offramp.plan.fit": "fit",
    "offramp.plan.needs": "Needs needs",
    "offramp.plan.plan": "Plan",
    "offramp.policies": "FAMILIES Policy Seen",
    "offramp.promise.certify": "Certificate certify",
    "offramp.promise.pvalues": "examples_expected",
    "offramp.recording.record": "record",
    "offramp.runtime": "Answers OnnxRuntime infer",
    "offramp.study.bench": "bench",
    "offramp.study.compare": "Comparison compare",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


# who asks for a function here is a user: what it is given is checked; modules trust each other
__getattr__ = from_homes("offramp", _HOME, cache(checked))


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
