"""Nudges over a real Valkey: delivered without polling, harmless to lose."""

import queue
import time
from collections.abc import Iterator

import dramatiq
import pytest

from svc_kit.nudges import ACTOR, NudgeBroker, nudge, queue_name
from tests.suite_fixtures import ValkeyServer

_SECONDS = 10.0


@pytest.fixture
def taken(valkey_server: ValkeyServer) -> Iterator["queue.Queue[str]"]:
    """The pools that a real Dramatiq worker was nudged for."""
    received: queue.Queue[str] = queue.Queue()
    broker = NudgeBroker(valkey_server.url)
    broker.client.flushall()
    dramatiq.actor(received.put, actor_name=ACTOR, queue_name=queue_name("a"), broker=broker)
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=100)
    worker.start()
    yield received
    worker.stop(timeout=5_000)
    broker.close()


def test_a_nudge_reaches_an_idle_worker(taken: "queue.Queue[str]", valkey_server: ValkeyServer) -> None:
    sender = NudgeBroker(valkey_server.url)
    for _ in range(20):
        sender.enqueue(nudge("a"))
        assert taken.get(timeout=_SECONDS) == "a"


def test_a_worker_is_nudged_again_after_redis_was_emptied_and_restarted(
    taken: "queue.Queue[str]", valkey_server: ValkeyServer
) -> None:
    sender = NudgeBroker(valkey_server.url)
    sender.enqueue(nudge("a"))
    assert taken.get(timeout=_SECONDS) == "a"
    sender.client.flushall()
    valkey_server.kill()
    with pytest.raises(Exception, match=r"(?i)connect"):
        sender.enqueue(nudge("a"))
    valkey_server.start()
    deadline = time.monotonic() + _SECONDS
    while taken.empty() and time.monotonic() < deadline:
        sender.enqueue(nudge("a"))
        time.sleep(0.1)
    assert taken.get(timeout=_SECONDS) == "a"


def test_an_idle_worker_asks_redis_seldom(taken: "queue.Queue[str]", valkey_server: ValkeyServer) -> None:
    client = NudgeBroker(valkey_server.url).client
    before = client.info()["total_commands_processed"]
    time.sleep(2.0)
    # One blocking pop and one fetch with its inner commands a second; polling would take hundreds.
    assert client.info()["total_commands_processed"] - before < 40


def test_a_delayed_nudge_is_refused(valkey_server: ValkeyServer) -> None:
    with pytest.raises(ValueError, match="run_after"):
        NudgeBroker(valkey_server.url).enqueue(nudge("a"), delay=1000)
