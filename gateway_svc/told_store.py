"""What the audit log is to be told of a change, stored in the same transaction."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_svc.tables import audit_payload
from svc_kit.event_log import Head, advance
from svc_kit.outbox import Message, write_outbox

_KEEP = sa.insert(audit_payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A message for the audit log, and a content that no other row keeps."""

    message: Message
    part: str = ""
    content_type: str = "application/json"
    body: bytes = b""


async def write_told(connection: AsyncConnection, told: Sequence[Told], *, events: int = 0) -> Head:
    """Queue for the audit log, as the last lock of a transaction: it takes the one that orders them.

    Also takes so many positions of the gateway's own log.
    """
    kept = [
        {
            "event_id": each.message.event_id,
            "part": each.part,
            "content_type": each.content_type,
            "body": each.body,
        }
        for each in told
        if each.part
    ]
    if kept:
        await connection.execute(_KEEP, kept)
    head = await advance(connection, events=events, outbox=len(told))
    await write_outbox(connection, head, [each.message for each in told])
    return head
