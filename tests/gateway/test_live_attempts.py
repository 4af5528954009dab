"""The copy of the orchestrator's attempts over breaks of the stream that feeds it."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from gateway_svc.live_attempts import LiveAttempts
from gateway_svc.pipeline.attempt import AttemptCheck
from gateway_svc.verdicts import Verdicts
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc
from interlock.orchestrator.v1.orchestrator_service_pb2 import (
    ATTEMPT_STANDING_LIVE,
    ATTEMPT_STANDING_OVER,
    ATTEMPT_STANDING_TASK_OVER,
    AttemptChange,
    AttemptStanding,
    WatchAttemptsRequest,
    WatchAttemptsResponse,
)
from svc_kit.errors import Aborted, Unavailable
from tests.gateway.world import until

STAYS, GOES = uuid.uuid4(), uuid.uuid4()


def change(
    task_id: uuid.UUID, attempt: int = 1, standing: AttemptStanding.ValueType = ATTEMPT_STANDING_LIVE
) -> AttemptChange:
    return AttemptChange(tenant="t", task_id=str(task_id), attempt=attempt, standing=standing)


class _Orchestrator(orchestrator_service_pb2_grpc.OrchestratorServiceServicer):
    """Says on the newest stream what a test puts there; None ends the stream."""

    def __init__(self) -> None:
        self.asked: list[set[str]] = []
        self.busy: set[uuid.UUID] = set()
        self.streams: list[asyncio.Queue[WatchAttemptsResponse | None]] = []

    async def WatchAttempts(
        self, request: WatchAttemptsRequest, context: Any
    ) -> AsyncIterator[WatchAttemptsResponse]:
        said: asyncio.Queue[WatchAttemptsResponse | None] = asyncio.Queue()
        self.asked.append(set(request.task_ids))
        self.streams.append(said)
        while (message := await said.get()) is not None:
            yield message

    def say(self, *changes: AttemptChange, up_to_date: bool = True) -> None:
        self.streams[-1].put_nowait(WatchAttemptsResponse(changes=changes, up_to_date=up_to_date))


@pytest.fixture
async def orchestrator() -> _Orchestrator:
    return _Orchestrator()  # type: ignore[abstract]  # what the copy asks for is enough


@pytest.fixture
async def attempts(tmp_path: Path, orchestrator: _Orchestrator) -> AsyncIterator[LiveAttempts]:
    server = grpc.aio.server()
    orchestrator_service_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)
    server.add_insecure_port(f"unix:{tmp_path}/s")
    await server.start()
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/s") as channel:
        followed = LiveAttempts(channel, busy=lambda: orchestrator.busy)
        running = asyncio.create_task(followed.run())
        await until(lambda: len(orchestrator.streams) == 1)
        orchestrator.say(change(STAYS), change(GOES))
        await until(lambda: followed.words == 1)
        yield followed
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    await server.stop(None)


def standing(attempts: LiveAttempts, task_id: uuid.UUID) -> tuple[int, int] | None:
    found = attempts.find("t", task_id)
    return (found.attempt, found.standing) if found is not None else None


async def test_what_was_live_stays_so_until_a_new_stream_has_named_every_live_attempt(
    attempts: LiveAttempts, orchestrator: _Orchestrator
) -> None:
    orchestrator.streams[0].put_nowait(None)
    await until(lambda: len(orchestrator.streams) == 2)
    assert standing(attempts, STAYS) == standing(attempts, GOES) == (1, ATTEMPT_STANDING_LIVE)
    orchestrator.say(change(STAYS), up_to_date=False)
    orchestrator.say()
    await until(lambda: attempts.words == 2)
    assert standing(attempts, STAYS) == (1, ATTEMPT_STANDING_LIVE)
    assert standing(attempts, GOES) == (1, ATTEMPT_STANDING_OVER)


async def test_what_happened_before_the_beginning_was_read_does_not_undo_it(
    attempts: LiveAttempts, orchestrator: _Orchestrator
) -> None:
    orchestrator.streams[0].put_nowait(None)
    await until(lambda: len(orchestrator.streams) == 2)
    orchestrator.say(change(STAYS, 2), change(GOES), up_to_date=False)
    orchestrator.say(change(STAYS, 1, ATTEMPT_STANDING_OVER), up_to_date=False)
    orchestrator.say(change(GOES, 2), up_to_date=False)
    await until(lambda: standing(attempts, GOES) == (2, ATTEMPT_STANDING_LIVE))
    assert standing(attempts, STAYS) == (2, ATTEMPT_STANDING_LIVE)


async def test_a_task_for_which_something_began_during_a_break_is_asked_about_next(
    attempts: LiveAttempts, orchestrator: _Orchestrator
) -> None:
    orchestrator.streams[0].put_nowait(None)
    await until(lambda: len(orchestrator.streams) == 2)
    assert orchestrator.asked[1] == set()
    orchestrator.busy = {STAYS, GOES}
    orchestrator.say(change(STAYS))
    await until(lambda: len(orchestrator.streams) == 3)
    assert orchestrator.asked[2] == {str(STAYS), str(GOES)}
    ended = []
    attempts.on_over(lambda _, task_id: ended.append(task_id))
    orchestrator.say(change(STAYS), change(GOES, standing=ATTEMPT_STANDING_TASK_OVER))
    await until(lambda: attempts.words == 3)
    assert ended == [GOES] and len(orchestrator.streams) == 3


def call_of(task_id: uuid.UUID, attempt: int = 1) -> Any:
    """As much of a call as the check looks at."""
    return SimpleNamespace(tenant="t", task_id=task_id, attempt=attempt)


async def test_an_attempt_that_a_silent_feed_has_not_heard_of_is_not_said_to_be_over(
    attempts: LiveAttempts, orchestrator: _Orchestrator
) -> None:
    check = AttemptCheck(attempts, patience_seconds=0.2)
    orchestrator.say()
    with pytest.raises(Unavailable) as caught:
        await check.catch_up(call_of(uuid.uuid4()))
    assert caught.value.reason_name == "POLICY_STALE"
    # What it has heard of needs no further word.
    await check.catch_up(call_of(STAYS))


async def test_an_attempt_that_a_feed_with_news_does_not_name_is_not_live(
    attempts: LiveAttempts, orchestrator: _Orchestrator
) -> None:
    check = AttemptCheck(attempts)
    waiting = asyncio.create_task(check.catch_up(call_of(STAYS, 2)))
    for words in (2, 3):
        orchestrator.say()
        await until(lambda words=words: attempts.words == words)  # type: ignore[misc]
    await waiting
    pending: Any = SimpleNamespace(asked=call_of(STAYS, 2), verdicts=Verdicts())
    with pytest.raises(Aborted) as caught:
        check.check(pending)
    assert caught.value.reason_name == "STALE_ATTEMPT"
