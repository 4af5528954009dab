"""Resources and their versions: created, published, switched. What a spec may hold is decided before."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from registry_svc import errors, versions
from registry_svc.records import Kind, Resource, Summary, Version
from svc_kit import ids, strict_json
from svc_kit.clock import Clock
from svc_kit.errors import Violation, invalid
from svc_kit.event_log import Head
from svc_kit.outbox import Message
from svc_kit.wakeup import Wakeups

CHANGED = "registry"  # the wake-up topic


class CatalogStore(Protocol):
    """What the catalog asks of its store; `Store` says what each does."""

    def transaction(self) -> AbstractAsyncContextManager[AsyncConnection]: ...
    async def find(self, kind: Kind, tenant: str, name: str) -> Resource | None: ...
    async def find_version(self, kind: Kind, tenant: str, name: str, number: str) -> Version | None: ...
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
    ) -> list[Resource]: ...
    async def version_page(
        self, kind: Kind, tenant: str, name: str, *, before: int | None, limit: int
    ) -> list[Version]: ...
    async def lock(
        self, connection: AsyncConnection, kind: Kind, tenant: str, name: str
    ) -> Resource | None: ...
    async def stored_version(
        self, connection: AsyncConnection, kind: Kind, tenant: str, name: str, number: str
    ) -> Version | None: ...
    async def advance(self, connection: AsyncConnection, message: Message) -> Head: ...
    async def insert(self, connection: AsyncConnection, new: Resource) -> bool: ...
    async def update(self, connection: AsyncConnection, changed: Resource) -> None: ...
    async def insert_version(self, connection: AsyncConnection, new: Version) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A version about to be published, its spec checked and complete."""

    kind: Kind
    tenant: str
    name: str
    version: str
    spec: Mapping[str, Any]
    summary: Summary


class Gate(Protocol):
    """Says whether the audit log keeps up."""

    def check(self) -> None: ...


class Catalog:
    """Creates, publishes and switches resources; each change is one transaction with its audit message.

    What is new waits for the audit log (AUDIT_BACKLOG); to switch something off is possible at any time.
    """

    def __init__(self, store: CatalogStore, clock: Clock, wakeups: Wakeups, gate: Gate) -> None:
        self._store = store
        self._gate = gate
        self._clock = clock
        self._wakeups = wakeups

    async def get(self, kind: Kind, tenant: str, name: str) -> Resource:
        """One resource; raises NotFound."""
        found = await self._store.find(kind, tenant, name)
        if found is None:
            raise errors.not_found(kind, name)
        return found

    async def get_version(self, kind: Kind, tenant: str, name: str, number: str) -> Version:
        """One version, the newest for an empty number; raises NotFound."""
        number = number or (await self.get(kind, tenant, name)).latest_version
        found = await self._store.find_version(kind, tenant, name, number) if number else None
        if found is None:
            await self.get(kind, tenant, name)
            raise errors.version_not_found(kind, name, number)
        return found

    async def page(
        self, kind: Kind, tenant: str, *, after: str, limit: int, wanted: Mapping[str, Any]
    ) -> list[Resource]:
        """Resources by name after a name; `wanted` holds the filter's active, capability and tool."""
        return await self._store.page(kind, tenant, after=after, limit=limit, **wanted)

    async def version_page(
        self, kind: Kind, tenant: str, name: str, *, before: int | None, limit: int
    ) -> list[Version]:
        """Versions newest first, published before a position; raises NotFound for an unknown resource."""
        await self.get(kind, tenant, name)
        return await self._store.version_page(kind, tenant, name, before=before, limit=limit)

    async def create(
        self, kind: Kind, tenant: str, name: str, *, actor: str, validate_only: bool
    ) -> Resource:
        """A new resource without a version; raises AlreadyExists, Unavailable."""
        now = self._clock.now()
        new = Resource(
            kind=kind,
            tenant=tenant,
            name=name,
            latest_version="",
            active=True,
            creator=actor,
            create_time=now,
            update_time=now,
            position=0,
        )
        if validate_only:
            if await self._store.find(kind, tenant, name) is not None:
                raise errors.name_taken(kind, name)
            return new
        self._gate.check()
        async with self._store.transaction() as transaction:
            # The name is fought over before the log's head is locked: the loser waits for the winner's
            # commit.
            if not await self._store.insert(transaction, new):
                raise errors.name_taken(kind, name)
            head = await self._store.advance(transaction, _message(new, "CREATE", actor))
            new = replace(new, position=head.position)
            await self._store.update(transaction, new)
        self._wakeups.notify(CHANGED)
        return new

    async def publish(self, draft: Draft, *, actor: str, validate_only: bool) -> Version:
        """An immutable version above all others; the same spec under the same version is the stored one.

        Raises NotFound, AlreadyExists, FailedPrecondition, Unavailable, or InvalidArgument (no version).
        """
        number = versions.parse(draft.version)
        if number is None:
            raise invalid([Violation("version", "must be a semantic version, for example 1.0.0")])
        spec = strict_json.canonical(dict(draft.spec))
        digest = strict_json.digest(spec)
        async with self._store.transaction() as transaction:
            held = await self._store.lock(transaction, draft.kind, draft.tenant, draft.name)
            if held is None:
                raise errors.not_found(draft.kind, draft.name)
            # On this very connection: whoever holds one and waits for a second starves the pool.
            stored = await self._store.stored_version(
                transaction, draft.kind, draft.tenant, draft.name, draft.version
            )
            if stored is not None:
                if stored.digest != digest:
                    raise errors.version_exists(draft.kind, draft.name, draft.version)
                return stored
            newest = versions.parse(held.latest_version)
            if newest is not None and number < newest:
                raise errors.version_too_low(draft.kind, draft.name, draft.version, held.latest_version)
            new = Version(
                kind=draft.kind,
                tenant=draft.tenant,
                name=draft.name,
                version=draft.version,
                digest=digest,
                spec_json=spec.decode(),
                publisher=actor,
                create_time=self._clock.now(),
                position=0,
            )
            if validate_only:
                return new
            self._gate.check()
            changed = replace(
                held, latest_version=new.version, summary=draft.summary, update_time=new.create_time
            )
            message = _message(changed, "PUBLISH", actor, version=new.version, digest=digest)
            head = await self._store.advance(transaction, message)
            new = replace(new, position=head.position)
            await self._store.insert_version(transaction, new)
            await self._store.update(transaction, replace(changed, position=head.position))
        self._wakeups.notify(CHANGED)
        return new

    async def set_active(
        self, kind: Kind, tenant: str, name: str, *, active: bool, etag: str, actor: str
    ) -> Resource:
        """Switch a resource on or off; one that is so already stays as it is.

        Raises NotFound, Aborted, and to switch on Unavailable.
        """
        async with self._store.transaction() as transaction:
            held = await self._store.lock(transaction, kind, tenant, name)
            if held is None:
                raise errors.not_found(kind, name)
            if etag and etag != held.etag:
                raise errors.etag_mismatch(kind, name)
            if held.active == active:
                return held
            if active:
                self._gate.check()
            changed = replace(held, active=active, update_time=self._clock.now())
            action = "ENABLE" if active else "DISABLE"
            head = await self._store.advance(transaction, _message(changed, action, actor))
            changed = replace(changed, position=head.position)
            await self._store.update(transaction, changed)
        self._wakeups.notify(CHANGED)
        return changed


def _message(changed: Resource, action: str, actor: str, *, version: str = "", digest: str = "") -> Message:
    body = {
        "action": action,
        "kind": str(changed.kind),
        "name": changed.name,
        "version": version,
        "digest": digest,
        "actor": actor,
        "time": changed.update_time.isoformat(),
    }
    return Message(tenant=changed.tenant, event_id=ids.uuid7(), kind="REGISTRY_CHANGE", body=body)
