"""The services that keep contents of tasks beside the log: each erases its own."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import grpc

from interlock.common.v1 import task_erasure_service_pb2 as messages
from interlock.common.v1 import task_erasure_service_pb2_grpc

_SECONDS = 30.0


class KeeperAwayError(Exception):
    """The service did not answer, or could not do it now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a service says; with `running` or `undelivered` it has changed nothing."""

    running: bool
    undelivered: bool
    erased: tuple[tuple[str, int], ...]


class TaskKeeper(Protocol):
    """One such service."""

    @property
    def name(self) -> str:
        """`orchestrator` or `gateway`."""
        ...

    async def erase(self, tenant: str, task_ids: Sequence[uuid.UUID]) -> Told:
        """Erase the contents of tasks; raises KeeperAwayError."""
        ...


class GrpcTaskKeeper:
    """A service behind its internal door; None for one that was never configured."""

    def __init__(self, name: str, channel: grpc.aio.Channel | None) -> None:
        self.name = name
        self._channel = channel
        self._stub = (
            task_erasure_service_pb2_grpc.TaskErasureServiceStub(channel) if channel is not None else None
        )

    async def close(self) -> None:
        """Close its channel."""
        if self._channel is not None:
            await self._channel.close()

    async def erase(self, tenant: str, task_ids: Sequence[uuid.UUID]) -> Told:
        """Erase the contents of tasks; raises KeeperAwayError."""
        if self._stub is None:
            raise KeeperAwayError(f"the address of the {self.name} is not configured")
        request = messages.EraseTasksRequest(tenant=tenant, task_ids=map(str, task_ids))
        try:
            answer = await self._stub.EraseTasks(request, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise KeeperAwayError(f"the {self.name} answered {error.code().name}") from error
        return Told(
            running=bool(answer.running_task_ids),
            undelivered=answer.undelivered,
            erased=tuple((rows.name, rows.rows) for rows in answer.erased),
        )
