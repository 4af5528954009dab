"""Connections of a tenant: stored when they make sense, every change in the audit log, credentials sealed."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import replace

from gateway_svc.audit_events import POLICY_CHANGE, connection_event, to_message
from gateway_svc.connection import (
    MAX_QUOTAS,
    Connection,
    ConnectionContent,
    ConnectionKind,
    content_flaws,
    credential_flaws,
    id_flaws,
    origin,
)
from gateway_svc.connection_store import ConnectionStore
from gateway_svc.errors import (
    connection_changed,
    connection_id_taken,
    connection_not_found,
    credential_unreadable,
)
from gateway_svc.policy import new_etag
from gateway_svc.told_store import Told
from svc_kit.clock import Clock
from svc_kit.errors import Violation, invalid
from svc_kit.ids import uuid7
from svc_kit.secret_box import SealBrokenError, SecretBox


class Connections:
    """Reads and changes connections."""

    def __init__(
        self, store: ConnectionStore, box: SecretBox, clock: Clock, *, committed: Callable[[], None]
    ) -> None:
        self._store = store
        self._box = box
        self._clock = clock
        self._committed = committed

    async def create(
        self,
        tenant: str,
        actor: str,
        *,
        connection_id: str,
        kind: ConnectionKind | None,
        content: ConnectionContent,
        validate_only: bool,
    ) -> Connection:
        """The connection as stored; raises INVALID_FIELDS or NAME_TAKEN."""
        found = [*id_flaws(connection_id), *content_flaws(kind or ConnectionKind.MODEL, content)]
        if kind is None:
            wanted = "must be CONNECTION_KIND_MODEL, CONNECTION_KIND_HTTP or CONNECTION_KIND_DATABASE"
            found.append(Violation("connection.kind", wanted))
        if found or kind is None:
            raise invalid(found)
        now = self._clock.now()
        new = Connection(
            tenant=tenant,
            connection_id=connection_id,
            kind=kind,
            content=content,
            sealed=None,
            create_time=now,
            update_time=now,
            creator=actor,
            etag=new_etag(),
        )
        if validate_only:
            if await self._store.find(tenant, connection_id) is not None:
                raise connection_id_taken(connection_id)
            return new
        if not await self._store.create(new, self._told(new, actor, "CREATED")):
            raise connection_id_taken(connection_id)
        self._committed()
        return new

    async def get(self, tenant: str, connection_id: str) -> Connection:
        """One connection; raises CONNECTION_NOT_FOUND."""
        # What cannot be an id, no database has to be asked for.
        known = not any(id_flaws(connection_id))
        found = await self._store.find(tenant, connection_id) if known else None
        if found is None:
            raise connection_not_found(connection_id)
        return found

    async def page(self, tenant: str, *, after: str, limit: int) -> list[Connection]:
        """Connections by id, after an id."""
        return await self._store.page(tenant, after=after, limit=limit)

    async def update(
        self,
        tenant: str,
        actor: str,
        *,
        connection_id: str,
        change: Callable[[ConnectionContent], ConnectionContent],
        etag: str,
    ) -> Connection:
        """The connection as stored; raises INVALID_FIELDS, CONNECTION_NOT_FOUND or ETAG_MISMATCH."""
        stored = await self._expected(tenant, connection_id, etag)
        content = change(stored.content)
        if found := list(content_flaws(stored.kind, content)):
            raise invalid(found)
        # A credential was given for one place: who may not read it shall not have it sent elsewhere.
        elsewhere = origin(content) != origin(stored.content) or (
            content.allow_private and not stored.content.allow_private
        )
        sealed = None if elsewhere else stored.sealed
        changed = replace(stored, content=content, sealed=sealed)
        return await self._replace(stored, changed, actor, _action(stored.content, content))

    async def set_credential(
        self, tenant: str, actor: str, *, connection_id: str, credential: str, etag: str
    ) -> Connection:
        """The connection as stored; raises INVALID_FIELDS, CONNECTION_NOT_FOUND or ETAG_MISMATCH."""
        if found := list(credential_flaws(credential)):
            raise invalid(found)
        stored = await self._expected(tenant, connection_id, etag)
        sealed = self._box.seal(credential, place=stored.place) if credential else None
        action = "CREDENTIAL_SET" if credential else "CREDENTIAL_REMOVED"
        return await self._replace(stored, replace(stored, sealed=sealed), actor, action)

    async def delete(self, tenant: str, actor: str, *, connection_id: str, etag: str) -> None:
        """Delete it; raises CONNECTION_NOT_FOUND or ETAG_MISMATCH."""
        stored = await self._expected(tenant, connection_id, etag)
        if not await self._store.delete(stored, self._told(stored, actor, "DELETED")):
            raise connection_changed(connection_id)
        self._committed()

    async def find(self, tenant: str, connection_id: str) -> Connection | None:
        """One connection, as it stands now."""
        return await self._store.find(tenant, connection_id)

    def credential(self, stored: Connection) -> str:
        """The credential, empty when there is none; raises CREDENTIAL_MISSING when it does not open."""
        if stored.sealed is None:
            return ""
        try:
            return self._box.open(stored.sealed, place=stored.place)
        except SealBrokenError:
            raise credential_unreadable(stored.connection_id) from None

    async def _expected(self, tenant: str, connection_id: str, etag: str) -> Connection:
        stored = await self.get(tenant, connection_id)
        if etag and etag != stored.etag:
            raise connection_changed(connection_id)
        return stored

    async def _replace(self, stored: Connection, changed: Connection, actor: str, action: str) -> Connection:
        changed = replace(changed, update_time=self._clock.now(), etag=new_etag())
        if not await self._store.replace(stored, changed, self._told(changed, actor, action)):
            raise connection_changed(stored.connection_id)
        self._committed()
        return changed

    def _told(self, stored: Connection, actor: str, action: str) -> Told:
        event = connection_event(
            tenant=stored.tenant,
            connection_id=stored.connection_id,
            action=action,
            event_id=uuid7(),
            time=self._clock.now(),
            actor=actor,
        )
        content = stored.content
        change = {
            "action": action,
            "agents": list(content.agents),
            "allow_private_addresses": content.allow_private,
            "base_url": content.base_url,
            "credential_header": content.credential_header,
            "methods": list(content.methods),
            "connection_id": stored.connection_id,
            "description": content.description,
            "disabled": content.disabled,
            **{name: getattr(content, name) for name in MAX_QUOTAS},
            "statements": [dataclasses.asdict(each) for each in content.statements],
            "tool_digests": list(content.tool_digests),
            "etag": stored.etag,
            "has_credential": stored.sealed is not None,
            "models": {
                name: [price.input_micros, price.output_micros] for name, price in content.models.items()
            },
        }
        return Told(
            message=to_message(POLICY_CHANGE, event),
            part="change",
            body=json.dumps(change, ensure_ascii=False, sort_keys=True).encode(),
        )


def _action(before: ConnectionContent, after: ConnectionContent) -> str:
    """Under which name the log keeps a change: the switch is what people look for."""
    if after.disabled == before.disabled:
        return "UPDATED"
    return "DISABLED" if after.disabled else "ENABLED"
