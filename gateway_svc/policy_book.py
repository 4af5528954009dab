"""A live copy of every tenant's policies, so that no call waits for the database to be decided on."""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

import structlog

from gateway_svc.cedar.decision import Decision, PolicyIndex, Question, Voice
from gateway_svc.cedar.text import ParsedPolicy, PolicyTextError, parse_policy
from gateway_svc.errors import stale
from gateway_svc.policy_store import Policy, PolicyStore
from svc_kit.errors import Unavailable
from svc_kit.identity.principal import SYSTEM_TENANT

log = structlog.get_logger(__name__)

MAX_SILENCE_SECONDS = 10.0
POLL_SECONDS = 1.0
TOPIC = "policies"


class Woken(Protocol):
    """Says that policies may have changed."""

    async def wait(self, timeout: float = ...) -> bool:
        """Return when woken, or after `timeout` seconds."""


class PolicyBook:
    """Decides by the policies of a tenant and those of tenant `system`, which hold everywhere."""

    def __init__(self, store: PolicyStore, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._monotonic = monotonic
        self._revisions: dict[str, int] = {}
        self._parsed: dict[str, dict[tuple[str, str], ParsedPolicy]] = {}
        self._indexes: dict[str, PolicyIndex] = {}
        self._read_at: float | None = None
        self._one_at_a_time = asyncio.Lock()

    def decide(self, tenant: str, question: Question) -> Decision:
        """See PolicyIndex; raises POLICY_STALE when the database has not been heard for too long."""
        return self._index(tenant).decide(question)

    def voices(self, tenant: str, agent: str, tool: str, question: Question | None) -> list[Voice]:
        """See PolicyIndex; raises POLICY_STALE as `decide` does."""
        return self._index(tenant).voices(agent, tool, question)

    async def refresh(self) -> None:
        """Read what changed since the last time; what was committed before the call is in force after it."""
        async with self._one_at_a_time:
            asked_at = self._monotonic()
            for tenant, revision in (await self._store.revisions()).items():
                if self._revisions.get(tenant) != revision:
                    await self._read(tenant)
            self._read_at = asked_at

    async def follow(self, woken: Woken) -> None:
        """For ever: refresh when woken, and once a second; ends only by cancellation."""
        while True:
            try:
                await self.refresh()
            except Unavailable:
                pass  # the database says so itself; decisions end when it lasts
            except Exception:
                log.exception("policies_not_read")
            await woken.wait(POLL_SECONDS)

    async def _read(self, tenant: str) -> None:
        revision, policies = await self._store.read_all(tenant)
        known = self._parsed.get(tenant, {})
        self._parsed[tenant] = {
            (policy.policy_id, policy.etag): known.get((policy.policy_id, policy.etag)) or _parse(policy)
            for policy in policies
        }
        self._revisions[tenant] = revision
        if tenant == SYSTEM_TENANT:
            self._indexes.clear()
        else:
            self._indexes.pop(tenant, None)

    def _index(self, tenant: str) -> PolicyIndex:
        age = float("inf") if self._read_at is None else self._monotonic() - self._read_at
        if age > MAX_SILENCE_SECONDS:
            raise stale("policy store", age)
        index = self._indexes.get(tenant)
        if index is None:
            index = self._indexes[tenant] = PolicyIndex(self._policies(tenant))
        return index

    def _policies(self, tenant: str) -> list[ParsedPolicy]:
        tenants = {SYSTEM_TENANT, tenant}
        return [policy for each in sorted(tenants) for policy in self._parsed.get(each, {}).values()]


def _parse(policy: Policy) -> ParsedPolicy:
    name = f"system/{policy.policy_id}" if policy.tenant == SYSTEM_TENANT else policy.policy_id
    try:
        return parse_policy(name, policy.cedar)
    except PolicyTextError:
        # It was stored by another release. It might forbid, so from here on everything is forbidden, loudly.
        log.exception("stored_policy_unreadable", tenant=policy.tenant, policy_id=policy.policy_id)
        return parse_policy(name, "forbid (principal, action, resource);")
