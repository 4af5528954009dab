"""The registry's statements: one method per question. Every one names the tenant, but for the feed's."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from registry_svc.capabilities import closure
from registry_svc.records import Kind, Resource, Summary, Version
from registry_svc.tables import resource, version
from svc_kit.database import Database
from svc_kit.event_log import Head, advance, read_head
from svc_kit.outbox import Message, write_outbox


class Store:
    """Reads on connections of their own; writes on the transaction that the caller holds."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """One transaction, for the writes below."""
        return self._database.transaction()

    async def find(self, kind: Kind, tenant: str, name: str) -> Resource | None:
        """One resource."""
        query = sa.select(resource).where(_is(resource, kind, tenant, name))
        async with self._database.autocommit() as connection:
            row = (await connection.execute(query)).one_or_none()
        return _resource(row) if row is not None else None

    async def find_version(self, kind: Kind, tenant: str, name: str, number: str) -> Version | None:
        """One version."""
        async with self._database.autocommit() as connection:
            return await self.stored_version(connection, kind, tenant, name, number)

    async def find_versions(
        self, keys: Sequence[tuple[Kind, str, str, str]]
    ) -> dict[tuple[Kind, str, str, str], Version]:
        """Many versions by (kind, tenant, name, version), of any tenants: for the relay alone."""
        columns = (version.c.kind, version.c.tenant, version.c.name, version.c.version)
        query = sa.select(version).where(sa.tuple_(*columns).in_([(str(k), t, n, v) for k, t, n, v in keys]))
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(query)).all()
        found = [_version(row) for row in rows]
        return {(each.kind, each.tenant, each.name, each.version): each for each in found}

    async def page(
        self,
        kind: Kind,
        tenant: str,
        *,
        after: str,
        limit: int,
        active: bool | None = None,
        capability: str | None = None,
        tool: str | None = None,
    ) -> list[Resource]:
        """Resources by name, after a name; `capability` matches what is a kind of it too."""
        query = (
            sa.select(resource)
            .where(resource.c.kind == kind, resource.c.tenant == tenant, resource.c.name > after)
            .order_by(resource.c.name)
            .limit(limit)
        )
        if active is not None:
            query = query.where(resource.c.active == active)
        if capability is not None:
            query = query.where(resource.c.covered.contains([capability]))
        if tool is not None:
            query = query.where(resource.c.tools.contains([tool]))
        async with self._database.autocommit() as connection:
            return [_resource(row) for row in (await connection.execute(query)).all()]

    async def version_page(
        self, kind: Kind, tenant: str, name: str, *, before: int | None, limit: int
    ) -> list[Version]:
        """Versions of one resource, newest first, published before a position."""
        query = (
            sa.select(version)
            .where(_is(version, kind, tenant, name))
            .order_by(version.c.position.desc())
            .limit(limit)
        )
        if before is not None:
            query = query.where(version.c.position < before)
        async with self._database.autocommit() as connection:
            return [_version(row) for row in (await connection.execute(query)).all()]

    async def changes(self, *, after: int, limit: int) -> tuple[list[Resource | Version], int]:
        """What changed after a position, of every tenant, in order, and the position up to which that is all.

        A resource shows its last change alone. Nothing beyond the head as it is now is returned: the tables
        are read one after the other, and what commits in between comes whole with the next call.
        """
        found: list[Resource | Version] = []
        async with self._database.autocommit() as connection:
            reached = (await read_head(connection)).position
            if reached <= after:
                return [], reached
            for table, read in ((resource, _resource), (version, _version)):
                query = (
                    sa.select(table)
                    .where(table.c.position > after, table.c.position <= reached)
                    .order_by(table.c.position)
                    .limit(limit)
                )
                rows = (await connection.execute(query)).all()
                found += [read(row) for row in rows]
                if len(rows) == limit:
                    reached = rows[-1].position
        kept = [each for each in found if each.position <= reached]
        # A version goes before the resource that names it as its newest.
        return sorted(kept, key=lambda each: (each.position, isinstance(each, Resource))), reached

    async def lock(self, connection: AsyncConnection, kind: Kind, tenant: str, name: str) -> Resource | None:
        """One resource, locked until the transaction ends."""
        query = sa.select(resource).where(_is(resource, kind, tenant, name)).with_for_update()
        row = (await connection.execute(query)).one_or_none()
        return _resource(row) if row is not None else None

    async def advance(self, connection: AsyncConnection, message: Message) -> Head:
        """Take the next position for one change, and store its audit message.

        The last lock of a transaction.
        """
        head = await advance(connection, events=1, outbox=1)
        await write_outbox(connection, head, [message])
        return head

    async def stored_version(
        self, connection: AsyncConnection, kind: Kind, tenant: str, name: str, number: str
    ) -> Version | None:
        """One version, read on the caller's connection."""
        query = sa.select(version).where(_is(version, kind, tenant, name), version.c.version == number)
        row = (await connection.execute(query)).one_or_none()
        return _version(row) if row is not None else None

    async def insert(self, connection: AsyncConnection, new: Resource) -> bool:
        """Store a new resource; False when the name is taken."""
        statement = insert(resource).values(_row(new)).on_conflict_do_nothing().returning(resource.c.name)
        return (await connection.execute(statement)).one_or_none() is not None

    async def update(self, connection: AsyncConnection, changed: Resource) -> None:
        """Store what a locked resource has become."""
        where = _is(resource, changed.kind, changed.tenant, changed.name)
        await connection.execute(sa.update(resource).where(where).values(_row(changed)))

    async def insert_version(self, connection: AsyncConnection, new: Version) -> None:
        """Store a new version of a locked resource."""
        values = {
            "kind": new.kind,
            "tenant": new.tenant,
            "name": new.name,
            "version": new.version,
            "digest": new.digest,
            "spec_json": new.spec_json,
            "publisher": new.publisher,
            "create_time": new.create_time,
            "position": new.position,
        }
        await connection.execute(sa.insert(version).values(values))


def _is(table: sa.Table, kind: Kind, tenant: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.kind == kind, table.c.tenant == tenant, table.c.name == name)


def _row(record: Resource) -> dict[str, Any]:
    return {
        "kind": record.kind,
        "tenant": record.tenant,
        "name": record.name,
        "latest_version": record.latest_version,
        "active": record.active,
        "description": record.summary.description,
        "capabilities": list(record.summary.capabilities),
        "covered": closure(record.summary.capabilities),
        "tools": list(record.summary.tools),
        "creator": record.creator,
        "create_time": record.create_time,
        "update_time": record.update_time,
        "position": record.position,
    }


def _resource(row: sa.Row[Any]) -> Resource:
    return Resource(
        kind=Kind(row.kind),
        tenant=row.tenant,
        name=row.name,
        latest_version=row.latest_version,
        active=row.active,
        summary=Summary(
            description=row.description,
            capabilities=tuple(row.capabilities),
            tools=tuple(row.tools),
        ),
        creator=row.creator,
        create_time=row.create_time,
        update_time=row.update_time,
        position=row.position,
    )


def _version(row: sa.Row[Any]) -> Version:
    return Version(
        kind=Kind(row.kind),
        tenant=row.tenant,
        name=row.name,
        version=row.version,
        digest=row.digest,
        spec_json=row.spec_json,
        publisher=row.publisher,
        create_time=row.create_time,
        position=row.position,
    )
