"""The worker's settings."""

import os
import socket
from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from svc_kit.settings import ServiceSettings


class WorkerSettings(ServiceSettings):
    """What a worker process is told by its environment."""

    model_config = SettingsConfigDict(env_prefix="INTERLOCK_WORKER_", frozen=True)

    # The place this process runs in: a newer process in the same slot replaces the older. Give it a name that
    # stays over restarts, so that a crash is noticed at once; the default is new with every process.
    slot: str = Field(default_factory=lambda: f"{socket.gethostname()}/{os.getpid()}", max_length=128)
    pools: tuple[str, ...] = ("default",)
    capacity: int = Field(default=50, ge=1, le=10_000)
    # A file that exists while this worker has a session and takes tasks.
    ready_file: Path | None = None
    # Entry points that may run in this process, with all that it may reach.
    trusted_agents: frozenset[str] = frozenset()
