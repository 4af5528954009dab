import base64
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from svc_kit.clock import ManualClock
from svc_kit.errors import Unauthenticated
from svc_kit.identity import IssuersFile, LocalIssuer, Role, TokenVerifier, TrustedIssuer
from svc_kit.identity import verifier as verifier_module
from svc_kit.identity.issuers import parse_issuers

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
OUTSIDE = "https://id.example.com"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def issuer(tmp_path: Path, clock: ManualClock) -> LocalIssuer:
    return LocalIssuer(tmp_path / "keys" / "issuer.pem", "s1", clock)


@pytest.fixture
def verifier(issuer: LocalIssuer, clock: ManualClock) -> TokenVerifier:
    return TokenVerifier([issuer.trusted()], clock)


def refusal(verifier: TokenVerifier, token: str) -> tuple[str, str]:
    with pytest.raises(Unauthenticated) as caught:
        verifier.verify(token)
    return caught.value.reason_name, caught.value.message


def claims(**changes: Any) -> dict[str, Any]:
    now = int(NOW.timestamp())
    base: dict[str, Any] = {
        "iss": OUTSIDE,
        "aud": "interlock",
        "sub": "ada",
        "tenant": "acme",
        "roles": ["DEVELOPER"],
        "iat": now,
        "exp": now + 60,
    }
    return {name: value for name, value in (base | changes).items() if value is not ...}


def outside_issuer(jwk: dict[str, Any], **changes: Any) -> TrustedIssuer:
    description = {
        "issuer": OUTSIDE,
        "algorithms": ["EdDSA", "ES256", "RS256"],
        "keys": [jwk],
        "tenants": ["acme"],
        "roles": ["DEVELOPER", "AUDITOR"],
    }
    return TrustedIssuer.from_json(description | changes)


def public_jwk(key: Any, kid: str = "k1") -> dict[str, Any]:
    if isinstance(key, Ed25519PrivateKey):
        text = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key())
    elif isinstance(key, rsa.RSAPrivateKey):
        text = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())
    else:
        text = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key())
    return {**json.loads(text), "kid": kid}


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def outside(key: Ed25519PrivateKey, clock: ManualClock) -> TokenVerifier:
    return TokenVerifier([outside_issuer(public_jwk(key))], clock)


def signed(
    key: Any, algorithm: str = "EdDSA", *, header: dict[str, Any] | None = None, **changes: Any
) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": "k1"} | (header or {}))


def test_a_minted_token_names_its_principal(issuer: LocalIssuer, verifier: TokenVerifier) -> None:
    token = issuer.mint("worker-1", "default", [Role.WORKER], 60, pools=[("default", "gpu")])
    caller = verifier.verify(token)
    assert (caller.tenant, caller.subject, caller.roles) == ("default", "worker-1", frozenset({Role.WORKER}))
    assert caller.pools == {("default", "gpu")}
    assert caller.issuer == "interlock-local:s1"
    assert caller.expires_at == datetime(2026, 5, 1, 12, 1, tzinfo=UTC)


def test_the_ladder_of_roles_goes_up_to_super_admin_and_the_others_imply_nothing(
    issuer: LocalIssuer, verifier: TokenVerifier
) -> None:
    admin = verifier.verify(issuer.mint("a", "default", [Role.ADMIN], 60))
    assert {role for role in Role if admin.has(role)} == {Role.VIEWER, Role.DEVELOPER, Role.ADMIN}
    service = verifier.verify(issuer.mint("s", "system", [Role.SERVICE], 60))
    assert {role for role in Role if service.has(role)} == {Role.SERVICE}


def test_only_operators_and_services_of_tenant_system_act_for_other_tenants(
    issuer: LocalIssuer, verifier: TokenVerifier
) -> None:
    def acts(tenant: str, role: Role) -> bool:
        return verifier.verify(issuer.mint("x", tenant, [role], 60)).may_act_for("acme")

    assert acts("system", Role.SUPER_ADMIN) and acts("system", Role.SERVICE) and acts("acme", Role.VIEWER)
    assert not acts("system", Role.ADMIN) and not acts("default", Role.SUPER_ADMIN)


def test_a_worker_acts_for_the_tenants_of_its_pools_but_takes_no_other_role_there(
    issuer: LocalIssuer, verifier: TokenVerifier
) -> None:
    pools = [("acme", "gpu")]
    worker = verifier.verify(issuer.mint("w", "default", [Role.WORKER], 60, pools))
    assert worker.may_act_for("acme") and worker.may_act_for("default") and not worker.may_act_for("other")
    mixed = verifier.verify(issuer.mint("w", "default", [Role.WORKER, Role.DEVELOPER], 60, pools))
    assert not mixed.may_act_for("acme")


def test_an_absent_token_is_told_apart_from_a_bad_one(verifier: TokenVerifier) -> None:
    assert refusal(verifier, "")[0] == "TOKEN_MISSING"
    for token in ("x", "a.b.c", "é" * 10, "x" * 9000, "\udc80.a.b", "." * 100):
        assert refusal(verifier, token)[0] == "TOKEN_INVALID"


def test_a_token_expires_also_when_it_is_remembered(
    issuer: LocalIssuer, verifier: TokenVerifier, clock: ManualClock
) -> None:
    token = issuer.mint("a", "default", [Role.VIEWER], 60)
    assert verifier.verify(token) is verifier.verify(token)
    clock.advance(60 + verifier_module.LEEWAY_SECONDS - 0.1)
    assert verifier.verify(token).subject == "a"
    clock.advance(0.2)
    assert refusal(verifier, token) == ("TOKEN_EXPIRED", "the token expired at 2026-05-01T12:01:00Z")
    assert refusal(verifier, token)[0] == "TOKEN_EXPIRED"


def test_the_memory_of_good_tokens_is_bounded(
    issuer: LocalIssuer, verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifier_module, "CACHE_SIZE", 3)
    for number in range(10):
        verifier.verify(issuer.mint(f"s{number}", "default", [Role.VIEWER], 60))
    assert len(verifier._known) == 3


def test_a_token_of_another_suite_is_refused(
    tmp_path: Path, verifier: TokenVerifier, clock: ManualClock
) -> None:
    stranger = LocalIssuer(tmp_path / "other.pem", "s1", clock)
    assert refusal(verifier, stranger.mint("a", "default", [Role.VIEWER], 60)) == (
        "TOKEN_INVALID",
        "the token is signed by a key that its issuer does not publish",
    )
    elsewhere = LocalIssuer(tmp_path / "other.pem", "s2", clock)
    assert "issuer is not trusted" in refusal(verifier, elsewhere.mint("a", "default", [Role.VIEWER], 60))[1]


def test_a_forged_signature_under_a_known_key_id_is_refused(outside: TokenVerifier) -> None:
    assert "signature" in refusal(outside, signed(Ed25519PrivateKey.generate()))[1]


def test_a_changed_payload_is_refused(outside: TokenVerifier, key: Ed25519PrivateKey) -> None:
    header, _, signature = signed(key).split(".")
    payload = base64.urlsafe_b64encode(json.dumps(claims(roles=["AUDITOR"])).encode()).rstrip(b"=").decode()
    assert "signature" in refusal(outside, f"{header}.{payload}.{signature}")[1]


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"aud": "other"}, "another audience"),
        ({"aud": ...}, "lacks the claim aud"),
        ({"exp": ...}, "lacks the claim exp"),
        ({"iat": ...}, "lacks the claim iat"),
        ({"sub": ...}, "lacks the claim sub"),
        ({"sub": ""}, "subject"),
        ({"sub": "a\nb"}, "subject"),
        ({"sub": "x" * 257}, "subject"),
        ({"exp": "soon"}, "exp is not a time"),
        ({"exp": True}, "exp is not a time"),
        ({"exp": 10**30}, "exp is out of range"),
        ({"iat": int(NOW.timestamp()) + 60}, "iat lies in the future"),
        ({"nbf": int(NOW.timestamp()) + 60}, "nbf lies in the future"),
        ({"tenant": ...}, "no valid tenant"),
        ({"tenant": "Acme"}, "no valid tenant"),
        ({"tenant": "a/b"}, "no valid tenant"),
        ({"tenant": "other"}, "may not speak for its tenant"),
        ({"roles": "DEVELOPER"}, "not a list"),
        ({"roles": ["ADMIN"]}, "may not assert the role ADMIN"),
        ({"roles": ["WORKER"], "pools": ["acme/default"]}, "may not assert the role WORKER"),
        ({"roles": ["SERVICE"], "tenant": "system"}, "may not assert the role SERVICE"),
    ],
)
def test_a_claim_beyond_what_the_issuer_may_say_is_refused(
    outside: TokenVerifier, key: Ed25519PrivateKey, changes: dict[str, Any], part: str
) -> None:
    reason, message = refusal(outside, signed(key, **changes))
    assert reason == "TOKEN_INVALID"
    assert part in message


def test_role_names_for_other_programs_give_no_right(outside: TokenVerifier, key: Ed25519PrivateKey) -> None:
    assert outside.verify(signed(key, roles=["billing", "viewer", "AUDITOR"])).roles == {Role.AUDITOR}


def test_a_role_below_the_highest_may_be_asserted(outside: TokenVerifier, key: Ed25519PrivateKey) -> None:
    assert outside.verify(signed(key, roles=["VIEWER"])).roles == {Role.VIEWER}


def test_unsigned_and_symmetric_tokens_are_refused(outside: TokenVerifier, key: Ed25519PrivateKey) -> None:
    unsigned = jwt.encode(claims(), "", algorithm="none", headers={"kid": "k1"})
    assert "signature" in refusal(outside, unsigned)[1]
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    symmetric = jwt.encode(claims(), public, algorithm="HS256", headers={"kid": "k1"})
    assert "signature" in refusal(outside, symmetric)[1]


def test_a_token_that_demands_extensions_is_refused(outside: TokenVerifier, key: Ed25519PrivateKey) -> None:
    assert refusal(outside, signed(key, header={"crit": ["b64"], "b64": True}))[0] == "TOKEN_INVALID"
    assert refusal(outside, signed(key, header={"crit": ["x-ours"], "x-ours": 1}))[0] == "TOKEN_INVALID"


@pytest.mark.parametrize("kid", ["k2", 7, None])
def test_a_key_that_the_issuer_does_not_publish_is_refused(
    outside: TokenVerifier, key: Ed25519PrivateKey, kid: object
) -> None:
    token = signed(key, header={"kid": kid} if isinstance(kid, str) else {})
    if not isinstance(kid, str):
        head = (
            base64.urlsafe_b64encode(json.dumps({"alg": "EdDSA", "kid": kid}).encode()).rstrip(b"=").decode()
        )
        token = f"{head}.{token.partition('.')[2]}"
    assert refusal(outside, token)[0] == "TOKEN_INVALID"


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_outside_issuers_may_sign_with_the_usual_algorithms(algorithm: str, clock: ManualClock) -> None:
    key: Any = (
        ec.generate_private_key(ec.SECP256R1())
        if algorithm == "ES256"
        else rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    token = signed(key, algorithm)
    assert TokenVerifier([outside_issuer(public_jwk(key))], clock).verify(token).subject == "ada"
    narrowed = TokenVerifier([outside_issuer(public_jwk(key), algorithms=["EdDSA"])], clock)
    assert "algorithm" in refusal(narrowed, token)[1]


def test_claims_may_be_mapped(key: Ed25519PrivateKey, clock: ManualClock) -> None:
    mapped = outside_issuer(public_jwk(key), claims={"tenant": "org", "roles": "groups", "subject": "email"})
    token = signed(key, tenant=..., roles=..., org="acme", groups=["VIEWER"], email="ada@example.com")
    caller = TokenVerifier([mapped], clock).verify(token)
    assert (caller.tenant, caller.subject, caller.roles) == (
        "acme",
        "ada@example.com",
        frozenset({Role.VIEWER}),
    )


def test_any_tenant_does_not_include_system(key: Ed25519PrivateKey, clock: ManualClock) -> None:
    verifier = TokenVerifier([outside_issuer(public_jwk(key), tenants=["*"])], clock)
    assert verifier.verify(signed(key, tenant="whoever")).tenant == "whoever"
    assert "may not speak for its tenant" in refusal(verifier, signed(key, tenant="system"))[1]


def test_a_service_token_must_be_of_tenant_system(issuer: LocalIssuer, verifier: TokenVerifier) -> None:
    assert "tenant system" in refusal(verifier, issuer.mint("s", "default", [Role.SERVICE], 60))[1]


@pytest.mark.parametrize("pool", ["default", "default/", "a/b/c", "A/b"])
def test_a_pool_must_be_spelled_tenant_and_pool(
    issuer: LocalIssuer, verifier: TokenVerifier, pool: str
) -> None:
    tenant, _, name = pool.partition("/")
    token = issuer.mint("w", "default", [Role.WORKER], 60, pools=[(tenant, name)])
    assert "tenant/pool" in refusal(verifier, token)[1]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"keys": []}, "needs a name"),
        ({"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "k"}]}, "private or symmetric"),
        ({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "k"}]}, "not a valid JWK"),
        ({"keys": [{"kty": "OKP", "crv": "Ed448", "x": "AA", "kid": "k"}]}, "only Ed25519"),
        ({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA"}]}, "needs a `kid`"),
        ({"algorithms": ["HS256"]}, "algorithms must be among"),
        ({"algorithms": ["none"]}, "algorithms must be among"),
        ({"roles": ["WORKER"]}, "only an internal issuer"),
        ({"roles": ["KING"]}, "KING"),
        ({"tenants": []}, "tenants"),
        ({"tenant": ["acme"]}, "unknown member tenant"),
    ],
)
def test_an_issuer_that_is_not_safe_to_trust_is_not_loaded(
    key: Ed25519PrivateKey, change: dict[str, Any], part: str
) -> None:
    with pytest.raises(ValueError, match=part):
        outside_issuer(public_jwk(key), **change)


def test_a_private_key_in_the_issuers_file_is_refused(key: Ed25519PrivateKey) -> None:
    private = {**json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(key)), "kid": "k1"}
    with pytest.raises(ValueError, match="must be public"):
        outside_issuer(private)


def test_a_short_rsa_key_is_refused() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - the weak key is the point
    with pytest.raises(ValueError, match="at least 2048 bits"):
        outside_issuer(public_jwk(key))


def test_the_local_issuer_is_not_trusted_beside_another(issuer: LocalIssuer, key: Ed25519PrivateKey) -> None:
    with pytest.raises(ValueError, match="beside another"):
        TokenVerifier([issuer.trusted(), outside_issuer(public_jwk(key))])


@pytest.mark.parametrize("text", ["[]", "{}", '{"issuers": []}', '{"issuers": {}}', "nonsense"])
def test_a_file_without_issuers_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each spelling has its own message
        parse_issuers(text)


def test_a_withdrawn_key_ends_its_tokens_at_once(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "issuers.json"
    old = LocalIssuer(tmp_path / "old.pem", "s1", clock)
    new = LocalIssuer(tmp_path / "new.pem", "s1", clock)
    old.write_issuers_file(path)
    verifier = TokenVerifier(IssuersFile(path), clock)
    token = old.mint("a", "default", [Role.VIEWER], 60)
    assert verifier.verify(token).subject == "a"

    new.write_issuers_file(path)

    assert refusal(verifier, token)[0] == "TOKEN_INVALID"
    assert verifier.verify(new.mint("b", "default", [Role.VIEWER], 60)).subject == "b"


def test_a_broken_issuers_file_leaves_the_last_good_one_in_force(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "issuers.json"
    issuer = LocalIssuer(tmp_path / "key.pem", "s1", clock)
    issuer.write_issuers_file(path)
    verifier = TokenVerifier(IssuersFile(path), clock)
    for breakage in ('{"issuers": [', '{"issuers": [{}]}'):
        path.write_text(breakage)
        assert verifier.verify(issuer.mint("a", "default", [Role.VIEWER], 60)).subject == "a"
    path.unlink()
    assert verifier.verify(issuer.mint("b", "default", [Role.VIEWER], 60)).subject == "b"


def test_the_key_of_the_local_issuer_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "issuer.pem"
    first, second = LocalIssuer(path, "s1"), LocalIssuer(path, "s1")
    assert first.key_id == second.key_id
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["issuer.pem"]  # noqa: PTH208 - names are what is compared
    path.chmod(0o640)
    with pytest.raises(PermissionError, match="chmod 600"):
        LocalIssuer(path, "s1")
