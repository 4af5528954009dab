"""Wake-ups: within a process at once, between processes soon, and never the only way to learn something."""

import asyncio
import time
from collections.abc import Callable

import pytest

from svc_kit.database import Connection, Database
from svc_kit.wakeup import MAX_TOPIC_BYTES, Subscription, Wakeups


async def test_a_wake_up_within_the_process_needs_no_database() -> None:
    wakeups = Wakeups(Database("postgresql://nobody@/none?host=/nowhere"))
    with wakeups.subscribe("tasks") as mine, wakeups.subscribe("steps") as other:
        wakeups.notify("tasks")
        assert await mine.wait(0) is True
        assert await other.wait(0) is False


async def test_a_wake_up_between_two_waits_is_kept_and_many_count_once() -> None:
    subscription = Subscription()
    subscription.wake()
    subscription.wake()
    assert await subscription.wait(0) is True
    assert await subscription.wait(0) is False


async def test_a_reader_without_wake_ups_reads_again_after_its_time() -> None:
    started = time.monotonic()
    assert await Subscription().wait(0.05) is False
    assert time.monotonic() - started >= 0.04


async def test_another_process_is_woken_on_the_topics_that_were_told(url: str) -> None:
    here, there = Database(url), Database(url)
    mine, theirs = Wakeups(here), Wakeups(there)
    async with mine.running(), theirs.running():
        await theirs.listening()
        wanted, other = theirs.subscribe("a"), theirs.subscribe("other")
        await asyncio.gather(wanted.wait(1), other.wait(0.01))
        mine.notify("a", "b")
        assert await wanted.wait(10) is True
        assert await other.wait(0) is False


async def test_many_wake_ups_travel_in_few_notifications(url: str) -> None:
    database = Database(url)
    wakeups = Wakeups(database, interval=0.05)
    async with database.dedicated("test") as listener, wakeups.running():
        await listener.execute("LISTEN interlock_wakeups")
        for n in range(500):
            wakeups.notify(f"topic {n % 20}")
        payloads = await received(listener, until="topic 19")
        assert len(payloads) <= 2
        for _ in range(20):
            wakeups.notify("late")
            await asyncio.sleep(0)
        assert len(await received(listener, until="late")) == 1


async def test_a_process_that_hears_no_other_keeps_its_wake_ups_to_itself_until_one_comes(url: str) -> None:
    database = Database(url)
    mine = Wakeups(Database(url), beat_seconds=0.05)
    async with database.dedicated("test") as listener, mine.running():
        await mine.listening()
        await until(lambda: mine._alone)
        await listener.execute("LISTEN interlock_wakeups")
        mine.notify("nobody hears this")
        told = [each.payload async for each in listener.notifies(timeout=0.3)]
        assert told
        assert not any("nobody hears this" in payload for payload in told)
        theirs = Wakeups(Database(url), beat_seconds=0.05)
        async with theirs.running():
            await until(lambda: not mine._alone)
            wanted = theirs.subscribe("a")
            await wanted.wait(0)
            mine.notify("a")
            assert await wanted.wait(10) is True


async def test_more_topics_than_a_notification_holds_wake_everybody(url: str) -> None:
    mine, theirs = Wakeups(Database(url)), Wakeups(Database(url))
    async with mine.running(), theirs.running():
        await theirs.listening()
        subscription = theirs.subscribe("somebody")
        await subscription.wait(0)
        mine.notify(*(f"{n:0{MAX_TOPIC_BYTES}}" for n in range(100)))
        assert await subscription.wait(10) is True


async def test_a_lost_listener_comes_back_and_wakes_everybody_because_it_may_have_missed_something(
    url: str,
) -> None:
    database = Database(url)
    mine, theirs = Wakeups(Database(url), retry_seconds=0.05), Wakeups(Database(url), retry_seconds=0.05)
    async with mine.running(), theirs.running():
        await theirs.listening()
        await mine.listening()
        subscription = theirs.subscribe("a")
        async with database.dedicated("test") as connection:
            await connection.execute(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                " WHERE application_name LIKE '%wake-ups%' AND datname = current_database()"
            )
        assert await subscription.wait(10) is True
        await theirs.listening()
        mine.notify("a")
        assert await subscription.wait(10) is True
    await database.close()


async def test_a_closed_subscription_leaves_nothing_behind() -> None:
    wakeups = Wakeups(Database("postgresql://nobody@/none?host=/nowhere"))
    subscription = wakeups.subscribe("a")
    subscription.close()
    subscription.close()
    wakeups.notify("a")
    assert await subscription.wait(0) is False


@pytest.mark.parametrize("topic", ["", "x" * (MAX_TOPIC_BYTES + 1)])
async def test_a_topic_that_cannot_travel_is_refused(topic: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        Wakeups(Database("postgresql://nobody@/none?host=/nowhere")).notify(topic)


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def received(listener: Connection, *, until: str) -> list[str]:
    """Payloads with topics, up to the one that names this topic."""
    payloads: list[str] = []
    async for notification in listener.notifies(timeout=10):
        if " " in notification.payload:
            payloads.append(notification.payload)
        if f'"{until}"' in notification.payload:
            return payloads
    raise AssertionError(f"{until} was never told: {payloads}")
