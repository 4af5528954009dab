"""Which attempts are live, as the orchestrator streams it."""

import asyncio
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Collection

import grpc
import structlog

from interlock.orchestrator.v1 import orchestrator_service_pb2 as messages
from interlock.orchestrator.v1 import orchestrator_service_pb2_grpc

log = structlog.get_logger(__name__)

_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 1.0
# The orchestrator says something each second; three words missing mean a dead peer that TCP has not noticed.
_SILENCE_SECONDS = 3.5
_MAX_REMEMBERED = 50_000

# Told of a task that is over or was asked to end.
OnOver = Callable[[str, uuid.UUID], None]


class LiveAttempts:
    """Follows WatchAttempts over an internal channel and answers from memory."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        busy: Callable[[], Collection[uuid.UUID]] = tuple,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stub = orchestrator_service_pb2_grpc.OrchestratorServiceStub(channel)
        self._busy = busy  # tasks that something runs for here
        self._monotonic = monotonic
        # By task, its last attempt that was heard of: of every live task, and of the latest of the others.
        self._live: dict[uuid.UUID, messages.AttemptChange] = {}
        self._over: OrderedDict[uuid.UUID, messages.AttemptChange] = OrderedDict()
        self._on_over: list[OnOver] = []
        self._heard: float | None = None
        self._word = asyncio.Condition()
        self.words = 0
        """How often it was up to date so far."""

    def on_over(self, callback: OnOver) -> None:
        """Call back, on the loop, with tenant and id of each task that is over or was asked to end."""
        self._on_over.append(callback)

    def age(self) -> float:
        """Seconds since the feed was last up to date; infinite before it first was."""
        return float("inf") if self._heard is None else self._monotonic() - self._heard

    def find(self, tenant: str, task_id: uuid.UUID) -> messages.AttemptChange | None:
        """How the last attempt of a task stands, as far as it was heard of."""
        found = self._live.get(task_id) or self._over.get(task_id)
        return found if found is not None and found.tenant == tenant else None

    async def word(self) -> None:
        """Return when it is up to date the next time."""
        async with self._word:
            await self._word.wait()

    async def run(self) -> None:
        """Follow for ever; ends by cancellation."""
        retry = _FIRST_RETRY_SECONDS
        while True:
            try:
                await self._follow()
                retry = _FIRST_RETRY_SECONDS
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                log.debug("attempt_feed_broke", error=str(error))
            await asyncio.sleep(retry)
            retry = min(retry * 2, _LAST_RETRY_SECONDS)

    async def _follow(self) -> None:
        """One stream, which begins with every live attempt: what it does not name is not live.

        Until the beginning is whole, what was known before stands: a short break is nobody's end. A task that
        something runs for may have ended in the break, so it is asked about; one for which something began
        only afterwards makes the stream begin again.
        """
        asked = set(self._busy())
        named: dict[uuid.UUID, int] = {}
        complete = False
        unsettled: set[uuid.UUID] = set()
        request = messages.WatchAttemptsRequest(task_ids=map(str, asked))
        stream = self._stub.WatchAttempts(request)
        try:
            while True:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    message = await stream.read()
                if not isinstance(message, messages.WatchAttemptsResponse):
                    return  # grpc's mark for the end of a stream
                for change in message.changes:
                    if not complete:
                        task_id = uuid.UUID(change.task_id)
                        # The beginning is followed by what happened while it was read.
                        if change.attempt < named.get(task_id, 0):
                            continue
                        named[task_id] = change.attempt
                    self._apply(change)
                if message.up_to_date:
                    if not complete:
                        complete = True
                        for task_id in self._live.keys() - named.keys():
                            self._remember(task_id, self._live.pop(task_id))
                        unsettled = set(self._busy()) - asked - named.keys()
                        named.clear()
                    await self._up_to_date()
                    if unsettled:
                        return
        finally:
            stream.cancel()

    def _apply(self, change: messages.AttemptChange) -> None:
        task_id = uuid.UUID(change.task_id)
        if change.standing in (messages.ATTEMPT_STANDING_LIVE, messages.ATTEMPT_STANDING_CANCELING):
            self._over.pop(task_id, None)
            self._live[task_id] = change
        else:
            self._live.pop(task_id, None)
            self._remember(task_id, change)
        if change.standing in (messages.ATTEMPT_STANDING_CANCELING, messages.ATTEMPT_STANDING_TASK_OVER):
            for callback in self._on_over:
                callback(change.tenant, task_id)

    def _remember(self, task_id: uuid.UUID, change: messages.AttemptChange) -> None:
        if change.standing == messages.ATTEMPT_STANDING_LIVE:
            change = messages.AttemptChange(
                tenant=change.tenant,
                task_id=change.task_id,
                attempt=change.attempt,
                standing=messages.ATTEMPT_STANDING_OVER,
            )
        self._over[task_id] = change
        if len(self._over) > _MAX_REMEMBERED:
            self._over.popitem(last=False)

    async def _up_to_date(self) -> None:
        self._heard = self._monotonic()
        self.words += 1
        async with self._word:
            self._word.notify_all()
