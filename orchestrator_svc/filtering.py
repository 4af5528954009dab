"""By what tasks are listed, counted and watched. Pure."""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator_svc.lifecycle import TaskState
from orchestrator_svc.records import Task
from svc_kit.filters import Condition, FieldType, FilterField, Operator, parse_filter

FIELDS = {
    "agent": FilterField(),
    "state": FilterField(values=frozenset(TaskState)),
    "task_type": FilterField(),
    "dead_lettered": FilterField(type=FieldType.BOOLEAN),
    "queue": FilterField(),
    "parent_task_id": FilterField(type=FieldType.UUID),
    "root_task_id": FilterField(type=FieldType.UUID),
    "create_time": FilterField(type=FieldType.TIME),
}
# What never changes of a task, read from its record; the state is another matter.
_FIXED: Mapping[str, Callable[[Task], Any]] = {
    "agent": lambda task: task.agent.name,
    "task_type": lambda task: task.task_type,
    "queue": lambda task: task.placement.queue,
    "create_time": lambda task: task.create_time,
}
# A watch can tell of these alone, at any event, whether a task met them then.
WATCHED_FIELDS = {name: field for name, field in FIELDS.items() if name == "state" or name in _FIXED}
# Of columns as of values.
COMPARE: Mapping[Operator, Callable[[Any, Any], Any]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


def conditions(text: str) -> tuple[Condition, ...]:
    """What a task must meet; raises FILTER_INVALID."""
    return parse_filter(text, FIELDS)


def watched_conditions(text: str) -> tuple[Condition, ...]:
    """What a task must meet to be watched; raises FILTER_INVALID."""
    return parse_filter(text, WATCHED_FIELDS)


class Selection:
    """Tells of a task, and of a state that it is or was in, whether they meet the conditions."""

    def __init__(self, wanted: Sequence[Condition]) -> None:
        self._fixed = [condition for condition in wanted if condition.field != "state"]
        self._states = frozenset(
            state
            for state in TaskState
            if all(COMPARE[c.operator](state, c.value) for c in wanted if c.field == "state")
        )

    def takes(self, task: Task) -> bool:
        """Whether the task can meet them at all, in one state or another."""
        return all(COMPARE[c.operator](_FIXED[c.field](task), c.value) for c in self._fixed)

    def takes_state(self, state: TaskState | None) -> bool:
        """Whether a task in that state may meet them; in none, it does not."""
        return state in self._states
