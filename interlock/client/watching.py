"""Watches that take themselves up again."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc

from interlock.audit.v1 import audit_service_pb2 as audit_messages
from interlock.client.errors import InterlockError
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2

Stream: TypeAlias = grpc.aio.UnaryStreamCall[messages.WatchTaskRequest, messages.WatchTaskResponse]
ListStream: TypeAlias = grpc.aio.UnaryStreamCall[messages.WatchTasksRequest, messages.WatchTasksResponse]
LogStream: TypeAlias = grpc.aio.UnaryStreamCall[
    audit_messages.TailEntriesRequest, audit_messages.TailEntriesResponse
]
# Why the stream broke, and the revision after which it is taken up again; 0 = with a fresh snapshot.
Interrupted: TypeAlias = Callable[[str, int], None]
# Why the stream broke, and the cursor from which it is taken up again; empty = with a fresh snapshot.
ListInterrupted: TypeAlias = Callable[[str, str], None]

TERMINAL = frozenset(
    {task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELED}
)

_FIRST_WAIT_SECONDS = 0.1
_LAST_WAIT_SECONDS = 2.0
# A watch goes on after these: the server is away or stops, or found us too slow.
_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_TOO_MUCH = frozenset({"SLOW_CONSUMER", "OVERLOADED"})
# It begins anew after these: what follows is gone, or what was seen is of a history that is no more.
_COMPACTED, _REPLACED = "REVISION_COMPACTED", "CURSOR_INVALID"
# A bookmark is due every 10 s; a stream silent for longer is dead, whatever TCP says.
_SILENCE_SECONDS = 25.0


async def follow(
    watch: Callable[[int], Stream], *, after_revision: int, interrupted: Interrupted | None
) -> AsyncGenerator[messages.WatchTaskResponse, None]:
    """Snapshots and events of one task until it is terminal; `watch` opens a stream after a revision.

    Bookmarks are left out. Raises InterlockError, also for a first revision that the task never had.
    """
    revision = after_revision
    heard = False
    pause = Pause()
    while True:
        try:
            async with aclosing(_answers(watch(revision))) as updates:
                async for update in updates:
                    heard = True
                    pause.over()
                    if update.HasField("bookmark"):
                        continue
                    if update.HasField("progress"):
                        yield update
                        continue
                    changed = update.snapshot if update.HasField("snapshot") else update.event
                    revision = changed.revision
                    yield update
                    if changed.state in TERMINAL:
                        return
            # Closed with OK: the task is terminal, and this was its end.
            return
        except _BrokenError as broken:
            if broken.reason == _COMPACTED or (broken.reason == _REPLACED and heard):
                revision = 0
            elif broken.reason == _REPLACED and broken.problem is not None:
                raise broken.problem from None
            if interrupted is not None:
                interrupted(broken.why, revision)
            await pause.take(broken.retry_after)


async def follow_tasks(
    watch: Callable[[str, bool], ListStream],
    *,
    cursor: str,
    from_now: bool,
    interrupted: ListInterrupted | None,
) -> AsyncGenerator[messages.WatchTasksResponse, None]:
    """Parts of the list and its changes for ever.

    `watch` opens a stream at a cursor; without one it is told whether to begin from now on. Bookmarks are
    left out. A part marked `first` begins the list anew. Raises InterlockError.
    """
    pause = Pause()
    while True:
        try:
            async with aclosing(_answers(watch(cursor, from_now))) as updates:
                async for update in updates:
                    pause.over()
                    cursor = update.cursor or cursor
                    if not update.HasField("bookmark"):
                        yield update
            raise _BrokenError("the server ended the stream")
        except _BrokenError as broken:
            if broken.reason in (_COMPACTED, _REPLACED):
                # What came meanwhile would be missed by a stream from now on.
                cursor, from_now = "", False
            if interrupted is not None:
                interrupted(broken.why, cursor)
            await pause.take(broken.retry_after)


def mendable(problem: InterlockError) -> bool:
    """Whether a call that failed so succeeds when it is made again after a while."""
    return problem.code in _AWAY or problem.reason in _TOO_MUCH


class Pause:
    """Between two tries: doubled each time, until something is heard."""

    def __init__(self) -> None:
        self._seconds = _FIRST_WAIT_SECONDS

    def over(self) -> None:
        """Something was heard."""
        self._seconds = _FIRST_WAIT_SECONDS

    async def take(self, at_least: float) -> None:
        """Wait for the next try."""
        await asyncio.sleep(max(self._seconds, at_least))
        self._seconds = min(self._seconds * 2, _LAST_WAIT_SECONDS)


class _BrokenError(Exception):
    """A stream ended that is to be taken up again."""

    def __init__(self, why: str, problem: InterlockError | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.problem = problem
        self.reason = problem.reason if problem is not None else ""
        self.retry_after = (problem.retry_after or 0.0) if problem is not None else 0.0


async def _answers(stream: grpc.aio.UnaryStreamCall[Any, Any]) -> AsyncGenerator[Any, None]:
    """What a stream brings until it is closed with OK; raises _BrokenError, or InterlockError."""
    try:
        while True:
            async with asyncio.timeout(_SILENCE_SECONDS):
                update = await stream.read()
            if update is grpc.aio.EOF:
                return
            yield update
    except grpc.aio.AioRpcError as error:
        problem = InterlockError.of(error)
        if not mendable(problem) and problem.reason not in (_COMPACTED, _REPLACED):
            raise problem from None
        raise _BrokenError(problem.message or problem.code.name, problem) from None
    except TimeoutError:
        raise _BrokenError(f"nothing was heard for {_SILENCE_SECONDS:.0f} s") from None
    finally:
        stream.cancel()


async def follow_log(
    tail: Callable[[int, bool], LogStream], *, begin: int, from_now: bool, interrupted: Interrupted | None
) -> AsyncGenerator[audit_messages.TailEntriesResponse, None]:
    """Entries of the log for ever, each once; `tail` opens a stream at an index, or at what comes next.

    Messages that say nothing but how far it is are left out. Raises InterlockError.
    """
    pause = Pause()
    while True:
        try:
            async with aclosing(_answers(tail(begin, from_now))) as updates:
                async for update in updates:
                    pause.over()
                    begin, from_now = update.next_index, False
                    if update.entries or update.HasField("checkpoint"):
                        yield update
            raise _BrokenError("the server ended the stream")
        except _BrokenError as broken:
            if interrupted is not None:
                interrupted(broken.why, begin)
            await pause.take(broken.retry_after)
