"""Tasks by name: what the outputs of stages mean, all behind one small class."""

from offramp.core.task.labels import Labels
from offramp.core.task.recorded import RecordedAnswers
from offramp.core.task.regression import Numbers
from offramp.core.task.sequences import Sequences
from offramp.core.task.single import SINGLE, Single
from offramp.core.task.task import TASKS, AnswerLoss, Task, TaskForm, register_tasks, task_named

__all__ = [
    "SINGLE",
    "TASKS",
    "AnswerLoss",
    "Labels",
    "Numbers",
    "RecordedAnswers",
    "Sequences",
    "Single",
    "Task",
    "TaskForm",
    "register_tasks",
    "task_named",
]

register_tasks(Single, Labels, Numbers, Sequences, RecordedAnswers)
