"""The issuers whose tokens count, and what each may assert at most."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import structlog

from svc_kit.identity.principal import SYSTEM_TENANT
from svc_kit.identity.roles import INTERNAL_ROLES, Role, implied

log = structlog.get_logger(__name__)

AUDIENCE = "interlock"
LOCAL_PREFIX = "interlock-local:"
ANY_TENANT = "*"

_MIN_RSA_BITS = 2048
_PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """A public key and the one algorithm that it is used with."""

    key_id: str
    algorithm: str
    key: Any  # what PyJWT verifies with

    @classmethod
    def from_jwk(cls, jwk: Mapping[str, Any]) -> "VerificationKey":
        """ValueError if `jwk` is private, symmetric, of an unsupported kind, or too short an RSA key."""
        if not _PRIVATE_MEMBERS.isdisjoint(jwk):
            raise ValueError(
                "a key of a trusted issuer must be public: it holds private or symmetric material"
            )
        key_id = jwk.get("kid")
        if not isinstance(key_id, str) or not key_id:
            raise ValueError("a key of a trusted issuer needs a `kid`")
        algorithm = _ALGORITHM_OF_KEY.get((jwk.get("kty"), jwk.get("crv")))
        if algorithm is None or jwk.get("alg", algorithm) != algorithm:
            raise ValueError(
                f"key {key_id}: only Ed25519 (EdDSA), P-256 (ES256) and RSA (RS256) keys are supported"
            )
        try:
            key = jwt.PyJWK.from_dict(dict(jwk), algorithm=algorithm).key
        except jwt.PyJWTError as error:
            raise ValueError(f"key {key_id} is not a valid JWK: {error}") from None
        if algorithm == "RS256" and key.key_size < _MIN_RSA_BITS:
            raise ValueError(f"key {key_id}: RSA keys need at least {_MIN_RSA_BITS} bits")
        return cls(key_id=key_id, algorithm=algorithm, key=key)


_ALGORITHM_OF_KEY: dict[tuple[Any, Any], str] = {
    ("OKP", "Ed25519"): "EdDSA",
    ("EC", "P-256"): "ES256",
    ("RSA", None): "RS256",
}
ALGORITHMS = frozenset(_ALGORITHM_OF_KEY.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedIssuer:
    """One issuer: its keys, and the bounds of what its tokens may say."""

    name: str  # the `iss` claim
    keys: tuple[VerificationKey, ...]
    tenants: frozenset[str]  # "*" stands for all but `system`, which has to be named
    roles: frozenset[Role]  # the highest it may assert; what they include is allowed too
    audience: str = AUDIENCE
    algorithms: frozenset[str] = field(default=ALGORITHMS)
    internal: bool = False  # may assert WORKER and SERVICE
    tenant_claim: str = "tenant"
    roles_claim: str = "roles"
    subject_claim: str = "sub"

    def __post_init__(self) -> None:
        if not self.name or not self.keys or not self.tenants or not self.audience:
            raise ValueError("a trusted issuer needs a name, an audience, keys and tenants")
        if not self.algorithms or not self.algorithms <= ALGORITHMS:
            raise ValueError(f"issuer {self.name}: algorithms must be among {', '.join(sorted(ALGORITHMS))}")
        if not self.internal and not self.roles.isdisjoint(INTERNAL_ROLES):
            raise ValueError(f"issuer {self.name}: only an internal issuer may assert WORKER or SERVICE")
        if len({key.key_id for key in self.keys}) != len(self.keys):
            raise ValueError(f"issuer {self.name}: two keys share a `kid`")

    @property
    def local(self) -> bool:
        """Whether this is a suite's own issuer, which has no place beside others or beyond loopback."""
        return self.name.startswith(LOCAL_PREFIX)

    def speaks_for(self, tenant: str) -> bool:
        """Whether tokens of this issuer may name `tenant`."""
        return tenant in self.tenants or (ANY_TENANT in self.tenants and tenant != SYSTEM_TENANT)

    def may_assert(self, role: Role) -> bool:
        """Whether tokens of this issuer may carry `role`."""
        return role in implied(self.roles)

    def key(self, key_id: str | None) -> VerificationKey | None:
        """The key of that id; a token without one is checked by the only key, if there is only one."""
        if key_id is None:
            return self.keys[0] if len(self.keys) == 1 else None
        return next((key for key in self.keys if key.key_id == key_id), None)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "TrustedIssuer":
        """From one member of `issuers` in the file; ValueError names what is wrong with it."""
        known = {"issuer", "audience", "algorithms", "keys", "tenants", "roles", "internal", "claims"}
        if unknown := set(value) - known:
            raise ValueError(f"unknown member {', '.join(sorted(unknown))} of an issuer")
        claims = value.get("claims", {})
        try:
            return cls(
                name=value["issuer"],
                audience=value.get("audience", AUDIENCE),
                algorithms=frozenset(value["algorithms"]),
                keys=tuple(VerificationKey.from_jwk(jwk) for jwk in value["keys"]),
                tenants=frozenset(value["tenants"]),
                roles=frozenset(Role(role) for role in value["roles"]),
                internal=value.get("internal", False) is True,
                tenant_claim=claims.get("tenant", "tenant"),
                roles_claim=claims.get("roles", "roles"),
                subject_claim=claims.get("subject", "sub"),
            )
        except KeyError as error:
            raise ValueError(f"an issuer needs the member {error}") from None


def parse_issuers(text: str) -> dict[str, TrustedIssuer]:
    """By name, from `{"issuers": [...]}`; ValueError if anything is wrong, so nothing is half trusted."""
    value = json.loads(text)
    listed = value.get("issuers") if isinstance(value, dict) else None
    if not listed or not isinstance(listed, list):
        raise ValueError('the issuers file must be an object {"issuers": [...]}')
    return by_name(TrustedIssuer.from_json(item) for item in listed)


def by_name(issuers: Iterable[TrustedIssuer]) -> dict[str, TrustedIssuer]:
    """ValueError on two of one name, and on a suite's local issuer beside another one."""
    listed = list(issuers)
    named = {issuer.name: issuer for issuer in listed}
    if len(named) != len(listed):
        raise ValueError("two trusted issuers share a name")
    if len(named) > 1 and any(issuer.local for issuer in listed):
        raise ValueError("the local issuer of a suite cannot be trusted beside another issuer")
    return named


class IssuersFile:
    """Trusted issuers from a JSON file that is read again when it changes.

    A change that does not parse is logged, and the last good state stays: half a file locks nobody out.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()
        self._issuers = parse_issuers(path.read_text())

    def current(self) -> Mapping[str, TrustedIssuer]:
        """By name. The same object until the file changes, so that holders of derived state can tell."""
        stamp = self._stamp()
        if stamp != self._seen:
            self._seen = stamp
            try:
                self._issuers = parse_issuers(self._path.read_text())
                log.info("trusted issuers read again", path=str(self._path), issuers=sorted(self._issuers))
            except (OSError, ValueError):
                log.exception("the issuers file cannot be used, the last good one stays")
        return self._issuers

    def _stamp(self) -> tuple[int, int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return (0, 0, 0)
        return (status.st_mtime_ns, status.st_ino, status.st_size)
