"""`interlock audit verify` on the running suite."""

import json
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from interlock.verify import Checkpoint, NoteKey, ProofError, signed_note
from interlock.verify.proof_text import verify_entry_proof
from tests.suite_running import Suite


@pytest.fixture
def task_id(suite: Suite) -> str:
    """A task whose last word has reached the log."""
    done: str = suite.json("submit", "bench-echo", '{"text": "logged"}', "--wait")["task_id"]
    deadline = time.monotonic() + 20
    while "RESULT" not in kinds(suite, done):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return done


def kinds(suite: Suite, task_id: str) -> dict[str, int]:
    done = suite.cli("audit", "verify", task_id, "-o", "json")
    found: dict[str, int] = json.loads(done.stdout)["entries_by_type"]
    return found


def report(suite: Suite, task_id: str, pins: Path) -> dict[str, Any]:
    done = suite.cli("audit", "verify", task_id, "--pins", str(pins), "-o", "json")
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["verified"] is (done.returncode == 0)
    return found


def test_a_trail_is_verified_and_its_key_pinned_on_first_use(
    suite: Suite, task_id: str, tmp_path: Path
) -> None:
    pins = tmp_path / "pins.json"
    first = report(suite, task_id, pins)
    assert first["verified"] and first["pinned_now"]
    assert first["entries"] == first["entries_included"] == sum(first["entries_by_type"].values())
    assert first["entries_by_type"] == {
        "PROMPT": 1,
        "STATE_CHANGE": 3,
        "TOOL_CALL": 1,
        "TOOL_RESULT": 1,
        "RESULT": 1,
    }
    assert first["parts_withheld"] == 0 and first["parts_matched"] == 4
    assert first["findings"] == [] and first["not_excluded"]
    again = report(suite, task_id, pins)
    assert again["verified"] and not again["pinned_now"]
    assert again["consistent_from"] == first["tree_size"]
    assert again["key"] == first["key"] in pins.read_text()


def test_the_pins_lie_beside_the_data_folder(suite: Suite, task_id: str) -> None:
    assert suite.cli("audit", "verify", task_id).stdout.endswith("VERIFIED\n")
    assert (suite.data_dir.parent / f"{suite.data_dir.name}-audit-pins.json").exists()


def pinned_instead(suite: Suite, task_id: str, pins: Path, *, size: int) -> None:
    """Make this reader believe that it has seen a log of another key."""
    key = Ed25519PrivateKey.generate()
    origin = report(suite, task_id, pins)["key"].split("+")[0]
    name = NoteKey(name=origin, public_key=key.public_key().public_bytes_raw())
    text = Checkpoint(origin=origin, size=size, root=bytes(32)).text
    note = str(signed_note(text, key=name, signature=key.sign(text.encode())))
    pins.write_text(json.dumps({"format": 1, "logs": {origin: {"key": str(name), "checkpoint": note}}}))


def test_another_key_than_the_pinned_one_is_not_accepted(suite: Suite, task_id: str, tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    pinned_instead(suite, task_id, pins, size=1)
    found = report(suite, task_id, pins)
    assert not found["verified"]
    assert "SIGNATURE" in {finding["problem"] for finding in found["findings"]}
    assert "NOT VERIFIED" in suite.cli("audit", "verify", task_id, "--pins", str(pins)).stdout


def test_damaged_pins_are_no_reason_to_trust_anew(suite: Suite, task_id: str, tmp_path: Path) -> None:
    pins = tmp_path / "pins.json"
    pins.write_text("{")
    error = suite.error("audit", "verify", task_id, "--pins", str(pins))
    assert "is damaged" in error["message"] and str(pins) in error["fix"]


def test_an_empty_trail_is_not_verified(suite: Suite, tmp_path: Path) -> None:
    unknown = str(uuid.uuid4())
    found = report(suite, unknown, tmp_path / "pins.json")
    assert (found["verified"], found["entries"]) == (False, 0)
    assert "Nothing to verify" in suite.cli("audit", "verify", unknown).stdout


def test_the_whole_log_is_held_against_its_root(suite: Suite, task_id: str) -> None:
    report = suite.json("audit", "check-log")
    assert (report["ok"], report["root_checked"], report["findings"]) == (True, True, [])
    assert report["checked"] == int(report["checkpoint"]["tree_size"]) > 3
    assert suite.cli("audit", "check-log").stdout.endswith("EVERYTHING HELD\n")
    viewer = suite.cli("token", "--role", "VIEWER").stdout.strip()
    assert suite.error("audit", "check-log", INTERLOCK_TOKEN=viewer)["reason"] == "ROLE_REQUIRED"


def test_an_export_is_verified_by_a_stranger_and_no_change_of_it_is(
    suite: Suite, task_id: str, tmp_path: Path
) -> None:
    file = tmp_path / "log.jsonl"
    made = suite.json("audit", "export", str(file), "--payloads", "--reason", "asked")
    assert file.stat().st_mode & 0o077 == 0
    assert task_id in file.read_text()

    def stranger(path: Path, *how: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-I", "-m", "interlock.verify", str(path), *how]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)

    key, pins = ("--key", made["key"]), ("--pins", str(tmp_path / "pins.json"))
    done = stranger(file, *key)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "VERIFIED"), done.stdout + done.stderr
    assert f"{made['entries']} entries" in done.stdout
    lines = file.read_text().splitlines(keepends=True)
    middle = len(lines) // 2
    forged = json.loads(lines[middle])
    forged["leaf"] = forged["leaf"].replace('"producer":"', '"producer":"x')
    for changed in (
        [*lines[:middle], *lines[middle + 1 :]],
        [*lines[:middle], lines[middle + 1], lines[middle], *lines[middle + 2 :]],
        [*lines[:-2], lines[-1]],
        lines[:-1],
        [*lines[:middle], json.dumps(forged) + "\n", *lines[middle + 1 :]],
        [lines[0].replace("interlock-log", "other"), *lines[1:]],
    ):
        other = tmp_path / "changed.jsonl"
        other.write_text("".join(changed))
        done = stranger(other, *key)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "NOT VERIFIED")
    assert stranger(file, "--key", "nonsense").returncode == 2
    # With pins the key is asked for once, and a log that was seen larger is refused.
    assert stranger(file, *pins).returncode == 2
    assert stranger(file, *key, *pins).returncode == 0
    suite.json("audit", "export", str(tmp_path / "later.jsonl"))
    report = json.loads(stranger(tmp_path / "later.jsonl", *pins, "--json").stdout)
    assert report["verified"] and report["continues"] == made["entries"] < report["entries"]
    done = stranger(file, *pins)
    assert (done.returncode, "HISTORY" in done.stdout) == (1, True)


def test_tools_of_others_read_the_log_as_tiles_and_prove_its_entries(
    suite: Suite, task_id: str, tmp_path: Path
) -> None:
    def tlog_tiles(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        argv = [sys.executable, "-c", "from tlog_scales.cli import main; main()", *arguments]
        return subprocess.run(argv, capture_output=True, check=False, timeout=60)

    folder = tmp_path / "tiles"
    first = suite.json("audit", "tiles", str(folder))
    (entry,) = suite.json("audit", "search", "--task", task_id, "--type", "PROMPT")
    done = tlog_tiles("get-leaf", "--check", str(folder), str(entry["index"]))
    assert (done.returncode, json.loads(done.stdout)["task"]) == (0, task_id), done.stderr
    again = suite.json("audit", "tiles", str(folder))
    assert again["entries"] >= first["entries"] and again["new"] <= again["entries"] % 256

    text = suite.cli("audit", "proof", entry["event_id"]).stdout
    leaf = suite.cli("audit", "proof", "--leaf", entry["event_id"]).stdout.encode()
    key = NoteKey.parse(first["key"])
    assert verify_entry_proof(text, leaf, key=key).size >= first["entries"]
    with pytest.raises(ProofError):
        verify_entry_proof(text, leaf + b" ", key=key)
    (folder / "checkpoint").write_text("nonsense")
    assert "note" in suite.error("audit", "tiles", str(folder))["message"]


def test_the_log_is_searched_by_who_did_what_with_what_and_when(suite: Suite, task_id: str) -> None:
    found = suite.json("audit", "search", "--task", task_id)
    assert {entry["leaf"]["task"] for entry in found} == {task_id}
    assert [entry["index"] for entry in found] == sorted((e["index"] for e in found), reverse=True)
    why = ("--payloads", "--reason", "asked")
    (call,) = suite.json("audit", "search", "--task", task_id, "--type", "TOOL_CALL", *why)
    body = suite.cli("audit", "payload", call["event_id"], "arguments", "--reason", "asked").stdout
    assert json.loads(body) == {"text": "logged"}
    assert json.loads(call["payloads"]["arguments"]["text"]) == {"text": "logged"}
    assert (
        suite.json("audit", "search", "--task", task_id, "--until", call["recorded_time"], "--type", "RESULT")
        == []
    )
    lines = suite.cli(
        "audit", "search", "--agent", "bench-echo", "--tool", "bench_echo", "--limit", "1"
    ).stdout
    assert lines.startswith("#") and "bench-echo → bench_echo" in lines
    error = suite.error("audit", "search", "--type", "NOTHING")
    assert error["reason"] == "FILTER_INVALID" and "TOOL_CALL" in error["message"]


def test_a_reader_who_pinned_the_old_key_is_led_to_the_new_one(
    suite: Suite, task_id: str, tmp_path: Path
) -> None:
    pins, export, tiles = tmp_path / "pins.json", tmp_path / "log.jsonl", tmp_path / "tiles"
    before = report(suite, task_id, pins)
    suite.json("audit", "tiles", str(tiles))
    assert suite.json("audit", "rotate-key")["logs"] >= 1
    after = report(suite, task_id, pins)
    assert (after["verified"], after["key_changed"], after["pinned_now"]) == (True, True, False)
    assert before["key"] != after["key"] in pins.read_text()
    assert report(suite, task_id, pins)["key_changed"] is False
    assert suite.json("audit", "tiles", str(tiles))["key"] == after["key"]
    suite.json("audit", "export", str(export))
    for key in (before["key"], after["key"]):
        told = offline(export, key)
        assert (told["verified"], told["key"]) == (True, after["key"])
    viewer = suite.cli("token", "--role", "SUPER_ADMIN").stdout.strip()
    assert suite.error("audit", "rotate-key", INTERLOCK_TOKEN=viewer)["reason"] == "ROLE_REQUIRED"


def test_an_export_begins_with_what_a_statement_of_all_logs_says(
    suite: Suite, task_id: str, tmp_path: Path
) -> None:
    (heads,) = suite.data_dir.parent.glob(f"{suite.data_dir.name}-*/**/_heads/latest.note")
    statement = tmp_path / "heads.note"
    statement.write_text(heads.read_text())
    export = tmp_path / "log.jsonl"
    key = suite.json("audit", "export", str(export))["key"]
    assert offline(export, key, "--heads", str(statement))["verified"] is True
    lines = export.read_text().splitlines(keepends=True)
    shorter = tmp_path / "shorter.jsonl"
    shorter.write_text("".join([*lines[:2], lines[-1]]))
    problems = {each["problem"] for each in offline(shorter, key, "--heads", str(statement))["findings"]}
    assert "HISTORY" in problems


def offline(export: Path, key: str, *more: str) -> dict[str, Any]:
    """The stand-alone verifier's word."""
    command = [sys.executable, "-m", "interlock.verify", str(export), "--key", key, "--json", *more]
    told = subprocess.run(command, capture_output=True, check=False, text=True)
    found: dict[str, Any] = json.loads(told.stdout)
    return found
