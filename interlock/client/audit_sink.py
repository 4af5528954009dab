"""The producers' way into the audit log: batches over one stream, acknowledged in order."""

import asyncio
from collections.abc import Iterator, Sequence

import grpc

from interlock.audit.v1 import audit_service_pb2, audit_service_pb2_grpc, entry_pb2

_MAX_EVENTS = 512
_MAX_BYTES = 2 * 1024 * 1024


class AuditSink:
    """Appends events over an internal channel to the audit service.

    One delivery at a time: order is what makes the producers' sequence numbers gapless on arrival. A failure
    ends the stream and is raised; the caller, which keeps the events, delivers them again, and the log knows
    the repeats by their event ids.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = audit_service_pb2_grpc.AuditServiceStub(channel)
        self._stream: (
            grpc.aio.StreamStreamCall[
                audit_service_pb2.AppendStreamRequest, audit_service_pb2.AppendStreamResponse
            ]
            | None
        ) = None
        self._one_at_a_time = asyncio.Lock()

    async def deliver(self, events: Sequence[entry_pb2.Event]) -> None:
        """Return when every event is durable and part of its tenant's tree.

        Raises grpc.aio.AioRpcError as AppendStream answers, or ConnectionError when the stream ended early.
        """
        async with self._one_at_a_time:
            try:
                for batch in _batches(events):
                    await self._append(batch)
            except BaseException:
                self._drop()
                raise

    async def close(self) -> None:
        """End the stream."""
        async with self._one_at_a_time:
            self._drop()

    async def _append(self, batch: Sequence[entry_pb2.Event]) -> None:
        if self._stream is None:
            self._stream = self._stub.AppendStream()
        await self._stream.write(audit_service_pb2.AppendStreamRequest(events=batch))
        answer = await self._stream.read()
        if not isinstance(answer, audit_service_pb2.AppendStreamResponse):
            raise ConnectionError("the audit service ended the stream before it acknowledged a batch")
        if len(answer.appended) != len(batch):
            raise ConnectionError(f"{len(batch)} events were sent and {len(answer.appended)} acknowledged")

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None


def _batches(events: Sequence[entry_pb2.Event]) -> Iterator[list[entry_pb2.Event]]:
    batch: list[entry_pb2.Event] = []
    size = 0
    for event in events:
        length = event.ByteSize()
        if batch and (len(batch) == _MAX_EVENTS or size + length > _MAX_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += length
    if batch:
        yield batch
