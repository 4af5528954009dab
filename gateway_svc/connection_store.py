"""Statements on connections: one method per question."""

import dataclasses
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway_svc.connection import (
    MAX_QUOTAS,
    Connection,
    ConnectionContent,
    ConnectionKey,
    ConnectionKind,
    ModelPrice,
)
from gateway_svc.policy_store import UNIQUE_VIOLATION
from gateway_svc.statements import Statement
from gateway_svc.tables import connection
from gateway_svc.told_store import Told, write_told
from svc_kit.database import Database


class ConnectionStore:
    """Connections as rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant: str, connection_id: str) -> Connection | None:
        """One connection."""
        query = sa.select(connection).where(
            connection.c.tenant == tenant, connection.c.connection_id == connection_id
        )
        async with self._database.autocommit() as session:
            row = (await session.execute(query)).mappings().one_or_none()
        return _from_row(row) if row is not None else None

    async def find_all(self, keys: Collection[ConnectionKey]) -> dict[ConnectionKey, Connection]:
        """Those of some connections, of any tenants, that are there; for the kill switch alone."""
        key = sa.tuple_(connection.c.tenant, connection.c.connection_id)
        query = sa.select(connection).where(key.in_(keys))
        async with self._database.autocommit() as session:
            found = [_from_row(row) for row in (await session.execute(query)).mappings()]
        return {ConnectionKey(each.tenant, each.connection_id): each for each in found}

    async def page(self, tenant: str, *, after: str, limit: int) -> list[Connection]:
        """Connections of a tenant by id, after an id."""
        query = (
            sa.select(connection)
            .where(connection.c.tenant == tenant, connection.c.connection_id > after)
            .order_by(connection.c.connection_id)
            .limit(limit)
        )
        async with self._database.autocommit() as session:
            return [_from_row(row) for row in (await session.execute(query)).mappings()]

    async def create(self, new: Connection, told: Told) -> bool:
        """Store a connection and tell of it; False when its id is taken."""
        try:
            async with self._database.transaction() as session:
                await session.execute(sa.insert(connection).values(**_to_row(new)))
                await write_told(session, [told])
        except IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) != UNIQUE_VIOLATION:
                raise
            return False
        return True

    async def replace(self, stored: Connection, changed: Connection, told: Told) -> bool:
        """Put another state in the place of exactly this one; False when it has changed or is gone."""
        async with self._database.transaction() as session:
            done = await session.execute(sa.update(connection).where(*_is(stored)).values(**_to_row(changed)))
            if done.rowcount:
                await write_told(session, [told])
            return done.rowcount == 1

    async def delete(self, stored: Connection, told: Told) -> bool:
        """Delete exactly this state of a connection; False when it has changed or is gone."""
        async with self._database.transaction() as session:
            done = await session.execute(sa.delete(connection).where(*_is(stored)))
            if done.rowcount:
                await write_told(session, [told])
            return done.rowcount == 1


def _is(stored: Connection) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        connection.c.tenant == stored.tenant,
        connection.c.connection_id == stored.connection_id,
        connection.c.etag == stored.etag,
    )


def _to_row(stored: Connection) -> dict[str, Any]:
    content = stored.content
    return {
        "tenant": stored.tenant,
        "connection_id": stored.connection_id,
        "kind": stored.kind,
        "base_url": content.base_url,
        "models": [
            {"name": name, "input_micros": price.input_micros, "output_micros": price.output_micros}
            for name, price in content.models.items()
        ],
        "agents": list(content.agents),
        "allow_private": content.allow_private,
        "description": content.description,
        "disabled": content.disabled,
        "methods": list(content.methods),
        "credential_header": content.credential_header,
        **{name: getattr(content, name) for name in MAX_QUOTAS},
        "tool_digests": list(content.tool_digests),
        "statements": [dataclasses.asdict(each) for each in content.statements],
        "sealed": stored.sealed,
        "create_time": stored.create_time,
        "update_time": stored.update_time,
        "creator": stored.creator,
        "etag": stored.etag,
    }


def _from_row(row: sa.RowMapping) -> Connection:
    return Connection(
        tenant=row["tenant"],
        connection_id=row["connection_id"],
        kind=ConnectionKind(row["kind"]),
        content=ConnectionContent(
            base_url=row["base_url"],
            models={
                each["name"]: ModelPrice(
                    input_micros=each["input_micros"], output_micros=each["output_micros"]
                )
                for each in row["models"]
            },
            agents=tuple(row["agents"]),
            allow_private=row["allow_private"],
            description=row["description"],
            disabled=row["disabled"],
            methods=tuple(row["methods"]),
            credential_header=row["credential_header"],
            **{name: row[name] for name in MAX_QUOTAS},
            tool_digests=tuple(row["tool_digests"]),
            statements=tuple(Statement(**each) for each in row["statements"]),
        ),
        sealed=row["sealed"],
        create_time=row["create_time"],
        update_time=row["update_time"],
        creator=row["creator"],
        etag=row["etag"],
    )
