import json
import time

import pytest

from interlock_sandbox import IsolationLevel, Limits, Outcome, OutcomeKind, Sandbox, ToolProgram

pytestmark = pytest.mark.asyncio(loop_scope="module")

BENIGN = {
    "returns_what_it_is_given": (
        "def run(**given):\n    return given",
        {"a": [1, 2.5, None, "ü🎈"], "b": {}},
    ),
    "imports_the_standard_library": (
        """
def run(**_):
    import asyncio, csv, ctypes, decimal, email, hashlib, html.parser, json, logging, sqlite3, ssl, statistics
    import unittest, urllib.request, xml.etree.ElementTree, zipfile, zoneinfo, lzma, bz2, curses.ascii
    return hashlib.sha256(b"x").hexdigest()[:8]
""",
        "2d711642",
    ),
    "computes_in_threads": (
        """
from concurrent.futures import ThreadPoolExecutor
def run(**_):
    with ThreadPoolExecutor(8) as pool:
        return sum(pool.map(lambda n: n * n, range(100)))
""",
        328350,
    ),
    "awaits": (
        """
import asyncio
async def run(**_):
    async def one(n):
        await asyncio.sleep(0.01)
        return n
    return await asyncio.gather(*(one(n) for n in range(3)))
""",
        [0, 1, 2],
    ),
    "keeps_scratch_files": (
        """
import os, shutil, tempfile, pathlib
def run(**_):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "ä" / "file.txt"
        path.parent.mkdir()
        path.write_text("one")
        shutil.copy2(path, path.with_name("copy"))
        os.rename(path, path.with_name("moved"))
        return sorted(p.name for p in path.parent.iterdir()) + [os.getcwd()]
""",
        ["copy", "moved", "/tmp"],  # noqa: S108  the sandbox's own
    ),
    "queries_sqlite": (
        """
import sqlite3
def run(**_):
    found = []
    for name in (":memory:", "/tmp/data.db"):
        with sqlite3.connect(name) as db:
            db.execute("create table t (n integer)")
            db.executemany("insert into t values (?)", [(n,) for n in range(100)])
            found.append(db.execute("select sum(n) from t").fetchone()[0])
    return found
""",
        [4950, 4950],
    ),
    "uses_a_hundred_megabytes": ("def run(**_):\n    return len(bytearray(100 << 20))", 100 << 20),
    "defines_dataclasses": (
        """
from dataclasses import dataclass, asdict
@dataclass
class Point:
    x: int
    y: int = 2
def run(**_):
    return asdict(Point(1))
""",
        {"x": 1, "y": 2},
    ),
    "catches_its_own_signals": (
        """
import os, signal
def run(**_):
    caught = []
    signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
    os.kill(os.getpid(), signal.SIGUSR1)
    return caught
""",
        [1],
    ),
}


@pytest.mark.parametrize("name", BENIGN)
async def test_an_honest_program(sandbox: Sandbox, name: str) -> None:
    source, expected = BENIGN[name]
    given = expected if name == "returns_what_it_is_given" else {}
    program = ToolProgram(source=source, arguments_json=json.dumps(given).encode())
    outcome = await sandbox.run(program)
    assert outcome.error is None
    assert outcome.result_json is not None
    assert json.loads(outcome.result_json) == expected
    assert outcome.level >= IsolationLevel.STANDARD
    assert outcome.started


async def run(sandbox: Sandbox, body: str, **limits: float) -> Outcome:
    source = "\n".join(["def run():", *(f"    {line}" for line in body.splitlines())])
    return await sandbox.run(ToolProgram(source=source), limits=Limits(**limits))  # type: ignore[arg-type]


async def test_a_raised_exception_is_the_tools_own_error(sandbox: Sandbox) -> None:
    source = "def inner(x):\n    return 1 / x\n\ndef run():\n    return inner(0)\n"
    outcome = await sandbox.run(ToolProgram(source=source, filename="divide.py"))
    assert outcome.kind is OutcomeKind.TOOL_ERROR
    assert outcome.result_json is None
    assert outcome.error is not None
    assert (outcome.error.type, outcome.error.message) == ("ZeroDivisionError", "division by zero")
    assert 'File "divide.py", line 2, in inner\n    return 1 / x' in outcome.error.traceback
    assert "harness" not in outcome.error.traceback


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("def run(:\n", "SyntaxError"),
        ("x = 1\n", "LookupError"),
        ("import requests\ndef run():\n    pass\n", "ModuleNotFoundError"),
        ("import interlock_sandbox\ndef run():\n    pass\n", "ModuleNotFoundError"),
        ("def run(needed):\n    pass\n", "TypeError"),
        ("raise ValueError('at import')\n", "ValueError"),
    ],
)
async def test_a_program_that_cannot_run_says_why(sandbox: Sandbox, source: str, kind: str) -> None:
    outcome = await sandbox.run(ToolProgram(source=source))
    assert outcome.kind is OutcomeKind.TOOL_ERROR
    assert outcome.error is not None
    assert outcome.error.type == kind


async def test_error_texts_are_bounded(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "raise ValueError('\\x01\\0' * 1_000_000)")
    assert outcome.kind is OutcomeKind.TOOL_ERROR
    assert outcome.error is not None
    assert len(outcome.error.message) <= 4096
    assert len(outcome.error.traceback) <= 16384


async def test_there_is_nothing_to_read_on_stdin(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "import sys\nreturn sys.stdin.read()")
    assert outcome.result_json == b'""'


async def test_output_is_captured_apart_from_the_result(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "import sys\nprint('out')\nprint('err', file=sys.stderr)\nreturn 'result'")
    assert outcome.result_json == b'"result"'
    assert (outcome.stdout.data, outcome.stderr.data) == (b"out\n", b"err\n")
    assert not outcome.stdout.truncated


async def test_output_beyond_its_limit_is_cut_and_flagged(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "print('x' * 200_000)\nreturn 1", stdout_bytes=1000)
    assert outcome.kind is OutcomeKind.COMPLETED
    assert outcome.stdout.data == b"x" * 1000
    assert outcome.stdout.truncated


async def test_what_a_tool_printed_before_its_deadline_is_kept(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "print('begun')\nimport time\ntime.sleep(60)", wall_seconds=0.3)
    assert outcome.kind is OutcomeKind.TIMEOUT
    assert outcome.stdout.data == b"begun\n"


async def test_a_program_runs_until_its_deadline_and_no_longer(sandbox: Sandbox) -> None:
    program = ToolProgram(source="def run():\n    while True: pass\n")
    begun = time.monotonic()
    outcome = await sandbox.run(program, deadline=begun + 0.4)
    assert outcome.kind is OutcomeKind.TIMEOUT
    assert time.monotonic() - begun >= 0.4
    assert outcome.usage.wall_ms <= (time.monotonic() - begun) * 1000
    assert outcome.usage.cpu_ms > 0


async def test_a_deadline_that_has_passed_starts_nothing(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(ToolProgram(source="def run(): pass"), deadline=time.monotonic() - 1)
    assert outcome.kind is OutcomeKind.TIMEOUT
    assert not outcome.started


async def test_usage_is_what_the_kernel_counts(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "x = bytearray(64 << 20)\nfor _ in range(10**6): pass\nreturn len(x)")
    assert outcome.usage.peak_rss_bytes > 64 << 20
    assert 0 < outcome.usage.cpu_ms < 5000
    assert outcome.usage.wall_ms > 0


async def test_each_limit_is_that_of_its_call(sandbox: Sandbox) -> None:
    body = "return len(bytearray(48 << 20))"
    small = await run(sandbox, body, memory_bytes=32 << 20)
    large = await run(sandbox, body, memory_bytes=64 << 20)
    assert (small.kind, large.kind) == (OutcomeKind.MEMORY, OutcomeKind.COMPLETED)


@pytest.mark.parametrize("disk", [0, 1 << 20, 8 << 20])
async def test_the_scratch_folder_has_the_size_asked_for(sandbox: Sandbox, disk: int) -> None:
    body = """
written = 0
try:
    for n in range(64):
        with open(f"/tmp/{n}", "wb", buffering=0) as file:
            written += file.write(b"x" * (1 << 18))
except OSError:
    pass
return written
"""
    outcome = await run(sandbox, body, disk_bytes=disk)
    assert outcome.result_json == str(disk).encode()


async def test_a_large_result_comes_through(sandbox: Sandbox) -> None:
    outcome = await run(sandbox, "return ['x' * 1000] * 900", result_bytes=1 << 20)
    assert outcome.result_json is not None
    assert json.loads(outcome.result_json) == ["x" * 1000] * 900


async def test_a_large_program_and_large_arguments_go_in(sandbox: Sandbox) -> None:
    source = "def run(text):\n    return len(text)\n" + "# filler\n" * 200_000
    arguments = json.dumps({"text": "y" * 3_000_000}).encode()
    outcome = await sandbox.run(ToolProgram(source=source, arguments_json=arguments))
    assert outcome.result_json == b"3000000"


async def test_no_two_calls_share_anything(sandbox: Sandbox) -> None:
    source = """
import builtins, json, os, sys, random
def run():
    marked = [hasattr(builtins, "mark"), hasattr(json, "mark"), "MARK" in os.environ, "mark" in sys.modules]
    seen = [*marked, os.listdir("/tmp")]
    builtins.mark = json.mark = sys.modules["mark"] = 1
    os.environ["MARK"] = "1"
    open("/tmp/mark", "w").close()
    return [seen, random.random()]
"""
    drawn = set()
    for _ in range(6):
        outcome = await sandbox.run(ToolProgram(source=source))
        assert outcome.result_json is not None
        seen, number = json.loads(outcome.result_json)
        assert seen == [False, False, False, False, []]
        drawn.add(number)
    assert len(drawn) == 6


async def test_a_tool_sees_itself_as_nobody_in_an_empty_place(sandbox: Sandbox) -> None:
    body = """
import os, socket, getpass
lines = open("/proc/self/status").read().splitlines()
status = dict(line.split(":\\t", 1) for line in lines if ":\\t" in line)
ids = [os.getpid(), os.getuid(), os.getgid(), getpass.getuser(), socket.gethostname(), os.getgroups()]
return ids + [status[name] for name in ("CapPrm", "CapBnd", "NoNewPrivs", "Seccomp")]
"""
    outcome = await run(sandbox, body)
    assert outcome.result_json is not None
    pid, uid, gid, user, host, groups, *privileges = json.loads(outcome.result_json)
    assert (pid, uid, gid, user, host) == (1, 1000, 1000, "tool", "sandbox")
    assert set(groups) <= {65534}
    assert privileges == ["0" * 16, "0" * 16, "1", "2"]
