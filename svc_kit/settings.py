"""Settings that every service has. Read once at the entry, frozen, and passed down."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from interlock.common.addresses import parse_address, parse_peer


def _checked(text: str) -> str:
    if text:
        parse_address(text)
    return text


def _checked_peer(text: str) -> str:
    if text:
        parse_peer(text)
    return text


AddressText = Annotated[str, AfterValidator(_checked)]
PeerText = Annotated[str, AfterValidator(_checked_peer)]


class ServiceSettings(BaseSettings):
    """What a service is told by its environment.

    A service subclasses it and names its prefix:
    `model_config = SettingsConfigDict(env_prefix="INTERLOCK_ORCHESTRATOR_", frozen=True)`. Addresses are
    `host:port` or `unix:/path`; port 0 lets the system choose; empty means off or not needed.
    """

    model_config = SettingsConfigDict(env_prefix="INTERLOCK_", frozen=True)

    # Doors
    public_address: AddressText = "127.0.0.1:0"
    internal_address: AddressText = ""
    metrics_address: AddressText = ""
    allow_plaintext_beyond_loopback: bool = False  # for a network that encrypts by itself
    tls_certificate: Path | None = None  # of every door on TCP; PEM, with its chain
    tls_key: Path | None = None
    tls_client_ca: Path | None = None  # clients of doors on TCP must show a certificate of it
    max_message_bytes: int = Field(default=4 * 2**20, gt=0)
    max_concurrent_calls: int = Field(default=2048, gt=0)
    default_deadline_seconds: float = Field(default=30.0, gt=0)  # of unary calls that name none
    drain_seconds: float = Field(default=5.0, ge=0)

    # Stores; the URLs hold passwords, so they are kept out of every repr
    database_url: str = Field(default="", repr=False)
    redis_url: str = Field(default="", repr=False)

    # Identity
    issuers: Path | None = None  # JSON file of the trusted issuers, read again when it changes
    allow_local_issuer_beyond_loopback: bool = False  # the suite's own issuer is meant for one machine
    token_file: Path | None = None  # this service's own token, read again when it changes
    keys_dir: Path | None = None  # its signing keys, made on first use

    # Internal doors of the other services; those of replicas separated by commas
    orchestrator_address: PeerText = ""
    registry_address: PeerText = ""
    gateway_address: PeerText = ""
    audit_address: PeerText = ""

    # Logs
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
