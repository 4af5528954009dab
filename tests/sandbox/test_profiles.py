"""Runtime profiles: packages that an operator lets programs import, and nothing of the host beside them."""

import importlib.util
import json
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from interlock_sandbox import (
    OutcomeKind,
    Profile,
    ProfileUnknown,
    Sandbox,
    SandboxUnavailable,
    ToolProgram,
)
from tests.sandbox.waiting import until
from tests.sandbox.world import children_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

PRESENT = """
import importlib.util, os, sys
def run(names):
    return {name: importlib.util.find_spec(name) is not None for name in names}
"""
SECRET = "never-to-be-read"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    """With one profile that works, and some that cannot."""
    folder = tmp_path_factory.mktemp("host")
    packages = folder / "packages"
    (packages / "greetings").mkdir(parents=True)
    (packages / "greetings" / "__init__.py").write_text(
        "import time\nLOADED = time.monotonic_ns()\nWORD = 'hello'\n"
    )
    (folder / "secret.py").write_text(f"WORD = {SECRET!r}\n")
    (packages / "leaving.py").symlink_to(folder / "secret.py")
    threads = folder / "threads"
    threads.mkdir()
    (threads / "busy.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
    )
    # An extension in native code, as pip would have put it there.
    found = importlib.util.find_spec("rpds")
    assert found is not None
    assert found.submodule_search_locations is not None
    shutil.copytree(found.submodule_search_locations[0], packages / "rpds")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    for above in [*folder.parents][:2]:
        above.chmod(above.stat().st_mode | 0o055)
    running = Sandbox(
        spares=1,
        profiles={
            "data": Profile(packages=str(packages), preload=("greetings",)),
            "again": Profile(packages=str(packages)),
            "gone": Profile(packages=str(folder / "nowhere")),
            "threads": Profile(packages=str(threads), preload=("busy",)),
            "typo": Profile(packages=str(packages), preload=("greetins",)),
        },
    )
    await running.start()
    yield running
    await running.close()


async def answer(sandbox: Sandbox, source: str, profile: str = "data", **arguments: object) -> object:
    program = ToolProgram(source=source, arguments_json=json.dumps(arguments).encode(), profile=profile)
    outcome = await sandbox.run(program)
    assert outcome.kind is OutcomeKind.COMPLETED, outcome
    found: object = json.loads(outcome.result_json or b"null")
    return found


async def test_a_program_imports_the_packages_of_its_profile_and_no_others(sandbox: Sandbox) -> None:
    names = ["greetings", "rpds", "json", "pytest", "interlock_sandbox", "pip"]
    has = {"greetings": True, "rpds": True, "json": True}
    assert await answer(sandbox, PRESENT, names=names) == dict.fromkeys(names, False) | has
    assert await answer(sandbox, PRESENT, "", names=names) == dict.fromkeys(names, False) | {"json": True}
    native = "import rpds\ndef run():\n    return sorted(rpds.HashTrieMap({'a': 1}).insert('b', 2))\n"
    assert await answer(sandbox, native) == ["a", "b"]


async def test_what_is_preloaded_is_loaded_once_and_not_by_a_call(sandbox: Sandbox) -> None:
    source = "import greetings\ndef run():\n    return greetings.LOADED\n"
    assert len({str(await answer(sandbox, source)) for _ in range(3)}) == 1
    changed = (
        "import greetings\ndef run():\n    greetings.WORD, was = 'changed', greetings.WORD\n    return was\n"
    )
    assert [await answer(sandbox, changed) for _ in range(3)] == ["hello"] * 3


async def test_the_folder_is_read_only_and_nothing_near_it_is_seen(sandbox: Sandbox, tmp_path: Path) -> None:
    source = """
import os
def run(host):
    def tried(action):
        try:
            return repr(action())
        except OSError as error:
            return type(error).__name__
    return {
        "write": tried(lambda: open("/packages/greetings/__init__.py", "w")),
        "plant": tried(lambda: open("/packages/planted.py", "w")),
        "link": tried(lambda: open("/packages/leaving.py").read()),
        "above": tried(lambda: os.listdir("/packages/..")),
        "host": tried(lambda: os.listdir(host)),
    }
"""
    found = await answer(sandbox, source, host=str(tmp_path.parent))
    assert isinstance(found, dict)
    assert set(found.values()) <= {"OSError", "PermissionError", "FileNotFoundError"}


async def test_a_profile_that_is_not_there_or_cannot_be_loaded_is_refused_with_the_reason(
    sandbox: Sandbox,
) -> None:
    program = ToolProgram(source="def run():\n    return 1\n", profile="nowhere")
    with pytest.raises(ProfileUnknown, match=r"'nowhere' here; there is again, data, gone, threads, typo"):
        await sandbox.run(program)
    for profile, why in (
        ("gone", "not there"),
        ("threads", "started threads"),
        ("typo", "greetins of the profile could not be loaded"),
    ):
        with pytest.raises(SandboxUnavailable, match=why):
            await sandbox.run(ToolProgram(source="def run():\n    return 1\n", profile=profile))
    assert await answer(sandbox, "def run():\n    return 1\n", "") == 1


async def test_a_zygote_of_a_profile_that_dies_is_replaced_with_its_packages(sandbox: Sandbox) -> None:
    source = "import greetings\ndef run():\n    return greetings.WORD\n"
    others, restarts = children_of(os.getpid()), sandbox.status().restarts
    assert await answer(sandbox, source, "again") == "hello"
    (launcher,) = children_of(os.getpid()) - others
    (zygote,) = children_of(launcher)
    os.kill(zygote, signal.SIGKILL)
    await until(lambda: sandbox.status().restarts == restarts + 1)
    assert await answer(sandbox, source, "again") == "hello"
