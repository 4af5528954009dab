"""PostgreSQL under another name than root's."""

import os
import stat
from pathlib import Path

import pytest

from interlock_suite import postgres
from interlock_suite.command import Identity
from interlock_suite.errors import SuiteError
from interlock_suite.folder import DataFolder, FolderLock
from interlock_suite.identity import choose_identity
from interlock_suite.launcher import NOBODY_ID
from interlock_suite.options import Options
from interlock_suite.process import Process
from interlock_suite.servers import Servers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can run a program as somebody else")


@pytest.fixture
def as_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "choose_identity", lambda _program: Identity.NOBODY)


@pytest.mark.usefixtures("as_nobody")
async def test_where_user_namespaces_do_not_work_postgres_runs_as_nobody(scratch: Path) -> None:
    folder, lock = _open(scratch)
    servers = Servers(Options(data_dir=folder.root), folder)
    for _ in range(2):
        process, _ = servers.prepare()
        await _start_and_stop(process, servers)
    assert folder.postgres.stat().st_uid == NOBODY_ID
    closed = (folder.keys, folder.logs)
    assert [stat.S_IMODE(path.stat().st_mode) for path in closed] == [0o700, 0o700]
    lock.release()


@pytest.mark.usefixtures("as_nobody")
def test_a_folder_that_nobody_cannot_reach_is_refused_with_the_fix(scratch: Path) -> None:
    scratch.chmod(0o700)
    folder = DataFolder(scratch / "a")
    lock = folder.open()
    with pytest.raises(SuiteError) as refused:
        Servers(Options(data_dir=folder.root), folder).prepare()
    assert f"nobody here, who may not enter {scratch}" in refused.value.what
    assert "--data-dir" in refused.value.fix
    lock.release()


def test_a_program_that_cannot_run_under_any_name_is_refused() -> None:
    with pytest.raises(SuiteError, match="refuses to run as root"):
        choose_identity("/nowhere/postgres")


def _open(scratch: Path) -> tuple[DataFolder, FolderLock]:
    scratch.chmod(0o711)
    folder = DataFolder(scratch / "a")
    return folder, folder.open()


def _owner(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


async def _start_and_stop(process: Process, servers: Servers) -> None:
    await process.start()
    try:
        assert process.pid is not None
        assert _owner(process.pid) == NOBODY_ID
        assert set(servers.provision(["audit"])) == {"audit"}
    finally:
        await process.stop()
