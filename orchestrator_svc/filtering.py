"""What ListTasks can be filtered by."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from orchestrator_svc import tables
from orchestrator_svc.lifecycle import TaskState
from svc_kit.filters import FieldType, FilterField, Operator, parse_filter

FIELDS = {
    "agent": FilterField(),
    "state": FilterField(values=frozenset(TaskState)),
    "task_type": FilterField(),
    "create_time": FilterField(type=FieldType.TIME),
}
_COMPARE: Mapping[Operator, Callable[[Any, Any], Any]] = {
    Operator.EQUAL: operator.eq,
    Operator.NOT_EQUAL: operator.ne,
    Operator.LESS: operator.lt,
    Operator.LESS_OR_EQUAL: operator.le,
    Operator.GREATER: operator.gt,
    Operator.GREATER_OR_EQUAL: operator.ge,
}


def conditions(text: str) -> list[sa.ColumnElement[bool]]:
    """The filter as conditions on `task`; raises FILTER_INVALID."""
    return [
        _COMPARE[each.operator](tables.task.c[each.field], each.value) for each in parse_filter(text, FIELDS)
    ]
