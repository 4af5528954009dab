"""What ListTasks can be filtered by. Pure."""

from orchestrator_svc.lifecycle import TaskState
from svc_kit.filters import Condition, FieldType, FilterField, parse_filter

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


def conditions(text: str) -> tuple[Condition, ...]:
    """What a task must meet; raises FILTER_INVALID."""
    return parse_filter(text, FIELDS)
