"""From the outbox to the audit log: each registry change with what was published."""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from interlock.audit.v1 import entry_pb2
from registry_svc.records import Kind, Version
from svc_kit.outbox import OutboxRow


class VersionStore(Protocol):
    """What the trail asks of the store; `Store` says what it does."""

    async def find_versions(
        self, keys: Sequence[tuple[Kind, str, str, str]]
    ) -> dict[tuple[Kind, str, str, str], Version]: ...


class AuditTrail:
    """Builds audit events from outbox rows."""

    def __init__(self, store: VersionStore) -> None:
        self._store = store

    async def build(self, rows: Sequence[OutboxRow]) -> list[entry_pb2.Event]:
        """One event a row, in order."""
        published = [_key(row) for row in rows if row.body["version"]]
        versions = await self._store.find_versions(published) if published else {}
        return [_event(row, versions.get(_key(row))) for row in rows]


def _key(row: OutboxRow) -> tuple[Kind, str, str, str]:
    return Kind(row.body["kind"]), row.tenant, row.body["name"], row.body["version"]


def _event(row: OutboxRow, version: Version | None) -> entry_pb2.Event:
    body = row.body
    event = entry_pb2.Event(
        event_id=str(row.event_id),
        tenant=row.tenant,
        type=entry_pb2.ENTRY_TYPE_REGISTRY_CHANGE,
        producer_sequence=row.seq,
        actor=body["actor"],
        status=body["action"],
    )
    if body["kind"] == Kind.AGENT:
        event.agent, event.agent_version = body["name"], body["version"]
    else:
        event.tool = body["name"]
    event.event_time.FromDatetime(datetime.fromisoformat(body["time"]))
    for name in ("kind", "version", "digest"):
        if body[name]:
            event.attributes[name] = body[name]
    change = {"action": body["action"], "kind": body["kind"], "name": body["name"]}
    if version is not None:
        change |= {"version": version.version, "spec": json.loads(version.spec_json)}
    event.payloads.add(
        part="change",
        content_type="application/json",
        body=json.dumps(change, ensure_ascii=False, sort_keys=True).encode(),
    )
    return event
