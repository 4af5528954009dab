"""Policies of a tenant: stored when they make sense, in force at once, every change in the audit log."""

import asyncio
import json
import re
from collections.abc import Callable

from gateway_svc.audit_events import POLICY_CHANGE, policy_event, to_message
from gateway_svc.cedar.text import PolicyTextError, parse_policy
from gateway_svc.errors import policy_changed, policy_id_taken, policy_invalid, policy_not_found
from gateway_svc.policy_book import PolicyBook
from gateway_svc.policy_store import Policy, PolicyStore, new_etag
from gateway_svc.told_store import Told
from svc_kit.clock import Clock
from svc_kit.errors import Unavailable, Violation, invalid
from svc_kit.ids import uuid7

MAX_DESCRIPTION = 500
_POLICY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\Z")


class Policies:
    """Reads and changes policies."""

    def __init__(
        self, store: PolicyStore, book: PolicyBook, clock: Clock, *, committed: Callable[[], None]
    ) -> None:
        self._store = store
        self._book = book
        self._clock = clock
        self._committed = committed

    async def create(
        self,
        tenant: str,
        actor: str,
        *,
        policy_id: str,
        cedar: str,
        description: str,
        validate_only: bool,
    ) -> Policy:
        """The policy as stored; raises INVALID_FIELDS, POLICY_INVALID or NAME_TAKEN."""
        check_fields(policy_id, description)
        try:
            await asyncio.to_thread(parse_policy, policy_id, cedar)
        except PolicyTextError as error:
            raise policy_invalid(str(error)) from None
        new = Policy(
            tenant=tenant,
            policy_id=policy_id,
            cedar=cedar,
            description=description,
            create_time=self._clock.now(),
            creator=actor,
            etag=new_etag(),
        )
        if validate_only:
            if await self._store.find(tenant, policy_id) is not None:
                raise policy_id_taken(policy_id)
            return new
        if not await self._store.create(new, self._told(new, actor, "CREATED")):
            raise policy_id_taken(policy_id)
        await self._in_force()
        return new

    async def get(self, tenant: str, policy_id: str) -> Policy:
        """One policy; raises POLICY_NOT_FOUND."""
        found = await self._store.find(tenant, policy_id)
        if found is None:
            raise policy_not_found(policy_id)
        return found

    async def page(self, tenant: str, *, after: str, limit: int) -> list[Policy]:
        """Policies by id, after an id."""
        return await self._store.page(tenant, after=after, limit=limit)

    async def delete(self, tenant: str, actor: str, *, policy_id: str, etag: str) -> None:
        """Delete it; raises POLICY_NOT_FOUND or ETAG_MISMATCH."""
        stored = await self.get(tenant, policy_id)
        if etag and etag != stored.etag:
            raise policy_changed(policy_id)
        if not await self._store.delete(stored, self._told(stored, actor, "DELETED")):
            raise policy_changed(policy_id)
        await self._in_force()

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
            action=action,
            event_id=uuid7(),
            time=self._clock.now(),
            actor=actor,
        )
        change = {
            "action": action,
            "cedar": policy.cedar,
            "description": policy.description,
            "etag": policy.etag,
            "policy_id": policy.policy_id,
        }
        return Told(
            message=to_message(POLICY_CHANGE, event),
            part="change",
            body=json.dumps(change, ensure_ascii=False, sort_keys=True).encode(),
        )


def check_fields(policy_id: str, description: str) -> None:
    """Raise everything that is wrong at once."""
    found = []
    if not _POLICY_ID.match(policy_id):
        found.append(
            Violation(
                "policy.policy_id", "must be lower-case letters, digits and '-', at most 63, no '-' first"
            )
        )
    if len(description) > MAX_DESCRIPTION:
        found.append(Violation("policy.description", f"may have {MAX_DESCRIPTION} characters at most"))
    if "\0" in description:
        found.append(Violation("policy.description", "holds a NUL character"))
    if found:
        raise invalid(found)
