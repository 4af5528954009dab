"""The services and the worker of the embedded suite, as data: adding one is adding a row."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import interlock_suite
from interlock_suite.command import Command
from interlock_suite.databases import ServiceDatabase
from interlock_suite.folder import DataFolder
from interlock_suite.health import serving
from interlock_suite.ports import PortBlock
from interlock_suite.tokens import Grant
from svc_kit.identity import SYSTEM_TENANT, Role

_EMBEDDED_TENANT = "default"
_EMBEDDED_POOL = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all children share."""

    folder: DataFolder
    suite_id: str
    ports: PortBlock
    replicas: Mapping[str, Sequence[str]]
    """By service, the names of the processes that serve it."""
    databases: Mapping[str, ServiceDatabase]
    redis_url: str
    log_level: str
    log_format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One program of the suite."""

    name: str
    replica_of: str = ""
    """The service that it is a further process of, with the same database and keys and doors of its own."""
    argv: tuple[str, ...]
    """Behind the interpreter."""
    grant: Grant
    doors: bool = True
    """Whether it serves a public and an internal door, and its health; else a file tells that it is ready."""
    package: str | None = None
    """Whose migrations make its database; None for a child without one."""
    redis: bool = False
    calls: tuple[str, ...] = ()
    """The services whose internal doors it is told."""
    after: tuple[str, ...] = ()
    """The children that must be ready before it starts."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Further settings: name without the prefix → value; `{checkpoints}` and `{suite_id}` stand for them."""

    @property
    def service(self) -> str:
        """What it is a process of."""
        return self.replica_of or self.name

    @property
    def prefix(self) -> str:
        """How the names of its settings begin."""
        return f"INTERLOCK_{self.service.upper()}_"

    def replica(self, number: int) -> "Child":
        """The same program once more, `number` counted from 1, which is the program itself."""
        if number == 1:
            return self
        name = replica_name(self.name, number)
        settings = {
            key: value + f"-{number}" if key == "SLOT" else value for key, value in self.settings.items()
        }
        return replace(self, name=name, replica_of=self.name, settings=settings)

    async def ready(self, around: Surroundings) -> bool:
        """Whether it serves now."""
        if self.doors:
            return await serving(_door(around, self.name))
        return around.folder.ready(self.name).exists()

    def command(self, around: Surroundings) -> Command:
        """How it is started now."""
        return Command(
            argv=(sys.executable, *self.argv),
            cwd=around.folder.root,
            log=around.folder.log(self.name),
            env={**python_environment(), **self._operators_settings(), **self.environment(around)},
        )

    def environment(self, around: Surroundings) -> dict[str, str]:
        """Its own settings: no other child's password, key or token is among them."""
        folder = around.folder
        settings = {
            "ISSUERS": str(folder.issuers),
            "TOKEN_FILE": str(folder.token(self.name)),
            "KEYS_DIR": str(folder.keys / self.service),
            "LOG_LEVEL": around.log_level,
            "LOG_FORMAT": around.log_format,
        }
        if self.doors:
            settings["INTERNAL_ADDRESS"] = _door(around, self.name)
            settings["PUBLIC_ADDRESS"] = around.ports.address(self.name)
        else:
            settings["READY_FILE"] = str(folder.ready(self.name))
        if self.package is not None:
            settings["DATABASE_URL"] = around.databases[self.service].service_url
        if self.redis:
            settings["REDIS_URL"] = around.redis_url
        for service in self.calls:
            doors = (_door(around, name) for name in around.replicas[service])
            settings[f"{service.upper()}_ADDRESS"] = ",".join(doors)
        for name, value in self.settings.items():
            settings[name] = value.format(checkpoints=folder.checkpoints, suite_id=around.suite_id)
        return {self.prefix + name: value for name, value in settings.items()}

    def _operators_settings(self) -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith(self.prefix)}


def python_environment() -> dict[str, str]:
    """What makes a child import the same packages as this process, and nothing from where it stands."""
    settings = {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    packages = Path(interlock_suite.__file__).parent.parent
    if packages.name != "site-packages":
        settings["PYTHONPATH"] = str(packages)
    return settings


def replica_name(service: str, number: int) -> str:
    """What the process `number` of a service, counted from 1, is called."""
    return service if number == 1 else f"{service}-{number}"


def scaled(children: Sequence[Child], counts: Mapping[str, int]) -> tuple[Child, ...]:
    """The children with as many processes of each as `counts` says; one where it says nothing."""
    return tuple(
        child.replica(number) for child in children for number in range(1, counts.get(child.name, 1) + 1)
    )


def _door(around: Surroundings, process: str) -> str:
    """The internal door of a process: a socket in a folder of the owner's."""
    return f"unix:{around.folder.socket(process)}"


def _service(name: str, *, calls: tuple[str, ...], redis: bool = False, **settings: str) -> Child:
    return Child(
        name=name,
        argv=("-m", f"{name}_svc"),
        package=f"{name}_svc",
        grant=Grant(subject=name, tenant=SYSTEM_TENANT, roles=frozenset({Role.SERVICE})),
        calls=calls,
        redis=redis,
        settings=settings,
    )


# In the order of their start; they stop in the reverse.
CHILDREN = (
    _service(
        "audit",
        calls=("orchestrator", "gateway"),
        CHECKPOINTS_DIR="{checkpoints}",
        ORIGIN="interlock.local/{suite_id}",
    ),
    _service("registry", calls=("audit",)),
    # One person submits and approves here.
    _service("gateway", calls=("orchestrator", "registry", "audit"), SLOT="embedded", APPROVE_OWN="true"),
    _service("orchestrator", calls=("registry", "gateway", "audit"), redis=True),
    Child(
        name="worker",
        argv=("-m", "worker_svc"),
        grant=Grant(
            subject="worker",
            tenant=_EMBEDDED_TENANT,
            roles=frozenset({Role.WORKER}),
            pools=frozenset({(_EMBEDDED_TENANT, _EMBEDDED_POOL)}),
        ),
        doors=False,
        redis=True,
        calls=("orchestrator", "registry", "gateway"),
        after=("orchestrator",),
        # The same after a restart, so that what its predecessor held is given out again at once.
        settings={"SLOT": "embedded"},
    ),
)
