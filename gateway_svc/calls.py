"""Reading tool calls."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime

from gateway_svc.call_store import CallStore
from gateway_svc.errors import tool_call_not_found
from gateway_svc.tool_call import CallKey, CallStatus, ToolCall
from svc_kit.errors import Violation, invalid
from svc_kit.filters import Condition, FilterField, parse_filter

FILTER_FIELDS: Mapping[str, FilterField] = {
    "task_id": FilterField(),
    "agent": FilterField(),
    "tool": FilterField(),
    "status": FilterField(values=frozenset(CallStatus)),
    "shadow_policy": FilterField(),
}


class Calls:
    """Calls of one tenant at a time."""

    def __init__(self, store: CallStore) -> None:
        self._store = store

    async def get(self, tenant: str, call_id: str) -> ToolCall:
        """One call; raises TOOL_CALL_NOT_FOUND, or INVALID_FIELDS."""
        try:
            key = CallKey(tenant, uuid.UUID(call_id))
        except ValueError:
            raise invalid([Violation("call_id", "must be a UUID")]) from None
        found = await self._store.find(key)
        if found is None:
            raise tool_call_not_found(call_id)
        return found

    async def page(
        self, tenant: str, *, filter_text: str, before: tuple[datetime, uuid.UUID] | None, limit: int
    ) -> Sequence[ToolCall]:
        """Calls that pass the filter, newest first, older than a position; raises FILTER_INVALID."""
        conditions = parse_filter(filter_text, FILTER_FIELDS)
        return await self._store.page(
            tenant, conditions=[_checked(each) for each in conditions], before=before, limit=limit
        )


def _checked(condition: Condition) -> Condition:
    """With a task id as the UUID that it must be."""
    if condition.field != "task_id":
        return condition
    try:
        return Condition("task_id", condition.operator, str(uuid.UUID(str(condition.value))))
    except ValueError:
        raise invalid([Violation("filter", "task_id must be a UUID")]) from None
