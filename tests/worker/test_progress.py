"""What agents say, on its way to the orchestrator."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from interlock.agent import AgentContext
from interlock.orchestrator.v1 import worker_service_pb2 as messages
from svc_kit.background import background
from tests.worker.scripted import AWAY, Worker, attempt_of, scripted_worker, task
from worker_svc.progress import Progress

_SECONDS = 20.0
_MAX_BYTES = 2048


@asynccontextmanager
async def sending() -> AsyncIterator[Worker]:
    with tempfile.TemporaryDirectory(prefix="il-") as folder:
        async with (
            asyncio.timeout(_SECONDS),
            scripted_worker(Path(folder)) as worker,
            background(worker.progress.run, name="progress"),
        ):
            yield worker


async def until(condition: Callable[[], bool]) -> None:
    while True:
        if condition():
            return
        await asyncio.sleep(0.01)


async def said_in_the_end(worker: Worker, line: str) -> messages.AttemptProgress:
    await until(lambda: any(word.message.endswith(line) for word in worker.script.said))
    return worker.script.said[-1]


async def test_what_is_said_faster_than_it_is_sent_goes_together_and_the_share_stands() -> None:
    async with sending() as worker:

        async def agent(context: AgentContext, _: dict[str, Any]) -> None:
            context.log("one", done=0.25)
            context.log("two")
            context.log("three")
            await said_in_the_end(worker, "three")
            context.log("four\nfive", done=7)
            await said_in_the_end(worker, "five")

        await worker.run(agent)
        first, second = worker.script.said
        assert (first.number, first.message, first.done) == (1, "one\ntwo\nthree", 0.25)
        assert (second.number, second.message, second.done) == (2, "four\nfive", 1.0)
        assert first.attempt_token.key_id == "token"
        assert len(worker.script.completed) == 1


async def test_an_orchestrator_that_is_away_holds_up_no_agent_and_hears_the_next_word() -> None:
    async with sending() as worker:
        worker.script.will_fail("EmitProgress", AWAY)

        async def agent(context: AgentContext, _: dict[str, Any]) -> None:
            context.log("into the void")
            await until(lambda: not worker.script.errors["EmitProgress"])
            context.log("heard")
            await said_in_the_end(worker, "heard")

        await worker.run(agent)
        assert [word.message for word in worker.script.said] == ["heard"]


async def test_an_attempt_that_is_over_says_nothing_more() -> None:
    async with sending() as worker:

        async def agent(context: AgentContext, _: dict[str, Any]) -> None:
            context.log("in time")
            await said_in_the_end(worker, "in time")
            context.log("too late")

        await worker.run(agent)
        other = attempt_of(task("b"))
        worker.progress.say(other, "after it", None)
        await said_in_the_end(worker, "after it")
        assert [word.message for word in worker.script.said] == ["in time", "after it"]


@given(st.lists(st.text(), max_size=40), st.lists(st.floats(), max_size=3))
def test_whatever_an_agent_says_fits_the_contract_and_ends_with_its_last_line(
    said: list[str], shares: list[float]
) -> None:
    sent: list[messages.EmitProgressRequest] = []

    async def speak() -> None:
        async def send(request: messages.EmitProgressRequest) -> None:
            sent.append(request)

        progress, attempt = Progress(send), attempt_of(task())
        for message in said:
            progress.say(attempt, message, None)
        for share in shares:
            progress.say(attempt, "", share)
        async with background(progress.run, name="progress"):
            await asyncio.sleep(0)

    asyncio.run(speak())
    words = [word for request in sent for word in request.progress]
    assert len(words) <= 1
    for word in words:
        assert len(word.message.encode()) <= _MAX_BYTES
        assert "\0" not in word.message
        assert 0 <= word.done <= 1
        lines = [line for message in said for line in message.replace("\0", "\ufffd").splitlines()]
        assert [line.encode(errors="replace")[:_MAX_BYTES] for line in lines[-1:]] == [
            line.encode() for line in word.message.split("\n")[-1:] if lines
        ]
