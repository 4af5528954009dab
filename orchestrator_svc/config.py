"""Settings of the orchestrator."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from svc_kit.settings import ServiceSettings


class OrchestratorSettings(ServiceSettings):
    """What the orchestrator is told by its environment, as INTERLOCK_ORCHESTRATOR_…."""

    model_config = SettingsConfigDict(env_prefix="INTERLOCK_ORCHESTRATOR_", frozen=True)

    # A worker that is not heard for this long is lost.
    lease_seconds: float = Field(default=10.0, ge=0.2)
    # When more than this part of five or more sessions lapses at once, none is ended; 1 = whatever lapses.
    mass_lapse_share: float = Field(default=0.2, gt=0, le=1)
    # How long an attempt may wind up after a cancel or a pause before it is ended all the same.
    wind_up_seconds: float = Field(default=10.0, ge=0.1)
    # How long an attempt token is good for; the session renews it after half of that.
    attempt_token_seconds: float = Field(default=120.0, ge=1)
    # More undelivered audit records than this, and no new tasks are taken.
    audit_backlog_limit: int = Field(default=100_000, ge=1)
    # A watch without news says so this often; the contract promises 10 s.
    bookmark_seconds: float = Field(default=8.0, gt=0, le=10)
    # Events that a slow watcher may lag behind before its stream is ended.
    watch_buffer: int = Field(default=512, ge=1)
    # How deep child tasks may stand below their root, how many a task may submit, and how many a whole tree.
    child_depth_limit: int = Field(default=5, ge=1)
    children_limit: int = Field(default=100, ge=1)
    tree_limit: int = Field(default=1000, ge=1)
    # The same for a watcher of many tasks, in changes that its filter takes.
    watch_tasks_buffer: int = Field(default=4096, ge=1)
    # How long changes of many tasks are gathered into one message; the contract promises 25 ms at most.
    watch_flush_seconds: float = Field(default=0.02, ge=0, le=0.025)
    # Events of a task are kept for this long after its end; until then a watch can be taken up anywhere.
    event_retention_hours: int = Field(default=30 * 24, ge=1)
    # Inputs and results over 256 KiB, kept beside the tasks.
    blob_bytes_per_tenant: int = Field(default=10 * 2**30, ge=2**20)
    # How long repeats of requests are known; the contract promises 24 h.
    request_id_hours: int = Field(default=25, ge=24)
