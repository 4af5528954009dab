"""What `interlock up` may be told."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from interlock_suite.children import CHILDREN, Child
from interlock_suite.folder import MINIMUM_FREE_BYTES

MOST_ORCHESTRATORS = 4
"""So many ports are kept for them."""
MOST_WORKERS = 16
DEFAULT_DATA_DIR = Path(".interlock")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything that the supervisor is told from outside."""

    data_dir: Path = DEFAULT_DATA_DIR
    database_url: str | None = None
    """An administrator's URL of an external PostgreSQL; None starts the embedded one."""
    redis_url: str | None = None
    """An external Redis or Valkey; None starts the embedded one."""
    port_base: int | None = None
    """The first port; None takes the remembered or the first free block."""
    log_level: str = "info"
    log_format: str = "json"
    probe_sandbox: bool = True
    minimum_free_bytes: int = MINIMUM_FREE_BYTES
    orchestrators: int = 1
    """How many replicas of the orchestrator."""
    workers: int = 1
    children: tuple[Child, ...] = CHILDREN

    @property
    def replicas(self) -> Mapping[str, int]:
        """How many processes of a child; one of each that is not named."""
        return {"orchestrator": self.orchestrators, "worker": self.workers}


def external_servers(environ: Mapping[str, str] = os.environ) -> tuple[str | None, str | None]:
    """The external PostgreSQL and Redis that the environment names."""
    return environ.get("INTERLOCK_DATABASE_URL") or None, environ.get("INTERLOCK_REDIS_URL") or None
