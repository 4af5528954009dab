"""JSON documents by digest; each statement names the tenant."""

import sqlalchemy as sa

from orchestrator_svc.undisturbed import undisturbed
from svc_kit.database import Database

# A document that stands already is in use again from now on.
_PUT = sa.text(
    "INSERT INTO blob (tenant, digest, size, data, use_time)"
    " VALUES (:tenant, :digest, :size, :data, clock_timestamp())"
    " ON CONFLICT (tenant, digest) DO UPDATE SET use_time = excluded.use_time"
)
_STORED = sa.text("SELECT coalesce(sum(size), 0)::bigint AS bytes FROM blob WHERE tenant = :tenant")
_TOUCH = sa.text(
    "UPDATE blob SET use_time = clock_timestamp() WHERE tenant = :tenant AND digest = :digest RETURNING size"
)
_SLICE = sa.text(
    "SELECT substring(data FROM :first FOR :count) AS data FROM blob"
    " WHERE tenant = :tenant AND digest = :digest"
)
# A document is looked up before it is referred to, which puts this off for far longer than a call may take;
# the foreign keys would stop it all the same.
SWEEP = sa.text(
    """
    DELETE FROM blob WHERE (tenant, digest) IN (
        SELECT tenant, digest FROM blob AS old
        WHERE use_time < statement_timestamp() - make_interval(secs => :grace)
            AND NOT EXISTS (SELECT FROM task WHERE (task.tenant, input_blob) = (old.tenant, old.digest))
            AND NOT EXISTS (SELECT FROM task WHERE (task.tenant, result_blob) = (old.tenant, old.digest))
        ORDER BY use_time LIMIT :limit
    ) AND use_time < statement_timestamp() - make_interval(secs => :grace)
    """
)


class BlobStore:
    """Blobs of one tenant at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @undisturbed
    async def put(self, tenant: str, digest: str, data: bytes) -> None:
        """Store a document; again it only counts as used."""
        parameters = {"tenant": tenant, "digest": digest, "size": len(data), "data": data}
        async with self._database.autocommit() as connection:
            await connection.execute(_PUT, parameters)

    @undisturbed
    async def stored_bytes(self, tenant: str) -> int:
        """How much the tenant stores."""
        async with self._database.autocommit() as connection:
            found: int = (await connection.execute(_STORED, {"tenant": tenant})).scalar_one()
        return found

    @undisturbed
    async def touch(self, tenant: str, digest: str) -> int | None:
        """The size of a document, which counts as used now; None when there is none."""
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_TOUCH, {"tenant": tenant, "digest": digest})).one_or_none()
        return row.size if row is not None else None

    @undisturbed
    async def part(self, tenant: str, digest: str, *, at: int, count: int) -> bytes | None:
        """Up to `count` bytes from an offset on; None when there is no such document."""
        parameters = {"tenant": tenant, "digest": digest, "first": at + 1, "count": count}
        async with self._database.autocommit() as connection:
            row = (await connection.execute(_SLICE, parameters)).one_or_none()
        return bytes(row.data) if row is not None else None

    @undisturbed
    async def sweep(self, *, grace: float, limit: int) -> int:
        """Delete up to `limit` documents that no task refers to and nobody has used for `grace` seconds."""
        async with self._database.autocommit() as connection:
            swept = await connection.execute(SWEEP, {"grace": grace, "limit": limit})
        deleted: int = swept.rowcount
        return deleted
