"""A little service on the kit: notes in a log with an outbox, written through a group commit."""

import asyncio
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from svc_kit.database import Database
from svc_kit.errors import DomainError
from svc_kit.event_log import advance, create_log_head
from svc_kit.group_commit import GroupCommit
from svc_kit.outbox import Message, OutboxRow, create_outbox, write_outbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One note; its id makes a second write of it do nothing."""

    note_id: uuid.UUID
    tenant: str = "default"


def create_tables(connection: sa.Connection) -> None:
    operations = Operations(MigrationContext.configure(connection))
    create_log_head(operations)
    create_outbox(operations)
    operations.execute("CREATE TABLE notes (note_id uuid PRIMARY KEY, position bigint UNIQUE NOT NULL)")


_KNOWN = sa.text("SELECT note_id, position FROM notes WHERE note_id = ANY(:ids)")
_INSERT = sa.text(
    "INSERT INTO notes (note_id, position)"
    " SELECT note_id, :first + ordinal - 1"
    " FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS row (note_id, ordinal)"
)


class Logbook:
    """Stores notes; every note has an event position and one outbox message that carries its id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.commits = 0

    async def write(self, notes: Sequence[Note]) -> list[int | DomainError]:
        """The position of each note, old or new, in one transaction."""
        async with self._database.transaction() as connection:
            found = await connection.execute(_KNOWN, {"ids": [note.note_id for note in notes]})
            positions: dict[uuid.UUID, int] = {row.note_id: row.position for row in found}
            fresh = [note for note in notes if note.note_id not in positions]
            head = await advance(connection, events=len(fresh), outbox=len(fresh))
            positions |= {note.note_id: head.first_position + n for n, note in enumerate(fresh)}
            await connection.execute(
                _INSERT, {"ids": [note.note_id for note in fresh], "first": head.first_position}
            )
            await write_outbox(connection, head, [_message(note) for note in fresh])
        self.commits += 1
        return [positions[note.note_id] for note in notes]

    def group(self) -> GroupCommit[Note, int]:
        return GroupCommit(self.write, size_of=lambda _: 16, tenant_of=lambda note: note.tenant)

    async def positions(self, *, after: int = 0) -> list[int]:
        async with self._database.autocommit() as connection:
            query = sa.text("SELECT position FROM notes WHERE position > :after ORDER BY position")
            return list((await connection.execute(query, {"after": after})).scalars())

    async def ids(self) -> set[uuid.UUID]:
        async with self._database.autocommit() as connection:
            return set((await connection.execute(sa.text("SELECT note_id FROM notes"))).scalars())


class Receiver:
    """Takes deliveries as an audit service does: once per event id, and it knows in which order they came."""

    def __init__(self) -> None:
        self.order: list[uuid.UUID] = []
        self.seqs: list[int] = []
        self.deliveries: list[int] = []
        self.failures: list[Exception] = []  # raised by the next deliveries, one each
        self.refused: set[uuid.UUID] = set()

    async def holds(self, count: int, *, seconds: float = 30) -> None:
        """Returns when this many different entries have arrived."""
        await until(lambda: len(self.order) == count, seconds=seconds)

    async def deliver(self, entries: Sequence[OutboxRow]) -> None:
        self.deliveries.append(len(entries))
        if self.failures:
            raise self.failures.pop(0)
        if any(entry.event_id in self.refused for entry in entries):
            raise ValueError("refused")
        known = set(self.order)
        fresh = [entry for entry in entries if entry.event_id not in known]
        self.order += [entry.event_id for entry in fresh]
        self.seqs += [entry.seq for entry in fresh]


async def until(condition: Callable[[], bool], *, seconds: float = 30) -> None:
    """Returns when the condition holds; TimeoutError if it does not in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 (what is waited for signals nobody)
            await asyncio.sleep(0.005)


async def as_they_are(rows: Sequence[OutboxRow]) -> list[OutboxRow]:
    return list(rows)


def note(tenant: str = "default") -> Note:
    return Note(note_id=uuid.uuid4(), tenant=tenant)


def _message(written: Note) -> Message:
    return Message(
        tenant=written.tenant, event_id=written.note_id, kind="NOTE", body={"note": str(written.note_id)}
    )
