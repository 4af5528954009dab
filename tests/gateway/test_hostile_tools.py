"""Hostile tools through the whole pipeline: each ends with its reason and its entry; the gateway works on."""

import asyncio
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from interlock.common.v1.permit_pb2 import Signed
from svc_kit.status import RemoteError
from svc_kit.strict_json import digest
from tests.gateway.test_calls import receipt_of
from tests.gateway.world import World, gateway, kinds, payload

NAMED = "def run():\n    raise type({name!r}, (Exception,), {{}})('no')\n"
TIMEOUT = {"timeout": {"seconds": 1}}


async def ended(
    world: World, source: str, arguments: Any = None, *, output_schema: Any = None, **limits: Any
) -> Any:
    """The answer or the error of one call of a tool with this source, and then a good call."""
    world.publish_tool("hostile", source, output_schema=output_schema, **limits)
    world.publish_tool()
    async with gateway(world):
        await world.allow()
        permit = world.permit(arguments, tool="hostile")
        try:
            answer: Any = await world.execute(permit, arguments)
        except RemoteError as error:
            answer = error
        call, result = await world.told(permit, 2)
        assert kinds([call])[0] == ("TOOL_CALL", "RUNNING", "")
        replay = await world.reason(permit, arguments)
        assert replay == getattr(answer, "reason", "")
        if isinstance(answer, RemoteError):
            await assert_receipt(world, answer)
        assert world.runs == 1
        assert (await world.execute(world.permit({"still": "here"}), {"still": "here"})).result_json
        return answer, kinds([result])[0], result


async def assert_receipt(world: World, error: RemoteError) -> None:
    """The error brings a receipt, and it is over the very words of the error."""
    signed = error.detail(Signed)
    assert signed is not None
    receipt = await receipt_of(world, signed)
    assert receipt.is_error
    assert receipt.result_digest == digest(error.message.encode())


def assert_failed(answer: Any, outcome: Any, *, code: str, reason: str) -> None:
    assert (answer.code.name, answer.reason) == (code, reason)
    assert answer.metadata["execution_state"] == "COMPLETED"
    assert outcome == ("TOOL_RESULT", "FAILED", reason)


@pytest.mark.parametrize(
    "source",
    ["import time\ndef run():\n    time.sleep(60)\n", "def run():\n    while True:\n        pass\n"],
)
async def test_a_tool_that_does_not_end_is_ended(closed_world: World, source: str) -> None:
    answer, outcome, _ = await ended(closed_world, source, **TIMEOUT)
    assert_failed(answer, outcome, code="DEADLINE_EXCEEDED", reason="TOOL_TIMEOUT")


@pytest.mark.parametrize(
    ("source", "limit"),
    [
        ("def run():\n    x = []\n    while True:\n        x.append(bytearray(10_000_000))\n", "memory"),
        ("def run():\n    while True:\n        print('x' * 100_000)\n", "output"),
        ("def run():\n    return 'x' * 300_000\n", "output"),
    ],
)
async def test_a_tool_that_takes_too_much_is_ended(closed_world: World, source: str, limit: str) -> None:
    answer, outcome, entry = await ended(closed_world, source)
    assert_failed(answer, outcome, code="RESOURCE_EXHAUSTED", reason="LIMIT_EXCEEDED")
    assert answer.metadata["limit"] == limit
    assert entry.attributes["limit"] == limit


async def test_a_tool_that_uses_up_its_processor_time_is_ended(closed_world: World) -> None:
    source = "def run():\n    while True:\n        pass\n"
    answer, outcome, _ = await ended(closed_world, source, cpu={"seconds": 1}, timeout={"seconds": 10})
    assert_failed(answer, outcome, code="RESOURCE_EXHAUSTED", reason="LIMIT_EXCEEDED")
    assert answer.metadata["limit"] == "cpu"


@pytest.mark.parametrize(
    "source",
    [
        "def run():\n    return {1, 2}\n",
        "def run():\n    return float('nan')\n",
        "def run():\n    return 10 ** 30\n",
        "def run():\n    x = 1\n    for _ in range(100):\n        x = [x]\n    return x\n",
        "def run():\n    return 'a\\x00b'\n",
    ],
)
async def test_a_result_that_is_no_acceptable_json_is_withheld(closed_world: World, source: str) -> None:
    answer, outcome, entry = await ended(closed_world, source)
    assert_failed(answer, outcome, code="INTERNAL", reason="OUTPUT_INVALID")
    assert payload(entry)["class"] == "OUTPUT_INVALID"


async def test_a_result_that_its_schema_forbids_is_withheld(closed_world: World) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    source = "def run():\n    return {'n': 'secret'}\n"
    answer, outcome, _ = await ended(closed_world, source, output_schema=schema)
    assert_failed(answer, outcome, code="INTERNAL", reason="OUTPUT_INVALID")
    assert "/n" in answer.message
    assert "secret" not in answer.message


@pytest.mark.parametrize(
    "source",
    [
        "import os\ndef run():\n    os._exit(3)\n",
        "def run():\n    import ctypes\n    ctypes.string_at(0)\n",
        "not python at all",
        "def other():\n    pass\n",
        "import sys\ndef run():\n    sys.exit(1)\n",
    ],
)
async def test_a_tool_that_breaks_is_an_error_of_the_tool(closed_world: World, source: str) -> None:
    answer, outcome, _ = await ended(closed_world, source)
    assert answer.is_error
    assert answer.error_class
    assert outcome == ("TOOL_RESULT", "FAILED", "TOOL_ERROR")


def processes() -> int:
    """How many this host has."""
    return sum(path.name.isdigit() for path in Path("/proc").iterdir())


async def test_a_tool_that_forks_gets_no_process(closed_world: World) -> None:
    source = "import os\ndef run():\n    made = 0\n    while True:\n        os.fork()\n        made += 1\n"
    before = processes()
    answer, _, _ = await ended(closed_world, source, **TIMEOUT)
    assert answer.is_error
    after = processes()
    assert after < before + 50


async def test_a_tool_reaches_no_listener_on_this_host(closed_world: World) -> None:
    reached = asyncio.Event()

    async def on_peer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    listener = await asyncio.start_server(on_peer, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    path = closed_world.folder / "listener"
    unix = await asyncio.start_unix_server(on_peer, path)
    source = (
        "import socket\n"
        "def run(port, path):\n"
        "    errors = []\n"
        "    for family, address in ((socket.AF_INET, ('127.0.0.1', port)), (socket.AF_UNIX, path)):\n"
        "        try:\n"
        "            socket.socket(family).connect(address)\n"
        "        except OSError as error:\n"
        "            errors.append(type(error).__name__)\n"
        "    return errors\n"
    )
    async with listener, unix:
        answer, _, _ = await ended(closed_world, source, {"port": port, "path": str(path)})
        assert len(json.loads(answer.result_json)) == 2
        assert not reached.is_set()
        with socket.create_connection(("127.0.0.1", port)):
            async with asyncio.timeout(5):
                await reached.wait()


async def test_a_tool_reads_no_file_of_this_host_and_no_secret_of_the_gateway(
    closed_world: World, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    canary.write_text("the canary sings")
    canary.chmod(0o644)
    source = (
        "import os\n"
        "def run(paths):\n"
        "    found = dict(os.environ)\n"
        "    for path in paths:\n"
        "        try:\n"
        "            found[path] = open(path, errors='replace').read()[:200]\n"
        "        except OSError:\n"
        "            pass\n"
        "    return found\n"
    )
    paths = [
        str(canary),
        "/etc/shadow",
        "/etc/hostname",
        str(closed_world.folder / "token"),
        "/proc/1/environ",
    ]
    answer, _, _ = await ended(closed_world, source, {"paths": paths})
    found = json.loads(answer.result_json)
    assert "canary sings" not in answer.result_json
    assert set(found) & set(paths) <= {"/proc/1/environ"}, "a process of its own namespace at most"
    assert not any(name.startswith(("INTERLOCK", "PG")) for name in found)


async def test_a_tool_leaves_nothing_for_the_next_call(closed_world: World) -> None:
    source = (
        "import builtins, os\n"
        "def run():\n"
        "    seen = getattr(builtins, 'left', None), os.path.exists('/tmp/left')\n"
        "    builtins.left = 1\n"
        "    open('/tmp/left', 'w').close()\n"
        "    return list(seen)\n"
    )
    closed_world.publish_tool("leaves", source)
    async with gateway(closed_world) as world:
        await world.allow()
        for _ in range(3):
            answer = await world.execute(world.permit(tool="leaves"))
            assert json.loads(answer.result_json) == [None, False]


@pytest.mark.parametrize(
    ("name", "told"),
    [("E" * 190, "E" * 128), ("E\n\x1b[2J\u202e", "E\ufffd\ufffd[2J\ufffd"), ("", "TOOL_ERROR")],
)
async def test_the_class_of_an_error_is_a_name_that_a_step_can_have(
    closed_world: World, name: str, told: str
) -> None:
    answer, outcome, entry = await ended(closed_world, NAMED.format(name=name))
    assert answer.error_class == told
    assert outcome == ("TOOL_RESULT", "FAILED", "TOOL_ERROR")
    assert payload(entry)["class"] == told
