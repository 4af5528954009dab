import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interlock_sandbox import Limits, OutcomeKind, Sandbox, SandboxClosed, ToolProgram
from tests.sandbox.siege import CONTROL
from tests.sandbox.waiting import until
from tests.sandbox.world import children_of, descendants, relatives

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLEEP = ToolProgram(source="import time\ndef run():\n    time.sleep(60)\n")


async def started(sandbox: Sandbox) -> None:
    await until(lambda: sandbox.status().running > 0)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_cancelling_the_task_kills_the_program(sandbox: Sandbox, bystanders: set[int]) -> None:
    await until(lambda: sandbox.status().spares == 2)
    before = relatives(bystanders)
    task = asyncio.create_task(sandbox.run(SLEEP))
    await started(sandbox)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: sandbox.status().spares == 2 and len(relatives(bystanders)) == len(before))
    assert sandbox.status().running == 0


async def test_calls_leave_no_descriptor_behind(sandbox: Sandbox) -> None:
    await until(lambda: sandbox.status().spares == 2)
    before = open_descriptors()
    for limits in (Limits(), Limits(wall_seconds=0.1), Limits(disk_bytes=1 << 20)):
        await asyncio.gather(*(sandbox.run(SLEEP, limits=Limits(wall_seconds=0.1)) for _ in range(4)))
        await sandbox.run(CONTROL, limits=limits)
    await until(lambda: sandbox.status().spares == 2 and open_descriptors() == before)


IN_FLIGHT = """
import socket, time
def run():
    sent, pairs = 0, []
    try:
        while sent < 3000:
            pairs.append(socket.socketpair())
            socket.send_fds(pairs[-1][0], [b"x"], [0] * 250)
            sent += 250
    except OSError:
        pass
    time.sleep(60)
"""


async def test_descriptors_in_flight_that_are_counted_as_the_zygotes_do_not_end_it() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4096:
        pytest.skip("this host's hard limit of descriptors is as low as a tool's may be")
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        crowded = Sandbox(spares=1)
        await crowded.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        program = ToolProgram(source=IN_FLIGHT)
        hoard = asyncio.create_task(crowded.run(program, limits=Limits(open_files=1024)))
        await started(crowded)
        for _ in range(20):
            assert (await crowded.run(CONTROL)).kind is OutcomeKind.COMPLETED
        hoard.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hoard
        assert crowded.status().restarts == 0
    finally:
        await crowded.close()


async def test_more_calls_than_slots_wait_their_turn() -> None:
    async with Sandbox(spares=1, max_concurrent=2) as narrow:
        outcomes = await asyncio.gather(*(narrow.run(CONTROL) for _ in range(12)))
        assert {outcome.kind for outcome in outcomes} == {OutcomeKind.COMPLETED}
        blockers = [asyncio.create_task(narrow.run(SLEEP, limits=Limits(wall_seconds=1))) for _ in range(2)]
        await until(lambda: narrow.status().running == 2)
        late = await narrow.run(CONTROL, deadline=time.monotonic() + 0.1)
        assert (late.kind, late.started) == (OutcomeKind.TIMEOUT, False)
        await asyncio.gather(*blockers)
        assert (await narrow.run(CONTROL)).kind is OutcomeKind.COMPLETED


async def test_a_dead_zygote_ends_its_calls_and_is_replaced() -> None:
    others = children_of(os.getpid())
    async with Sandbox(spares=1) as fragile:
        running = asyncio.create_task(fragile.run(SLEEP))
        await started(fragile)
        (launcher,) = children_of(os.getpid()) - others
        (zygote,) = children_of(launcher)
        os.kill(zygote, signal.SIGKILL)
        outcome = await running
        assert outcome.kind is OutcomeKind.CRASHED
        assert outcome.error is not None
        assert "zygote" in outcome.error.message
        assert (await fragile.run(CONTROL)).kind is OutcomeKind.COMPLETED
        assert fragile.status().restarts == 1


async def test_a_zygote_that_has_served_enough_is_replaced_and_nobody_notices() -> None:
    others = children_of(os.getpid())
    seed = ToolProgram(source="def run():\n    return [hash('a'), id(object)]\n")
    async with Sandbox(spares=2, calls_of_one_zygote=5) as short:
        slow = asyncio.create_task(short.run(SLEEP))
        await started(short)
        (first,) = children_of(os.getpid()) - others
        seen: set[bytes | None] = set()
        while len(seen) < 2:
            outcomes = await asyncio.gather(*(short.run(seed) for _ in range(4)))
            assert {outcome.kind for outcome in outcomes} == {OutcomeKind.COMPLETED}
            seen |= {outcome.result_json for outcome in outcomes}
        # What ran on the first one runs on, and takes it along when it ends.
        assert first in children_of(os.getpid())
        assert not slow.done()
        slow.cancel()
        await until(lambda: first not in children_of(os.getpid()))
        await until(lambda: len(children_of(os.getpid()) - others) == 1)
        assert (await short.run(CONTROL)).kind is OutcomeKind.COMPLETED
        assert short.status().restarts == 0
    assert children_of(os.getpid()) == others


async def test_closing_cancels_what_runs_and_leaves_no_process() -> None:
    bystanders = children_of(os.getpid())
    closing = Sandbox(spares=2)
    await closing.start()
    running = asyncio.create_task(closing.run(SLEEP))
    await started(closing)
    await closing.close()
    assert (await running).kind is OutcomeKind.CANCELED
    assert relatives(bystanders) == set()
    with pytest.raises(SandboxClosed):
        await closing.run(CONTROL)


async def test_a_sandbox_that_was_not_started_runs_nothing() -> None:
    with pytest.raises(SandboxClosed):
        await Sandbox().run(CONTROL)


PARENT = """
import asyncio, sys
from interlock_sandbox import Sandbox, ToolProgram
async def main():
    async with Sandbox(spares=2) as sandbox:
        program = ToolProgram(source="import time\\ndef run():\\n    time.sleep(60)\\n")
        task = asyncio.create_task(sandbox.run(program))
        while not sandbox.status().running or sandbox.status().spares < 2:
            await asyncio.sleep(0.01)
        print("up", flush=True)
        await task
asyncio.run(main())
"""


async def test_everything_dies_with_the_parent(sandbox: Sandbox) -> None:
    root = Path(__file__).parents[2]
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, cwd=root, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert parent.stdout is not None
        async with asyncio.timeout(20):
            assert await parent.stdout.readline() == b"up\n"
        family = descendants(parent.pid)
        assert len(family) == 5  # the launcher, the zygote, two spares and the call
    finally:
        parent.kill()
        await parent.wait()
    await until(lambda: not any(is_running(pid) for pid in family), seconds=5)


def is_running(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


async def test_the_same_works_on_uvloop() -> None:
    program = """
import asyncio, uvloop
from interlock_sandbox import Limits, OutcomeKind, Sandbox
from tests.sandbox.siege import CONTROL
from tests.sandbox.test_lifecycle import SLEEP
async def main():
    async with Sandbox(spares=2) as sandbox:
        outcomes = await asyncio.gather(
            *(sandbox.run(CONTROL) for _ in range(8)), sandbox.run(SLEEP, limits=Limits(wall_seconds=0.2))
        )
        kinds = [outcome.kind for outcome in outcomes]
        assert kinds == [OutcomeKind.COMPLETED] * 8 + [OutcomeKind.TIMEOUT], kinds
uvloop.run(main())
"""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", program]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=root, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
