"""From a bearer token to a principal, or to a refusal that says why."""

import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import jwt

from interlock.common.v1.errors_pb2 import ErrorReason
from svc_kit.clock import Clock, SystemClock
from svc_kit.errors import Unauthenticated
from svc_kit.identity.issuers import IssuersFile, TrustedIssuer, by_name
from svc_kit.identity.principal import SYSTEM_TENANT, Principal
from svc_kit.identity.roles import Role

LEEWAY_SECONDS = 5
MAX_TOKEN_BYTES = 8192
CACHE_SIZE = 4096

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62})\Z")
_SUBJECT = re.compile(r"[^\x00-\x1f\x7f]{1,256}\Z")
_FAR_FUTURE = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


class TokenVerifier:
    """Checks tokens of the trusted issuers, and remembers good ones until they expire.

    A change of the issuers drops everything remembered, so that a withdrawn key ends its tokens at once.
    """

    def __init__(self, issuers: Sequence[TrustedIssuer] | IssuersFile, clock: Clock | None = None) -> None:
        self._file = issuers if isinstance(issuers, IssuersFile) else None
        self._issuers: Mapping[str, TrustedIssuer] = (
            issuers.current() if isinstance(issuers, IssuersFile) else by_name(issuers)
        )
        self._clock = clock or SystemClock()
        self._known: OrderedDict[bytes, Principal] = OrderedDict()

    @property
    def issuers(self) -> Mapping[str, TrustedIssuer]:
        """Those trusted now, by name."""
        if self._file is not None:
            current = self._file.current()
            if current is not self._issuers:
                self._issuers = current
                self._known.clear()
        return self._issuers

    def verify(self, token: str) -> Principal:
        """Unauthenticated with TOKEN_MISSING, TOKEN_INVALID or TOKEN_EXPIRED if the token is not good now."""
        if not token:
            raise Unauthenticated(
                ErrorReason.ERROR_REASON_TOKEN_MISSING,
                "the call carries no bearer token",
                help="Send the metadata `authorization: Bearer <token>`; `interlock token` prints one.",
            )
        if len(token) > MAX_TOKEN_BYTES:
            raise _invalid(f"the token is longer than {MAX_TOKEN_BYTES} bytes")
        issuers = self.issuers
        now = self._clock.now()
        key = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        caller = self._known.get(key)
        if caller is None:
            caller = _verify(token, issuers, now.timestamp())
            self._remember(key, caller)
        else:
            self._known.move_to_end(key)
        if caller.expires_at.timestamp() + LEEWAY_SECONDS <= now.timestamp():
            self._known.pop(key, None)
            raise _expired(caller.expires_at)
        return caller

    def _remember(self, key: bytes, caller: Principal) -> None:
        self._known[key] = caller
        while len(self._known) > CACHE_SIZE:
            self._known.popitem(last=False)


def _verify(token: str, issuers: Mapping[str, TrustedIssuer], now: float) -> Principal:
    header, said = _unverified(token)
    issuer = issuers.get(said["iss"]) if isinstance(said.get("iss"), str) else None
    if issuer is None:
        raise _invalid("the token's issuer is not trusted here")
    claims = _signed_claims(token, header, issuer)
    _check_times(claims, now)
    roles = _roles(claims.get(issuer.roles_claim), issuer)
    return Principal(
        tenant=_tenant(claims.get(issuer.tenant_claim), issuer, roles),
        subject=_subject(claims.get(issuer.subject_claim)),
        roles=roles,
        pools=_pools(claims.get("pools", []), issuer) if Role.WORKER in roles else frozenset(),
        issuer=issuer.name,
        expires_at=datetime.fromtimestamp(claims["exp"], UTC),
    )


def _unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims as they say, to choose the key; believed only once the signature holds."""
    try:
        parts = jwt.decode_complete(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise _invalid("the token is not a JWT that can be read here") from None
    return parts["header"], parts["payload"]


def _signed_claims(token: str, header: Mapping[str, Any], issuer: TrustedIssuer) -> dict[str, Any]:
    # An extension that must be understood is not: the library knows some of them, this service knows none.
    if "crit" in header:
        raise _invalid("the token demands extensions (`crit`) that are not supported")
    key = issuer.key(header.get("kid"))
    if key is None:
        raise _invalid("the token is signed by a key that its issuer does not publish")
    if key.algorithm not in issuer.algorithms:
        raise _invalid("the token is signed by an algorithm that is not allowed for its issuer")
    try:
        # Times are checked by our own clock. The one algorithm of the key is the only one accepted: what the
        # header asks for has no say.
        return jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=issuer.audience,
            issuer=issuer.name,
            options={
                "require": ["iss", "aud", "iat", "exp", issuer.subject_claim],
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_sub": False,
            },
        )
    except jwt.InvalidAudienceError:
        raise _invalid("the token is for another audience") from None
    except jwt.MissingRequiredClaimError as error:
        raise _invalid(f"the token lacks the claim {error.claim}") from None
    except jwt.PyJWTError:
        raise _invalid("the token's signature is not valid") from None


def _check_times(claims: Mapping[str, Any], now: float) -> None:
    for name in ("iat", "exp", "nbf"):
        if name not in claims and name == "nbf":
            continue
        value = claims[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _invalid(f"the token's {name} is not a time")
        if not 0 <= value < _FAR_FUTURE:
            raise _invalid(f"the token's {name} is out of range")
        if name != "exp" and value > now + LEEWAY_SECONDS:
            raise _invalid(f"the token is not valid yet (its {name} lies in the future)")
    if claims["exp"] + LEEWAY_SECONDS <= now:
        raise _expired(datetime.fromtimestamp(claims["exp"], UTC))


def _roles(value: object, issuer: TrustedIssuer) -> frozenset[Role]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise _invalid("the token's roles are not a list of names")
    # An outside issuer's list may hold names for other programs; they give no right here.
    roles = frozenset(Role(item) for item in value if item in Role.__members__)
    for role in sorted(roles):
        if not issuer.may_assert(role):
            raise _invalid(f"the token's issuer may not assert the role {role}")
    return roles


def _tenant(value: object, issuer: TrustedIssuer, roles: frozenset[Role]) -> str:
    if not isinstance(value, str) or not _NAME.match(value):
        raise _invalid("the token names no valid tenant")
    if not issuer.speaks_for(value):
        raise _invalid("the token's issuer may not speak for its tenant")
    if Role.SERVICE in roles and value != SYSTEM_TENANT:
        raise _invalid(f"a SERVICE token must be of tenant {SYSTEM_TENANT}")
    return value


def _subject(value: object) -> str:
    if not isinstance(value, str) or not _SUBJECT.match(value):
        raise _invalid("the token names no valid subject")
    return value


def _pools(value: object, issuer: TrustedIssuer) -> frozenset[tuple[str, str]]:
    if not isinstance(value, list):
        raise _invalid("the token's pools are not a list")
    pools = set()
    for item in value:
        tenant, slash, pool = item.partition("/") if isinstance(item, str) else ("", "", "")
        if not slash or not _NAME.match(tenant) or not _NAME.match(pool):
            raise _invalid("the token names a pool that is not spelled tenant/pool")
        if not issuer.speaks_for(tenant):
            raise _invalid("the token's issuer may not speak for the tenant of a pool")
        pools.add((tenant, pool))
    return frozenset(pools)


def _invalid(message: str) -> Unauthenticated:
    return Unauthenticated(ErrorReason.ERROR_REASON_TOKEN_INVALID, message)


def _expired(when: datetime) -> Unauthenticated:
    return Unauthenticated(
        ErrorReason.ERROR_REASON_TOKEN_EXPIRED,
        f"the token expired at {when:%Y-%m-%dT%H:%M:%SZ}",
        help="Get a new one; `interlock token` prints one.",
    )
