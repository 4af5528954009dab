"""Door, token, role: whether this caller may use this method here."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import structlog

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.errors import PermissionDenied, Unauthenticated
from svc_kit.identity.principal import TENANT_KEY, Principal, acting_as
from svc_kit.identity.roles import Role
from svc_kit.identity.verifier import TokenVerifier
from svc_kit.interceptors.handlers import Context, Incoming, ScopeInterceptor

# What probes and tools ask before they have a token; it tells nothing about tenants.
OPEN_PREFIXES = ("/grpc.health.v1.Health/", "/grpc.reflection.v1.", "/grpc.reflection.v1alpha.")


class AccessInterceptor(ScopeInterceptor):
    """Makes the caller the principal of the call, or refuses the call."""

    def __init__(
        self, *, verifier: TokenVerifier, roles: Mapping[str, frozenset[Role]], refused: Collection[str]
    ) -> None:
        super().__init__()
        self._verifier = verifier
        self._roles = roles
        self._refused = frozenset(refused)

    @asynccontextmanager
    async def scope(self, incoming: Incoming) -> AsyncIterator[None]:
        """See ScopeInterceptor."""
        method = incoming.method.name
        if method.startswith(OPEN_PREFIXES):
            yield
            return
        if method in self._refused:
            raise PermissionDenied(
                ErrorReason.ERROR_REASON_INTERNAL_DOOR,
                f"{method} is served on the internal address alone",
                metadata={"method": method},
            )
        caller = self._verifier.verify(_bearer_token(incoming.context))
        self._check_role(method, caller)
        structlog.contextvars.bind_contextvars(tenant=caller.tenant, subject=caller.subject)
        with acting_as(caller, for_tenant=_named_tenant(incoming.context)):
            yield

    def _check_role(self, method: str, caller: Principal) -> None:
        # A method that nobody declared is open to nobody; the server does not even start with one.
        needed = self._roles.get(method, frozenset())
        if not any(caller.has(role) for role in needed):
            held = ", ".join(sorted(caller.roles)) or "no role"
            listed = ", ".join(sorted(needed))
            raise PermissionDenied(
                ErrorReason.ERROR_REASON_ROLE_REQUIRED,
                f"{method} needs one of {listed}; {caller.subject} has {held}",
                metadata={"method": method, "needs": listed.replace(" ", "")},
            )


def _named_tenant(context: Context) -> str:
    """The tenant that the metadata names; whether the caller may act for it is asked where it matters."""
    return next((str(value) for key, value in context.invocation_metadata() or () if key == TENANT_KEY), "")


def _bearer_token(context: Context) -> str:
    """The token of the `authorization` metadata; "" if there is none."""
    values = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if not values:
        return ""
    if len(values) > 1:
        raise Unauthenticated(
            ErrorReason.ERROR_REASON_TOKEN_INVALID, "the call carries more than one authorization"
        )
    scheme, _, token = str(values[0]).partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated(
            ErrorReason.ERROR_REASON_TOKEN_INVALID, "the authorization is not spelled `Bearer <token>`"
        )
    return token.strip()
