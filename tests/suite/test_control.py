"""The control socket."""

import json
import os
import socket
import stat
from typing import Any

import pytest

from interlock_suite.control import ask
from interlock_suite.errors import SuiteError
from svc_kit.identity import Role, TokenVerifier
from svc_kit.identity.issuers import parse_issuers
from tests.suite.harness import SuiteProcess


def test_a_token_from_the_socket_verifies_against_the_issuers_file(suite: SuiteProcess) -> None:
    answer = suite.ask(op="token", roles=["DEVELOPER", "AUDITOR"], tenant="acme", subject="ada", ttl=60)
    issuers = parse_issuers(suite.folder.issuers.read_text())
    principal = TokenVerifier(list(issuers.values())).verify(answer["token"])
    assert (principal.tenant, principal.subject) == ("acme", "ada")
    assert principal.has(Role.DEVELOPER) and principal.has(Role.AUDITOR)
    assert not principal.has(Role.ADMIN)
    assert int(principal.expires_at.timestamp()) == answer["expires_at"]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"op": "token", "roles": ["SERVICE"]}, "SERVICE is for the suite's own services"),
        ({"op": "token", "roles": ["KING"]}, "`roles` may hold VIEWER, DEVELOPER"),
        ({"op": "token", "roles": []}, "`roles` must be a list"),
        ({"op": "token", "ttl": 0}, "`ttl` must be a number"),
        ({"op": "token", "ttl": True}, "`ttl` must be a number"),
        ({"op": "token", "ttl": 1e12}, "`ttl` must be a number"),
        ({"op": "token", "tenant": 7}, "`tenant` must be text"),
        ({"op": "token", "pools": ["default"]}, "tenant/pool"),
        ({"op": "restart", "process": "nobody"}, "`process` must be one of postgres, valkey"),
        ({"op": "dance"}, "`op` must be one of restart, status, stop, token"),
        ({}, "`op` must be one of"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_the_reason(
    suite: SuiteProcess, request_: dict[str, Any], says: str
) -> None:
    with pytest.raises(SuiteError) as refused:
        ask(suite.folder.control, request_)
    assert says in str(refused.value)


@pytest.mark.parametrize("line", [b"not json\n", b"[]\n", b"\xff\xfe\n", b'{"op":\n', b"\n"])
def test_a_line_that_is_no_object_is_refused_and_the_conversation_goes_on(
    suite: SuiteProcess, line: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(suite.folder.control))
        lines = connection.makefile("rb")
        connection.sendall(line + b'{"op": "status"}\n')
        assert "error" in json.loads(lines.readline())
        assert json.loads(lines.readline())["ready"] is True


def test_a_line_without_end_is_hung_up_on(suite: SuiteProcess) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(suite.folder.control))
        try:
            connection.sendall(b"x" * 1_000_000)
            assert connection.recv(1) == b""
        except ConnectionError:
            pass
    assert suite.ask(op="status")["ready"] is True


def test_status_names_every_process(suite: SuiteProcess) -> None:
    status = suite.ask(op="status")
    assert status["pid"] == suite.pid
    assert [row["name"] for row in status["processes"]] == [
        "postgres",
        "valkey",
        "audit",
        "gateway",
        "orchestrator",
        "worker",
    ]
    assert {row["state"] for row in status["processes"]} == {"ready"}
    assert status["addresses"] == suite.context()["addresses"]


def test_the_socket_and_its_folder_are_the_owners_alone(suite: SuiteProcess) -> None:
    assert stat.S_IMODE(suite.folder.control.stat().st_mode) == 0o600
    assert stat.S_IMODE(suite.folder.run.stat().st_mode) == 0o700
    assert suite.folder.run.stat().st_uid == os.geteuid()


def test_asking_where_no_suite_runs_says_how_to_start_one(suite: SuiteProcess) -> None:
    with pytest.raises(SuiteError, match="interlock up"):
        ask(suite.folder.root / "nothing.sock", {"op": "status"})
