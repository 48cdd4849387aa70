"""Tasks by name: what the outputs of stages mean, all behind one small class."""

from offramp.tasks.labels import Labels
from offramp.tasks.recorded import Recorded
from offramp.tasks.regression import Regression
from offramp.tasks.sequences import Sequences
from offramp.tasks.single import SINGLE, Single
from offramp.tasks.task import TASKS, AnswerLoss, Task, TaskForm, register, task_named

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
