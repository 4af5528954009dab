"""Policies of a tenant: stored when they make sense, in force at once, every change in the audit log."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from gateway_svc.audit_events import POLICY_CHANGE, policy_event, to_message
from gateway_svc.cedar.text import ParsedPolicy, PolicyTextError, parse_policy
from gateway_svc.errors import (
    policy_changed,
    policy_id_taken,
    policy_invalid,
    policy_not_found,
    tool_version_not_found,
)
from gateway_svc.policy import Misfit, Policy, PolicyContent, content_flaws, new_etag
from gateway_svc.policy_book import PolicyBook
from gateway_svc.policy_fit import PolicyFit
from gateway_svc.policy_store import PolicyStore
from gateway_svc.told_store import Told
from svc_kit.clock import Clock
from svc_kit.errors import Unavailable, invalid
from svc_kit.ids import uuid7


class Policies:
    """Reads and changes policies."""

    def __init__(
        self,
        store: PolicyStore,
        book: PolicyBook,
        fit: PolicyFit,
        clock: Clock,
        *,
        committed: Callable[[], None],
    ) -> None:
        self._store = store
        self._book = book
        self._fit = fit
        self._clock = clock
        self._committed = committed

    async def create(
        self, tenant: str, actor: str, *, policy_id: str, content: PolicyContent, validate_only: bool
    ) -> Policy:
        """The policy as stored; raises INVALID_FIELDS, POLICY_INVALID or NAME_TAKEN."""
        await self._check(tenant, policy_id, None, content)
        now = self._clock.now()
        new = Policy(
            tenant=tenant,
            policy_id=policy_id,
            version=1,
            content=content,
            create_time=now,
            creator=actor,
            update_time=now,
            updater=actor,
            etag=new_etag(),
        )
        if validate_only:
            if await self._store.find(tenant, policy_id) is not None:
                raise policy_id_taken(policy_id)
            return new
        stored = await self._store.create(new, lambda each: self._told(each, actor, "CREATED"))
        if stored is None:
            raise policy_id_taken(policy_id)
        await self._in_force()
        return stored

    async def update(
        self,
        tenant: str,
        actor: str,
        *,
        policy_id: str,
        change: Callable[[PolicyContent], PolicyContent],
        etag: str,
        validate_only: bool,
    ) -> Policy:
        """The policy as stored; raises INVALID_FIELDS, POLICY_INVALID, POLICY_NOT_FOUND or ETAG_MISMATCH."""
        stored = await self._expected(tenant, policy_id, etag)
        content = change(stored.content)
        await self._check(tenant, policy_id, stored.content, content)
        changed = replace(
            stored,
            content=content,
            version=stored.version + 1,
            update_time=self._clock.now(),
            updater=actor,
            etag=new_etag(),
        )
        if validate_only:
            return changed
        if not await self._store.replace(stored, changed, self._told(changed, actor, "UPDATED")):
            raise policy_changed(policy_id)
        await self._in_force()
        return changed

    async def get(self, tenant: str, policy_id: str, version: int = 0) -> Policy:
        """One policy, or one of its versions; raises POLICY_NOT_FOUND."""
        if version:
            found = await self._store.find_versions(tenant, [(policy_id, version)])
            if not found:
                raise policy_not_found(f"{policy_id}@{version}")
            return found[0]
        current = await self._store.find(tenant, policy_id)
        if current is None:
            raise policy_not_found(policy_id)
        return current

    async def versions(
        self, tenant: str, policy_id: str, *, below: int | None, limit: int
    ) -> Sequence[Policy]:
        """Versions of a policy, newest first, below a version; raises POLICY_NOT_FOUND."""
        found = await self._store.versions(tenant, policy_id, below=below, limit=limit)
        if not found and below is None:
            raise policy_not_found(policy_id)
        return found

    async def page(self, tenant: str, *, after: str, limit: int, tool: str = "") -> list[Policy]:
        """Policies by id, after an id; with a tool, only those that name it."""
        among = self._book.naming(tenant, tool) if tool else None
        return await self._store.page(tenant, after=after, limit=limit, among=among)

    async def misfits(
        self, tenant: str, policies: Sequence[Policy], *, tool: str = "", tool_version: str = ""
    ) -> list[list[Misfit]]:
        """Where each does not fit the tool that it names; raises TOOL_VERSION_NOT_FOUND."""
        if tool_version and not await self._fit.learn(tenant, tool, tool_version):
            raise tool_version_not_found(tool, tool_version)
        return await asyncio.to_thread(self._misfits, tenant, policies, tool_version)

    async def delete(self, tenant: str, actor: str, *, policy_id: str, etag: str) -> None:
        """Delete it; raises POLICY_NOT_FOUND or ETAG_MISMATCH."""
        stored = await self._expected(tenant, policy_id, etag)
        if not await self._store.delete(stored, self._told(stored, actor, "DELETED")):
            raise policy_changed(policy_id)
        await self._in_force()

    async def _expected(self, tenant: str, policy_id: str, etag: str) -> Policy:
        stored = await self.get(tenant, policy_id)
        if etag and etag != stored.etag:
            raise policy_changed(policy_id)
        return stored

    async def _check(
        self, tenant: str, policy_id: str, before: PolicyContent | None, content: PolicyContent
    ) -> None:
        """That it can take part in decisions; a shaky fit is told, and not refused."""
        if found := list(content_flaws(policy_id, before, content, self._clock.now())):
            raise invalid(found)
        # What time or a new version of its tool has overtaken can still be switched off.
        if before is not None and before.cedar == content.cedar:
            return
        try:
            parsed = await asyncio.to_thread(parse_policy, policy_id, content.cedar)
        except PolicyTextError as error:
            raise policy_invalid(str(error)) from None
        certain = [each for each in self._fit.misfits(tenant, parsed) if each.certain]
        if certain:
            said = "; ".join(each.message for each in certain)
            raise policy_invalid(f"it does not fit {certain[0].tool} {certain[0].tool_version}: {said}")

    def _misfits(self, tenant: str, policies: Sequence[Policy], tool_version: str) -> list[list[Misfit]]:
        return [
            self._fit.misfits(tenant, parsed, tool_version) if parsed is not None else []
            for parsed in map(_parsed, policies)
        ]

    async def _in_force(self) -> None:
        """Decide by it from now on: this process before it answers, the others within a second."""
        self._committed()
        try:
            await self._book.refresh()
        except Unavailable:
            return  # the change is stored; the next poll finds it

    def _told(self, policy: Policy, actor: str, action: str) -> Told:
        event = policy_event(
            tenant=policy.tenant,
            policy_id=policy.policy_id,
            version=policy.version,
            action=action,
            event_id=uuid7(),
            time=self._clock.now(),
            actor=actor,
        )
        content = policy.content
        change = {
            "action": action,
            "cedar": content.cedar,
            "description": content.description,
            "etag": policy.etag,
            "expire_time": content.expire_time.isoformat() if content.expire_time else None,
            "mode": content.mode,
            "policy_id": policy.policy_id,
            "version": policy.version,
        }
        return Told(
            message=to_message(POLICY_CHANGE, event),
            part="change",
            body=json.dumps(change, ensure_ascii=False, sort_keys=True).encode(),
        )


def _parsed(policy: Policy) -> ParsedPolicy | None:
    try:
        return parse_policy(policy.policy_id, policy.content.cedar)
    except PolicyTextError:
        return None  # it was stored by another release, and the log says so
