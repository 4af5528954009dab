"""Another service's published keys, asked for when one is met that is not known."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Iterable

import structlog

from interlock.common.cancellation import being_cancelled
from interlock.common.v1.errors_pb2 import ErrorReason
from interlock.common.v1.permit_pb2 import PublicKey
from svc_kit.clock import Clock, SystemClock
from svc_kit.errors import Unavailable
from svc_kit.signing import KeyRing

log = structlog.get_logger(__name__)

# Neither forged key ids nor a peer that is away may turn into a storm of questions.
BETWEEN_FETCHES_SECONDS = 1.0
# A key that was withdrawn is trusted no longer than this while its owner answers.
REFRESH_SECONDS = 300.0

Fetch = Callable[[], Awaitable[Iterable[PublicKey]]]


class PeerKeys:
    """Keeps the keys of `peer`, which `fetch` asks for; nobody waits for the refresh of a key that is known.

    `fetch` must end by itself (a deadline); whatever it raises counts as: could not be asked.
    """

    def __init__(self, fetch: Fetch, *, peer: str, clock: Clock | None = None) -> None:
        self._fetch = fetch
        self._peer = peer
        self._clock = clock or SystemClock()
        self._ring = KeyRing()
        self._known: frozenset[str] = frozenset()
        self._tried = float("-inf")  # when the last question ended, whatever came of it
        self._answered = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def ring_for(self, key_id: str) -> KeyRing:
        """The keys as they should hold `key_id`; PEER_UNAVAILABLE when they had to be asked for in vain."""
        if key_id in self._known:
            if self._age(self._answered) > REFRESH_SECONDS:
                self._ask()
            return self._ring
        asking = self._ask()
        if asking is not None:
            # Shielded: the question is everybody's, and does not end with one caller.
            await asyncio.shield(asking)
        if key_id not in self._known and self._answered < self._tried:
            raise _unavailable(self._peer)
        return self._ring

    def _age(self, moment: float) -> float:
        return self._clock.monotonic() - moment

    def _ask(self) -> asyncio.Task[None] | None:
        """The question that is under way, or a new one; None when the last one is too short ago."""
        if self._asking is None and self._age(self._tried) > BETWEEN_FETCHES_SECONDS:
            # In a context of its own: the deadline of the call that happens to ask is not the question's.
            self._asking = asyncio.create_task(
                self._refresh(), name=f"keys of the {self._peer}", context=contextvars.Context()
            )
        return self._asking

    async def _refresh(self) -> None:
        try:
            keys = list(await self._fetch())
            self._ring.replace(keys)
        except asyncio.CancelledError as error:
            if being_cancelled():
                raise
            self._failed(error)
        except Exception as error:  # noqa: BLE001 (whatever it is, the keys that are known stay good)
            self._failed(error)
        else:
            self._known = frozenset(key.key_id for key in keys)
            self._tried = self._answered = self._clock.monotonic()
        finally:
            self._asking = None

    def _failed(self, error: BaseException) -> None:
        self._tried = self._clock.monotonic()
        log.warning("peer_keys_unavailable", peer=self._peer, error=repr(error)[:300])


def _unavailable(peer: str) -> Unavailable:
    return Unavailable(
        ErrorReason.ERROR_REASON_PEER_UNAVAILABLE,
        f"the {peer} cannot be asked for the keys that it signs with",
        metadata={"service": peer},
        retry_after=BETWEEN_FETCHES_SECONDS,
    )
