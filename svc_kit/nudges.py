"""Nudges: the messages in Redis that say "pool P may have work", and the Dramatiq broker that carries them.

A nudge names no task. The truth is in Postgres, so a lost nudge costs latency only and a surplus one does
nothing. The stock broker polls with a back-off of up to a second; this one blocks on a list that each
enqueue pushes to.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import dramatiq
import redis

# The consumer is private to dramatiq, which offers no other place to wait in.
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer
from dramatiq.errors import ConnectionClosed

NAMESPACE = "interlock"
ACTOR = "nudge"
_QUEUE_PREFIX = "pool."
# Wake-ups beyond this many wake nobody: there are never more idle consumers of one pool.
_MAX_WAKEUPS = 64
_BLOCK_SECONDS = 1.0
_HEARTBEAT_TIMEOUT_MS = 10_000


def queue_name(pool: str) -> str:
    """The Dramatiq queue of a pool."""
    return f"{_QUEUE_PREFIX}{pool}"


def nudge(pool: str) -> dramatiq.Message[Any]:
    """The message for a pool; its only argument is the pool."""
    return dramatiq.Message(
        queue_name=queue_name(pool), actor_name=ACTOR, args=(pool,), kwargs={}, options={}
    )


class NudgeBroker(RedisBroker):
    """A Redis broker without delays and middleware, whose idle consumers block instead of polling.

    Raises dramatiq.errors.ConnectionClosed or redis.RedisError while Redis is away.
    """

    def __init__(self, url: str) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            client=redis.Redis.from_url(url, socket_connect_timeout=2.0, socket_timeout=_BLOCK_SECONDS + 4.0),
            middleware=[],
            namespace=NAMESPACE,
            heartbeat_timeout=_HEARTBEAT_TIMEOUT_MS,
        )

    @property
    def consumer_class(self) -> type["_BlockingConsumer"]:
        """The consumer that blocks."""
        return _BlockingConsumer

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue without the twin for delayed messages, which would be polled for nothing."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues.add(queue_name)
            self.emit_after("declare_queue", queue_name)

    def enqueue(self, message: dramatiq.Message[Any], *, delay: int | None = None) -> dramatiq.Message[Any]:
        """Enqueue, and wake one idle consumer; a delay is refused, for waiting is the database's business."""
        if delay is not None:
            raise ValueError("nudges are not delayed; set the task's run_after")
        sent = super().enqueue(message)
        wake = _wake_key(message.queue_name)
        with self.client.pipeline(transaction=False) as pipeline:
            pipeline.lpush(wake, 1)
            pipeline.ltrim(wake, 0, _MAX_WAKEUPS - 1)
            pipeline.execute()
        return sent


class _BlockingConsumer(_RedisConsumer):
    """Fetches, and waits for a wake-up when there is nothing to fetch."""

    message_cache: list[bytes]

    def ack(self, message: Any) -> None:
        with _connection():
            super().ack(message)  # type: ignore[no-untyped-call]

    def nack(self, message: Any) -> None:
        with _connection():
            super().nack(message)  # type: ignore[no-untyped-call]

    def requeue(self, messages: Any) -> None:
        with _connection():
            super().requeue(messages)  # type: ignore[no-untyped-call]

    def __next__(self) -> Any:
        with _connection():
            if not self.message_cache:
                room = self.prefetch - self.outstanding_message_count
                if room > 0:
                    self.message_cache = self.broker.do_fetch(self.queue_name, room)
                if not self.message_cache:
                    # A wake-up pushed between the fetch and here is still in the list, so none is missed.
                    self.broker.client.blpop([_wake_key(self.queue_name)], timeout=_BLOCK_SECONDS)
                    return None
            return super().__next__()  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def _connection() -> Iterator[None]:
    """A server that does not answer is as good as none: dramatiq tries again once it is told so."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise ConnectionClosed(error) from None  # type: ignore[no-untyped-call]


def _wake_key(queue: str) -> str:
    return f"{NAMESPACE}:wake:{queue}"
