"""The write-ahead way into the audit log: nothing goes on before the log has answered."""

import asyncio

import grpc
import structlog

from interlock.audit.v1 import audit_service_pb2, audit_service_pb2_grpc, entry_pb2

log = structlog.get_logger(__name__)

_APPEND_SECONDS = 3.0


class NotRecordedError(Exception):
    """The log did not say that it holds the event; it may hold it nevertheless."""


class AuditLog:
    """Appends single events."""

    def __init__(self, channel: grpc.aio.Channel, *, append_seconds: float = _APPEND_SECONDS) -> None:
        self._stub = audit_service_pb2_grpc.AuditServiceStub(channel)
        self._append_seconds = append_seconds

    async def append(self, event: entry_pb2.Event) -> int:
        """The event's index, once it is durable and in the tree; else raises NotRecordedError."""
        try:
            async with asyncio.timeout(self._append_seconds):
                answer = await self._stub.Append(
                    audit_service_pb2.AppendRequest(event=event), timeout=self._append_seconds
                )
        except (grpc.aio.AioRpcError, TimeoutError, grpc.aio.UsageError) as error:
            log.warning("audit_append_failed", event_id=event.event_id, error=_told(error))
            raise NotRecordedError from error
        index: int = answer.index
        return index


def _told(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"[:300]
    return repr(error)[:300]
