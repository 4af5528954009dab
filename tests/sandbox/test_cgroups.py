"""Control groups bound a whole tree, also where nothing else does; on hosts that let us make them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock_sandbox import IsolationLevel, Layer, Limits, OutcomeKind, Sandbox, ToolProgram, cgroups
from interlock_sandbox.cgroups import CONTROLLERS, Cgroup, CgroupsMissing, CgroupTree
from interlock_sandbox.levels import STANDARD_LAYERS
from interlock_sandbox.limits import MIB
from tests.sandbox.layers_off import begin, zygote
from tests.sandbox.waiting import until

UNLIMITED = STANDARD_LAYERS - {Layer.RLIMITS}

EATS = ToolProgram(source="def run():\n    return len(bytearray(256 << 20))\n")
THREADS = ToolProgram(
    source="""
import threading
def run():
    gate, started = threading.Event(), 0
    try:
        for _ in range(60):
            threading.Thread(target=gate.wait, daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    gate.set()
    return started
"""
)
SPINS = ToolProgram(
    source="""
import hashlib, threading
def spin():
    while True:
        hashlib.pbkdf2_hmac("sha256", b"a", b"b", 200_000)
def run():
    for _ in range(3):
        threading.Thread(target=spin, daemon=True).start()
    spin()
"""
)


@pytest.fixture
def groups() -> Iterator[Path]:
    """The folder of the memory groups of one tree of groups, on a host that has them."""
    try:
        tree = CgroupTree.create()
    except CgroupsMissing as lack:
        # A host need not have them: the level says so.
        pytest.skip(f"this host has no control groups for us: {lack}")
    yield tree.folders["memory"]
    tree.close()
    assert not any(folder.exists() for folder in tree.folders.values())


@pytest.mark.usefixtures("groups")
async def test_memory_that_no_other_limit_bounds_is_bounded_by_the_group() -> None:
    limits = Limits(memory_bytes=64 * MIB)
    async with zygote(UNLIMITED) as process:
        assert (await (await begin(process, EATS, limits))).result_json == b"268435456"
    async with zygote(UNLIMITED | {Layer.CGROUPS}) as process:
        outcome = await (await begin(process, EATS, limits))
    assert outcome.kind is OutcomeKind.MEMORY
    assert outcome.error is not None
    assert "whole tree" in outcome.error.message


@pytest.mark.usefixtures("groups")
async def test_threads_that_no_other_limit_bounds_are_bounded_by_the_group() -> None:
    async with zygote(UNLIMITED) as process:
        assert (await (await begin(process, THREADS, Limits(processes=8)))).result_json == b"60"
    async with zygote(UNLIMITED | {Layer.CGROUPS}) as process:
        assert (await (await begin(process, THREADS, Limits(processes=8)))).result_json == b"7"


@pytest.mark.usefixtures("groups")
async def test_threads_together_get_their_share_of_processors_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So little that they need more also where the machine is busy with others.
    monkeypatch.setattr(cgroups, "PROCESSORS", 0.05)
    async with zygote(STANDARD_LAYERS | {Layer.CGROUPS}) as process:
        spare = await process.spawn(disk_bytes=MIB)
        assert spare.cgroup is not None
        folder = spare.cgroup.folders["cpu"]
        quota = [*folder.glob("cpu.cfs_quota_us"), *folder.glob("cpu.max")]
        assert [each.read_text().split()[0] for each in quota] == ["5000"]
        assert spare.cgroup.holds(spare.host_pid)
        spare.close()
        running = await begin(process, SPINS, Limits(wall_seconds=20, cpu_seconds=20))
        stats = [each / "cpu.stat" for each in folder.parent.iterdir() if each.is_dir()]

        def throttled() -> bool:
            told = [each.read_text() for each in stats if each.exists()]
            counts = [dict(line.split() for line in text.splitlines()) for text in told]
            return any(int(count["nr_throttled"]) > 0 for count in counts)

        await until(throttled)
        running.cancel()


async def test_groups_are_used_again_and_go_with_their_sandbox(groups: Path) -> None:
    before = set(groups.parent.iterdir())
    async with Sandbox(spares=2, minimum=IsolationLevel.FULL) as sandbox:
        assert sandbox.status().level is IsolationLevel.FULL
        for _ in range(5):
            outcome = await sandbox.run(ToolProgram(source="def run():\n    return 1\n"))
            assert outcome.level is IsolationLevel.FULL
        (ours,) = set(groups.parent.iterdir()) - before
        # Two spares, a call, and those of before which are still dying.
        assert sum(each.is_dir() for each in ours.iterdir()) < 7
    assert set(groups.parent.iterdir()) == before


def test_what_a_killed_process_has_left_is_swept_by_the_next(groups: Path) -> None:
    code = "import time; from interlock_sandbox.cgroups import CgroupTree\nt = CgroupTree.create()\n"
    code += "print(t.folders['memory'], flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        process.send_signal(signal.SIGKILL)
    assert left.parent == groups.parent
    assert left.exists()
    CgroupTree.create().close()
    assert not left.exists()


def test_version_two_has_all_bounds_in_one_folder(tmp_path: Path) -> None:
    group = Cgroup(dict.fromkeys(CONTROLLERS, tmp_path), 2)
    group.set_standing_bounds(0.5)
    group.bound(Limits(memory_bytes=64 * MIB, disk_bytes=16 * MIB, processes=9))
    group.admit(os.getpid())
    assert {each.name: each.read_text() for each in tmp_path.iterdir()} == {
        "cpu.max": "50000 100000",
        "memory.swap.max": "0",
        "memory.max": str(128 * MIB),
        "pids.max": "9",
        "cgroup.procs": str(os.getpid()),
    }
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert group.was_exhausted()
