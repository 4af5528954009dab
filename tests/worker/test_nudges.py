"""Nudges of several workers of a pool over a real Valkey: who takes no tasks leaves them to the others."""

import asyncio
import queue
import socket
from typing import Any

import pytest
from dramatiq.errors import ConnectionClosed

from svc_kit.nudges import NudgeBroker, nudge, queue_name
from tests.suite_fixtures import ValkeyServer
from worker_svc.nudges import Nudges

_SECONDS = 10.0


class Peer:
    """A worker that notes for which pools it was nudged."""

    def __init__(self, url: str) -> None:
        self.takes = True
        self.nudged: queue.Queue[str] = queue.Queue()
        self.nudges = Nudges(url, ["shared"], self._claim_all)

    def _claim_all(self, pool: str) -> bool:
        if self.takes:
            self.nudged.put(pool)
        return self.takes


async def heard(peer: Peer) -> str:
    return await asyncio.to_thread(peer.nudged.get, timeout=_SECONDS)


async def test_a_worker_that_takes_no_tasks_passes_nudges_on_until_it_takes_some_again(
    valkey_server: ValkeyServer,
) -> None:
    sender = NudgeBroker(valkey_server.url)
    sender.client.flushall()
    drained, other = Peer(valkey_server.url), Peer(valkey_server.url)
    async with drained.nudges.running():
        drained.takes = False
        sender.enqueue(nudge("shared"))
        # Nobody else is there yet: what it passes on waits.
        async with other.nudges.running():
            assert await heard(other) == "shared"
            for _ in range(5):
                sender.enqueue(nudge("shared"))
                assert await heard(other) == "shared"
        drained.takes = True
        drained.nudges.take()
        sender.enqueue(nudge("shared"))
        assert await heard(drained) == "shared"
    sender.client.close()


def test_a_server_that_does_not_answer_counts_as_a_lost_connection_which_is_tried_again() -> None:
    message = nudge("shared").copy(options={"redis_message_id": "1"})
    # It is listened to by the system alone: connections are made, and nothing ever comes back.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        broker = NudgeBroker(f"redis://127.0.0.1:{port}?socket_timeout=0.1")
        consumer: Any = broker.consume(queue_name("shared"))
        for ask in (
            lambda: next(consumer),
            lambda: consumer.ack(message),
            lambda: consumer.nack(message),
            lambda: consumer.requeue([message]),
        ):
            with pytest.raises(ConnectionClosed):
                ask()  # type: ignore[no-untyped-call]
        broker.client.close()
