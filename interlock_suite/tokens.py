"""The suite's own issuer, and the token files of the children, renewed long before they expire."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from interlock_suite.passwords import write_private
from svc_kit.identity import LocalIssuer, Role

_LIFETIME = timedelta(hours=1)
_CHECK_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """Who one child is, as its token says."""

    subject: str
    tenant: str
    roles: frozenset[Role]
    pools: frozenset[tuple[str, str]] = frozenset()
    """For workers: the (tenant, pool) pairs they may claim from."""


class TokenFiles:
    """Keeps one file per child holding a token that is good for at least half its life."""

    def __init__(self, issuer: LocalIssuer, *, lifetime: timedelta = _LIFETIME) -> None:
        self._issuer = issuer
        self._lifetime = lifetime
        self._grants: dict[Path, Grant] = {}
        self._renewed_at: dict[Path, float] = {}

    def keep(self, path: Path, grant: Grant) -> None:
        """Write the token of `grant` to `path` (0600) now, and again whenever it is half spent."""
        self._grants[path] = grant
        self._write(path)

    def renew(self, now: float | None = None) -> Sequence[Path]:
        """Renew what is half spent; the files written. `now` is in seconds since the epoch."""
        moment = time.time() if now is None else now
        half = self._lifetime.total_seconds() / 2
        spent = [path for path in self._grants if abs(moment - self._renewed_at[path]) >= half]
        for path in spent:
            self._write(path)
        return spent

    async def run(self) -> None:
        """Renew until cancelled; asks the wall clock, so that a machine that slept renews at once."""
        while True:
            await asyncio.sleep(min(_CHECK_SECONDS, self._lifetime.total_seconds() / 4))
            await asyncio.to_thread(self.renew)

    def _write(self, path: Path) -> None:
        grant = self._grants[path]
        token = self._issuer.mint(grant.subject, grant.tenant, grant.roles, self._lifetime, grant.pools)
        write_private(path, token + "\n")
        self._renewed_at[path] = time.time()
