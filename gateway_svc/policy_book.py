"""A live copy of every tenant's policies, so that no call waits for the database to be decided on."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

import structlog

from gateway_svc.cedar.decision import Decision, PolicyIndex, Question, Voice
from gateway_svc.cedar.text import ParsedPolicy, PolicyTextError, parse_policy
from gateway_svc.errors import stale
from gateway_svc.policy import Policy, PolicyMode
from gateway_svc.policy_store import PolicyStore
from svc_kit.clock import Clock
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

    def __init__(
        self, store: PolicyStore, clock: Clock, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        self._revisions: dict[str, int] = {}
        self._parsed: dict[str, dict[tuple[str, str], ParsedPolicy]] = {}
        self._indexes: dict[str, _Index] = {}
        self._read_at: float | None = None
        self._one_at_a_time = asyncio.Lock()

    def decide(self, tenant: str, question: Question) -> Decision:
        """See PolicyIndex; raises POLICY_STALE when the database has not been heard for too long."""
        return self._index(tenant).decide(question)

    def voices(self, tenant: str, agent: str, tool: str, question: Question | None) -> list[Voice]:
        """See PolicyIndex; raises POLICY_STALE as `decide` does."""
        return self._index(tenant).voices(agent, tool, question)

    def naming(self, tenant: str, tool: str) -> list[str]:
        """Ids of a tenant's own policies that name a tool by `resource ==`; empty names none."""
        parsed = self._parsed.get(tenant, {})
        return [policy_id for (policy_id, _), policy in parsed.items() if policy.tool == tool]

    def parsed(self, tenant: str) -> Mapping[str, ParsedPolicy]:
        """A tenant's own policies, by their ids."""
        return {policy_id: policy for (policy_id, _), policy in self._parsed.get(tenant, {}).items()}

    def tenants(self) -> Sequence[str]:
        """Those that have policies."""
        return list(self._parsed)

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
        index, now = self._indexes.get(tenant), self._clock.now()
        if index is None or (index.until is not None and now >= index.until):
            policies = [policy for policy in self._policies(tenant) if not _expired(policy, now)]
            ends = [policy.expire_time for policy in policies if policy.expire_time is not None]
            index = self._indexes[tenant] = _Index(PolicyIndex(policies), min(ends, default=None))
        return index.policies

    def _policies(self, tenant: str) -> list[ParsedPolicy]:
        tenants = {SYSTEM_TENANT, tenant}
        return [policy for each in sorted(tenants) for policy in self._parsed.get(each, {}).values()]


class _Index(NamedTuple):
    """A tenant's policies until the next of them expires."""

    policies: PolicyIndex
    until: datetime | None


def _expired(policy: ParsedPolicy, now: datetime) -> bool:
    return policy.expire_time is not None and policy.expire_time <= now


def spoken_id(policy: Policy) -> str:
    """How decisions name it: `id@version`, of tenant `system` with `system/` before it."""
    owner = f"{SYSTEM_TENANT}/" if policy.tenant == SYSTEM_TENANT else ""
    return f"{owner}{policy.policy_id}@{policy.version}"


def _parse(policy: Policy) -> ParsedPolicy:
    name, content = spoken_id(policy), policy.content
    shadow, expire_time = content.mode is PolicyMode.SHADOW, content.expire_time
    try:
        return parse_policy(name, content.cedar, shadow=shadow, expire_time=expire_time)
    except PolicyTextError:
        # It was stored by another release. It might forbid, so from here on everything is forbidden, loudly.
        log.exception("stored_policy_unreadable", tenant=policy.tenant, policy_id=policy.policy_id)
        forbid = "forbid (principal, action, resource);"
        return parse_policy(name, forbid, shadow=shadow, expire_time=expire_time)
