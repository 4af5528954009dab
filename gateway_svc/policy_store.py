"""Statements on policies: one method per question."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_svc.policy import Policy, PolicyContent, PolicyMode
from gateway_svc.tables import policy, policy_head, policy_version
from gateway_svc.told_store import Told, write_told
from svc_kit.database import Database

UNIQUE_VIOLATION = "23505"


class PolicyStore:
    """Policies as rows, every version that they had, and the revision of each tenant's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant: str, policy_id: str) -> Policy | None:
        """One policy."""
        query = sa.select(policy).where(policy.c.tenant == tenant, policy.c.policy_id == policy_id)
        async with self._database.autocommit() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return _policy(row) if row is not None else None

    async def find_versions(self, tenant: str, wanted: Sequence[tuple[str, int]]) -> Sequence[Policy]:
        """Those of the wanted versions, (id, version), that there are."""
        query = (
            sa.select(policy_version)
            .where(
                policy_version.c.tenant == tenant,
                sa.tuple_(policy_version.c.policy_id, policy_version.c.version).in_(wanted),
            )
            .order_by(policy_version.c.policy_id, policy_version.c.version)
        )
        async with self._database.autocommit() as connection:
            return [_policy(row) for row in (await connection.execute(query)).mappings()]

    async def versions(self, tenant: str, policy_id: str, *, below: int | None, limit: int) -> list[Policy]:
        """Versions of a policy, newest first, below a version."""
        query = (
            sa.select(policy_version)
            .where(policy_version.c.tenant == tenant, policy_version.c.policy_id == policy_id)
            .order_by(policy_version.c.version.desc())
            .limit(limit)
        )
        if below is not None:
            query = query.where(policy_version.c.version < below)
        async with self._database.autocommit() as connection:
            return [_policy(row) for row in (await connection.execute(query)).mappings()]

    async def page(
        self, tenant: str, *, after: str, limit: int, among: Sequence[str] | None = None
    ) -> list[Policy]:
        """Policies of a tenant by id, after an id; with `among`, only of these ids."""
        query = (
            sa.select(policy)
            .where(policy.c.tenant == tenant, policy.c.policy_id > after)
            .order_by(policy.c.policy_id)
            .limit(limit)
        )
        if among is not None:
            query = query.where(policy.c.policy_id.in_(among))
        async with self._database.autocommit() as connection:
            return [_policy(row) for row in (await connection.execute(query)).mappings()]

    async def create(self, new: Policy, told: Callable[[Policy], Told]) -> Policy | None:
        """Store a policy and tell of it; None when its id is taken.

        As stored it has the version behind the last that the id ever had.
        """
        ever = sa.select(sa.func.max(policy_version.c.version)).where(
            policy_version.c.tenant == new.tenant, policy_version.c.policy_id == new.policy_id
        )
        try:
            async with self._database.transaction() as connection:
                await _raise_revision(connection, new.tenant)
                last = (await connection.execute(ever)).scalar_one_or_none()
                stored = replace(new, version=(last or 0) + 1)
                await connection.execute(sa.insert(policy).values(_row(stored)))
                await connection.execute(sa.insert(policy_version).values(_row(stored)))
                await write_told(connection, [told(stored)])
        except IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) != UNIQUE_VIOLATION:
                raise
            return None
        return stored

    async def replace(self, stored: Policy, changed: Policy, told: Told) -> bool:
        """Store the next version in the place of exactly this one; False when it has changed or is gone."""
        async with self._database.transaction() as connection:
            await _raise_revision(connection, stored.tenant)
            replaced = await connection.execute(sa.update(policy).where(*_is(stored)).values(_row(changed)))
            if replaced.rowcount:
                await connection.execute(sa.insert(policy_version).values(_row(changed)))
                await write_told(connection, [told])
            return replaced.rowcount == 1

    async def delete(self, stored: Policy, told: Told) -> bool:
        """Delete exactly this version of a policy and tell of it; False when it has changed or is gone."""
        async with self._database.transaction() as connection:
            await _raise_revision(connection, stored.tenant)
            deleted = await connection.execute(sa.delete(policy).where(*_is(stored)))
            if deleted.rowcount:
                await write_told(connection, [told])
            return deleted.rowcount == 1

    async def revisions(self) -> Mapping[str, int]:
        """The revision of every tenant's policies."""
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(sa.select(policy_head.c.tenant, policy_head.c.revision))).all()
        return {row.tenant: row.revision for row in rows}

    async def read_all(self, tenant: str) -> tuple[int, Sequence[Policy]]:
        """Every policy of a tenant and their revision, as of one moment."""
        joined = policy_head.outerjoin(policy, policy.c.tenant == policy_head.c.tenant)
        others = [column for column in policy.columns if column.name != "tenant"]
        query = (
            sa.select(policy_head.c.tenant, policy_head.c.revision, *others)
            .select_from(joined)
            .where(policy_head.c.tenant == tenant)
            .order_by(policy.c.policy_id)
        )
        async with self._database.autocommit() as connection:
            rows = (await connection.execute(query)).mappings().all()
        if not rows:
            return 0, []
        return rows[0]["revision"], [_policy(row) for row in rows if row["policy_id"] is not None]


def _is(stored: Policy) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        policy.c.tenant == stored.tenant,
        policy.c.policy_id == stored.policy_id,
        policy.c.etag == stored.etag,
    )


def _row(stored: Policy) -> dict[str, Any]:
    content = stored.content
    return {
        "tenant": stored.tenant,
        "policy_id": stored.policy_id,
        "version": stored.version,
        "cedar": content.cedar,
        "description": content.description,
        "mode": content.mode,
        "expire_time": content.expire_time,
        "create_time": stored.create_time,
        "creator": stored.creator,
        "update_time": stored.update_time,
        "updater": stored.updater,
        "etag": stored.etag,
    }


def _policy(row: sa.RowMapping) -> Policy:
    return Policy(
        tenant=row["tenant"],
        policy_id=row["policy_id"],
        version=row["version"],
        content=PolicyContent(
            cedar=row["cedar"],
            description=row["description"],
            mode=PolicyMode(row["mode"]),
            expire_time=row["expire_time"],
        ),
        create_time=row["create_time"],
        creator=row["creator"],
        update_time=row["update_time"],
        updater=row["updater"],
        etag=row["etag"],
    )


async def _raise_revision(connection: AsyncConnection, tenant: str) -> None:
    statement = insert(policy_head).values(tenant=tenant, revision=1)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[policy_head.c.tenant], set_={"revision": policy_head.c.revision + 1}
        )
    )
