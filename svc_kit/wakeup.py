"""Wake-ups: "something was committed, read again", within a process and between processes.

A wake-up carries no data and may be lost or come twice; the truth is what the reader finds. It is sent
*after* the commit: NOTIFY inside business transactions would queue them all behind one lock of the whole
cluster.
"""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Self

import structlog
from psycopg import sql

from interlock.common.cancellation import end
from svc_kit.database import Connection, Database
from svc_kit.errors import Unavailable

log = structlog.get_logger(__name__)

BEAT_SECONDS = 5.0
# A process that has heard no other for so many beats tells nobody of its commits.
_SILENT_BEATS = 3
SILENCE_SECONDS = 5.0
MAX_TOPIC_BYTES = 200
# Postgres refuses payloads of 8000 bytes.
_MAX_PAYLOAD_BYTES = 7900
# From here on topics are not told apart any more (they pile up while the database is away).
_MAX_UNSENT = 1000
_EVERY_TOPIC = "*"


class Subscription:
    """A flag that one reader waits for; set by any number of wake-ups, cleared by the wait that saw it."""

    def __init__(self, on_close: Callable[["Subscription"], None] | None = None) -> None:
        self._event = asyncio.Event()
        self._on_close = on_close

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop being woken from outside."""
        if self._on_close is not None:
            self._on_close(self)
            self._on_close = None

    def wake(self) -> None:
        """End the present wait, or the next one."""
        self._event.set()

    async def wait(self, timeout: float = 1.0) -> bool:
        """True when woken, False after `timeout` seconds; the reader reads again in both cases.

        A wake-up that comes between two waits is kept, so a reader that reads after each wait misses nothing.
        """
        if not self._event.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._event.wait()
        woken = self._event.is_set()
        self._event.clear()
        return woken


class Wakeups:
    """Wake-ups by topic among the processes that share one database.

    `notify` wakes this process at once and the others by one NOTIFY per `interval` seconds that names every
    topic notified meanwhile; the first one after a pause goes out without delay. Without `running()` it works
    within the process alone.

    Every process says once a beat that it listens. One that hears no other sends nothing else: to tell nobody
    would cost it a statement a commit. A newcomer reads everything when it begins to listen.
    """

    def __init__(
        self,
        database: Database,
        *,
        channel: str = "interlock_wakeups",
        interval: float = 0.005,
        retry_seconds: float = 1.0,
        beat_seconds: float = BEAT_SECONDS,
    ) -> None:
        self._database = database
        self._channel = channel
        self._interval = interval
        self._retry_seconds = retry_seconds
        self._beat_seconds = beat_seconds
        self._heard_others = 0.0  # by the monotonic clock
        self._origin = uuid.uuid4().hex
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._running = False
        self._unsent: set[str] = set()
        self._send = asyncio.Event()
        self._listening = asyncio.Event()

    def subscribe(self, topic: str) -> Subscription:
        """A subscription to `topic`; close it (or use it in `with`) when its reader ends."""
        subscription = Subscription(on_close=lambda closed: self._unsubscribe(topic, closed))
        self._subscriptions.setdefault(topic, set()).add(subscription)
        return subscription

    def notify(self, *topics: str) -> None:
        """Something under these topics was committed: call it after the commit; it does not block."""
        for topic in topics:
            if not 0 < len(topic.encode()) <= MAX_TOPIC_BYTES:
                raise ValueError(f"wake-up topic must have 1 to {MAX_TOPIC_BYTES} bytes")
            self._wake(topic)
            if self._running and not self._alone and len(self._unsent) < _MAX_UNSENT:
                self._unsent.add(topic)
        if self._unsent:
            self._send.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """While the block lasts, wake-ups travel to and from other processes."""
        self._running = True
        tasks = [asyncio.create_task(self._listen_for_ever()), asyncio.create_task(self._send_for_ever())]
        try:
            yield self
        finally:
            self._running = False
            await end(*tasks)

    @property
    def _alone(self) -> bool:
        """Whether no other process listens, as far as one that listens itself can know."""
        silent = time.monotonic() - self._heard_others
        return self._listening.is_set() and silent > _SILENT_BEATS * self._beat_seconds

    async def listening(self) -> None:
        """Returns when wake-ups of other processes can arrive."""
        await self._listening.wait()

    def _unsubscribe(self, topic: str, subscription: Subscription) -> None:
        subscriptions = self._subscriptions[topic]
        subscriptions.discard(subscription)
        if not subscriptions:
            del self._subscriptions[topic]

    def _wake(self, topic: str) -> None:
        for subscription in self._subscriptions.get(topic, ()):
            subscription.wake()

    def _wake_all(self) -> None:
        for topic in self._subscriptions:
            self._wake(topic)

    async def _listen_for_ever(self) -> None:
        await self._keep_trying("listen", self._listen)

    async def _send_for_ever(self) -> None:
        await self._keep_trying("notify", self._send_unsent)

    async def _keep_trying(self, purpose: str, use: Callable[[Connection], Awaitable[None]]) -> None:
        while True:
            try:
                async with self._database.dedicated(f"wake-ups {purpose}") as connection:
                    await use(connection)
            except Unavailable:
                pass  # the database says so itself, once
            except Exception:
                log.exception("wakeups_failed", purpose=purpose)
            await asyncio.sleep(self._retry_seconds)

    async def _listen(self, connection: Connection) -> None:
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(self._channel)))
        await self._beat(connection)
        self._heard_others = time.monotonic()  # or may yet: it takes a while to know
        self._listening.set()
        # Whatever was told while nobody listened is lost, so everybody reads once.
        self._wake_all()
        try:
            while True:
                async for notification in connection.notifies(timeout=self._beat_seconds):
                    self._received(notification.payload)
                await self._beat(connection)
        finally:
            self._listening.clear()

    async def _beat(self, connection: Connection) -> None:
        """Tell the others that this process listens; a connection that died without a word fails here."""
        async with asyncio.timeout(SILENCE_SECONDS):
            await connection.execute("SELECT pg_notify(%s, %s)", [self._channel, self._origin])

    def _received(self, payload: str) -> None:
        origin, _, topics = payload.partition(" ")
        if origin == self._origin:
            return
        self._heard_others = time.monotonic()
        if not topics:
            return
        if topics == _EVERY_TOPIC:
            self._wake_all()
            return
        for topic in json.loads(topics):
            self._wake(topic)

    async def _send_unsent(self, connection: Connection) -> None:
        while True:
            await self._send.wait()
            self._send.clear()
            topics, self._unsent = self._unsent, set()
            if not topics:
                continue
            try:
                await connection.execute("SELECT pg_notify(%s, %s)", [self._channel, self._payload(topics)])
            except BaseException:
                self._unsent |= topics
                self._send.set()
                raise
            await asyncio.sleep(self._interval)

    def _payload(self, topics: set[str]) -> str:
        payload = f"{self._origin} {json.dumps(sorted(topics))}"
        if len(topics) >= _MAX_UNSENT or len(payload) > _MAX_PAYLOAD_BYTES:
            return f"{self._origin} {_EVERY_TOPIC}"
        return payload
