"""Tasks by name: what the outputs of stages mean, all behind one small class."""

from offramp.core.task.labels import Labels
from offramp.core.task.recorded import Recorded
from offramp.core.task.regression import Regression
from offramp.core.task.sequences import Sequences
from offramp.core.task.single import SINGLE, Single
from offramp.core.task.task import TASKS, AnswerLoss, Task, TaskForm, register, task_named

__all__ = [
    "SINGLE",
    "TASKS",
    "AnswerLoss",
    "Labels",
    "Recorded",
    "Regression",
    "Sequences",
    "Single",
    "Task",
    "TaskForm",
    "register",
    "task_named",
]

register(Single, Labels, Regression, Sequences, Recorded)
