"""Step 9: the row and the audit entry stand before anything happens."""

import asyncio
import uuid
from datetime import datetime
from typing import Any, Protocol

import structlog

from gateway_svc.audit_events import TOOL_CALL, add_json, asked_part, call_event, to_message
from gateway_svc.audit_log import AuditLog, NotRecordedError
from gateway_svc.errors import QuotaExceededError, audit_unavailable, broken
from gateway_svc.pipeline.flights import Flights
from gateway_svc.pipeline.pending import Begun, Cleared
from gateway_svc.quotas import Ceiling
from gateway_svc.told_store import Told
from gateway_svc.tool_call import CallStatus, ToolCall
from svc_kit.clock import Clock
from svc_kit.errors import DomainError, Unavailable
from svc_kit.ids import uuid7

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 0.5
_WITHDRAW_SECONDS = 1.0


class Beginnings(Protocol):
    """What this step asks of the store."""

    async def begin(self, call: ToolCall, *, repeatable: bool, ceilings: tuple[Ceiling, ...]) -> bool:
        """Store a call as RUNNING; False when it stands already. Raises QUOTA_EXCEEDED."""

    async def withdraw(self, call: ToolCall, *, reason: str, message: str, now: datetime, told: Told) -> None:
        """Turn it into a refused one, of which nothing was executed."""


class Owner(Protocol):
    """What this step asks of this process's standing among the gateways."""

    def owner(self) -> uuid.UUID:
        """Whose its calls are; raises DATABASE_UNAVAILABLE while it has no standing."""

    def abandon(self, call: ToolCall) -> None:
        """Leave the end of a call to the sweep."""


class WriteAhead:
    """Begins calls, and takes back those that did not start after all."""

    def __init__(
        self, store: Beginnings, audit: AuditLog, *, ownership: Owner, clock: Clock, beside: Flights[Any]
    ) -> None:
        self._store = store
        self._audit = audit
        self._ownership = ownership
        self._clock = clock
        self._beside = beside

    async def begin(self, cleared: Cleared, *, repeatable: bool) -> Begun | None:
        """The call, recorded; None when somebody else began it first.

        Raises AUDIT_UNAVAILABLE, and QUOTA_EXCEEDED, by which nothing was begun.
        """
        call = self._running(cleared)
        try:
            if not await self._store.begin(call, repeatable=repeatable, ceilings=cleared.ceilings):
                return None
        except QuotaExceededError:
            raise
        except Exception as error:
            # Its commit may have been done without our hearing of it.
            await self._withdraw_soon(call, error if isinstance(error, DomainError) else broken())
            raise
        event = call_event(
            call, event_id=call.audit_event, time=call.create_time, actor=cleared.pending.caller
        )
        add_json(event, asked_part(call.asked), cleared.arguments.canonical)
        try:
            index = await self._audit.append(event)
        except NotRecordedError:
            refusal = audit_unavailable()
            await self._withdraw_soon(call, refusal)
            raise refusal from None
        except Exception:
            await self._withdraw_soon(call, broken())
            raise
        return Begun(call=call, audit_index=index, cleared=cleared)

    async def withdraw(self, call: ToolCall, error: DomainError) -> None:
        """Store that nothing was executed, and tell the log, which may hold the beginning.

        What cannot be stored is left to the sweep, which says less: that nobody knows.
        """
        event = call_event(call, event_id=uuid7(), time=self._clock.now(), actor=call.asked.worker)
        event.status, event.reason = CallStatus.REFUSED, error.reason_name
        event.attributes["withdraws"] = str(call.audit_event)
        told = Told(message=to_message(TOOL_CALL, event))
        while True:
            try:
                await self._store.withdraw(
                    call, reason=error.reason_name, message=error.message, now=self._clock.now(), told=told
                )
            except Unavailable:
                await asyncio.sleep(_RETRY_SECONDS)
            except Exception:
                log.exception("call_not_withdrawn", call_id=str(call.asked.call_id))
                self._ownership.abandon(call)
                return
            else:
                return

    async def _withdraw_soon(self, call: ToolCall, error: DomainError) -> None:
        """Withdraw; the answer does not wait long for a database that may be away."""
        await asyncio.wait({self._beside.spawn(self.withdraw(call, error))}, timeout=_WITHDRAW_SECONDS)

    def _running(self, cleared: Cleared) -> ToolCall:
        return ToolCall(
            asked=cleared.pending.asked,
            status=CallStatus.RUNNING,
            verdicts=cleared.pending.verdicts.all(),
            policy_ids=cleared.policy_ids,
            shadow_policy_ids=cleared.pending.verdicts.shadow_policy_ids,
            approval_id=cleared.approval_id,
            reserve=cleared.reserve,
            owner=self._ownership.owner(),
            audit_event=uuid7(),
            create_time=self._clock.now(),
        )
