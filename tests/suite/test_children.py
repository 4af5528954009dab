"""What each child is told, and what not."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from interlock_suite.children import CHILDREN, scaled
from interlock_suite.tokens import Grant, TokenFiles
from svc_kit.identity import LocalIssuer, Role, TokenVerifier
from svc_kit.identity.issuers import parse_issuers
from tests.suite.conftest import StartSuite


def test_a_child_is_told_its_own_settings_and_no_secret_of_another(start_suite: StartSuite) -> None:
    suite = start_suite("a", A_SECRET_OF_THE_OPERATOR="s3cret", INTERLOCK_GATEWAY_SECRET="g4teway").ready()
    environments = {name: suite.told(name)["env"] for name in ("audit", "gateway", "orchestrator", "worker")}
    assert suite.stop() == 0
    for name, environ in environments.items():
        assert "A_SECRET_OF_THE_OPERATOR" not in environ
        foreign = [key for key in environ if key.startswith("INTERLOCK_")]
        allowed = (f"INTERLOCK_{name.upper()}_", "INTERLOCK_SUITE_MARK")
        assert [key for key in foreign if not key.startswith(allowed)] == []
    assert environments["gateway"]["INTERLOCK_GATEWAY_SECRET"] == "g4teway"
    assert "INTERLOCK_GATEWAY_REDIS_URL" not in environments["gateway"]
    audit_door = environments["audit"]["INTERLOCK_AUDIT_INTERNAL_ADDRESS"]
    assert environments["gateway"]["INTERLOCK_GATEWAY_AUDIT_ADDRESS"] == audit_door


def test_the_token_file_of_a_child_says_who_it_is(start_suite: StartSuite) -> None:
    suite = start_suite().ready()
    token = suite.folder.token("gateway").read_text().strip()
    issuers = parse_issuers(suite.folder.issuers.read_text())
    assert suite.stop() == 0
    principal = TokenVerifier(list(issuers.values())).verify(token)
    assert (principal.subject, principal.tenant) == ("gateway", "system")
    assert principal.has(Role.SERVICE)


def test_a_token_is_renewed_when_half_of_its_life_is_over(scratch: Path) -> None:
    issuer = LocalIssuer(scratch / "key.pem", "a-suite")
    tokens = TokenFiles(issuer, lifetime=timedelta(minutes=10))
    path = scratch / "gateway.token"
    tokens.keep(path, Grant(subject="gateway", tenant="system", roles=frozenset({Role.SERVICE})))
    first = path.read_text()
    now = datetime.now(UTC).timestamp()
    assert tokens.renew(now + 290) == []
    assert tokens.renew(now + 310) == [path]
    assert path.read_text() != first
    assert path.stat().st_mode & 0o777 == 0o600


def test_every_child_comes_after_those_it_waits_for() -> None:
    seen: set[str] = set()
    for child in CHILDREN:
        assert set(child.after) <= seen, child.name
        assert set(child.calls) <= {other.name for other in CHILDREN}
        seen.add(child.name)


def test_only_the_worker_holds_no_service_role() -> None:
    roles = {child.name: child.grant.roles for child in CHILDREN}
    assert roles.pop("worker") == frozenset({Role.WORKER})
    assert set(roles.values()) == {frozenset({Role.SERVICE})}


def test_replicas_share_keys_database_and_settings_but_not_their_slot() -> None:
    children = scaled(CHILDREN, {"orchestrator": 2, "worker": 3})
    names = [child.name for child in children]
    assert names[-5:] == ["orchestrator", "orchestrator-2", "worker", "worker-2", "worker-3"]
    assert {child.service for child in children} == {child.name for child in CHILDREN}
    assert {child.prefix for child in children if child.service == "orchestrator"} == {
        "INTERLOCK_ORCHESTRATOR_"
    }
    slots = [child.settings["SLOT"] for child in children if child.service == "worker"]
    assert len(set(slots)) == 3
