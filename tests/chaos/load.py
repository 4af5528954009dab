"""Tasks of several kinds, each followed to its end by whoever submitted it."""

import asyncio
import json
import random
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import grpc

from interlock.client import Client, InterlockError
from interlock.orchestrator.v1 import queue_service_pb2, task_pb2
from interlock.registry.v1 import agent_pb2
from tests.chaos import ledger
from tests.e2e.catalogue import AT_MOST_ONCE, Work, allow, duration, publish, publish_agent
from tests.e2e.suite import RunningSuite

TASK_TYPE = "chaos"
# A fault may strike one task again and again; giving up is not what is tested here.
_FAILURES = 50
_NAP = "import time\ndef run(seconds):\n    time.sleep(seconds)\n    return seconds\n"

ECHO = Work(
    name="chaos-echo",
    source="def run(value):\n    return value\n",
    arguments=("value",),
    seconds=20,
    failures=_FAILURES,
)
CHAIN = Work(
    name="chaos-chain",
    source="def run(value):\n    return value\n",
    arguments=("value",),
    seconds=20,
    steps=5,
    failures=_FAILURES,
)
NAP = Work(name="chaos-nap", source=_NAP, arguments=("seconds",), seconds=20, failures=_FAILURES)
ONCE = Work(
    name="chaos-once",
    source=ledger.TOOL,
    arguments=("mark",),
    seconds=20,
    side_effect=AT_MOST_ONCE,
    failures=_FAILURES,
)
BROKEN = Work(
    name="chaos-broken",
    source="def run(value):\n    raise LookupError(value)\n",
    arguments=("value",),
    seconds=20,
    failures=_FAILURES,
)
WORKS = (ECHO, CHAIN, NAP, ONCE, BROKEN)

# Of the naps, so that both orchestrators hand out what one of them alone must not exceed.
LIMITED_QUEUE, MOST_RUNNING = "chaos-limited", 4

FLAKY = "chaos-flaky"
_FLAKY = f"""
from interlock.agent import AgentError

async def run(context, task):
    found = await context.call_tool("{ECHO.tool}", {{"value": task["value"]}}, key="first")
    if context.attempt < 3:
        raise AgentError("not yet", error_class="NOT_YET")
    return await context.call_tool("{ECHO.tool}", {{"value": found}}, key="second")
"""


async def publish_load(suite: RunningSuite) -> None:
    """Publish the tools and agents of every kind."""
    await publish(suite, WORKS)
    spec = agent_pb2.AgentSpec(
        description="Fails twice, and then not.",
        capabilities=["testing"],
        tools=[agent_pb2.ToolBinding(tool=ECHO.tool)],
        python=agent_pb2.PythonRuntime(source=_FLAKY),
        retry=agent_pb2.RetryPolicy(
            max_failures=_FAILURES, initial_interval=duration(0.2), maximum_interval=duration(1)
        ),
    )
    async with suite.client("SUPER_ADMIN") as client:
        await publish_agent(client, FLAKY, spec)
        await allow(client, FLAKY, ECHO.tool)
        queue = queue_service_pb2.Queue(name=LIMITED_QUEUE, pool="default", max_running=MOST_RUNNING)
        await client.call(client.queues.CreateQueue, queue_service_pb2.CreateQueueRequest(queue=queue))


class Kind(StrEnum):
    """What a task is for."""

    ECHO = "echo"
    CHAIN = "chain"
    NAP = "nap"
    ONCE = "once"
    BROKEN = "broken"
    CANCELED = "canceled"
    FLAKY = "flaky"
    PAUSED = "paused"


_WEIGHTS = {
    Kind.ECHO: 8,
    Kind.CHAIN: 3,
    Kind.NAP: 3,
    Kind.ONCE: 4,
    Kind.BROKEN: 1,
    Kind.CANCELED: 2,
    Kind.FLAKY: 2,
    Kind.PAUSED: 2,
}
_NAPPING = (Kind.NAP, Kind.CANCELED, Kind.PAUSED)
_AGENTS = {Kind.ECHO: ECHO.name, Kind.CHAIN: CHAIN.name, Kind.BROKEN: BROKEN.name, Kind.FLAKY: FLAKY}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One task that is going to be submitted."""

    number: int
    kind: Kind
    agent: str
    task_input: dict[str, Any]
    queue: str = "default"
    touch_after: float = 0.0
    """When it is canceled or paused, if it is."""


def jobs(number: int, count: int, *, marks: int) -> Iterator[Job]:
    """What is submitted, in order; the same for the same number, but for the marks, counted from `marks`."""
    chance = random.Random(~number)
    for index in range(count):
        kind = chance.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
        if kind is Kind.ONCE:
            task_input: dict[str, Any] = {"mark": ledger.mark(marks + index)}
            yield Job(number=index, kind=kind, agent=ONCE.name, task_input=task_input)
        elif kind in _NAPPING:
            task_input = {"seconds": round(chance.uniform(0.1, 2.0), 3)}
            touch_after = chance.uniform(0.0, 3.0)
            yield Job(
                number=index,
                kind=kind,
                agent=NAP.name,
                task_input=task_input,
                queue=LIMITED_QUEUE,
                touch_after=touch_after,
            )
        else:
            yield Job(number=index, kind=kind, agent=_AGENTS[kind], task_input={"value": index})


@dataclass(kw_only=True)
class Followed:
    """A task that was accepted, and what its watcher saw."""

    job: Job
    task_id: str
    snapshots: list[int] = field(default_factory=list)
    revisions: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    """States of the terminal updates."""


@dataclass
class Load:
    """Submits jobs and follows them; everything that the service may refuse for now is tried again."""

    client: Client
    in_flight: int
    followed: list[Followed] = field(default_factory=list)
    interruptions: Counter[str] = field(default_factory=Counter)

    async def run(self, work: Iterator[Job]) -> None:
        """Return when every job has ended."""

        async def one_by_one() -> None:
            for job in work:
                await self._follow(job)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.in_flight):
                group.create_task(one_by_one())

    async def _follow(self, job: Job) -> None:
        followed = Followed(job=job, task_id=await self._submit(job))
        self.followed.append(followed)
        touching = asyncio.create_task(self._touch(followed))
        try:
            await self._watch(followed)
        finally:
            touching.cancel()
            await asyncio.gather(touching, return_exceptions=True)

    async def _watch(self, followed: Followed) -> None:
        async for update in self.client.watch(followed.task_id, interrupted=self._interrupted):
            if update.HasField("snapshot"):
                followed.snapshots.append(update.snapshot.revision)
                state = update.snapshot.state
            else:
                followed.revisions.append(update.event.revision)
                state = update.event.state
            if state in _TERMINAL:
                followed.ends.append(state)
            elif state == task_pb2.TASK_STATE_INPUT_REQUIRED:
                # A step whose outcome nobody knows waits for a person, who gives up here.
                await self._again(lambda: self.client.cancel(followed.task_id))
            elif state == task_pb2.TASK_STATE_PAUSED:
                await self._again(lambda: self.client.resume(followed.task_id))

    async def _submit(self, job: Job) -> str:
        request_id = str(uuid.uuid4())
        submitted: task_pb2.Task = await self._again(
            lambda: self.client.submit(
                job.agent,
                json.dumps(job.task_input),
                task_type=TASK_TYPE,
                request_id=request_id,
                queue=job.queue,
            )
        )
        return submitted.task_id

    async def _touch(self, followed: Followed) -> None:
        change = {Kind.CANCELED: self.client.cancel, Kind.PAUSED: self.client.pause}.get(followed.job.kind)
        if change is not None:
            await asyncio.sleep(followed.job.touch_after)
            await self._again(lambda: change(followed.task_id))

    async def _again(self, call: Any) -> Any:
        while True:
            try:
                return await call()
            except InterlockError as error:
                if error.code in _PASSING:
                    await asyncio.sleep(error.retry_after or 0.2)
                elif error.code is grpc.StatusCode.FAILED_PRECONDITION:
                    # It came after the end.
                    return None
                else:
                    raise

    def _interrupted(self, why: str, _revision: int) -> None:
        self.interruptions[why] += 1


_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_TERMINAL = frozenset(
    {task_pb2.TASK_STATE_COMPLETED, task_pb2.TASK_STATE_FAILED, task_pb2.TASK_STATE_CANCELED}
)
