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
def sender(valkey_server: ValkeyServer) -> Iterator[NudgeBroker]:
    """Who nudges."""
    broker = NudgeBroker(valkey_server.url)
    yield broker
    broker.client.close()


@pytest.fixture
def taken(valkey_server: ValkeyServer) -> Iterator["queue.Queue[str]"]:
    """The pools that a real Dramatiq worker was nudged for."""
    received: queue.Queue[str] = queue.Queue()
    broker = NudgeBroker(valkey_server.url)
    broker.client.flushall()
    dramatiq.actor(actor_name=ACTOR, queue_name=queue_name("a"), broker=broker)(received.put)
    worker = dramatiq.Worker(broker, worker_threads=1, worker_timeout=100)
    worker.start()
    yield received
    worker.stop(timeout=5_000)
    broker.client.close()


def test_a_nudge_reaches_an_idle_worker(taken: "queue.Queue[str]", sender: NudgeBroker) -> None:
    for _ in range(20):
        sender.enqueue(nudge("a"))
        assert taken.get(timeout=_SECONDS) == "a"


def test_a_worker_is_nudged_again_after_redis_was_emptied_and_restarted(
    taken: "queue.Queue[str]", sender: NudgeBroker, valkey_server: ValkeyServer
) -> None:
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


def test_an_idle_worker_asks_redis_seldom(taken: "queue.Queue[str]", sender: NudgeBroker) -> None:
    def commands() -> int:
        return int(sender.client.info()["total_commands_processed"])

    before = commands()
    # A stretch of idleness is what is measured here.
    time.sleep(2.0)
    # One blocking pop and one fetch with its inner commands a second; polling would take hundreds.
    assert commands() - before < 40
    assert taken.empty()


def test_a_delayed_nudge_is_refused(sender: NudgeBroker) -> None:
    with pytest.raises(ValueError, match="run_after"):
        sender.enqueue(nudge("a"), delay=1000)
