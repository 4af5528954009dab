"""The caller of the current RPC."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.errors import PermissionDenied
from svc_kit.identity.roles import Role, implied

SYSTEM_TENANT = "system"

# Metadata by which who covers several tenants says which one a call is about.
TENANT_KEY = "x-interlock-tenant"

_current: ContextVar["Principal | None"] = ContextVar("interlock_principal", default=None)
_requested_tenant: ContextVar[str] = ContextVar("interlock_requested_tenant", default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """A verified caller."""

    tenant: str
    subject: str
    roles: frozenset[Role]  # as asserted; `has` also knows what they include
    pools: frozenset[tuple[str, str]] = frozenset()  # (tenant, pool) pairs that a WORKER may claim from
    issuer: str
    expires_at: datetime

    def has(self, role: Role) -> bool:
        """Whether the caller holds `role`, itself or by a role that includes it."""
        return role in implied(self.roles)

    def may_act_for(self, tenant: str) -> bool:
        """Whether calls of this caller may touch `tenant`."""
        return tenant == self.tenant or self.covers_all_tenants or self._works_for(tenant)

    @property
    def covers_all_tenants(self) -> bool:
        """Only operators and services of tenant `system` do."""
        return self.tenant == SYSTEM_TENANT and not self.roles.isdisjoint({Role.SUPER_ADMIN, Role.SERVICE})

    def _works_for(self, tenant: str) -> bool:
        """A worker reaches the tenants of its pools, but takes no other role of its token there."""
        return self.roles == {Role.WORKER} and any(tenant == served for served, _ in self.pools)


def principal() -> Principal:
    """The caller of the current RPC; LookupError outside an authenticated call."""
    current = _current.get()
    if current is None:
        raise LookupError("no authenticated call is running here")
    return current


def acting_tenant(requested: str = "") -> str:
    """The tenant of the current call: `requested`, or what its metadata names, or the caller's own.

    Raises PermissionDenied TENANT_FORBIDDEN when the caller may not act for it.
    """
    caller = principal()
    tenant = requested or _requested_tenant.get() or caller.tenant
    if not caller.may_act_for(tenant):
        raise PermissionDenied(
            ErrorReason.ERROR_REASON_TENANT_FORBIDDEN,
            f"{caller.subject} of tenant {caller.tenant} may not act for tenant {tenant}",
            metadata={"tenant": tenant},
        )
    return tenant


@contextmanager
def acting_as(caller: Principal, *, for_tenant: str = "") -> Iterator[Principal]:
    """Make `caller` the principal inside the block: what the identity interceptor does for every call.

    `for_tenant` is the tenant that the call's metadata names; empty when it names none.
    """
    token = _current.set(caller)
    tenant_token = _requested_tenant.set(for_tenant)
    try:
        yield caller
    finally:
        _requested_tenant.reset(tenant_token)
        _current.reset(token)
