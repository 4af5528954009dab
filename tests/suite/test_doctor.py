"""The examination of the machine."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from interlock_suite.doctor import examine


def _by_name(data_dir: Path) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in examine(data_dir)}


def test_a_machine_that_can_run_a_suite_has_nothing_to_fix_and_nothing_is_made(scratch: Path) -> None:
    findings = _by_name(scratch / "new")
    assert set(findings) == {
        "system",
        "python",
        "postgres",
        "valkey",
        "sandbox",
        "disk",
        "data",
        "ports",
    }
    assert {name: finding["fix"] for name, finding in findings.items() if not finding["ok"]} == {}
    assert not (scratch / "new").exists()


def test_a_busy_port_of_a_known_folder_is_found_with_its_fix(scratch: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        memory = {"suite_id": "a-suite", "format": 1, "port_base": port}
        (scratch / "suite.json").write_text(json.dumps(memory))
        (scratch / "keys").mkdir()
        finding = _by_name(scratch)["ports"]
    assert finding["ok"] is False
    assert f"Port {port} is in use" in finding["found"]
    assert "--port-base" in finding["fix"]


def test_a_folder_of_another_postgres_is_found(scratch: Path) -> None:
    (scratch / "postgres").mkdir()
    (scratch / "postgres" / "PG_VERSION").write_text("9\n")
    assert _by_name(scratch)["postgres"]["ok"] is False


def test_an_external_postgres_needs_no_programs(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERLOCK_DATABASE_URL", "postgresql://somewhere")
    assert _by_name(scratch)["postgres"]["found"].startswith("your own server")
