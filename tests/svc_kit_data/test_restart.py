"""PostgreSQL is killed under writers and a relay at work: they say so, go on by themselves, lose nothing."""

import asyncio
import uuid

import pytest

from svc_kit.database import Database
from svc_kit.errors import Unavailable
from svc_kit.outbox import Relay
from svc_kit.wakeup import Wakeups
from tests.suite_fixtures import PostgresServer
from tests.svc_kit_data.crash import crash
from tests.svc_kit_data.logbook import Logbook, Note, Receiver, as_they_are, create_tables, until

_CRASHES = 3
_WRITERS = 16


class Writers:
    """Callers who write note after note, and each note again until it is acknowledged."""

    def __init__(self, book: Logbook, wakeups: Wakeups) -> None:
        self.group = book.group()
        self._wakeups = wakeups
        self._stopped = False
        self.positions: dict[uuid.UUID, int] = {}  # of every acknowledged note
        self.refusals: list[Unavailable] = []
        self._tasks = [asyncio.create_task(self._write(f"tenant {n % 3}")) for n in range(_WRITERS)]

    async def stop(self) -> None:
        self._stopped = True
        await asyncio.gather(*self._tasks)
        await self.group.close()

    async def _write(self, tenant: str) -> None:
        while not self._stopped:
            written = Note(note_id=uuid.uuid4(), tenant=tenant)
            while written.note_id not in self.positions:
                try:
                    self.positions[written.note_id] = await self.group.submit(written)
                except Unavailable as refused:
                    self.refusals.append(refused)
                    await asyncio.sleep(0.05)
            self._wakeups.notify("outbox")


@pytest.mark.chaos
async def test_writers_and_relay_survive_kills_of_the_server_with_nothing_lost_or_doubled(
    postgres_server: PostgresServer, url: str
) -> None:
    database = Database(url)
    async with database.transaction() as connection:
        await connection.run_sync(create_tables)
    book, receiver = Logbook(database), Receiver()
    wakeups = Wakeups(database, retry_seconds=0.1)
    woken = wakeups.subscribe("outbox")
    relay = Relay(database, build=as_they_are, deliver=receiver.deliver, poll_seconds=0.1, woken=woken)
    relaying = asyncio.create_task(relay.run())
    async with wakeups.running():
        writers = Writers(book, wakeups)

        async def both_sides_go_on() -> None:
            written, arrived = len(writers.positions) + 200, len(receiver.order) + 200
            await until(lambda: len(writers.positions) >= written and len(receiver.order) >= arrived)

        for _ in range(_CRASHES):
            await both_sides_go_on()
            refusals = len(writers.refusals) + _WRITERS
            crash(postgres_server)
            await until(lambda refusals=refusals: len(writers.refusals) >= refusals)  # type: ignore[misc]
            postgres_server.start()
        await both_sides_go_on()
        await writers.stop()
        await until(lambda: len(receiver.order) >= len(writers.positions))
    relaying.cancel()
    await asyncio.gather(relaying, return_exceptions=True)

    assert {refused.retry_after for refused in writers.refusals} == {1.0}
    # What a lost COMMIT had written was found again by its id, not written twice; no crash left a gap.
    everything = list(range(1, len(writers.positions) + 1))
    assert await book.ids() == set(writers.positions) == set(receiver.order)
    assert await book.positions() == sorted(writers.positions.values()) == everything
    assert receiver.seqs == everything
    await database.close()
