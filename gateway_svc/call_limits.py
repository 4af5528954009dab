"""What operators limit: stored when it makes sense, every change in the audit log."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from gateway_svc.audit_events import POLICY_CHANGE, limit_event, to_message
from gateway_svc.told_store import Told
from svc_kit.clock import Clock
from svc_kit.errors import Violation, invalid
from svc_kit.ids import uuid7

MAX_LIMIT = 1_000_000
_TOOL = re.compile(r"[A-Za-z0-9_.-]{0,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimit:
    """The limit of a tool, or (an empty name) of all tools of the tenant; 0 limits nothing."""

    tenant: str
    tool: str
    max_running: int
    max_per_minute: int
    update_time: datetime
    updater: str

    @property
    def empty(self) -> bool:
        """Whether it limits nothing."""
        return not self.max_running and not self.max_per_minute


class CallLimitStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def put(self, limit: CallLimit, told: Told) -> None: ...
    async def page(self, tenant: str, *, after: str | None, limit: int) -> Sequence[CallLimit]: ...


class CallLimits:
    """Limits of one tenant at a time."""

    def __init__(self, store: CallLimitStore, clock: Clock, *, committed: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._committed = committed

    async def put(
        self, tenant: str, actor: str, *, tool: str, max_running: int, max_per_minute: int
    ) -> CallLimit:
        """The limit as stored; raises INVALID_FIELDS."""
        limit = CallLimit(
            tenant=tenant,
            tool=tool,
            max_running=max_running,
            max_per_minute=max_per_minute,
            update_time=self._clock.now(),
            updater=actor,
        )
        if found := list(_flaws(limit)):
            raise invalid(found)
        await self._store.put(limit, self._told(limit))
        self._committed()
        return limit

    async def page(self, tenant: str, *, after: str | None, limit: int) -> Sequence[CallLimit]:
        """Limits by tool, after one."""
        return await self._store.page(tenant, after=after, limit=limit)

    def _told(self, limit: CallLimit) -> Told:
        action = "LIMIT_REMOVED" if limit.empty else "LIMIT_SET"
        event = limit_event(
            tenant=limit.tenant,
            tool=limit.tool,
            action=action,
            event_id=uuid7(),
            time=limit.update_time,
            actor=limit.updater,
        )
        change = {
            "action": action,
            "max_per_minute": limit.max_per_minute,
            "max_running": limit.max_running,
            "tool": limit.tool,
        }
        return Told(
            message=to_message(POLICY_CHANGE, event),
            part="change",
            body=json.dumps(change, sort_keys=True).encode(),
        )


def _flaws(limit: CallLimit) -> Iterator[Violation]:
    if not _TOOL.fullmatch(limit.tool):
        yield Violation("limit.tool", "must be the name of a tool, or empty for all tools of the tenant")
    for name, value in (("max_running", limit.max_running), ("max_per_minute", limit.max_per_minute)):
        if not 0 <= value <= MAX_LIMIT:
            yield Violation(f"limit.{name}", f"must be 1 to {MAX_LIMIT}, or 0 for no limit")
