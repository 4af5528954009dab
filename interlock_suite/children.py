"""The services and the worker of the embedded suite, as data: adding one is adding a row."""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import interlock_suite
from interlock_suite.command import Command
from interlock_suite.databases import ServiceDatabase
from interlock_suite.folder import DataFolder
from interlock_suite.ports import PortBlock
from interlock_suite.tokens import Grant
from svc_kit.identity import SYSTEM_TENANT, Role

_EMBEDDED_TENANT = "default"
_EMBEDDED_POOL = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all children share."""

    folder: DataFolder
    ports: PortBlock
    databases: Mapping[str, ServiceDatabase]
    redis_url: str
    log_level: str
    log_format: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """One program of the suite."""

    name: str
    argv: tuple[str, ...]
    """Behind the interpreter."""
    grant: Grant
    public: bool = True
    """Whether it has a public door."""
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
    def prefix(self) -> str:
        """How the names of its settings begin."""
        return f"INTERLOCK_{self.name.upper()}_"

    def health_address(self, around: Surroundings) -> str:
        """Where its health is asked."""
        return f"unix:{around.folder.socket(self.name)}"

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
            "INTERNAL_ADDRESS": self.health_address(around),
            "PUBLIC_ADDRESS": around.ports.address(self.name) if self.public else "",
            "ISSUERS": str(folder.issuers),
            "TOKEN_FILE": str(folder.token(self.name)),
            "KEYS_DIR": str(folder.keys / self.name),
            "LOG_LEVEL": around.log_level,
            "LOG_FORMAT": around.log_format,
        }
        if self.package is not None:
            settings["DATABASE_URL"] = around.databases[self.name].service_url
        if self.redis:
            settings["REDIS_URL"] = around.redis_url
        for service in self.calls:
            settings[f"{service.upper()}_ADDRESS"] = f"unix:{folder.socket(service)}"
        for name, value in self.settings.items():
            settings[name] = value.format(checkpoints=folder.checkpoints, suite_id=folder.recall().suite_id)
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
    _service("audit", calls=(), CHECKPOINTS_DIR="{checkpoints}", ORIGIN="interlock.local/{suite_id}"),
    _service("registry", calls=("audit",)),
    _service("gateway", calls=("orchestrator", "registry", "audit")),
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
        public=False,
        redis=True,
        calls=("orchestrator", "registry", "gateway"),
        after=("orchestrator",),
    ),
)
