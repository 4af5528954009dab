"""Settings of the registry."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from svc_kit.settings import ServiceSettings


class RegistrySettings(ServiceSettings):
    """What the registry is told by its environment, as INTERLOCK_REGISTRY_…."""

    model_config = SettingsConfigDict(env_prefix="INTERLOCK_REGISTRY_", frozen=True)

    # More undelivered audit records than this, and nothing new is registered, published or switched on.
    audit_backlog_limit: int = Field(default=10_000, ge=1)
