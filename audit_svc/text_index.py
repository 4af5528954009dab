"""Keeps the index of words close behind the log, beside those who append and never in their way."""

import asyncio
import time
import uuid
from collections.abc import Sequence
from typing import Protocol

import structlog
from prometheus_client import Gauge

from audit_svc.text_store import Behind
from svc_kit import metrics
from svc_kit.clock import Clock
from svc_kit.errors import Unavailable

log = structlog.get_logger(__name__)

MOST = 256
"""So many entries are indexed in one transaction, and fewer while their contents are heavy."""
_INTERVAL_SECONDS = 0.25
_RETRY_SECONDS = 5.0

LAG = Gauge(
    metrics.AUDIT_TEXT_LAG_SECONDS,
    "For how long the oldest entry whose contents cannot be found by their words yet has been in the log.",
)


class TextStore(Protocol):
    """What is asked of the store, which says what each does."""

    async def behind(self) -> Sequence[Behind]: ...
    async def index(self, log_id: uuid.UUID, *, at_most: int) -> int: ...


class TextIndexer:
    """Every replica has one: a log that another is at is passed over."""

    def __init__(self, store: TextStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._at_most = MOST

    async def run(self) -> None:
        """For ever; ends only by cancellation."""
        while True:
            wait, begin = _INTERVAL_SECONDS, time.monotonic()
            try:
                if await self.once():
                    # There is more. Half of the time: the other half belongs to those who append.
                    wait = min(time.monotonic() - begin, _INTERVAL_SECONDS)
            except Unavailable:
                # Away, which the database says by itself, once; or these were too many for one statement.
                self._at_most = max(1, self._at_most // 4)
                wait = _RETRY_SECONDS if self._at_most == 1 else _INTERVAL_SECONDS
            except Exception:
                log.exception("texts_not_indexed")
                wait = _RETRY_SECONDS
            await asyncio.sleep(wait)

    async def once(self) -> bool:
        """A piece of every log that is behind; whether one of them was a whole one, and there may be more."""
        behind = await self._store.behind()
        since = min((each.since for each in behind if each.since is not None), default=None)
        LAG.set(max(0.0, (self._clock.now() - since).total_seconds()) if since is not None else 0.0)
        more = False
        for each in behind:
            more |= await self._store.index(each.log_id, at_most=self._at_most) == self._at_most
            self._at_most = min(MOST, self._at_most * 2)
        return more
