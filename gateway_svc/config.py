"""Settings of the gateway."""

from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from gateway_svc.addresses import PRIVATE
from svc_kit.settings import ServiceSettings


class ProfileSettings(BaseModel):
    """A runtime profile, as `interlock_sandbox.Profile` tells of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    packages: str = Field(default="", pattern="^(/.*)?$")
    python: str = Field(default="", pattern="^(/.*)?$")
    preload: list[str] = []


class GatewaySettings(ServiceSettings):
    """What the gateway is told by its environment, as INTERLOCK_GATEWAY_*."""

    model_config = SettingsConfigDict(env_prefix="INTERLOCK_GATEWAY_", frozen=True)

    # Where this process runs, the same after a restart; empty: this host and the internal address.
    slot: str = ""
    # Below this isolation code is refused.
    sandbox_minimum: Literal["PARTIAL", "STANDARD", "FULL"] = "STANDARD"
    sandbox_spares: int = Field(default=4, ge=1)
    # What tools may import beside the standard library, by the name of a profile; as JSON in the environment.
    sandbox_profiles: dict[Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")], ProfileSettings] = (
        Field(default_factory=dict, max_length=16)
    )
    # Tools that run at a time, and calls that may wait for their turn; of one tenant half as many.
    max_running: int = Field(default=16, ge=1)
    max_waiting: int = Field(default=256, ge=0)
    # How long a call's approval may wait for a decision, and then for its call.
    approval_hours: float = Field(default=24.0, gt=0, le=24 * 30)
    # Whether people may approve the calls of tasks that they submitted themselves.
    approve_own: bool = False
    # Private addresses, loopback included, that connections may lead to where they ask for it; as JSON.
    private_networks: tuple[IPv4Network | IPv6Network, ...] = PRIVATE
    # Models that are asked at a time; they cost no processor here.
    max_model_calls: int = Field(default=128, ge=1)
