"""A watch that takes itself up again."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeAlias

import grpc

from interlock.client.errors import InterlockError
from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import task_pb2

Stream: TypeAlias = grpc.aio.UnaryStreamCall[messages.WatchTaskRequest, messages.WatchTaskResponse]
# Why the stream broke, and the revision after which it is taken up again.
Interrupted: TypeAlias = Callable[[str, int], None]

TERMINAL = frozenset(
    {task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELED}
)

_FIRST_WAIT_SECONDS = 0.1
_LAST_WAIT_SECONDS = 2.0
# A watch goes on after these: the server is away or stops, or found us too slow.
_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_TOO_MUCH = frozenset({"SLOW_CONSUMER", "OVERLOADED"})
# A bookmark is due every 10 s; a stream silent for longer is dead, whatever TCP says.
_SILENCE_SECONDS = 25.0


async def follow(
    watch: Callable[[int], Stream], *, after_revision: int, interrupted: Interrupted | None
) -> AsyncGenerator[messages.WatchTaskResponse, None]:
    """Snapshots and events of one task until it is terminal; `watch` opens a stream after a revision.

    Bookmarks are left out. Raises InterlockError.
    """
    revision = after_revision
    wait = _FIRST_WAIT_SECONDS
    while True:
        stream = watch(revision)
        why = ""
        try:
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    update = await stream.read()
                if not isinstance(update, messages.WatchTaskResponse):
                    # Closed with OK: the task is terminal, and this was its end.
                    return
                wait = _FIRST_WAIT_SECONDS
                if not update.HasField("bookmark"):
                    changed = update.snapshot if update.HasField("snapshot") else update.event
                    revision = changed.revision
                    yield update
                    if changed.state in TERMINAL:
                        return
        except grpc.aio.AioRpcError as error:
            problem = InterlockError.of(error)
            if problem.code not in _AWAY and problem.reason not in _TOO_MUCH:
                raise problem from None
            why = problem.message or problem.code.name
            wait = max(wait, problem.retry_after or 0.0)
        except TimeoutError:
            why = f"nothing was heard for {_SILENCE_SECONDS:.0f} s"
        finally:
            stream.cancel()
        if interrupted is not None:
            interrupted(why, revision)
        await asyncio.sleep(wait)
        wait = min(wait * 2, _LAST_WAIT_SECONDS)
