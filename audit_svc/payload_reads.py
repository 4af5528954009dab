"""Who may read what people wrote, and that each reading is written down before it happens."""

import json
from collections.abc import Mapping

from audit_svc.errors import payloads_forbidden
from audit_svc.event import NewEvent, Part, nanoseconds
from audit_svc.log import AuditLog
from svc_kit.clock import Clock
from svc_kit.errors import Violation, invalid
from svc_kit.identity import Role, acting_tenant, principal
from svc_kit.ids import uuid7

PRODUCER = "audit"
PAYLOAD_READERS = frozenset({Role.DEVELOPER, Role.AUDITOR})
MAX_REASON = 2000


class PayloadReads:
    """Records the reading of payloads in the log that they were read from."""

    def __init__(self, log: AuditLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def record(
        self,
        *,
        tenant: str,
        reader: str,
        attributes: Mapping[str, str],
        reason: str,
        search: Mapping[str, str] | None = None,
    ) -> None:
        """Return once the entry stands; what was read stays unsent when this fails.

        `search` is what was searched for: it may name people, so it is a content, as the reason is.

        The task stands among the attributes: its own trail holds what the task did, not who looked at it.
        """
        parts = [Part(name="reason", content_type="text/plain", body=reason.encode())] if reason else []
        if search is not None:
            asked = json.dumps(search, ensure_ascii=False).encode()
            parts.append(Part(name="search", content_type="application/json", body=asked))
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
                parts=tuple(parts),
            )
        )


def require_payload_reader() -> None:
    """Raise ROLE_REQUIRED unless the caller may read payloads, and know who stands behind pseudonyms."""
    if not any(principal().has(role) for role in PAYLOAD_READERS):
        raise payloads_forbidden()


def reading_tenant(*, payloads: bool, reason: str) -> str:
    """The tenant that the caller reads, with payloads or without.

    Raises ROLE_REQUIRED, and INVALID_FIELDS for an auditor without a reason: developers look at their own
    work, auditors at other people's.
    """
    if len(reason) > MAX_REASON:
        raise invalid([Violation("reason", f"has more than {MAX_REASON} characters")])
    if payloads:
        require_payload_reader()
        if not (reason.strip() or principal().has(Role.DEVELOPER)):
            raise invalid([Violation("reason", "must say why payloads are read: the log keeps it")])
    return acting_tenant()
