import json
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

from svc_kit.clock import ManualClock, SystemClock
from svc_kit.ids import uuid7

PROGRAM = """
import logging, structlog
from svc_kit.logging import configure_logging
configure_logging(service="orchestrator", level="info", log_format={log_format!r})
log = structlog.get_logger("svc_kit.demo")
with structlog.contextvars.bound_contextvars(request_id="r-1"):
    log.info("task submitted", task_id="t-1")
    log.debug("not shown")
    logging.getLogger("some.library").warning("from %s", "outside")
    try:
        secret = "hun" + "ter2"
        raise RuntimeError("it broke")
    except RuntimeError:
        log.exception("unexpected error")
"""


def run_program(log_format: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(log_format=log_format)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_ids_rise_within_a_process_whatever_the_clock_does(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now)
    ids = [uuid7() for _ in range(10_000)]
    monkeypatch.setattr(time, "time_ns", lambda: now - 10**9)
    ids.append(uuid7())
    assert ids == sorted(set(ids))
    assert {(made.version, made.variant) for made in ids} == {(7, "specified in RFC 4122")}


def test_ids_made_by_many_threads_are_all_different() -> None:
    made: list[object] = []
    threads = [threading.Thread(target=lambda: made.extend([uuid7() for _ in range(2000)])) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 16_000


def test_an_id_tells_when_it_was_made() -> None:
    before = time.time_ns() // 1_000_000
    milliseconds = uuid7().int >> 80
    assert before <= milliseconds <= time.time_ns() // 1_000_000 + 10


def test_a_manual_clock_moves_when_told_and_never_back() -> None:
    clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))
    clock.advance(1.5)
    assert (clock.now(), clock.monotonic()) == (datetime(2026, 1, 1, 0, 0, 1, 500_000, UTC), 1.5)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="aware"):
        ManualClock(datetime(2026, 1, 1))  # noqa: DTZ001 - the naive time is the point


def test_the_system_clock_is_aware() -> None:
    assert SystemClock().now().tzinfo is UTC
    assert SystemClock().monotonic() <= SystemClock().monotonic()


def test_json_logs_are_one_object_a_line_with_the_call_they_belong_to() -> None:
    submitted, library, broken = [json.loads(line) for line in run_program("json")]
    assert submitted["event"] == "task submitted"
    assert (submitted["task_id"], submitted["level"], submitted["service"]) == ("t-1", "info", "orchestrator")
    assert {line["request_id"] for line in (submitted, library, broken)} == {"r-1"}
    assert (library["event"], library["logger"]) == ("from outside", "some.library")
    assert "it broke" in json.dumps(broken["exception"])


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_in_the_log_shows_no_values_of_variables(log_format: str) -> None:
    text = "\n".join(run_program(log_format))
    assert "RuntimeError" in text
    assert "hunter2" not in text


HOSTILE = r"""
log = structlog.get_logger("svc_kit.\x1b[2J")
text = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\rline\n2026-01-01 [info] forged"
log.info(text, nospace="\x1b[2J", text=text, listed=[text])
structlog.get_logger().info("named", **{"key\x1b[2J": 1})
logging.getLogger("lib").warning("from %s", text)
try:
    raise RuntimeError(text)
except RuntimeError as error:
    import traceback
    log.info("agent failed", traceback=traceback.format_exc())
    log.exception("failed")
    logging.getLogger("lib").exception("failed too")
print("still here", file=__import__("sys").stderr)
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_hostile_text_in_a_log_does_nothing_to_the_terminal_that_shows_it(log_format: str) -> None:
    program = PROGRAM.format(log_format=log_format) + HOSTILE
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    told = done.stderr.decode()
    assert "owned" in told and told.endswith("still here\n")
    assert not [each for each in told if not each.isprintable() and each != "\n"]
    assert not [line for line in told.splitlines() if line.startswith("2026-01-01 [info] forged")]
