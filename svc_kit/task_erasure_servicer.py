"""Erasing the contents of tasks: one function of a service's database does it, this serves it.

The function `erase_tasks(tenant text, task_ids uuid[])` is made by the service's migrations. It answers
{"running": [uuid], "undelivered": bool, "erased": {table: rows}}, and changes nothing while `running` or
`undelivered` says so.
"""

import uuid
from collections.abc import Mapping
from typing import Any, TypeAlias

import grpc
import sqlalchemy as sa

from interlock.common.v1 import task_erasure_service_pb2 as messages
from interlock.common.v1 import task_erasure_service_pb2_grpc
from svc_kit.database import Database
from svc_kit.errors import Violation, invalid
from svc_kit.identity import Role, acting_tenant
from svc_kit.server import Service

NAME = "interlock.common.v1.TaskErasureService"
ROLES: Mapping[str, frozenset[Role]] = {"EraseTasks": frozenset({Role.SERVICE})}
MAX_TASKS = 100

_ERASE = sa.text("SELECT erase_tasks(:tenant, CAST(:task_ids AS uuid[])) AS told")

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class TaskErasureServicer(task_erasure_service_pb2_grpc.TaskErasureServiceServicer):
    """Over the one database of a service."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def EraseTasks(
        self, request: messages.EraseTasksRequest, context: Context
    ) -> messages.EraseTasksResponse:
        task_ids = _task_ids(request)
        async with self._database.autocommit() as connection:
            parameters = {"tenant": acting_tenant(request.tenant), "task_ids": task_ids}
            told = (await connection.execute(_ERASE, parameters)).scalar_one()
        return messages.EraseTasksResponse(
            running_task_ids=told["running"],
            undelivered=told["undelivered"],
            erased=[messages.ErasedRows(name=name, rows=rows) for name, rows in told["erased"].items()],
        )


def task_erasure(database: Database) -> Service:
    """The service, ready to be served at the internal door."""

    def add(server: grpc.aio.Server) -> None:
        task_erasure_service_pb2_grpc.add_TaskErasureServiceServicer_to_server(
            TaskErasureServicer(database), server
        )

    return Service(name=NAME, add=add, roles=ROLES)


def _task_ids(request: messages.EraseTasksRequest) -> list[uuid.UUID]:
    found = []
    if not 0 < len(request.task_ids) <= MAX_TASKS:
        found.append(Violation("task_ids", f"must be 1 to {MAX_TASKS}, not {len(request.task_ids)}"))
    task_ids = []
    for i, text in enumerate(request.task_ids[:MAX_TASKS]):
        try:
            task_ids.append(uuid.UUID(text))
        except ValueError:
            found.append(Violation(f"task_ids[{i}]", "must be a UUID"))
    if not request.tenant:
        found.append(Violation("tenant", "is missing"))
    if found:
        raise invalid(found)
    return task_ids
