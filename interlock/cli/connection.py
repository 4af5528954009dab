"""A client for the suite of a command. Apart, because it imports grpc."""

import os
import time
from pathlib import Path

from interlock.cli.problems import CliError
from interlock.cli.session import Suite
from interlock.client.client import Client
from interlock.common.addresses import parse_peer
from interlock.common.channel import ClientTls

_TOKEN_SECONDS = 900.0


class _Addresses(dict[str, str]):
    """Addresses that are looked up when they are used: a command needs those of its own services alone."""

    def __init__(self, suite: Suite, *, tls: bool) -> None:
        super().__init__()
        self._suite = suite
        self._tls = tls

    def __missing__(self, service: str) -> str:
        address = self._suite.address(service)
        try:
            local = parse_peer(address).is_local
        except ValueError as error:
            raise CliError(str(error), f"Mend INTERLOCK_{service.upper()}_ADDRESS.") from None
        if not local and not self._tls:
            raise CliError(
                f"A token would be sent to {address} in plain text.",
                "Set INTERLOCK_CA_FILE to the certificate authority (PEM) of the suite.",
            )
        return address


class _Tokens:
    """Tokens of the roles a command needs; a long command gets a new one before the old one runs out."""

    def __init__(self, suite: Suite, roles: tuple[str, ...], tenant: str) -> None:
        self._suite = suite
        self._tenant = tenant
        self._roles = roles
        self._token = ""
        self._renew_at = 0.0

    def __call__(self) -> str:
        if time.monotonic() >= self._renew_at:
            self._token = self._suite.token(*self._roles, tenant=self._tenant, ttl=_TOKEN_SECONDS)
            self._renew_at = time.monotonic() + _TOKEN_SECONDS / 2
        return self._token


def client(data_dir: str | os.PathLike[str], *roles: str, tenant: str = "default") -> Client:
    """A client that shows a token of these roles in a tenant."""
    suite = Suite(data_dir)
    tls = _tls(os.environ.get("INTERLOCK_CA_FILE", ""))
    return Client(_Addresses(suite, tls=tls is not None), _Tokens(suite, roles, tenant), tls=tls)


def _tls(authority: str) -> ClientTls | None:
    if not authority:
        return None
    if not os.access(authority, os.R_OK):
        raise CliError(f"INTERLOCK_CA_FILE names {authority}, which cannot be read.", "Mend or unset it.")
    return ClientTls(authority=Path(authority))
