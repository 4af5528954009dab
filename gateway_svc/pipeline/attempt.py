"""Step 2, its second half: the attempt that the permit was given to is the live one of its task."""

import asyncio
import uuid
from typing import Protocol

from gateway_svc.errors import stale, stale_attempt
from gateway_svc.pipeline.pending import Pending
from gateway_svc.tool_call import Asked
from gateway_svc.verdicts import Check
from interlock.orchestrator.v1.orchestrator_service_pb2 import ATTEMPT_STANDING_LIVE, AttemptChange
from svc_kit.errors import DomainError

MAX_SILENCE_SECONDS = 10.0
# The feed says each second that it is up to date. Its next word may have been on its way already when a call
# came; the one after it was not.
_WORDS = 2
_PATIENCE_SECONDS = 3.0
_FEED = "orchestrator's feed of attempts"


class Attempts(Protocol):
    """What this step asks of the live copy of the orchestrator's attempts."""

    words: int
    """How often it was up to date so far."""

    def age(self) -> float:
        """Seconds since it last was."""

    def find(self, tenant: str, task_id: uuid.UUID) -> AttemptChange | None:
        """How the last attempt of a task stands."""

    async def word(self) -> None:
        """Return when it is up to date the next time."""


class AttemptCheck:
    """Refuses calls of attempts that are over, and decides nothing on an old copy."""

    def __init__(self, attempts: Attempts, *, patience_seconds: float = _PATIENCE_SECONDS) -> None:
        self._attempts = attempts
        self._patience_seconds = patience_seconds

    async def catch_up(self, asked: Asked) -> None:
        """Wait for the copy where it has not heard of the attempt: a claim may be faster than its news.

        Raises POLICY_STALE when no news come: an attempt that is not known to a silent feed may well be live.
        """
        enough = self._attempts.words + _WORDS
        try:
            async with asyncio.timeout(self._patience_seconds):
                while not self._heard_of(asked) and self._attempts.words < enough:
                    await self._attempts.word()
        except TimeoutError:
            raise stale(_FEED, self._attempts.age()) from None

    def check(self, pending: Pending) -> None:
        """Raises STALE_ATTEMPT, or POLICY_STALE when nothing was heard for too long."""
        age = self._attempts.age()
        if age > MAX_SILENCE_SECONDS:
            raise stale(_FEED, age)
        try:
            self._check(pending.asked)
        except DomainError as error:
            pending.verdicts.failed(Check.ROLE, f"Refused: {error.message}.")
            raise

    def _check(self, asked: Asked) -> None:
        found = self._attempts.find(asked.tenant, asked.task_id)
        if found is None or found.attempt < asked.attempt:
            raise stale_attempt(asked, "is not one that the orchestrator knows as live")
        if found.attempt > asked.attempt:
            raise stale_attempt(asked, f"is over, attempt {found.attempt} came after it")
        if found.standing != ATTEMPT_STANDING_LIVE:
            raise stale_attempt(asked, "is over, or its task was asked to end")

    def _heard_of(self, asked: Asked) -> bool:
        found = self._attempts.find(asked.tenant, asked.task_id)
        return found is not None and found.attempt >= asked.attempt
