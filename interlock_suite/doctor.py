"""Whether this machine can run a suite, and how the one that runs does."""

import asyncio
import contextlib
import json
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interlock_sandbox import SandboxStatus, probe
from interlock_suite.binaries import find_postgres, find_valkey
from interlock_suite.children import replica_name
from interlock_suite.control import ask
from interlock_suite.errors import SuiteError
from interlock_suite.folder import MINIMUM_FREE_BYTES, DataFolder
from interlock_suite.health import serving
from interlock_suite.options import external_servers
from interlock_suite.ports import choose_ports
from interlock_suite.postgres import data_version
from interlock_suite.sandbox_check import REQUIRED, judge

_OLDEST_PYTHON = (3, 11)
_MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    fix: str = ""
    """What to do; may also say how a good thing gets better."""


def examine(data_dir: Path) -> list[dict[str, Any]]:
    """Every finding, as JSON."""
    return [asdict(finding) for finding in _findings(DataFolder(data_dir))]


def _findings(folder: DataFolder) -> Iterator[Finding]:
    yield _system()
    yield _python()
    database_url, redis_url = external_servers()
    yield _server("postgres", database_url, lambda: _postgres(folder))
    yield _server("valkey", redis_url, lambda: str(find_valkey()))
    yield _sandbox(asyncio.run(probe()))
    yield _disk(folder)
    status = _status(folder)
    if status is None:
        yield _data(folder)
        yield _ports(folder)
    else:
        yield from _running(status)


def _system() -> Finding:
    linux = platform.system() == "Linux"
    return Finding(
        name="system",
        ok=linux,
        found=f"{platform.system()} {platform.release()} on {platform.machine()}",
        fix=""
        if linux
        else "Run it on Linux, in a virtual machine for example: the sandbox stands on its kernel.",
    )


def _python() -> Finding:
    new_enough = sys.version_info >= _OLDEST_PYTHON
    oldest = ".".join(map(str, _OLDEST_PYTHON))
    return Finding(
        name="python",
        ok=new_enough,
        found=f"{platform.python_version()} at {sys.executable}",
        fix="" if new_enough else f"Install Python {oldest} or newer.",
    )


def _server(name: str, external: str | None, find: Callable[[], str]) -> Finding:
    if external is not None:
        return Finding(name=name, ok=True, found="your own server, as the environment names it")
    try:
        return Finding(name=name, ok=True, found=find())
    except SuiteError as error:
        return Finding(name=name, ok=False, found=error.what, fix=error.fix)


def _postgres(folder: DataFolder) -> str:
    binaries = find_postgres(data_version(folder.postgres))
    return f"PostgreSQL {binaries.major} at {binaries.folder}"


def _sandbox(status: SandboxStatus) -> Finding:
    try:
        level = judge(status)
    except SuiteError as error:
        return Finding(name="sandbox", ok=False, found=error.what, fix=error.fix)
    absent = [layer for layer in status.problems if layer.reason]
    without = f", without {', '.join(layer.layer.value for layer in absent)}" if absent else ""
    return Finding(
        name="sandbox",
        ok=True,
        found=f"level {level.name} ({REQUIRED.name} is needed){without}",
        fix=" ".join(dict.fromkeys(layer.remedy for layer in absent if layer.remedy)),
    )


def _disk(folder: DataFolder) -> Finding:
    existing = next(path for path in (folder.root, *folder.root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    enough = free >= MINIMUM_FREE_BYTES
    return Finding(
        name="disk",
        ok=enough,
        found=f"{free // _MEBIBYTE:,} MiB free for {folder.root}",
        fix="" if enough else f"Free {MINIMUM_FREE_BYTES // _MEBIBYTE} MiB, or use a --data-dir elsewhere.",
    )


def _status(folder: DataFolder) -> dict[str, Any] | None:
    """What the suite on the folder says of itself; None when none answers."""
    with contextlib.suppress(SuiteError, OSError, json.JSONDecodeError):
        return ask(folder.control, {"op": "status"})
    return None


def _data(folder: DataFolder) -> Finding:
    if not _is_laid_out(folder):
        return Finding(name="data", ok=True, found=f"{folder.root} will be laid out by the first start")
    try:
        folder.open().release()
    except SuiteError as error:
        return Finding(name="data", ok=False, found=error.what, fix=error.fix)
    return Finding(name="data", ok=True, found=f"{folder.root}; no suite runs on it")


def _is_laid_out(folder: DataFolder) -> bool:
    """Whether a suite was started on it before; else it is not to be touched here."""
    return folder.keys.is_dir()


def _ports(folder: DataFolder) -> Finding:
    remembered = None
    with contextlib.suppress(SuiteError):
        remembered = folder.recall().port_base if _is_laid_out(folder) else None
    try:
        block = choose_ports(asked=None, remembered=remembered)
    except SuiteError as error:
        return Finding(name="ports", ok=False, found=error.what, fix=error.fix)
    block.claim.close()
    return Finding(name="ports", ok=True, found=f"free from {block.base} on")


def _running(status: Mapping[str, Any]) -> Iterator[Finding]:
    """The processes of the suite that runs, and whether each service answers at its public door."""
    ready = bool(status.get("ready"))
    yield Finding(
        name="suite",
        ok=ready,
        found=f"{'ready' if ready else 'not ready'} in {status['data_dir']} (process {status['pid']})",
        fix="" if ready else "Wait until it has started, or look into its logs.",
    )
    addresses = _doors(status.get("addresses", {}))
    healthy = asyncio.run(_health(addresses))
    logs = Path(status["data_dir"]) / "logs"
    for process in status["processes"]:
        name = process["name"]
        ok = process["state"] == "ready" and healthy.get(name, True)
        found = process["state"]
        if name in addresses:
            found += f", {'healthy' if healthy[name] else 'does not answer'} at {addresses[name]}"
        if process["restarts"]:
            found += f", started again {process['restarts']} times"
        yield Finding(name=name, ok=ok, found=found, fix="" if ok else f"Its log is {logs / f'{name}.log'}.")


def _doors(addresses: Mapping[str, str]) -> dict[str, str]:
    """The public doors by process, from those by service."""
    return {
        replica_name(service, number): address
        for service, replicas in addresses.items()
        for number, address in enumerate(replicas.split(","), start=1)
    }


async def _health(addresses: Mapping[str, str]) -> dict[str, bool]:
    answers = await asyncio.gather(*(serving(address) for address in addresses.values()))
    return dict(zip(addresses, answers, strict=True))
