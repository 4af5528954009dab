"""Statements on policies: one method per question."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway_svc.tables import policy, policy_head
from gateway_svc.told_store import Told, write_told
from svc_kit.database import Database

UNIQUE_VIOLATION = "23505"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One policy as stored."""

    tenant: str
    policy_id: str
    cedar: str
    description: str
    create_time: datetime
    creator: str
    etag: str


class PolicyStore:
    """Policies as rows, and the revision of each tenant's."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, tenant: str, policy_id: str) -> Policy | None:
        """One policy."""
        query = sa.select(policy).where(policy.c.tenant == tenant, policy.c.policy_id == policy_id)
        async with self._database.autocommit() as connection:
            row = (await connection.execute(query)).mappings().one_or_none()
        return _policy(row) if row is not None else None

    async def page(self, tenant: str, *, after: str, limit: int) -> list[Policy]:
        """Policies of a tenant by id, after an id."""
        query = (
            sa.select(policy)
            .where(policy.c.tenant == tenant, policy.c.policy_id > after)
            .order_by(policy.c.policy_id)
            .limit(limit)
        )
        async with self._database.autocommit() as connection:
            return [_policy(row) for row in (await connection.execute(query)).mappings()]

    async def create(self, new: Policy, told: Told) -> bool:
        """Store a policy and tell of it; False when its id is taken."""
        try:
            async with self._database.transaction() as connection:
                await _raise_revision(connection, new.tenant)
                await connection.execute(
                    sa.insert(policy).values(
                        tenant=new.tenant,
                        policy_id=new.policy_id,
                        cedar=new.cedar,
                        description=new.description,
                        create_time=new.create_time,
                        creator=new.creator,
                        etag=new.etag,
                    )
                )
                await write_told(connection, [told])
        except IntegrityError as error:
            if getattr(error.orig, "sqlstate", None) != UNIQUE_VIOLATION:
                raise
            return False
        return True

    async def delete(self, stored: Policy, told: Told) -> bool:
        """Delete exactly this state of a policy and tell of it; False when it has changed or is gone."""
        async with self._database.transaction() as connection:
            await _raise_revision(connection, stored.tenant)
            deleted = await connection.execute(
                sa.delete(policy).where(
                    policy.c.tenant == stored.tenant,
                    policy.c.policy_id == stored.policy_id,
                    policy.c.etag == stored.etag,
                )
            )
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


def new_etag() -> str:
    """A mark that no other state of any policy has."""
    return uuid.uuid4().hex


def _policy(row: sa.RowMapping) -> Policy:
    return Policy(**{column.name: row[column.name] for column in policy.columns})


async def _raise_revision(connection: AsyncConnection, tenant: str) -> None:
    statement = insert(policy_head).values(tenant=tenant, revision=1)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[policy_head.c.tenant], set_={"revision": policy_head.c.revision + 1}
        )
    )
