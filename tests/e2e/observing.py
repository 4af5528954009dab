"""What the tests ask of a suite about its tasks, calls and audit trails."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from interlock.audit.v1 import audit_service_pb2
from interlock.client import Client
from interlock.client.watching import TERMINAL
from interlock.gateway.v1 import gateway_service_pb2, tool_call_pb2
from interlock.orchestrator.v1 import orchestrator_service_pb2, task_pb2
from interlock.verify import parse_leaf
from tests.e2e.suite import RunningSuite

Found = TypeVar("Found")

COMPLETED = task_pb2.TASK_STATE_COMPLETED
FAILED = task_pb2.TASK_STATE_FAILED


async def eventually(condition: Callable[[], Awaitable[Found | None]], *, seconds: float = 60.0) -> Found:
    """Poll until it answers something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (found := await condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        await asyncio.sleep(0.02)
    return found


async def settled(suite: RunningSuite, *, seconds: float = 60.0) -> None:
    """Return when every process of the suite is ready."""

    async def is_ready() -> bool:
        return suite.is_ready()

    await eventually(is_ready, seconds=seconds)


@asynccontextmanager
async def people(suite: RunningSuite) -> AsyncIterator[Client]:
    """A client of somebody who submits tasks and reads everything."""
    async with suite.client("SUPER_ADMIN", "AUDITOR") as client:
        yield client


async def submit(client: Client, agent: str, **task_input: Any) -> str:
    """Submit a task; its id."""
    return (await client.submit(agent, json.dumps(task_input, ensure_ascii=False))).task_id


async def ended(client: Client, *task_ids: str) -> list[task_pb2.Task]:
    """The tasks once each is terminal, in the order asked for."""
    async with asyncio.timeout(90):
        return list(await asyncio.gather(*(client.wait(task_id) for task_id in task_ids)))


async def run(client: Client, agent: str, **task_input: Any) -> task_pb2.Task:
    """Submit a task and wait for its end."""
    (task,) = await ended(client, await submit(client, agent, **task_input))
    return task


async def events(client: Client, task_id: str) -> list[task_pb2.TaskEvent]:
    """Every event of a terminal task but the first, which is its submission."""
    return [update.event async for update in client.watch(task_id, after_revision=1)]


async def assert_ended_once(client: Client, task: task_pb2.Task) -> list[task_pb2.TaskEvent]:
    """The task's events: numbered without a gap up to its revision, the last of them alone terminal."""
    told = await events(client, task.task_id)
    assert [event.revision for event in told] == list(range(2, task.revision + 1))
    assert [event.state in TERMINAL for event in told] == [False] * (len(told) - 1) + [True]
    assert told[-1].state == task.state
    return told


def outcomes(task: task_pb2.Task) -> list[str]:
    """How each attempt ended, in order."""
    assert [attempt.attempt for attempt in task.attempts] == list(range(1, task.attempt + 1))
    return [attempt.outcome for attempt in task.attempts]


async def calls(client: Client, task_id: str) -> list[tool_call_pb2.ToolCall]:
    """The tool calls of a task, newest first."""
    request = gateway_service_pb2.ListToolCallsRequest(filter=f'task_id = "{task_id}"')
    return list((await client.call(client.gateway.ListToolCalls, request)).tool_calls)


async def running_call(client: Client, task_id: str) -> tool_call_pb2.ToolCall:
    """A call of the task, once it runs: first it has a row, then the log knows, then it starts."""

    async def find() -> tool_call_pb2.ToolCall | None:
        found = await calls(client, task_id)
        return next((each for each in found if each.status == tool_call_pb2.TOOL_CALL_STATUS_RUNNING), None)

    async def begun() -> bool:
        return any(entry.fields.get("call") == call.call_id for entry in await trail(client, task_id))

    call = await eventually(find)
    await eventually(begun)
    return call


async def steps(client: Client, task_id: str) -> list[task_pb2.Step]:
    """The steps of a task with what went in and out."""
    request = orchestrator_service_pb2.ListTaskStepsRequest(task_id=task_id, include_payloads=True)
    return list((await client.call(client.tasks.ListTaskSteps, request)).steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One entry of an audit trail, read."""

    fields: dict[str, Any]
    parts: dict[str, Any]

    @property
    def said(self) -> tuple[str, str, str]:
        """Type, status and reason."""
        return self.fields["type"], self.fields.get("status", ""), self.fields.get("reason", "")


async def trail(client: Client, task_id: str) -> list[Entry]:
    """What the audit log holds of a task now, with payloads."""
    request = audit_service_pb2.GetAuditTrailRequest(task_id=task_id, include_payloads=True, page_size=1000)
    answer = await client.call(client.audit.GetAuditTrail, request)
    return [
        Entry(
            fields=dict(parse_leaf(entry.leaf).fields),
            parts={p.part: _content(p.content_type, p.body) for p in entry.payloads if p.present},
        )
        for entry in answer.entries
    ]


async def full_trail(client: Client, task: task_pb2.Task) -> list[Entry]:
    """The trail of a terminal task once it is complete: its end, and the end of each call, are recorded.

    In the order in which it happened: the log itself has it in the order in which two services told it.
    """
    ending = {COMPLETED: "COMPLETED", FAILED: "FAILED"}.get(task.state, "CANCELED")

    async def complete() -> list[Entry] | None:
        found = await trail(client, task.task_id)
        over = any(each.said[:2] == ("STATE_CHANGE", ending) for each in found)
        return found if over and _pending(found) == 0 else None

    return sorted(await eventually(complete), key=lambda entry: str(entry.fields["event_time"]))


def entries_of(found: Iterable[Entry], kind: str) -> list[Entry]:
    """Those of one type."""
    return [entry for entry in found if entry.fields["type"] == kind]


def _pending(found: list[Entry]) -> int:
    """Calls, of tools and of models, that were written ahead and have neither ended nor been withdrawn."""
    asked = [*entries_of(found, "TOOL_CALL"), *entries_of(found, "PROMPT")]
    begun = {entry.fields["id"] for entry in asked if entry.said[1] == "RUNNING"}
    withdrawn = {entry.fields.get("attributes", {}).get("withdraws") for entry in found}
    ended = len(entries_of(found, "TOOL_RESULT")) + len(entries_of(found, "MODEL_OUTPUT"))
    return len(begun - withdrawn) - ended


def _content(content_type: str, body: bytes) -> Any:
    return json.loads(body) if content_type == "application/json" else body.decode()
