"""What happens after a commit: watchers, the audit relay and the pools hear of it."""

import asyncio
import uuid
from collections.abc import Mapping
from typing import Protocol

from svc_kit.wakeup import Wakeups

# Topics of the wake-ups that say: events were committed; the outbox has rows.
EVENTS = "events"
OUTBOX = "outbox"
# A child task has ended, a task waits for its children, or one was canceled that may have some.
FAMILY = "family"
# The relay hears of commits together: a pass of its own for each would cost more than the commit itself.
_OUTBOX_SECONDS = 0.02


class Nudger(Protocol):
    """Wakes workers."""

    def nudge(self, runnable: Mapping[str, int]) -> None: ...


class Announcer(Protocol):
    """What whoever commits tells afterwards."""

    def committed(self, *, runnable: Mapping[str, int]) -> None:
        """Events were committed; `runnable` counts, by pool, the tasks that may run now."""

    def directed(self, session_id: uuid.UUID) -> None:
        """An attempt of the session has to wind up, or need not any more."""

    def family(self) -> None:
        """A child task has ended, a task waits for its children, or one was canceled that may have some."""


class Announcements:
    """Nothing here blocks, and nothing needs it to be right: every reader looks by itself too."""

    def __init__(self, wakeups: Wakeups, nudger: Nudger) -> None:
        self._wakeups = wakeups
        self._nudger = nudger
        self._outbox_timer: asyncio.TimerHandle | None = None

    def committed(self, *, runnable: Mapping[str, int]) -> None:
        """Events were committed; `runnable` counts, by pool, the tasks that may run now."""
        self._wakeups.notify(EVENTS)
        if runnable:
            self._nudger.nudge(runnable)
        if self._outbox_timer is None:
            self._outbox_timer = asyncio.get_running_loop().call_later(_OUTBOX_SECONDS, self._tell_relay)

    def directed(self, session_id: uuid.UUID) -> None:
        """An attempt of the session has to wind up, or need not any more."""
        self._wakeups.notify(session_topic(session_id))

    def family(self) -> None:
        """A child task has ended, a task waits for its children, or one was canceled that may have some."""
        self._wakeups.notify(FAMILY)

    def _tell_relay(self) -> None:
        self._outbox_timer = None
        self._wakeups.notify(OUTBOX)


def session_topic(session_id: uuid.UUID) -> str:
    """Topic of the wake-up that says: look at the attempts of this session."""
    return f"session.{session_id}"
