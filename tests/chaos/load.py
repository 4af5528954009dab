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
from interlock.orchestrator.v1 import task_pb2
from tests.chaos import ledger
from tests.e2e.catalogue import AT_MOST_ONCE, Work

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


class Kind(StrEnum):
    """What a task is for."""

    ECHO = "echo"
    CHAIN = "chain"
    NAP = "nap"
    ONCE = "once"
    BROKEN = "broken"
    CANCELED = "canceled"


_WEIGHTS = {Kind.ECHO: 8, Kind.CHAIN: 3, Kind.NAP: 3, Kind.ONCE: 4, Kind.BROKEN: 1, Kind.CANCELED: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One task that is going to be submitted."""

    number: int
    kind: Kind
    work: Work
    task_input: dict[str, Any]
    cancel_after: float | None = None


def jobs(number: int, count: int, *, marks: int) -> Iterator[Job]:
    """What is submitted, in order; the same for the same number, but for the marks, counted from `marks`."""
    chance = random.Random(~number)
    for index in range(count):
        kind = chance.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
        if kind is Kind.ONCE:
            yield Job(number=index, kind=kind, work=ONCE, task_input={"mark": ledger.mark(marks + index)})
        elif kind in (Kind.NAP, Kind.CANCELED):
            seconds = round(chance.uniform(0.1, 2.0), 3)
            cancel_after = chance.uniform(0.0, 3.0) if kind is Kind.CANCELED else None
            yield Job(
                number=index,
                kind=kind,
                work=NAP,
                task_input={"seconds": seconds},
                cancel_after=cancel_after,
            )
        else:
            work = {Kind.ECHO: ECHO, Kind.CHAIN: CHAIN, Kind.BROKEN: BROKEN}[kind]
            yield Job(number=index, kind=kind, work=work, task_input={"value": index})


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
        cancel = asyncio.create_task(self._cancel(followed))
        try:
            await self._watch(followed)
        finally:
            cancel.cancel()
            await asyncio.gather(cancel, return_exceptions=True)

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

    async def _submit(self, job: Job) -> str:
        request_id = str(uuid.uuid4())
        submitted: task_pb2.Task = await self._again(
            lambda: self.client.submit(
                job.work.name,
                json.dumps(job.task_input),
                task_type=TASK_TYPE,
                request_id=request_id,
            )
        )
        return submitted.task_id

    async def _cancel(self, followed: Followed) -> None:
        if followed.job.cancel_after is not None:
            await asyncio.sleep(followed.job.cancel_after)
            await self._again(lambda: self.client.cancel(followed.task_id))

    async def _again(self, call: Any) -> Any:
        while True:
            try:
                return await call()
            except InterlockError as error:
                if error.code in _PASSING:
                    await asyncio.sleep(error.retry_after or 0.2)
                elif error.code is grpc.StatusCode.FAILED_PRECONDITION:
                    # A cancel that came after the end.
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
