"""The supervisor: brings the suite up in order, keeps it up, takes it down in order."""

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interlock_suite.children import Child, Surroundings, python_environment, scaled
from interlock_suite.command import Command
from interlock_suite.control import ControlServer
from interlock_suite.databases import ServiceDatabase
from interlock_suite.errors import SuiteError
from interlock_suite.folder import DataFolder, FolderLock
from interlock_suite.job import finish
from interlock_suite.operations import Operations
from interlock_suite.options import Options
from interlock_suite.passwords import write_private
from interlock_suite.ports import PortBlock, choose_ports
from interlock_suite.process import Patience, Process
from interlock_suite.sandbox_check import require_sandbox
from interlock_suite.servers import Servers
from interlock_suite.stale import mend_child, mend_folder
from interlock_suite.tokens import TokenFiles
from interlock_suite.watchman import Watchman
from svc_kit.identity import LocalIssuer

log = logging.getLogger(__name__)

_CHILD_PATIENCE = Patience(start=60.0, stop=12.0)
_MIGRATION_SECONDS = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What a started suite tells its user."""

    folder: DataFolder
    suite_id: str
    addresses: Mapping[str, str]
    """Public doors by service; those of replicas separated by commas."""
    seconds: float
    """How long the start took."""


class Suite:
    """One suite on one data folder, as long as its processes run."""

    def __init__(self, options: Options) -> None:
        self.folder = DataFolder(options.data_dir)
        self.stop_requested = asyncio.Event()
        """Set when the control socket asks for the stop; whoever runs the suite heeds it."""
        self._options = options
        self._children = scaled(options.children, options.replicas)
        self._processes: dict[str, Process] = {}
        self._closing = contextlib.AsyncExitStack()
        self._ready: Ready | None = None

    async def start(self) -> Ready:
        """Start everything; SuiteError says what stands in the way. Call `stop` in either case."""
        began = time.monotonic()
        if self._options.probe_sandbox:
            await require_sandbox()
        lock = self._take_folder()
        await self._post_guard(lock)
        memory = self.folder.recall()
        ports = choose_ports(asked=self._options.port_base, remembered=memory.port_base)
        self._closing.callback(ports.claim.close)
        self.folder.remember_ports(ports.base)
        issuer = self._open_issuer(memory.suite_id)
        await self._open_control(issuer)
        servers = Servers(self._options, self.folder)
        await self._start_servers(servers)
        databases = await self._make_databases(servers)
        await self._start_children(
            self._surroundings(memory.suite_id, ports, databases, servers.redis_url), issuer
        )
        self._ready = Ready(
            folder=self.folder,
            suite_id=memory.suite_id,
            addresses={
                child.name: ",".join(ports.address(name) for name in self._replicas()[child.name])
                for child in self._options.children
                if child.doors
            },
            seconds=time.monotonic() - began,
        )
        self._publish_context(self._ready)
        log.info("The suite is ready after %.2f s, ports from %d.", self._ready.seconds, ports.base)
        return self._ready

    async def stop(self) -> None:
        """Stop everything in the reverse of its start; each process is given a bounded time."""
        self._ready = None
        await self._closing.aclose()

    def kill(self) -> None:
        """End every process at once; `stop` is still to be awaited."""
        for process in self._processes.values():
            process.kill()

    def describe(self) -> Mapping[str, Any]:
        """The part of the status that does not change while it runs."""
        if self._ready is None:
            return {"ready": False, "data_dir": str(self.folder.root)}
        return {"ready": True, **_context(self._ready)}

    def _take_folder(self) -> FolderLock:
        lock = self.folder.open(minimum_free=self._options.minimum_free_bytes)
        self._closing.callback(lock.release)
        return lock

    async def _post_guard(self, lock: FolderLock) -> None:
        await asyncio.to_thread(mend_folder, self.folder)
        watchman = Watchman(self.folder, lock)
        watchman.start()
        self._closing.push_async_callback(watchman.dismiss)

    def _open_issuer(self, suite_id: str) -> LocalIssuer:
        issuer = LocalIssuer(self.folder.keys / "issuer.pem", suite_id)
        issuer.write_issuers_file(self.folder.issuers)
        return issuer

    async def _open_control(self, issuer: LocalIssuer) -> None:
        operations = Operations(
            issuer=issuer,
            processes=self._processes,
            describe=self.describe,
            ask_to_stop=self.stop_requested.set,
        )
        control = ControlServer(self.folder.control, operations.table())
        await control.start()
        self._closing.push_async_callback(control.stop)

    async def _start_servers(self, servers: Servers) -> None:
        processes = await asyncio.to_thread(servers.prepare)
        for process in processes:
            self._adopt(process)
        await _all(process.start() for process in processes)

    async def _make_databases(self, servers: Servers) -> Mapping[str, ServiceDatabase]:
        packages = {child.service: child.package for child in self._children if child.package}
        databases = await asyncio.to_thread(servers.provision, packages)
        behind = await asyncio.to_thread(servers.unmigrated, databases, packages)
        if behind:
            migrating = [(databases[name], packages[name]) for name in behind]
            await self._migrate(migrating)
            if "audit" in behind and not await asyncio.to_thread(servers.guard_audit, databases["audit"]):
                log.warning("The audit schema is not guarded: this takes a superuser of PostgreSQL.")
            await asyncio.to_thread(servers.remember_migrated, migrating)
        return databases

    async def _migrate(self, databases: Sequence[tuple[ServiceDatabase, str]]) -> None:
        """All in one process of their own: it alone is told the owners' passwords."""
        urls = {}
        for database, package in databases:
            prefix = f"INTERLOCK_{package.removesuffix('_svc').upper()}_"
            urls[prefix + "DATABASE_URL"] = database.service_url
            urls[prefix + "OWNER_DATABASE_URL"] = database.owner_url
        packages = [package for _, package in databases]
        command = Command(
            argv=(sys.executable, "-m", "interlock_suite.migrate", *packages),
            cwd=self.folder.root,
            log=self.folder.log("migrations"),
            env={**python_environment(), **urls},
        )
        code = await finish(command.marked(self.folder.mark, "migrations"), seconds=_MIGRATION_SECONDS)
        if code != 0:
            said = command.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            last = said[-1] if said else f"exit code {code}"
            raise SuiteError(
                f"The databases cannot be brought to this version: {last}",
                f"The whole log is {command.log}.",
            )

    def _surroundings(
        self, suite_id: str, ports: PortBlock, databases: Mapping[str, ServiceDatabase], redis_url: str
    ) -> Surroundings:
        return Surroundings(
            folder=self.folder,
            suite_id=suite_id,
            ports=ports,
            replicas=self._replicas(),
            databases=databases,
            redis_url=redis_url,
            log_level=self._options.log_level,
            log_format=self._options.log_format,
        )

    async def _start_children(self, around: Surroundings, issuer: LocalIssuer) -> None:
        tokens = TokenFiles(issuer)
        started = {child.name: asyncio.Event() for child in self._children}

        async def start(child: Child, process: Process) -> None:
            for name in child.after:
                await started[name].wait()
            await process.start()
            started[child.name].set()

        starts = []
        for child in self._children:
            tokens.keep(self.folder.token(child.name), child.grant)
            starts.append(start(child, self._adopt(_child_process(child, around))))
        self._spawn(tokens.run(), "renew tokens")
        await _all(starts)

    def _replicas(self) -> Mapping[str, Sequence[str]]:
        names: dict[str, list[str]] = {}
        for child in self._children:
            names.setdefault(child.service, []).append(child.name)
        return names

    def _adopt(self, process: Process) -> Process:
        """From now on it is part of the suite: shown in the status, stopped in its turn."""
        self._processes[process.name] = process
        self._closing.push_async_callback(process.stop)
        return process

    def _spawn(self, work: Any, name: str) -> None:
        task = asyncio.create_task(work, name=name)

        async def end() -> None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

        self._closing.push_async_callback(end)

    def _publish_context(self, ready: Ready) -> None:
        text = json.dumps({"format": 1, "pid": os.getpid(), **_context(ready)}, indent=2)
        write_private(self.folder.context, text + "\n")
        self._closing.callback(self.folder.context.unlink, missing_ok=True)


def _child_process(child: Child, around: Surroundings) -> Process:
    return Process(
        child.name,
        lambda: child.command(around).marked(around.folder.mark, child.name),
        lambda: child.ready(around),
        mend=lambda: mend_child(around.folder, child.name),
        patience=_CHILD_PATIENCE,
    )


def _context(ready: Ready) -> dict[str, Any]:
    return {
        "suite_id": ready.suite_id,
        "data_dir": str(ready.folder.root),
        "control": str(ready.folder.control),
        "checkpoints": str(ready.folder.checkpoints),
        "addresses": dict(ready.addresses),
    }


async def _all(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run side by side; the first failure ends the others and is raised alone."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
