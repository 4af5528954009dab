"""Who reads what people wrote is itself written down, before they get to see it."""

from collections.abc import Mapping

from audit_svc.event import NewEvent, nanoseconds
from audit_svc.log import AuditLog
from svc_kit.clock import Clock
from svc_kit.ids import uuid7

PRODUCER = "audit"


class PayloadReads:
    """Records the reading of payloads in the log that they were read from."""

    def __init__(self, log: AuditLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def record(self, *, tenant: str, reader: str, attributes: Mapping[str, str]) -> None:
        """Return once the entry stands; what was read stays unsent when this fails.

        The task stands among the attributes: its own trail holds what the task did, not who looked at it.
        """
        await self._log.append(
            NewEvent(
                event_id=uuid7(),
                tenant=tenant,
                producer=PRODUCER,
                type="PAYLOAD_READ",
                event_time=nanoseconds(self._clock.now()),
                actor=reader,
                status="COMPLETED",
                attributes=attributes,
            )
        )
