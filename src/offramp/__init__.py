"""offramp: run just enough network for each input, and keep the accuracy you promised.

The names below come in the order in which the modules build on each other.
"""

from offramp._version import __version__
from offramp.base.errors import OfframpError
from offramp.core.frontier import Point, frontier, hull
from offramp.core.graph import Costs, Graph, Stage
from offramp.core.tasks import Losses
from offramp.core.trace import Trace, import_scores
from offramp.core.walk import Outcome, Work, drive, walk
from offramp.exits import Exits, add_exits
from offramp.networks.data import open_examples
from offramp.networks.networks import Networks
from offramp.networks.preprocessing import Preprocessing
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
]
