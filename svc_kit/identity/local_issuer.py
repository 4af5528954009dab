"""The issuer of an embedded suite. Its key is held by the supervisor alone (and by tests)."""

import json
import os
import uuid
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from svc_kit.clock import Clock, SystemClock
from svc_kit.identity.issuers import ANY_TENANT, AUDIENCE, LOCAL_PREFIX, TrustedIssuer
from svc_kit.identity.principal import SYSTEM_TENANT
from svc_kit.identity.roles import Role
from svc_kit.key_files import load_or_create_key, public_bytes, thumbprint


class LocalIssuer:
    """Mints tokens of `interlock-local:<suite_id>`."""

    def __init__(self, key_path: Path, suite_id: str, clock: Clock | None = None) -> None:
        self._key: Ed25519PrivateKey = load_or_create_key(key_path)
        self._clock = clock or SystemClock()
        self.name = LOCAL_PREFIX + suite_id
        self.key_id = thumbprint(self._key.public_key())

    def mint(
        self,
        subject: str,
        tenant: str,
        roles: Iterable[Role],
        ttl: timedelta | float,
        pools: Iterable[tuple[str, str]] = (),
    ) -> str:
        """A signed token; `ttl` is a timedelta or seconds, `pools` are (tenant, pool) pairs."""
        lifetime = ttl if isinstance(ttl, timedelta) else timedelta(seconds=ttl)
        now = self._clock.now()
        claims = {
            "iss": self.name,
            "aud": AUDIENCE,
            "sub": subject,
            "tenant": tenant,
            "roles": sorted(roles),
            "pools": sorted(f"{tenant}/{pool}" for tenant, pool in pools),
            "iat": int(now.timestamp()),
            "exp": int((now + lifetime).timestamp()),
            "jti": str(uuid.uuid4()),
        }
        return jwt.encode(claims, self._key, algorithm="EdDSA", headers={"kid": self.key_id})

    def description(self) -> dict[str, Any]:
        """This issuer as a member of the issuers file: every tenant, every role, its public key."""
        numbers = jwt.utils.base64url_encode(public_bytes(self._key.public_key())).decode()
        return {
            "issuer": self.name,
            "audience": AUDIENCE,
            "algorithms": ["EdDSA"],
            "keys": [{"kty": "OKP", "crv": "Ed25519", "kid": self.key_id, "alg": "EdDSA", "x": numbers}],
            "tenants": [ANY_TENANT, SYSTEM_TENANT],
            "roles": sorted(Role),
            "internal": True,
        }

    def trusted(self) -> TrustedIssuer:
        """What a verifier in the same process needs."""
        return TrustedIssuer.from_json(self.description())

    def write_issuers_file(self, path: Path) -> None:
        """The file that the services' `issuers` setting names; replaced in one step."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
        temporary.write_text(json.dumps({"issuers": [self.description()]}, indent=2) + "\n")
        temporary.replace(path)
