"""Leadership: one at a time, given up when its holder ends, taken again after a failure."""

import asyncio
import threading

from svc_kit.advisory import Leader, lock_key
from svc_kit.database import Database
from tests.svc_kit_data.logbook import until


async def for_ever() -> None:
    await asyncio.Event().wait()


async def test_work_that_fails_is_taken_up_again(database: Database) -> None:
    starts = 0
    done = asyncio.Event()

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts < 3:
            raise ValueError
        done.set()
        await for_ever()

    leader = Leader(database, "reaper", work, retry_seconds=0.01)
    running = asyncio.create_task(leader.run())
    async with asyncio.timeout(30):
        await done.wait()
    assert leader.leading
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not leader.leading


async def test_a_leader_that_ends_makes_room_and_its_work_ends_first(database: Database) -> None:
    working: set[str] = set()
    together = 0

    def leader(name: str) -> Leader:
        async def work() -> None:
            nonlocal together
            working.add(name)
            together = max(together, len(working))
            try:
                await for_ever()
            finally:
                await asyncio.sleep(0.05)
                working.remove(name)

        return Leader(database, "reaper", work, retry_seconds=0.01)

    first = asyncio.create_task(leader("first").run())
    await until(lambda: working == {"first"})
    second = asyncio.create_task(leader("second").run())
    first.cancel()
    await until(lambda: working == {"second"})
    second.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    assert together == 1


async def test_leaders_of_different_names_do_not_wait_for_each_other(database: Database) -> None:
    leaders = [Leader(database, name, for_ever) for name in ("reaper", "relay")]
    running = [asyncio.create_task(leader.run()) for leader in leaders]
    await until(lambda: all(leader.leading for leader in leaders))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_leader_that_hangs_is_replaced_and_leads_no_more_when_it_goes_on(
    url: str, database: Database
) -> None:
    hangs, go_on, ended = threading.Event(), threading.Event(), threading.Event()

    async def hang() -> None:
        hangs.set()
        try:
            # In a loop of its own, which stands still as a stopped process does.
            go_on.wait(60)
            await for_ever()
        finally:
            ended.set()

    async def lead_and_hang() -> None:
        theirs = Database(url)
        leader = Leader(theirs, "reaper", hang, retry_seconds=0.1, hang_seconds=0.5)
        running = asyncio.create_task(leader.run())
        await asyncio.to_thread(ended.wait, 60)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await theirs.close()

    thread = threading.Thread(target=asyncio.run, args=(lead_and_hang(),), daemon=True)
    thread.start()
    await asyncio.to_thread(hangs.wait, 60)
    second = Leader(database, "reaper", for_ever, retry_seconds=0.05, hang_seconds=60)
    running = asyncio.create_task(second.run())
    await until(lambda: second.leading)
    assert not ended.is_set()
    go_on.set()
    await asyncio.to_thread(thread.join, 60)
    assert ended.is_set()
    assert second.leading
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_the_key_of_a_name_never_changes() -> None:
    assert lock_key("outbox") == lock_key("outbox") != lock_key("reaper")
    assert lock_key("outbox") == 8606968888193004722
