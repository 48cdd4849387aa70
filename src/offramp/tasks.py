"""Where users find tasks: what is in `offramp.core.task`."""

from offramp.core.task import SINGLE as SINGLE
from offramp.core.task import TASKS as TASKS
from offramp.core.task import AnswerLoss as AnswerLoss
from offramp.core.task import Labels as Labels
from offramp.core.task import Numbers as Numbers
from offramp.core.task import RecordedAnswers as RecordedAnswers
from offramp.core.task import Sequences as Sequences
from offramp.core.task import Single as Single
from offramp.core.task import Task as Task
from offramp.core.task import TaskForm as TaskForm
from offramp.core.task import register_tasks as register_tasks
from offramp.core.task import task_named as task_named
